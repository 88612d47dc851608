//! `explain`: the meaning of a reason, outcome, state, code, alert, word or log message, and what to do
//! about it.

use std::fmt::Write;

use super::{
    guide::{Entry, all_entries},
    output::{ExitStatus, print, print_error},
};

/// Width of the text in columns.
const WIDTH: usize = 100;
/// Up to this many entries are printed in full; of more only the names.
const MOST: usize = 8;
/// How many similar names are suggested for an unknown one.
const NEAR: usize = 3;
/// Longer words are not compared with all names: the distance is quadratic.
const LONGEST: usize = 200;

/// Explains `words`, or lists everything that has a section of its own.
pub(super) fn explain(words: &[String]) -> ExitStatus {
    let entries = all_entries();
    let asked = words.join(" ").trim().to_owned();
    if asked.is_empty() {
        return print(&list(&entries), ExitStatus::Success);
    }
    let found = find(&entries, &asked);
    if found.is_empty() {
        let near = nearest(&entries, &asked);
        let near = if near.is_empty() { "" } else { &format!("; near it: {}", near.join(", ")) };
        print_error(format_args!(
            "nothing is called {asked:?}{near}. `kms-connector explain` lists all"
        ));
        return ExitStatus::Usage;
    }
    let text = match found.as_slice() {
        few if few.len() <= MOST => {
            few.iter().map(|entry| told(entry)).collect::<Vec<_>>().join("\n")
        }
        many => {
            let names: Vec<String> = many.iter().map(|entry| entry.names.join(", ")).collect();
            names.join("\n") + "\n"
        }
    };
    print(&text, ExitStatus::Success)
}

/// The entries of this name; else those whose names or messages contain the words.
fn find<'a>(entries: &'a [Entry], asked: &str) -> Vec<&'a Entry> {
    let asked = asked.to_lowercase();
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let same = |name: &String| plain(name) == plain(&asked);
    let named: Vec<&Entry> = entries.iter().filter(|entry| entry.names.iter().any(same)).collect();
    if !named.is_empty() {
        return named;
    }
    let has = |name: &String| {
        let name = name.to_lowercase();
        // In a log line values replace the ellipses.
        let parts: Vec<&str> =
            name.split('…').map(str::trim).filter(|part| part.len() > 3).collect();
        let quotes = !parts.is_empty() && parts.iter().all(|part| asked.contains(part));
        asked.len() > 3 && name.contains(&asked) || quotes && name.contains(' ')
    };
    entries.iter().filter(|entry| entry.names.iter().any(has)).collect()
}

/// The names most similar to an unknown one. None if no name is: a wrong hint is worse than none.
fn nearest(entries: &[Entry], asked: &str) -> Vec<String> {
    let asked: String = asked.to_lowercase().chars().take(LONGEST).collect();
    let names = entries.iter().flat_map(|entry| &entry.names).filter(|name| !name.contains(' '));
    let mut names: Vec<(usize, &String)> =
        names.map(|name| (strsim::damerau_levenshtein(&asked, name), name)).collect();
    names.retain(|(distance, name)| distance * 3 <= asked.chars().count().max(name.len()));
    names.sort();
    names.dedup();
    names.into_iter().take(NEAR).map(|(_, name)| name.clone()).collect()
}

/// A line for each section, below the heading of its group.
fn list(entries: &[Entry]) -> String {
    let sections: Vec<&Entry> = entries.iter().filter(|entry| entry.is_section).collect();
    let width = sections.iter().map(|entry| entry.names[0].len()).max().unwrap_or_default();
    let (mut text, mut group) = (String::new(), "");
    for entry in sections {
        if entry.group != group {
            let gap = if group.is_empty() { "" } else { "\n" };
            group = &entry.group;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{gap}{group}");
        }
        let means = entry.means.first().map(String::as_str).unwrap_or_default();
        let sentence = means.split_inclusive(". ").next().unwrap_or_default().trim_end();
        let _ = writeln!(text, "  {:width$}  {sentence}", entry.names[0]);
    }
    text + "\nAlso codes, alerts, words and messages of the log: `kms-connector explain wrong_digest`\n"
}

/// An entry as printed.
fn told(entry: &Entry) -> String {
    let Entry { names, group, means, rows, lost, to_do, .. } = entry;
    let mut text = format!("{} ({})\n", names.join(", "), group.to_lowercase());
    for paragraph in means {
        text += &filled(paragraph, "  ", "  ");
    }
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    for (name, what) in rows {
        text += &filled(what, &format!("    {name:width$}  "), &" ".repeat(width + 6));
    }
    for (label, what) in [("  lost   ", lost), ("  to do  ", to_do)] {
        if let Some(what) = what {
            text += &filled(what, label, "         ");
        }
    }
    text
}

/// Wraps the text at [`WIDTH`] columns; the first line begins with `first`, all others with `other`.
fn filled(text: &str, first: &str, other: &str) -> String {
    let (mut filled, mut line) = (String::new(), first.to_owned());
    let mut is_empty = true;
    for word in text.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            filled += &line;
            filled.push('\n');
            other.clone_into(&mut line);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    filled + &line + "\n"
}

#[cfg(test)]
mod tests;

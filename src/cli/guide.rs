//! The troubleshooting guide: `config/troubleshooting.md`, compiled in. It is the only place that
//! explains reasons, outcomes, states, codes, messages and words: `explain` prints its entries and `man`
//! all of it. Alerts are explained beside their rules, in `scripts/observability/README.md`, which is
//! compiled in for its table.
//!
//! It is simple Markdown: headings, paragraphs, lists, fenced code, tables. An entry is a heading of
//! the third level with a name in backticks, or a row of a table of messages, codes, words or alerts.

/// The document as in the repository.
pub(super) const GUIDE: &str = include_str!("../../config/troubleshooting.md");

/// The document that explains the alerts.
const ALERTS: &str = include_str!("../../scripts/observability/README.md");

/// The tables whose rows are entries, by their first header.
const ENTRIES: [&str; 4] = ["what the log says", "code", "word", "alert"];

/// An element of a document. Texts have no line breaks and keep Markdown's inline marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    Heading {
        level: usize,
        text: String,
    },
    Paragraph(String),
    /// `mark`: a dash, or a number with its dot.
    Item {
        mark: String,
        text: String,
    },
    Code(Vec<String>),
    /// `header`: the first cell of the table's header.
    Row {
        header: String,
        cells: Vec<String>,
    },
}

/// Splits a document into its blocks.
pub(super) fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = document.lines().peekable();
    // The first header of the open table, and whether the open paragraph or item continues.
    let (mut header, mut goes_on) = (None::<String>, false);
    while let Some(line) = lines.next() {
        let text = line.trim();
        let is_row = text.starts_with('|');
        if !is_row {
            header = None;
        }
        let open = std::mem::take(&mut goes_on);
        if text.is_empty() {
        } else if text.starts_with("```") {
            let code = lines.by_ref().take_while(|line| line.trim() != "```");
            blocks.push(Block::Code(code.map(str::to_owned).collect()));
        } else if text.starts_with('#') {
            let level = text.bytes().take_while(|byte| *byte == b'#').count();
            blocks.push(Block::Heading { level, text: text[level..].trim().to_owned() });
        } else if is_row {
            let cells: Vec<String> =
                text.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
            match &header {
                None => {
                    header = cells.into_iter().next();
                    lines.next_if(|line| line.starts_with("|--"));
                }
                Some(header) => blocks.push(Block::Row { header: header.clone(), cells }),
            }
        } else if let Some((mark, text)) = item(text) {
            blocks.push(Block::Item { mark: mark.to_owned(), text: text.to_owned() });
            goes_on = true;
        } else {
            match blocks.last_mut() {
                Some(Block::Paragraph(last) | Block::Item { text: last, .. }) if open => {
                    last.push(' ');
                    last.push_str(text);
                }
                _ => blocks.push(Block::Paragraph(text.to_owned())),
            }
            goes_on = true;
        }
    }
    blocks
}

/// `- text` or `1. text`.
fn item(line: &str) -> Option<(&str, &str)> {
    let (mark, text) = line.split_once(' ')?;
    let number = mark.strip_suffix('.').unwrap_or_default();
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (mark == "-" || is_number).then_some((mark, text))
}

/// Removes bold marks, and keeps only the text of links. Backticks stay: they show what to type.
pub(super) fn plain(text: &str) -> String {
    let text = text.replace("**", "");
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some((before, (words, after))) = rest.split_once('[').and_then(|(before, rest)| {
        let (words, target) = rest.split_once("](")?;
        Some((before, (words, target.split_once(')')?.1)))
    }) {
        plain.push_str(before);
        plain.push_str(words);
        rest = after;
    }
    plain.push_str(rest);
    plain
}

/// The explanation of one name or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// As shown in logs, `status`, `requests`. Never empty.
    pub names: Vec<String>,
    /// The headings above it.
    pub group: String,
    /// Whether it has a heading of its own: a reason, an outcome, a state.
    pub is_section: bool,
    /// Its meaning; for a row the whole text.
    pub means: Vec<String>,
    /// The rows of the tables in its section, which are entries of their own, too: names and texts.
    pub rows: Vec<(String, String)>,
    /// What is lost because of it; `None` for a row.
    pub lost: Option<String>,
    /// What an operator should do; `None` for a row.
    pub to_do: Option<String>,
}

/// Everything that is explained.
pub(super) fn all_entries() -> Vec<Entry> {
    let mut all = entries(GUIDE);
    all.extend(entries(ALERTS));
    all
}

/// All entries of a document, in its order.
pub(super) fn entries(document: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    // The headings of the second and third level, and what is lost in everything below the second.
    let (mut group, mut part, mut lost) = (String::new(), String::new(), None);
    let mut in_section = false;
    for block in blocks(document) {
        match block {
            Block::Heading { level: 3, text } => {
                in_section = text.starts_with('`');
                if in_section {
                    part.clear();
                    entries.push(Entry {
                        names: quoted(&text),
                        group: group.clone(),
                        is_section: true,
                        means: Vec::new(),
                        rows: Vec::new(),
                        lost: lost.clone(),
                        to_do: None,
                    });
                } else {
                    part = text;
                }
            }
            Block::Heading { text, .. } => {
                (group, lost, in_section) = (text, None, false);
                part.clear();
            }
            Block::Paragraph(text) => {
                let text = plain(&text);
                let open = if in_section { entries.last_mut() } else { None };
                match (text.strip_prefix("Lost: "), text.strip_prefix("To do: "), open) {
                    (Some(what), _, Some(entry)) => entry.lost = Some(what.to_owned()),
                    (Some(what), _, None) => lost = Some(what.to_owned()),
                    (None, Some(what), Some(entry)) => entry.to_do = Some(what.to_owned()),
                    (None, None, Some(entry)) => entry.means.push(text),
                    (None, _, None) => {}
                }
            }
            Block::Row { header, cells } if ENTRIES.contains(&header.as_str()) => {
                let names = quoted(&cells[0]);
                let group =
                    if part.is_empty() { group.clone() } else { format!("{group}: {part}") };
                let means: Vec<String> = cells[1..].iter().map(|cell| plain(cell)).collect();
                let section = entries.iter_mut().rev().find(|entry| entry.is_section);
                if let Some(section) = section.filter(|_| in_section) {
                    section.rows.push((names.join(", "), means.join(" ")));
                }
                entries.push(Entry {
                    names,
                    group,
                    is_section: false,
                    means,
                    rows: Vec::new(),
                    lost: None,
                    to_do: None,
                });
            }
            Block::Row { .. } | Block::Item { .. } | Block::Code(_) => {}
        }
    }
    entries
}

/// The texts in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::{HoldReason, Outcome};

    #[test]
    fn a_document_is_split_into_its_blocks() {
        let text = "# T\n\na\nb\n\n- one\n  more\n1. two\n\n| h | x |\n|---|---|\n| `c` | d |\n\n```bash\n# e\n\n```\nf";
        let heading = Block::Heading { level: 1, text: "T".into() };
        let item = |mark: &str, text: &str| Block::Item { mark: mark.into(), text: text.into() };
        let row = Block::Row { header: "h".into(), cells: vec!["`c`".into(), "d".into()] };
        let expected = [
            heading,
            Block::Paragraph("a b".into()),
            item("-", "one more"),
            item("1.", "two"),
            row,
            Block::Code(vec!["# e".into(), String::new()]),
            Block::Paragraph("f".into()),
        ];
        assert_eq!(blocks(text), expected);
        assert_eq!(plain("**To do:** see [a](b#c), [d] (e)"), "To do: see a, [d] (e)");
    }

    /// The names of the sections below this heading.
    fn sections(group: &str) -> BTreeSet<String> {
        let entries = entries(GUIDE).into_iter();
        let names: Vec<String> = entries
            .filter(|entry| entry.is_section && entry.group == group)
            .flat_map(|entry| entry.names)
            .collect();
        let set: BTreeSet<String> = names.iter().cloned().collect();
        assert_eq!(set.len(), names.len(), "one is explained twice: {names:?}");
        set
    }

    #[test]
    fn every_reason_to_hold_has_its_section_and_no_section_is_of_no_reason() {
        let reasons = HoldReason::ALL.iter().map(|reason| reason.as_str().to_owned());
        assert_eq!(sections("Held requests"), reasons.collect());
        let outcomes = Outcome::each().into_iter().map(|outcome| outcome.as_str().to_owned());
        assert_eq!(sections("Outcomes"), outcomes.collect());
        for entry in entries(GUIDE).iter().filter(|entry| entry.is_section) {
            let whole = !entry.means.is_empty() && entry.lost.is_some() && entry.to_do.is_some();
            assert!(whole, "{entry:?}");
        }
    }

    /// The short remedy in `status` and the section in the guide begin with the same words.
    #[test]
    fn the_guide_begins_with_the_remedy_that_status_shows() {
        let entries = entries(GUIDE);
        for reason in HoldReason::ALL {
            let to_do = entries
                .iter()
                .find(|entry| entry.is_section && entry.names == [reason.as_str()])
                .and_then(|entry| entry.to_do.as_deref())
                .unwrap();
            let remedy = reason.remedy();
            assert!(to_do.starts_with(remedy), "{}: {remedy:?} and {to_do:?}", reason.as_str());
        }
    }
}

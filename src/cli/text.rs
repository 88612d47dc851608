//! Formats tables, times and colours. Pure.

use std::fmt::Write;

use crate::{domain::excerpt, time::clock};

/// A table whose columns are as wide as their widest cell.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    painted(rows, |_, _| None)
}

/// [`table`] with coloured cells. Colour codes do not count for the width.
pub(super) fn painted<const N: usize>(
    rows: &[[String; N]],
    colour: impl Fn(usize, usize) -> Option<Colour>,
) -> String {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| plain(cell))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or_default());
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let padding = width - cell.chars().count();
            let cell = match colour(number, column) {
                Some(colour) => colour.paint(cell),
                None => cell.clone(),
            };
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell}{:padding$}  ", "");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// `key  value` lines below a heading. Further lines of a value are aligned with its first.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (key, value) in pairs {
        let value = printable(value);
        let mut lines = value.lines();
        let _ = writeln!(text, "  {key:width$}  {}", lines.next().unwrap_or("-"));
        for line in lines {
            let _ = writeln!(text, "  {:width$}  {line}", "");
        }
    }
    text
}

/// Escapes everything in a text that could control a terminal, except line breaks. The text may
/// come from a server.
pub(super) fn printable(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().split('\n').map(plain).collect();
    lines.join("\n")
}

fn plain(line: &str) -> String {
    excerpt(usize::MAX, line)
}

/// Shortens a long name in the middle, so that a table fits a screen.
pub(super) fn short(name: &str) -> String {
    const LONGEST: usize = 40;
    const END: usize = 12;
    let length = name.chars().count();
    if length <= LONGEST {
        return name.to_owned();
    }
    let begin = name.chars().take(LONGEST - END - 1);
    begin.chain(['…']).chain(name.chars().skip(length - END)).collect()
}

/// A duration in its two largest units.
pub(super) fn span(millis: u64) -> String {
    let seconds = millis / 1_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let two = |large: u64, unit: &str, small: u64, of: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit} {small}{of}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => two(minutes, "m", seconds % 60, "s"),
        (0, _, _) => two(hours, "h", minutes % 60, "m"),
        (_, _, _) => two(days, "d", hours % 24, "h"),
    }
}

/// For example `3m ago`. A time in the future (clocks differ) counts as now.
pub(super) fn ago(now_ms: u64, then_ms: u64) -> String {
    format!("{} ago", span(now_ms.saturating_sub(then_ms)))
}

/// For example `3m ago (2026-09-14 16:05:12 UTC)`.
pub(super) fn when(now_ms: u64, then_ms: u64) -> String {
    format!("{} ({})", ago(now_ms, then_ms), utc(then_ms))
}

/// For example `in 12s (2026-09-14 16:05:12 UTC)`.
pub(super) fn due(now_ms: u64, then_ms: u64) -> String {
    match then_ms.saturating_sub(now_ms) {
        0 => format!("now ({})", utc(then_ms)),
        left => format!("in {} ({})", span(left), utc(then_ms)),
    }
}

/// For example `2026-09-14 16:05:12 UTC`.
pub(super) fn utc(millis: u64) -> String {
    clock::utc(millis).to_string()
}

/// The colours in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Green,
    Yellow,
    Red,
    Dim,
}

impl Colour {
    pub(super) fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Red => 31,
            Self::Dim => 2,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_709_210_096, "2024-02-29 12:34:56 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (1_735_689_600, "2025-01-01 00:00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds * 1_000 + 999), text);
        }
    }

    #[test]
    fn times_have_their_two_largest_units() {
        let minute = 60_000;
        for (millis, text) in [
            (0, "0s"),
            (59_999, "59s"),
            (minute, "1m"),
            (61_000, "1m 1s"),
            (60 * minute, "1h"),
            (1_501 * minute, "1d 1h"),
            (u64::MAX, "213503982334d 14h"),
        ] {
            assert_eq!(span(millis), text);
        }
        assert_eq!(ago(1_000, 9_000), "0s ago");
        assert_eq!(due(1_000, 1_000), "now (1970-01-01 00:00:01 UTC)");
        assert_eq!(due(1_000, 13_000), "in 12s (1970-01-01 00:00:13 UTC)");
    }

    #[test]
    fn d8_long_names_make_no_wide_tables() {
        let long = format!("{}-north-7", "é".repeat(117));
        let shown = short(&long);
        assert_eq!(shown.chars().count(), 40);
        assert!(shown.starts_with('é') && shown.contains('…') && shown.ends_with("-north-7"));
        assert_eq!(short("config-1"), "config-1");
        assert_eq!(short(&long[..80]), long[..80], "forty characters");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let rows = [["a", "bb", "c"], ["aaa", "b", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "a    bb  c\naaa  b\n");
        let painted =
            painted(&rows, |row, column| ((row, column) == (1, 1)).then_some(Colour::Red));
        assert_eq!(painted, "a    bb  c\naaa  \u{1b}[31mb\u{1b}[0m\n");
    }

    #[test]
    fn what_a_server_says_steers_no_terminal() {
        let text = pairs(&[("why", "bad\u{1b}[2J\rthing\nsecond line\n".to_owned())]);
        assert_eq!(text, "  why  bad\\u{1b}[2J\\rthing\n       second line\n");
        let cells = [["a\u{202e}\nb".to_owned(), "c".to_owned()]];
        assert_eq!(table(&cells), "a\\u{202e}\\nb  c\n");
    }
}

//! Text from outside. A node, a Core, a bucket or a file of an earlier version may send anything:
//! escape codes of terminals, line ends that forge a line in a log, marks that reverse the order of
//! letters, a gigabyte. Such text is sanitised once, when it comes in, and its type shows that: errors
//! that hold an [`UntrustedText`] can be displayed anywhere.
//!
//! Code that writes text to a log, a terminal or a page also uses [`EscapingWriter`], because not all
//! text there has this type.

use std::fmt::{self, Write as _};

/// Text of somebody else, fit for one line: at most [`Self::MAX_CHARS`] characters, all printable;
/// others are escaped (`\n`, `\u{1b}`, `\u{202e}`).
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct UntrustedText(Box<str>);

impl UntrustedText {
    /// In characters.
    pub const MAX_CHARS: usize = 300;

    /// Sanitises a text. Formats no more of it than is kept.
    pub fn of(said: impl fmt::Display) -> Self {
        Self(excerpt(Self::MAX_CHARS, said).into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for UntrustedText {
    fn from(said: &str) -> Self {
        Self::of(said)
    }
}

impl From<String> for UntrustedText {
    fn from(said: String) -> Self {
        Self::of(said)
    }
}

impl std::ops::Deref for UntrustedText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UntrustedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for UntrustedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// At most `longest` characters of the text, escaped as in an [`UntrustedText`]. A text that was cut
/// ends in `…`.
pub fn excerpt(longest: usize, said: impl fmt::Display) -> String {
    let mut excerpt = Excerpt { text: String::new(), remaining: longest };
    // Fails when there is no more room.
    let _ = write!(EscapingWriter(&mut excerpt), "{said}");
    excerpt.text
}

/// A text of limited length.
struct Excerpt {
    text: String,
    /// In characters.
    remaining: usize,
}

impl fmt::Write for Excerpt {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        match more.char_indices().nth(self.remaining) {
            None => {
                self.remaining -= more.chars().count();
                self.text.push_str(more);
                Ok(())
            }
            Some((end, _)) => {
                self.remaining = 0;
                self.text.push_str(&more[..end]);
                self.text.push('…');
                Err(fmt::Error)
            }
        }
    }
}

/// Passes on printable characters and escapes others. Escaped text passes through unchanged.
#[derive(Debug)]
pub struct EscapingWriter<W>(pub W);

impl<W: fmt::Write> fmt::Write for EscapingWriter<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(|c| !is_printable(c)) {
            let (before, from) = rest.split_at(at);
            let mut from = from.chars();
            self.0.write_str(before)?;
            if let Some(odd) = from.next() {
                write!(self.0, "{}", odd.escape_debug())?;
            }
            rest = from.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Returns whether the character is printed as itself and takes up space: no control characters, no
/// zero-width ones (joiners, combining accents, direction marks), no unassigned ones.
#[must_use]
pub fn is_printable(c: char) -> bool {
    // The standard library decides; of the printable characters it escapes only quotes and backslashes.
    matches!(c, ' '..='~') || (!c.is_ascii() && c.escape_debug().count() == 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text from a hostile node.
    const HOSTILE: &str = "no\u{1b}[2Jthing\r\n2026-01-01 ERROR forged\0\u{9b}31m\u{7f}\u{202e}txt.\u{2066}\
                           \u{200b}\u{2028}\u{feff}\u{e0041}é…";

    #[test]
    fn b9_outside_text_is_one_printable_line() {
        let text = UntrustedText::from(HOSTILE);
        assert_eq!(
            text.as_str(),
            "no\\u{1b}[2Jthing\\r\\n2026-01-01 ERROR forged\\0\\u{9b}31m\\u{7f}\\u{202e}txt.\\u{2066}\
             \\u{200b}\\u{2028}\\u{feff}\\u{e0041}é…"
        );
        assert_eq!(text.to_string(), text.as_str());
        let ordinary = "execution reverted: \"no\" 'funds' \\ für 東京 (100 %)";
        assert_eq!(UntrustedText::from(ordinary).as_str(), ordinary);
    }

    #[test]
    fn b9_outside_text_is_short_and_costs_no_more() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("é\n")?;
                }
            }
        }
        let text = UntrustedText::of(Endless);
        assert_eq!(text.chars().count(), UntrustedText::MAX_CHARS + 1);
        assert!(text.starts_with("é\\né\\n") && text.ends_with('…'), "{text}");
        let whole = "x".repeat(UntrustedText::MAX_CHARS);
        assert_eq!(UntrustedText::from(whole.as_str()).as_str(), whole);
    }

    proptest! {
        #[test]
        fn b9_whatever_is_said_is_printable_and_stays_as_it_is(
            text in prop::collection::vec(any::<char>(), 0..200),
            pieces in prop::collection::vec(0..200_usize, 0..4),
        ) {
            let text: String = text.into_iter().collect();
            let shown = excerpt(usize::MAX, &text);
            prop_assert!(shown.chars().all(is_printable), "{shown:?}");
            prop_assert_eq!(&excerpt(usize::MAX, &shown), &shown);
            // Written in pieces of any size.
            let mut written = String::new();
            let mut plain = EscapingWriter(&mut written);
            let mut rest = text.as_str();
            for piece in pieces {
                let end = rest.char_indices().nth(piece).map_or(rest.len(), |(end, _)| end);
                plain.write_str(&rest[..end]).unwrap();
                rest = &rest[end..];
            }
            plain.write_str(rest).unwrap();
            prop_assert_eq!(&written, &shown);
            let short = UntrustedText::from(text);
            prop_assert!(short.chars().count() <= UntrustedText::MAX_CHARS + 1);
        }
    }
}

//! Single values: parses one key's text, or notes a problem.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;

use super::super::{
    Place, SecretUrl,
    keys::Key,
    values::{Value, looks_like_key, show, show_shape},
};
use super::{CheckedValue, Checker, ProblemNoted, judged};

impl Checker<'_> {
    /// One of these words, mapped to its value.
    pub(super) fn one_of<T: Copy>(&mut self, key: Key, words: &[(&str, T)]) -> CheckedValue<T> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let text = given.value.text().map(str::trim);
        if let Some((_, meaning)) = words.iter().find(|(word, _)| text == Some(word)) {
            return Ok(Some(*meaning));
        }
        let expected: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let found = show(&given.value, &expected);
        let allowed = expected.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>();
        Err(self.note_bad(key, found, &allowed.join(" or "), ""))
    }

    pub(super) fn boolean(&mut self, key: Key) -> CheckedValue<bool> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        match &given.value {
            Value::Boolean(boolean) => Ok(Some(*boolean)),
            Value::Text(text) if text.expose().eq_ignore_ascii_case("true") => Ok(Some(true)),
            Value::Text(text) if text.expose().eq_ignore_ascii_case("false") => Ok(Some(false)),
            Value::Text(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Texts(_)
            | Value::Tables(_)
            | Value::Other(_) => {
                let expected = ["true", "false", "yes", "no", "on", "off"];
                let found = show(&given.value, &expected);
                Err(self.note_bad(key, found, "true or false", ""))
            }
        }
    }

    pub(super) fn number(
        &mut self,
        key: Key,
        range: RangeInclusive<u64>,
        unit: &str,
    ) -> CheckedValue<u64> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let judged = judged::number(&given.value, range, unit);
        judged.map(Some).map_err(|fault| self.note_fault(key, fault))
    }

    pub(super) fn count(&mut self, key: Key, range: RangeInclusive<u32>) -> CheckedValue<usize> {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        let number = self.number(key, range, "")?;
        Ok(number.map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
    }

    /// One line of text that is not blank. Numbers are taken as their text (`version = 1`).
    pub(super) fn line(&mut self, key: Key, longest: usize) -> CheckedValue<String> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        if let Value::Text(text) | Value::Integer(text) = &given.value {
            let text = text.expose().trim();
            if !text.is_empty()
                && text.chars().count() <= longest
                && !text.chars().any(char::is_control)
            {
                return Ok(Some(text.to_owned()));
            }
        }
        Err(self.note_bad(
            key,
            show(&given.value, &[]),
            &format!("a line of 1 to {longest} characters"),
            "",
        ))
    }

    /// A text of certain characters only.
    pub(super) fn word(
        &mut self,
        key: Key,
        longest: usize,
        allowed: &str,
        permitted: impl Fn(char) -> bool,
    ) -> CheckedValue<String> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        if let Value::Text(text) = &given.value {
            let text = text.expose().trim();
            if !text.is_empty() && text.len() <= longest && text.chars().all(permitted) {
                return Ok(Some(text.to_owned()));
            }
        }
        Err(self.note_bad(key, show(&given.value, &[]), allowed, ""))
    }

    pub(super) fn region(&mut self, key: Key) -> CheckedValue<String> {
        let allowed = "an AWS region such as us-east-1: lower-case letters, digits and dashes";
        self.word(key, 64, allowed, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    }

    /// A path. In a file it is relative to that file's directory, in a variable to the working
    /// directory.
    pub(super) fn path(&mut self, key: Key) -> CheckedValue<PathBuf> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let Value::Text(text) = &given.value else {
            return Err(self.note_bad(key, show(&given.value, &[]), "a path in quotes", ""));
        };
        if text.expose().trim().is_empty() || text.expose().contains('\0') {
            return Err(self.note_bad(key, "no path".to_owned(), "a path", ""));
        }
        // A path is shown when its file cannot be read, so a private key in its place must be
        // refused.
        if looks_like_key(text.expose().trim()) || text.expose().contains("://") {
            let found = show_shape(&given.value).to_owned();
            let advice =
                "This looks like a key or a URL; write ./ before it if it is a file's name";
            return Err(self.note_bad(key, found, "a path", advice));
        }
        let path = Path::new(text.expose());
        Ok(Some(match &given.place {
            Place::File { path: file, .. } => {
                file.parent().map_or(path.to_owned(), |directory| directory.join(path))
            }
            Place::Variable(_) | Place::Configuration => path.to_owned(),
        }))
    }

    pub(super) fn address(&mut self, key: Key) -> CheckedValue<Address> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let judged = judged::address(&given.value);
        judged.map(Some).map_err(|fault| self.note_fault(key, fault))
    }

    pub(super) fn url(&mut self, key: Key, schemes: &[&str]) -> CheckedValue<SecretUrl> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let judged = judged::url(&given.value, schemes);
        judged.map(Some).map_err(|fault| self.note_fault(key, fault))
    }

    /// A list of URLs; in a variable, a text with commas. A comma within a URL is written %2C.
    pub(super) fn urls(&mut self, key: Key, schemes: &[&str]) -> CheckedValue<Vec<SecretUrl>> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        match judged::urls(&given.value, schemes) {
            Ok(urls) => Ok(Some(urls)),
            Err(faults) => {
                for fault in faults {
                    self.note_fault(key, fault);
                }
                Err(ProblemNoted)
            }
        }
    }

    /// Refuses duplicates: one URL given twice would count as two nodes. `fallbacks`: the key of
    /// `more`.
    pub(super) fn different_urls(
        &mut self,
        (first, url): (Key, &SecretUrl),
        fallbacks: Key,
        more: &[SecretUrl],
    ) -> Result<(), ProblemNoted> {
        match judged::repeated_url((first.name(), url), more) {
            None => Ok(()),
            Some(fault) => Err(self.note_fault(fallbacks, fault)),
        }
    }
}

/// Converts exactly: the operator's decimals never pass through a binary fraction.
pub(super) fn gwei_to_wei(text: &str) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 7 || fraction.len() > 9 {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let fraction: u128 = format!("{fraction:0<9}").parse().ok()?;
    let wei = whole * 1_000_000_000 + fraction;
    (1..=1_000_000_000_000_000).contains(&wei).then_some(wei)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gwei_are_exact() {
        assert_eq!(gwei_to_wei("0.1"), Some(100_000_000));
        assert_eq!(gwei_to_wei("30"), Some(30_000_000_000));
        assert_eq!(gwei_to_wei("0.000000001"), Some(1));
        assert_eq!(gwei_to_wei("1000000"), Some(1_000_000_000_000_000));
        for bad in ["0", "-1", "1e3", "", ".5", "5.", "1000000.1", "0.0000000001", "nan", "1_0"] {
            assert_eq!(gwei_to_wei(bad), None, "{bad}");
        }
    }
}

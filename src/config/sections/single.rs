//! Single values: parses one key's text, or notes a problem.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;
use url::Url;

use super::super::{
    Place, SecretString, SecretUrl,
    keys::Key,
    secret::strip_0x,
    values::{Value, looks_like_key, show, show_shape},
};
use super::{CheckedValue, Checker, ProblemNoted};

/// Each is a connection that is kept open.
const MAX_FALLBACK_URLS: usize = 8;

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
        match given.value.integer().and_then(|number| u64::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let allowed =
                    format!("an integer from {} to {} {unit}", range.start(), range.end());
                Err(self.note_bad(key, show(&given.value, &[]), allowed.trim_end(), ""))
            }
        }
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
        let allowed = "40 hex digits, with or without 0x";
        let Value::Text(text) = &given.value else {
            let advice = "Put the address in quotes";
            return Err(self.note_bad(key, show_shape(&given.value).to_owned(), allowed, advice));
        };
        let text = text.expose().trim();
        if text.contains("...") {
            let found = "the placeholder of the documentation".to_owned();
            return Err(self.note_bad(key, found, allowed, "Fill in the contract's address"));
        }
        let digits = strip_0x(text);
        let mut bytes = [0; 20];
        if alloy::hex::decode_to_slice(digits, &mut bytes).is_err() || digits.len() != 40 {
            let found = if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                format!("{} hex digits", digits.len())
            } else {
                show(&given.value, &[])
            };
            return Err(self.note_bad(key, found, allowed, ""));
        }
        let address = Address::from(bytes);
        let mixed = digits.bytes().any(|byte| byte.is_ascii_lowercase())
            && digits.bytes().any(|byte| byte.is_ascii_uppercase());
        let checksummed = address.to_checksum(None);
        if mixed && strip_0x(&checksummed) != digits {
            let advice = format!(
                "A digit or a letter's case is wrong. Compare it with the deployment; if the \
                 digits are right, write {checksummed}"
            );
            return Err(self.note_bad(
                key,
                format!("{text:?}, whose EIP-55 checksum is wrong"),
                "an address in lower case, or with its right checksum",
                &advice,
            ));
        }
        if address.is_zero() {
            return Err(self.note_bad(
                key,
                "the zero address".to_owned(),
                "a contract's address",
                "",
            ));
        }
        Ok(Some(address))
    }

    pub(super) fn url(&mut self, key: Key, schemes: &[&str]) -> CheckedValue<SecretUrl> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let Value::Text(text) = &given.value else {
            let allowed = format!("a URL with {}", schemes.join(", "));
            return Err(self.note_bad(key, show_shape(&given.value).to_owned(), &allowed, ""));
        };
        let text = text.clone();
        self.judge_url(key, schemes, text.expose()).map(Some)
    }

    /// A list of URLs; in a variable, a text with commas. A comma within a URL is written %2C.
    pub(super) fn urls(&mut self, key: Key, schemes: &[&str]) -> CheckedValue<Vec<SecretUrl>> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let texts: Vec<SecretString> = match &given.value {
            Value::Texts(texts) => texts.clone(),
            Value::Text(text) => {
                let parts = text.expose().split(',').map(str::trim);
                parts.map(|part| SecretString::new(part.to_owned())).collect()
            }
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Other(_) => {
                let found = show_shape(&given.value).to_owned();
                let allowed = "a list of URLs, in a variable with commas between them";
                return Err(self.note_bad(key, found, allowed, ""));
            }
        };
        if texts.len() > MAX_FALLBACK_URLS {
            let found = format!("{} URLs", texts.len());
            let allowed = format!("at most {MAX_FALLBACK_URLS} URLs");
            return Err(self.note_bad(key, found, &allowed, ""));
        }
        // All are checked before the first invalid one ends the loop.
        let judged: Vec<_> =
            texts.iter().map(|text| self.judge_url(key, schemes, text.expose())).collect();
        judged.into_iter().collect::<Result<_, _>>().map(Some)
    }

    /// Refuses duplicates: one URL given twice would count as two nodes.
    pub(super) fn different_urls(
        &mut self,
        first: &SecretUrl,
        more: &[SecretUrl],
    ) -> Result<(), ProblemNoted> {
        let repeated =
            more.iter().enumerate().any(|(index, url)| url == first || more[..index].contains(url));
        if !repeated {
            return Ok(());
        }
        Err(self.note_bad(
            Key::GatewayFallbackUrls,
            "the same URL twice".to_owned(),
            "URLs that differ from each other and from gateway_url",
            "Each one counts as a node of its own",
        ))
    }

    pub(super) fn judge_url(
        &mut self,
        key: Key,
        schemes: &[&str],
        text: &str,
    ) -> Result<SecretUrl, ProblemNoted> {
        let allowed = format!("a URL with {}", schemes.join(", "));
        let text = text.trim();
        let Some((scheme, _)) = text.split_once("://") else {
            let found = format!("a text of {} characters without ://", text.chars().count());
            return Err(self.note_bad(
                key,
                found,
                &allowed,
                &format!("Begin with {}://", schemes[0]),
            ));
        };
        let scheme = scheme.to_ascii_lowercase();
        if !schemes.contains(&scheme.as_str()) {
            // Only well-known schemes are shown, because anything else may be part of a secret.
            let known = ["http", "https", "ws", "wss", "grpc", "grpcs", "tcp", "ipc", "unix", "s3"];
            let found = if known.contains(&scheme.as_str()) {
                format!("a URL with {scheme}://")
            } else {
                "a URL with an unknown scheme".to_owned()
            };
            return Err(self.note_bad(
                key,
                found,
                &allowed,
                &format!("Begin with {}://", schemes[0]),
            ));
        }
        match Url::parse(text) {
            Ok(url) if url.port() == Some(0) => Err(self.note_bad(
                key,
                "a URL with port 0".to_owned(),
                "a port from 1 to 65535",
                "",
            )),
            Ok(url) if url.has_host() => Ok(SecretUrl::new(url)),
            Ok(_) => Err(self.note_bad(key, "a URL without a host".to_owned(), &allowed, "")),
            // The parser's errors are constant texts (`invalid port number`).
            Err(error) => Err(self.note_bad(key, format!("a broken URL ({error})"), &allowed, "")),
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

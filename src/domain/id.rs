//! A request's id as people read and write it.

use std::{fmt, str::FromStr};

use super::U256;

/// Shown with all 64 digits, like in the chain's tools and the Core's log, so that one search finds it
/// everywhere.
///
/// Ids are counters below 2^64, or have a kind in their top byte. So without `0x` up to 20 digits are a
/// decimal counter, more than 64 are decimal too, as block explorers write it, and those between are hex
/// whose prefix or zeros were left out. Shorter hex needs its `0x`: it would be any word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisplayId(pub U256);

/// The most decimal digits of a counter.
const COUNTER_DIGITS: usize = 20;
/// The number of hex digits of an id.
const HEX_DIGITS: usize = 64;

impl fmt::Display for DisplayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#066x}", self.0)
    }
}

impl FromStr for DisplayId {
    type Err = String;

    fn from_str(id: &str) -> Result<Self, String> {
        let text = id.trim();
        let prefixed = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        let digits = prefixed.unwrap_or(text);
        let is_long = (COUNTER_DIGITS + 1..=HEX_DIGITS).contains(&digits.len());
        let radix = if prefixed.is_some() || is_long { 16 } else { 10 };
        // `from_str_radix` alone would accept a sign and separators.
        let is_plain = digits.bytes().all(|digit| char::from(digit).is_digit(radix));
        match U256::from_str_radix(digits, u64::from(radix)) {
            Ok(parsed) if is_plain && !digits.is_empty() => Ok(Self(parsed)),
            Ok(_) | Err(_) => Err(format!(
                "{id:?} is no request id: an id has 0x and up to 64 hex digits, as `kms-connector requests` \
                 shows it, or is a decimal number"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn c10_an_id_is_read_as_people_find_it_written() {
        let read = |text: &str| text.parse::<DisplayId>().map(|id| id.0);
        let tagged: U256 = (U256::from(1) << 248) + U256::from(5);
        assert_eq!(DisplayId(tagged).to_string(), format!("0x01{}5", "0".repeat(61)));
        for text in [
            format!("0x01{}5", "0".repeat(61)),
            format!("01{}5", "0".repeat(61)),
            format!("0X1{}5", "0".repeat(61)),
            format!("1{}5", "0".repeat(61)),
            format!(" {tagged}\n"),
        ] {
            assert_eq!(read(&text), Ok(tagged), "{text}");
        }
        assert_eq!(read("17"), Ok(U256::from(17)), "a counter, as explorers write it");
        assert_eq!(read("0x17"), Ok(U256::from(23)));
        assert_eq!(read("0x1f"), Ok(U256::from(31)));
        assert_eq!(read(&u64::MAX.to_string()), Ok(U256::from(u64::MAX)));
        for text in ["", "0x", "-1", "0x-1", "1_0", "latest", "abc", "1f", &"f".repeat(65)] {
            let told = read(text).unwrap_err();
            assert!(
                told.contains("0x and up to 64 hex digits") && told.contains("decimal"),
                "{told}"
            );
        }
    }

    proptest! {
        #[test]
        fn c10_what_is_shown_is_read_with_and_without_its_prefix(id in any::<[u8; 32]>()) {
            let id = U256::from_be_bytes(id);
            let shown = DisplayId(id).to_string();
            prop_assert_eq!(shown.len(), 66);
            prop_assert_eq!(shown.parse::<DisplayId>().unwrap().0, id);
            prop_assert_eq!(shown[2..].parse::<DisplayId>().unwrap().0, id);
        }
    }
}

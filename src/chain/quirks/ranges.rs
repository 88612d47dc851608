//! Why nodes refuse `eth_getLogs` for a range: too many blocks, too many results, or something else.
//! Rate limits are excluded: smaller ranges would mean more calls.

/// Why a range was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeRefusal {
    /// Too many blocks, whatever is in them. `limit`: the limit that the node names.
    Blocks { limit: Option<u64> },
    /// Too many results. Another range of this length may be answered.
    Results,
}

/// Messages about ranges that are not about their length.
const OTHER_RANGES: &[&str] = &["beyond current head", "invalid block range", "invalid range"];

const BLOCKS: &[&str] = &[
    // Alchemy, geth, reth, erigon, scroll, and many more
    "block range",
    // QuickNode, 1rpc
    "blocks range",
    "limited to a",
    // Ankr, dRPC
    "range is too",
    "range too",
    "ranges over",
    // Infura, Tenderly, Chainstack
    "range limit",
    "exceeds limit of",
    "max range",
    "block count",
];

const RESULTS: &[&str] = &[
    // Infura
    "query returned more than",
    "too many results",
    "logs matched by query exceeds",
    // reth
    "max results",
    // Alchemy, and proxies
    "response size",
    "response is too",
    "limit exceeded",
    "query timeout",
    "timed out",
];

/// A number after these words is the limit of blocks.
const NUMBERED: &[&str] = &[
    "up to a",
    "up to",
    "exceeds limit of",
    "limited to",
    "limit of",
    "range limit",
    "max block range",
    "maximum block range",
    "max range",
    "maximum allowed",
    "ranges over",
];

/// Whether an error of `eth_getLogs` asks for a smaller range.
#[must_use]
pub fn range_refusal(code: i64, message: &str) -> Option<RangeRefusal> {
    let text = message.to_lowercase();
    let says = |patterns: &[&str]| patterns.iter().any(|pattern| text.contains(pattern));
    if super::is_rate_limited(code, message) || says(OTHER_RANGES) {
        return None;
    }
    if says(BLOCKS) && !text.contains("logs matched") {
        return Some(RangeRefusal::Blocks { limit: block_limit(&text) });
    }
    (code == -32005 || says(RESULTS)).then_some(RangeRefusal::Results)
}

/// `up to a 2k block range`, `limited to 0 - 50 blocks range`, `max range: 10,000`.
fn block_limit(text: &str) -> Option<u64> {
    let mut found: Option<u64> = None;
    for pattern in NUMBERED {
        for (at, _) in text.match_indices(pattern) {
            let Some(number) = number_after(&text[at + pattern.len()..]) else { continue };
            // The smallest of several numbers: the limit is less than what was asked.
            found = Some(found.map_or(number, |known| known.min(number)));
        }
    }
    found
}

/// The next number, at most a few small words away.
fn number_after(text: &str) -> Option<u64> {
    const BETWEEN: &[&str] =
        &["", "a", "an", "of", "is", "to", "the", "0", "range", "blocks", "block"];
    let word = |c: char| c.is_ascii_alphanumeric() || c == ',';
    for piece in text.split(|c| !word(c)).take(8) {
        let digits = piece.replace(',', "");
        let (digits, thousands) = match digits.strip_suffix('k') {
            Some(digits) => (digits.to_owned(), 1000),
            None => (digits, 1),
        };
        match digits.parse::<u64>() {
            Ok(number @ 1..) => return number.checked_mul(thousands),
            _ if BETWEEN.contains(&digits.as_str()) => {}
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A3: messages seen at real nodes.
    #[test]
    fn a3_limits_of_the_field_are_understood() {
        let blocks = |most| Some(RangeRefusal::Blocks { limit: most });
        let seen = [
            (
                -32600,
                "Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block \
                 range.",
                blocks(Some(10)),
            ),
            (-32602, "range 600 exceeds limit of 100", blocks(Some(100))),
            (-32602, "query exceeds max block range", blocks(None)),
            (-32602, "query exceeds max block range 100000", blocks(Some(100_000))),
            (-32614, "eth_getLogs is limited to a 10,000 range", blocks(Some(10_000))),
            (-32602, "eth_getLogs is limited to 0 - 50 blocks range", blocks(Some(50))),
            (
                -32602,
                "eth_getLogs and eth_newFilter are limited to a 10,000 blocks range",
                blocks(Some(10_000)),
            ),
            (-32701, "exceed maximum block range: 50000", blocks(Some(50_000))),
            (35, "ranges over 10000 blocks are not supported on freetier", blocks(Some(10_000))),
            (-32005, "block range too large, max range: 1000", blocks(Some(1000))),
            (
                -32000,
                "block range is larger than max block range, block range = 5120, max block range = \
                 5000",
                blocks(Some(5000)),
            ),
            (-32000, "block range is bigger than maxBlockRange", blocks(None)),
            (-32600, "block range too high", blocks(None)),
            (-32602, "range 9009594 is bigger than range limit 2000", blocks(Some(2000))),
            (-32005, "Block range limit exceeded.", blocks(None)),
            (
                -32602,
                "Log response size exceeded. You can make eth_getLogs requests with up to a 2K \
                 block range and no limit on the response size, or you can request any block range \
                 with a cap of 10K logs in the response.",
                blocks(Some(2000)),
            ),
            (-32005, "query returned more than 10000 results", Some(RangeRefusal::Results)),
            (
                -32602,
                "query exceeds max results 20000, retry with the range 1-2",
                Some(RangeRefusal::Results),
            ),
            (-32005, "logs matched by query exceeds limit of 10000", Some(RangeRefusal::Results)),
            (-32005, "limit exceeded", Some(RangeRefusal::Results)),
            (-32000, "query timeout exceeded", Some(RangeRefusal::Results)),
            (429, "too many requests", None),
            (-32005, "daily request count exceeded, request rate limited", None),
            (-32005, "Too Many Requests: rate limit exceeded", None),
            (
                429,
                "Your app has exceeded its compute units per second capacity. This is not a block \
                 range matter",
                None,
            ),
            (-32602, "block range extends beyond current head block", None),
            (-32602, "invalid block range params", None),
            (-32000, "header not found", None),
            (-32601, "the method does not exist", None),
        ];
        for (code, message, expected) in seen {
            assert_eq!(range_refusal(code, message), expected, "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_meaning(code in any::<i64>(), text in "\\PC{0,120}") {
            let _ = range_refusal(code, &text);
        }

        #[test]
        fn a_number_is_found_where_it_stands(
            most in 1u64..1_000_000,
            way in 0..NUMBERED.len(),
            after in "[ a-z.]{0,20}",
        ) {
            let text = format!("no: {} {most} {after}", NUMBERED[way]);
            prop_assert_eq!(block_limit(&text), Some(most));
        }
    }
}

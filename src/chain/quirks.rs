//! What error messages of nodes mean: the one table of provider quirks. Pure.
//!
//! JSON-RPC has no agreed codes for transaction pool errors, so text is all there is. Every pattern is
//! here and nowhere else, with the node it was seen on.

mod ranges;

pub use ranges::{RangeRefusal, range_refusal};

/// What a node's error for a raw transaction means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolError {
    /// The node already has these bytes: as good as accepted.
    AlreadyKnown,
    /// The nonce is used; receipts tell by which bytes.
    NonceTooLow,
    /// A lower nonce is missing at this node.
    NonceTooHigh,
    /// Other bytes with this nonce are in the node's pool, and the fees of these do not exceed theirs by
    /// what a replacement needs.
    Underpriced,
    /// Below what the pool takes now: a lowest fee, or that of what it holds already. Not accepted.
    PoolUnderpriced,
    /// The pool, or what it takes of one account, is full. Not accepted.
    PoolFull,
    /// `maxFeePerGas` is below the block's base fee.
    FeeTooLow,
    /// The wallet cannot pay.
    InsufficientFunds,
    /// The gas limit is above the block's or below the intrinsic cost; the transaction is too large.
    Unacceptable,
    /// The node executed it in advance and it reverted (Arbitrum's sequencer, some proxies).
    Reverted,
    /// In the pool, but not executable: a lower nonce or funds are missing (EIP-7966, code 5).
    Unready,
    /// Overload or rate limit: not accepted, try again.
    Busy,
    /// Not in this table: whether it was accepted is unknown.
    Unknown,
}

/// Patterns in order of precedence, matched in lower-case text.
const PATTERNS: &[(&str, PoolError)] = &[
    // geth, nitro, anvil, erigon, nethermind ("AlreadyKnown"), besu ("Known transaction")
    ("already known", PoolError::AlreadyKnown),
    ("alreadyknown", PoolError::AlreadyKnown),
    ("already imported", PoolError::AlreadyKnown),
    ("already exists", PoolError::AlreadyKnown),
    ("same hash was already imported", PoolError::AlreadyKnown),
    // erigon
    ("existing txn with same hash", PoolError::AlreadyKnown),
    ("existing tx with same hash", PoolError::AlreadyKnown),
    ("unknown transaction", PoolError::Unknown),
    ("known transaction", PoolError::AlreadyKnown),
    ("nonce too low", PoolError::NonceTooLow),
    ("nonce is too low", PoolError::NonceTooLow),
    ("oldnonce", PoolError::NonceTooLow),
    ("invalid nonce; got", PoolError::NonceTooLow),
    ("nonce too high", PoolError::NonceTooHigh),
    ("nonce out of range", PoolError::NonceTooHigh),
    ("nonce gap", PoolError::NonceTooHigh),
    // nethermind
    ("noncegap", PoolError::NonceTooHigh),
    ("noncetoofarinfuture", PoolError::NonceTooHigh),
    // besu
    ("too distant from current sender nonce", PoolError::NonceTooHigh),
    // geth: it has a gap before it and does not displace what has none
    ("future transaction tries to replace pending", PoolError::NonceTooHigh),
    // geth, reth, erigon, besu, anvil
    ("replacement transaction underpriced", PoolError::Underpriced),
    ("replacement fee too low", PoolError::Underpriced),
    // anvil, reth: the pool's own words
    ("insufficient gas price to replace", PoolError::Underpriced),
    // erigon
    ("could not replace existing tx", PoolError::Underpriced),
    // nethermind
    ("replacementnotallowed", PoolError::Underpriced),
    // geth, reth, nethermind: "transaction underpriced"; erigon: "underpriced"
    ("underpriced", PoolError::PoolUnderpriced),
    // nethermind: FeeTooLow, FeeTooLowToCompete
    ("feetoolow", PoolError::PoolUnderpriced),
    // geth
    ("gas price below minimum", PoolError::PoolUnderpriced),
    ("gas tip cap below", PoolError::PoolUnderpriced),
    // besu
    ("below configured minimum gas price", PoolError::PoolUnderpriced),
    // reth
    ("priority fee below minimum", PoolError::PoolUnderpriced),
    // erigon
    ("fee too low", PoolError::PoolUnderpriced),
    // besu
    ("below current base fee", PoolError::FeeTooLow),
    ("less than block base fee", PoolError::FeeTooLow),
    ("max fee per gas less than", PoolError::FeeTooLow),
    ("feecap", PoolError::FeeTooLow),
    ("fee cap less than", PoolError::FeeTooLow),
    ("insufficient funds", PoolError::InsufficientFunds),
    ("insufficientfunds", PoolError::InsufficientFunds),
    ("insufficient balance", PoolError::InsufficientFunds),
    // besu
    ("upfront cost exceeds account balance", PoolError::InsufficientFunds),
    ("intrinsic gas too low", PoolError::Unacceptable),
    // anvil
    ("intrinsic gas too high", PoolError::Unacceptable),
    // besu
    ("intrinsic gas exceeds gas limit", PoolError::Unacceptable),
    ("fee cap exceeded", PoolError::Unacceptable),
    ("exceeds block gas limit", PoolError::Unacceptable),
    // anvil
    ("greater than the block gas limit", PoolError::Unacceptable),
    // EIP-7825; reth, then geth
    ("exceeds max transaction gas limit", PoolError::Unacceptable),
    ("gas limit too high", PoolError::Unacceptable),
    ("gas limit is too high", PoolError::Unacceptable),
    ("oversized data", PoolError::Unacceptable),
    ("transaction too large", PoolError::Unacceptable),
    ("exceeds the configured cap", PoolError::Unacceptable),
    ("execution reverted", PoolError::Reverted),
    ("context deadline exceeded", PoolError::Busy),
    ("initial sync is still in progress", PoolError::Busy),
    // geth, reth
    ("txpool is full", PoolError::PoolFull),
    // erigon: pending, baseFee, queued
    ("sub-pool is full", PoolError::PoolFull),
    // geth
    ("account limit exceeded", PoolError::PoolFull),
    // erigon: more of one account than it takes
    ("spammer", PoolError::PoolFull),
    ("queue full", PoolError::Busy),
];

/// Rate limits, whatever was called. Not `limit exceeded` alone, which is also said of results, and no
/// code except 429: -32005 is used for both.
const RATE_LIMITED: &[&str] = &[
    "rate limit",
    "rate-limit",
    "ratelimit",
    // Infura
    "request rate",
    // QuickNode
    "request limit",
    // Chainstack
    "rps limit",
    // dRPC, singular
    "too many request",
    "too many concurrent",
    "per second",
    "request count exceeded",
    "daily request",
    "throughput",
    // Alchemy
    "capacity",
    "compute unit",
    "quota",
    "credits",
];

/// `text`: in lower case.
fn mentions_rate_limit(text: &str) -> bool {
    RATE_LIMITED.iter().any(|pattern| text.contains(pattern))
}

/// Whether an error is a rate limit: nothing is wrong with the call.
#[must_use]
pub fn is_rate_limited(code: i64, message: &str) -> bool {
    code == 429 || (mentions_rate_limit(&message.to_lowercase()) && !is_revert(code, message))
}

/// The node has the block but has dropped its state.
const STATE_PRUNED: &[&str] = &[
    // geth, nitro
    "missing trie node",
    // geth, reth
    "historical state",
    "state not available",
    "state is not available",
    "no state available",
    "pruned",
    // anvil
    "blockoutofrange",
];

/// Whether the node has dropped the state of the block that was asked for.
#[must_use]
pub fn is_state_pruned(message: &str) -> bool {
    let text = message.to_lowercase();
    STATE_PRUNED.iter().any(|pattern| text.contains(pattern))
}

/// Whether the node refuses a block hash where a call names its block (EIP-1898): it knows numbers and
/// tags alone. Not what a node says that lacks the block.
#[must_use]
pub fn refuses_block_hash(code: i64, message: &str) -> bool {
    let text = message.to_lowercase();
    // geth before 1.9.6 and what was derived from it; proxies that check parameters by themselves
    let unknown =
        ["cannot unmarshal object", "hex string without 0x", "invalid block", "block tag"];
    !is_revert(code, message)
        && (code == -32602 || unknown.iter().any(|pattern| text.contains(pattern)))
}

/// Whether the node does not offer the method.
#[must_use]
pub fn is_not_offered(code: i64, message: &str) -> bool {
    let text = message.to_lowercase();
    let unknown = [
        "method not found",
        "not supported",
        "unsupported method",
        "does not exist",
        "is not available",
        "not whitelisted",
    ];
    code == -32601 || unknown.iter().any(|pattern| text.contains(pattern))
}

/// How long a node is asked to wait for the receipt (EIP-7966; also the node's default).
pub const SYNC_PATIENCE_MS: u64 = 2_000;

/// The form of the timeout in `eth_sendRawTransactionSync`: a number in EIP-7966, a hex string in Nitro
/// (from 3.10.0), none in anvil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncTimeoutFormat {
    Number,
    Hex,
    NoTimeout,
    /// The node does not offer the method.
    Unsupported,
}

impl SyncTimeoutFormat {
    /// The form to try after an error. `None`: the error is about something else.
    #[must_use]
    pub fn next_to_try(self, code: i64, message: &str) -> Option<Self> {
        if is_not_offered(code, message) {
            return Some(Self::Unsupported);
        }
        let about_timeout = message.to_lowercase().contains("invalid argument 1")
            || (code == -32602 && pool_error(code, message) == PoolError::Unknown);
        match self {
            _ if !about_timeout => None,
            Self::Number => Some(Self::Hex),
            Self::Hex => Some(Self::NoTimeout),
            Self::NoTimeout => Some(Self::Unsupported),
            Self::Unsupported => None,
        }
    }
}

/// Classifies the error of `eth_sendRawTransaction`, and of `eth_sendRawTransactionSync` without a
/// receipt.
#[must_use]
pub fn pool_error(code: i64, message: &str) -> PoolError {
    // EIP-7966: 4 = in the pool, no receipt in time; 5 = in the pool, not executable.
    match code {
        4 => return PoolError::AlreadyKnown,
        5 => return PoolError::Unready,
        _ => {}
    }
    let text = message.to_lowercase();
    if let Some((_, refusal)) = PATTERNS.iter().find(|(pattern, _)| text.contains(pattern)) {
        return *refusal;
    }
    match code {
        _ if mentions_rate_limit(&text) => PoolError::Busy,
        429 | -32005 => PoolError::Busy,
        3 => PoolError::Reverted,
        _ => PoolError::Unknown,
    }
}

/// Stable code of an error, for metrics and throttling, whatever was called.
#[must_use]
pub fn error_code(code: i64, message: &str) -> &'static str {
    match pool_error(code, message) {
        _ if is_rate_limited(code, message) => "busy",
        _ if is_revert(code, message) => "reverted",
        PoolError::Busy | PoolError::Unknown if range_refusal(code, message).is_some() => {
            "too_much"
        }
        PoolError::Reverted => "reverted",
        PoolError::AlreadyKnown => "already_known",
        PoolError::NonceTooLow => "nonce_too_low",
        PoolError::NonceTooHigh => "nonce_too_high",
        PoolError::Underpriced | PoolError::PoolUnderpriced => "underpriced",
        PoolError::FeeTooLow => "fee_too_low",
        PoolError::InsufficientFunds => "insufficient_funds",
        PoolError::Unacceptable => "unacceptable",
        PoolError::Unready => "unready",
        PoolError::Busy | PoolError::PoolFull => "busy",
        PoolError::Unknown => "refused",
    }
}

/// Whether the error of an `eth_call` or `eth_estimateGas` is a revert.
#[must_use]
pub fn is_revert(code: i64, message: &str) -> bool {
    code == 3 || message.to_lowercase().contains("revert")
}

/// The contract was executed and ended without a result and without a revert.
const FAILED_EXECUTION: &[&str] = &[
    // geth, nitro, erigon
    "out of gas",
    "invalid opcode",
    "invalid jump destination",
    "stack underflow",
    "stack limit reached",
    "write protection",
    "gas uint64 overflow",
    "gas required exceeds allowance",
    // The data of the call alone needs more gas than it may use.
    "intrinsic gas",
    "floor data gas",
    // anvil, reth
    "outofgas",
    "evm error",
    "invalidfeopcode",
    "opcodenotfound",
    // nethermind, openethereum
    "vm execution error",
];

/// Whether a call failed in the contract itself, without a revert. The contract may be anybody's.
#[must_use]
pub fn is_failed_execution(message: &str) -> bool {
    let text = message.to_lowercase();
    FAILED_EXECUTION.iter().any(|pattern| text.contains(pattern))
}

/// Whether the error is about the node, not about the call: another node may answer.
#[must_use]
pub fn is_about_node(code: i64, message: &str) -> bool {
    // Method not found (-32601), internal error (-32603), overload and rate limits.
    matches!(code, -32601 | -32603) && !is_revert(code, message)
        || matches!(pool_error(code, message), PoolError::Busy | PoolError::PoolFull)
}

/// Whether an HTTP status may be caused by a batch: single calls would not get it. Excluded are statuses
/// about keys, time, load, and proxies.
#[must_use]
pub fn may_reject_batches(status: u16) -> bool {
    matches!(status, 400 | 404 | 405 | 406 | 411 | 413..=415 | 422 | 500 | 501)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_of_the_field_are_understood() {
        let seen = [
            (-32003, "nonce too low", PoolError::NonceTooLow),
            (-32000, "nonce too high: address 0xabc, tx: 9 state: 7", PoolError::NonceTooHigh),
            (-32000, "already known", PoolError::AlreadyKnown),
            (-32000, "known transaction: 0xabc", PoolError::AlreadyKnown),
            (-32000, "unknown transaction type", PoolError::Unknown),
            (-32003, "transaction already imported", PoolError::AlreadyKnown),
            (-32000, "replacement transaction underpriced", PoolError::Underpriced),
            (
                -32003,
                "Tx: [0xab] insufficient gas price to replace existing transaction",
                PoolError::Underpriced,
            ),
            (-32000, "could not replace existing tx", PoolError::Underpriced),
            (-32010, "ReplacementNotAllowed", PoolError::Underpriced),
            (-32000, "transaction underpriced", PoolError::PoolUnderpriced),
            (-32000, "underpriced", PoolError::PoolUnderpriced),
            (
                -32000,
                "transaction underpriced: gas tip cap 1, minimum needed 1000000",
                PoolError::PoolUnderpriced,
            ),
            (-32010, "FeeTooLowToCompete", PoolError::PoolUnderpriced),
            (-32000, "fee too low", PoolError::PoolUnderpriced),
            (-32009, "Gas price below configured minimum gas price", PoolError::PoolUnderpriced),
            (-32009, "Gas price below current base fee", PoolError::FeeTooLow),
            (-32003, "txpool is full", PoolError::PoolFull),
            (-32000, "pending sub-pool is full", PoolError::PoolFull),
            (-32000, "account limit exceeded", PoolError::PoolFull),
            (-32000, "existing txn with same hash", PoolError::AlreadyKnown),
            (-32010, "OldNonce, Current nonce: 4, nonce of rejected tx: 3", PoolError::NonceTooLow),
            (-32010, "NonceGap, Future nonce. Expected nonce: 4, got 7", PoolError::NonceTooHigh),
            (
                -32000,
                "Transaction nonce is too distant from current sender nonce",
                PoolError::NonceTooHigh,
            ),
            (-32004, "Upfront cost exceeds account balance", PoolError::InsufficientFunds),
            (-32005, "Transaction gas limit exceeds block gas limit", PoolError::Unacceptable),
            (
                -32000,
                "transaction gas limit too high (cap: 16777216, tx: 30000000)",
                PoolError::Unacceptable,
            ),
            (-32000, "exceeds max transaction gas limit", PoolError::Unacceptable),
            (
                -32000,
                "max fee per gas less than block base fee: address 0x, maxFeePerGas: 1, baseFee: 2",
                PoolError::FeeTooLow,
            ),
            (-32003, "Insufficient funds for gas * price + value", PoolError::InsufficientFunds),
            (-32000, "intrinsic gas too low: have 1, want 2", PoolError::Unacceptable),
            (3, "execution reverted", PoolError::Reverted),
            (429, "slow down", PoolError::Busy),
            (
                4,
                "The transaction was added to the mempool but wasn't processed in 2s.",
                PoolError::AlreadyKnown,
            ),
            (
                5,
                "wasn't processed due to a missing nonce or insufficient funds",
                PoolError::Unready,
            ),
            (-32603, "internal error", PoolError::Unknown),
        ];
        for (code, message, expected) in seen {
            assert_eq!(pool_error(code, message), expected, "{message}");
        }
    }

    #[test]
    fn c1_who_is_asked_too_often_is_told_from_who_is_asked_for_too_much() {
        for (code, message, too_often) in [
            (429, "slow down", true),
            (-32005, "daily request count exceeded, request rate limited", true),
            (-32000, "rate limit exceeded", true),
            (-32005, "project ID request rate exceeded", true),
            (-32007, "15/second request limit reached - reduce calls per second", true),
            (-32005, "You've exceeded the RPS limit available on the current plan.", true),
            (15, "Too many request, try again later", true),
            (-32602, "range 600 exceeds limit of 100", false),
            (-32602, "query exceeds max block range", false),
            (-32005, "query returned more than 10000 results", false),
            (-32005, "limit exceeded", false),
            (-32000, "header not found", false),
            (3, "execution reverted: rate limit exceeded", false),
        ] {
            assert_eq!(is_rate_limited(code, message), too_often, "{message}");
            if too_often {
                assert_eq!(pool_error(code, message), PoolError::Busy, "{message}");
                assert_eq!(range_refusal(code, message), None, "{message}");
                assert!(is_about_node(code, message), "{message}");
            }
        }
        assert!(is_not_offered(-32601, "") && is_not_offered(0, "Method not found"));
        assert!(!is_not_offered(-32000, "header not found"));
    }

    #[test]
    fn a_contract_that_fails_is_told_from_a_node_that_does() {
        for (message, failed) in [
            ("out of gas: gas required exceeds: 100000", true),
            ("EVM error OutOfGas", true),
            ("intrinsic gas too high -- CallGasCostMoreThanGasLimit", true),
            ("intrinsic gas too low: have 100000, want 121000", true),
            ("invalid opcode: INVALID", true),
            ("header not found", false),
            ("missing trie node 8b16 (path )", false),
            ("internal error", false),
        ] {
            assert_eq!(is_failed_execution(message), failed, "{message}");
        }
    }

    #[test]
    fn a_node_without_block_hashes_is_told_from_one_without_the_block() {
        for (code, message, refuses) in [
            (
                -32602,
                "invalid argument 1: json: cannot unmarshal object into Go value of type string",
                true,
            ),
            (-32000, "Invalid block parameter", true),
            (-32000, "header not found", false),
            (-32001, "resource not found", false),
            (-32000, "header for hash not found", false),
            (-32000, "hash 0x12 is not currently canonical", false),
            (3, "execution reverted: invalid block", false),
        ] {
            assert_eq!(refuses_block_hash(code, message), refuses, "{message}");
        }
    }

    proptest! {
        /// T39: whatever surrounds it and however it is capitalised, a text of the table is recognised,
        /// unless an earlier pattern also matches.
        #[test]
        fn a_text_of_the_table_is_understood_anywhere(
            code in -33_000..-31_000_i64,
            row in 0..PATTERNS.len(),
            before in "[ -~]{0,30}",
            after in "\\PC{0,60}",
            upper in any::<bool>(),
        ) {
            let (pattern, meant) = PATTERNS[row];
            let mut text = format!("{before}{pattern}{after}");
            if upper {
                text = text.to_uppercase();
            }
            let lower = text.to_lowercase();
            let first = PATTERNS.iter().find(|(pattern, _)| lower.contains(pattern));
            let earlier = first.is_some_and(|(other, _)| *other != pattern);
            prop_assert!(earlier || pool_error(code, &text) == meant, "{text}");
        }

        /// What the table does not know is unknown: never taken for accepted or for rejected.
        #[test]
        fn a_text_nobody_knows_proves_nothing(code in any::<i64>(), text in "\\PC{0,80}") {
            let lower = text.to_lowercase();
            let known = PATTERNS.iter().any(|(pattern, _)| lower.contains(pattern))
                || mentions_rate_limit(&lower);
            let by_code = matches!(code, 3..=5 | 429 | -32005);
            prop_assert!(known || by_code || pool_error(code, &text) == PoolError::Unknown);
            if is_revert(code, &text) {
                let busy = pool_error(code, &text) == PoolError::Busy;
                prop_assert!(!is_about_node(code, &text) || busy, "a revert is the contract's answer");
            }
        }
    }
}

//! What the tasks of an instance report: the parts of a request's way, the results of transactions, and the
//! values behind the gauges.

use std::time::Duration;

use crate::domain::{HoldReason, Kind};

/// A part of a request's way whose duration is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// From the wake-up by a new head until the request is stored.
    Arrivals,
    /// The access check of a request.
    Access,
    /// All ciphertexts of a request, including the wait for memory.
    Ciphertexts,
    /// Handing the request to the Core.
    CoreAsk,
    /// Polling to a checked answer.
    CoreAnswer,
    /// From the answer to the receipt.
    Submission,
}

impl Room {
    pub const ALL: [Self; 6] = [
        Self::Arrivals,
        Self::Access,
        Self::Ciphertexts,
        Self::CoreAsk,
        Self::CoreAnswer,
        Self::Submission,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arrivals => "arrivals",
            Self::Access => "access",
            Self::Ciphertexts => "ciphertexts",
            Self::CoreAsk => "kms_core_ask",
            Self::CoreAnswer => "kms_core_answer",
            Self::Submission => "submission",
        }
    }
}

/// The result of a signed transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionResult {
    Succeeded,
    Reverted,
    /// Every node proved that it did not accept it.
    Rejected,
    /// A transaction that is not ours used its nonce.
    Displaced,
    /// Signed far above the chain's count, and given up.
    Stranded,
}

impl TransactionResult {
    pub const ALL: [Self; 5] =
        [Self::Succeeded, Self::Reverted, Self::Rejected, Self::Displaced, Self::Stranded];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Reverted => "reverted",
            Self::Rejected => "rejected",
            Self::Displaced => "displaced",
            Self::Stranded => "stranded",
        }
    }
}

/// The number of unfinished requests of one kind, stage and hold reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestGauges {
    pub kind: Kind,
    /// The stage's name.
    pub stage: &'static str,
    pub held: Option<HoldReason>,
    pub requests: u64,
    /// When the oldest of them arrived (Unix ms).
    pub oldest_ms: u64,
}

/// The state of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneGauges {
    /// Recorded and not mined.
    pub in_flight: usize,
    pub in_flight_limit: usize,
    /// Payloads without a nonce.
    pub waiting: usize,
    /// Nonces assigned above the chain's count.
    pub nonce_gap: u64,
    /// For how long no transaction was accepted or mined while some wait.
    pub still: Duration,
}

/// A transaction that was mined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mined {
    pub success: bool,
    pub gas_used: u64,
    /// Wei per gas.
    pub gas_price: u128,
}

/// The state of a gateway node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeGauges<'n> {
    /// Host and port.
    pub host: &'n str,
    /// Connected, and on the right chain.
    pub up: bool,
    pub head: Option<u64>,
    /// For how long other nodes have known a newer block. `None`: not connected.
    pub behind: Option<Duration>,
    /// For how long it has shown no new block. `None`: not connected.
    pub still: Option<Duration>,
}

impl NodeGauges<'_> {
    /// Combines two nodes with the same host.
    pub(super) fn merge(self, other: Self) -> Self {
        let shorter = |one: Option<Duration>, other| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (known, None) | (None, known) => known,
        };
        Self {
            host: self.host,
            up: self.up | other.up,
            head: self.head.max(other.head),
            behind: shorter(self.behind, other.behind),
            still: shorter(self.still, other.still),
        }
    }
}

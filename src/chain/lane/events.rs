//! What the lane logs: the state reports an event, the task writes the line.

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{
    chain::{rpc_error::RpcError, wallet::WalletError},
    domain::{B256, Hold, RequestKey},
    telemetry::log_throttle::{LogThrottle, warn_rarely},
};

#[derive(Debug)]
pub enum LaneEvent {
    /// An earlier run left transactions.
    Recovered { open: usize, mined: u64, next: u64 },
    /// The nodes suggest a higher tip than is paid, in wei per gas.
    ExcessiveTip { suggested: u128, paid: u128 },
    /// The wallet failed to sign.
    NotSigned { request: RequestKey, error: WalletError },
    /// No node accepted the transaction.
    NotAccepted { nonce: u64, transaction: B256, error: RpcError },
    /// A no-op fills an unused nonce that other nonces wait behind.
    FillsHole { nonce: u64 },
    /// A refused transaction may have been accepted before, so a no-op replaces it.
    NoopInstead { nonce: u64 },
    /// This many mined transactions have left the chain.
    LeftChain { transactions: usize },
    /// The chain's count of the wallet's transactions fell to this one.
    CountFell { count: u64 },
    /// Nodes report different counts; lists them by host.
    Contradiction { votes: String },
    /// Somebody else used this many nonces, from `first` on.
    Foreign { first: u64, nonces: u64 },
    /// Somebody else used the nonce of this transaction.
    Displaced { nonce: u64, transaction: B256 },
    /// A transaction that was taken for displaced is mined.
    MinedAfterAll { nonce: u64, transaction: B256 },
    /// All payloads without a nonce wait.
    AnswersWait(Hold),
    /// All answers behind unused nonces wait, because the limit on no-ops is reached.
    AnswersBehindHoles(Hold),
    /// A transaction that was in a pool for long gets a higher fee.
    FeeRaised { nonce: u64 },
    /// This many transactions are signed again for less.
    ExcessiveRepriced { transactions: usize },
    /// This many transactions, from nonce `lowest` on, are given up.
    Stranded { unused_from: u64, lowest: Option<u64>, transactions: usize },
}

impl LaneEvent {
    /// Log throttle: logs the first occurrence of an event, then ever more rarely, with the number of
    /// occurrences.
    pub(super) fn log(self, repeats: &mut LogThrottle, now: Instant) {
        let mut heard = |code| repeats.should_log(code, now);
        match self {
            Self::Recovered { open, mined, next } => {
                info!(open, mined, next, "following the transactions of an earlier run");
            }
            Self::ExcessiveTip { suggested, paid } => warn_rarely!(
                heard("immodest_tip"),
                "nodes suggest a tip out of proportion",
                %suggested, %paid
            ),
            Self::NotSigned { request, error } => {
                debug!(%request, %error, "signing failed, trying again");
            }
            Self::NotAccepted { nonce, transaction, error } => warn_rarely!(
                heard(error.code()),
                "broadcast not accepted",
                nonce, %transaction, %error
            ),
            Self::FillsHole { nonce } => {
                warn_rarely!(heard("fills_hole"), "filling an unused nonce with a no-op", nonce);
            }
            Self::NoopInstead { nonce } => warn_rarely!(
                heard("noop_instead"),
                "refused now and possibly accepted before: a no-op is sent in its place",
                nonce
            ),
            Self::LeftChain { transactions } => {
                warn!(transactions, "mined transactions have left the chain: they are sent again");
            }
            Self::CountFell { count } => {
                warn!(count, "the chain counts fewer transactions of the wallet than before");
            }
            Self::Contradiction { votes } => warn_rarely!(
                heard("contradiction"),
                "the nodes contradict each other about the wallet's transaction count",
                votes
            ),
            Self::Foreign { first, nonces } => warn!(
                first,
                nonces,
                "nonces were used by transactions this journal does not know: \
                 is the wallet used elsewhere?"
            ),
            Self::Displaced { nonce, transaction } => warn_rarely!(
                heard("displaced"),
                "the nonce was used by a transaction this journal does not know; \
                 the answer is sent again: is the wallet used elsewhere?",
                nonce, %transaction
            ),
            Self::MinedAfterAll { nonce, transaction } => {
                warn!(nonce, %transaction, "mined after all: no other transaction used its nonce");
            }
            Self::AnswersWait(Hold { reason, detail }) => {
                warn!(reason = reason.as_str(), detail, "answers wait");
            }
            Self::AnswersBehindHoles(Hold { detail, .. }) => {
                warn_rarely!(
                    heard("wait_behind_holes"),
                    "answers wait behind unused nonces",
                    detail
                );
            }
            Self::FeeRaised { nonce } => {
                debug!(nonce, "in the pool for long and not mined: paying more");
            }
            Self::ExcessiveRepriced { transactions } => warn_rarely!(
                heard("signed_for_too_much"),
                "signed for more than needed and not mined: signed again for less",
                transactions
            ),
            Self::Stranded { unused_from, lowest, transactions } => warn!(
                unused_from,
                lowest,
                transactions,
                "signed far beyond the chain's count of the wallet's transactions, and never mined: \
                 their answers get other nonces"
            ),
        }
    }
}

//! What an operator may ask an instance about its requests, and the answers. Both go through the
//! control socket; `requests` and `backfill` print the answers.
//!
//! An instance that can answer publishes an [`Inbox`]. The supervisor sends a question there and does
//! not wait: the answer goes directly to the client. Every answer is bounded; longer ones come in
//! pages. They contain no secret: everything in the journal is on chain, too. Times are Unix
//! milliseconds, bytes are hex with 0x.

mod joined;

pub use self::joined::{Part, ask_joined};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// A question, or an action to take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Inquiry {
    /// A page of requests.
    List { which: InquiryFilter, after: Option<i64> },
    /// A page of complete records.
    Export { which: InquiryFilter, after: Option<i64> },
    /// All requests of one id (0x and hex, or decimal).
    Show { id: String },
    /// Try the requests of this id again, now.
    Retry { id: String },
    /// Have the key operations of this id answered, which wait for an operator.
    Approve {
        id: String,
        /// The user who asks, as the socket knows it. What a client writes here is replaced.
        #[serde(default)]
        by: String,
    },
    /// Read these blocks again, as many as possible within a few seconds.
    Backfill {
        from: u64,
        to: Option<u64>,
        /// The second chain's id; `None`: the gateway.
        #[serde(default)]
        chain: Option<u64>,
    },
}

impl Inquiry {
    /// Returns whether it asks for an action.
    #[must_use]
    pub fn is_action(&self) -> bool {
        match self {
            Self::List { .. } | Self::Export { .. } | Self::Show { .. } => false,
            Self::Retry { .. } | Self::Approve { .. } | Self::Backfill { .. } => true,
        }
    }
}

/// Selects requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InquiryFilter {
    /// Without an outcome, including held ones.
    Unfinished,
    Held,
    /// Ended without an answer since this time: refused, expired or orphaned.
    Ended {
        since_ms: u64,
    },
    All,
}

/// The answer to an [`Inquiry`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum InquiryAnswer {
    /// `next`: where the next page begins, if there may be one.
    Lines {
        requests: Vec<RequestOverview>,
        next: Option<i64>,
    },
    Exported {
        requests: Vec<ExportedRequest>,
        next: Option<i64>,
    },
    Stories {
        requests: Vec<RequestDetail>,
    },
    /// Retried, or approved.
    Retried {
        requests: Vec<Retried>,
    },
    Backfilled(Backfilled),
}

/// The state of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestOverview {
    /// In the notation of the chain.
    pub id: String,
    /// The second chain's id, if the request is from there.
    #[serde(default)]
    pub chain: Option<u64>,
    /// The hash of its event's topics and data: distinguishes requests with one id.
    pub content: String,
    pub kind: String,
    /// The last stage it entered; `settled` once it has an outcome.
    pub stage: String,
    pub held: Option<HoldSummary>,
    pub outcome: Option<String>,
    /// The reason, where the outcome alone does not give it.
    pub outcome_detail: Option<String>,
    /// The number of failed attempts.
    pub attempts: u32,
    pub last_error: Option<String>,
    /// What it waits for, if it has waited long and nothing has failed since. Set by a running
    /// instance only.
    #[serde(default)]
    pub waits: Option<String>,
    pub block: u64,
    pub arrived_at_ms: u64,
    pub asked_at_ms: Option<u64>,
    pub answered_at_ms: Option<u64>,
    pub submitted_at_ms: Option<u64>,
    pub settled_at_ms: Option<u64>,
}

impl RequestOverview {
    /// When it entered its current state.
    #[must_use]
    pub fn since_ms(&self) -> u64 {
        let held = self.held.as_ref().map(|held| held.since_ms);
        let entered = match self.stage.as_str() {
            "submitted" => self.submitted_at_ms,
            "answered" => self.answered_at_ms,
            "asked" => self.asked_at_ms,
            _ => None,
        };
        self.settled_at_ms.or(held).or(entered).unwrap_or(self.arrived_at_ms)
    }
}

/// Why a request is held, and since when for this reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldSummary {
    pub reason: String,
    pub detail: String,
    pub since_ms: u64,
}

/// Everything that is known about one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestDetail {
    #[serde(flatten)]
    pub overview: RequestOverview,
    /// The generation of the contracts' ABI, as far as the event shows it; absent if this version
    /// cannot read the event.
    pub generation: Option<String>,
    /// The deployed contracts as they were last seen, by which an unfinished request is judged. Absent: it
    /// has ended, or they were not looked at yet.
    #[serde(default)]
    pub deployment: Option<String>,
    pub event: EventPlace,
    /// Host and port of the KMS Core that was asked last.
    #[serde(default)]
    pub kms_core: Option<String>,
    /// Who approved it, and when.
    #[serde(default)]
    pub approved: Option<Approved>,
    /// The last access check: what was asked of whom, and what came back. Empty: there was none.
    #[serde(default)]
    pub access: Vec<String>,
    /// The working time that counts towards the expiry.
    pub worked_ms: u64,
    /// The transaction that delivered the answer, and its block.
    pub accepted: Option<Accepted>,
    /// All transactions signed for it, oldest first.
    pub transactions: Vec<TransactionSummary>,
}

/// An operator's approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    pub by: String,
    pub at_ms: u64,
}

/// Where on chain a request was emitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPlace {
    pub block: u64,
    pub block_hash: String,
    pub transaction: String,
    pub log_index: u64,
}

/// Where on chain an answer was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    pub transaction: String,
    pub block: u64,
}

/// A signed transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionSummary {
    pub hash: String,
    pub nonce: u64,
    pub signed_at_ms: u64,
    pub mined_in_block: Option<u64>,
    /// Why it will not be mined.
    pub given_up: Option<String>,
}

/// A request with its event and answer, for analysis elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedRequest {
    #[serde(flatten)]
    pub detail: RequestDetail,
    pub topics: Vec<String>,
    pub data: String,
    pub answer: Option<ExportedAnswer>,
}

/// The Core's answer as it is, or was, sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedAnswer {
    pub payload: String,
    pub signature: String,
    pub extra_data: String,
}

/// The result of retrying a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    pub id: String,
    pub content: String,
    pub verdict: RetryVerdict,
    /// The result in words.
    pub text: String,
}

/// See [`Retried`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryVerdict {
    /// It was held, and is tried now, or when its instance starts.
    Tried,
    /// It had ended without an answer, and is unfinished again.
    OpenedAgain,
    /// It is being processed: nothing to do.
    InHand,
    /// It stays as it is.
    Refused,
}

/// The progress of reading blocks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfilled {
    pub from: u64,
    /// The last block that was read.
    pub to: u64,
    /// The last block of the range; blocks after the cursor are read in the normal course.
    pub end: u64,
    /// Requests found in these blocks.
    pub requests: u64,
    /// Those of them that were not known.
    pub new: u64,
}

/// Takes questions to an instance; refuses them when full.
pub type Inbox = mpsc::Sender<PendingInquiry>;

/// A question on its way to the instance.
#[derive(Debug)]
pub struct PendingInquiry {
    pub inquiry: Inquiry,
    pub reply: InquiryReply,
}

/// The channel back to the client. An error is a sentence for the operator. Dropped: the instance
/// ended.
pub type InquiryReply = oneshot::Sender<Result<InquiryAnswer, String>>;

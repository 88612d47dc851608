//! What an operator may ask of an instance about its requests, and what is answered: the control
//! socket sends both, `requests` and `backfill` print the answers.
//!
//! An instance that can answer puts up a [`Desk`]; whoever has it hands a question in and does not
//! wait: the answer goes straight to the asker. Every answer is bounded, what is longer comes in
//! pages. No secret comes in here: what the journal holds stands on chain, too. Times are Unix
//! milliseconds, bytes hex with 0x.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// A question, or a wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Inquiry {
    /// A page of requests.
    List { which: Which, after: Option<i64> },
    /// A page of all that is stored of them.
    Export { which: Which, after: Option<i64> },
    /// All requests of one id (0x and hex, or decimal).
    Show { id: String },
    /// Try the requests of this id again, now.
    Retry { id: String },
    /// Read these blocks again, as many as go in a few seconds.
    Backfill { from: u64, to: Option<u64> },
}

impl Inquiry {
    /// Whether something is to be done.
    #[must_use]
    pub fn is_wish(&self) -> bool {
        match self {
            Self::List { .. } | Self::Export { .. } | Self::Show { .. } => false,
            Self::Retry { .. } | Self::Backfill { .. } => true,
        }
    }
}

/// Which requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// Without an outcome, held ones included.
    Unfinished,
    Held,
    /// Ended without an answer since then: refused, expired or orphaned.
    Ended {
        since_ms: u64,
    },
    All,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub enum Told {
    /// `next`: there may be more after this.
    Lines {
        requests: Vec<RequestLine>,
        next: Option<i64>,
    },
    Exported {
        requests: Vec<ExportedRequest>,
        next: Option<i64>,
    },
    Stories {
        requests: Vec<RequestStory>,
    },
    Retried {
        requests: Vec<Retried>,
    },
    Backfilled(Backfilled),
}

/// Where a request stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// As the chain writes it.
    pub id: String,
    /// The hash of its event's topics and data: tells requests of one id apart.
    pub content: String,
    pub kind: String,
    /// The last stage it entered; `settled` once it has an outcome.
    pub stage: String,
    pub held: Option<HeldFor>,
    pub outcome: Option<String>,
    /// Why, where the outcome alone does not say.
    pub outcome_detail: Option<String>,
    /// Failed ones.
    pub attempts: u32,
    pub last_error: Option<String>,
    /// What it waits for, if it has for long and nothing failed since it did. A running instance tells.
    #[serde(default)]
    pub waits: Option<String>,
    pub block: u64,
    pub arrived_at_ms: u64,
    pub asked_at_ms: Option<u64>,
    pub answered_at_ms: Option<u64>,
    pub submitted_at_ms: Option<u64>,
    pub settled_at_ms: Option<u64>,
}

impl RequestLine {
    /// Since when it stands so.
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

/// Why a request is set aside, and since when for this reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldFor {
    pub reason: String,
    pub detail: String,
    pub since_ms: u64,
}

/// All there is to tell of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestStory {
    #[serde(flatten)]
    pub line: RequestLine,
    /// Of the contracts' ABI, as far as the event shows it; absent if this version cannot read it.
    pub generation: Option<String>,
    pub event: EventPlace,
    /// Time that counts towards the expiry.
    pub worked_ms: u64,
    /// The transaction that brought the answer, and its block.
    pub accepted: Option<Accepted>,
    /// All that were signed for it, oldest first.
    pub transactions: Vec<TransactionLine>,
}

/// Where on chain a request was made.
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
pub struct TransactionLine {
    pub hash: String,
    pub nonce: u64,
    pub signed_at_ms: u64,
    pub mined_in_block: Option<u64>,
    /// Why it will not be mined.
    pub given_up: Option<String>,
}

/// A request as it is exported, to be looked at elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedRequest {
    #[serde(flatten)]
    pub story: RequestStory,
    pub topics: Vec<String>,
    pub data: String,
    pub answer: Option<ExportedAnswer>,
}

/// The Core's answer, as it is sent or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedAnswer {
    pub payload: String,
    pub signature: String,
    pub extra_data: String,
}

/// What became of the wish to try a request again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    pub id: String,
    pub content: String,
    pub verdict: Verdict,
    /// In words.
    pub text: String,
}

/// See [`Retried`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was held, and is tried now, or when its instance starts.
    Tried,
    /// It had ended without an answer, and is open again.
    OpenedAgain,
    /// It is in hand: nothing to do.
    InHand,
    /// It stays as it is.
    Refused,
}

/// How far blocks were read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfilled {
    pub from: u64,
    /// The last block that was read.
    pub to: u64,
    /// The last block of the range: what comes after it is read in its turn.
    pub end: u64,
    /// Found in these blocks.
    pub requests: u64,
    /// Of them, not known before.
    pub new: u64,
}

/// Where questions are handed in. A full one takes none.
pub type Desk = mpsc::Sender<Asked>;

/// A question on its way to who answers it.
#[derive(Debug)]
pub struct Asked {
    pub inquiry: Inquiry,
    pub reply: Reply,
}

/// The way back to the asker. An error is a sentence for them; who drops it has ended.
pub type Reply = oneshot::Sender<Result<Told, String>>;

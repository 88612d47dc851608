//! What there is to know about the process and its instances, as one value: the control socket sends
//! it, `status` and `list --long` print it.
//!
//! An instance reports through a [`Reporter`]; the supervisor puts the reports together with what it
//! alone knows (state, restarts, files). No secret comes in here: URLs are hosts, wallets addresses.
//! Times are Unix milliseconds.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::requests::Desk;
use crate::{clock, metrics::Metrics};

/// The process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub started_at_ms: u64,
    /// Where the HTTP listener is, if there is one: `127.0.0.1:9478`.
    pub listen: Option<String>,
    /// `None` under `start`: nothing is watched.
    pub config_dir: Option<PathBuf>,
    /// Where the journals are.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    pub reload: Reload,
    /// Ordered by name.
    pub instances: Vec<InstanceStatus>,
}

/// How the last reading of the files went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reload {
    /// When something was last applied, or last failed to be.
    pub at_ms: u64,
    /// When the files were last all in order and applied.
    pub succeeded_at_ms: Option<u64>,
    /// What keeps the files from being what runs: one line each, by instance or of the directory.
    pub problems: Vec<String>,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub name: String,
    pub file: Option<PathBuf>,
    #[serde(flatten)]
    pub state: State,
    /// Since when it is in this state.
    pub since_ms: u64,
    /// Counts builds of this instance; 0 before the first.
    pub generation: u64,
    /// Builds after a failure.
    pub restarts: u64,
    pub last_error: Option<LastError>,
    /// What the log said of it at WARN or above, unless that is long ago: each thing once, newest first.
    #[serde(default)]
    pub last_warnings: Vec<LastError>,
    /// Why the file's content is not what runs.
    pub reload_failed: Option<String>,
    /// The file is in order: it is applied once what it needs answers.
    #[serde(default)]
    pub reload_waits: bool,
    /// A new configuration is being checked or switched to.
    pub changing: bool,
    /// The beginning of the SHA-256 of the file whose content runs (see `sha256sum`).
    pub config_hash: Option<String>,
    pub chain_id: Option<u64>,
    pub decryption: Option<String>,
    /// Hosts, never whole URLs.
    pub gateway: Option<String>,
    pub kms_core: Option<String>,
    pub gauges: Gauges,
}

/// What an instance is doing, seen by its supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Being built.
    Starting,
    /// Up, and waiting for something outside.
    Waiting {
        on: String,
        why: String,
    },
    Running,
    /// Told to end, finishing what is in hand.
    Draining,
    /// It failed and is built again at `until_ms`.
    BackingOff {
        until_ms: u64,
    },
    /// Not built again until its file changes, somebody restarts it, or `retry_at_ms`.
    Parked {
        why: String,
        retry_at_ms: Option<u64>,
    },
    /// On purpose.
    Stopped {
        by: StoppedBy,
    },
}

/// Who stopped an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppedBy {
    /// The command `stop`.
    Operator,
    /// `enabled = false`.
    File,
}

impl StoppedBy {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::File => "enabled = false",
        }
    }
}

impl State {
    /// All that [`Self::word`] answers.
    pub const WORDS: [&str; 7] =
        ["starting", "waiting", "running", "draining", "backing-off", "parked", "stopped"];

    /// As shown: one word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Waiting { .. } => "waiting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::BackingOff { .. } => "backing-off",
            Self::Parked { .. } => "parked",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// Its numbers are of now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        match self {
            Self::Waiting { .. } | Self::Running | Self::Draining => true,
            Self::Starting
            | Self::BackingOff { .. }
            | Self::Parked { .. }
            | Self::Stopped { .. } => false,
        }
    }

    /// It should be up, and is not.
    #[must_use]
    pub fn is_down(&self) -> bool {
        match self {
            Self::BackingOff { .. } | Self::Parked { .. } => true,
            Self::Starting
            | Self::Waiting { .. }
            | Self::Running
            | Self::Draining
            | Self::Stopped { .. } => false,
        }
    }
}

/// Why an instance ended last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    pub at_ms: u64,
    pub text: String,
}

/// How far an instance is, by its own word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Starting,
    /// An outage: nothing for the supervisor to mend.
    Waiting {
        /// `the KMS Core at core.example:50052`
        on: String,
        why: String,
    },
    Running,
}

/// Numbers an instance keeps up to date while it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gauges {
    /// The wallet's address, once it is known.
    pub wallet: Option<String>,
    /// The newest block seen.
    pub head: Option<u64>,
    /// The last block whose requests are all stored.
    pub cursor: Option<u64>,
    /// Requests without an outcome, held ones included.
    pub in_hand: u64,
    pub held: u64,
    /// Held ones by their reason.
    #[serde(default)]
    pub held_by: BTreeMap<String, u64>,
    /// The oldest request that is not held, if it has stood where it is for long.
    #[serde(default)]
    pub waits: Option<WaitingRequest>,
    pub catching_up: Option<CatchUp>,
    /// Of an instance that only observes: requests it has seen to the end since it started.
    #[serde(default)]
    pub observed: Option<u64>,
    /// Gateway nodes that are connected and do not follow the chain.
    #[serde(default)]
    pub stale: Vec<StaleNode>,
    /// The finality tag, if requests wait for one that does not move.
    #[serde(default)]
    pub still_tag: Option<StillTag>,
    /// Blocks up to the cursor whose logs are in doubt.
    #[serde(default)]
    pub unproven: Option<UnprovenBlocks>,
    /// Blocks up to the cursor whose second reading is late.
    #[serde(default)]
    pub read_once: Option<ReadOnce>,
    /// Answers that wait, if none has been sent for long.
    #[serde(default)]
    pub unsent: Option<Unsent>,
    /// Requests that are on chain and that no node shows.
    #[serde(default)]
    pub hidden: Vec<HiddenRequests>,
    /// Requests that others have answered and this node has not.
    #[serde(default)]
    pub unanswered: Option<UnansweredRequests>,
}

impl Gauges {
    /// `2 no_funds, 1 signer_mismatch`; `None`: nothing is held, or not for reasons that are known.
    #[must_use]
    pub fn reasons(&self) -> Option<String> {
        let each = self.held_by.iter().map(|(reason, many)| format!("{many} {reason}"));
        (!self.held_by.is_empty()).then(|| each.collect::<Vec<_>>().join(", "))
    }

    /// What is wrong with what the chain shows, or with what is sent there, in words, with what to do.
    pub fn doubts(&self) -> impl Iterator<Item = String> {
        let stale = self.stale.iter().map(ToString::to_string);
        let tag = self.still_tag.iter().map(ToString::to_string);
        let unproven = self.unproven.iter().map(ToString::to_string);
        let hidden = self.hidden.iter().map(ToString::to_string);
        let unanswered = self.unanswered.iter().map(ToString::to_string);
        let unsent = self.unsent.iter().map(ToString::to_string);
        stale.chain(tag).chain(unproven).chain(hidden).chain(unanswered).chain(unsent)
    }

    /// Blocks between cursor and head, and those before it whose logs are in doubt.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        let behind = self.head?.saturating_sub(self.cursor?);
        Some(behind.saturating_add(self.unproven.as_ref().map_or(0, |unproven| unproven.blocks)))
    }
}

/// A gateway node that is connected and does not follow the chain, as far as this can be seen from
/// here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleNode {
    /// Host and port; those of all nodes where none shows a new block.
    pub host: String,
    /// Its newest block.
    pub head: u64,
    /// Since when (Unix ms) others know a newer one, or none shows any.
    pub since_ms: u64,
    /// The newest block of another node. `None`: nobody shows a newer one.
    pub others: Option<u64>,
}

/// In words, with what to do.
impl fmt::Display for StaleNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, head, since_ms, others } = self;
        let since = clock::utc(*since_ms);
        match others {
            Some(newest) => write!(
                f,
                "the gateway node at {host} has been behind since {since}: its newest block is \
                 {head}, that of another node {newest}; ask its operator, or take it out of the \
                 configuration: others are read from meanwhile"
            ),
            None => write!(
                f,
                "the gateway node at {host} has shown no new block since {since}: its newest is \
                 {head}; if the chain goes on elsewhere, ask its operator, or name another node in \
                 gateway_url or gateway_fallback_urls"
            ),
        }
    }
}

/// A finality tag that has not moved for longer than any in order, while the chain went on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillTag {
    /// `safe` or `finalized`.
    pub tag: String,
    /// Where it stands; `None`: no node has told it.
    pub at: Option<u64>,
    /// Since when (Unix ms).
    pub since_ms: u64,
}

/// In words, with what to do.
impl fmt::Display for StillTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tag, at, since_ms } = self;
        let since = clock::utc(*since_ms);
        match at {
            Some(at) => write!(f, "the tag {tag} stands at block {at} since {since}")?,
            None => write!(f, "no gateway node has told which block is {tag} since {since}")?,
        }
        f.write_str(
            ": requests of later blocks wait for it; if an explorer of the chain shows another \
             one, ask the node's operator, or name another node",
        )
    }
}

/// Blocks that were read, and whose logs no gateway node could prove within a minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnprovenBlocks {
    pub blocks: u64,
    /// The lowest one.
    pub first: u64,
    /// Since when (Unix ms) the one does that waits longest.
    pub since_ms: u64,
}

/// In words, with what to do.
impl fmt::Display for UnprovenBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks, first, since_ms } = self;
        let since = clock::utc(*since_ms);
        write!(
            f,
            "no gateway node has proven the logs of {blocks} blocks, the first of them {first}, \
             since {since}: a request may be hidden in them; they are asked about until they are \
             proven; ask the node's operator whether its index of logs is whole, or name another \
             node in gateway_fallback_urls"
        )
    }
}

/// Every block is read twice, and this should have happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOnce {
    /// The block that has waited longest.
    pub first: u64,
    /// Since when (Unix ms).
    pub since_ms: u64,
}

/// In words, with what to do.
impl fmt::Display for ReadOnce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, since_ms } = self;
        let since = clock::utc(*since_ms);
        write!(
            f,
            "the second reading of blocks from {first} on is late: they were read once, at {since}; \
             it goes on by itself, and takes long where a gateway node answers little at a time"
        )
    }
}

/// A request that is not further, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingRequest {
    /// As the chain writes it.
    pub id: String,
    /// The last stage it entered, and when (Unix ms).
    pub stage: String,
    pub since_ms: u64,
    pub why: String,
}

/// In words.
impl fmt::Display for WaitingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, stage, since_ms, why } = self;
        write!(f, "request {id} {stage} since {}: {why}", clock::utc(*since_ms))
    }
}

/// Answers wait, and no transaction was taken by a node or mined for long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsent {
    pub answers: u64,
    /// Since when (Unix ms).
    pub since_ms: u64,
}

/// In words, with what to do.
impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers, since_ms } = self;
        let since = clock::utc(*since_ms);
        write!(
            f,
            "nothing was sent or mined since {since} while {answers} answers wait: what they are held \
             for says why; where they are not held, the log does: look for what is said of the \
             transaction count and of broadcasts, and at the gateway nodes"
        )
    }
}

/// Requests that are on chain, by their ids, and that no gateway node shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HiddenRequests {
    pub requests: u64,
    /// Their ids, as the chain writes them.
    pub first: String,
    pub last: String,
    /// The blocks they are in, somewhere.
    pub from_block: u64,
    pub to_block: u64,
    /// Since when this is known (Unix ms).
    pub since_ms: u64,
}

/// In words, with what to do.
impl fmt::Display for HiddenRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, first, last, from_block, to_block, since_ms } = self;
        let since = clock::utc(*since_ms);
        match requests {
            1 => write!(f, "request {first} is hidden")?,
            _ => write!(f, "{requests} requests are hidden ({first} to {last})")?,
        }
        write!(
            f,
            " since {since}: no gateway node shows an event of theirs in blocks {from_block} to \
             {to_block}, which are read again; have the log index of the node mended, or add \
             another node to gateway_fallback_urls"
        )
    }
}

/// Requests that others have answered for more than a minute, and this node has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnansweredRequests {
    pub requests: u64,
    /// The one that others have answered longest ago, as the chain writes it.
    pub id: String,
    /// The block that says so, and since when this is known (Unix ms).
    pub block: u64,
    pub since_ms: u64,
}

/// In words, with what to do.
impl fmt::Display for UnansweredRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, id, block, since_ms } = self;
        let since = clock::utc(*since_ms);
        let count =
            if *requests == 1 { "1 request".to_owned() } else { format!("{requests} requests") };
        write!(
            f,
            "others have answered {count} that this node has not (the first one {id}, in block \
             {block}, since {since}): `kms-connector requests show` of it says why; if it is not \
             known there, have the log index of the gateway node mended, or add another node"
        )
    }
}

/// Reading blocks that came while the instance was down.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatchUp {
    /// Blocks.
    pub done: u64,
    pub to_do: u64,
    pub blocks_per_second: f64,
    /// `None` while there is no rate yet.
    pub seconds_left: Option<u64>,
}

/// An instance's way to tell how it is.
#[derive(Clone, Debug)]
pub struct Reporter {
    pub phase: watch::Sender<Phase>,
    pub gauges: watch::Sender<Gauges>,
    pub metrics: Metrics,
    /// Where it can be asked for its requests, once it can answer.
    pub desk: watch::Sender<Option<Desk>>,
}

impl Reporter {
    /// `metrics`: what earlier generations counted, too.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let (phase, gauges, desk) = Default::default();
        Self { phase, gauges, metrics, desk }
    }
}

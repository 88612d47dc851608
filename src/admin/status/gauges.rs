//! Values that an instance updates while it runs, and descriptions of doubts about its nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::Phase;
use crate::time::clock;

/// Values that an instance updates while it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gauges {
    /// The wallet's address, once it is known.
    pub wallet: Option<String>,
    /// The deployed contracts, by the versions that they tell.
    #[serde(default)]
    pub contracts: Option<String>,
    /// The newest block seen.
    pub head: Option<u64>,
    /// The last block whose requests are all stored, of the chain's first contract.
    pub cursor: Option<u64>,
    /// Contracts of the chain that are read beside the first one, each with a cursor of its own.
    #[serde(default)]
    pub beside: Vec<ContractPosition>,
    /// Requests without an outcome, including held ones.
    pub in_hand: u64,
    pub held: u64,
    /// Held requests by reason.
    #[serde(default)]
    pub held_by: BTreeMap<String, u64>,
    /// The oldest request that is not held, if it has not progressed for long.
    #[serde(default)]
    pub waits: Option<WaitingRequest>,
    /// Key operations in hand: one takes hours.
    #[serde(default)]
    pub key_operations: Vec<KeyOperationStatus>,
    pub catching_up: Option<CatchUp>,
    /// Observing instances only: requests processed completely since the start.
    #[serde(default)]
    pub observed: Option<u64>,
    /// Gateway nodes that are connected and do not follow the chain.
    #[serde(default)]
    pub stale: Vec<StaleNode>,
    /// The host chains, and the chain that has `ProtocolConfig`.
    #[serde(default)]
    pub host_chains: Vec<HostChainStatus>,
    /// The second chain, where key operations are asked for.
    #[serde(default)]
    pub chains: Vec<ChainStatus>,
    /// What the configuration lacks for the contracts, with the keys to set.
    #[serde(default)]
    pub lack: Option<String>,
    /// The finality tag, if requests wait for it and it does not move.
    #[serde(default)]
    pub still_tag: Option<StaleTag>,
    /// Blocks up to the cursor whose logs are not proven.
    #[serde(default)]
    pub unproven: Option<UnprovenBlocks>,
    /// Blocks up to the cursor whose second reading is late.
    #[serde(default)]
    pub read_once: Option<ReadOnce>,
    /// Waiting answers, if none has been sent for long.
    #[serde(default)]
    pub unsent: Option<UnsentAnswers>,
    /// Requests that are on chain although no node shows them.
    #[serde(default)]
    pub hidden: Vec<HiddenRequests>,
    /// Requests that other nodes have answered and this one has not.
    #[serde(default)]
    pub unanswered: Option<UnansweredRequests>,
    /// Requests in the journal that another `decryption_address` has left.
    #[serde(default)]
    pub other_contracts: Option<OtherContracts>,
}

impl Gauges {
    /// For example `2 no_funds, 1 signer_mismatch, 1 core_version on chain 1`; `None`: nothing is held, or no
    /// reason is known.
    #[must_use]
    pub fn hold_counts(&self) -> Option<String> {
        let own = self.held_by.iter().map(|(reason, many)| format!("{many} {reason}"));
        let of_chains = self.chains.iter().flat_map(|chain| {
            let id = chain.chain_id;
            let by = chain.gauges.held_by.iter();
            by.map(move |(reason, many)| format!("{many} {reason} on chain {id}"))
        });
        let each: Vec<String> = own.chain(of_chains).collect();
        (!each.is_empty()).then(|| each.join(", "))
    }

    /// The reasons for which requests of any chain are held.
    pub fn hold_reasons(&self) -> impl Iterator<Item = &str> {
        let of_chains = self.chains.iter().flat_map(|chain| chain.gauges.held_by.keys());
        self.held_by.keys().chain(of_chains).map(String::as_str)
    }

    /// Key operations in hand, of any chain.
    pub fn all_key_operations(&self) -> impl Iterator<Item = String> {
        let of_chains = self.chains.iter().flat_map(|chain| {
            let id = chain.chain_id;
            chain.gauges.key_operations.iter().map(move |each| format!("chain {id}: {each}"))
        });
        self.key_operations.iter().map(ToString::to_string).chain(of_chains)
    }

    /// Descriptions of doubts about what the nodes show, and of answers that are not sent, with
    /// what to do.
    pub fn chain_warnings(&self) -> impl Iterator<Item = String> {
        let stale = self.stale.iter().map(ToString::to_string);
        // The contracts of one chain have one problem when the chain is away.
        let hosts: BTreeSet<_> =
            self.host_chains.iter().filter_map(HostChainStatus::warning).collect();
        let tag = self.still_tag.iter().map(ToString::to_string);
        let unproven = self.unproven.iter().map(ToString::to_string);
        let hidden = self.hidden.iter().map(ToString::to_string);
        let unanswered = self.unanswered.iter().map(ToString::to_string);
        let unsent = self.unsent.iter().map(ToString::to_string);
        let lack = self.lack.iter().cloned();
        let chains = self.chains.iter().flat_map(ChainStatus::warnings);
        lack.chain(chains)
            .chain(stale)
            .chain(hosts)
            .chain(tag)
            .chain(unproven)
            .chain(hidden)
            .chain(unanswered)
            .chain(unsent)
    }

    /// Blocks between the lowest cursor and the head, plus unproven blocks below it.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        let beside = self.beside.iter().filter_map(|contract| contract.cursor);
        let read = beside.chain([self.cursor?]).min()?;
        let behind = self.head?.saturating_sub(read);
        Some(behind.saturating_add(self.unproven.as_ref().map_or(0, |unproven| unproven.blocks)))
    }
}

/// A contract that is read beside another one of its chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractPosition {
    /// `ProtocolConfig`
    pub name: String,
    pub contract: String,
    /// The last block whose requests are all stored. `None`: it is not read yet.
    pub cursor: Option<u64>,
}

/// `ProtocolConfig at 0x…, read up to 868`
impl fmt::Display for ContractPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, contract, cursor } = self;
        write!(f, "{name} at {contract}, ")?;
        match cursor {
            Some(cursor) => write!(f, "read up to {cursor}"),
            None => f.write_str("not read yet"),
        }
    }
}

/// A second chain of an instance: Ethereum, where key operations are asked for. It has a journal, a cursor, a
/// lane and requests of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChainStatus {
    pub chain_id: u64,
    /// Of all its nodes.
    pub hosts: String,
    /// The contract that is read.
    pub contract: String,
    #[serde(flatten)]
    pub state: ChainState,
    /// Those of this chain alone.
    pub gauges: Gauges,
}

/// The state of a second chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ChainState {
    Starting,
    /// For something outside. Decryptions do not wait for it.
    Waiting {
        on: String,
        why: String,
    },
    Running,
}

impl ChainState {
    /// The state in one word, as shown.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Waiting { .. } => "waiting",
            Self::Running => "running",
        }
    }
}

impl From<Phase> for ChainState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Starting => Self::Starting,
            Phase::Waiting { on, why } => Self::Waiting { on, why },
            Phase::Running => Self::Running,
        }
    }
}

/// `1: running, block 900, 2 in hand; KMSGeneration at 0x…, read up to 868; ProtocolConfig at 0x…, read up to 868;
/// by ethereum.example`
impl fmt::Display for ChainStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chain_id, hosts, contract, state, gauges } = self;
        write!(f, "{chain_id}: {}", state.word())?;
        if let ChainState::Waiting { on, .. } = state {
            write!(f, " for {on}")?;
        }
        match gauges.head {
            Some(head) => write!(f, ", block {head}")?,
            None => f.write_str(", no block seen")?,
        }
        let first = ContractPosition {
            name: "KMSGeneration".to_owned(),
            contract: contract.clone(),
            cursor: gauges.cursor,
        };
        write!(f, ", {} in hand; {first}; ", gauges.in_hand)?;
        for beside in &gauges.beside {
            write!(f, "{beside}; ")?;
        }
        write!(f, "by {hosts}")
    }
}

impl ChainStatus {
    /// What is wrong on this chain, and what that means.
    fn warnings(&self) -> Vec<String> {
        let Self { chain_id, state, gauges, .. } = self;
        let waits = if let ChainState::Waiting { on, why } = state {
            Some(format!(
                "waiting for {on}: {why}; key operations wait meanwhile, decryptions do not"
            ))
        } else {
            None
        };
        let each = waits.into_iter().chain(gauges.chain_warnings().map(of_ethereum));
        each.map(|warning| format!("chain {chain_id}: {warning}")).collect()
    }
}

/// A doubt about the gateway's nodes, told of Ethereum's.
#[expect(clippy::needless_pass_by_value, reason = "it stands for the text that it changes")]
fn of_ethereum(warning: String) -> String {
    let keys = warning.replace("gateway_fallback_urls", "ethereum_fallback_urls");
    keys.replace("gateway_url", "ethereum_url").replace("gateway node", "Ethereum node")
}

/// A chain other than the gateway's, as its nodes show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostChainStatus {
    pub chain_id: u64,
    /// Of all its nodes.
    pub hosts: String,
    /// The ACL, or `ProtocolConfig`.
    pub contract: String,
    /// The contract's version. `None`: not known yet.
    pub version: Option<String>,
    /// It gave an answer when it was last asked.
    pub is_reachable: bool,
    /// The newest block that a node shows, and its age.
    pub head: Option<u64>,
    pub head_age_secs: Option<u64>,
    /// Why it gave no answer.
    pub problem: Option<String>,
}

impl HostChainStatus {
    /// A description with what it means, if there is a problem.
    fn warning(&self) -> Option<String> {
        let problem = self.problem.as_deref()?;
        Some(format!(
            "{problem}; requests that need chain {} are held meanwhile: look at its nodes, and correct \
             or add their URLs if they are wrong",
            self.chain_id
        ))
    }
}

/// A gateway node that is connected and does not follow the chain, as far as can be seen from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleNode {
    /// Host and port; those of all nodes if none shows a new block.
    pub host: String,
    /// Its newest block.
    pub head: u64,
    /// Since when (Unix ms) other nodes have shown a newer block, or no node has shown any.
    pub since_ms: u64,
    /// The newest block of another node. `None`: no node shows a newer one.
    pub others: Option<u64>,
}

/// A description with what to do.
impl fmt::Display for StaleNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, head, since_ms, others } = self;
        let since = clock::utc(*since_ms);
        match others {
            Some(newest) => write!(
                f,
                "the gateway node at {host} has been behind since {since}: its newest block is \
                 {head}, another node has {newest}; ask its operator, or remove it from the \
                 configuration: other nodes are used meanwhile"
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

/// A finality tag that has not moved for longer than is normal, while the chain went on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleTag {
    /// `safe` or `finalized`.
    pub tag: String,
    /// The tagged block; `None`: no node has reported it.
    pub at: Option<u64>,
    /// Since when (Unix ms).
    pub since_ms: u64,
}

/// A description with what to do.
impl fmt::Display for StaleTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tag, at, since_ms } = self;
        let since = clock::utc(*since_ms);
        match at {
            Some(at) => write!(f, "the tag {tag} stands at block {at} since {since}")?,
            None => write!(f, "no gateway node has reported the tag {tag} since {since}")?,
        }
        f.write_str(
            ": requests of later blocks wait for it; if a block explorer shows a later block, ask \
             the node's operator, or use another node",
        )
    }
}

/// Blocks that were read and whose logs no gateway node could prove within a minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnprovenBlocks {
    pub blocks: u64,
    /// The lowest of them.
    pub first: u64,
    /// Since when (Unix ms) the first of them has been unproven.
    pub since_ms: u64,
}

/// A description with what to do.
impl fmt::Display for UnprovenBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks, first, since_ms } = self;
        let since = clock::utc(*since_ms);
        write!(
            f,
            "no gateway node has proven the logs of {blocks} blocks, the first of them {first}, \
             since {since}: a request may be hidden in them; the nodes are asked until they are \
             proven; ask the node's operator whether its log index is complete, or add another \
             node to gateway_fallback_urls"
        )
    }
}

/// Every block is read twice; this second reading is late.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOnce {
    /// The block that has waited longest.
    pub first: u64,
    /// Since when (Unix ms).
    pub since_ms: u64,
}

/// A description with what to do.
impl fmt::Display for ReadOnce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, since_ms } = self;
        let since = clock::utc(*since_ms);
        write!(
            f,
            "the second reading of blocks from {first} on is late: they were read once, at \
             {since}; it continues by itself, and is slow if a gateway node returns little at a \
             time"
        )
    }
}

/// A request that does not progress, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingRequest {
    /// In the notation of the chain.
    pub id: String,
    /// The last stage it entered, and when (Unix ms).
    pub stage: String,
    pub since_ms: u64,
    pub why: String,
}

/// A description.
impl fmt::Display for WaitingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, stage, since_ms, why } = self;
        write!(f, "request {id}, at stage {stage} since {}: {why}", clock::utc(*since_ms))
    }
}

/// Key operations of one kind, all at one stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyOperationStatus {
    pub kind: String,
    /// The last stage that they entered.
    pub stage: String,
    /// The reason for which they are held.
    pub held: Option<String>,
    pub requests: u64,
    /// When the oldest arrived (Unix ms).
    pub since_ms: u64,
}

/// A description.
impl fmt::Display for KeyOperationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, stage, held, requests, since_ms } = self;
        if *requests > 1 {
            write!(f, "{requests} ")?;
        }
        write!(f, "{kind} {stage}, since {}", clock::utc(*since_ms))?;
        held.as_ref().map_or(Ok(()), |reason| write!(f, ", held: {reason}"))
    }
}

/// Answers are waiting, and for long no transaction was accepted by a node or mined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsentAnswers {
    pub answers: u64,
    /// Since when (Unix ms).
    pub since_ms: u64,
}

/// A description with what to do.
impl fmt::Display for UnsentAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers, since_ms } = self;
        let since = clock::utc(*since_ms);
        write!(
            f,
            "nothing was sent or mined since {since} while {answers} answers wait: their hold \
             reasons say why; if none is held, search the log for the transaction count and for \
             broadcasts, and check the gateway nodes"
        )
    }
}

/// Requests whose ids prove that they are on chain, and that no gateway node shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HiddenRequests {
    pub requests: u64,
    /// Their ids in the notation of the chain.
    pub first: String,
    pub last: String,
    /// The range of blocks that contains them.
    pub from_block: u64,
    pub to_block: u64,
    /// Since when this has been known (Unix ms).
    pub since_ms: u64,
}

/// A description with what to do.
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
            " since {since}: no gateway node shows their events in blocks {from_block} to \
             {to_block}, which are read again; have the node's log index fixed, or add another \
             node to gateway_fallback_urls"
        )
    }
}

/// Requests that other nodes answered more than a minute ago and this one has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnansweredRequests {
    pub requests: u64,
    /// The one that was answered by others first, in the notation of the chain.
    pub id: String,
    /// The block that shows it, and since when this has been known (Unix ms).
    pub block: u64,
    pub since_ms: u64,
}

/// A description with what to do.
impl fmt::Display for UnansweredRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, id, block, since_ms } = self;
        let since = clock::utc(*since_ms);
        let count =
            if *requests == 1 { "1 request".to_owned() } else { format!("{requests} requests") };
        write!(
            f,
            "other KMS nodes have answered {count} that this node has not (the first is {id}, in \
             block {block}, since {since}): `kms-connector requests show` says why; if the request \
             is not known there, have the gateway node's log index fixed, or add another node"
        )
    }
}

/// The journal has unfinished requests of other Decryption contracts: nobody works on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherContracts {
    pub requests: u64,
}

impl OtherContracts {
    pub const REMEDY: &str = "nothing if that contract is gone for good; else set decryption_address to it until they are \
                              answered";

    #[must_use]
    pub fn found(self) -> String {
        let requests = self.requests;
        format!("the journal has {requests} unfinished requests of another Decryption contract")
    }
}

/// A description with what to do.
impl fmt::Display for OtherContracts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.found(), Self::REMEDY)
    }
}

/// The progress of reading blocks that were produced while the instance was down.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatchUp {
    /// In blocks.
    pub done: u64,
    pub to_do: u64,
    pub blocks_per_second: f64,
    /// `None` until a rate is known.
    pub seconds_left: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_second_chain_waits_for_and_holds_is_told_with_its_id() {
        let stale = StaleNode { host: "e:8545".to_owned(), head: 7, since_ms: 0, others: None };
        let held = |reason: &str| [(reason.to_owned(), 2)].into();
        let chain = ChainStatus {
            chain_id: 9,
            hosts: "e:8545".to_owned(),
            contract: "0x77".to_owned(),
            state: ChainState::Waiting { on: "the disk".to_owned(), why: "full".to_owned() },
            gauges: Gauges { stale: vec![stale], held_by: held("no_funds"), ..Gauges::default() },
        };
        let gauges = Gauges { chains: vec![chain], held_by: held("fee_cap"), ..Gauges::default() };
        let warnings: Vec<String> = gauges.chain_warnings().collect();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("chain 9: waiting for the disk: full"), "{warnings:?}");
        assert!(warnings[1].contains("ethereum_fallback_urls"), "{warnings:?}");
        assert!(!warnings[1].contains("gateway"), "{warnings:?}");
        assert_eq!(gauges.hold_counts().as_deref(), Some("2 fee_cap, 2 no_funds on chain 9"));
        let reasons: Vec<&str> = gauges.hold_reasons().collect();
        assert_eq!(reasons, ["fee_cap", "no_funds"]);
        assert!(gauges.chains[0].to_string().starts_with("9: waiting for the disk, no block seen"));
    }

    #[test]
    fn every_contract_of_a_chain_is_told_with_how_far_it_is_read() {
        let beside = |cursor| ContractPosition {
            name: "ProtocolConfig".to_owned(),
            contract: "0x9c".to_owned(),
            cursor,
        };
        let gauges = |cursor| Gauges {
            head: Some(900),
            cursor: Some(868),
            beside: vec![beside(cursor)],
            ..Gauges::default()
        };
        let chain = ChainStatus {
            chain_id: 1,
            hosts: "e:8545".to_owned(),
            contract: "0x77".to_owned(),
            state: ChainState::Running,
            gauges: gauges(Some(860)),
        };
        assert_eq!(
            chain.to_string(),
            "1: running, block 900, 0 in hand; KMSGeneration at 0x77, read up to 868; ProtocolConfig at 0x9c, \
             read up to 860; by e:8545"
        );
        // The lag is that of the one that is furthest behind.
        assert_eq!((gauges(Some(860)).lag(), gauges(None).lag()), (Some(40), Some(32)));
        assert!(beside(None).to_string().ends_with("not read yet"));
    }
}

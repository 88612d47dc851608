//! Reads of one block of another chain, answered alike by as many of its endpoints as must agree.
//!
//! ```text
//! heads of the endpoints -> the newest block that enough of them have, and that is not old
//!     -> one message to each, pinned to that block's hash, side by side
//!     -> the same answer from enough of them
//!     -> else the same at the head of one that is a block behind
//!     -> else who contradicts whom, or who does not answer
//! ```
//!
//! An endpoint that stands still, is slow or fails is passed over as long as enough others are left. It
//! never decides how old the block may be: that is judged by the block's own time and our clock. Where more
//! than one must agree, they agree on the block's height and time too, and none of them holds the others back
//! at an older block, if there are more of them than must agree.

mod choice;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, TryFutureExt as _, future::try_join, stream::FuturesUnordered};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use self::choice::{Choice, Choices, NoChoice, Sight, choose};
use super::abi::ViewDecodeError;
use crate::{
    chain::{
        reader::{BlockId, ChainReader, Head, NodeId, ReadAt, StateRead},
        rpc_error::RpcError,
    },
    domain::{Address, BlockRef, Bytes, UntrustedText},
    time::clock::Clock,
};

/// After this time without enough answers one more endpoint is asked.
const NEXT_AFTER: Duration = Duration::from_secs(1);
/// Where several must agree and enough have told their heads, the others may take so long to tell theirs: an
/// endpoint that is quick may tell an old one.
const HEADS_WITHIN: Duration = Duration::from_millis(500);
/// For this long an endpoint that failed or was slow is asked after the others.
const ASKED_LAST_FOR: Duration = Duration::from_secs(15);

/// How a chain is read.
#[derive(Clone, Copy, Debug)]
pub struct PinnedOptions {
    pub chain_id: u64,
    /// How many endpoints must give the same answer; at least 1.
    pub agreement: usize,
    /// A block older than this is no answer.
    pub max_age: Duration,
    /// Deadline of a read, with all its calls.
    pub deadline: Duration,
    /// Messages to the chain's endpoints at the same time.
    pub calls: usize,
    pub clock: Clock,
}

/// One endpoint of a chain: a reader that asks it alone.
#[derive(Clone, Debug)]
pub struct ChainEndpoint<P> {
    pub reader: P,
    pub node: NodeId,
}

impl<P: ChainReader> ChainEndpoint<P> {
    /// This node of the provider.
    pub fn of(provider: &P, node: NodeId) -> Self {
        Self { reader: provider.for_node(node), node }
    }

    /// Host and port, for messages.
    #[must_use]
    pub fn host(&self) -> String {
        self.reader.host(self.node)
    }

    /// The newest head that it reported.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        *self.reader.heads().borrow()
    }

    /// Whether it is connected, of the right chain, and not behind the others.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.reader.node_sets().sound.contains(&self.node)
    }
}

/// Reads a chain at one block. Clones share the bound on calls.
#[derive(Clone, Debug)]
pub struct PinnedReader<P> {
    options: PinnedOptions,
    /// In order of preference.
    endpoints: Arc<[ChainEndpoint<P>]>,
    places: Arc<Semaphore>,
    /// Endpoints that failed or were slow, and when.
    troubled: Arc<Mutex<BTreeMap<usize, Instant>>>,
}

/// An endpoint's answer to one read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Returned(Bytes),
    /// Executed, and reverted or failed.
    Reverted(Bytes),
}

/// The answers of enough endpoints.
#[derive(Clone, Debug)]
pub(super) struct PinnedReplies {
    pub block: BlockRef,
    /// Of that block, in Unix seconds.
    pub timestamp: u64,
    /// Who gave them.
    pub hosts: Vec<String>,
    /// In the order of the reads. `None`: not enough endpoints agree, which happens only at
    /// [`ReadAt::Finalized`], where each has a block of its own.
    pub replies: Vec<Option<Reply>>,
}

/// Why a chain gives no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HostChainError {
    #[error(
        "the newest block of chain {chain_id} at {hosts} is {age_secs} s old, more than \
         {max_age_secs} s (or this machine's clock is wrong)"
    )]
    Stale { chain_id: u64, hosts: String, age_secs: u64, max_age_secs: u64 },
    #[error("nodes of chain {chain_id} contradict each other at block {block}: {hosts}")]
    Disagree { chain_id: u64, hosts: String, block: u64 },
    #[error("chain {chain_id}: {source}")]
    Unreachable { chain_id: u64, source: RpcError },
    #[error("no answer from chain {chain_id} within {secs} s: {hosts}")]
    TimedOut { chain_id: u64, hosts: String, secs: u64 },
    /// The URL leads to another chain.
    #[error("chain {chain_id}: {source}")]
    WrongChain { chain_id: u64, source: RpcError },
    #[error("there is no {contract} contract at {address} on chain {chain_id}: correct {key}")]
    NoContract { chain_id: u64, contract: &'static str, address: Address, key: &'static str },
    #[error("chain {chain_id}: {host} tells no finalized block")]
    NoFinalizedBlock { chain_id: u64, host: String },
    #[error("chain {chain_id}: {source}")]
    Unreadable { chain_id: u64, source: ViewDecodeError },
}

impl HostChainError {
    /// Stable, for holds, metrics and throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Stale { .. } => "host_chain_stale",
            Self::Disagree { .. } => "host_nodes_disagree",
            Self::Unreachable { .. } | Self::TimedOut { .. } => "host_chain_unreachable",
            Self::WrongChain { .. } => "host_chain_other",
            Self::NoContract { .. } => "host_chain_no_contract",
            Self::NoFinalizedBlock { .. } => "host_chain_not_final",
            Self::Unreadable { .. } => "host_chain_unreadable",
        }
    }

    /// Returns whether only another configuration helps.
    #[must_use]
    pub fn is_contradiction(&self) -> bool {
        match self {
            Self::WrongChain { .. } | Self::NoContract { .. } => true,
            Self::Stale { .. }
            | Self::Disagree { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::NoFinalizedBlock { .. }
            | Self::Unreadable { .. } => false,
        }
    }

    /// Returns whether other questions may be answered: a node refused these, or what it returned. If nothing is
    /// answered, the next look at the chain says so.
    #[must_use]
    pub fn may_concern_questions(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => {
                matches!(source, RpcError::Refused { .. } | RpcError::TooLarge { .. })
            }
            Self::Unreadable { .. } => true,
            Self::Stale { .. }
            | Self::Disagree { .. }
            | Self::TimedOut { .. }
            | Self::WrongChain { .. }
            | Self::NoContract { .. }
            | Self::NoFinalizedBlock { .. } => false,
        }
    }

    /// The error of a call to one of the chain's nodes.
    #[must_use]
    pub fn of(chain_id: u64, source: RpcError) -> Self {
        match source {
            RpcError::WrongChain { .. } | RpcError::WrongGenesis { .. } => {
                Self::WrongChain { chain_id, source }
            }
            source @ (RpcError::Unavailable { .. }
            | RpcError::Refused { .. }
            | RpcError::Unreadable { .. }
            | RpcError::RateLimited { .. }
            | RpcError::TooLarge { .. }) => Self::Unreachable { chain_id, source },
        }
    }
}

/// What was last seen of a host chain, for operators.
#[derive(Clone, Debug, Default)]
pub struct HostChainState {
    /// The contract's version. `None`: it has not answered yet, or tells none.
    pub version: Option<UntrustedText>,
    /// Why it gave no answer the last time it was asked. `None`: it did, or was not asked.
    pub error: Option<HostChainError>,
    /// The newest block that was read at, and its time in Unix seconds.
    pub newest: Option<(u64, u64)>,
}

/// Where the heads are from by which the block was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// The endpoints reported them by themselves, which may be a moment ago.
    OfKnownHeads,
    /// They were asked. There is another block, if they do not agree at this one.
    OfAskedHeads,
    /// There is none.
    Last,
}

impl Round {
    /// Whether endpoints that are slow at this block are left for another block, or for other endpoints that may
    /// have that. `is_heard`: one has answered here, so it is not that all are slow.
    fn may_go_on(self, choice: &Choice, endpoints: usize, is_heard: bool) -> bool {
        match self {
            Self::OfKnownHeads => choice.endpoints.len() < endpoints,
            Self::OfAskedHeads => is_heard,
            Self::Last => false,
        }
    }
}

impl<P: ChainReader> PinnedReader<P> {
    /// `endpoints`: at least `options.agreement`, in order of preference.
    #[must_use]
    pub fn new(options: PinnedOptions, endpoints: Vec<ChainEndpoint<P>>) -> Self {
        let places = Arc::new(Semaphore::new(options.calls.max(1)));
        Self { options, endpoints: endpoints.into(), places, troubled: Arc::default() }
    }

    #[must_use]
    pub fn options(&self) -> &PinnedOptions {
        &self.options
    }

    /// The same chain, where the answer of one endpoint is enough though there are others; two of them must
    /// agree here. `None`: they must already, or there is one.
    #[must_use]
    pub fn of_two(&self) -> Option<Self> {
        let is_one_of_several = self.options.agreement < 2 && self.endpoints.len() > 1;
        let options = PinnedOptions { agreement: 2, ..self.options };
        is_one_of_several.then(|| Self { options, ..self.clone() })
    }

    #[must_use]
    pub fn endpoints(&self) -> &[ChainEndpoint<P>] {
        &self.endpoints
    }

    /// Makes these reads at one block.
    pub(super) async fn read(
        &self,
        reads: &[(StateRead, ReadAt)],
    ) -> Result<PinnedReplies, HostChainError> {
        let PinnedOptions { chain_id, deadline, .. } = self.options;
        timeout(deadline, self.read_unbounded(reads)).await.unwrap_or_else(|_| {
            let hosts = self.hosts(0..self.endpoints.len());
            Err(HostChainError::TimedOut { chain_id, hosts, secs: deadline.as_secs() })
        })
    }

    async fn read_unbounded(
        &self,
        reads: &[(StateRead, ReadAt)],
    ) -> Result<PinnedReplies, HostChainError> {
        if let Ok(Choices { best, others }) = self.choose(&self.known_heads()) {
            match self.ask(&best, reads, Round::OfKnownHeads).await {
                // It may have left the block, or only one had it: what do they have now?
                Err(HostChainError::Unreachable { .. }) => {}
                // Who did not have the block yet, or is at another one, may decide between them.
                Err(HostChainError::Disagree { .. })
                    if best.endpoints.len() < self.endpoints.len() || !others.is_empty() => {}
                asked => return asked,
            }
        }
        let Choices { best, others } = self.choose_by_asking().await?;
        let round = |is_last| if is_last { Round::Last } else { Round::OfAskedHeads };
        let mut asked = self.ask(&best, reads, round(others.is_empty())).await;
        for (index, choice) in others.iter().enumerate() {
            let why = match asked {
                Err(
                    why @ (HostChainError::Unreachable { .. } | HostChainError::Disagree { .. }),
                ) => why,
                asked => return asked,
            };
            asked = self.ask(choice, reads, round(index + 1 == others.len())).await;
            // Who contradicts whom says more than who does not answer.
            if let (Err(HostChainError::Unreachable { .. }), HostChainError::Disagree { .. }) =
                (&asked, &why)
            {
                asked = Err(why);
            }
        }
        asked
    }

    /// The heads that the endpoints reported by themselves, in order of preference: sound ones first,
    /// and before those that failed lately.
    fn known_heads(&self) -> Vec<Sight> {
        let heads = self.endpoints.iter().enumerate();
        let heads = heads.filter_map(|(index, endpoint)| sight(index, &endpoint.head()?));
        let mut sights: Vec<Sight> = heads.collect();
        sights.sort_by_key(|one| {
            (self.is_troubled(one.endpoint), !self.endpoints[one.endpoint].is_sound())
        });
        sights
    }

    fn is_troubled(&self, endpoint: usize) -> bool {
        let troubled = self.troubled.lock().unwrap_or_else(PoisonError::into_inner);
        troubled.get(&endpoint).is_some_and(|at| at.elapsed() < ASKED_LAST_FOR)
    }

    fn note_trouble(&self, endpoint: usize, is_troubled: bool) {
        let mut troubled = self.troubled.lock().unwrap_or_else(PoisonError::into_inner);
        if is_troubled {
            troubled.insert(endpoint, Instant::now());
        } else {
            troubled.remove(&endpoint);
        }
    }

    fn choose(&self, sights: &[Sight]) -> Result<Choices, NoChoice> {
        let now = self.options.clock.unix_millis() / 1_000;
        choose(sights, self.options.agreement, now, self.options.max_age.as_secs())
    }

    /// Asks the endpoints for their heads until a block can be chosen. Those that failed lately are
    /// taken where there are not enough others.
    async fn choose_by_asking(&self) -> Result<Choices, HostChainError> {
        let ask = |endpoint: usize| async move {
            let Ok(_place) = self.places.acquire().await else { return (endpoint, Ok(None)) };
            (endpoint, self.endpoints[endpoint].reader.header(BlockId::Latest).await)
        };
        let mut asked: FuturesUnordered<_> = (0..self.endpoints.len()).map(ask).collect();
        let (mut sights, mut error) = (Vec::<Sight>::new(), None);
        let mut until = None;
        let none = loop {
            let told = match until {
                None => asked.next().await,
                Some(until) => timeout_at(until, asked.next()).await.ok().flatten(),
            };
            let is_last = told.is_none() || asked.is_empty();
            match told {
                Some((endpoint, Ok(head))) => {
                    sights.extend(head.and_then(|head| sight(endpoint, &head)));
                }
                Some((_, Err(why))) => _ = error.get_or_insert(why),
                None => {}
            }
            sights.sort_by_key(|one| (self.is_troubled(one.endpoint), one.endpoint));
            let others = sights.iter().filter(|one| !self.is_troubled(one.endpoint)).count();
            let is_enough = others >= self.options.agreement;
            if !is_last && is_enough && self.options.agreement > 1 {
                until.get_or_insert_with(|| Instant::now() + HEADS_WITHIN);
                continue;
            }
            if !is_last && !is_enough {
                continue;
            }
            match self.choose(&sights) {
                Ok(choices) => return Ok(choices),
                Err(why) if is_last => break why,
                Err(_) => {}
            }
        };
        let chain_id = self.options.chain_id;
        Err(match none {
            NoChoice::Stale { endpoints, age_secs } => HostChainError::Stale {
                chain_id,
                hosts: self.hosts(endpoints),
                age_secs,
                max_age_secs: self.options.max_age.as_secs(),
            },
            NoChoice::TooFew => {
                HostChainError::of(chain_id, error.unwrap_or_else(|| self.no_head()))
            }
        })
    }

    fn no_head(&self) -> RpcError {
        let host = self.hosts(0..self.endpoints.len());
        RpcError::Unavailable { host, what: "it tells no block with its time".to_owned().into() }
    }

    /// Asks as many endpoints as must agree side by side, and more as they fail or are slow.
    async fn ask(
        &self,
        choice: &Choice,
        reads: &[(StateRead, ReadAt)],
        round: Round,
    ) -> Result<PinnedReplies, HostChainError> {
        let PinnedOptions { chain_id, agreement, .. } = self.options;
        let mut waiting = choice.endpoints.iter().copied();
        let ask = |endpoint: usize| {
            let asking = self.ask_one(endpoint, choice, reads);
            async move { (endpoint, asking.await) }
        };
        let mut asked: FuturesUnordered<_> = waiting.by_ref().take(agreement).map(ask).collect();
        let mut pending: BTreeSet<usize> =
            choice.endpoints.iter().copied().take(agreement).collect();
        let (mut votes, mut first_error) = (Vec::<Vote>::new(), None);
        let (mut deny_block, mut contradict) = (Vec::new(), Vec::new());
        let mut next_at = Instant::now() + NEXT_AFTER;
        while !asked.is_empty() {
            let (endpoint, told) = tokio::select! {
                biased;
                Some(told) = asked.next() => told,
                () = sleep_until(next_at) => {
                    for endpoint in &pending {
                        self.note_trouble(*endpoint, true);
                    }
                    let next = waiting.next();
                    let is_heard = !votes.is_empty() || first_error.is_some() || !contradict.is_empty();
                    if next.is_none() && round.may_go_on(choice, self.endpoints.len(), is_heard) {
                        break;
                    }
                    pending.extend(next);
                    asked.extend(next.map(ask));
                    next_at = Instant::now() + NEXT_AFTER;
                    continue;
                }
            };
            pending.remove(&endpoint);
            let is_lost = told.is_err();
            self.note_trouble(endpoint, is_lost);
            if is_lost && agreement > 1 && endpoint != choice.told_by {
                deny_block.push(endpoint);
            }
            match told {
                Ok(replies) => votes.push(Vote { endpoint, replies }),
                Err(NoVote::Failed(error)) => _ = first_error.get_or_insert(error),
                Err(NoVote::TellsAnother) => contradict.push(endpoint),
            }
            if let Some((by, replies)) = agreed(&votes, reads, agreement) {
                let Choice { block, timestamp, .. } = *choice;
                let hosts = by.into_iter().map(|endpoint| self.endpoints[endpoint].host());
                return Ok(PinnedReplies { block, timestamp, hosts: hosts.collect(), replies });
            }
            if is_lost || votes.len() >= agreement {
                let next = waiting.next();
                pending.extend(next);
                asked.extend(next.map(ask));
            }
        }
        if !deny_block.is_empty() {
            // Who told the block is asked last for a while, not those who know another one.
            for endpoint in deny_block {
                self.note_trouble(endpoint, false);
            }
            self.note_trouble(choice.told_by, true);
        }
        // Before that is said, who told the block is asked last once.
        if !contradict.is_empty() && round != Round::OfKnownHeads {
            let hosts = self.hosts(std::iter::once(choice.told_by).chain(contradict));
            return Err(HostChainError::Disagree { chain_id, hosts, block: choice.block.number });
        }
        if votes.len() >= agreement && votes.len() > 1 {
            let hosts = self.hosts(votes.into_iter().map(|vote| vote.endpoint));
            return Err(HostChainError::Disagree { chain_id, hosts, block: choice.block.number });
        }
        let error = first_error.unwrap_or_else(|| RpcError::Unavailable {
            host: self.hosts(pending),
            what: "no answer in time".to_owned().into(),
        });
        Err(HostChainError::of(chain_id, error))
    }

    /// One endpoint's answers. A refused pinned read makes the whole no answer.
    async fn ask_one(
        &self,
        endpoint: usize,
        choice: &Choice,
        reads: &[(StateRead, ReadAt)],
    ) -> Result<Vec<Option<Reply>>, NoVote> {
        let Ok(_place) = self.places.acquire().await else { return Err(self.no_head().into()) };
        let reading = self.endpoints[endpoint].reader.read_state(choice.block, reads);
        let reading = reading.map_err(NoVote::Failed);
        let (told, ()) = try_join(reading, self.confirm_block(endpoint, choice)).await?;
        let replies = told.into_iter().zip(reads).map(|(told, (_, at))| match told {
            Ok(returned) => Ok(Some(Reply::Returned(returned))),
            Err(error) => match (error.failed_execution(), at) {
                (Some(data), _) => Ok(Some(Reply::Reverted(data))),
                (None, ReadAt::Pinned) => Err(error.into()),
                (None, ReadAt::Finalized) => Ok(None),
            },
        });
        replies.collect()
    }

    /// Checks that this endpoint has the block at the same height and with the same time, where the word of
    /// one endpoint is not enough: what is valid until when is judged by that time.
    async fn confirm_block(&self, endpoint: usize, choice: &Choice) -> Result<(), NoVote> {
        if self.options.agreement < 2 || endpoint == choice.told_by {
            return Ok(());
        }
        let one = &self.endpoints[endpoint];
        let head = one.reader.header(BlockId::Hash(choice.block.hash)).await?;
        match head {
            Some(head)
                if head.block == choice.block && head.timestamp == Some(choice.timestamp) =>
            {
                Ok(())
            }
            Some(_) => Err(NoVote::TellsAnother),
            None => {
                let teller = self.endpoints[choice.told_by].host();
                let what = format!("it does not have the block that {teller} is at");
                Err(RpcError::Unavailable { host: one.host(), what: what.into() }.into())
            }
        }
    }

    fn hosts(&self, of: impl IntoIterator<Item = usize>) -> String {
        let hosts: Vec<String> =
            of.into_iter().map(|endpoint| self.endpoints[endpoint].host()).collect();
        hosts.join(", ")
    }
}

fn sight(endpoint: usize, head: &Head) -> Option<Sight> {
    Some(Sight { endpoint, block: head.block, timestamp: head.timestamp? })
}

/// Why an endpoint has no vote.
#[derive(Debug)]
enum NoVote {
    /// It does not answer, or does not have the block or its state.
    Failed(RpcError),
    /// It has the block at another height, or with another time, than the endpoint that told it.
    TellsAnother,
}

impl From<RpcError> for NoVote {
    fn from(error: RpcError) -> Self {
        Self::Failed(error)
    }
}

/// One endpoint's answers.
#[derive(Clone, Debug)]
struct Vote {
    endpoint: usize,
    replies: Vec<Option<Reply>>,
}

/// The answers that enough endpoints give, and who gives them: the same ones to all pinned reads. `None`:
/// not enough agree.
fn agreed(
    votes: &[Vote],
    reads: &[(StateRead, ReadAt)],
    agreement: usize,
) -> Option<(Vec<usize>, Vec<Option<Reply>>)> {
    let agrees = |one: &Vote, other: &Vote| {
        let pinned = reads.iter().enumerate().filter(|(_, (_, at))| *at == ReadAt::Pinned);
        let mut pinned = pinned.map(|(index, _)| index);
        pinned.all(|index| one.replies.get(index) == other.replies.get(index))
    };
    let group = |one: &Vote| votes.iter().filter(|other| agrees(one, other)).collect::<Vec<_>>();
    let group = votes.iter().map(group).find(|group| group.len() >= agreement)?;
    let reply = |(index, (_, at)): (usize, &(StateRead, ReadAt))| {
        let told = || group.iter().filter_map(|vote| vote.replies.get(index)?.as_ref());
        let is_enough = |reply: &&Reply| told().filter(|other| other == reply).count() >= agreement;
        match at {
            ReadAt::Pinned => told().next().cloned(),
            ReadAt::Finalized => told().find(is_enough).cloned(),
        }
    };
    let replies = reads.iter().enumerate().map(reply).collect();
    Some((group.iter().map(|vote| vote.endpoint).collect(), replies))
}

#[cfg(test)]
mod tests;

//! PROVIDER: the layer that talks to the Gateway chain's node. It moves bytes, knows addresses and
//! deadlines, and knows nothing of requests.
//!
//! The WebSocket (or, over http, a poll) is a source of wake-ups and headers, never of truth: what
//! happened on chain is always read by block hash or by range. The library's own reconnect is
//! switched off, because it re-issues calls and re-subscribes without saying so: here a lost
//! connection is a new [`Head::connection`] number, and whoever needs continuity re-reads.
//!
//! Several endpoints are one provider: reads go to one of them ([`choice`]), a call that fails to
//! another within its deadline, raw transactions to all at once.
//!
//! URLs hold API keys: every text that leaves this module names the host and nothing else.

mod arbitrum;
mod batches;
mod bounds;
pub mod choice;
mod client;
pub mod connection;
pub mod endpoint;
pub mod endpoints;
mod fan;
mod head;
mod hearing;
mod history;
mod http;
mod identity;
mod message;
mod nodes;
mod pace;
pub mod quirks;
mod raw;
mod sends;
mod socket;
mod told;
mod unanswered;

use std::time::Duration;

use tokio::sync::watch;

pub use self::{
    arbitrum::ArbitrumProvider,
    hearing::{Hearing, are_all},
    identity::Beginning,
    quirks::TooMuch,
    told::{Emitted, Told, Way},
};
use crate::domain::{Address, B256, BlockRef, Bytes, Event, OutsideText, U256};

/// How long one call may take, connection included.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// A block's header, as far as the connector needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub block: BlockRef,
    pub parent: B256,
    /// Which logs the block may hold; `None`: the node does not say.
    pub bloom: Option<alloy::primitives::Bloom>,
    /// Wei per gas; `None` before EIP-1559.
    pub base_fee: Option<u128>,
    /// How much gas a block takes, as the node tells it ([`Self::takes`]); `None`: it does not say.
    pub gas_limit: Option<u64>,
    /// Counts the connections made so far: another number means heads may have been missed.
    pub connection: u64,
    /// The node that told it.
    pub by: NodeId,
}

/// No chain's blocks take less gas.
const SMALL_BLOCK: u64 = 5_000_000;

impl Head {
    /// How much gas its block takes, as far as what the node says makes sense.
    #[must_use]
    pub fn takes(&self) -> Option<u64> {
        self.gas_limit.filter(|gas| *gas >= SMALL_BLOCK)
    }
}

/// Which block a read is asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Latest,
    Safe,
    Finalized,
    Number(u64),
    Hash(B256),
}

/// Which logs to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRange {
    /// One block by hash: a node that does not know it answers an error, never an empty list.
    Block(B256),
    /// Both ends included.
    Numbers { from: u64, to: u64 },
}

/// A range of blocks as one node showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Headers of the first and the last block; `None`: the node does not know it.
    pub first: Option<Head>,
    pub last: Option<Head>,
    pub events: Vec<Event>,
    pub by: NodeId,
}

/// A receipt, as far as the connector needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub hash: B256,
    pub block: BlockRef,
    pub success: bool,
    pub gas_used: u64,
    /// Wei per gas, as it was charged.
    pub gas_price: u128,
}

/// A transaction-like call for `eth_call` and `eth_estimateGas`.
#[derive(Clone, Debug)]
pub struct Call {
    pub from: Option<Address>,
    pub to: Address,
    pub data: Bytes,
}

/// A mined transaction, as far as it tells what somebody did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub hash: B256,
    pub to: Option<Address>,
    pub input: Bytes,
}

/// Which logs: of this contract, with one of `first` as their first topic; and with one of `second` as
/// their second, if there are any.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'t> {
    pub address: Address,
    pub first: &'t [B256],
    pub second: &'t [B256],
}

/// How the nodes of a provider stand.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The sound nodes ([`choice`]), the one that is read from first, and those that go on below a head
    /// which only others have; where none is sound, those that are connected. Whoever weighs one node's
    /// word asks the others by [`ChainReader::only`].
    pub sound: Vec<NodeId>,
    /// Blocks come from these, as new as blocks are by their own time: what one of them does not have yet
    /// may not be there.
    pub going_on: Vec<NodeId>,
    /// Those not known to be of another chain, in whatever state: before something ends on the words of
    /// nodes, theirs are to be heard.
    pub voters: Vec<NodeId>,
    /// How many there are, in whatever state.
    pub count: usize,
}

/// What became of a transaction that a node took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A node has it.
    Accepted,
    /// It is in a block already.
    Mined(Receipt),
}

/// Why a call to the node gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// No answer: not connected, cut, timed out, overloaded. What the node did is unknown.
    #[error("no answer from {host}: {what}")]
    Unavailable { host: String, what: OutsideText },
    /// The node answered with a JSON-RPC error.
    #[error("{host} answered error {code}: {message}")]
    Refused { host: String, code: i64, message: OutsideText, data: Option<Bytes> },
    /// Behind the URL is another chain than the configured one. Nothing is read or sent.
    #[error("{host} serves chain id {found}, the configuration says chain_id = {expected}")]
    WrongChain { host: String, expected: u64, found: u64 },
    /// Behind the URL is another chain of the same id: its block 0 is another one.
    #[error("{host} is of another chain: its block 0 is {found}, and not {expected}")]
    WrongGenesis { host: String, expected: B256, found: B256 },
    /// The node answered something that is not an answer to the question.
    #[error("{host} gave an unreadable answer: {what}")]
    Unreadable { host: String, what: OutsideText },
    /// It is asked too often, or will be back later: it did not look at the question.
    #[error("{host} is asked too often: {what}")]
    Busy { host: String, what: OutsideText },
    /// The answer has more than so many bytes, and was not read: no legal one of a single block has.
    #[error("{host} answered more than {} MiB", bound.div_ceil(1 << 20))]
    TooLarge { host: String, bound: usize },
}

impl RpcError {
    /// Stable, for counting and throttling; of a refusal what it means, where that is known.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Busy { .. } => "busy",
            Self::Refused { code, message, .. } => quirks::code(*code, message),
            Self::WrongChain { .. } | Self::WrongGenesis { .. } => "wrong_chain",
            Self::Unreadable { .. } => "unreadable",
            Self::TooLarge { .. } => "too_large",
        }
    }

    /// The node is asked too often, whatever the question was: it is left alone for a while.
    #[must_use]
    pub fn is_too_often(&self) -> bool {
        match self {
            Self::Busy { .. } => true,
            Self::Refused { code, message, .. } => quirks::is_too_often(*code, message),
            Self::Unavailable { .. }
            | Self::WrongChain { .. }
            | Self::WrongGenesis { .. }
            | Self::Unreadable { .. }
            | Self::TooLarge { .. } => false,
        }
    }

    /// The node has no time: the same question may be answered later.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is_too_often()
            || matches!(self, Self::Refused { code, message, .. }
                if quirks::refusal(*code, message) == quirks::Refusal::Busy)
    }

    /// Whether the node says that it dropped the state of an earlier block.
    #[must_use]
    pub fn has_no_state(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if quirks::has_no_state(message))
    }

    /// Whether an answer about fewer blocks may be given, and why.
    #[must_use]
    pub fn too_much(&self) -> Option<TooMuch> {
        match self {
            Self::Refused { code, message, .. } => quirks::too_much(*code, message),
            Self::TooLarge { .. } => Some(TooMuch::Results),
            Self::Unavailable { .. }
            | Self::WrongChain { .. }
            | Self::WrongGenesis { .. }
            | Self::Unreadable { .. }
            | Self::Busy { .. } => None,
        }
    }

    /// The data of a revert, if the node executed the call and it reverted. Empty data means the
    /// revert had no reason.
    #[must_use]
    pub fn revert_data(&self) -> Option<Bytes> {
        match self {
            Self::Refused { code, message, data, .. } => quirks::is_revert(*code, message)
                .then(|| data.clone().unwrap_or_default())
                .or_else(|| data.clone().filter(|data| data.len() >= 4)),
            Self::Unavailable { .. }
            | Self::WrongChain { .. }
            | Self::WrongGenesis { .. }
            | Self::Unreadable { .. }
            | Self::Busy { .. }
            | Self::TooLarge { .. } => None,
        }
    }
}

/// One of the nodes (endpoints) of a provider, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// What is read of a chain. [`ArbitrumProvider`] is the real one.
///
/// A question goes to the node that is read from, and where it does not answer to the next one; of
/// [`Self::only`] to one alone.
pub trait ChainReader: Clone + Send + Sync + 'static {
    fn standing(&self) -> Standing;
    /// The same chain, asked of this node alone: no other one answers in its place.
    #[must_use]
    fn only(&self, node: NodeId) -> Self;
    /// What operators know the node by.
    fn host(&self, node: NodeId) -> String;
    /// The newest head, and a wake-up at each change. `None` until the first one was seen.
    fn heads(&self) -> watch::Receiver<Option<Head>>;

    /// The header of a block; `None` if the node does not know it.
    fn header(&self, at: At) -> impl Future<Output = Result<Option<Head>, RpcError>> + Send;
    /// In chain order.
    fn logs(
        &self,
        filter: Filter<'_>,
        range: LogRange,
    ) -> impl Future<Output = Result<Told<Vec<Event>>, RpcError>> + Send;
    /// The logs of a range, with the headers of its ends, asked in one message: behind one URL may
    /// be many nodes, and what one of them knows proves nothing of another's logs.
    fn logs_between(
        &self,
        filter: Filter<'_>,
        from: u64,
        to: u64,
    ) -> impl Future<Output = Result<Range, RpcError>> + Send;
    /// Every log of a block, whoever emitted it: what a header's bloom is made of.
    fn block_logs(
        &self,
        block: B256,
        way: Way,
    ) -> impl Future<Output = Result<Told<Vec<Emitted>>, RpcError>> + Send;
    /// The logs in a transaction's receipt; `None`: the node has none.
    fn emitted_by(
        &self,
        transaction: B256,
    ) -> impl Future<Output = Result<Option<Vec<Emitted>>, RpcError>> + Send;
    /// The transactions of the block with this hash; `None`: the node does not know it.
    fn block_transactions(
        &self,
        block: B256,
    ) -> impl Future<Output = Result<Option<Vec<B256>>, RpcError>> + Send;
    /// Receipts by transaction hash, in the order asked; `None` where the node has none.
    fn receipts(
        &self,
        hashes: &[B256],
    ) -> impl Future<Output = Result<Vec<Option<Receipt>>, RpcError>> + Send;
    fn call(&self, call: &Call, at: At) -> impl Future<Output = Result<Bytes, RpcError>> + Send;
    /// Several calls of one node, and what each came to, in their order.
    fn calls(
        &self,
        calls: &[Call],
        at: At,
    ) -> impl Future<Output = Result<Vec<Result<Bytes, RpcError>>, RpcError>> + Send;
    fn code_size(&self, address: Address) -> impl Future<Output = Result<usize, RpcError>> + Send;
    /// Who sent each of these transactions; `None` where the node does not know it.
    fn senders(
        &self,
        transactions: &[B256],
    ) -> impl Future<Output = Result<Vec<Option<Address>>, RpcError>> + Send;
    /// How many transactions of `sender` are mined up to each of these blocks; `None` where the node
    /// has thrown the state of the block away.
    fn counts_at(
        &self,
        sender: Address,
        blocks: &[u64],
    ) -> impl Future<Output = Result<Vec<Option<u64>>, RpcError>> + Send;
    /// The transactions of `sender` in these blocks.
    fn transactions_of(
        &self,
        sender: Address,
        blocks: &[u64],
    ) -> impl Future<Output = Result<Vec<Transaction>, RpcError>> + Send;

    /// See [`Standing::sound`].
    fn sound_nodes(&self) -> Vec<NodeId> {
        self.standing().sound
    }
    /// See [`Standing::going_on`].
    fn goes_on(&self, node: NodeId) -> bool {
        self.standing().going_on.contains(&node)
    }
    /// See [`Standing::voters`].
    fn voters(&self) -> Vec<NodeId> {
        self.standing().voters
    }
    fn node_count(&self) -> usize {
        self.standing().count
    }
}

/// What a wallet needs of a chain beside reading it.
pub trait TransactionSender: ChainReader {
    fn balance(&self, address: Address) -> impl Future<Output = Result<U256, RpcError>> + Send;
    /// Transactions mined from `address` up to a block: its next nonce after that.
    fn transaction_count(
        &self,
        address: Address,
        at: At,
    ) -> impl Future<Output = Result<u64, RpcError>> + Send;
    /// Wei per gas the node suggests as a tip.
    fn priority_fee(&self) -> impl Future<Output = Result<u128, RpcError>> + Send;
    fn estimate_gas(&self, call: &Call) -> impl Future<Output = Result<u64, RpcError>> + Send;
    /// Hands a transaction to every node. One acceptance is enough, and "already known" is one. A
    /// refusal comes back only if every node has proved that it did not take it. `waits`: a moment for
    /// the receipt, where a node offers that (EIP-7966).
    fn send(&self, raw: &Bytes, waits: bool)
    -> impl Future<Output = Result<Sent, RpcError>> + Send;
}

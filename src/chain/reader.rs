//! The port that a chain is read through, and the words of what is read. [`super::provider`] implements it.

mod attributed;

use tokio::sync::watch;

pub use self::attributed::{Attributed, EmittedLog, LogSource};
use super::rpc_error::RpcError;
use crate::domain::{Address, B256, BlockRef, Bytes, Event, U256};

/// A block header, reduced to what the connector needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub block: BlockRef,
    pub parent: B256,
    /// Which logs the block may contain. `None`: the node does not say.
    pub bloom: Option<alloy::primitives::Bloom>,
    /// Wei per gas; `None` before EIP-1559.
    pub base_fee: Option<u128>,
    /// The block's gas limit as reported; see [`Self::plausible_gas_limit`]. `None`: the node does not say.
    pub gas_limit: Option<u64>,
    /// When the block was made, in Unix seconds. `None`: the node does not say.
    pub timestamp: Option<u64>,
    /// Number of the connection: a new number means that heads may have been missed.
    pub connection: u64,
    /// The node that reported it.
    pub node: NodeId,
}

/// Every chain's gas limit is at least this.
const LOWEST_BLOCK_GAS_LIMIT: u64 = 5_000_000;

impl Head {
    /// The block's gas limit, if the reported value is plausible.
    #[must_use]
    pub fn plausible_gas_limit(&self) -> Option<u64> {
        self.gas_limit.filter(|gas| *gas >= LOWEST_BLOCK_GAS_LIMIT)
    }
}

/// The block that a read refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockId {
    Latest,
    Safe,
    Finalized,
    Number(u64),
    Hash(B256),
}

/// Which blocks to read logs from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRange {
    /// One block by hash: a node that does not know it returns an error, never an empty list.
    Block(B256),
    /// Both ends inclusive.
    Numbers { from: u64, to: u64 },
}

/// The logs of a range of blocks, from one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeLogs {
    /// Headers of the first and the last block. `None`: the node does not know the block.
    pub first_head: Option<Head>,
    pub last_head: Option<Head>,
    pub events: Vec<Event>,
    pub node: NodeId,
}

/// A receipt, reduced to what the connector needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub hash: B256,
    pub block: BlockRef,
    pub success: bool,
    pub gas_used: u64,
    /// The price paid, in wei per gas.
    pub gas_price: u128,
}

/// Parameters of `eth_call` and `eth_estimateGas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EthCall {
    pub from: Option<Address>,
    pub to: Address,
    pub data: Bytes,
    /// The most gas that the call may use. `None`: the node's own bound.
    pub gas: Option<u64>,
}

impl EthCall {
    /// A call of a view, of nobody.
    #[must_use]
    pub fn view(to: Address, data: Bytes) -> Self {
        Self { from: None, to, data, gas: None }
    }
}

/// A read of a chain's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateRead {
    Call(EthCall),
    /// The code at an address; empty without a contract.
    Code(Address),
    /// A word of a contract's storage.
    Slot {
        address: Address,
        slot: U256,
    },
}

/// The block of a [`StateRead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAt {
    /// The block that all reads are pinned to.
    Pinned,
    /// The block that the node calls finalized.
    Finalized,
}

/// A transaction, reduced to what the connector needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub hash: B256,
    /// The contract that it calls. `None`: it creates one.
    pub to: Option<Address>,
    pub input: Bytes,
    /// The block that contains it. `None`: none yet.
    pub block: Option<BlockRef>,
}

/// Which logs: of these contracts, with one of `topic0` as their first topic, if there are any; and with one
/// of `topic1` as their second, if there are any.
#[derive(Clone, Copy, Debug)]
pub struct LogFilter<'t> {
    pub addresses: &'t [Address],
    pub topic0: &'t [B256],
    pub topic1: &'t [B256],
}

impl LogFilter<'_> {
    /// Whether a log with this first topic is wanted. `None`: it has no topics.
    #[must_use]
    pub fn wants(self, first: Option<&B256>) -> bool {
        self.topic0.is_empty() || first.is_some_and(|first| self.topic0.contains(first))
    }
}

/// The nodes of a provider by state.
#[derive(Clone, Debug, Default)]
pub struct NodeSets {
    /// The sound nodes ([`selection`](super::provider::selection)), starting with the one that is read from, then those that advance
    /// below a head that only others have. If none is sound, all connected ones. To compare nodes, ask
    /// each by [`ChainReader::for_node`].
    pub sound: Vec<NodeId>,
    /// Nodes that advance: their newest blocks are recent by the block's own timestamp. A block that
    /// such a node does not have may not exist.
    pub advancing: Vec<NodeId>,
    /// All nodes not known to be of another chain, connected or not. A decision against a request needs
    /// all of them.
    pub voters: Vec<NodeId>,
    /// Number of configured nodes.
    pub count: usize,
}

/// A node (endpoint) of a provider, by its position in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// Reads a chain. [`ArbitrumProvider`](super::provider::ArbitrumProvider) is the real implementation.
///
/// A call goes to the node that is read from, and to the next one if that fails. A reader from
/// [`Self::for_node`] asks a single node.
pub trait ChainReader: Clone + Send + Sync + 'static {
    fn node_sets(&self) -> NodeSets;
    /// The same chain as seen by this node alone, without failover.
    #[must_use]
    fn for_node(&self, node: NodeId) -> Self;
    /// The node's name for operators: host and port.
    fn host(&self, node: NodeId) -> String;
    /// The newest head; the receiver wakes at each change. `None` before the first head. A reader of a
    /// single node gives that node's own, whether or not it is connected now.
    fn heads(&self) -> watch::Receiver<Option<Head>>;

    /// The header of a block. `None`: the node does not know the block.
    fn header(&self, at: BlockId) -> impl Future<Output = Result<Option<Head>, RpcError>> + Send;
    /// In chain order.
    fn logs(
        &self,
        filter: LogFilter<'_>,
        range: LogRange,
    ) -> impl Future<Output = Result<Attributed<Vec<Event>>, RpcError>> + Send;
    /// The logs of a range with the headers of its ends, read in one message if possible: several nodes
    /// may be behind one URL, and what one of them knows proves nothing about another one's logs.
    fn logs_between(
        &self,
        filter: LogFilter<'_>,
        from: u64,
        to: u64,
    ) -> impl Future<Output = Result<RangeLogs, RpcError>> + Send;
    /// All logs of a block, of every contract: the logs that its bloom covers.
    fn block_logs(
        &self,
        block: B256,
        way: LogSource,
    ) -> impl Future<Output = Result<Attributed<Vec<EmittedLog>>, RpcError>> + Send;
    /// The logs in a transaction's receipt. `None`: the node has no receipt.
    fn receipt_logs(
        &self,
        transaction: B256,
    ) -> impl Future<Output = Result<Option<Vec<EmittedLog>>, RpcError>> + Send;
    /// Hashes of the transactions in the block with this hash. `None`: the node does not know the block.
    fn block_transactions(
        &self,
        block: B256,
    ) -> impl Future<Output = Result<Option<Vec<B256>>, RpcError>> + Send;
    /// Receipts by transaction hash, in the order asked. `None`: the node has none.
    fn receipts(
        &self,
        hashes: &[B256],
    ) -> impl Future<Output = Result<Vec<Option<Receipt>>, RpcError>> + Send;
    fn call(
        &self,
        call: &EthCall,
        at: BlockId,
    ) -> impl Future<Output = Result<Bytes, RpcError>> + Send;
    /// Several calls at one node; their results in order.
    fn calls(
        &self,
        calls: &[EthCall],
        at: BlockId,
    ) -> impl Future<Output = Result<Vec<Result<Bytes, RpcError>>, RpcError>> + Send;
    /// Reads of state at one node, pinned to one block by its hash; their results in order. An error of
    /// the whole: the node did not answer. A node that does not have the block or its state, or that is
    /// not on that block's chain any more, refuses each pinned read.
    fn read_state(
        &self,
        block: BlockRef,
        reads: &[(StateRead, ReadAt)],
    ) -> impl Future<Output = Result<Vec<Result<Bytes, RpcError>>, RpcError>> + Send;
    /// A transaction by its hash. `None`: the node does not know it.
    fn transaction(
        &self,
        hash: B256,
    ) -> impl Future<Output = Result<Option<Transaction>, RpcError>> + Send;
    fn code_size(&self, address: Address) -> impl Future<Output = Result<usize, RpcError>> + Send;
    /// Sender of each transaction. `None`: the node does not know it.
    fn senders(
        &self,
        transactions: &[B256],
    ) -> impl Future<Output = Result<Vec<Option<Address>>, RpcError>> + Send;
    /// Number of transactions of `sender` mined up to each block. `None`: the node has dropped the state
    /// of that block.
    fn transaction_counts_at(
        &self,
        sender: Address,
        blocks: &[u64],
    ) -> impl Future<Output = Result<Vec<Option<u64>>, RpcError>> + Send;
    /// Transactions of `sender` in these blocks.
    fn transactions_from(
        &self,
        sender: Address,
        blocks: &[u64],
    ) -> impl Future<Output = Result<Vec<Transaction>, RpcError>> + Send;

    /// See [`NodeSets::sound`].
    fn sound_nodes(&self) -> Vec<NodeId> {
        self.node_sets().sound
    }
    /// See [`NodeSets::advancing`].
    fn is_advancing(&self, node: NodeId) -> bool {
        self.node_sets().advancing.contains(&node)
    }
    /// See [`NodeSets::voters`].
    fn voters(&self) -> Vec<NodeId> {
        self.node_sets().voters
    }
    fn node_count(&self) -> usize {
        self.node_sets().count
    }
}

//! A chain in memory for unit tests of stages and lane: it forks, lags, hides, loses and refuses as told,
//! call by call. The chain driven by a seed, with a real contract, is in `instance::simulation`.

mod answers;
mod answer_history;
mod mempool;
pub(crate) mod host;

pub(crate) use self::mempool::PoolRules;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy::{
    primitives::{Bloom, BloomInput, keccak256},
    sol_types::SolValue as _,
};
use tokio::sync::watch;

use crate::contracts::{abi, decryption::Addresses};
use crate::{
    chain::{
        reader::{BlockId, EmittedLog, Head, NodeId, Receipt, Transaction},
        rpc_error::RpcError,
    },
    domain::{Address, B256, BlockRef, Bytes, Event, RequestSource, U256},
    time::clock,
};

/// What events say that the contract does not know.
const FORGED: u8 = 0xff;

pub(crate) const CONTRACT: Address = Address::repeat_byte(0xdc);
/// What stands there.
pub(crate) const SOURCE: RequestSource = RequestSource { chain_id: 1, contract: CONTRACT };
pub(crate) const ADDRESSES: Addresses =
    Addresses { chain_id: SOURCE.chain_id, decryption: CONTRACT, gateway_config: Address::ZERO };

#[derive(Clone, Debug)]
struct Block {
    head: Head,
    events: Vec<Event>,
    /// Logs of other contracts.
    others: Vec<EmittedLog>,
}

/// How a node reports blooms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Blooms {
    #[default]
    AsTheyAre,
    Missing,
    Full,
    Empty,
}

/// What the node does with the next raw transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SendBehavior {
    #[default]
    Accept,
    /// Accepts it and does not answer.
    TakeSilently,
    /// Neither accepts it nor answers.
    Lose,
    Refuse(&'static str),
}

/// A transaction in the pool.
#[derive(Clone, Copy, Debug)]
struct Pooled {
    hash: B256,
    gas_limit: u64,
    max_fee: u128,
    tip: u128,
}

/// How one node differs from the others.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a lie of its own")]
pub(crate) struct NodeFaults {
    /// Its log index is broken: it shows no logs.
    pub hides_logs: bool,
    /// Its logs say this instead ([`request_data`]).
    pub rewrites: Option<u8>,
    /// It does not offer the receipts of a block.
    pub no_block_receipts: bool,
    pub blooms: Blooms,
    /// Refuses the logs of a block with this error.
    pub no_block_logs: Option<(i64, &'static str)>,
    /// Refuses longer ranges with this error.
    pub block_range_limit: Option<(u64, i64, &'static str)>,
    /// Shows no events, neither in logs nor in receipts.
    pub hides_events: bool,
    /// Answers nothing.
    pub is_silent: bool,
    /// Not connected.
    pub is_disconnected: bool,
    /// Delay of logs of a block or a range.
    pub slow_logs: Duration,
    /// Reports logs as of this block.
    pub misplaces: Option<u64>,
    /// The block of the tags `safe` and `finalized`; `None`: as elsewhere.
    pub tagged: Option<u64>,
    /// It has no blocks from here on.
    pub lags_from: Option<u64>,
    /// Its head counts as recent.
    pub is_advancing: bool,
    pub transaction_count: Option<u64>,
    pub priority_fee: Option<u128>,
    pub base_fee: Option<u128>,
    pub estimate: Option<u64>,
    /// Shown as the time of every block.
    pub shows_time: Option<u64>,
    /// Shown in place of the block of its height.
    pub shows_block: Option<BlockRef>,
    /// Shown beside the real events.
    pub forges: Vec<Event>,
    /// Shown in ranges although their block has left the chain.
    pub stale: Vec<Event>,
    /// Senders that the contract lists for every request.
    pub lists: Option<Vec<Address>>,
    /// The contract's answer to a response call; `None`: unchanged.
    pub verdict: Option<Bytes>,
    /// Shown in place of any transaction that is asked for.
    pub shows_transaction: Option<Transaction>,
    /// Results of views, by calldata.
    pub views: Vec<(Bytes, Bytes)>,
    /// Delay of reads of state.
    pub slow_state: Duration,
    /// Delay of headers.
    pub slow_header: Duration,
    /// It has no receipts.
    pub no_receipts: bool,
    /// Reports every transaction as successful in this block.
    pub receipts_in: Option<BlockRef>,
    /// Reports every transaction as reverted.
    pub reverts: bool,
    /// Reported gas limit of blocks.
    pub block_gas: Option<u64>,
}

/// State of the chain and its nodes, their faults, and the calls made. One node per entry of `faults`.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a lie of its own")]
pub(crate) struct FakeChainState {
    /// One per node.
    pub faults: Vec<NodeFaults>,
    chain: Vec<Block>,
    forks: u64,
    /// Blocks whose logs are hidden this many times, however they are asked for.
    pub hidden: HashMap<u64, usize>,
    /// Blocks whose logs are missing in ranges.
    pub missing_in_ranges: HashSet<u64>,
    /// At most this many logs of a block are shown.
    pub shows_at_most: Option<usize>,
    /// Headers from here on are unknown.
    pub lags_from: Option<u64>,
    /// State below this block is dropped.
    pub no_state_below: Option<u64>,
    /// Calls are answered by another node behind the same URL that has no blocks from here on.
    pub calls_know_below: Option<u64>,
    /// Every other range is answered by a node that knows only the blocks up to here.
    pub other_knows: Option<u64>,
    pub others_turn: bool,
    /// The block of the tags `safe` and `finalized`.
    pub tagged: Option<u64>,
    /// Blooms show no logs.
    pub empty_blooms: bool,
    /// Longer ranges are refused, or not answered.
    pub longest_range: Option<(u64, bool)>,
    /// Logs of a range come twice and in the wrong order.
    pub is_shuffling_ranges: bool,
    /// There is a GatewayConfig contract, whose answers are unreadable.
    pub has_registry: bool,
    pub calls: HashMap<&'static str, usize>,
    /// The contract's answer to a response call; `None`: it accepts.
    pub verdict: Option<Bytes>,
    /// Answers every response call by whether it knows the id, and accepts none.
    pub tells_ids: bool,
    pub estimate: u64,
    /// Gas that a response really uses.
    pub gas_used: u64,
    pub connection: u64,
    pub nonce: u64,
    /// Wei per gas, from the next block on. Transactions that pay less stay in the pool.
    pub base_fee: u128,
    /// Gas limit of blocks; transactions above it are refused.
    pub block_gas: Option<u64>,
    /// Funds of the wallet in wei (`None`: enough), and what it has paid.
    pub funds: Option<U256>,
    pub paid: U256,
    pub send_behavior: SendBehavior,
    pub hide_receipts: bool,
    /// A larger batch of receipts is not answered.
    pub most_receipts: Option<usize>,
    /// This many sends are lost without an answer.
    pub lost_sends: usize,
    /// A sender may wait for the receipt.
    pub offers_receipts: bool,
    pool: BTreeMap<u64, Pooled>,
    /// The pool is one of Ethereum's kind. `None`: it takes what comes.
    pub pool_rules: Option<PoolRules>,
    /// What was mined under each nonce.
    mined: BTreeMap<u64, Pooled>,
    receipts: HashMap<B256, Receipt>,
    /// Refuses raw transactions as if executed in advance, with this revert data.
    pub reverts_in_advance: Option<Bytes>,
    pub sent: Vec<Bytes>,
    pub answer_history: answer_history::AnswerHistory,
    /// What stands on it as a host chain.
    pub host: host::HostState,
    /// Timestamp of the next blocks, in Unix seconds. `None`: the present.
    pub timestamp: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct FakeChain {
    /// The node that answers.
    asked: NodeId,
    /// The reader of this node alone.
    is_alone: bool,
    state: Arc<Mutex<FakeChainState>>,
    heads: watch::Sender<Option<Head>>,
}

/// The request event of a user without ciphertexts.
pub(crate) fn request_event(id: u64) -> Event {
    Event {
        block: BlockRef { number: 0, hash: B256::ZERO },
        transaction: keccak256(id.to_be_bytes()),
        log_index: id,
        topics: vec![abi::request_topics()[3], B256::from(U256::from(id))],
        data: request_data(0),
    }
}

/// The data of such an event. Events that say something else are other requests.
pub(crate) fn request_data(says: u8) -> Bytes {
    let materials = Vec::<(B256, U256, B256, Vec<Address>)>::new();
    let (public_key, extra_data) = (Bytes::new(), Bytes::from(vec![says]));
    (materials, Address::ZERO, public_key, extra_data).abi_encode_params().into()
}

pub(crate) fn upgrade_event(id: u64) -> Event {
    Event { topics: vec![abi::UPGRADED_TOPIC, B256::ZERO], ..request_event(id) }
}

impl FakeChain {
    /// A chain of empty blocks up to `height`.
    pub fn new(height: u64) -> Self {
        let node = FakeChainState {
            faults: vec![NodeFaults::default()],
            estimate: 100_000,
            gas_used: 90_000,
            connection: 1,
            base_fee: 1,
            block_gas: Some(30_000_000),
            ..FakeChainState::default()
        };
        let (asked, node) = (NodeId(0), Arc::new(Mutex::new(node)));
        let heads = watch::channel(None).0;
        let chain = Self { asked, is_alone: false, state: node, heads };
        for _ in 0..=height {
            chain.mine(Vec::new());
        }
        chain
    }

    pub fn state(&self) -> MutexGuard<'_, FakeChainState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn height(&self) -> u64 {
        self.state().chain.len() as u64 - 1
    }

    pub fn block(&self, number: u64) -> BlockRef {
        self.state().chain[usize::try_from(number).unwrap()].head.block
    }

    pub fn call_count(&self, of: &'static str) -> usize {
        self.state().calls.get(of).copied().unwrap_or_default()
    }

    /// Adds a block with these events and what the pool holds.
    pub fn mine(&self, events: Vec<Event>) {
        self.mine_with(events, Vec::new());
    }

    /// The same with logs of other contracts.
    pub fn mine_with(&self, events: Vec<Event>, others: Vec<(Address, Event)>) {
        let mut node = self.state();
        let number = node.chain.len() as u64;
        let hash = keccak256([number.to_be_bytes(), node.forks.to_be_bytes()].concat());
        let block = BlockRef { number, hash };
        let mut bloom = Bloom::ZERO;
        let events: Vec<Event> = events.into_iter().map(|e| Event { block, ..e }).collect();
        let others: Vec<EmittedLog> = others
            .into_iter()
            .map(|(address, event)| EmittedLog { address, event: Event { block, ..event } })
            .collect();
        let own = events.iter().map(|event| (CONTRACT, event));
        let all = own.chain(others.iter().map(|other| (other.address, &other.event)));
        for (address, event) in all.filter(|_| !node.empty_blooms) {
            bloom.accrue(BloomInput::Raw(address.as_slice()));
            for topic in &event.topics {
                bloom.accrue(BloomInput::Raw(topic.as_slice()));
            }
        }
        loop {
            let next = node.nonce;
            let Some(pooled) = node.pool.get(&next).copied() else { break };
            let Pooled { hash, gas_limit, max_fee, tip } = pooled;
            if max_fee < node.base_fee || !node.is_worth_mining(pooled) {
                break;
            }
            node.pool.remove(&next);
            node.mined.insert(next, pooled);
            node.nonce += 1;
            let out_of_gas = gas_limit < node.gas_used;
            let success = node.verdict.is_none() && !out_of_gas;
            let gas_used = if out_of_gas { gas_limit } else { node.gas_used };
            let gas_price = max_fee.min(node.base_fee + tip);
            node.paid += U256::from(gas_used) * U256::from(gas_price);
            node.receipts.insert(hash, Receipt { hash, block, success, gas_used, gas_price });
        }
        let parent = node.chain.last().map_or(B256::ZERO, |parent| parent.head.block.hash);
        let connection = node.connection;
        let (base_fee, gas_limit) = (Some(node.base_fee), node.block_gas);
        let (bloom, by) = (Some(bloom), NodeId(0));
        let timestamp = Some(node.timestamp.unwrap_or(clock::unix_millis() / 1_000));
        let head =
            Head { block, parent, bloom, base_fee, gas_limit, timestamp, connection, node: by };
        node.chain.push(Block { head, events, others });
        drop(node);
        let head = self.state().as_shown_by(NodeId(0), &head);
        self.heads.send_replace(Some(head));
    }

    /// Adds a block whose logs show an event that the contract does not know.
    pub fn forge(&self, event: Event) {
        self.mine(vec![Event { data: request_data(FORGED), ..event }]);
    }

    pub fn mine_empty(&self, count: u64) {
        for _ in 0..count {
            self.mine(Vec::new());
        }
    }

    /// Somebody else uses the wallet's next nonce.
    pub fn foreign_transaction(&self) {
        let mut node = self.state();
        let nonce = node.nonce;
        node.pool.remove(&nonce);
        node.nonce += 1;
    }

    /// Removes the last `depth` blocks with their transactions and adds blocks with the events of
    /// `again`, then one more.
    pub fn reorganise(&self, depth: u64, again: Vec<Vec<Event>>) {
        let mut node = self.state();
        let left = node.chain.len() - usize::try_from(depth).unwrap();
        node.chain.truncate(left);
        let mined = node.receipts.len();
        node.receipts.retain(|_, receipt| receipt.block.number < left as u64);
        node.nonce -= (mined - node.receipts.len()) as u64;
        node.pool_reorganised();
        node.forks += 1;
        drop(node);
        for events in again {
            self.mine(events);
        }
        self.mine(Vec::new());
    }

    fn count_call(&self, what: &'static str) -> Result<MutexGuard<'_, FakeChainState>, RpcError> {
        let mut node = self.state();
        *node.calls.entry(what).or_default() += 1;
        if node.faults[self.asked.0].is_silent || node.faults[self.asked.0].is_disconnected {
            return Err(no_answer());
        }
        Ok(node)
    }
}

fn no_answer() -> RpcError {
    RpcError::Unavailable { host: "node".into(), what: "lost".into() }
}

fn receipt_in(hash: B256, block: BlockRef) -> Receipt {
    Receipt { hash, block, success: true, gas_used: 1, gas_price: 1 }
}

fn refused(message: &str, data: Option<Bytes>) -> RpcError {
    refused_by(if data.is_some() { 3 } else { -32000 }, message, data)
}

fn refused_by(code: i64, message: &str, data: Option<Bytes>) -> RpcError {
    RpcError::Refused { host: "node".into(), code, message: message.into(), data }
}

impl FakeChainState {
    fn header(&self, at: BlockId) -> Option<Head> {
        let known = |head: &Head| self.lags_from.is_none_or(|from| head.block.number < from);
        let mut heads = self.chain.iter().map(|block| block.head).filter(known);
        match at {
            BlockId::Latest => heads.next_back(),
            BlockId::Safe | BlockId::Finalized => {
                heads.find(|head| Some(head.block.number) == self.tagged)
            }
            BlockId::Number(number) => heads.find(|head| head.block.number == number),
            BlockId::Hash(hash) => heads.find(|head| head.block.hash == hash),
        }
    }

    /// The same as far as one node knows the chain.
    fn header_of(&self, by: NodeId, at: BlockId) -> Option<Head> {
        let at = match (at, self.faults[by.0].tagged) {
            (BlockId::Safe | BlockId::Finalized, Some(tagged)) => BlockId::Number(tagged),
            (at, _) => at,
        };
        let Some(from) = self.faults[by.0].lags_from else { return self.header(at) };
        let known = |head: &Head| head.block.number < from;
        let head = self.header(at).filter(known);
        head.or_else(|| match at {
            BlockId::Latest => self.header(BlockId::Number(from.checked_sub(1)?)),
            BlockId::Safe | BlockId::Finalized | BlockId::Number(_) | BlockId::Hash(_) => None,
        })
    }

    /// Events that a node shows beside the real ones.
    fn forged(&self, by: NodeId, block: BlockRef) -> impl Iterator<Item = Event> {
        let forged = self.faults[by.0].forges.iter().filter(move |event| event.block == block);
        forged.cloned().collect::<Vec<_>>().into_iter()
    }

    /// A header as this node reports it.
    fn as_shown_by(&self, by: NodeId, head: &Head) -> Head {
        let bloom = match self.faults[by.0].blooms {
            Blooms::AsTheyAre => head.bloom,
            Blooms::Missing => None,
            Blooms::Full => Some(Bloom::repeat_byte(0xff)),
            Blooms::Empty => Some(Bloom::ZERO),
        };
        let base_fee = self.faults[by.0].base_fee.or(head.base_fee);
        let gas_limit = self.faults[by.0].block_gas.or(head.gas_limit);
        let timestamp = self.faults[by.0].shows_time.or(head.timestamp);
        Head { bloom, base_fee, gas_limit, timestamp, node: by, ..*head }
    }

    /// Whether a block's logs are hidden this time.
    fn hides(&mut self, number: usize) -> bool {
        match self.hidden.get_mut(&(number as u64)) {
            Some(times) if *times > 0 => {
                *times -= 1;
                true
            }
            _ => false,
        }
    }

    fn logs_of(&mut self, number: usize) -> Vec<Event> {
        if self.hides(number) { Vec::new() } else { self.chain[number].events.clone() }
    }

    /// The contract's answer to a response without content, at that block.
    fn id_reply(&self, id: U256, at: Option<u64>) -> Bytes {
        let known = self.chain.iter().take_while(|block| Some(block.head.block.number) <= at);
        let forged = request_data(FORGED);
        let mut events = known.flat_map(|block| &block.events).filter(|event| event.data != forged);
        let data = if events.any(|event| abi::request_event_id(event) == Some(id)) {
            // ECDSAInvalidSignatureLength(0)
            [&[0xfc, 0xe6, 0x98, 0xf7][..], &[0; 32]].concat()
        } else {
            // DecryptionNotRequested
            [&[0xd4, 0x8a, 0xf9, 0x42][..], &id.to_be_bytes::<32>()].concat()
        };
        data.into()
    }

    fn verdict(&self, by: NodeId) -> Result<(), RpcError> {
        match self.faults[by.0].verdict.as_ref().or(self.verdict.as_ref()) {
            Some(data) => Err(refused("execution reverted", Some(data.clone()))),
            None => Ok(()),
        }
    }
}

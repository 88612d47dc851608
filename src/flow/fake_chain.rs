//! A chain and a ledger in memory for the tests of the rooms: the chain forks, lags, hides and
//! refuses as told.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy::{
    consensus::{Transaction as _, TxEnvelope},
    eips::Decodable2718,
    primitives::{Bloom, BloomInput, keccak256},
};
use tokio::sync::watch;

use super::{Batch, RequestLedger, Standing, Step, Taken};
use crate::{
    domain::{Address, B256, BlockRef, Bytes, Event, LedgerError, RequestKey, U256},
    gateway::{
        abi,
        lane::{SignedTransaction, TransactionLedger},
        provider::{Addresses, At, Call, Head, LogRange, Provider, Receipt, RpcError},
    },
};

pub(crate) const CONTRACT: Address = Address::repeat_byte(0xdc);

#[derive(Clone, Debug)]
struct Block {
    head: Head,
    events: Vec<Event>,
}

/// What the node is told to do, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Node {
    chain: Vec<Block>,
    forks: u64,
    /// Blocks whose logs are not shown so many times, by any question.
    pub hidden: HashMap<u64, usize>,
    /// Headers from here on are not known.
    pub lags_from: Option<u64>,
    /// Blooms say that there is nothing.
    pub empty_blooms: bool,
    /// Ranges longer than this are refused, or not answered.
    pub longest_range: Option<(u64, bool)>,
    /// Each answer to a range comes twice and in the wrong order.
    pub shuffles: bool,
    pub calls: HashMap<&'static str, usize>,
    /// What the contract says to a response call; `None`: it takes it.
    pub verdict: Option<Bytes>,
    pub estimate: u64,
    /// What a response really uses.
    pub gas_used: u64,
    pub connection: u64,
    pub nonce: u64,
    pool: BTreeMap<u64, (B256, u64)>,
    receipts: HashMap<B256, Receipt>,
    /// Refuses raw transactions as if it had executed them, with this data.
    pub reverts_in_advance: Option<Bytes>,
    pub sent: Vec<Bytes>,
}

#[derive(Clone, Debug)]
pub(crate) struct FakeChain {
    node: Arc<Mutex<Node>>,
    heads: watch::Sender<Option<Head>>,
}

/// A request event: of a shape whose data is not looked at.
pub(crate) fn request_event(id: u64) -> Event {
    Event {
        block: BlockRef { number: 0, hash: B256::ZERO },
        transaction: keccak256(id.to_be_bytes()),
        log_index: id,
        topics: vec![abi::request_topics()[4], B256::from(U256::from(id))],
        data: Bytes::new(),
    }
}

pub(crate) fn upgrade_event(id: u64) -> Event {
    Event { topics: vec![abi::UPGRADED_TOPIC, B256::ZERO], ..request_event(id) }
}

impl FakeChain {
    /// A chain of empty blocks up to `height`.
    pub fn new(height: u64) -> Self {
        let node = Node { estimate: 100_000, gas_used: 90_000, connection: 1, ..Node::default() };
        let chain = Self { node: Arc::new(Mutex::new(node)), heads: watch::channel(None).0 };
        for _ in 0..=height {
            chain.mine(Vec::new());
        }
        chain
    }

    pub fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn height(&self) -> u64 {
        self.node().chain.len() as u64 - 1
    }

    pub fn block(&self, number: u64) -> BlockRef {
        self.node().chain[usize::try_from(number).unwrap()].head.block
    }

    pub fn calls(&self, of: &'static str) -> usize {
        self.node().calls.get(of).copied().unwrap_or_default()
    }

    /// Adds a block with these events, and with what waits in the pool.
    pub fn mine(&self, events: Vec<Event>) {
        let mut node = self.node();
        let number = node.chain.len() as u64;
        let hash = keccak256([number.to_be_bytes(), node.forks.to_be_bytes()].concat());
        let block = BlockRef { number, hash };
        let mut bloom = Bloom::ZERO;
        let events: Vec<Event> = events.into_iter().map(|e| Event { block, ..e }).collect();
        for event in events.iter().filter(|_| !node.empty_blooms) {
            bloom.accrue(BloomInput::Raw(CONTRACT.as_slice()));
            bloom.accrue(BloomInput::Raw(event.topics[0].as_slice()));
        }
        while let Some((hash, limit)) = {
            let next = node.nonce;
            node.pool.remove(&next)
        } {
            node.nonce += 1;
            let out_of_gas = limit < node.gas_used;
            let success = node.verdict.is_none() && !out_of_gas;
            let gas_used = if out_of_gas { limit } else { node.gas_used };
            node.receipts.insert(hash, Receipt { hash, block, success, gas_used });
        }
        let parent = node.chain.last().map_or(B256::ZERO, |parent| parent.head.block.hash);
        let connection = node.connection;
        let head = Head { block, parent, bloom, base_fee: Some(7), connection };
        node.chain.push(Block { head, events });
        drop(node);
        self.heads.send_replace(Some(head));
    }

    pub fn mine_empty(&self, count: u64) {
        for _ in 0..count {
            self.mine(Vec::new());
        }
    }

    /// The last `depth` blocks leave the chain; `again` is what the new ones hold, then one more.
    pub fn reorganise(&self, depth: u64, again: Vec<Vec<Event>>) {
        let mut node = self.node();
        let left = node.chain.len() - usize::try_from(depth).unwrap();
        node.chain.truncate(left);
        node.forks += 1;
        drop(node);
        for events in again {
            self.mine(events);
        }
        self.mine(Vec::new());
    }

    fn ask(&self, what: &'static str) -> MutexGuard<'_, Node> {
        let mut node = self.node();
        *node.calls.entry(what).or_default() += 1;
        node
    }
}

fn refused(message: &str, data: Option<Bytes>) -> RpcError {
    let code = if data.is_some() { 3 } else { -32000 };
    RpcError::Refused { host: "node".into(), code, message: message.into(), data }
}

impl Node {
    fn header(&self, at: At) -> Option<Head> {
        let known = |head: &Head| self.lags_from.is_none_or(|from| head.block.number < from);
        let mut heads = self.chain.iter().map(|block| block.head).filter(known);
        match at {
            At::Latest | At::Finalized => heads.next_back(),
            At::Number(number) => heads.find(|head| head.block.number == number),
            At::Hash(hash) => heads.find(|head| head.block.hash == hash),
        }
    }

    fn logs_of(&mut self, number: usize) -> Vec<Event> {
        let block = &self.chain[number];
        match self.hidden.get_mut(&(number as u64)) {
            Some(times) if *times > 0 => {
                *times -= 1;
                Vec::new()
            }
            _ => block.events.clone(),
        }
    }

    fn verdict(&self) -> Result<(), RpcError> {
        match &self.verdict {
            Some(data) => Err(refused("execution reverted", Some(data.clone()))),
            None => Ok(()),
        }
    }
}

impl Provider for FakeChain {
    fn addresses(&self) -> Addresses {
        Addresses { decryption: CONTRACT, gateway_config: Address::ZERO }
    }
    fn heads(&self) -> watch::Receiver<Option<Head>> {
        let mut heads = self.heads.subscribe();
        heads.mark_changed();
        heads
    }
    async fn chain_id(&self) -> Result<u64, RpcError> {
        Ok(1)
    }
    async fn header(&self, at: At) -> Result<Option<Head>, RpcError> {
        Ok(self.ask("header").header(at))
    }
    async fn logs(&self, _: Address, _: &[B256], range: LogRange) -> Result<Vec<Event>, RpcError> {
        let mut node = self.ask("logs");
        match range {
            LogRange::Block(hash) => {
                let head = node.header(At::Hash(hash));
                let head = head.ok_or_else(|| refused("unknown block", None))?;
                Ok(node.logs_of(usize::try_from(head.block.number).unwrap()))
            }
            LogRange::Numbers { from, to } => {
                match node.longest_range {
                    Some((longest, true)) if to - from >= longest => {
                        return Err(refused("query returned more than 10000 results", None));
                    }
                    Some((longest, false)) if to - from >= longest => {
                        let what = "eth_getLogs timed out".into();
                        return Err(RpcError::Unavailable { host: "node".into(), what });
                    }
                    _ => {}
                }
                // A lagging node: what it does not know is empty, and no error.
                let last = node.header(At::Latest).map_or(0, |head| head.block.number);
                let mut events = Vec::new();
                for number in from..=to.min(last) {
                    events.extend(node.logs_of(usize::try_from(number).unwrap()));
                }
                if node.shuffles {
                    events.reverse();
                    events.extend(events.clone());
                }
                Ok(events)
            }
        }
    }
    async fn call(&self, _: &Call, _: At) -> Result<Bytes, RpcError> {
        self.ask("call").verdict().map(|()| Bytes::new())
    }
    async fn estimate_gas(&self, _: &Call) -> Result<u64, RpcError> {
        let node = self.ask("estimate");
        node.verdict().map(|()| node.estimate)
    }
    async fn code_size(&self, _: Address) -> Result<usize, RpcError> {
        Ok(1)
    }
    async fn balance(&self, _: Address) -> Result<U256, RpcError> {
        Ok(U256::MAX)
    }
    async fn transaction_count(&self, _: Address) -> Result<u64, RpcError> {
        Ok(self.node().nonce)
    }
    async fn priority_fee(&self) -> Result<u128, RpcError> {
        Ok(0)
    }
    async fn send_raw_transaction(&self, raw: &Bytes) -> Result<B256, RpcError> {
        let mut node = self.ask("send");
        if let Some(data) = &node.reverts_in_advance {
            return Err(refused("execution reverted", Some(data.clone())));
        }
        let transaction = TxEnvelope::decode_2718(&mut raw.as_ref()).unwrap();
        if transaction.nonce() < node.nonce {
            return Err(refused("nonce too low", None));
        }
        let hash = *transaction.tx_hash();
        node.sent.push(transaction.input().clone());
        node.pool.insert(transaction.nonce(), (hash, transaction.gas_limit()));
        Ok(hash)
    }
    async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<Receipt>>, RpcError> {
        let node = self.node();
        let receipt = |hash: &B256| {
            let of_event = || {
                let mut events = node.chain.iter().flat_map(|block| &block.events);
                let event = events.find(|event| event.transaction == *hash)?;
                Some(Receipt { hash: *hash, block: event.block, success: true, gas_used: 1 })
            };
            node.receipts.get(hash).cloned().or_else(of_event)
        };
        Ok(hashes.iter().map(receipt).collect())
    }
}

/// What the ledger was told.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub requests: HashMap<RequestKey, BlockRef>,
    pub cursor: Option<BlockRef>,
    pub skipped: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeLedger(Arc<Mutex<Book>>);

impl FakeLedger {
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RequestLedger for FakeLedger {
    async fn arrive(&self, batch: Batch) -> Result<Taken, LedgerError> {
        let mut book = self.book();
        let mut new = HashSet::new();
        for (index, arrival) in batch.arrivals.iter().enumerate() {
            if book.requests.insert(arrival.key, arrival.event.block).is_none() {
                new.insert(index);
            }
        }
        book.skipped += batch.skipped.len();
        book.cursor = batch.cursor.or(book.cursor);
        let mut new: Vec<usize> = new.into_iter().collect();
        new.sort_unstable();
        Ok(Taken { new, reopened: Vec::new() })
    }
    async fn note(&self, _: RequestKey, _: Step) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn standing(&self, _: RequestKey) -> Result<Option<Standing>, LedgerError> {
        Ok(None)
    }
}

impl TransactionLedger for FakeLedger {
    async fn signed(&self, _: Vec<SignedTransaction>) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn mined(&self, _: B256, _: BlockRef) -> Result<(), LedgerError> {
        Ok(())
    }
}

//! The Gateway chain of a simulated world: blocks, the two contracts, and nodes that know more or less
//! of it. No faults here: `rpc` decides what a node answers wrongly.
//!
//! ```text
//! requests due ─┐
//!               ├─> block ─> block ─> block      a reorganisation drops the last ones; what they
//! pools of the ─┘                                held comes back, comes back different, or not
//! nodes
//! ```

mod key_operations;
mod transaction;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use alloy::{
    primitives::{Bloom, BloomInput, keccak256},
    sol,
    sol_types::SolError,
};
use fastrand::Rng;

pub(super) use self::transaction::Transaction;
use self::transaction::{BLOCK_GAS, Response, response};
use super::{
    asks::{Ask, named_context},
    contexts::{Contexts, context},
    deployment::{CHAIN_ID, DECRYPTION, KMS_GENERATION, SOURCE},
    keys::{
        contract::{Action, Asked, KeyState, Rules},
        events, is_of_keys,
    },
};
use crate::{
    chain::reader::{Head, NodeId, Receipt},
    contracts::abi::{self, Generation},
    domain::{Address, B256, BlockRef, Bytes, Event, Operation, Request, SigningDomain, U256},
    flow::kms_core::{eip712, signature},
};

sol! {
    error DecryptionNotRequested(uint256 decryptionId);
    error KmsNodeAlreadySigned(uint256 decryptionId, address signer);
    error NotKmsSigner(address signerAddress);
    error DecryptionContextMismatch(
        uint256 decryptionId, uint256 requestContextId, uint256 responseContextId
    );
}

pub(super) fn domain() -> SigningDomain {
    SigningDomain {
        name: "Decryption".into(),
        version: "1".into(),
        chain_id: CHAIN_ID,
        verifying_contract: DECRYPTION,
    }
}

pub(super) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

#[derive(Clone, Debug)]
pub(super) struct Mined {
    pub transaction: Transaction,
    pub receipt: Receipt,
}

#[derive(Clone, Debug)]
pub(super) struct Block {
    pub head: Head,
    pub events: Vec<Event>,
    /// The requests that its events tell of.
    asks: Vec<Arc<Ask>>,
    pub transactions: Vec<Mined>,
    /// The contract that asks for key operations, after this block; and what others did to it in this block.
    keys: Arc<KeyState>,
    actions: Vec<Action>,
    /// The wallet's transaction count after this block.
    nonce: u64,
    /// Request counters, by the tag of their ids.
    requests: [u64; 3],
    /// Height of the chain from which this block's logs are shown.
    pub shown_from: u64,
}

/// State of one node.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeState {
    /// Number of blocks it is behind.
    pub lag: u64,
    pub pool: BTreeMap<u64, Transaction>,
}

/// The contract that emitted it.
pub(super) fn emitter(event: &Event) -> Address {
    if is_of_keys(event) { KMS_GENERATION } else { DECRYPTION }
}

/// The next id: ids are counters, one per kind.
fn next_id(counter: abi::Counter, requests: &mut [u64; 3]) -> U256 {
    let number = &mut requests[usize::from(counter.tag())];
    *number += 1;
    counter.id(*number)
}

/// A request that is or was on the chain.
#[derive(Clone, Debug)]
pub(super) struct Requested {
    /// Number of its block.
    pub block: u64,
    pub request: Request,
    pub ask: Arc<Ask>,
    /// Of the contract that took it.
    pub generation: Generation,
}

#[derive(Debug)]
pub(super) struct Chain {
    pub id: u64,
    /// What is signed beside the results of key operations that are asked for now. Nothing up to G12.
    pub key_extra_data: Bytes,
    blocks: Vec<Block>,
    /// Blocks that left the chain; nodes still know them by hash.
    gone: BTreeMap<B256, Block>,
    forks: u64,
    pub nodes: Vec<NodeState>,
    pub base_fee: u128,
    /// Asks for coming blocks, each with the number of blocks it still waits.
    due: VecDeque<(u64, Arc<Ask>)>,
    /// If there is a contract that asks for key operations.
    key_rules: Option<Rules>,
    /// What others do to it in coming blocks, each with the number of blocks it still waits.
    due_actions: VecDeque<(u64, Action)>,
    /// Everything that it ever asked for, on whichever branch.
    ever_asked: BTreeMap<U256, Vec<Asked>>,
    /// The wallet, which sends every answer.
    wallet: Address,
    /// Transactions dropped by a reorganisation that the sequencer includes again.
    resequenced: BTreeMap<u64, Transaction>,
    /// Requests by id.
    requested: BTreeMap<U256, Requested>,
    /// All that there ever were with an id.
    ever: BTreeMap<U256, Vec<Requested>>,
    /// The contract's generations, each with the block from which it stands there.
    generations: Vec<(u64, Generation)>,
    contexts: Contexts,
    /// Successful answers by id and signer, with their block.
    answered: BTreeMap<(U256, Address), u64>,
    /// Signers, each with the block from which it signs.
    signers: Vec<(u64, Address)>,
    /// No reorganisation goes below this block.
    floor: u64,
}

/// What a reorganisation dropped.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    pub asks: Vec<Arc<Ask>>,
    pub transactions: Vec<Transaction>,
    /// Of others, on the contract that asks for key operations.
    pub actions: Vec<Action>,
    /// Upgrades of the contract.
    pub upgrades: usize,
}

impl Chain {
    pub fn new(
        (id, nodes): (u64, usize),
        (signer, wallet): (Address, Address),
        generation: Generation,
        key_rules: Option<Rules>,
    ) -> Self {
        let mut chain = Self {
            id,
            key_extra_data: Bytes::new(),
            blocks: Vec::new(),
            gone: BTreeMap::new(),
            forks: 0,
            nodes: vec![NodeState::default(); nodes],
            base_fee: 1_000_000_000,
            due: VecDeque::new(),
            key_rules,
            due_actions: VecDeque::new(),
            ever_asked: BTreeMap::new(),
            wallet,
            resequenced: BTreeMap::new(),
            requested: BTreeMap::new(),
            ever: BTreeMap::new(),
            generations: vec![(0, generation)],
            contexts: Contexts::default(),
            answered: BTreeMap::new(),
            signers: vec![(0, signer)],
            floor: 1,
        };
        chain.mine(0);
        chain
    }

    pub fn height(&self) -> u64 {
        self.blocks.len() as u64 - 1
    }

    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Every request on the current chain.
    pub fn requests(&self) -> impl Iterator<Item = &Requested> {
        self.requested.values()
    }

    /// Every request that ever had this id, on whichever branch.
    pub fn ever_requested(&self, id: U256) -> &[Requested] {
        self.ever.get(&id).map_or(&[], Vec::as_slice)
    }

    /// The contract's generation after block `number`.
    pub fn generation(&self, number: u64) -> Generation {
        let of = self.generations.iter().rev().find(|(from, _)| *from <= number);
        of.map_or(Generation::UpToG10, |(_, generation)| *generation)
    }

    /// Upgrades the contract in the next block.
    pub fn upgrade(&mut self, generation: Generation) {
        self.generations.push((self.height() + 1, generation));
    }

    pub fn contexts(&self) -> &Contexts {
        &self.contexts
    }

    /// Another KMS context is current from the next block on, which no reorganisation drops. `now`: Unix seconds.
    pub fn begin_context(&mut self, now: u64) {
        self.floor = self.height() + 1;
        self.contexts.begin((self.floor, now));
    }

    /// The oldest KMS context ends with the next block, which no reorganisation drops. Returns its number.
    pub fn destroy_context(&mut self, now: u64) -> Option<u64> {
        self.floor = self.height() + 1;
        self.contexts.destroy((self.floor, now))
    }

    /// The context in which the contract takes an answer to this request. `None`: in any.
    pub fn bound_context(&self, one: &Requested) -> Option<U256> {
        let is_bound = one.generation >= Generation::G13;
        let current = || context(self.contexts.current(one.block));
        is_bound.then(|| one.ask.context().unwrap_or_else(current))
    }

    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Adds a request that is due in `blocks` blocks.
    pub fn request(&mut self, ask: Arc<Ask>, blocks: u64) {
        self.due.push_back((blocks, ask));
    }

    /// Includes the transaction again in the next block.
    pub fn resequence(&mut self, transaction: Transaction) {
        self.resequenced.insert(transaction.nonce, transaction);
    }

    /// Mines the next block. Its logs are hidden for `hidden_for` blocks.
    pub fn mine(&mut self, hidden_for: u64) {
        let number = self.blocks.len() as u64;
        let hash = keccak256([number, self.forks, self.id].map(u64::to_be_bytes).concat());
        let block = BlockRef { number, hash };
        let generation = self.generation(number);
        let (mut events, mut asks) = (self.upgraded(block), Vec::new());
        let mut requests = self.blocks.last().map_or([0; 3], |last| last.requests);
        for (wait, ask) in std::mem::take(&mut self.due) {
            if let Some(left) = wait.checked_sub(1) {
                self.due.push_back((left, ask));
                continue;
            }
            if ask.least_generation() > generation {
                // The upgrade that it came after left the chain.
                self.due.push_back((0, ask));
                continue;
            }
            let id = next_id(ask.counter(), &mut requests);
            let first = events.len();
            for log in ask.logs(id, generation) {
                let (topics, log_index) = (log.topics().to_vec(), events.len() as u64);
                let (transaction, data) = (ask.transaction, log.data);
                events.push(Event { block, transaction, log_index, topics, data });
            }
            let request = abi::decode(SOURCE, &events[first]).expect("the world emits well");
            let requested = Requested { block: number, request, ask: ask.clone(), generation };
            self.requested.insert(id, requested.clone());
            self.ever.entry(id).or_default().push(requested);
            asks.push(ask);
        }
        let mut keys = self.blocks.last().map(|last| last.keys.clone()).unwrap_or_default();
        let actions = self.act_on_keys(&mut keys, block, &mut events);
        let mut nonce = self.blocks.last().map_or(0, |last| last.nonce);
        let mut transactions = Vec::new();
        while let Some(transaction) = self.take_from_pools(nonce) {
            nonce += 1;
            let success = !transaction.runs_out()
                && self.execute_on(&keys, transaction.to, &transaction.input, number).is_ok();
            if success && let Some(id) = transaction.answers() {
                if transaction.to == Some(DECRYPTION) {
                    self.answered.insert((id, self.signer(number)), number);
                } else {
                    self.take_vote(&mut keys, &transaction, block, &mut events);
                }
            }
            let gas_used = transaction.gas().min(transaction.gas_limit);
            let gas_price = transaction.max_fee.min(self.base_fee.saturating_add(transaction.tip));
            let hash = transaction.hash;
            let receipt = Receipt { hash, block, success, gas_used, gas_price };
            transactions.push(Mined { transaction, receipt });
        }
        let mut bloom = Bloom::ZERO;
        for event in &events {
            bloom.accrue(BloomInput::Raw(emitter(event).as_slice()));
            for topic in &event.topics {
                bloom.accrue(BloomInput::Raw(topic.as_slice()));
            }
        }
        for asked in keys.asked().filter(|asked| asked.request.block == block) {
            self.ever_asked.entry(asked.request.key.id).or_default().push(asked.clone());
        }
        let parent = self.blocks.last().map_or(B256::ZERO, |last| last.head.block.hash);
        let base_fee = Some(self.base_fee);
        let bloom = Some(bloom);
        let (gas_limit, by) = (Some(BLOCK_GAS), NodeId(0));
        let head = Head {
            block,
            parent,
            bloom,
            base_fee,
            gas_limit,
            timestamp: None,
            connection: 0,
            node: by,
        };
        let shown_from = if events.is_empty() { 0 } else { number + hidden_for };
        self.blocks.push(Block {
            head,
            events,
            asks,
            transactions,
            keys,
            actions,
            nonce,
            requests,
            shown_from,
        });
    }

    /// The event of an upgrade in this block.
    fn upgraded(&self, block: BlockRef) -> Vec<Event> {
        let is_now = self.generations.iter().any(|(from, _)| *from == block.number && *from > 0);
        let topics = vec![abi::UPGRADED_TOPIC, B256::ZERO];
        let (transaction, data) = (block.hash, Bytes::new());
        let event = Event { block, transaction, log_index: 0, topics, data };
        if is_now { vec![event] } else { Vec::new() }
    }

    fn take_from_pools(&mut self, nonce: u64) -> Option<Transaction> {
        let base_fee = self.base_fee;
        let mut found = self.resequenced.remove(&nonce);
        let resequenced = found.is_some();
        for node in &mut self.nodes {
            node.pool.retain(|known, _| *known >= nonce);
            if let Some(offered) = node.pool.get(&nonce).filter(|offer| offer.max_fee >= base_fee)
                && !resequenced
                && found.as_ref().is_none_or(|found| found.max_fee < offered.max_fee)
            {
                found = Some(offered.clone());
            }
        }
        for node in self.nodes.iter_mut().filter(|_| found.is_some()) {
            node.pool.remove(&nonce);
        }
        found
    }

    /// The deepest possible reorganisation, in blocks.
    pub fn max_reorganisation(&self) -> u64 {
        self.height().saturating_sub(self.floor)
    }

    /// Registers another signer from the next block on. Earlier blocks keep theirs.
    pub fn register(&mut self, signer: Address) {
        self.floor = self.height() + 1;
        self.signers.push((self.floor, signer));
    }

    fn signer(&self, number: u64) -> Address {
        let of = self.signers.iter().rev().find(|(from, _)| *from <= number);
        of.map_or(Address::ZERO, |(_, signer)| *signer)
    }

    /// Removes the last `depth` blocks. The caller decides what comes back.
    pub fn reorganise(&mut self, depth: u64) -> Dropped {
        let mut dropped = Dropped::default();
        self.forks += 1;
        for block in self.blocks.split_off(self.blocks.len() - index(depth)) {
            dropped.asks.extend(block.asks.iter().cloned());
            dropped.actions.extend(block.actions.iter().copied());
            let transactions = block.transactions.iter();
            dropped.transactions.extend(transactions.map(|mined| mined.transaction.clone()));
            self.gone.insert(block.head.block.hash, block);
        }
        let height = self.height();
        self.requested.retain(|_, one| one.block <= height);
        self.answered.retain(|_, block| *block <= height);
        let before = self.generations.len();
        self.generations.retain(|(from, _)| *from <= height);
        dropped.upgrades = before - self.generations.len();
        dropped
    }

    /// The contract's answer to a call on top of block `number`.
    pub fn execute(&self, to: Option<Address>, input: &[u8], number: u64) -> Result<(), Bytes> {
        self.execute_on(self.keys(number), to, input, number)
    }

    fn execute_on(
        &self,
        keys: &KeyState,
        to: Option<Address>,
        input: &[u8],
        number: u64,
    ) -> Result<(), Bytes> {
        if to == Some(KMS_GENERATION)
            && let (Some(rules), Some(answer)) = (&self.key_rules, events::response(input))
        {
            return keys.check(rules, &answer, self.signer(number));
        }
        let Some(Response { id, payload, signature, extra_data }) = response(input) else {
            return Ok(());
        };
        if to != Some(DECRYPTION) {
            return Ok(());
        }
        let known = self.requested.get(&id).filter(|one| one.block <= number);
        let Some(requested @ Requested { request, .. }) = known else {
            return Err(DecryptionNotRequested { decryptionId: id }.abi_encode().into());
        };
        if self.generation(number) >= Generation::G13
            && let Some(bound) = self.bound_context(requested)
        {
            let current = || context(self.contexts.current(number));
            let answered = named_context(&extra_data).unwrap_or_else(current);
            if answered != bound {
                let mismatch = DecryptionContextMismatch {
                    decryptionId: id,
                    requestContextId: bound,
                    responseContextId: answered,
                };
                return Err(mismatch.abi_encode().into());
            }
        }
        let handles = request.handles();
        let digest = match &request.operation {
            Operation::UserDecryption(user) => eip712::user_digest(
                &domain(),
                &user.public_key,
                handles,
                &payload,
                Some(&extra_data),
            ),
            Operation::PublicDecryption(_) => {
                eip712::public_digest(&domain(), handles, &payload, Some(&extra_data))
            }
            Operation::Key(_) => return Ok(()),
        };
        let signer = signature::parse_signature(&signature)
            .and_then(|signature| signature::recover(&signature, digest))
            .unwrap_or_default();
        if signer != self.signer(number) {
            return Err(NotKmsSigner { signerAddress: signer }.abi_encode().into());
        }
        if self.answered.get(&(id, signer)).is_some_and(|block| *block <= number) {
            return Err(KmsNodeAlreadySigned { decryptionId: id, signer }.abi_encode().into());
        }
        Ok(())
    }

    /// Returns whether the contract has an answer to a request at block `number`, by any signer.
    pub fn is_answered(&self, id: U256, number: u64) -> bool {
        let mut answers = self.answered.range((id, Address::ZERO)..);
        answers.next().is_some_and(|((of, _), block)| *of == id && *block <= number)
    }

    /// The highest block this node sees.
    pub fn visible_height(&self, node: usize) -> u64 {
        self.height().saturating_sub(self.nodes[node].lag)
    }

    pub fn block(&self, number: u64) -> Option<&Block> {
        self.blocks.get(index(number))
    }

    /// A block by hash, including blocks that left the chain.
    pub fn block_of(&self, hash: B256, sight: u64) -> Option<&Block> {
        let known = self.blocks.iter().rev().find(|block| block.head.block.hash == hash);
        known.filter(|block| block.head.block.number <= sight).or_else(|| self.gone.get(&hash))
    }

    /// The transaction that makes a request, and its block.
    pub fn ask_of(&self, transaction: B256, sight: u64) -> Option<(&Ask, BlockRef)> {
        let seen = self.blocks.iter().take(index(sight) + 1).rev();
        let mut found =
            seen.flat_map(|block| block.asks.iter().map(move |ask| (&**ask, block.head.block)));
        found.find(|(ask, _)| ask.transaction == transaction)
    }

    pub fn nonce(&self, sight: u64) -> u64 {
        self.blocks[index(sight)].nonce
    }

    pub fn receipt(&self, hash: B256, sight: u64) -> Option<Receipt> {
        for block in self.blocks.iter().rev().filter(|block| block.head.block.number <= sight) {
            let mined = block.transactions.iter().find(|one| one.transaction.hash == hash);
            if let Some(mined) = mined {
                return Some(mined.receipt.clone());
            }
            if block.events.iter().any(|event| event.transaction == hash) {
                let block = block.head.block;
                return Some(Receipt { hash, block, success: true, gas_used: 1, gas_price: 1 });
            }
        }
        None
    }

    /// An honest node's response to a raw transaction.
    pub fn offer(
        &mut self,
        node: usize,
        transaction: Transaction,
        mempool: bool,
        ahead: bool,
    ) -> Result<B256, (&'static str, Option<Bytes>)> {
        let sight = self.visible_height(node);
        let next = self.nonce(sight);
        let Transaction { hash, nonce, max_fee, gas_limit, to, .. } = transaction;
        if gas_limit > BLOCK_GAS {
            return Err(("exceeds block gas limit", None));
        }
        if gas_limit < transaction.intrinsic_gas() {
            return Err(("intrinsic gas too low", None));
        }
        if nonce < next {
            return Err(("nonce too low", None));
        }
        if max_fee < self.base_fee {
            return Err(("max fee per gas less than block base fee", None));
        }
        if let Some(known) = self.nodes[node].pool.get(&nonce) {
            if known.hash == hash {
                return Err(("already known", None));
            }
            if max_fee < known.max_fee.saturating_add(known.max_fee / 10) {
                return Err(("replacement transaction underpriced", None));
            }
        }
        if !mempool && (next..nonce).any(|below| !self.nodes[node].pool.contains_key(&below)) {
            return Err(("nonce too high", None));
        }
        if ahead && let Err(data) = self.execute(to, &transaction.input, sight) {
            return Err(("execution reverted", Some(data)));
        }
        self.nodes[node].pool.insert(nonce, transaction);
        Ok(hash)
    }

    /// Includes a foreign transaction with the wallet's next nonce in the next block.
    pub fn foreign(&mut self, dice: &mut Rng) {
        let nonce = self.nonce(self.height());
        let node = dice.usize(..self.nodes.len());
        self.nodes[node].pool.insert(nonce, Transaction::foreign(nonce, dice.u64(..)));
    }
}

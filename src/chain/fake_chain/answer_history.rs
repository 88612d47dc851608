//! Earlier answers on the chain in memory: the contract's list, response events, and senders of
//! transactions.

use std::{collections::HashMap, time::Duration};

use alloy::{primitives::keccak256, sol_types::SolValue};

use super::{CONTRACT, FakeChain, FakeChainState};
use crate::{
    chain::{
        reader::{Receipt, Transaction},
        rpc_error::RpcError,
    },
    contracts::abi,
    domain::{Address, B256, Bytes, Event, Kind, KindGroup, U256},
};

/// A transaction in a block.
#[derive(Clone, Debug)]
struct PastTransaction {
    block: u64,
    sender: Address,
    transaction: Transaction,
}

/// Earlier answers, and how they are reported.
#[derive(Debug, Default)]
pub(crate) struct AnswerHistory {
    /// By id: the listed senders, each from a block on.
    lists: HashMap<U256, Vec<(u64, Address)>>,
    /// Version of the Decryption contract; `None`: it has no such function.
    pub version: Option<&'static str>,
    /// Delay of a batch of calls.
    pub answers_after: Duration,
    /// The contract has no list.
    pub no_lists: bool,
    /// State below this block is dropped.
    pub pruned_below: u64,
    mined: Vec<PastTransaction>,
}

impl FakeChain {
    /// Lists this sender from block `from` on.
    pub fn list_answerer(&self, id: U256, from: u64, sender: Address) {
        self.state().answer_history.lists.entry(id).or_default().push((from, sender));
    }

    /// Adds a transaction to an existing block; returns its hash.
    pub fn add_transaction(
        &self,
        sender: Address,
        block: u64,
        input: Vec<u8>,
        success: bool,
    ) -> B256 {
        let block = self.block(block);
        let mut node = self.state();
        let nth = node.answer_history.mined.len();
        let hash = keccak256([nth.to_be_bytes(), [0x7a; 8]].concat());
        let (to, input) = (Some(CONTRACT), input.into());
        let transaction = Transaction { hash, to, input, block: Some(block) };
        node.answer_history.mined.push(PastTransaction {
            block: block.number,
            sender,
            transaction,
        });
        let receipt = Receipt { hash, block, success, gas_used: 1, gas_price: 1 };
        node.receipts.insert(hash, receipt);
        hash
    }

    /// Adds a response event of this transaction to an existing block.
    pub fn add_response_event(&self, id: U256, kind: Kind, block: u64, transaction: B256) {
        let place = self.block(block);
        let (topic, data) = match kind.group() {
            KindGroup::UserDecryption => (abi::RESPONSE_TOPICS[1], Bytes::new()),
            KindGroup::PublicDecryption => {
                let sender = self.state().sender_of(transaction).unwrap_or_default();
                let none = Bytes::new();
                let data = (none.clone(), none.clone(), sender, none).abi_encode_params();
                (abi::RESPONSE_TOPICS[0], data.into())
            }
            KindGroup::KeyOperation if kind == Kind::NewKmsContext => {
                (abi::RESPONSE_TOPICS[2], [false, true].abi_encode().into())
            }
            KindGroup::KeyOperation if kind == Kind::NewKmsEpoch => {
                (abi::RESPONSE_TOPICS[3], B256::ZERO.abi_encode().into())
            }
            KindGroup::KeyOperation => panic!("its events index nothing"),
        };
        let mut topics = vec![topic, B256::from(id)];
        if kind.is_lifecycle() {
            // A context's names the wallet, an epoch's another address, the signer.
            let wallet = self.state().sender_of(transaction).unwrap_or_default();
            let named = if kind == Kind::NewKmsContext { wallet } else { Address::ZERO };
            topics.push(named.into_word());
        }
        let event = Event { block: place, transaction, log_index: 0, topics, data };
        let index = usize::try_from(block).unwrap();
        self.state().chain[index].events.push(event);
    }
}

impl FakeChainState {
    fn sender_of(&self, transaction: B256) -> Option<Address> {
        let mined =
            self.answer_history.mined.iter().find(|mined| mined.transaction.hash == transaction);
        mined.map(|mined| mined.sender)
    }

    /// Result of a view at a block. `None`: not a view known here.
    pub(super) fn view(&self, by: usize, data: &[u8], at: u64) -> Option<Result<Bytes, RpcError>> {
        if let Some((_, told)) = self.faults[by].views.iter().find(|(call, _)| data == &call[..]) {
            return Some(Ok(told.clone()));
        }
        if data == &abi::contract_version().calldata()[..] {
            let version =
                self.answer_history.version.map(|text| text.to_owned().abi_encode().into());
            return Some(version.ok_or_else(no_function));
        }
        let id = U256::from_be_slice(data.get(4..36)?);
        if data != &abi::consensus_tx_senders(Kind::PublicDecryption, id).calldata()[..] {
            return None;
        }
        if self.answer_history.no_lists {
            return Some(Err(no_function()));
        }
        let listed = self.faults[by].lists.clone().unwrap_or_else(|| {
            let all = self.answer_history.lists.get(&id).into_iter().flatten();
            all.filter(|(from, _)| *from <= at).map(|(_, sender)| *sender).collect()
        });
        Some(Ok(listed.abi_encode().into()))
    }

    pub(super) fn logs_with(
        &self,
        first: &[B256],
        second: &[B256],
        (from, to): (u64, u64),
    ) -> Vec<Event> {
        let blocks =
            self.chain.iter().filter(|block| (from..=to).contains(&block.head.block.number));
        let is_it = |event: &&Event| {
            let [topic0, topic1, ..] = event.topics.as_slice() else { return false };
            first.contains(topic0) && second.contains(topic1)
        };
        blocks.flat_map(|block| block.events.iter().filter(is_it)).cloned().collect()
    }

    pub(super) fn past_transaction(&self, hash: B256) -> Option<Transaction> {
        let mined = self.answer_history.mined.iter().find(|mined| mined.transaction.hash == hash);
        mined.map(|mined| mined.transaction.clone())
    }

    pub(super) fn senders(&self, transactions: &[B256]) -> Vec<Option<Address>> {
        transactions.iter().map(|hash| self.sender_of(*hash)).collect()
    }

    pub(super) fn counts_at(&self, sender: Address, blocks: &[u64]) -> Vec<Option<u64>> {
        let own = || self.answer_history.mined.iter().filter(|mined| mined.sender == sender);
        let count = |block: &u64| {
            (*block >= self.answer_history.pruned_below)
                .then(|| own().filter(|mined| mined.block <= *block).count() as u64)
        };
        blocks.iter().map(count).collect()
    }

    pub(super) fn transactions_of(&self, sender: Address, blocks: &[u64]) -> Vec<Transaction> {
        let own = self.answer_history.mined.iter().filter(|mined| mined.sender == sender);
        let own = own.filter(|mined| blocks.contains(&mined.block));
        own.map(|mined| mined.transaction.clone()).collect()
    }
}

fn no_function() -> RpcError {
    super::refused("execution reverted", Some(Bytes::new()))
}

//! The contract that asks for key operations, where it stands on this chain.

use std::sync::Arc;

use super::{Chain, Transaction};
use crate::{
    domain::{Address, B256, BlockRef, Event, U256},
    instance::simulation::keys::{
        contract::{Action, Asked, KeyState, Moment, Rules},
        events,
    },
};

use alloy::primitives::{LogData, keccak256};

impl Chain {
    /// The rules of the contract. `None`: there is none.
    pub fn key_rules(&self) -> Option<&Rules> {
        self.key_rules.as_ref()
    }

    /// The contract's state after block `number`.
    pub fn keys(&self, number: u64) -> &KeyState {
        &self.blocks[super::index(number)].keys
    }

    /// Everything that was ever asked for under this id, on whichever branch.
    pub fn ever_asked(&self, id: U256) -> &[Asked] {
        self.ever_asked.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Somebody does this in `blocks` blocks.
    pub fn order(&mut self, action: Action, blocks: u64) {
        self.due_actions.push_back((blocks, action));
    }

    /// The same, before what is due at the same time.
    pub fn order_first(&mut self, action: Action, blocks: u64) {
        self.due_actions.push_front((blocks, action));
    }

    /// Whether somebody is about to do something.
    pub fn is_action_due(&self) -> bool {
        let keys = self.keys(self.height());
        self.due_actions.iter().any(|(_, action)| keys.is_possible(action))
    }

    /// Does what is due. What depends on something that is not there waits. Returns what was done.
    pub(super) fn act_on_keys(
        &mut self,
        keys: &mut Arc<KeyState>,
        block: BlockRef,
        events: &mut Vec<Event>,
    ) -> Vec<Action> {
        let Some(rules) = self.key_rules else { return Vec::new() };
        let (mut done, extra_data) = (Vec::new(), self.key_extra_data.clone());
        for (wait, action) in std::mem::take(&mut self.due_actions) {
            if wait > 0 || !keys.is_possible(&action) {
                self.due_actions.push_back((wait.saturating_sub(1), action));
                continue;
            }
            let nth = (done.len() as u64).to_be_bytes();
            let transaction = keccak256([&block.hash[..], &nth, b"keys"].concat());
            let moment = Moment { block, transaction, extra_data: &extra_data };
            let told = Arc::make_mut(keys).act(&rules, &action, moment);
            emit(told, (block, transaction), events);
            done.push(action);
        }
        done
    }

    /// This node's answer, which the contract takes.
    pub(super) fn take_vote(
        &self,
        keys: &mut Arc<KeyState>,
        transaction: &Transaction,
        block: BlockRef,
        events: &mut Vec<Event>,
    ) {
        let (Some(rules), Some(answer)) = (&self.key_rules, events::response(&transaction.input))
        else {
            return;
        };
        let of = (self.signer(block.number), self.wallet);
        let extra_data = &self.key_extra_data;
        let moment = Moment { block, transaction: transaction.hash, extra_data };
        let told = Arc::make_mut(keys).vote(rules, &answer, of, moment);
        emit(told, (block, transaction.hash), events);
    }

    /// The wallet, which sends every answer.
    pub fn wallet(&self) -> Address {
        self.wallet
    }

    /// Whether this signer is or was this node's.
    pub fn is_own_signer(&self, signer: Address) -> bool {
        self.signers.iter().any(|(_, own)| *own == signer)
    }
}

fn emit(logs: Vec<LogData>, (block, transaction): (BlockRef, B256), events: &mut Vec<Event>) {
    for log in logs {
        let (topics, log_index) = (log.topics().to_vec(), events.len() as u64);
        events.push(Event { block, transaction, log_index, topics, data: log.data });
    }
}

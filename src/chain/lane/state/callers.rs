//! Commands of callers: a payload is accepted, or attached to the transaction that its request has.

use super::{Effect, LaneState};
use crate::{
    chain::lane::{Inclusion, Payload, SubmissionUpdate, unsigned::recover_payload},
    domain::RequestKey,
};

impl LaneState {
    /// Accepts a payload. The caller waits for its result from now on.
    pub fn submit(&mut self, payload: Payload) {
        let key = payload.request;
        let known = self.payloads.insert(key, payload.clone()).is_some();
        if self.attach_open(key) || known {
            return;
        }
        self.waiting.push_back(payload);
    }

    /// Returns whether the request has a transaction, or had one whose result nobody took. The caller
    /// waits from now on.
    pub(in crate::chain::lane) fn attach(&mut self, key: RequestKey) -> bool {
        let known = self.payloads.contains_key(&key);
        self.attach_open(key) || known
    }

    fn attach_open(&mut self, key: RequestKey) -> bool {
        if let Some(landing) = self.unclaimed_inclusions.remove(&key) {
            self.payloads.remove(&key);
            self.effects.push(Effect::NotifyIncluded(key, landing));
            return true;
        }
        let nonce = self.by_request.get(&key).copied();
        if let Some(mined) = nonce.and_then(|nonce| self.confirmations.get(nonce)) {
            let transaction = mined.receipt.hash;
            self.effects.push(Effect::Notify(key, SubmissionUpdate::Broadcast { transaction }));
            let own = mined.versions.iter().rev().find(|version| version.request == Some(key));
            if !self.payloads.contains_key(&key)
                && let Some(payload) = own.and_then(|own| recover_payload(key, own))
            {
                self.payloads.insert(key, payload);
            }
            return true;
        }
        let Some(slot) = nonce.and_then(|nonce| self.open.get(&nonce)) else { return false };
        let own = slot.version_of(key);
        if slot.is_accepted() {
            let transaction = own.unwrap_or(slot.current()).hash;
            self.effects.push(Effect::Notify(key, SubmissionUpdate::Broadcast { transaction }));
        }
        if !self.payloads.contains_key(&key)
            && let Some(payload) = own.and_then(|own| recover_payload(key, own))
        {
            self.payloads.insert(key, payload);
        }
        true
    }

    /// Keeps the result of a mined transaction that no caller waits for.
    pub(in crate::chain::lane) fn keep_inclusion(&mut self, key: RequestKey, landing: Inclusion) {
        self.unclaimed_inclusions.insert(key, landing);
    }
}

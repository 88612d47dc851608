//! Commands of callers: a payload is accepted, or attached to the transaction that its request has.

use super::{Book, Effect};
use crate::{
    domain::RequestKey,
    gateway::lane::{Landing, Notice, Payload, draft::recover_payload},
};

impl Book {
    /// Accepts a payload. The caller waits for its result from now on.
    pub fn submit(&mut self, payload: Payload) {
        let key = payload.request;
        let known = self.payloads.insert(key, payload.clone()).is_some();
        if self.find(key) || known {
            return;
        }
        self.waiting.push_back(payload);
    }

    /// Returns whether the request has a transaction, or had one whose result nobody took. The caller
    /// waits from now on.
    pub(in crate::gateway::lane) fn attach(&mut self, key: RequestKey) -> bool {
        let known = self.payloads.contains_key(&key);
        self.find(key) || known
    }

    fn find(&mut self, key: RequestKey) -> bool {
        if let Some(landing) = self.landed.remove(&key) {
            self.payloads.remove(&key);
            self.effects.push(Effect::Land(key, landing));
            return true;
        }
        let Some(slot) = self.by_request.get(&key).and_then(|nonce| self.open.get(nonce)) else {
            return false;
        };
        let own = slot.version_of(key);
        if slot.is_accepted() {
            let transaction = own.unwrap_or(slot.current()).hash;
            self.effects.push(Effect::Notify(key, Notice::Broadcast { transaction }));
        }
        if !self.payloads.contains_key(&key)
            && let Some(payload) = own.and_then(|own| recover_payload(key, own))
        {
            self.payloads.insert(key, payload);
        }
        true
    }

    /// Keeps the result of a mined transaction that no caller waits for.
    pub(in crate::gateway::lane) fn unclaimed(&mut self, key: RequestKey, landing: Landing) {
        self.landed.insert(key, landing);
    }
}

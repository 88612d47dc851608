//! Events from the chain: heads, the wallet's transaction count, receipts, reorganisations.

use std::time::Duration;

use tokio::time::Instant;

use super::{Book, Effect, Look, Seen};
use crate::gateway::{
    lane::{
        SignedTransaction,
        count::{self, FOREIGN_WITHIN, Ours, Reading},
        news::News,
        nonces::Foreign,
        recent::{GONE_AFTER, Looked},
        slot::Slot,
    },
    provider::Head,
};

/// Interval of queries of the chain while transactions are open, even if no head arrives.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Interval while nothing is open. It bounds how late the lane notices that somebody else sends from the
/// wallet, even if that other sender answers every request first and nothing is ever open here.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(15);
/// A used nonce without a receipt of ours counts as displaced after this time, if no node reported that
/// it accepted our bytes. Not at once: a node may forward a transaction that it refuses.
const USED_AFTER: Duration = Duration::from_secs(3);
/// The same while one of several nodes does not say whether it has the receipt.
const SILENT_FOR: Duration = Duration::from_mins(1);

impl Book {
    pub fn head(&mut self, head: &Head, now: Instant) {
        // The first head has no predecessor: a reorganisation may have happened since the first query.
        let follows = self.head.is_some_and(|last| {
            let (block, connection) = last;
            block == head.block || (head.parent == block.hash && head.connection == connection)
        });
        self.reorganised |= self.head.is_some_and(|(last, _)| {
            let (number, next) = (head.block.number, last.number.saturating_add(1));
            head.block != last && (number < next || (number == next && head.parent != last.hash))
        });
        self.suspicious |= !follows;
        self.look_again = true;
        self.market.head(head.base_fee, now);
        self.market.block_takes(head.takes());
        self.head = Some((head.block, head.connection));
    }

    /// Takes in the answer to a query: open nonces, and mined transactions that may have moved or left
    /// the chain.
    pub(in crate::gateway::lane) fn seen(&mut self, seen: Option<Seen>, now: Instant) {
        let asked_mined = self.looking.take().unwrap_or_default();
        let Some(Seen { count, votes, head, open, mined, lost, is_silent, is_whole }) = seen else {
            self.suspicious |= asked_mined;
            return;
        };
        self.believe(&Reading { count, head, told: self.newest(), votes: votes.clone() }, now);
        for (nonce, receipt) in lost {
            self.reclaim(nonce, &receipt, now);
        }
        let mut unseen = Vec::new();
        for (nonce, receipt) in open {
            match receipt {
                Some(receipt) => self.land(nonce, &receipt, now),
                None => unseen.push(nonce),
            }
        }
        for nonce in unseen {
            let Some(slot) = self.open.get_mut(&nonce) else { continue };
            // Before that, the next query shows whether the node only lagged.
            let patience = match (is_silent, slot.is_free()) {
                (true, _) => SILENT_FOR,
                (false, true) => USED_AFTER,
                (false, false) => GONE_AFTER,
            };
            if nonce >= count.max(self.belief.count()) {
                continue;
            }
            let unseen_for = slot.unseen_for(now);
            // Neither the count of one node nor a missing receipt is proof. A nonce above the believed
            // count must not be displaced: if that count turned out wrong, its request would be lost.
            let is_used = nonce < self.belief.count()
                && votes.as_ref().is_some_and(|all| all.lowest() > nonce);
            if unseen_for >= patience && is_used {
                self.displace(nonce, now);
            } else if unseen_for >= USED_AFTER {
                self.belief.doubt();
            }
        }
        let Looked { moved, dropped, unsure, below } = self.recent.look(mined, head, now);
        self.effects.extend(moved.into_iter().map(|(id, block)| Effect::Mined(id, block)));
        if !below {
            self.below_since = None;
        }
        let below_since = below.then(|| *self.below_since.get_or_insert(now));
        // Ask again for what was not reached, and for blocks above the node's head.
        self.suspicious |= (asked_mined && !is_whole) || below;
        // A new suspicion arose after this query was sent, so its answer does not clear it.
        let since = self.reorganised && self.suspicious && !below;
        // A node that stays behind for long is a slow node, not a reorganisation: accept commands again.
        let maybe_gone =
            below_since.is_some_and(|since| now.saturating_duration_since(since) < GONE_AFTER);
        self.reorganised = unsure || maybe_gone || self.belief.may_have_fallen(now) || since;
        self.suspicious |= self.reorganised;
        if !dropped.is_empty() {
            self.tell(News::LeftChain { transactions: dropped.len() });
            self.effects.push(Effect::Reopen(dropped));
        }
    }

    fn believe(&mut self, reading: &Reading, now: Instant) {
        let nonces = &self.nonces;
        let ours = Ours {
            up_to: nonces.first_free(),
            mined: self.recent.after_last(),
            foreign_below: |count| nonces.foreign_below(count).map_or(0, |foreign| foreign.nonces),
        };
        match self.belief.hear(reading, ours, now) {
            count::News::Nothing => {}
            count::News::Risen(count) => _ = self.counted(count),
            count::News::Fallen(count) => {
                self.tell(News::CountFell { count });
                // Our transactions are open again or will be; nonces of somebody else are free.
                let open = self.open.keys().copied();
                let taken = open.chain(self.signing.iter().copied()).chain(self.recent.nonces());
                self.nonces.free_but(count, taken, now);
            }
        }
        if let Some(votes) = reading.votes.as_ref().filter(|votes| !votes.agree()) {
            self.tell(News::Contradiction { votes: votes.to_string() });
        }
    }

    /// The chain has used all nonces below `count`. Returns how many of them somebody else used.
    pub(super) fn counted(&mut self, count: u64) -> u64 {
        self.stranded = self.stranded.split_off(&count);
        let Some(Foreign { first, nonces }) = self.nonces.observe_mined(count) else { return 0 };
        self.tally.foreign = self.tally.foreign.saturating_add(nonces);
        self.tell(News::Foreign { first, nonces });
        nonces
    }

    /// Number of the newest block.
    pub(super) fn newest(&self) -> u64 {
        self.head.map_or(0, |(block, _)| block.number)
    }

    /// Takes in everything recorded for nonces whose transactions left the chain.
    pub(in crate::gateway::lane) fn reopened(
        &mut self,
        transactions: Vec<SignedTransaction>,
        now: Instant,
    ) {
        for transaction in transactions {
            let nonce = transaction.nonce;
            let newer = transaction.request.and_then(|key| self.by_request.get(&key).copied());
            let superseded = newer.filter(|newer| *newer > nonce);
            let request = transaction.request;
            if let Some(key) = request {
                self.landed.remove(&key);
            }
            self.hold_open(transaction, now);
            if let (Some(key), Some(newer)) = (request, superseded) {
                self.by_request.insert(key, newer);
            }
            if let Some(slot) = self.open.get_mut(&nonce) {
                slot.doubt();
            }
        }
    }

    /// The query that is due, if any. Pass its answer to [`Book::seen`].
    pub(in crate::gateway::lane) fn look(&mut self, now: Instant) -> Option<Look> {
        let every = if self.is_busy() { LOOK_EVERY } else { IDLE_LOOK_EVERY };
        let stale = now.saturating_duration_since(self.looked_at) >= every;
        let news =
            self.look_again && (self.suspicious || self.open.values().any(Slot::is_worth_a_look));
        if self.looking.is_some() || !(news || stale) {
            return None;
        }
        let suspicious = std::mem::take(&mut self.suspicious);
        self.displaced.retain(|_, (at, _)| now.saturating_duration_since(*at) < FOREIGN_WITHIN);
        let is_open = self.gap_since.is_some() || !self.displaced.is_empty();
        let everyone = self.belief.asks_everyone(is_open, now);
        let lost = self.displaced.values().flat_map(|(_, versions)| versions);
        let lost = lost.filter(|_| everyone).map(|one| (one.nonce, one.hash)).collect();
        (self.looking, self.look_again, self.looked_at) = (Some(suspicious), false, now);
        let versions = |(nonce, slot): (&u64, &Slot)| {
            let nonce = *nonce;
            slot.versions().iter().map(move |version| (nonce, version.hash)).collect::<Vec<_>>()
        };
        let mined = if suspicious { self.recent.newest_first() } else { Vec::new() };
        let open = self.open.iter().flat_map(versions).collect();
        let waits = self.open.values().next().is_some_and(|first| first.waits_for_long(now));
        Some(Look { open, mined, lost, believed: self.belief.count(), waits, everyone })
    }
}

//! What the chain says: heads, the wallet's count, receipts; and what it has taken back.

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

/// The chain is looked at so often, however still it is, while something is open.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// And so often while nothing is: that somebody else sends from the wallet is to be said soon, also
/// where that one answers all requests first.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(15);
/// A nonce that is used without a receipt of ours is somebody else's only after this, where no node
/// ever took our bytes, as far as they say: a node may pass on what it refuses.
const USED_AFTER: Duration = Duration::from_secs(3);
/// The same while one of several nodes does not say whether it has the receipt.
const SILENT_FOR: Duration = Duration::from_mins(1);

impl Book {
    /// A newer block.
    pub fn head(&mut self, head: &Head, now: Instant) {
        // The first one follows nothing: the chain may have gone back since the first look.
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

    /// What the chain says about open nonces, and about those that were mined.
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
            // Otherwise the next head, or a second, shows whether the node only lagged.
            let patience = match (is_silent, slot.is_free()) {
                (true, _) => SILENT_FOR,
                (false, true) => USED_AFTER,
                (false, false) => GONE_AFTER,
            };
            if nonce >= count.max(self.belief.count()) {
                continue;
            }
            let unseen_for = slot.unseen_for(now);
            // The count alone is one node's word, and so is that there is no receipt. And what goes
            // by a count that is not believed comes back to nobody when that turns out wrong.
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
        // What it did not come to is still to be asked, and what it could not know.
        self.suspicious |= (asked_mined && !is_whole) || below;
        // What was seen since this question was asked, it did not answer.
        let since = self.reorganised && self.suspicious && !below;
        // Behind for long is not reorganised: callers are listened to again.
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
                // What was ours is open again, or about to be; what was somebody else's is free.
                let open = self.open.keys().copied();
                let taken = open.chain(self.signing.iter().copied()).chain(self.recent.nonces());
                self.nonces.free_but(count, taken, now);
            }
        }
        if let Some(votes) = reading.votes.as_ref().filter(|votes| !votes.agree()) {
            self.tell(News::Contradiction { votes: votes.to_string() });
        }
    }

    /// So many nonces are used. Answers how many of them by somebody else.
    pub(super) fn counted(&mut self, count: u64) -> u64 {
        self.stranded = self.stranded.split_off(&count);
        let Some(Foreign { first, nonces }) = self.nonces.observe_mined(count) else { return 0 };
        self.tally.foreign = self.tally.foreign.saturating_add(nonces);
        self.tell(News::Foreign { first, nonces });
        nonces
    }

    /// The newest block's number.
    pub(super) fn newest(&self) -> u64 {
        self.head.map_or(0, |(block, _)| block.number)
    }

    /// All bytes recorded for nonces whose transactions left the chain.
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

    /// The question that is due; its answer goes to [`Book::seen`].
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

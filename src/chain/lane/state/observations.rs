//! Events from the chain: heads, the wallet's transaction count, receipts, reorganisations.

use std::time::Duration;

use tokio::time::Instant;

use super::{ChainReport, Effect, LaneState, ReceiptQuery};
use crate::chain::{
    lane::{
        SignedTransaction,
        confirmations::UNCONFIRMED_GONE_AFTER,
        count::{self, CountReading, FOREIGN_WITHIN, KnownNonces},
        events::LaneEvent,
        mined_window::{GONE_AFTER, ReorganisationCheck},
        nonce_slot::NonceSlot,
        nonces::ForeignNonces,
    },
    reader::{Head, Receipt},
};

/// Interval of queries of the chain while transactions are open, even if no head arrives.
const RECEIPTS_EVERY: Duration = Duration::from_secs(1);
/// Interval while nothing is open. It bounds how late the lane notices that somebody else sends from the
/// wallet, even if that other sender answers every request first and nothing is ever open here.
const IDLE_RECEIPTS_EVERY: Duration = Duration::from_secs(15);
/// A used nonce without a receipt of ours counts as displaced after this time, if no node reported that
/// it accepted our bytes. Not at once: a node may forward a transaction that it refuses.
const DISPLACED_AFTER: Duration = Duration::from_secs(3);
/// The same while one of several nodes does not say whether it has the receipt.
const SILENCE_PATIENCE: Duration = Duration::from_mins(1);

impl LaneState {
    pub fn apply_head(&mut self, head: &Head, now: Instant) {
        // The first head has no predecessor: a reorganisation may have happened since the first query.
        let follows = self.head.is_some_and(|last| {
            let (block, connection) = last;
            block == head.block || (head.parent == block.hash && head.connection == connection)
        });
        self.is_reorganised |= self.head.is_some_and(|(last, _)| {
            let (number, next) = (head.block.number, last.number.saturating_add(1));
            head.block != last && (number < next || (number == next && head.parent != last.hash))
        });
        self.may_have_reorganised |= !follows;
        self.has_news = true;
        self.fee_market.apply_base_fee(head.base_fee, now);
        self.fee_market.set_block_gas_limit(head.plausible_gas_limit());
        self.head = Some((head.block, head.connection));
    }

    /// Takes in the answer to a query: open nonces, and mined transactions that may have moved or left
    /// the chain.
    pub(in crate::chain::lane) fn apply_report(&mut self, seen: Option<ChainReport>, now: Instant) {
        let asked_mined = self.query_under_way.take().unwrap_or_default();
        let Some(ChainReport {
            count,
            votes,
            head,
            open,
            mined,
            deep,
            displaced: lost,
            is_silent,
            is_complete: is_whole,
        }) = seen
        else {
            self.may_have_reorganised |= asked_mined;
            return;
        };
        self.apply_count_reading(
            &CountReading {
                count,
                head,
                newest_head: self.newest_position(),
                votes: votes.clone(),
            },
            now,
        );
        for (nonce, receipt) in lost {
            self.reclaim(nonce, &receipt, now);
        }
        let mut unseen = Vec::new();
        for (nonce, receipt) in open {
            match receipt {
                Some(receipt) => self.mark_mined(nonce, &receipt, now),
                None => unseen.push(nonce),
            }
        }
        for nonce in unseen {
            let Some(slot) = self.open.get_mut(&nonce) else { continue };
            // Before that, the next query shows whether the node only lagged.
            let patience = match (is_silent, slot.is_surely_rejected()) {
                (true, _) => SILENCE_PATIENCE,
                (false, true) => DISPLACED_AFTER,
                (false, false) => GONE_AFTER,
            };
            if nonce >= count.max(self.count_belief.count()) {
                continue;
            }
            let unseen_for = slot.receipt_missing_for(now);
            // Neither the count of one node nor a missing receipt is proof. A nonce above the believed
            // count must not be displaced: if that count turned out wrong, its request would be lost.
            let is_used = nonce < self.count_belief.count()
                && votes.as_ref().is_some_and(|all| all.lowest() > nonce);
            if unseen_for >= patience && is_used {
                self.displace(nonce, now);
            } else if unseen_for >= DISPLACED_AFTER {
                self.count_belief.want_vote();
            }
        }
        for (nonce, receipt) in mined.iter().filter_map(|(nonce, one)| Some((nonce, one.as_ref()?)))
        {
            self.confirmations.update(*nonce, receipt);
        }
        let unconfirmed = &self.confirmations;
        let patience = |nonce| {
            if unconfirmed.get(nonce).is_some() { UNCONFIRMED_GONE_AFTER } else { GONE_AFTER }
        };
        let ReorganisationCheck { moved, dropped, has_missing: unsure, is_node_behind: below } =
            self.mined_window.apply_receipts(mined, head, patience, now);
        self.effects.extend(moved.into_iter().map(|(id, block)| Effect::Mined(id, block)));
        if !below {
            self.below_since = None;
        }
        let below_since = below.then(|| *self.below_since.get_or_insert(now));
        // Ask again for what was not reached, and for blocks above the node's head.
        self.may_have_reorganised |= (asked_mined && !is_whole) || below;
        // A new suspicion arose after this query was sent, so its answer does not clear it.
        let since = self.is_reorganised && self.may_have_reorganised && !below;
        // A node that stays behind for long is a slow node, not a reorganisation: accept commands again.
        let maybe_gone =
            below_since.is_some_and(|since| now.saturating_duration_since(since) < GONE_AFTER);
        self.is_reorganised =
            unsure || maybe_gone || self.count_belief.may_have_fallen(now) || since;
        self.may_have_reorganised |= self.is_reorganised;
        for id in &dropped {
            self.confirmations.remove(id.nonce);
        }
        self.confirm_deep(&deep, head);
        if !dropped.is_empty() {
            self.log(LaneEvent::LeftChain { transactions: dropped.len() });
            self.effects.push(Effect::Reopen(dropped));
        }
    }

    /// Ends the submissions of transactions that are deep enough, unless the chain is being reorganised.
    fn confirm_deep(&mut self, deep: &[(u64, Option<Receipt>)], head: Option<u64>) {
        if self.is_reorganised {
            return;
        }
        let check = self.confirmations.apply(deep, head);
        self.may_have_reorganised |= check.is_moved;
        for (nonce, confirmed) in check.confirmed {
            self.confirm(nonce, &confirmed);
        }
    }

    fn apply_count_reading(&mut self, reading: &CountReading, now: Instant) {
        let nonces = &self.nonces;
        let ours = KnownNonces {
            up_to: nonces.first_free(),
            mined: self.mined_window.after_last(),
            foreign_below: |count| nonces.foreign_below(count).map_or(0, |foreign| foreign.count),
        };
        match self.count_belief.apply(reading, ours, now) {
            count::CountChange::Unchanged => {}
            count::CountChange::Risen(count) => _ = self.apply_count(count),
            count::CountChange::Fallen(count) => {
                self.log(LaneEvent::CountFell { count });
                // Our transactions are open again or will be; nonces of somebody else are free.
                let open = self.open.keys().copied();
                let taken =
                    open.chain(self.signing.iter().copied()).chain(self.mined_window.nonces());
                self.nonces.free_but(count, taken, now);
            }
        }
        if let Some(votes) = reading.votes.as_ref().filter(|votes| !votes.agree()) {
            self.log(LaneEvent::Contradiction { votes: votes.to_string() });
        }
    }

    /// The chain has used all nonces below `count`. Returns how many of them somebody else used.
    pub(super) fn apply_count(&mut self, count: u64) -> u64 {
        self.stranded = self.stranded.split_off(&count);
        let Some(ForeignNonces { first, count: nonces }) = self.nonces.observe_mined(count) else {
            return 0;
        };
        self.tally.foreign = self.tally.foreign.saturating_add(nonces);
        self.log(LaneEvent::Foreign { first, nonces });
        nonces
    }

    /// Number of the newest block.
    pub(super) fn newest_position(&self) -> u64 {
        self.head.map_or(0, |(block, _)| block.number)
    }

    /// Takes in everything recorded for nonces whose transactions left the chain.
    pub(in crate::chain::lane) fn apply_reopened(
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
                self.unclaimed_inclusions.remove(&key);
            }
            self.open_slot(transaction, now);
            if let (Some(key), Some(newer)) = (request, superseded) {
                self.by_request.insert(key, newer);
            }
            if let Some(slot) = self.open.get_mut(&nonce) {
                slot.mark_maybe_accepted();
            }
        }
    }

    /// The query that is due, if any. Pass its answer to [`LaneState::apply_report`].
    pub(in crate::chain::lane) fn receipt_query(&mut self, now: Instant) -> Option<ReceiptQuery> {
        let every = if self.is_busy() { RECEIPTS_EVERY } else { IDLE_RECEIPTS_EVERY };
        let stale = now.saturating_duration_since(self.queried_at) >= every;
        let deep = self.confirmations.due(self.newest_position());
        let news = self.has_news
            && (self.may_have_reorganised
                || !deep.is_empty()
                || self.open.values().any(NonceSlot::may_have_receipt));
        if self.query_under_way.is_some() || !(news || stale) {
            return None;
        }
        let suspicious = std::mem::take(&mut self.may_have_reorganised);
        self.displaced.retain(|_, (at, _)| now.saturating_duration_since(*at) < FOREIGN_WITHIN);
        let is_open = self.gap_since.is_some() || !self.displaced.is_empty();
        let everyone = self.count_belief.vote_due(is_open, now);
        let lost = self.displaced.values().flat_map(|(_, versions)| versions);
        let lost = lost.filter(|_| everyone).map(|one| (one.nonce, one.hash)).collect();
        (self.query_under_way, self.has_news, self.queried_at) = (Some(suspicious), false, now);
        let versions = |(nonce, slot): (&u64, &NonceSlot)| {
            let nonce = *nonce;
            slot.versions().iter().map(move |version| (nonce, version.hash)).collect::<Vec<_>>()
        };
        let mined = if suspicious { self.mined_window.newest_first() } else { Vec::new() };
        let open = self.open.iter().flat_map(versions).collect();
        let waits = self.open.values().next().is_some_and(|first| first.is_receipt_overdue(now));
        Some(ReceiptQuery {
            open,
            mined,
            deep,
            displaced: lost,
            believed_count: self.count_belief.count(),
            is_lowest_overdue: waits,
            asks_all_nodes: everyone,
        })
    }
}

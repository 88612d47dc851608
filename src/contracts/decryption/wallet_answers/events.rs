//! The second source: response events by id, in the blocks after the request.

use std::collections::{BTreeSet, HashSet};

use super::{AnswerQuery, AnswerSearch, SENDERS_AT_ONCE};
use crate::{
    chain::{
        quirks::RangeRefusal,
        reader::{ChainReader, LogRange},
        rpc_error::RpcError,
    },
    contracts::{
        abi::{self, Responder},
        decryption::RequestContract,
    },
    domain::{Address, B256, Event, U256},
};

/// Events are searched in this many blocks after a request: more than an hour.
const EVENTS_WITHIN: u64 = 20_000;
/// Blocks per call for events, if the node accepts that, and most calls of one search.
const PAGE: u64 = 2_000;
pub(super) const MOST_PAGES: usize = 64;

impl<P: ChainReader> RequestContract<P> {
    pub(super) async fn find_events(
        &self,
        wallet: Address,
        look: &mut AnswerSearch<'_>,
    ) -> Result<(), RpcError> {
        // Those of keys and CRSs index nothing, and come hours later.
        let has_events = |one: &AnswerQuery| {
            let indexes = !one.kind.is_key_operation() || one.kind.is_lifecycle();
            indexes && !(one.id >> 248_usize).is_zero()
        };
        let (mut left, mut page) = (MOST_PAGES, PAGE);
        for window in look.windows(has_events, EVENTS_WITHIN) {
            let mut next = window.from;
            while next <= window.to && left > 0 {
                let ids = look.ids_of(&window);
                if ids.is_empty() {
                    break;
                }
                left -= 1;
                let to = window.to.min(next.saturating_add(page - 1));
                let filter = self.of(&abi::RESPONSE_TOPICS, &ids);
                match self.provider.logs(filter, LogRange::Numbers { from: next, to }).await {
                    Ok(told) => {
                        for (id, block) in self.own_response_events(wallet, told.value).await? {
                            look.record(id, block);
                        }
                        next = to + 1;
                    }
                    Err(error) if page > 1 => {
                        let wished = match error.range_refusal() {
                            Some(RangeRefusal::Blocks { limit: most }) => most,
                            Some(RangeRefusal::Results) => None,
                            None => return Err(error),
                        };
                        page = wished.unwrap_or(page).clamp(1, page / 2);
                    }
                    Err(error) => return Err(error),
                }
            }
            // What was started counts as read: a node that returns so little at once is not asked for
            // more.
            look.postpone(&window, |block| block >= next && next <= window.to);
        }
        Ok(())
    }

    /// Ids and blocks of the response events that report this wallet's answers.
    async fn own_response_events(
        &self,
        wallet: Address,
        events: Vec<Event>,
    ) -> Result<Vec<(U256, u64)>, RpcError> {
        let (mut own, mut nameless) = (Vec::new(), Vec::new());
        for event in events {
            match abi::parse_response_event(&event) {
                Some((id, Responder::Named(sender))) if sender == wallet => {
                    own.push((id, event.block.number));
                }
                Some((id, Responder::TransactionSender)) => {
                    nameless.push((event.transaction, id, event.block.number));
                }
                Some(_) | None => {}
            }
        }
        let transactions: BTreeSet<B256> = nameless.iter().map(|(hash, ..)| *hash).collect();
        let transactions: Vec<B256> = transactions.into_iter().collect();
        let mut ours = HashSet::new();
        for asked in transactions.chunks(SENDERS_AT_ONCE) {
            let senders = self.provider.senders(asked).await?;
            let asked = asked.iter().zip(senders);
            ours.extend(asked.filter(|(_, sender)| *sender == Some(wallet)).map(|(hash, _)| *hash));
        }
        let nameless = nameless.into_iter().filter(|(hash, ..)| ours.contains(hash));
        own.extend(nameless.map(|(_, id, block)| (id, block)));
        Ok(own)
    }
}

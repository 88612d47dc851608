//! The real journal, heard: each call in the trace, and places to die around it.

use super::world::Life;
use crate::{
    domain::{BlockRef, Event, HoldReason, LedgerError, RequestKey, U256},
    flow::{Answered, Batch, RequestLedger, Standing, Step, Taken},
    gateway::lane::{GivenUp, SignedTransaction, TransactionId, TransactionLedger},
    journal::Journal,
};

/// Wallet and Core of this world are registered as they have to be.
const BLAMES_THE_OPERATOR: [HoldReason; 3] = [
    HoldReason::WalletNotRegistered,
    HoldReason::SignerNotRegistered,
    HoldReason::WalletCoreMismatch,
];

#[derive(Clone)]
pub(super) struct Heard {
    pub life: Life,
    pub journal: Journal,
}

pub(super) fn short(key: RequestKey) -> String {
    format!("{}/{}", key.id & U256::from(u64::MAX), &key.content.to_string()[2..8])
}

impl Heard {
    async fn call<T>(
        &self,
        what: String,
        call: impl Future<Output = Result<T, LedgerError>> + Send,
        shown: impl FnOnce(&T) -> String + Send,
    ) -> Result<T, LedgerError> {
        self.life.point().await;
        let answer = call.await;
        let note = answer.as_ref().map_or_else(ToString::to_string, shown);
        // The file's name is another one at each run.
        let note = if answer.is_err() { "failed".to_owned() } else { note };
        self.life.world.say(format_args!("journal: {what}: {note}"));
        self.life.point().await;
        answer
    }
}

impl RequestLedger for Heard {
    async fn namesakes(&self, key: RequestKey) -> Result<Vec<Event>, LedgerError> {
        let what = format!("namesakes {}", short(key));
        let told = |known: &Vec<Event>| format!("{}", known.len());
        self.call(what, self.journal.namesakes(key), told).await
    }

    async fn answered(&self, ids: Vec<U256>) -> Result<Vec<Answered>, LedgerError> {
        let what = format!("answered {}", ids.len());
        self.call(what, self.journal.answered(ids), |answered| format!("{answered:?}")).await
    }

    async fn arrive(&self, batch: Batch) -> Result<Taken, LedgerError> {
        let keys: Vec<String> = batch.arrivals.iter().map(|one| short(one.key)).collect();
        let cursor = batch.cursor.map(|cursor| cursor.number);
        let what = format!("arrive [{}] cursor {cursor:?}", keys.join(" "));
        self.call(what, self.journal.arrive(batch), |taken| format!("{taken:?}")).await
    }

    async fn note(&self, key: RequestKey, step: Step) -> Result<(), LedgerError> {
        if let Step::Held(hold) = &step
            && BLAMES_THE_OPERATOR.contains(&hold.reason)
        {
            self.life.world.violation(format!("{} is held: {hold}", short(key)));
        }
        let text = match &step {
            Step::Answered(_) => "Answered".to_owned(),
            Step::Asked
            | Step::Forgotten
            | Step::Submitted { .. }
            | Step::Returned { .. }
            | Step::Failed { .. }
            | Step::Held(_)
            | Step::Worked(_)
            | Step::Settled(_) => format!("{step:?}"),
        };
        let what = format!("note {} {text}", short(key));
        self.call(what, self.journal.note(key, step), |()| "queued".to_owned()).await
    }

    async fn standing(&self, key: RequestKey) -> Result<Option<Standing>, LedgerError> {
        let what = format!("standing {}", short(key));
        self.call(what, self.journal.standing(key), |standing| match standing {
            Some(standing) => format!("{} {:?}", standing.stage.as_str(), standing.held),
            None => "none".to_owned(),
        })
        .await
    }
}

impl TransactionLedger for Heard {
    async fn signed(&self, transactions: Vec<SignedTransaction>) -> Result<(), LedgerError> {
        let shown = transactions.iter().map(|one| {
            let request = one.request.map_or_else(|| "nothing".to_owned(), short);
            format!("nonce {} {} for {request}", one.nonce, one.hash)
        });
        let what = format!("signed {}", shown.collect::<Vec<_>>().join(", "));
        self.call(what, self.journal.signed(transactions), |()| "stored".to_owned()).await
    }

    async fn mined(&self, id: TransactionId, block: BlockRef) -> Result<(), LedgerError> {
        let what = format!("mined {} in {}", id.hash, block.number);
        self.call(what, self.journal.mined(id, block), |()| "queued".to_owned()).await
    }

    async fn gave_up(&self, ids: Vec<TransactionId>, why: GivenUp) -> Result<(), LedgerError> {
        let what = format!("gave up {ids:?}: {}", why.as_str());
        self.call(what, self.journal.gave_up(ids, why), |()| "queued".to_owned()).await
    }

    async fn reopen(&self, ids: Vec<TransactionId>) -> Result<Vec<SignedTransaction>, LedgerError> {
        let what = format!("dropped by the chain {ids:?}");
        let told = |open: &Vec<SignedTransaction>| format!("{} open again", open.len());
        self.call(what, self.journal.reopen(ids), told).await
    }
}

//! What earlier runs left in the journal.

use tokio::time::Instant;

use crate::{
    chain::lane::{self, ChainKind, Recovered},
    domain::BlockRef,
    flow::{UnprovenRange, arrivals::ids::KnownIds},
    journal::{Journal, JournalError, Position, Query},
};

/// The journal that the instance writes.
pub(super) struct InHand {
    pub(super) journal: Journal,
    pub(super) begun_before: Option<u64>,
}

/// What an earlier run left in the journal.
pub(super) struct StoredState {
    pub(super) transactions: Recovered,
    pub(super) reading: ReadingPosition,
}

/// The position of an earlier run's reading.
pub(super) struct ReadingPosition {
    pub(super) cursor: Option<BlockRef>,
    pub(super) began_after: Option<u64>,
    /// Where reading had begun according to an abandoned journal of this chain (one with a wrong
    /// genesis hash).
    pub(super) begun_before: Option<u64>,
    pub(super) read_twice: Option<u64>,
    pub(super) unproven: Vec<UnprovenRange>,
    /// The known request ids.
    pub(super) ids: KnownIds,
    pub(super) newest: Option<Position>,
}

impl ReadingPosition {
    pub(super) async fn read(
        InHand { journal, begun_before }: &InHand,
    ) -> Result<Self, JournalError> {
        Ok(Self {
            cursor: journal.ask(Query::Cursor).await?,
            began_after: journal.ask(Query::BegunAfter).await?,
            begun_before: *begun_before,
            read_twice: journal.ask(Query::ReadTwice).await?,
            unproven: journal.ask(Query::Unproven).await?,
            ids: KnownIds::from_stored(&journal.ask(Query::SeenIds).await?, Instant::now())
                .with_blocks(&journal.newest_ids().await?),
            newest: journal.ask(Query::NewestPosition).await?,
        })
    }
}

impl StoredState {
    /// `kind`: that of the chain the journal is of.
    pub(super) async fn read(opened: &InHand, kind: ChainKind) -> Result<Self, JournalError> {
        let journal = &opened.journal;
        let mut transactions = read_sent_transactions(journal, kind).await?;
        if kind == ChainKind::Sequencer {
            // Mined, but the outcome was not noted: the lane reads these receipts again, so that the
            // outcome stays the same.
            transactions.open.extend(journal.ask(Query::UnsettledTransactions).await?);
        }
        transactions.open.sort_by_key(|transaction| transaction.nonce);
        Ok(Self { transactions, reading: ReadingPosition::read(opened).await? })
    }
}

/// Transactions that earlier runs have sent, as the journal knows them. `kind`: that of its chain.
pub(super) async fn read_sent_transactions(
    journal: &Journal,
    kind: ChainKind,
) -> Result<Recovered, JournalError> {
    let mut open = journal.ask(Query::OpenTransactions).await?;
    if let ChainKind::Mempool(_) = kind {
        // Mined and perhaps not deep enough: a reorganisation may have another version of them mined.
        let unconfirmed = |slot| Query::UnconfirmedTransactions(lane::MINED_FOLLOWED, slot);
        open.extend(journal.ask(unconfirmed).await?);
        open.sort_by_key(|transaction| transaction.nonce);
    }
    Ok(Recovered {
        open,
        mined: journal.recently_mined(lane::MINED_FOLLOWED).await?,
        highest: journal.ask(Query::HighestNonce).await?,
        stranded: journal.ask(Query::StrandedTransactions).await?,
    })
}

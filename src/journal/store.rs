//! The port to what a journal is kept in, and all that is asked of it. Nothing above knows what that is:
//! [`super::sqlite`] keeps it in a file.
//!
//! Who opens a store acquires its *tenure* first: the exclusive right to write it and to sign for its
//! wallet. It is held as long as the [`Store`] lives, and [`Store::tenure_loss`] tells of its loss. Reads need
//! none ([`StoreReader`]): they run beside the writer, and see what is durable.
//!
//! Everything here blocks, and is called where that hurts nobody ([`crate::machine::Machine::run`]).

use tokio::sync::oneshot;

use super::{
    Counts, JournalError, JournaledTransaction, Position, RequestPage, RequestRecord,
    RequestSummary, Space, StoreError,
    commands::{Command, CommandResult},
};
use crate::{
    chain::lane::{MinedTransaction, SignedTransaction},
    domain::{BlockRef, Event, RequestKey, RequestSource, U256},
    flow::ledger::{AnsweredHere, IdRange, UnprovenRange},
    telemetry::metrics::RequestGauges,
};

/// The side that writes. Dropping it gives the tenure back.
pub trait Store: Send + 'static {
    /// Stores all of these or none, in their order, and answers what each did once that is durable.
    ///
    /// No command fails alone: unknown keys, repeated hashes and steps that contradict the stage change
    /// nothing. After a [`Full`](super::Fault::Full), [`Locked`](super::Fault::Locked) or
    /// [`Away`](super::Fault::Away) nothing is stored, and the same may be tried again.
    fn commit(&mut self, commands: &[Command]) -> Result<Vec<CommandResult>, StoreError>;

    /// Asked after each commit, before anybody is told of it: whether the tenure was lost, and with it
    /// whether what was committed counts. `None`: it is held.
    fn tenure_loss(&mut self) -> Option<JournalError>;

    /// Which one it is.
    fn id(&self) -> StoreId;
}

/// The side that reads.
pub trait StoreReader: Send {
    /// Answers in the query's slot. What is asked of requests, cursor and ids is about this source, what is
    /// asked of transactions about its chain.
    fn query(&self, of: RequestSource, query: Query);
}

/// Tells a store from another one that somebody makes under its name later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub(super) Option<(u64, u64)>);

/// Where the answer to a query goes.
#[derive(Debug)]
pub struct QueryReply<T>(oneshot::Sender<Result<T, StoreError>>);

impl<T> QueryReply<T> {
    /// And where it comes out.
    pub fn new() -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (slot, answer) = oneshot::channel();
        (Self(slot), answer)
    }

    /// Who asked may be gone.
    pub fn send(self, answer: Result<T, StoreError>) {
        let _ = self.0.send(answer);
    }
}

/// What is asked of a store.
#[derive(Debug)]
pub enum Query {
    /// The last block whose requests are all stored.
    Cursor(QueryReply<Option<BlockRef>>),
    /// The number of the first cursor ever stored.
    BegunAfter(QueryReply<Option<u64>>),
    /// Up to which block all were read twice, if that is known.
    ReadTwice(QueryReply<Option<u64>>),
    /// Blocks up to the cursor whose logs nobody could prove.
    Unproven(QueryReply<Vec<UnprovenRange>>),
    /// Which ids of requests are known.
    SeenIds(QueryReply<Vec<IdRange>>),
    /// Ids and blocks of the requests that were stored last, so many, from the oldest to the newest.
    NewestIds(u32, QueryReply<Vec<(U256, u64)>>),
    /// Up to which block answers may have been given without this journal.
    ForgottenUpTo(QueryReply<Option<u64>>),
    /// Requests without an outcome that are not held, by name alone: oldest first, so many at most of those
    /// after a position.
    UnfinishedKeys(Option<Position>, u32, QueryReply<Vec<(Position, RequestKey)>>),
    /// All that is stored of one request, settled or not.
    Request(RequestKey, QueryReply<Option<RequestRecord>>),
    /// The place of the request that arrived last.
    NewestPosition(QueryReply<Option<Position>>),
    /// Events of other requests with the same id: a few.
    EventsOfSameId(RequestKey, QueryReply<Vec<Event>>),
    /// Which of these ids were answered, in their order.
    AnsweredHere(Vec<U256>, QueryReply<Vec<AnsweredHere>>),
    /// A page of requests in the order of their arrival.
    Summaries(RequestPage, QueryReply<Vec<RequestSummary>>),
    /// The same with all that is stored of each.
    Records(RequestPage, QueryReply<Vec<RequestRecord>>),
    /// All requests of this id: after a reorganisation there may be several.
    WithId(U256, QueryReply<Vec<RequestRecord>>),
    /// The oldest request without an outcome that is not held.
    Oldest(QueryReply<Option<RequestSummary>>),
    /// Signed, and of a nonce that no stored transaction is known to have used; by nonce, then by age.
    OpenTransactions(QueryReply<Vec<SignedTransaction>>),
    /// Given up beyond a gap of nonces, as far as the chain has not come there; by nonce.
    StrandedTransactions(QueryReply<Vec<SignedTransaction>>),
    /// The last ones, where they are mined, of the contract's requests that have no outcome yet.
    UnsettledTransactions(QueryReply<Vec<SignedTransaction>>),
    /// What of the last so many nonces is known to be mined, in their order.
    RecentlyMined(u64, QueryReply<Vec<MinedTransaction>>),
    /// The highest nonce that was ever signed.
    HighestNonce(QueryReply<Option<u64>>),
    /// Every transaction signed for a request, oldest first.
    TransactionsOf(RequestKey, QueryReply<Vec<JournaledTransaction>>),
    /// How many requests stand where. Reads an index over all rows.
    Counts(QueryReply<Counts>),
    /// Where all requests without an outcome stand. Reads just those.
    RequestGauges(QueryReply<Vec<RequestGauges>>),
    /// Whether there is no cursor, request or transaction of any contract.
    IsEmpty(QueryReply<bool>),
    /// What it takes of its disk.
    Space(QueryReply<Space>),
}

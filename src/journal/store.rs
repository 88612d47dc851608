//! The port to a journal's storage, with all queries. Nothing above knows how it is stored:
//! [`super::sqlite`] uses a file.
//!
//! To open a store is to acquire its *tenure*: the exclusive right to write it and to sign for its
//! wallet. The tenure lasts as long as the [`Store`]; [`Store::tenure_loss`] reports its loss. Reads
//! need no tenure ([`StoreReader`]): they run beside the writer and see what is durable.
//!
//! Everything here blocks, so it runs on threads for blocking work ([`crate::machine::Machine::run`]).

use tokio::sync::oneshot;

use super::{
    Counts, JournalError, JournaledTransaction, Position, RequestPage, RequestRecord,
    RequestSummary, Space, StoreError,
    commands::{Command, CommandResult},
};
use crate::{
    chain::lane::{MinedTransaction, SignedTransaction},
    domain::{
        B256, BlockRef, Event, Generation, KeyRepresentation, RequestKey, RequestSource, U256,
    },
    flow::ledger::{AnsweredHere, IdRange, UnprovenRange},
    telemetry::metrics::RequestGauges,
};

/// The writing side. Dropping it returns the tenure.
pub trait Store: Send + 'static {
    /// Stores all of these commands or none, in order, and returns their results once they are durable.
    ///
    /// A single command never fails: unknown keys, repeated hashes and illegal steps change nothing. After
    /// [`Full`](super::StoreFault::Full), [`Locked`](super::StoreFault::Locked) or
    /// [`Unmounted`](super::StoreFault::Unmounted) nothing is stored, and the same commands may be
    /// committed again.
    fn commit(&mut self, commands: &[Command]) -> Result<Vec<CommandResult>, StoreError>;

    /// Called after each commit, before its callers are answered: whether the tenure was lost, in which
    /// case the commit does not count. Also called at intervals while nothing is committed. `None`: it is held.
    fn tenure_loss(&mut self) -> Option<JournalError>;

    /// Identifies this store.
    fn id(&self) -> StoreId;
}

/// The reading side.
pub trait StoreReader: Send {
    /// Sends the result to the query's reply. Requests, cursor and ids are those of this source,
    /// transactions those of its chain.
    fn query(&self, of: RequestSource, query: Query);
}

/// Tells a store from another one that is created later under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub(super) Option<(u64, u64)>);

/// The sender of a query's result.
#[derive(Debug)]
pub struct QueryReply<T>(oneshot::Sender<Result<T, StoreError>>);

impl<T> QueryReply<T> {
    /// Also returns the receiver.
    pub fn new() -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (slot, answer) = oneshot::channel();
        (Self(slot), answer)
    }

    /// The caller may have been dropped.
    pub fn send(self, answer: Result<T, StoreError>) {
        let _ = self.0.send(answer);
    }
}

/// A query of a store.
#[derive(Debug)]
pub enum Query {
    /// The last block up to which all requests are stored.
    Cursor(QueryReply<Option<BlockRef>>),
    /// The number of the first cursor ever stored.
    BegunAfter(QueryReply<Option<u64>>),
    /// The block up to which all were read twice, if known.
    ReadTwice(QueryReply<Option<u64>>),
    /// Blocks up to the cursor whose logs no node could prove complete.
    Unproven(QueryReply<Vec<UnprovenRange>>),
    /// The known ids of requests.
    SeenIds(QueryReply<Vec<IdRange>>),
    /// Ids and blocks of this many requests that were stored last, from the oldest to the newest.
    NewestIds(u32, QueryReply<Vec<(U256, u64)>>),
    /// The block up to which answers may have been given without this journal knowing.
    ForgottenUpTo(QueryReply<Option<u64>>),
    /// The deployment that was noted last, and when it was seen first (Unix ms).
    Deployment(QueryReply<Option<(String, u64)>>),
    /// The generation that is known to have stood at the contract's address.
    Generation(QueryReply<Option<Generation>>),
    /// Keys of requests that have no outcome and are not held: the oldest first, at most this many after a
    /// position.
    UnfinishedKeys(Option<Position>, u32, QueryReply<Vec<(Position, RequestKey)>>),
    /// All that is stored of one request, settled or not.
    Request(RequestKey, QueryReply<Option<RequestRecord>>),
    /// The position of the request that arrived last.
    NewestPosition(QueryReply<Option<Position>>),
    /// Events of other requests with the same id: a few.
    EventsOfSameId(RequestKey, QueryReply<Vec<Event>>),
    /// Events of other requests with the same id in this transaction that were not orphaned: at most so many.
    EventsOfSameTransaction(RequestKey, B256, u32, QueryReply<Vec<Event>>),
    /// Which of these ids were answered, in their order.
    AnsweredHere(Vec<U256>, QueryReply<Vec<AnsweredHere>>),
    /// Whether a request with this id ended as done without an answer.
    IsDone(U256, QueryReply<bool>),
    IsUnasked(U256, QueryReply<bool>),
    /// The kind of key that the preparation with this id is made for, if that is recorded.
    Representation(U256, QueryReply<Option<KeyRepresentation>>),
    /// A page of requests in the order of their arrival.
    Summaries(RequestPage, QueryReply<Vec<RequestSummary>>),
    /// The same with all that is stored of each.
    Records(RequestPage, QueryReply<Vec<RequestRecord>>),
    /// All requests with this id: after a reorganisation there may be several.
    WithId(U256, QueryReply<Vec<RequestRecord>>),
    /// The oldest decryption that has no outcome and is not held.
    Oldest(QueryReply<Option<RequestSummary>>),
    /// Signed transactions whose nonce no stored transaction is known to have used; by nonce, then by age.
    OpenTransactions(QueryReply<Vec<SignedTransaction>>),
    /// Transactions given up beyond a gap of nonces that the chain has not reached yet; by nonce.
    StrandedTransactions(QueryReply<Vec<SignedTransaction>>),
    /// The last transactions, if mined, of the contract's requests without an outcome.
    UnsettledTransactions(QueryReply<Vec<SignedTransaction>>),
    /// Everything recorded for those of the last so many nonces that are known to be used and whose requests
    /// have no outcome; by nonce, then by age.
    UnconfirmedTransactions(u64, QueryReply<Vec<SignedTransaction>>),
    /// The transactions of the last so many nonces that are known to be mined, by nonce.
    RecentlyMined(u64, QueryReply<Vec<MinedTransaction>>),
    /// The highest nonce that was ever signed.
    HighestNonce(QueryReply<Option<u64>>),
    /// Every transaction signed for a request, oldest first.
    TransactionsOf(RequestKey, QueryReply<Vec<JournaledTransaction>>),
    /// The number of requests in each state. Scans an index over all rows.
    Counts(QueryReply<Counts>),
    /// The state of all requests without an outcome. Reads only those.
    RequestGauges(QueryReply<Vec<RequestGauges>>),
    /// Whether there is no cursor, request or transaction of any contract.
    IsEmpty(QueryReply<bool>),
    /// Its disk space.
    Space(QueryReply<Space>),
}

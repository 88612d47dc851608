//! The port to what a journal is kept in, and all that is asked of it. Nothing above knows what that is:
//! [`super::sqlite`] keeps it in a file.
//!
//! Who opens a store acquires its *tenure* first: the exclusive right to write it and to sign for its
//! wallet. It is held as long as the [`Store`] lives, and [`Store::lost`] tells of its loss. Reads need
//! none ([`Reads`]): they run beside the writer, and see what is durable.
//!
//! Everything here blocks, and is called where that hurts nobody ([`crate::machine::Machine::run`]).

use tokio::sync::oneshot;

use super::{
    Counts, JournalError, JournaledTransaction, Listed, Listing, Position, RequestRecord, Space,
    StoreError,
    commands::{Command, Done},
};
use crate::{
    domain::{BlockRef, Event, RequestKey, Source, U256},
    flow::ledger::{Answered, IdRun, Unproven},
    gateway::lane::{MinedTransaction, SignedTransaction},
    metrics::Standing,
};

/// The side that writes. Dropping it gives the tenure back.
pub trait Store: Send + 'static {
    /// Stores all of these or none, in their order, and answers what each did once that is durable.
    ///
    /// No command fails alone: unknown keys, repeated hashes and steps that contradict the stage change
    /// nothing. After a [`Full`](super::Fault::Full), [`Locked`](super::Fault::Locked) or
    /// [`Away`](super::Fault::Away) nothing is stored, and the same may be tried again.
    fn commit(&mut self, commands: &[Command]) -> Result<Vec<Done>, StoreError>;

    /// Asked after each commit, before anybody is told of it: whether the tenure was lost, and with it
    /// whether what was committed counts. `None`: it is held.
    fn lost(&mut self) -> Option<JournalError>;

    /// Which one it is.
    fn mark(&self) -> Mark;
}

/// The side that reads.
pub trait Reads: Send {
    /// Answers in the query's slot. What is asked of requests, cursor and ids is about this source, what is
    /// asked of transactions about its chain.
    fn query(&self, of: Source, query: Query);
}

/// Tells a store from another one that somebody makes under its name later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub(super) Option<(u64, u64)>);

/// Where the answer to a query goes.
#[derive(Debug)]
pub struct Slot<T>(oneshot::Sender<Result<T, StoreError>>);

impl<T> Slot<T> {
    /// And where it comes out.
    pub fn new() -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (slot, answer) = oneshot::channel();
        (Self(slot), answer)
    }

    /// Who asked may be gone.
    pub fn fill(self, answer: Result<T, StoreError>) {
        let _ = self.0.send(answer);
    }
}

/// What is asked of a store.
#[derive(Debug)]
pub enum Query {
    /// The last block whose requests are all stored.
    Cursor(Slot<Option<BlockRef>>),
    /// The number of the first cursor ever stored.
    BegunAfter(Slot<Option<u64>>),
    /// Up to which block all were read twice, if that is known.
    ReadTwice(Slot<Option<u64>>),
    /// Blocks up to the cursor whose logs nobody could prove.
    Unproven(Slot<Vec<Unproven>>),
    /// Which ids of requests are known.
    SeenIds(Slot<Vec<IdRun>>),
    /// Ids and blocks of the requests that were stored last, so many, from the oldest to the newest.
    NewestIds(u32, Slot<Vec<(U256, u64)>>),
    /// Up to which block answers may have been given without this journal.
    ForgottenUpTo(Slot<Option<u64>>),
    /// Requests without an outcome that are not held, by name alone: oldest first, so many at most of those
    /// after a position.
    UnfinishedKeys(Option<Position>, u32, Slot<Vec<(Position, RequestKey)>>),
    /// All that is stored of one request, settled or not.
    Request(RequestKey, Slot<Option<RequestRecord>>),
    /// The place of the request that arrived last.
    Newest(Slot<Option<Position>>),
    /// Events of other requests with the same id: a few.
    Namesakes(RequestKey, Slot<Vec<Event>>),
    /// Which of these ids were answered, in their order.
    Answered(Vec<U256>, Slot<Vec<Answered>>),
    /// A page of requests in the order of their arrival.
    Listed(Listing, Slot<Vec<Listed>>),
    /// The same with all that is stored of each.
    Records(Listing, Slot<Vec<RequestRecord>>),
    /// All requests of this id: after a reorganisation there may be several.
    WithId(U256, Slot<Vec<RequestRecord>>),
    /// The oldest request without an outcome that is not held.
    Oldest(Slot<Option<Listed>>),
    /// Signed, and of a nonce that no stored transaction is known to have used; by nonce, then by age.
    OpenTransactions(Slot<Vec<SignedTransaction>>),
    /// Given up beyond a gap of nonces, as far as the chain has not come there; by nonce.
    StrandedTransactions(Slot<Vec<SignedTransaction>>),
    /// The last ones, where they are mined, of the contract's requests that have no outcome yet.
    UnsettledTransactions(Slot<Vec<SignedTransaction>>),
    /// What of the last so many nonces is known to be mined, in their order.
    RecentlyMined(u64, Slot<Vec<MinedTransaction>>),
    /// The highest nonce that was ever signed.
    HighestNonce(Slot<Option<u64>>),
    /// Every transaction signed for a request, oldest first.
    TransactionsOf(RequestKey, Slot<Vec<JournaledTransaction>>),
    /// How many requests stand where. Reads an index over all rows.
    Counts(Slot<Counts>),
    /// Where all requests without an outcome stand. Reads just those.
    Standings(Slot<Vec<Standing>>),
    /// Whether there is no cursor, request or transaction of any contract.
    IsEmpty(Slot<bool>),
    /// What it takes of its disk.
    Space(Slot<Space>),
}

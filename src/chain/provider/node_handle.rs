//! One endpoint, as its callers see it: its connection, and how it answered lately.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    batch::BatchSupport,
    block_hashes::BlockHashSupport,
    client::Client,
    connection::ConnectionState,
    endpoint::Endpoint,
    identity::{KnownChain, NodeIdentity},
    selection::{BlockArrival, ChainMatch, NodeObservation},
};
use crate::{
    chain::{quirks::SyncTimeoutFormat, reader::Head, rpc_error::RpcError},
    telemetry::log_throttle::LogThrottle,
    time::recent_map::RecentMap,
};

/// Unanswered calls in a row after which an endpoint counts as failing.
const FAILING_AFTER: u32 = 2;
/// Part of a call's deadline that one endpoint may use while others could be asked.
pub(super) const ATTEMPT_DEADLINE: Duration = Duration::from_secs(3);
/// For this long an endpoint that left a call unanswered is asked last for the same method. After that,
/// and for as long as it is remembered, it gets this shorter deadline.
const HUNG_LATELY: Duration = Duration::from_mins(1);
const HUNG_ATTEMPT_DEADLINE: Duration = Duration::from_millis(500);
pub(super) const HUNG_FOR: Duration = Duration::from_mins(10);
/// Number of methods for which that is remembered; more than we use.
pub(super) const METHODS: usize = 64;

/// One endpoint, as its callers see it.
#[derive(Clone, Debug)]
pub(super) struct NodeHandle {
    pub endpoint: Arc<Endpoint>,
    pub state: watch::Receiver<ConnectionState>,
    pub heads: watch::Receiver<Option<Head>>,
    pub last_block: watch::Receiver<Option<BlockArrival>>,
    pub identity: watch::Receiver<NodeIdentity>,
    pub recheck_head: Arc<Notify>,
    pub claim: Arc<watch::Sender<Option<u64>>>,
    pub recheck_identity: Arc<Notify>,
    /// Unanswered calls in a row.
    pub unanswered: Arc<AtomicU32>,
    pub sync_timeout_format: Arc<Mutex<SyncTimeoutFormat>>,
    pub batches: Arc<BatchSupport>,
    pub block_hashes: Arc<BlockHashSupport>,
    /// Methods that it left unanswered, and since when.
    pub hanging_methods: Arc<Mutex<RecentMap<&'static str, Instant>>>,
    /// Throttles repeated log lines.
    pub repeats: Arc<Mutex<LogThrottle>>,
}

impl NodeHandle {
    pub(super) fn record_answer(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
        self.endpoint.answered();
    }

    /// How long it must be left alone. Zero if it is not connected: nobody waits for it then.
    pub(super) fn rate_limited_for(&self) -> Duration {
        let up = matches!(&*self.state.borrow(), ConnectionState::Up(_));
        if up { self.endpoint.rate_limited_for() } else { Duration::ZERO }
    }

    pub(super) fn record_unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// Deadline of a call of this method while another node could be asked. `None`: ask the others
    /// first.
    pub(super) fn attempt_timeout(&self, method: &'static str) -> Option<Duration> {
        let (now, hangs) = (Instant::now(), self.hanging_methods());
        match hangs.get(&method, now) {
            None => Some(ATTEMPT_DEADLINE),
            Some(since) if now.saturating_duration_since(*since) < HUNG_LATELY => None,
            Some(_) => Some(HUNG_ATTEMPT_DEADLINE),
        }
    }

    /// Records whether a call of this method was left unanswered.
    pub(super) fn record_timeout(&self, method: &'static str, hung: bool) {
        let (now, mut hangs) = (Instant::now(), self.hanging_methods());
        if hung {
            *hangs.touch(method, now, || now) = now;
        } else {
            hangs.remove(&method);
        }
    }

    fn hanging_methods(&self) -> MutexGuard<'_, RecentMap<&'static str, Instant>> {
        self.hanging_methods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The form of `eth_sendRawTransactionSync` that it accepts, as far as known.
    pub(super) fn sync_timeout_format(&self) -> SyncTimeoutFormat {
        *self.sync_timeout_format.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the form after an error, unless another call already did.
    pub(super) fn set_sync_timeout_format(&self, was: SyncTimeoutFormat, now: SyncTimeoutFormat) {
        let mut sync = self.sync_timeout_format.lock().unwrap_or_else(PoisonError::into_inner);
        if *sync == was {
            *sync = now;
        }
    }

    /// Log throttle per problem: the number of occurrences since the last line, if it is time for
    /// another one.
    pub(super) fn should_log(&self, odd: &'static str) -> Option<u64> {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        repeats.should_log(odd, Instant::now())
    }

    /// Host, whether it is connected and of the right chain, and newest block.
    pub(super) fn health(&self) -> (&str, bool, Option<u64>) {
        let up = self.is_connected() && self.identity.borrow().chain_match != ChainMatch::Different;
        (self.endpoint.host(), up, self.heads.borrow().map(|head| head.block.number))
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(&*self.state.borrow(), ConnectionState::Up(_))
    }

    /// Whether it was last found to be of another chain.
    pub(super) fn is_of_other_chain(&self) -> bool {
        matches!(&*self.state.borrow(), ConnectionState::WrongChain(_))
            || self.identity.borrow().chain_match == ChainMatch::Different
    }

    /// Why it is not read from although it is connected.
    pub(super) fn contradiction(&self) -> Option<RpcError> {
        let found = self.identity.borrow();
        let another = self.is_connected() && found.chain_match == ChainMatch::Different;
        another.then(|| self.endpoint.unavailable(&format!("not read from: {}", found.why)))
    }

    /// Asks the node to prove that it has this block.
    pub(super) fn check_claim(&self, number: u64) {
        self.claim.send_replace(Some(number));
        self.recheck_identity.notify_one();
    }

    /// Asks the connection to check the chain again: more is known.
    pub(super) fn recheck_identity(&self) {
        self.recheck_identity.notify_one();
    }

    pub(super) fn observe(&self, several: bool, known: &KnownChain) -> NodeObservation {
        let failing = several && self.unanswered.load(Ordering::Relaxed) >= FAILING_AFTER;
        if failing {
            self.record_answer();
        }
        let found = self.identity.borrow();
        NodeObservation {
            // Never a node with another block 0, however long all others are gone.
            is_connected: self.is_connected() && !found.has_other_genesis(known),
            head: self.heads.borrow().map(|head| head.block.number),
            is_failing: failing,
            chain_match: found.chain_match_given(known),
            last_block: *self.last_block.borrow(),
        }
    }
}

pub(super) fn client_of(node: &NodeHandle) -> Option<Client> {
    match &*node.state.borrow() {
        ConnectionState::Up(client) => Some(client.clone()),
        ConnectionState::Down(_) | ConnectionState::WrongChain(_) => None,
    }
}

pub(super) fn disconnected_error(node: &NodeHandle) -> RpcError {
    match &*node.state.borrow() {
        ConnectionState::Down(Some(why)) | ConnectionState::WrongChain(why) => why.clone(),
        ConnectionState::Down(None) | ConnectionState::Up(_) => RpcError::Unavailable {
            host: node.endpoint.host().to_owned(),
            what: "not connected".into(),
        },
    }
}

//! The reading and the audit together, on a chain whose nodes hide requests, with a paused clock.

use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    chain::fake_chain::{ADDRESSES, Blooms, FakeChain, NodeFaults, request_data, request_event},
    contracts::decryption::DeploymentSupport,
    domain::{B256, Bytes, Event, U256},
    flow::{
        QueuedRequest,
        arrivals::{Arrivals, Start, ids::KnownIds},
        fake_ledger::FakeLedger,
    },
    telemetry::heartbeat::Heartbeat,
};

struct Watched {
    chain: FakeChain,
    ledger: FakeLedger,
    walk: mpsc::Receiver<QueuedRequest>,
    sight: watch::Receiver<CompletenessReport>,
    suspects: SuspectBlocks,
    metrics: Metrics,
    running: JoinSet<()>,
}

impl Watched {
    fn begin(chain: &FakeChain, start: Start) -> Self {
        Self::go_on(chain, FakeLedger::default(), start)
    }

    /// Like a process that continues from an earlier one's ledger.
    fn go_on(chain: &FakeChain, ledger: FakeLedger, start: Start) -> Self {
        let (intakes, entrance, _) = crate::flow::walk_channels(1000, 1);
        let walk = intakes.decryptions.from_chain;
        let (support, _) = watch::channel(DeploymentSupport::up_to_g10());
        let cursor = ledger.contents().cursor;
        let runs = ledger.contents().ids.clone();
        let ids = SharedIds::new(KnownIds::from_stored(&runs, Instant::now()));
        let adapter = RequestContract::new(chain.clone(), ADDRESSES);
        let metrics = Metrics::default();
        let arrivals = Arrivals::new(
            adapter.clone(),
            ledger.clone(),
            entrance,
            support,
            cursor,
            None,
            metrics.clone(),
        )
        .with_ids(ids.clone());
        let (sight_sender, sight) = watch::channel(CompletenessReport::default());
        let suspects = arrivals.suspects();
        let lookout = CompletenessAudit {
            adapter,
            ledger: ledger.clone(),
            ids,
            suspects: suspects.clone(),
            progress: arrivals.progress(),
            wallet: Some(Address::repeat_byte(1)),
            report: sight_sender,
            metrics: metrics.clone(),
        };
        let mut running = JoinSet::new();
        running.spawn(async move {
            let running = arrivals.run(start, Heartbeat::default(), CancellationToken::new());
            Box::pin(running).await.unwrap();
        });
        running.spawn(async move {
            lookout.run().await.unwrap();
        });
        Self { chain: chain.clone(), ledger, walk, sight, suspects, metrics, running }
    }

    fn walked(&mut self) -> Vec<u64> {
        let mut ids = Vec::new();
        while let Ok(intake) = self.walk.try_recv() {
            ids.push(intake.request.key.id.to());
        }
        ids.sort_unstable();
        ids
    }

    fn hidden(&self) -> u64 {
        self.sight.borrow().hidden.iter().map(MissingIds::count).sum()
    }

    /// One second at a time, four blocks each.
    async fn seconds(&self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.chain.mine_empty(1);
            sleep(Duration::from_millis(250)).await;
        }
    }
}

/// A node whose blocks prove nothing about their logs.
fn without_proof() -> NodeFaults {
    NodeFaults { blooms: Blooms::Missing, no_block_receipts: true, ..NodeFaults::default() }
}

/// A chain with one node, whose contract discloses its ids; with requests 1 and 2.
fn chain() -> FakeChain {
    let chain = FakeChain::new(40);
    chain.state().faults = vec![without_proof()];
    chain.state().tells_ids = true;
    chain.mine(vec![request_event(1), request_event(2)]);
    chain
}

/// Each block from the next on hides its logs this many times.
fn hide_next(chain: &FakeChain, times: usize) {
    let next = chain.height() + 1;
    chain.state().hidden.insert(next, times);
}

/// Three requests that no node shows for a minute.
async fn hide_a_minute(watched: &mut Watched, from: u64) {
    hide_for(watched, from, 60).await;
}

async fn hide_for(watched: &mut Watched, from: u64, seconds: u64) {
    for node in &mut watched.chain.state().faults {
        node.hides_logs = true;
    }
    watched.chain.mine((from..from + 3).map(request_event).collect());
    watched.seconds(seconds).await;
    assert_eq!(watched.walked(), [] as [u64; 0]);
    for node in &mut watched.chain.state().faults {
        node.hides_logs = false;
    }
}

/// A node forged its log before the chain assigned the id, and then the real request was hidden.
#[tokio::test(start_paused = true)]
async fn b5_the_id_of_a_request_that_was_never_there_is_looked_for() {
    let chain = chain();
    let mut watched = Watched::begin(&chain, Start::Block(1));
    watched.seconds(1).await;
    chain.mine_empty(1);
    let forged = chain.block(chain.height());
    let log = Event { block: forged, data: request_data(1), ..request_event(3) };
    chain.state().faults[0].forges.push(log);
    watched.seconds(1).await;
    hide_next(&chain, 1000);
    chain.mine(vec![request_event(3)]);
    let hidden = chain.height();
    chain.mine(vec![request_event(4)]);
    watched.seconds(60).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![1, 2, 3, 4], 0));
    // The node shows it no more, and its walk has found it orphaned.
    chain.state().faults[0].forges.clear();
    let mut shown = watched.ledger.contents().requests.clone().into_iter();
    let (key, _) = shown.find(|(_, block)| *block == forged).unwrap();
    watched.suspects.report_orphan(key, forged);
    watched.seconds(20).await;
    assert_eq!(watched.hidden(), 1);
    chain.state().hidden.remove(&hidden);
    watched.seconds(30).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![3], 0));
}

/// Reading begins before them, and a later one is shown first: now, or to an earlier run.
#[tokio::test(start_paused = true)]
async fn a0_what_was_hidden_below_the_first_one_shown_is_found() {
    let chain = chain();
    let hidden = chain.height();
    chain.state().hidden.insert(hidden, 1000);
    chain.mine(vec![request_event(3)]);
    let mut watched = Watched::begin(&chain, Start::Block(1));
    watched.seconds(20).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![3], 2));
    let Watched { ledger, running, .. } = watched;
    drop(running);
    // A journal from a version without the audit.
    ledger.contents().ids.retain(|run| run.first == 3);
    let mut watched = Watched::go_on(&chain, ledger, Start::Block(1));
    watched.seconds(20).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![], 2));
    chain.state().hidden.clear();
    watched.seconds(40).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![1, 2], 0));
}

/// The next request reveals the hole.
#[tokio::test(start_paused = true)]
async fn a0_a_hole_in_the_ids_is_read_again_until_it_is_filled() {
    let chain = chain();
    let mut watched = Watched::begin(&chain, Start::Block(1));
    watched.seconds(5).await;
    assert_eq!(watched.walked(), [1, 2]);
    hide_next(&chain, 5);
    chain.mine(vec![request_event(3), request_event(4)]);
    watched.seconds(3).await;
    // No node discloses ids.
    chain.state().tells_ids = false;
    chain.mine(vec![request_event(5)]);
    watched.seconds(20).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![5], 2));
    watched.seconds(180).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![3, 4], 0));
}

/// No later request: only the contract knows. One node, no log index.
#[tokio::test(start_paused = true)]
async fn a0_a_hidden_request_above_the_last_one_known_is_found_by_asking_the_contract() {
    let chain = chain();
    let mut watched = Watched::begin(&chain, Start::Block(1));
    watched.seconds(40).await;
    assert_eq!(watched.walked(), [1, 2]);
    hide_a_minute(&mut watched, 3).await;
    assert_eq!(watched.hidden(), 3, "told while it lasts");
    watched.seconds(60).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![3, 4, 5], 0));
    assert!(!watched.running.is_empty());
}

/// A0, A2: no request was shown when reading began.
#[tokio::test(start_paused = true)]
async fn a0_what_was_hidden_from_the_first_block_on_is_found() {
    let chain = chain();
    chain.mine_empty(30);
    let begin = chain.height() + 1;
    let mut watched = Watched::begin(&chain, Start::Block(begin));
    chain.mine_empty(600);
    hide_for(&mut watched, 3, 120).await;
    watched.seconds(90).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![3, 4, 5], 0));
}

/// The node that is read from has a permanently broken index; another one has not.
#[tokio::test(start_paused = true)]
async fn a0_another_node_is_asked_for_what_is_missing() {
    let chain = chain();
    chain.state().faults.push(without_proof());
    let mut watched = Watched::begin(&chain, Start::Block(1));
    watched.seconds(40).await;
    assert_eq!(watched.walked(), [1, 2]);
    chain.state().faults[0].hides_logs = true;
    chain.mine(vec![request_event(3)]);
    watched.seconds(60).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![3], 0));
}

/// An earlier process found the hole and ended before it was filled.
#[tokio::test(start_paused = true)]
async fn a0_a_hole_survives_a_restart() {
    let chain = chain();
    let mut watched = Watched::begin(&chain, Start::Block(1));
    watched.seconds(5).await;
    hide_next(&chain, 1_000);
    chain.mine(vec![request_event(3)]);
    chain.mine(vec![request_event(4)]);
    watched.seconds(5).await;
    assert_eq!(watched.walked(), [1, 2, 4]);
    let ledger = watched.ledger.clone();
    drop(watched);
    // Far more blocks than are read again after a start.
    chain.mine_empty(5_000);
    let mut again = Watched::go_on(&chain, ledger, Start::Latest);
    again.seconds(20).await;
    assert_eq!(again.hidden(), 1);
    chain.state().hidden.clear();
    again.seconds(60).await;
    assert_eq!((again.walked(), again.hidden()), (vec![3], 0));
}

/// The contract of v0.7 does not check ids: its replies are not misunderstood.
#[tokio::test(start_paused = true)]
async fn a0_a_contract_that_does_not_tell_is_not_asked_again_and_again() {
    let chain = chain();
    chain.state().tells_ids = false;
    chain.state().verdict = Some(Bytes::from_static(&[0xf6, 0x45, 0xee, 0xdf]));
    let mut watched = Watched::begin(&chain, Start::Block(1));
    watched.seconds(300).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![1, 2], 0));
    let asked = chain.call_count("call");
    assert!(asked <= 5, "{asked}");
    // It is upgraded.
    chain.state().tells_ids = true;
    watched.seconds(400).await;
    hide_a_minute(&mut watched, 3).await;
    watched.seconds(60).await;
    assert_eq!(watched.walked(), [3, 4, 5]);
}

/// The reading waits for a lagging node: requests that it has not reached are not hidden.
#[tokio::test(start_paused = true)]
async fn a0_what_is_not_read_yet_is_not_hidden() {
    let chain = chain();
    let mut watched = Watched::begin(&chain, Start::Block(1));
    watched.seconds(40).await;
    let next = chain.height() + 1;
    chain.state().lags_from = Some(next);
    chain.mine(vec![request_event(3)]);
    for _ in 0..20 {
        watched.seconds(5).await;
        assert_eq!(watched.hidden(), 0);
    }
    chain.state().lags_from = None;
    watched.seconds(20).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![1, 2, 3], 0));
}

#[tokio::test(start_paused = true)]
async fn a0_a_reorganisation_that_takes_ids_away_alarms_nobody() {
    let chain = chain();
    let mut watched = Watched::begin(&chain, Start::Block(1));
    watched.seconds(5).await;
    chain.mine(vec![request_event(3), request_event(4)]);
    chain.mine(vec![request_event(5)]);
    watched.seconds(1).await;
    chain.reorganise(6, vec![vec![], vec![request_event(3)]]);
    for _ in 0..30 {
        watched.seconds(3).await;
        assert_eq!(watched.hidden(), 0);
    }
    chain.mine(vec![request_event(4)]);
    watched.seconds(60).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![1, 2, 3, 4, 5], 0));
    // Its id has left the chain. Requested again and hidden, it is missing.
    chain.state().faults[0].hides_logs = true;
    chain.mine(vec![request_event(5)]);
    watched.seconds(60).await;
    assert_eq!(watched.hidden(), 1);
}

/// One forged log with an id far above.
#[tokio::test(start_paused = true)]
async fn a0_an_id_that_the_contract_denies_makes_no_hole() {
    let chain = chain();
    let mut watched = Watched::begin(&chain, Start::Block(1));
    watched.seconds(40).await;
    watched.ledger.contents().ids.clear();
    chain.forge(request_event(1_000_000));
    watched.seconds(60).await;
    assert_eq!((watched.walked().len(), watched.hidden()), (3, 0), "the forged one is walked");
    hide_a_minute(&mut watched, 3).await;
    watched.seconds(60).await;
    assert_eq!(watched.walked(), [3, 4, 5]);
}

fn consensus_event(id: u64) -> Event {
    let topics = vec![abi::CONSENSUS_TOPICS[4], B256::from(U256::from(id))];
    Event { topics, ..request_event(id) }
}

#[tokio::test(start_paused = true)]
async fn c0_consensus_on_what_was_not_answered_here_is_counted_and_told() {
    let chain = chain();
    chain.mine_empty(2);
    let mut watched = Watched::begin(&chain, Start::Latest);
    watched.seconds(5).await;
    chain.mine(vec![request_event(3), request_event(4)]);
    watched.seconds(31).await;
    watched.ledger.contents().answered.insert(U256::from(3));
    chain.mine(vec![consensus_event(3), consensus_event(4), consensus_event(1)]);
    watched.seconds(50).await;
    assert_eq!(watched.sight.borrow().unanswered, None, "others may be a little faster");
    watched.seconds(70).await;
    let told = watched.sight.borrow().unanswered.unwrap();
    assert_eq!((told.requests, told.id), (1, U256::from(4)), "1 is from before the first one read");
    assert_eq!(watched.hidden(), 0, "these logs are no requests");
    let counted = watched.metrics.gather();
    let counted = counted.iter().find(|one| one.name().ends_with("consensus_missed_total"));
    assert_eq!(counted.unwrap().get_metric()[0].get_counter().get_value().to_string(), "1");
    watched.ledger.contents().answered.insert(U256::from(4));
    watched.seconds(60).await;
    assert_eq!(watched.sight.borrow().unanswered, None);
    assert_eq!(watched.walked(), [3, 4]);
}

/// C0 finds what A0 looks for, if the contract does not disclose its ids: others have answered it.
#[tokio::test(start_paused = true)]
async fn c0_consensus_on_what_nobody_has_shown_has_it_looked_for() {
    let chain = chain();
    chain.state().tells_ids = false;
    let mut watched = Watched::begin(&chain, Start::Block(1));
    watched.seconds(5).await;
    hide_next(&chain, 8);
    chain.mine(vec![request_event(3)]);
    watched.seconds(10).await;
    chain.mine(vec![consensus_event(3)]);
    watched.seconds(200).await;
    assert_eq!((watched.walked(), watched.hidden()), (vec![1, 2, 3], 0));
}

//! Operator questions and actions, also while the disk is full and for unattended requests.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{
    read::{EXPORT_PAGE_BYTES, count_fitting},
    *,
};
use crate::{
    admin::requests::{HoldSummary, InquiryFilter},
    chain::fake_chain::{ADDRESSES, FakeChain, SOURCE, request_event},
    contracts::abi,
    dice::Dice,
    domain::{Address, B256, Bytes, Event, Kind, RequestKey, U256},
    flow::{
        Activity, Arrival, Batch, RequestLedger as _, Sighting, Step, WalkReceivers,
        finality::rule::{FinalHeight, FinalityRule, FinalityTag, TagPosition},
        walk_channels,
    },
    instance::request_overview::{overview, overview as shown},
    journal::{Identity, OpenedJournal, Position, Progress, StageName, open_as},
    machine::{CommitFate, Machine, MachineSimulator},
};

/// A machine whose disk may be full. Blocking work runs in place.
struct Full(Arc<AtomicBool>);

impl MachineSimulator for Full {
    fn before_work(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn after_work(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn commit_fate(&self) -> CommitFate {
        if self.0.load(Ordering::Relaxed) { CommitFate::NotStored } else { CommitFate::Stored }
    }
}

struct World {
    journal: Journal,
    inbox: Inbox,
    walk: WalkSender,
    intakes: WalkReceivers,
    contended: Arc<AtomicBool>,
    _dir: tempfile::TempDir,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl World {
    async fn new() -> Self {
        let full = Arc::new(AtomicBool::new(false));
        let clock = Clock::Runtime { at: Instant::now(), unix_ms: 1_735_689_600_000 };
        let machine = Machine::simulated_by(Arc::new(Full(full.clone())), clock, Dice::default());
        let dir = tempfile::tempdir().unwrap();
        let wallet = Address::repeat_byte(1);
        let identity = Identity { chain_id: 1, genesis: B256::ZERO, wallet };
        let opened = open_as(&machine, dir.path(), identity, SOURCE.contract, "one", None);
        let OpenedJournal { journal, writer, .. } = opened.unwrap();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let stopping = stop.clone();
        tasks.spawn(async move {
            let _ended = writer.run(Heartbeat::default(), Metrics::default(), stopping).await;
        });
        let chain = FakeChain::new(10);
        chain.mine(vec![request_event(1), request_event(2)]);
        chain.mine_empty(3);
        let backfill =
            Backfill::new(RequestContract::new(chain.clone(), ADDRESSES), journal.clone());
        let (intakes, _, walk) = walk_channels(8, 8);
        let final_height = watch::channel(FinalHeight::EVERYTHING).1;
        let tag = watch::channel(None).1;
        let why = WaitReasons {
            source: SOURCE,
            finality_rule: FinalityRule::NONE,
            final_height,
            tag,
            walk: walk.clone(),
        };
        let progress = watch::channel(Some(chain.block(chain.height()))).1;
        let inquiries = OperatorRequests {
            journal: journal.clone(),
            backfill,
            walk: walk.clone(),
            progress,
            wait_reasons: why,
            clock,
        };
        let (publish_inbox, mut inbox) = watch::channel(None);
        tasks.spawn(inquiries.run(publish_inbox));
        let inbox = inbox.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        Self { journal, inbox, walk, intakes, contended: full, _dir: dir, stop, tasks }
    }

    fn ask(&self, inquiry: Inquiry) -> oneshot::Receiver<Result<InquiryAnswer, String>> {
        let (reply, answer) = oneshot::channel();
        self.inbox.try_send(PendingInquiry { inquiry, reply }).unwrap();
        answer
    }

    async fn hear(&self, inquiry: Inquiry) -> Result<InquiryAnswer, String> {
        self.ask(inquiry).await.unwrap()
    }

    async fn listed(&self) -> usize {
        let which = InquiryFilter::All;
        let told = self.hear(Inquiry::List { which, after: None }).await.unwrap();
        let InquiryAnswer::Lines { requests, .. } = told else { panic!("{told:?}") };
        requests.len()
    }

    async fn walked(&mut self) -> u64 {
        let next = timeout(Duration::from_secs(30), self.intakes.decryptions.from_journal.recv());
        let queued = next.await.expect("somebody to be walked").unwrap();
        assert!(queued.recovered && self.walk.is_attended(queued.request.key));
        queued.request.key.id.to()
    }

    async fn end(mut self) {
        self.stop.cancel();
        self.tasks.shutdown().await;
    }
}

fn backfill() -> Inquiry {
    Inquiry::Backfill { from: 1, to: None, chain: None }
}

#[tokio::test(start_paused = true)]
async fn a10_what_a_backfill_finds_on_a_full_disk_is_stored_later_and_walked() {
    let mut world = World::new().await;
    world.contended.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let told = world.hear(backfill()).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_mins(1), "in time for who asks");
    assert!(told.contains("stored and walked") && told.contains("--from 15"), "{told}");
    assert!(!told.contains("node"), "{told}");
    // Questions are still answered; further actions wait.
    assert_eq!(world.listed().await, 0);
    let second = world.ask(backfill());
    sleep(Duration::from_mins(10)).await;
    world.contended.store(false, Ordering::Relaxed);
    let mut walked = [world.walked().await, world.walked().await];
    walked.sort_unstable();
    assert_eq!(walked, [1, 2]);
    let InquiryAnswer::Backfilled(read) = second.await.unwrap().unwrap() else { panic!() };
    assert_eq!((read.requests, read.new), (2, 0));
    assert_eq!(world.listed().await, 2);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a10_a_retry_on_a_full_disk_is_done_later() {
    let mut world = World::new().await;
    let key = store(&world.journal, 1).await;
    let end = Step::Settled(Outcome::Expired);
    world.journal.note(key, end).await.unwrap();
    world.journal.flush().await.unwrap();
    world.contended.store(true, Ordering::Relaxed);
    let told = world.hear(Inquiry::Retry { id: "1".to_owned() }).await.unwrap_err();
    assert!(told.contains("as soon as it is"), "{told}");
    world.contended.store(false, Ordering::Relaxed);
    assert_eq!(world.walked().await, 1);
    world.end().await;
}

async fn store(journal: &Journal, id: u64) -> RequestKey {
    let request = abi::decode(SOURCE, &request_event(id)).unwrap();
    let arrival = Arrival {
        key: request.key,
        kind: request.kind(),
        event: request_event(id),
        seen: Sighting::Found,
    };
    let batch = Batch { arrivals: vec![arrival], ..Batch::default() };
    journal.store_batch(batch).await.unwrap();
    request.key
}

#[tokio::test(start_paused = true)]
async fn a10_a_retry_walks_what_nobody_walks_and_leaves_what_is_in_hand() {
    let mut world = World::new().await;
    store(&world.journal, 1).await;
    let hand = world.walk.attend(abi::decode(SOURCE, &request_event(1)).unwrap(), false);
    let verdict = async |world: &World| {
        let told = world.hear(Inquiry::Retry { id: "1".to_owned() }).await.unwrap();
        let InquiryAnswer::Retried { requests } = told else { panic!("{told:?}") };
        requests[0].verdict
    };
    assert_eq!(verdict(&world).await, RetryVerdict::InHand);
    drop(hand);
    assert_eq!(verdict(&world).await, RetryVerdict::Tried);
    assert_eq!(world.walked().await, 1);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_core_that_was_asked_is_named() {
    let world = World::new().await;
    let key = store(&world.journal, 1).await;
    let core = async || {
        let told = world.hear(Inquiry::Show { id: "1".to_owned() }).await.unwrap();
        let InquiryAnswer::Stories { requests } = told else { panic!("{told:?}") };
        requests[0].kms_core.clone()
    };
    assert_eq!(core().await, None);
    world.journal.note(key, Step::Asked { core: "core:50051".into() }).await.unwrap();
    world.journal.flush().await.unwrap();
    assert_eq!(core().await.as_deref(), Some("core:50051"));
    world.end().await;
}

/// As long as it is judged at all.
#[tokio::test(start_paused = true)]
async fn the_deployment_that_a_request_is_judged_by_is_named() {
    let world = World::new().await;
    let key = store(&world.journal, 1).await;
    let judged_by = async || {
        let told = world.hear(Inquiry::Show { id: "1".to_owned() }).await.unwrap();
        let InquiryAnswer::Stories { requests } = told else { panic!("{told:?}") };
        requests[0].deployment.clone()
    };
    assert_eq!(judged_by().await, None);
    for deployment in ["G10", "G13"] {
        world.journal.note_deployment(deployment.to_owned()).await.unwrap();
        world.journal.flush().await.unwrap();
        assert_eq!(judged_by().await.as_deref(), Some(deployment));
    }
    world.journal.note(key, Step::Settled(Outcome::Expired)).await.unwrap();
    world.journal.flush().await.unwrap();
    assert_eq!(judged_by().await, None);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a13_what_ended_as_answered_is_asked_of_the_chain_again() {
    let mut world = World::new().await;
    let key = store(&world.journal, 1).await;
    world.journal.note(key, Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    let told = world.hear(Inquiry::Retry { id: "1".to_owned() }).await.unwrap();
    let InquiryAnswer::Retried { requests } = told else { panic!("{told:?}") };
    assert_eq!(requests[0].verdict, RetryVerdict::OpenedAgain);
    assert_eq!(world.walked().await, 1);
    world.end().await;
}

fn just_arrived() -> Progress {
    Progress {
        stage: StageName::Arrived,
        held: None,
        attempts: 0,
        last_error: None,
        worked_ms: 0,
        transaction: None,
        arrived_at_ms: 0,
        asked_at_ms: None,
        asked_core: None,
        answered_at_ms: None,
        submitted_at_ms: None,
        settled_at_ms: None,
        outcome: None,
    }
}

#[test]
fn an_export_is_cut_at_its_bytes_and_goes_on() {
    let record = |data: usize| RequestRecord {
        position: Position::from_number(1),
        key: RequestKey { source: SOURCE, id: U256::from(1), content: B256::ZERO },
        kind: Kind::PublicDecryption,
        event: Event {
            block: BlockRef { number: 1, hash: B256::ZERO },
            transaction: B256::ZERO,
            log_index: 0,
            topics: Vec::new(),
            data: Bytes::from(vec![0; data]),
        },
        answer: None,
        access: None,
        approval: None,
        progress: just_arrived(),
    };
    let (half, whole) = (EXPORT_PAGE_BYTES / 2, EXPORT_PAGE_BYTES + 1);
    assert_eq!(count_fitting(&[record(half), record(half), record(1)]), 2);
    assert_eq!(count_fitting(&[record(whole), record(1)]), 1, "one goes in any case");
    assert_eq!(count_fitting(&[record(1), record(whole)]), 1);
}

#[test]
fn a8_who_waits_for_the_tag_says_so_and_nobody_else() {
    let depth = FinalityRule { finality: FinalityTag::Finalized, ..FinalityRule::NONE };
    let mut tag = TagPosition::new(FinalityTag::Finalized, 100, 0);
    tag.update(Some(90), 100, 0);
    let why = WaitReasons {
        source: SOURCE,
        finality_rule: depth,
        final_height: watch::channel(depth.final_height(100, tag.at)).1,
        tag: watch::channel(Some(tag)).1,
        walk: walk_channels(1, 1).2,
    };
    let kind = Kind::UserDecryption.as_str();
    let request = |block| overview(String::new(), String::new(), kind, block, &just_arrived());
    let mut told = InquiryAnswer::Lines { requests: vec![request(90), request(91)], next: None };
    why.explain(&mut told, 0);
    let InquiryAnswer::Lines { requests, .. } = told else { panic!() };
    assert_eq!(requests[0].waits, None);
    assert!(requests[1].waits.as_ref().unwrap().contains("finalized stands at block 90 since"));
}

#[tokio::test]
async fn c9_whatever_waits_for_long_says_why() {
    let (mut intakes, entrance, walk) = walk_channels(1, 1);
    let (final_height, tag) = (watch::channel(FinalHeight::EVERYTHING).1, watch::channel(None).1);
    let why =
        WaitReasons { source: SOURCE, finality_rule: FinalityRule::NONE, final_height, tag, walk };
    let request = abi::decode(SOURCE, &request_event(1)).unwrap();
    let (id, content) = (request.key.to_string(), request.key.content.to_string());
    let reason = |stage, after_ms: u64, held: Option<HoldSummary>| {
        let progress = Progress { stage, arrived_at_ms: 1_000, ..just_arrived() };
        let mut overview = shown(id.clone(), content.clone(), "public_decryption", 1, &progress);
        overview.held = held;
        let mut told = InquiryAnswer::Lines { requests: vec![overview], next: None };
        why.explain(&mut told, 1_000 + after_ms);
        let InquiryAnswer::Lines { mut requests, .. } = told else { panic!() };
        requests.remove(0).waits
    };
    let long = 10_000;
    assert!(reason(StageName::Arrived, long, None).unwrap().contains("in the journal"));
    entrance.send(entrance.attend(request, false)).await.unwrap();
    assert_eq!(reason(StageName::Arrived, long - 1, None), None, "it is on its way");
    assert!(reason(StageName::Arrived, long, None).unwrap().contains("max_requests_in_flight"));
    let taken = intakes.decryptions.from_chain.recv().await.unwrap();
    taken.attendance.set_activity(Activity::Polling);
    assert!(reason(StageName::Asked, long, None).unwrap().contains("the KMS Core works on it"));
    let held = HoldSummary { reason: "core_silent".into(), detail: String::new(), since_ms: 0 };
    assert_eq!(reason(StageName::Asked, long, Some(held)), None, "the hold says it");
    taken.attendance.set_activity(Activity::Submitting);
    assert!(reason(StageName::Answered, long, None).unwrap().contains("signed and sent"));
    assert!(reason(StageName::Submitted, long, None).unwrap().contains("to be mined"));
    taken.attendance.set_retrying();
    assert_eq!(reason(StageName::Submitted, long, None), None, "the failure says it");
}

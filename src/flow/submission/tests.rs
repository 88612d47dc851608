//! Answers are submitted through a real lane to a chain in memory, on a paused clock.

use std::{sync::Arc, time::Duration};

use alloy::sol_types::SolError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{super::fake_ledger::FakeLedger, *};
use crate::{
    chain::{
        fake_chain::{
            ADDRESSES, CONTRACT, FakeChain, NodeFaults, SOURCE, SendBehavior, request_event,
        },
        lane::{ChainKind, HIGHEST_FEE, LaneOptions, Recovered, lane},
        wallet::Wallet,
    },
    domain::{
        B256, BlockRef, Bytes, EventShape, Kind, Operation, PublicDecryption, Refusal, Remedy,
        RequestKey, SignedResult, U256,
    },
    telemetry::heartbeat::Heartbeat,
};

alloy::sol! {
    error KmsNodeAlreadySigned(uint256 decryptionId, address signer);
    error NotKmsSigner(address signerAddress);
    error DecryptionNotRequested(uint256 decryptionId);
}

struct Scene {
    chain: FakeChain,
    room: Arc<Submission<FakeChain>>,
    _running: JoinSet<Result<(), crate::domain::LedgerError>>,
    _mining: JoinSet<()>,
}

/// Runs a submission to its end, as a walk does.
async fn brought(
    room: &Submission<FakeChain>,
    request: &Request,
    before: PriorAnswer,
) -> Result<Outcome, SubmissionError> {
    let (answer, mut sending) = (answer(), SubmissionProgress::begin(before));
    let mut is_sent = false;
    loop {
        let heard = if is_sent {
            room.follow(request, &answer, &mut sending).await?
        } else {
            room.send(request, &answer, &mut sending).await?
        };
        match heard {
            SubmissionEvent::Broadcast { .. } => is_sent = true,
            SubmissionEvent::Waiting(_) => assert!(sending.is_waiting()),
            SubmissionEvent::Returned { .. } => is_sent = false,
            SubmissionEvent::Ended(outcome) => return Ok(outcome),
        }
    }
}

impl Scene {
    fn new(gas_limit: Option<u64>) -> Self {
        let chain = FakeChain::new(100);
        let wallet = Arc::new(Wallet::from_private_key(&[7; 32]).unwrap());
        let options = LaneOptions {
            chain_id: 1,
            max_in_flight: 64,
            max_fee_per_gas: HIGHEST_FEE,
            kind: ChainKind::Sequencer,
        };
        let metrics = Metrics::default();
        let (lane, task) = lane(
            chain.clone(),
            wallet,
            FakeLedger::default(),
            options,
            Recovered::default(),
            metrics.clone(),
        );
        let mut running = JoinSet::new();
        running.spawn(task.run(Heartbeat::default(), CancellationToken::new()));
        let mut mining = JoinSet::new();
        let miner = chain.clone();
        mining.spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(250)).await;
                miner.mine_empty(1);
            }
        });
        let adapter = RequestContract::new(chain.clone(), ADDRESSES);
        let room = Arc::new(Submission::new(lane, adapter, gas_limit, metrics));
        Self { chain, room, _running: running, _mining: mining }
    }

    async fn submit(&self, id: u64, maybe_sent: bool) -> Result<Outcome, SubmissionError> {
        let request = request(id, self.chain.block(100));
        let before = if maybe_sent { PriorAnswer::MaybeSent } else { PriorAnswer::Impossible };
        let bringing = brought(&self.room, &request, before);
        tokio::time::timeout(Duration::from_mins(2), bringing).await.expect("ends")
    }

    /// The gas limit of the next answer.
    async fn limit(&self) -> u64 {
        let request = request(1, self.chain.block(100));
        let data = self.room.adapter.response(&request, &answer());
        let call = EthCall::view(CONTRACT, data);
        self.room.gas.limit(&request, &call, &self.chain, false).await.unwrap()
    }

    fn says(&self, error: &impl SolError) {
        self.chain.state().verdict = Some(error.abi_encode().into());
    }

    fn sent(&self) -> usize {
        self.chain.state().sent.len()
    }
}

fn request(id: u64, block: BlockRef) -> Request {
    let operation = PublicDecryption::of_materials(Vec::new(), Bytes::new());
    Request {
        key: RequestKey { source: SOURCE, id: U256::from(id), content: B256::ZERO },
        shape: EventShape::G9,
        block,
        transaction: request_event(id).transaction,
        operation: Operation::PublicDecryption(operation),
    }
}

fn answer() -> Answer {
    Answer::PublicDecryption(SignedResult {
        payload: Bytes::from(vec![1; 32]),
        signature: Bytes::from(vec![2; 65]),
        extra_data: Bytes::new(),
    })
}

fn already() -> KmsNodeAlreadySigned {
    KmsNodeAlreadySigned { decryptionId: U256::from(1), signer: CONTRACT }
}

fn reason(result: Result<Outcome, SubmissionError>) -> HoldReason {
    match result.expect_err("held").remedy() {
        Remedy::Hold(hold) => hold.reason,
        other @ (Remedy::Retry | Remedy::Refuse(_)) => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_estimate_serves_the_answers_after_it() {
    let scene = Scene::new(None);
    for id in 0..5 {
        let outcome = scene.submit(id, false).await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted { .. }));
    }
    assert_eq!(scene.chain.call_count("estimate"), 1);
}

/// Whatever was learned, and whether or not the operator set the gas limit: a request that an earlier
/// run answered costs no gas.
#[tokio::test(start_paused = true)]
async fn what_may_have_been_sent_is_tried_out_before_gas_is_spent() {
    for gas_limit in [None, Some(500_000)] {
        let scene = Scene::new(gas_limit);
        scene.submit(1, false).await.unwrap();
        scene.says(&already());
        assert_eq!(scene.submit(1, true).await.unwrap(), Outcome::AlreadyAnswered);
        assert_eq!(scene.sent(), 1, "no second transaction");
    }
}

/// The lying node shows an answer while the honest node is briefly silent.
#[tokio::test(start_paused = true)]
async fn b11_one_node_alone_does_not_end_a_request_as_answered() {
    let scene = Scene::new(None);
    scene.chain.state().faults = vec![
        NodeFaults { verdict: Some(already().abi_encode().into()), ..NodeFaults::default() },
        NodeFaults { is_disconnected: true, ..NodeFaults::default() },
    ];
    let alone = scene.submit(1, false).await;
    assert!(alone.is_err(), "{alone:?}");
    scene.chain.state().faults[1].is_disconnected = false;
    assert!(scene.submit(1, false).await.is_err(), "the other one would take it");
    scene.chain.state().faults[1].is_disconnected = true;
    assert!(scene.submit(1, false).await.is_err());
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(scene.submit(1, false).await.unwrap(), Outcome::AlreadyAnswered);
    assert_eq!(scene.sent(), 0);
}

/// The Core's signer is not registered: the first answer costs gas, the others and their retries do
/// not.
#[tokio::test(start_paused = true)]
async fn a_contract_that_takes_no_answers_costs_gas_once() {
    for gas_limit in [None, Some(500_000)] {
        let scene = Scene::new(gas_limit);
        scene.submit(1, false).await.unwrap();
        scene.says(&NotKmsSigner { signerAddress: CONTRACT });
        assert_eq!(reason(scene.submit(2, false).await), HoldReason::SignerNotRegistered);
        assert_eq!(scene.sent(), 2);
        for id in 2..6 {
            let held = scene.submit(id, id == 2).await;
            assert_eq!(reason(held), HoldReason::SignerNotRegistered);
        }
        assert_eq!(scene.sent(), 2);
        scene.chain.state().verdict = None;
        assert!(matches!(scene.submit(2, true).await, Ok(Outcome::Accepted { .. })));
        let estimates = scene.chain.call_count("estimate");
        scene.submit(7, false).await.unwrap();
        assert_eq!(scene.chain.call_count("estimate"), estimates, "trusted again");
    }
}

/// A sequencer that simulates transactions: its error counts like that of a receipt.
#[tokio::test(start_paused = true)]
async fn a_refusal_in_advance_is_judged_by_what_it_says() {
    for gas_limit in [None, Some(500_000)] {
        let scene = Scene::new(gas_limit);
        scene.submit(1, false).await.unwrap();
        scene.chain.state().reverts_in_advance = Some(already().abi_encode().into());
        scene.says(&already());
        assert_eq!(scene.submit(2, false).await.unwrap(), Outcome::AlreadyAnswered);
        // But only once the other nodes agree: they may lag, or the one that rejects may lie.
        scene.chain.state().verdict = None;
        assert_eq!(scene.submit(3, false).await.unwrap_err().remedy(), Remedy::Retry);
    }
}

/// The first estimate is of an answer below the threshold; most of the others reach it.
#[tokio::test(start_paused = true)]
async fn d8_a_start_with_sixty_requests_to_catch_up_pays_for_each_once() {
    let scene = Scene::new(None);
    scene.chain.state().gas_used = 190_000;
    let mut submitting = JoinSet::new();
    for id in 0..60 {
        let (room, block) = (scene.room.clone(), scene.chain.block(100));
        submitting.spawn(async move {
            brought(&room, &request(id, block), PriorAnswer::Impossible).await
        });
    }
    for outcome in submitting.join_all().await {
        assert!(matches!(outcome, Ok(Outcome::Accepted { .. })));
    }
    assert_eq!((scene.sent(), scene.chain.call_count("estimate")), (60, 1));
}

/// T37. Many run out of gas at once: the limit rises by one step, not by one for each.
#[tokio::test(start_paused = true)]
async fn out_of_gas_raises_the_limit_once() {
    let scene = Scene::new(None);
    scene.submit(0, false).await.unwrap();
    scene.chain.state().gas_used = 250_000;
    let mut submitting = JoinSet::new();
    for id in 1..40 {
        let (room, block) = (scene.room.clone(), scene.chain.block(100));
        submitting.spawn(async move {
            brought(&room, &request(id, block), PriorAnswer::Impossible).await
        });
    }
    for outcome in submitting.join_all().await {
        assert!(matches!(outcome, Ok(Outcome::Accepted { .. })));
    }
    // 200,000 was learned, and half was added.
    assert_eq!(scene.limit().await, 300_000);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_gas_limit_that_does_not_do_is_said_after_one_transaction() {
    let scene = Scene::new(Some(80_000));
    let error = scene.submit(1, false).await.expect_err("held");
    assert!(error.to_string().contains("more than gas_limit = 80000"), "{error}");
    let again = scene.submit(1, true).await.expect_err("held");
    assert!(again.to_string().contains("more than gas_limit = 80000"), "{again}");
    assert_eq!(scene.sent(), 1);
}

/// Nothing is signed on an implausible estimate, and nothing is learned from it.
#[tokio::test(start_paused = true)]
async fn a9c_an_absurd_estimate_is_the_nodes_fault() {
    for wary in [false, true] {
        let scene = Scene::new(None);
        for absurd in [u64::MAX, 1 << 50, 30_000_001] {
            scene.chain.state().estimate = absurd;
            let error = scene.submit(1, wary).await.expect_err("nothing is sent");
            assert_eq!(error.remedy(), Remedy::Retry, "{error}");
            let of_the_block = error.to_string().contains("blocks that take 30000000 gas");
            assert_eq!(error.to_string().contains("set gas_limit"), !of_the_block, "{error}");
        }
        assert_eq!(scene.sent(), 0);
        scene.chain.state().estimate = 100_000;
        scene.submit(1, wary).await.unwrap();
        assert_eq!(scene.limit().await, 200_000);
    }
}

#[tokio::test(start_paused = true)]
async fn a9c_another_nodes_estimate_counts_where_one_is_absurd() {
    for gas_limit in [None, Some(500_000)] {
        let scene = Scene::new(gas_limit);
        scene.chain.state().faults.resize(2, NodeFaults::default());
        scene.chain.state().faults[0].estimate = Some(u64::MAX);
        scene.submit(1, true).await.unwrap();
        assert_eq!(scene.limit().await, gas_limit.unwrap_or(200_000));
    }
    // The operator's limit is preferred to none.
    let scene = Scene::new(Some(500_000));
    scene.chain.state().estimate = u64::MAX;
    scene.submit(1, true).await.unwrap();
}

/// An estimate below the cost of the calldata is ignored, and one below what was needed before is
/// compared.
#[tokio::test(start_paused = true)]
async fn a9c_too_low_an_estimate_costs_nothing() {
    for wary in [false, true] {
        for low in [0, 21_000, 40_000] {
            let scene = Scene::new(None);
            scene.chain.state().estimate = low;
            let error = scene.submit(1, wary).await.expect_err("nothing is sent");
            assert_eq!(error.remedy(), Remedy::Retry, "{error}");
            scene.chain.state().estimate = 100_000;
            scene.submit(1, wary).await.unwrap();
            assert_eq!((scene.limit().await, scene.sent()), (200_000, 1));
        }
        let scene = Scene::new(None);
        scene.chain.state().faults.resize(2, NodeFaults::default());
        (scene.chain.state().estimate, scene.chain.state().gas_used) = (160_000, 150_000);
        scene.chain.state().faults[0].estimate = Some(21_000);
        for id in 0..4 {
            scene.submit(id, wary).await.unwrap();
        }
        // The node's estimate is low now, but the gas used is known.
        tokio::time::sleep(Duration::from_mins(61)).await;
        scene.chain.state().faults[0].estimate = Some(80_000);
        scene.submit(4, wary).await.unwrap();
        assert_eq!(scene.sent(), 5, "none ran out of gas");
    }
}

/// If nothing is known yet, a slightly low estimate costs one transaction; then another node is asked.
#[tokio::test(start_paused = true)]
async fn a9c_after_out_of_gas_another_node_is_asked() {
    let scene = Scene::new(None);
    scene.chain.state().faults.resize(2, NodeFaults::default());
    (scene.chain.state().estimate, scene.chain.state().gas_used) = (400_000, 390_000);
    scene.chain.state().faults[0].estimate = Some(80_000);
    scene.chain.state().faults[1].is_silent = true;
    let (chain, mut healing) = (scene.chain.clone(), JoinSet::new());
    healing.spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        chain.state().faults[1].is_silent = false;
    });
    for id in 0..4 {
        scene.submit(id, false).await.unwrap();
    }
    assert_eq!(scene.sent(), 5);
}

/// A limit that no node accepts is learned again, and no log mentions a `gas_limit` that is not set.
#[tokio::test(start_paused = true)]
async fn a9c_what_is_refused_is_learned_anew() {
    let scene = Scene::new(None);
    scene.chain.state().estimate = 90_000;
    scene.chain.state().send_behavior = SendBehavior::Refuse("intrinsic gas too low");
    let error = scene.submit(1, false).await.expect_err("held");
    assert!(
        error.to_string().contains("intrinsic gas") && !error.to_string().contains("gas_limit")
    );
    scene.chain.state().send_behavior = SendBehavior::Accept;
    scene.chain.state().estimate = 200_000;
    scene.submit(2, false).await.unwrap();
    assert_eq!(scene.limit().await, 400_000);
}

/// Within the plausible range a wrong estimate costs nothing and is forgotten.
#[tokio::test(start_paused = true)]
async fn a9c_what_was_learned_decays_unless_it_was_used_up() {
    let scene = Scene::new(None);
    scene.chain.state().estimate = 10_000_000;
    scene.submit(1, false).await.unwrap();
    scene.chain.state().estimate = 100_000;
    scene.submit(2, true).await.unwrap();
    assert_eq!(scene.limit().await, 20_000_000, "not at once");
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(scene.limit().await, 200_000);
    scene.chain.state().gas_used = 250_000;
    scene.submit(3, false).await.unwrap();
    tokio::time::sleep(Duration::from_hours(2)).await;
    assert_eq!(scene.limit().await, 300_000, "out of gas once, and never so again");
}

#[tokio::test(start_paused = true)]
async fn not_requested_is_believed_of_a_node_that_has_the_block() {
    let scene = Scene::new(None);
    scene.says(&DecryptionNotRequested { decryptionId: U256::from(1) });
    scene.chain.state().lags_from = Some(90);
    assert_eq!(scene.submit(1, true).await.unwrap_err().remedy(), Remedy::Retry, "it lags");
    scene.chain.state().lags_from = None;
    let refused = scene.submit(1, true).await.unwrap_err().remedy();
    assert_eq!(refused, Remedy::Refuse(Refusal::NotRequested));
}

/// T16: behind one URL one node has the block, and the one that is asked twice for the contract's reply
/// does not. Found by simulation: seed 25 refused a request that was on chain.
///
/// Field failure T34.
#[tokio::test(start_paused = true)]
async fn not_requested_is_not_believed_of_another_node_than_the_one_with_the_block() {
    let scene = Scene::new(None);
    scene.says(&DecryptionNotRequested { decryptionId: U256::from(1) });
    scene.chain.state().calls_know_below = Some(90);
    for _ in 0..3 {
        assert_eq!(scene.submit(1, true).await.unwrap_err().remedy(), Remedy::Retry);
    }
    // Long ago: no node lags that far, but many have pruned the state of that block.
    scene.chain.mine_empty(200);
    let refused = scene.submit(1, true).await.unwrap_err().remedy();
    assert_eq!(refused, Remedy::Refuse(Refusal::NotRequested));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_left_the_chain_is_orphaned_once_its_block_is_buried() {
    let scene = Scene::new(None);
    scene.says(&DecryptionNotRequested { decryptionId: U256::from(1) });
    let stray = BlockRef { number: 100, hash: B256::repeat_byte(9) };
    let stray = request(1, stray);
    let submit = || brought(&scene.room, &stray, PriorAnswer::MaybeSent);
    assert_eq!(submit().await.unwrap_err().remedy(), Remedy::Retry, "it may come back");
    scene.chain.mine_empty(70);
    assert_eq!(submit().await.unwrap(), Outcome::Orphaned);
    assert_eq!(scene.sent(), 0);
}

/// The event is in another block now; the walk still has the old one.
#[tokio::test(start_paused = true)]
async fn a_request_that_moved_to_another_block_is_found_by_its_transaction() {
    let scene = Scene::new(None);
    scene.says(&DecryptionNotRequested { decryptionId: U256::from(1) });
    scene.chain.mine(vec![request_event(1)]);
    scene.chain.mine_empty(100);
    let key = crate::contracts::abi::decode(SOURCE, &request_event(1)).unwrap().key;
    let was = BlockRef { number: 100, hash: B256::repeat_byte(9) };
    let moved = Request { key, ..request(1, was) };
    let error = brought(&scene.room, &moved, PriorAnswer::MaybeSent).await;
    // The node has the block in its chain, so its reply counts.
    assert_eq!(error.unwrap_err().remedy(), Remedy::Refuse(Refusal::NotRequested));
    assert_eq!(moved.kind(), Kind::PublicDecryption);
}

/// A single node's reply does not end a request: neither "answered" nor "unknown".
#[tokio::test(start_paused = true)]
async fn a13_what_one_node_says_and_another_denies_ends_nothing() {
    let scene = Scene::new(None);
    let unknown = DecryptionNotRequested { decryptionId: U256::from(1) }.abi_encode();
    scene.chain.state().faults.push(NodeFaults::default());
    for lie in [already().abi_encode(), unknown] {
        scene.chain.state().faults[0].verdict = Some(lie.into());
        assert_eq!(scene.submit(1, true).await.unwrap_err().remedy(), Remedy::Retry);
        // A node that has been silent for long is ignored.
        scene.chain.state().faults[1].is_silent = true;
        assert_eq!(scene.submit(1, true).await.unwrap_err().remedy(), Remedy::Retry);
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_ne!(
            scene.submit(1, true).await.err().map(|error| error.remedy()),
            Some(Remedy::Retry)
        );
        scene.chain.state().faults[1].is_silent = false;
    }
    assert_eq!(scene.sent(), 0);
}

/// Nor does the reply of a single moment.
#[tokio::test(start_paused = true)]
async fn a13_what_is_said_for_seconds_ends_nothing() {
    let unknown = DecryptionNotRequested { decryptionId: U256::from(1) }.abi_encode();
    for lie in [already().abi_encode(), unknown] {
        for maybe_sent in [false, true] {
            let scene = Scene::new(None);
            scene.chain.state().verdict = Some(lie.clone().into());
            let chain = scene.chain.clone();
            let mut healing = JoinSet::new();
            healing.spawn(async move {
                tokio::time::sleep(Duration::from_secs(4)).await;
                chain.state().verdict = None;
            });
            let error = scene.submit(1, maybe_sent).await.unwrap_err();
            assert_eq!(error.remedy(), Remedy::Retry, "{error}");
            let outcome = scene.submit(1, true).await.unwrap();
            assert!(matches!(outcome, Outcome::Accepted { .. }), "{outcome:?}");
        }
    }
}

/// If this wallet is not known to have answered, nodes have to repeat it for longer.
#[tokio::test(start_paused = true)]
async fn a13_an_answer_that_nobody_knows_of_is_doubted_for_longer() {
    for (maybe_sent, is_listed, long) in
        [(false, false, true), (true, false, false), (false, true, false)]
    {
        let scene = Scene::new(None);
        scene.says(&already());
        if is_listed {
            scene.chain.list_answerer(U256::from(1), 60, scene.room.lane.sender());
        }
        let begun = tokio::time::Instant::now();
        assert_eq!(scene.submit(1, maybe_sent).await.unwrap(), Outcome::AlreadyAnswered);
        assert_eq!(begun.elapsed() > Duration::from_secs(10), long, "{maybe_sent} {is_listed}");
    }
}

/// One of two nodes reports a mined transaction as reverted, and that the contract would accept it.
#[tokio::test(start_paused = true)]
async fn g1_a_revert_that_another_node_denies_is_paid_for_once() {
    let scene = Scene::new(None);
    scene.chain.state().faults.resize(2, NodeFaults::default());
    scene.chain.state().faults[0].reverts = true;
    scene.chain.state().faults[1].verdict = Some(already().abi_encode().into());
    for maybe_sent in [false, true, true] {
        let error = scene.submit(1, maybe_sent).await.unwrap_err();
        assert_eq!(error.remedy(), Remedy::Retry, "{error}");
    }
    assert_eq!(scene.sent(), 1);
    scene.chain.state().faults[0].verdict = Some(already().abi_encode().into());
    assert_eq!(scene.submit(1, true).await.unwrap(), Outcome::AlreadyAnswered);
}

/// A transaction that seems to have failed is not paid for again while a node reports it as successful.
#[tokio::test(start_paused = true)]
async fn g1_before_a_second_payment_every_node_is_asked() {
    let scene = Scene::new(None);
    scene.chain.state().faults.resize(2, NodeFaults::default());
    // The other node has no receipts yet.
    (scene.chain.state().faults[0].reverts, scene.chain.state().faults[1].no_receipts) =
        (true, true);
    scene.chain.state().faults[1].verdict = Some(already().abi_encode().into());
    for maybe_sent in [false, true] {
        assert_eq!(scene.submit(1, maybe_sent).await.unwrap_err().remedy(), Remedy::Retry);
    }
    assert_eq!(scene.sent(), 1);
}

/// Every retry reverts without a reason.
#[tokio::test(start_paused = true)]
async fn g1_the_paid_reverts_of_a_request_have_a_bound_over_all_its_retries() {
    let scene = Scene::new(None);
    scene.chain.state().faults[0].reverts = true;
    for _ in 0..5 {
        assert_eq!(reason(scene.submit(1, true).await), HoldReason::ContractRejected);
        tokio::time::sleep(Duration::from_mins(5)).await;
    }
    assert_eq!(scene.sent(), 3);
    tokio::time::sleep(Duration::from_mins(40)).await;
    for _ in 0..3 {
        assert_eq!(reason(scene.submit(1, true).await), HoldReason::ContractRejected);
    }
    assert_eq!(scene.sent(), 4, "it is not given up");
    scene.submit(2, false).await.unwrap_err();
    assert_eq!(scene.sent(), 7, "another one has a bound of its own");
    scene.chain.state().faults[0].reverts = false;
    tokio::time::sleep(Duration::from_hours(2)).await;
    assert!(matches!(scene.submit(1, true).await, Ok(Outcome::Accepted { .. })));
}

/// One node's contract returns an odd error for some seconds: nothing is held for that.
#[tokio::test(start_paused = true)]
async fn m3_what_would_hold_a_request_is_looked_at_again_seconds_later_by_every_node() {
    let odd = Bytes::from_static(&[0xde, 0xad, 0xbe, 0xef]);
    for (nodes, heals) in [(1, true), (2, true), (2, false)] {
        for lie in [odd.clone(), Bytes::new()] {
            let scene = Scene::new(None);
            scene.chain.state().faults.resize(nodes, NodeFaults::default());
            scene.chain.state().faults[0].verdict = Some(lie);
            let chain = scene.chain.clone();
            let mut healing = JoinSet::new();
            healing.spawn(async move {
                tokio::time::sleep(Duration::from_secs(4)).await;
                if heals {
                    chain.state().faults[0].verdict = None;
                }
            });
            let error = scene.submit(1, false).await.unwrap_err();
            assert_eq!(error.remedy(), Remedy::Retry, "{nodes} {heals}: {error}");
        }
    }
    // An error that all nodes repeat counts.
    let scene = Scene::new(None);
    scene.chain.state().faults.resize(2, NodeFaults::default());
    scene.chain.state().verdict = Some(odd);
    assert_eq!(reason(scene.submit(1, false).await), HoldReason::ContractRejected);
    scene.says(&NotKmsSigner { signerAddress: CONTRACT });
    assert_eq!(reason(scene.submit(1, false).await), HoldReason::SignerNotRegistered);
}

/// A node reports a block gas limit below the cost of any answer.
#[tokio::test(start_paused = true)]
async fn m2_blocks_that_take_next_to_nothing_are_not_believed() {
    for absurd in [0, 21_000, 70_000] {
        let scene = Scene::new(None);
        scene.chain.state().faults[0].block_gas = Some(absurd);
        scene.chain.mine_empty(1);
        let outcome = scene.submit(1, false).await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted { .. }), "{absurd}");
    }
}

/// The error names the node that reported it, and does not advise a setting that would not help.
#[tokio::test(start_paused = true)]
async fn m2_who_says_that_blocks_take_too_little_is_named() {
    let scene = Scene::new(None);
    scene.chain.state().faults.resize(2, NodeFaults::default());
    scene.chain.state().faults[0].block_gas = Some(6_000_000);
    scene.chain.state().estimate = 7_000_000;
    scene.chain.mine_empty(1);
    let error = scene.submit(1, false).await.unwrap_err().to_string();
    assert!(error.contains("blocks that take 6000000 gas"), "{error}");
    assert!(error.contains("node-0") && !error.contains("node-1"), "{error}");
    assert!(!error.contains("gas_limit"), "{error}");
}

/// An estimate just below half of the cost of an answer, from one of two nodes.
#[tokio::test(start_paused = true)]
async fn a9c_the_first_estimate_of_a_class_is_compared() {
    for wary in [false, true] {
        let scene = Scene::new(None);
        scene.chain.state().faults.resize(2, NodeFaults::default());
        (scene.chain.state().estimate, scene.chain.state().gas_used) = (400_000, 390_000);
        scene.chain.state().faults[0].estimate = Some(180_000);
        for id in 0..4 {
            scene.submit(id, wary).await.unwrap();
        }
        assert_eq!(scene.sent(), 4, "none ran out of gas");
        // An hour later that estimate is forgotten; the gas used is known.
        tokio::time::sleep(Duration::from_mins(61)).await;
        scene.submit(4, wary).await.unwrap();
        assert_eq!(scene.sent(), 5);
    }
}

/// A lying node's estimate far above the others is ignored: a block has no room for many such answers.
#[tokio::test(start_paused = true)]
async fn a9c_an_estimate_far_above_the_others_is_left_out() {
    let scene = Scene::new(None);
    scene.chain.state().faults.resize(3, NodeFaults::default());
    scene.chain.state().faults[1].estimate = Some(29_000_000);
    scene.submit(1, false).await.unwrap();
    assert_eq!(scene.limit().await, 200_000);
}

/// With no other node to ask, one transaction shows it for all that wait.
#[tokio::test(start_paused = true)]
async fn a9c_a_class_runs_out_of_gas_once_before_more_is_known() {
    let scene = Scene::new(None);
    (scene.chain.state().estimate, scene.chain.state().gas_used) = (180_000, 390_000);
    let mut submitting = JoinSet::new();
    for id in 0..40 {
        let (room, block) = (scene.room.clone(), scene.chain.block(100));
        submitting.spawn(async move {
            brought(&room, &request(id, block), PriorAnswer::Impossible).await
        });
    }
    for outcome in submitting.join_all().await {
        assert!(matches!(outcome, Ok(Outcome::Accepted { .. })));
    }
    assert_eq!(scene.sent(), 41);
}

/// A start finds what an earlier run has sent, whatever that run knew of the result.
#[tokio::test(start_paused = true)]
async fn what_is_submitted_is_found_in_the_lane_or_comes_back() {
    let scene = Scene::new(None);
    let (request, answer) = (request(1, scene.chain.block(100)), answer());
    let (room, mut sending) = (&scene.room, SubmissionProgress::begin(PriorAnswer::Impossible));
    let sent = room.send(&request, &answer, &mut sending).await.unwrap();
    assert!(matches!(sent, SubmissionEvent::Broadcast { .. }), "{sent:?}");
    drop(sending);
    let mut sending = SubmissionProgress::begin(PriorAnswer::MaybeSent);
    let heard = loop {
        match room.follow(&request, &answer, &mut sending).await.unwrap() {
            SubmissionEvent::Broadcast { .. } => {}
            heard @ (SubmissionEvent::Waiting(_)
            | SubmissionEvent::Returned { .. }
            | SubmissionEvent::Ended(_)) => break heard,
        }
    };
    assert!(matches!(heard, SubmissionEvent::Ended(Outcome::Accepted { .. })), "{heard:?}");
    let heard = room
        .follow(&request, &answer, &mut SubmissionProgress::begin(PriorAnswer::MaybeSent))
        .await;
    assert_eq!(heard.unwrap(), SubmissionEvent::Returned { why: NONE_UNDER_WAY });
    assert_eq!(scene.sent(), 1);
}

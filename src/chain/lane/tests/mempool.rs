//! A chain with a pool of transactions: fee bumps, the cap, what pools forget and refuse, and confirmations.

use super::*;
use crate::chain::{
    fake_chain::{NodeFaults, PoolRules},
    lane::unsigned::fees_and_gas_of,
};

const GWEI: u128 = 1_000_000_000;
const RULES: MempoolRules = MempoolRules { confirmations: 64, unmined_blocks: 5 };

fn scene_with(rules: MempoolRules, cap: u128, pool: PoolRules) -> Scene {
    let chain = fake_chain();
    chain.state().pool_rules = Some(pool);
    let kind = ChainKind::Mempool(rules);
    let options = LaneOptions { chain_id: 1, max_in_flight: 16, max_fee_per_gas: cap, kind };
    Scene::with(chain, FakeLedger::default(), options)
}

fn scene() -> Scene {
    scene_with(RULES, HIGHEST_FEE, PoolRules::default())
}

fn pool(scene: &Scene, change: impl FnOnce(&mut PoolRules)) {
    change(scene.chain.state().pool_rules.as_mut().expect("it has a pool"));
}

/// The fees of everything that was signed, in the order of signing.
fn fees(scene: &Scene) -> Vec<Fees> {
    let fees = |row| fees_and_gas_of(row).expect("ours").0;
    scene.ledger.rows().iter().map(fees).collect()
}

/// All bytes are versions of one payload under nonce 0, each a replacement of the one before that any pool
/// takes.
fn assert_one_payload(scene: &Scene) {
    let rows = scene.ledger.rows();
    assert!(rows.iter().all(|row| (row.nonce, row.request) == (0, rows[0].request)), "{rows:?}");
    for two in fees(scene).windows(2) {
        let is_eighth_more = |new: u128, old: u128| new * 8 >= old * 9;
        assert!(is_eighth_more(two[1].max, two[0].max), "{two:?}");
        assert!(is_eighth_more(two[1].tip, two[0].tip), "{two:?}");
    }
    assert_eq!(scene.chain.state().nonce, 1, "one is mined");
}

fn is_waiting(submission: &SubmissionHandle) -> bool {
    submission.inclusion.is_empty()
}

fn holds(submission: &mut SubmissionHandle) -> Vec<Hold> {
    let mut holds = Vec::new();
    while let Ok(notice) = submission.updates.try_recv() {
        if let SubmissionUpdate::Waiting(hold) = notice {
            holds.push(hold);
        }
    }
    holds
}

#[tokio::test(start_paused = true)]
async fn a_receipt_ends_nothing_before_its_block_is_deep() {
    for restarted in [false, true] {
        let mut scene = scene();
        let mut submission = scene.submit(1).await;
        scene.blocks(2).await;
        assert_eq!(scene.chain.state().nonce, 1, "it is mined");
        assert_eq!(lock(&scene.ledger.mined).len(), 1, "and recorded");
        scene.blocks(30).await;
        if restarted {
            scene = scene.restart().await;
            // The lane has found the receipt again when the walk comes.
            scene.blocks(2).await;
            submission = scene.lane.attach(key(1)).await.expect("runs").expect("known");
        }
        scene.blocks(if restarted { 28 } else { 30 }).await;
        assert!(is_waiting(&submission), "62 blocks are on top");
        scene.blocks(6).await;
        let block = landing(&mut submission).block.number;
        assert!(scene.chain.height() - block >= 64);
        assert_one_payload(&scene);
        assert_eq!(scene.ledger.rows().len(), 1);
    }
}

/// Whoever asks again while it waits is told of the same transaction.
#[tokio::test(start_paused = true)]
async fn what_waits_for_its_depth_is_not_sent_a_second_time() {
    let scene = scene();
    let _first_walk = scene.submit(1).await;
    scene.blocks(10).await;
    let mut again = scene.submit(1).await;
    scene.blocks(64).await;
    landing(&mut again);
    assert_one_payload(&scene);
    assert_eq!(scene.chain.call_count("send"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_spike_of_the_base_fee_is_followed_by_one_valid_replacement() {
    let scene = scene();
    let mut submission = scene.submit(1).await;
    sleep(Duration::from_millis(100)).await;
    scene.chain.state().base_fee *= 10;
    scene.blocks(4).await;
    assert_one_payload(&scene);
    assert_eq!(scene.ledger.rows().len(), 2);
    assert!(fees(&scene)[1].max >= 20 * GWEI, "with room for the next blocks: {:?}", fees(&scene));
    scene.blocks(64).await;
    landing(&mut submission);
}

#[tokio::test(start_paused = true)]
async fn above_the_cap_it_waits_and_says_so() {
    let scene = scene_with(RULES, 5 * GWEI, PoolRules::default());
    let mut submission = scene.submit(1).await;
    sleep(Duration::from_millis(100)).await;
    scene.chain.state().base_fee = 10 * GWEI;
    let mut next = scene.submit(2).await;
    scene.blocks(80).await;
    for waiting in [&mut submission, &mut next] {
        let said = holds(waiting);
        assert_eq!(said.len(), 1, "once: {said:?}");
        assert_eq!(said[0].reason, HoldReason::FeeCap);
        assert!(said[0].detail.contains("ethereum_max_fee_per_gas_gwei = 5;"), "{}", said[0]);
    }
    scene.chain.state().base_fee = GWEI;
    scene.blocks(70).await;
    landing(&mut submission);
    landing(&mut next);
    assert!(fees(&scene).iter().all(|fees| fees.max <= 5 * GWEI), "{:?}", fees(&scene));
    assert_eq!(scene.chain.state().nonce, 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_pool_forgets_is_sent_again_with_the_same_bytes() {
    let never = MempoolRules { unmined_blocks: 10_000, ..RULES };
    let nobody = PoolRules { builders_tip: 50 * GWEI, ..PoolRules::default() };
    let scene = scene_with(never, HIGHEST_FEE, nobody);
    let mut submission = scene.submit(1).await;
    scene.blocks(2).await;
    assert!(scene.chain.pooled_fee(0).is_some());
    scene.chain.forget_pool();
    pool(&scene, |rules| rules.builders_tip = 1);
    scene.blocks(64).await;
    assert_one_payload(&scene);
    scene.blocks(64).await;
    landing(&mut submission);
    assert_eq!(scene.ledger.rows().len(), 1);
}

/// Builders want more than any node suggests; one pool asks for more than others do.
#[tokio::test(start_paused = true)]
async fn what_is_passed_over_pays_more_until_it_is_mined() {
    for bump_percent in [10, 30] {
        let rules = PoolRules { builders_tip: GWEI, bump_percent, ..PoolRules::default() };
        let scene = scene_with(RULES, HIGHEST_FEE, rules);
        let mut submission = scene.submit(1).await;
        scene.blocks(150).await;
        assert_one_payload(&scene);
        let tips: Vec<u128> = fees(&scene).iter().map(|fees| fees.tip).collect();
        assert!(tips.last().is_some_and(|tip| (GWEI..2 * GWEI).contains(tip)), "{tips:?}");
        scene.blocks(64).await;
        landing(&mut submission);
    }
}

/// A tip that nobody asks for is not paid.
#[tokio::test(start_paused = true)]
async fn tips_do_not_rise_without_end() {
    let nobody = PoolRules { builders_tip: 50 * GWEI, ..PoolRules::default() };
    let scene = scene_with(RULES, HIGHEST_FEE, nobody);
    let submission = scene.submit(1).await;
    scene.blocks(600).await;
    assert!(fees(&scene).iter().all(|fees| fees.tip <= 3 * GWEI), "{:?}", fees(&scene));
    assert!(is_waiting(&submission));
}

#[tokio::test(start_paused = true)]
async fn a_full_pool_and_a_dearer_one_are_waited_for() {
    for full in [true, false] {
        let rules = PoolRules { is_full: full, least_tip: GWEI / 5, ..PoolRules::default() };
        let scene = scene_with(RULES, HIGHEST_FEE, rules);
        let mut submission = scene.submit(1).await;
        scene.blocks(if full { 10 } else { 60 }).await;
        assert_eq!(scene.chain.state().nonce, u64::from(!full));
        pool(&scene, |rules| rules.is_full = false);
        scene.blocks(60 + 64).await;
        landing(&mut submission);
        assert_one_payload(&scene);
    }
}

/// A reorganisation removes what is not deep enough: same nonce, same bytes, and the blocks are counted
/// anew.
#[tokio::test(start_paused = true)]
async fn what_leaves_the_chain_is_sent_again() {
    for (takes_back, restarted) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut scene =
            scene_with(RULES, HIGHEST_FEE, PoolRules { takes_back, ..PoolRules::default() });
        let mut submission = scene.submit(1).await;
        scene.blocks(30).await;
        assert_eq!(scene.chain.state().nonce, 1);
        scene.chain.reorganise(30, vec![Vec::new(); 30]);
        assert_eq!(scene.chain.state().nonce, u64::from(takes_back));
        if restarted {
            scene = scene.restart().await;
            submission = scene.lane.attach(key(1)).await.expect("runs").expect("known");
        }
        // It is missed for a while before it counts as gone; a restart sends it at once.
        scene.blocks(4 * 20).await;
        assert_one_payload(&scene);
        if !takes_back && !restarted {
            assert!(is_waiting(&submission), "it was mined a moment ago");
        }
        scene.blocks(64).await;
        let block = landing(&mut submission).block;
        assert_eq!(scene.chain.block(block.number), block, "it is on the chain");
        assert!(scene.chain.height() - block.number >= 64);
        assert_eq!(scene.ledger.rows().len(), 1, "the same bytes");
    }
}

/// After a reorganisation an earlier version is mined: another node had kept it.
#[tokio::test(start_paused = true)]
async fn an_earlier_version_may_be_mined_after_a_reorganisation() {
    for restarted in [false, true] {
        let mut scene = scene();
        let mut submission = scene.submit(1).await;
        sleep(Duration::from_millis(100)).await;
        scene.chain.state().base_fee *= 10;
        scene.blocks(20).await;
        let rows = scene.ledger.rows();
        assert_eq!((rows.len(), scene.chain.state().nonce), (2, 1));
        if restarted {
            scene = scene.restart().await;
            submission = scene.lane.attach(key(1)).await.expect("runs").expect("known");
        }
        scene.chain.reorganise(21, Vec::new());
        scene.chain.state().base_fee = GWEI;
        scene.chain.send(&rows[0].raw, false).await.expect("it is free again");
        scene.blocks(4 * 20 + 64).await;
        assert_eq!(landing(&mut submission).transaction, rows[0].hash);
        assert_one_payload(&scene);
    }
}

/// The node that is read from may be on a fork.
#[tokio::test(start_paused = true)]
async fn a_block_on_which_the_nodes_differ_ends_nothing() {
    let scene = scene();
    scene.chain.state().faults.resize(2, NodeFaults::default());
    let mut submission = scene.submit(1).await;
    scene.blocks(2).await;
    let number = *lock(&scene.ledger.mined).values().map(|block| &block.number).next().unwrap();
    let other = BlockRef { number, hash: B256::repeat_byte(7) };
    scene.chain.state().faults[1].shows_block = Some(other);
    scene.blocks(80).await;
    assert!(is_waiting(&submission));
    scene.chain.state().faults[1].shows_block = None;
    scene.blocks(8).await;
    landing(&mut submission);
}

/// A transaction that reverted may succeed in another block: nobody is told before it is deep.
#[tokio::test(start_paused = true)]
async fn a_revert_counts_once_it_is_deep() {
    let scene = scene();
    scene.chain.state().gas_used = 200_000;
    let mut submission = scene.submit(1).await;
    scene.blocks(40).await;
    assert!(is_waiting(&submission));
    scene.chain.state().gas_used = 90_000;
    pool(&scene, |rules| rules.takes_back = true);
    scene.chain.reorganise(41, vec![Vec::new(); 41]);
    scene.blocks(4 * 20 + 64).await;
    assert!(landing(&mut submission).success);
    assert_one_payload(&scene);
}

/// A pool that has it would refuse a cheaper one, and the dear one may be mined as well.
#[tokio::test(start_paused = true)]
async fn what_a_pool_may_have_is_not_replaced_by_a_cheaper_one() {
    let never = MempoolRules { unmined_blocks: 10_000, ..RULES };
    let nobody = PoolRules { builders_tip: 50 * GWEI, ..PoolRules::default() };
    let scene = scene_with(never, HIGHEST_FEE, nobody);
    scene.chain.state().base_fee = 8 * GWEI;
    scene.blocks(1).await;
    let _first_walk = scene.submit(1).await;
    scene.blocks(2).await;
    scene.chain.state().base_fee = GWEI;
    scene.chain.state().funds = Some(U256::from(500_000 * GWEI));
    let scene = scene.restart().await;
    let mut submission = scene.lane.attach(key(1)).await.expect("runs").expect("known");
    scene.blocks(40).await;
    assert_eq!(holds(&mut submission).first().map(|hold| hold.reason), Some(HoldReason::NoFunds));
    assert_eq!(scene.ledger.rows().len(), 1);
    scene.chain.state().funds = None;
    pool(&scene, |rules| rules.builders_tip = 1);
    scene.blocks(70 + 64).await;
    landing(&mut submission);
    assert_one_payload(&scene);
}

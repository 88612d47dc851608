//! Wrong transaction counts: for seconds or for long, from one node or from all, and what they left in
//! journals.

use super::*;
use crate::chain::fake_chain::NodeFaults;

/// Makes the first `nodes` nodes report this count.
fn lie(scene: &Scene, nodes: usize, count: Option<u64>) {
    for lies in scene.chain.state().faults.iter_mut().take(nodes) {
        lies.transaction_count = count;
    }
}

fn nodes(scene: &Scene, many: usize) {
    scene.chain.state().faults.resize(many, NodeFaults::default());
}

fn nonces(scene: &Scene) -> Vec<u64> {
    scene.ledger.rows().iter().map(|row| row.nonce).collect()
}

fn notices(submission: &mut SubmissionHandle) -> Vec<HoldReason> {
    let mut reasons = Vec::new();
    while let Ok(notice) = submission.updates.try_recv() {
        if let SubmissionUpdate::Waiting(hold) = notice {
            reasons.push(hold.reason);
        }
    }
    reasons
}

#[tokio::test(start_paused = true)]
async fn a9_a_wrong_count_for_seconds_is_not_believed() {
    for all in [1, 2] {
        for wrong in [50, 5000, 12_345, 1 << 40, u64::MAX] {
            let scene = Scene::new();
            nodes(&scene, all);
            let mut before = scene.submit(1).await;
            scene.blocks(2).await;
            landing(&mut before);
            lie(&scene, 1, Some(wrong));
            let mut during = scene.submit(2).await;
            scene.blocks(12).await;
            lie(&scene, 1, None);
            let mut after = scene.submit(3).await;
            scene.blocks(8).await;
            landing(&mut during);
            landing(&mut after);
            assert_eq!(nonces(&scene), [0, 1, 2], "{wrong} of {all} nodes");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a9_a_node_that_lies_for_good_is_outvoted() {
    let scene = Scene::new();
    nodes(&scene, 2);
    let mut first = scene.submit(1).await;
    scene.blocks(2).await;
    landing(&mut first);
    for wrong in [5000, 0] {
        lie(&scene, 1, Some(wrong));
        for id in 0..5 {
            let mut submission = scene.submit(wrong + 10 + id).await;
            scene.blocks(40).await;
            landing(&mut submission);
        }
    }
    assert_eq!(nonces(&scene), (0..11).collect::<Vec<_>>());
}

/// Silent and stale nodes have no vote.
#[tokio::test(start_paused = true)]
async fn a9_a_few_foreign_nonces_are_adopted_whoever_is_silent_or_behind() {
    let scene = Scene::new();
    nodes(&scene, 3);
    scene.chain.state().faults[1].is_silent = true;
    scene.chain.state().faults[2].lags_from = Some(50);
    scene.chain.state().faults[2].transaction_count = Some(0);
    scene.blocks(1).await;
    scene.chain.foreign_transaction();
    scene.chain.foreign_transaction();
    // Now and then while nothing is open, then again after five seconds.
    scene.blocks(4 * 70).await;
    let mut submission = scene.submit(1).await;
    scene.blocks(2).await;
    landing(&mut submission);
    assert_eq!(nonces(&scene), [2]);
    assert_eq!(notices(&mut submission), []);
}

/// Another connector with the same wallet may answer all requests first, so that nothing is sent here.
#[tokio::test(start_paused = true)]
async fn d7_a_nonce_that_moves_while_nothing_is_sent_is_found_within_seconds() {
    let scene = Scene::new();
    scene.blocks(4).await;
    scene.chain.foreign_transaction();
    scene.blocks(4 * 25).await;
    let mut submission = scene.submit(1).await;
    scene.blocks(2).await;
    landing(&mut submission);
    assert_eq!(nonces(&scene), [1], "it was known before");
}

#[tokio::test(start_paused = true)]
async fn a9_many_foreign_nonces_hold_until_a_restart_or_ten_quiet_minutes() {
    for restarted in [true, false] {
        let mut scene = Scene::new();
        scene.blocks(1).await;
        scene.chain.state().nonce += 50;
        scene.blocks(4 * 70).await;
        let mut submission = scene.submit(1).await;
        scene.blocks(40).await;
        assert_eq!(notices(&mut submission), [HoldReason::WalletUsedElsewhere]);
        assert_eq!(nonces(&scene), Vec::<u64>::new(), "nothing is signed");
        if restarted {
            scene = scene.restart().await;
            submission = scene.submit(1).await;
            scene.blocks(4 * 6).await;
        } else {
            scene.blocks(4 * 500).await;
            assert!(submission.inclusion.is_empty());
            scene.blocks(4 * 110).await;
        }
        landing(&mut submission);
        assert_eq!(nonces(&scene), [50]);
    }
}

/// A wrong count that ended is forgotten.
#[tokio::test(start_paused = true)]
async fn a9_a_hold_ends_with_the_count_that_caused_it() {
    let scene = Scene::new();
    let mut submission = scene.submit(1).await;
    scene.blocks(2).await;
    lie(&scene, 1, Some(5000));
    scene.blocks(4 * 70).await;
    let mut held = scene.submit(2).await;
    scene.blocks(4 * 20).await;
    lie(&scene, 1, None);
    scene.blocks(8).await;
    landing(&mut submission);
    landing(&mut held);
    assert_eq!(notices(&mut held), [HoldReason::WalletUsedElsewhere]);
    assert_eq!(nonces(&scene), [0, 1]);
}

/// Also for our own open nonces: a count alone does not displace them.
#[tokio::test(start_paused = true)]
async fn a9_open_nonces_are_displaced_only_if_every_node_says_so() {
    let scene = Scene::new();
    nodes(&scene, 2);
    // Sent, with unknown result.
    scene.chain.state().send_behavior = SendBehavior::Lose;
    let mut submissions = vec![scene.submit(1).await, scene.submit(2).await];
    scene.blocks(2).await;
    lie(&scene, 1, Some(2));
    scene.blocks(4 * 40).await;
    assert_eq!(scene.chain.state().nonce, 0, "they are open");
    lie(&scene, 1, None);
    scene.chain.state().send_behavior = SendBehavior::Accept;
    scene.blocks(4 * 60).await;
    for submission in &mut submissions {
        landing(submission);
    }
    assert!(nonces(&scene).iter().all(|nonce| *nonce < 2), "{:?}", nonces(&scene));
}

/// "Wallet used elsewhere" needs more than one node's word: the node may have lost its receipts.
#[tokio::test(start_paused = true)]
async fn a9_what_one_node_has_no_receipts_of_was_used_by_nobody_else() {
    let scene = Scene::new();
    nodes(&scene, 2);
    scene.chain.state().faults[0].no_receipts = true;
    let mut submissions = Vec::new();
    for id in 0..5 {
        submissions.push(scene.submit(id).await);
    }
    scene.blocks(4 * 40).await;
    for submission in &mut submissions {
        landing(submission);
        assert_eq!(notices(submission), []);
    }
    assert_eq!(nonces(&scene), [0, 1, 2, 3, 4], "nothing is sent twice");
    // It has not left the chain either.
    scene.chain.reorganise(1, vec![Vec::new()]);
    scene.blocks(4 * 40).await;
    assert!(lock(&scene.ledger.reopened).is_empty());
}

/// A node that shows receipts of another chain is not believed against the count of all.
#[tokio::test(start_paused = true)]
async fn a9_a_receipt_of_a_block_that_is_not_in_the_chain_counts_for_nothing() {
    let scene = Scene::new();
    nodes(&scene, 2);
    scene.chain.state().faults[0].no_receipts = true;
    let mut submission = scene.submit(1).await;
    scene.blocks(1).await;
    let fork = BlockRef { number: 101, hash: B256::repeat_byte(9) };
    scene.chain.state().faults[1].receipts_in = Some(fork);
    scene.blocks(4 * 40).await;
    scene.chain.state().faults[0].no_receipts = false;
    scene.blocks(4 * 2).await;
    assert!(nonces(&scene).len() > 1, "{:?}", nonces(&scene));
    let _ = submission.inclusion.try_recv();
}

#[tokio::test(start_paused = true)]
async fn a9_a_receipt_that_comes_late_lifts_the_hold() {
    let scene = Scene::new();
    scene.chain.state().hide_receipts = true;
    let mut submissions = Vec::new();
    for id in 0..6 {
        submissions.push(scene.submit(id).await);
    }
    scene.blocks(4 * 40).await;
    let mut held = scene.submit(7).await;
    scene.blocks(4 * 20).await;
    assert_eq!(notices(&mut held), [HoldReason::WalletUsedElsewhere]);
    scene.chain.state().hide_receipts = false;
    scene.blocks(4 * 10).await;
    landing(&mut held);
    for submission in &mut submissions {
        assert!(landing(submission).success);
    }
    assert_eq!(nonces(&scene).len(), 7, "what was mined is not sent again");
}

/// A receipt in a block that does not exist counts as none, with a send and without.
#[tokio::test(start_paused = true)]
async fn b5_a_receipt_far_above_the_head_is_none() {
    for (many, waits) in [(1, true), (1, false), (2, true), (2, false)] {
        let scene = Scene::new();
        nodes(&scene, many);
        let mut before = scene.submit(1).await;
        scene.blocks(2).await;
        landing(&mut before);
        scene.chain.state().offers_receipts = waits;
        let far = BlockRef { number: (1 << 53) - 1, hash: B256::repeat_byte(9) };
        scene.chain.state().faults[0].receipts_in = Some(far);
        let mut during = scene.submit(2).await;
        scene.blocks(12).await;
        scene.chain.state().faults[0].receipts_in = None;
        scene.blocks(4 * 5).await;
        assert!(landing(&mut during).block.number < 200);
        let mut after = scene.submit(3).await;
        scene.blocks(4).await;
        landing(&mut after);
        assert_eq!(nonces(&scene), [0, 1, 2], "{many} {waits}");
    }
}

/// An earlier version believed in such a block, so it is in the journal.
#[tokio::test(start_paused = true)]
async fn b5_a_journal_with_a_receipt_far_above_the_head_heals() {
    let chain = fake_chain();
    let ledger = poisoned(&[0]).await;
    let far = BlockRef { number: (1 << 53) - 1, hash: B256::repeat_byte(9) };
    ledger.record_mined(ledger.rows()[0].id(), far).await.expect("records");
    let scene = Scene::over(chain, ledger);
    let mut submission = scene.submit(7).await;
    scene.blocks(4 * 40).await;
    landing(&mut submission);
    assert_eq!(nonces(&scene), [0, 1]);
    assert_eq!(scene.chain.state().nonce, 2, "what was believed to be mined is");
}

async fn poisoned(at: &[u64]) -> FakeLedger {
    let ledger = FakeLedger::default();
    let fees = Fees { max: 10_000_000_000, tip: 0 };
    for (id, nonce) in (0..).zip(at) {
        let draft = UnsignedTransaction::from_payload(1, *nonce, fees, &payload(id));
        let signed = draft.sign(&wallet()).await.expect("a local key signs");
        ledger.record_signed(vec![signed]).await.expect("records");
    }
    ledger
}

/// A journal of an earlier version that believed a count of 5000, of 2^40, or of the very highest.
#[tokio::test(start_paused = true)]
async fn a9_a_journal_with_nonces_of_a_wrong_count_starts_and_heals() {
    for wrong in [5000, 1 << 40, u64::MAX >> 1] {
        let chain = fake_chain();
        chain.state().nonce = 3;
        let recorded: Vec<u64> = (wrong - 8..wrong).collect();
        let scene = Scene::over(chain, poisoned(&recorded).await);
        let mut waiting = Vec::new();
        for id in 0..8 {
            waiting.push(scene.lane.attach(key(id)).await.expect("runs").expect("known"));
        }
        let mut new = scene.submit(100).await;
        scene.blocks(8).await;
        landing(&mut new);
        scene.blocks(4 * 25).await;
        for submission in &mut waiting {
            landing(submission);
        }
        assert_eq!(nonces(&scene)[8..], [3, 4, 5, 6, 7, 8, 9, 10, 11], "no hole is filled");
        assert_eq!(scene.chain.state().nonce, 12);
        assert_eq!(lock(&scene.ledger.given_up).len(), 8);
        // It works normally after that.
        let scene = scene.restart().await;
        let mut next = scene.submit(101).await;
        scene.blocks(8).await;
        landing(&mut next);
        assert_eq!(nonces(&scene).last(), Some(&12));
    }
}

/// The only way in which a payload may be mined twice: the contract then refuses the second answer.
#[tokio::test(start_paused = true)]
async fn a9_what_was_stranded_is_known_when_the_chain_comes_to_it() {
    let chain = fake_chain();
    let scene = Scene::over(chain, poisoned(&[70]).await);
    let mut answer = scene.lane.attach(key(0)).await.expect("runs").expect("known");
    // A node keeps it in its pool.
    scene.blocks(4 * 25).await;
    landing(&mut answer);
    assert_eq!(nonces(&scene), [70, 0]);
    let scene = scene.restart().await;
    let mut others = Vec::new();
    for id in 1..75 {
        others.push(scene.submit(id).await);
        scene.blocks(1).await;
    }
    scene.blocks(4 * 25).await;
    for submission in &mut others {
        landing(submission);
    }
    let rows = scene.ledger.rows();
    let of = |id: u64| {
        let rows = rows.iter().filter(|row| row.request == Some(key(id)));
        rows.map(|row| row.nonce).collect::<Vec<_>>()
    };
    assert_eq!(of(70), [70, 71], "its nonce was that of the stranded one");
    assert_eq!(scene.chain.state().nonce, 76);
    assert!(lock(&scene.ledger.given_up).values().all(|why| *why == GiveUpReason::Stranded));
}

#[tokio::test(start_paused = true)]
async fn a9_a_start_waits_for_a_node_that_knows_what_was_mined() {
    let chain = fake_chain();
    let ledger = poisoned(&[5000]).await;
    let mined = ledger.rows()[0].id();
    ledger.record_mined(mined, chain.block(50)).await.expect("records");
    chain.state().nonce = 3;
    let scene = Scene::over(chain, ledger);
    let mut submission = scene.submit(7).await;
    scene.blocks(4 * 60).await;
    assert_eq!(nonces(&scene), [5000], "nothing is signed, and no hole filled");
    scene.chain.state().nonce = 5001;
    scene.blocks(4 * 15).await;
    landing(&mut submission);
    assert_eq!(nonces(&scene), [5000, 5001]);
}

/// Narrow gaps are filled, and no fault spends the wallet's funds on that.
#[tokio::test(start_paused = true)]
async fn a9_no_ops_are_bounded_in_each_minute() {
    let chain = fake_chain();
    // Holes of 50, 50 and 50.
    let scene = Scene::over(chain, poisoned(&[50, 101, 152]).await);
    scene.blocks(4 * 30).await;
    let noops =
        |scene: &Scene| scene.ledger.rows().iter().filter(|row| row.request.is_none()).count();
    assert_eq!(noops(&scene), 60);
    scene.blocks(4 * 60).await;
    assert_eq!(noops(&scene), 120);
    scene.blocks(4 * 70).await;
    assert_eq!((noops(&scene), scene.chain.state().nonce), (150, 153));
}

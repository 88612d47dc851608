//! Wrong tips, base fees and gas limits: what is signed then, and what they left in journals.

use super::*;
use crate::chain::{fake_chain::NodeFaults, lane::unsigned::most_gas};

const GWEI: u128 = 1_000_000_000;

/// Maximum fee, tip and gas limit of everything that was signed.
fn signed(scene: &Scene) -> Vec<(u128, u128, u64)> {
    let decoded = scene.ledger.rows().into_iter().map(|row| {
        let one = TxEnvelope::decode_2718(&mut row.raw.as_ref()).expect("ours");
        let tip = one.max_priority_fee_per_gas().expect("with a tip");
        (one.max_fee_per_gas(), tip, one.gas_limit())
    });
    decoded.collect()
}

fn gwei(wei: u128) -> U256 {
    U256::from(wei * GWEI)
}

#[tokio::test(start_paused = true)]
async fn a9b_an_absurd_tip_is_not_signed() {
    for nodes in [1, 2] {
        for tip in [100_000 * GWEI, u128::from(u64::MAX), u128::MAX] {
            let scene = Scene::new();
            scene.chain.state().faults.resize(nodes, NodeFaults::default());
            scene.chain.state().faults[0].priority_fee = Some(tip);
            let mut submissions = Vec::new();
            for id in 0..8 {
                submissions.push(scene.submit(id).await);
            }
            scene.blocks(4).await;
            for submission in &mut submissions {
                landing(submission);
            }
            // 90,000 gas each, for 1 gwei and a tip of at most 3.
            let paid = scene.chain.state().paid;
            assert!(paid <= gwei(8 * 90_000 * 4), "{paid}");
            assert!(nodes == 1 || paid <= gwei(8 * 90_000), "the other node's tip counts");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a9b_an_absurd_base_fee_is_not_signed() {
    for nodes in [1, 2] {
        let scene = Scene::new();
        scene.chain.state().faults.resize(nodes, NodeFaults::default());
        scene.chain.state().funds = Some(gwei(10_000_000));
        scene.blocks(1).await;
        for base in [1_000_000 * GWEI, u128::MAX, 900 * GWEI] {
            scene.chain.state().faults[0].base_fee = Some(base);
            scene.blocks(1).await;
            let mut submission = scene.submit(u64::try_from(base % 1000).unwrap()).await;
            scene.blocks(4).await;
            landing(&mut submission);
        }
        assert!(signed(&scene).iter().all(|(max, ..)| *max <= 8 * GWEI), "{:?}", signed(&scene));
    }
}

/// The hold names the real cause, which is not the wallet's funds.
#[tokio::test(start_paused = true)]
async fn a9b_a_dear_chain_is_said_with_the_bound_that_holds() {
    let scene = Scene::new();
    scene.chain.state().base_fee = 2000 * GWEI;
    scene.blocks(30).await;
    let mut submission = scene.submit(1).await;
    scene.blocks(4).await;
    let Ok(SubmissionUpdate::Waiting(hold)) = submission.updates.try_recv() else {
        panic!("it was said")
    };
    assert_eq!(hold.reason, HoldReason::FeeCap);
    assert!(
        hold.detail.contains("is 2000 gwei") && hold.detail.contains("_gwei = 1000;"),
        "{hold}"
    );
    assert!(scene.ledger.rows().is_empty());
    scene.chain.state().base_fee = GWEI;
    scene.blocks(4).await;
    landing(&mut submission);
}

/// Signed while the base fee was high and refused for funds: signed again once it is low.
#[tokio::test(start_paused = true)]
async fn a9b_what_no_node_took_gets_a_cheaper_replacement() {
    let scene = Scene::new();
    scene.chain.state().base_fee = 8 * GWEI;
    scene.chain.state().funds = Some(gwei(500_000));
    scene.blocks(1).await;
    let mut submission = scene.submit(1).await;
    scene.blocks(4).await;
    let Ok(SubmissionUpdate::Waiting(hold)) = submission.updates.try_recv() else {
        panic!("it was said")
    };
    assert_eq!(hold.reason, HoldReason::NoFunds);
    assert!(hold.detail.contains("100000 gas for at most 16 gwei"), "{hold}");
    scene.chain.state().base_fee = GWEI;
    scene.blocks(12).await;
    landing(&mut submission);
    assert_eq!(signed(&scene), [(16 * GWEI, 0, 100_000), (2 * GWEI, 0, 100_000)]);
    assert_eq!(scene.chain.state().nonce, 1);
}

/// A journal of an earlier version: bytes that ask for the fees of a node's wrong report.
async fn poisoned(many: u64, max: u128, tip: u128, gas_limit: u64) -> FakeLedger {
    let ledger = FakeLedger::default();
    for id in 0..many {
        let fees = Fees { max, tip };
        let draft =
            UnsignedTransaction::from_payload(1, id, fees, &Payload { gas_limit, ..payload(id) });
        let signed = draft.sign(&wallet()).await.expect("a local key signs");
        ledger.record_signed(vec![signed]).await.expect("records");
    }
    ledger
}

async fn heals(ledger: FakeLedger, many: u64) -> Scene {
    let chain = fake_chain();
    // 999 ether.
    chain.state().funds = Some(gwei(999_000_000_000));
    let scene = Scene::over(chain, ledger);
    let mut waiting = Vec::new();
    for id in 0..many {
        waiting.push(scene.lane.attach(key(id)).await.expect("runs").expect("known"));
    }
    let mut next = scene.submit(100).await;
    scene.blocks(12).await;
    for submission in &mut waiting {
        landing(submission);
        assert!(
            submission
                .updates
                .try_recv()
                .is_ok_and(|notice| { matches!(notice, SubmissionUpdate::Broadcast { .. }) })
        );
    }
    landing(&mut next);
    assert_eq!(scene.chain.state().nonce, many + 1);
    scene
}

#[tokio::test(start_paused = true)]
async fn a9b_a_journal_with_an_absurd_tip_heals() {
    for tip in [100_000 * GWEI, u128::from(u64::MAX), u128::MAX] {
        let scene = heals(poisoned(3, tip, tip, 100_000).await, 3).await;
        assert_eq!(signed(&scene)[3..], [(2 * GWEI, 0, 100_000); 4]);
        assert!(scene.chain.state().paid <= gwei(4 * 90_000), "none of the dear ones was sent");
    }
}

#[tokio::test(start_paused = true)]
async fn a9c_a_journal_with_an_absurd_gas_limit_heals() {
    for gas in [u64::MAX, most_gas(40) + 1] {
        let scene = heals(poisoned(3, 2 * GWEI, 0, gas).await, 3).await;
        let mended = (2 * GWEI, 0, 30_000_000);
        assert_eq!(signed(&scene)[3..], [mended, mended, mended, (2 * GWEI, 0, 100_000)]);
    }
}

/// Transactions that are open when the process dies are sent on unchanged.
#[tokio::test(start_paused = true)]
async fn what_is_in_proportion_is_sent_on_with_the_same_bytes() {
    let scene = heals(poisoned(3, 20 * GWEI, 3 * GWEI, 200_000).await, 3).await;
    assert_eq!(signed(&scene).len(), 4);
}

/// A node that has the expensive version keeps it; whichever is mined, it is the answer.
#[tokio::test(start_paused = true)]
async fn a9b_either_version_may_be_mined() {
    let ledger = poisoned(1, 2000 * GWEI, 0, 100_000).await;
    let dear = ledger.rows()[0].hash;
    let chain = fake_chain();
    chain.send(&ledger.rows()[0].raw, false).await.expect("takes it");
    chain.state().send_behavior = SendBehavior::Refuse("replacement transaction underpriced");
    let scene = Scene::over(chain, ledger);
    let mut answer = scene.lane.attach(key(0)).await.expect("runs").expect("known");
    scene.blocks(8).await;
    assert_eq!(landing(&mut answer).transaction, dear);
    assert_eq!(scene.ledger.rows().len(), 2);
    assert_eq!(signed(&scene)[1], (2 * GWEI, 0, 100_000));
}

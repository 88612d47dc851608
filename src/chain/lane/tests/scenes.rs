//! One lane over one chain: what it sends, sends again, records and gives up.

use super::*;

#[tokio::test(start_paused = true)]
async fn in_a_crowd_no_broadcast_waits_for_its_receipt() {
    let options = LaneOptions {
        chain_id: 1,
        max_in_flight: 512,
        max_fee_per_gas: HIGHEST_FEE,
        kind: ChainKind::Sequencer,
    };
    let chain = fake_chain();
    let head = chain.heads().borrow().expect("a head");
    let address = wallet().address();
    for (many, waits) in [(60, true), (70, false)] {
        let mut book = LaneState::new(options, address, 0, Recovered::default(), Instant::now());
        book.apply_head(&head, Instant::now());
        book.set_tip(Some(1));
        assert_eq!(waits_of(&mut book, 0..many).await, vec![waits; usize::try_from(many).unwrap()]);
    }
}

/// Field failure T38.
#[tokio::test(start_paused = true)]
async fn many_at_once_are_mined_once_each_in_a_block() {
    let scene = Scene::new();
    let mut submissions = Vec::new();
    for id in 0..50 {
        submissions.push(scene.submit(id).await);
    }
    scene.blocks(2).await;
    let mined: HashSet<B256> = submissions.iter_mut().map(|s| landing(s).transaction).collect();
    assert_eq!(mined.len(), 50);
    assert_eq!(scene.chain.state().nonce, 50);
    assert_eq!(scene.chain.call_count("send"), 50, "nothing was sent twice");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_answers_a_few_at_a_time_is_asked_for_few() {
    let scene = Scene::new();
    scene.chain.state().most_receipts = Some(20);
    let mut submissions = Vec::new();
    for id in 0..90 {
        submissions.push(scene.submit(id).await);
    }
    scene.blocks(30).await;
    for submission in &mut submissions {
        landing(submission);
    }
    assert_eq!(scene.chain.call_count("send"), 90, "nothing was sent twice");
}

/// Field failure T62.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_means_the_same_bytes_again() {
    let scene = Scene::new();
    scene.chain.state().send_behavior = SendBehavior::TakeSilently;
    let mut silent = scene.submit(1).await;
    scene.blocks(1).await;
    scene.chain.state().send_behavior = SendBehavior::Lose;
    let mut lost = scene.submit(2).await;
    scene.blocks(2).await;
    assert!(lost.inclusion.try_recv().is_err());
    scene.chain.state().send_behavior = SendBehavior::Accept;
    scene.blocks(20).await;
    landing(&mut silent);
    landing(&mut lost);
    assert_eq!(scene.ledger.rows().len(), 2, "no other bytes were ever signed");
    assert_eq!(scene.chain.state().nonce, 2);
}

#[tokio::test(start_paused = true)]
async fn a_restart_attaches_to_what_was_sent() {
    let scene = Scene::new();
    scene.chain.state().send_behavior = SendBehavior::Lose;
    let _gone = scene.submit(1).await;
    scene.blocks(1).await;
    let scene = scene.restart().await;
    scene.chain.state().send_behavior = SendBehavior::Accept;
    let mut again = scene.lane.attach(key(1)).await.expect("runs").expect("known");
    assert!(scene.lane.attach(key(2)).await.expect("runs").is_none());
    let mut new = scene.submit(2).await;
    scene.blocks(20).await;
    landing(&mut again);
    landing(&mut new);
    assert_eq!(scene.ledger.rows().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_landed_while_nobody_waited_is_kept_for_who_asks() {
    let scene = Scene::new();
    let _gone = scene.submit(1).await;
    sleep(Duration::from_millis(50)).await;
    let scene = scene.restart().await;
    scene.blocks(3).await;
    let mut again = scene.submit(1).await;
    scene.blocks(1).await;
    landing(&mut again);
    assert_eq!(scene.chain.state().nonce, 1);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_transaction_displaces_and_the_answer_gets_a_new_nonce() {
    let scene = Scene::new();
    scene.chain.state().send_behavior = SendBehavior::Lose;
    let mut submission = scene.submit(1).await;
    scene.blocks(1).await;
    scene.chain.foreign_transaction();
    scene.chain.state().send_behavior = SendBehavior::Accept;
    scene.blocks(120).await;
    landing(&mut submission);
    let rows = scene.ledger.rows();
    assert_eq!(rows.iter().map(|row| row.nonce).collect::<Vec<_>>(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn late_receipts_do_not_cause_a_second_transaction() {
    let scene = Scene::new();
    let mut submission = scene.submit(1).await;
    scene.chain.state().hide_receipts = true;
    scene.blocks(40).await;
    scene.chain.state().hide_receipts = false;
    scene.blocks(2).await;
    landing(&mut submission);
    assert_eq!(scene.ledger.rows().len(), 1);
}

/// Field failure T39.
#[tokio::test(start_paused = true)]
async fn a_hole_is_filled_by_the_next_payload_or_a_no_op() {
    let chain = fake_chain();
    let ledger = FakeLedger::default();
    // A crash between two commits: nonce 1 is recorded, nonce 0 is not.
    let fees = Fees { max: 10_000_000_000, tip: 0 };
    let draft = UnsignedTransaction::from_payload(1, 1, fees, &payload(1));
    let recorded = draft.sign(&wallet()).await.expect("signs");
    ledger.record_signed(vec![recorded]).await.expect("records");
    let scene = Scene::over(chain, ledger);
    let mut recovered = scene.lane.attach(key(1)).await.expect("runs").expect("known");
    // The tip is read when something is to be sent, also for a no-op.
    scene.blocks(10).await;
    landing(&mut recovered);
    assert_eq!(scene.chain.state().nonce, 2);
}

#[tokio::test(start_paused = true)]
async fn a_rising_base_fee_is_followed_under_the_same_nonce() {
    let scene = Scene::new();
    scene.chain.state().send_behavior = SendBehavior::Lose;
    let mut submission = scene.submit(1).await;
    scene.blocks(1).await;
    scene.chain.state().base_fee *= 10;
    scene.chain.state().send_behavior = SendBehavior::Accept;
    scene.blocks(60).await;
    landing(&mut submission);
    let rows = scene.ledger.rows();
    assert!(rows.len() > 1 && rows.iter().all(|row| row.nonce == 0));
}

#[tokio::test(start_paused = true)]
async fn an_empty_wallet_is_said_and_mends_itself() {
    let scene = Scene::new();
    scene.chain.state().send_behavior =
        SendBehavior::Refuse("insufficient funds for gas * price + value");
    let mut submission = scene.submit(1).await;
    scene.blocks(4).await;
    let notice = submission.updates.try_recv().expect("it was said");
    assert!(
        matches!(notice, SubmissionUpdate::Waiting(hold) if hold.reason == HoldReason::NoFunds)
    );
    scene.chain.state().send_behavior = SendBehavior::Accept;
    scene.blocks(200).await;
    landing(&mut submission);
    assert_eq!(scene.ledger.rows().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_proven_rejection_frees_the_nonce() {
    let scene = Scene::new();
    scene.chain.state().send_behavior = SendBehavior::Refuse("execution reverted");
    let mut refused = scene.submit(1).await;
    scene.blocks(2).await;
    let error = refused.inclusion.try_recv().expect("answered").expect_err("refused");
    assert!(matches!(error, SubmitError::WouldRevert { .. }));
    scene.chain.state().send_behavior = SendBehavior::Accept;
    let mut next = scene.submit(2).await;
    scene.blocks(3).await;
    landing(&mut next);
    assert_eq!(scene.chain.state().nonce, 1, "the next payload took the same nonce");
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_taken_is_displaced_by_a_no_op_before_it_gets_another_nonce() {
    let scene = Scene::new();
    scene.chain.state().send_behavior = SendBehavior::Lose;
    let mut submission = scene.submit(1).await;
    scene.blocks(1).await;
    // The same node now says that it would revert, which proves nothing about the earlier send.
    scene.chain.state().send_behavior = SendBehavior::Refuse("execution reverted");
    scene.blocks(4).await;
    assert!(submission.inclusion.try_recv().is_err(), "not given up");
    scene.chain.state().send_behavior = SendBehavior::Accept;
    scene.blocks(80).await;
    landing(&mut submission);
    let rows = scene.ledger.rows();
    let of_request = rows.iter().filter(|row| row.request.is_some()).map(|row| row.nonce);
    assert_eq!(of_request.collect::<Vec<_>>(), [0, 1]);
    assert!(rows.iter().any(|row| row.nonce == 0 && row.request.is_none()));
    assert_eq!(scene.chain.state().nonce, 2);
}

/// Found by the simulation: seed 1962 sent an answer twice.
#[tokio::test(start_paused = true)]
async fn a_payload_displaced_in_two_versions_gets_one_new_nonce() {
    let scene = Scene::new();
    scene.chain.state().send_behavior = SendBehavior::Lose;
    let mut submission = scene.submit(1).await;
    scene.blocks(1).await;
    scene.chain.state().base_fee *= 10;
    scene.chain.state().send_behavior =
        SendBehavior::Refuse("max fee per gas less than block base fee");
    scene.blocks(20).await;
    scene.chain.state().send_behavior = SendBehavior::Refuse("execution reverted");
    scene.blocks(80).await;
    scene.chain.state().send_behavior = SendBehavior::Accept;
    scene.blocks(160).await;
    landing(&mut submission);
    let rows = scene.ledger.rows();
    let of_request = rows.iter().filter(|row| row.request.is_some()).map(|row| row.nonce);
    assert_eq!(of_request.collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!(scene.chain.state().nonce, 2);
}

#[tokio::test(start_paused = true)]
async fn what_waited_behind_a_missing_nonce_goes_as_soon_as_it_is_there() {
    let scene = Scene::new();
    scene.chain.state().send_behavior = SendBehavior::Refuse("nonce too high");
    let mut submissions = vec![scene.submit(1).await, scene.submit(2).await];
    scene.blocks(80).await;
    scene.chain.state().send_behavior = SendBehavior::Accept;
    // Its own pause may have grown to 15 s; the transaction behind it must not wait as long again.
    let mut blocks = 0;
    while submissions[0].inclusion.is_empty() && blocks < 120 {
        scene.blocks(1).await;
        blocks += 1;
    }
    scene.blocks(3).await;
    for submission in &mut submissions {
        landing(submission);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_broadcast_that_is_not_recorded() {
    let chain = fake_chain();
    let ledger = FakeLedger { broken: true, ..FakeLedger::default() };
    let mut scene = Scene::over(chain, ledger);
    let _lost = scene.submit(1).await;
    let ended = scene.running.join_next().await.expect("it ends").expect("no panic");
    assert!(ended.is_err(), "the lane ends with the journal's error");
    assert_eq!(scene.chain.call_count("send"), 0);
    scene.stop.cancel();
}

/// A rejected payload's nonce went to another payload before the process died: both rows are open, and
/// each request keeps its own bytes.
#[tokio::test(start_paused = true)]
async fn two_requests_recovered_under_one_nonce_are_not_mixed_up() {
    let fees = Fees { max: 10_000_000_000, tip: 0 };
    let (first, second) = (Payload { data: Bytes::from(vec![7; 40]), ..payload(1) }, payload(2));
    let ledger = FakeLedger::default();
    for payload in [&first, &second] {
        let signed = UnsignedTransaction::from_payload(1, 0, fees, payload)
            .sign(&wallet())
            .await
            .expect("signs");
        ledger.record_signed(vec![signed]).await.expect("records");
    }
    let scene = Scene::over(fake_chain(), ledger);
    let mut one = scene.lane.attach(key(1)).await.expect("runs").expect("known");
    let mut two = scene.lane.attach(key(2)).await.expect("runs").expect("known");
    scene.blocks(20).await;
    landing(&mut two);
    landing(&mut one);
    let rows = scene.ledger.rows();
    let last = rows.last().expect("a third row");
    assert_eq!((rows.len(), last.nonce, last.request), (3, 1, Some(key(1))));
    let sent = TxEnvelope::decode_2718(&mut last.raw.as_ref()).expect("ours");
    assert_eq!(sent.input(), &first.data, "not the bytes of the other request");
}

/// A hundred mined transactions, and a restart that finds them gone.
#[tokio::test(start_paused = true)]
async fn what_a_reorganisation_drops_is_sent_again_with_the_same_bytes() {
    for restarted in [false, true] {
        let mut scene = Scene::new();
        let mut submissions = Vec::new();
        for id in 0..50 {
            submissions.push(scene.submit(id).await);
        }
        scene.blocks(3).await;
        assert_eq!(scene.chain.state().nonce, 50);
        if restarted {
            scene.chain.reorganise(4, Vec::new());
            scene = scene.restart().await;
        } else {
            scene.chain.reorganise(4, Vec::new());
        }
        assert_eq!(scene.chain.state().nonce, 0, "all are gone");
        scene.blocks(100).await;
        assert_eq!(scene.chain.state().nonce, 50, "and back, restarted: {restarted}");
        assert_eq!(scene.ledger.rows().len(), 50, "the same bytes");
        assert_eq!(lock(&scene.ledger.reopened).len(), 50);
        // A caller that attaches learns of the new block.
        let mut again = scene.lane.attach(key(7)).await.expect("runs").expect("known");
        scene.blocks(1).await;
        assert!(landing(&mut again).block.number > 100);
        let mut next = scene.submit(1000).await;
        scene.blocks(3).await;
        landing(&mut next);
    }
}

/// A node that lags after a reconnect, and one without receipts for a while: no transaction left the
/// chain.
#[tokio::test(start_paused = true)]
async fn b6_what_a_node_cannot_know_yet_has_not_left_the_chain() {
    let scene = Scene::new();
    let mut submission = scene.submit(1).await;
    scene.blocks(2).await;
    let mined = landing(&mut submission).block.number;
    scene.chain.state().connection += 1;
    scene.chain.state().hide_receipts = true;
    scene.chain.state().lags_from = Some(mined);
    scene.blocks(240).await;
    assert!(lock(&scene.ledger.reopened).is_empty(), "its head is below the block");
    scene.chain.state().lags_from = None;
    scene.blocks(40).await;
    assert!(lock(&scene.ledger.reopened).is_empty(), "not for long");
    let mut next = scene.submit(2).await;
    scene.blocks(30).await;
    assert_eq!(lock(&scene.ledger.reopened).len(), 1, "for long");
    scene.chain.state().hide_receipts = false;
    scene.blocks(20).await;
    landing(&mut next);
    assert_eq!(scene.ledger.rows().len(), 2, "no other bytes");
}

/// The receipt of the first version arrives while the second one is being signed or recorded.
#[tokio::test(start_paused = true)]
async fn b7_a_replacement_of_what_is_mined_meanwhile_is_given_up() {
    for is_signed in [false, true] {
        b7_replaced(is_signed).await;
    }
}

async fn b7_replaced(is_signed: bool) {
    let address = wallet().address();
    let options = LaneOptions {
        chain_id: 1,
        max_in_flight: 8,
        max_fee_per_gas: HIGHEST_FEE,
        kind: ChainKind::Sequencer,
    };
    let mut book = LaneState::new(options, address, 0, Recovered::default(), Instant::now());
    let mut head = fake_chain().heads().borrow().expect("a head");
    book.apply_head(&head, Instant::now());
    book.set_tip(Some(1));
    let _waits = waits_of(&mut book, 1..2).await;
    let first = book.open_hashes()[0].1;
    head.base_fee = head.base_fee.map(|fee| fee * 10);
    book.apply_head(&head, Instant::now());
    let dear = RpcError::Refused {
        host: "node".into(),
        code: -32000,
        message: "max fee per gas less than block base fee".into(),
        data: None,
    };
    book.apply_broadcast(0, first, Err(dear), Instant::now(), 0.5);
    let signed = signed_for(&mut book).await;
    let replacement = signed[0].id();
    if is_signed {
        book.apply_signed(signed.clone(), Vec::new(), Instant::now(), 0.5);
    }
    let receipt =
        Receipt { hash: first, block: head.block, success: true, gas_used: 1, gas_price: 1 };
    let open = vec![(0, Some(receipt))];
    let seen = ChainReport { count: 1, open, is_complete: true, ..ChainReport::default() };
    book.apply_report(Some(seen), Instant::now());
    book.take_effects();
    if is_signed {
        book.apply_recorded(signed, Instant::now());
        let effects = book.take_effects();
        let is_given_up = matches!(&effects[..], [Effect::GiveUp(ids, GiveUpReason::Rejected)]
            if ids[..] == [replacement]);
        assert!(is_given_up, "{effects:?}");
    } else {
        book.apply_signed(signed, Vec::new(), Instant::now(), 0.5);
        assert!(book.take_effects().is_empty(), "there is nothing to be recorded");
    }
    assert_eq!(book.open_hashes(), []);
    assert_eq!(book.take_tally().foreign, 0);
}

/// Nonces that somebody else had used before a reorganisation.
#[tokio::test(start_paused = true)]
async fn foreign_transactions_that_are_dropped_leave_no_gap() {
    let scene = Scene::new();
    let mut first = scene.submit(1).await;
    scene.blocks(2).await;
    landing(&mut first);
    for _ in 0..3 {
        scene.chain.foreign_transaction();
    }
    scene.blocks(2).await;
    let mut second = scene.submit(2).await;
    scene.blocks(40).await;
    landing(&mut second);
    assert_eq!(scene.ledger.rows().last().expect("a row").nonce, 4);
    // Nonces 1 to 4 leave the chain; nobody uses 1 to 3 any more.
    scene.chain.reorganise(42, Vec::new());
    scene.chain.state().nonce = 1;
    scene.blocks(120).await;
    assert_eq!(scene.chain.state().nonce, 5, "no-ops filled what nobody needs");
}

/// EIP-7966: one call returns the receipt.
#[tokio::test(start_paused = true)]
async fn a_receipt_that_comes_with_the_answer_is_not_asked_for() {
    let scene = Scene::new();
    scene.chain.state().offers_receipts = true;
    let mut submission = scene.submit(1).await;
    scene.blocks(2).await;
    landing(&mut submission);
    assert_eq!(scene.chain.call_count("receipts"), 0);
    // If the receipt does not come in time, it is looked for.
    scene.chain.state().base_fee *= 10;
    let mut dear = scene.submit(2).await;
    scene.blocks(60).await;
    landing(&mut dear);
}

/// In a pool where others pay more: the same payload pays more under the same nonce.
#[tokio::test(start_paused = true)]
async fn what_starves_in_a_pool_pays_more() {
    let scene = Scene::new();
    let mut submission = scene.submit(1).await;
    sleep(Duration::from_millis(100)).await;
    scene.chain.state().base_fee *= 3;
    scene.blocks(120).await;
    landing(&mut submission);
    let rows = scene.ledger.rows();
    assert!(rows.len() > 1 && rows.iter().all(|row| row.nonce == 0), "{rows:?}");
    assert_eq!(scene.chain.state().nonce, 1);
}

/// An unanswered broadcast does not hold up the nonces behind it for its whole deadline.
#[tokio::test(start_paused = true)]
async fn a_swallowed_broadcast_is_made_again_within_a_second() {
    let scene = Scene::new();
    scene.chain.state().lost_sends = 1;
    let mut submissions = vec![scene.submit(1).await, scene.submit(2).await];
    scene.blocks(8).await;
    for submission in &mut submissions {
        landing(submission);
    }
    assert_eq!(scene.ledger.rows().len(), 2);
}

/// Rejected by every node: not followed after a restart either.
#[tokio::test(start_paused = true)]
async fn what_every_node_refused_is_given_up_in_the_journal() {
    let scene = Scene::new();
    scene.chain.state().send_behavior = SendBehavior::Refuse("execution reverted");
    let mut refused = scene.submit(1).await;
    scene.blocks(2).await;
    refused.inclusion.try_recv().expect("answered").expect_err("refused");
    assert!(scene.ledger.open().is_empty());
}

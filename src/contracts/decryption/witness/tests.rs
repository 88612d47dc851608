//! Nodes that show a request, deny it, lag, do not answer or lie.

use alloy::sol_types::SolValue as _;

use super::{
    cache::{ABSENT_FOR, SECOND_NODE_GRACE},
    *,
};
use crate::{
    chain::fake_chain::{ADDRESSES, CONTRACT, FakeChain, NodeFaults, SOURCE, request_event},
    contracts::abi,
    domain::{Address, B256, Bytes, Event, U256},
};

/// A block with requests 1 and 2, shown by two nodes.
fn ground() -> (FakeChain, RequestContract<FakeChain>, [Request; 2]) {
    let chain = FakeChain::new(10);
    chain.state().faults.push(NodeFaults::default());
    chain.mine(vec![request_event(1), request_event(2)]);
    let block = chain.block(11);
    let request = |id| abi::decode(SOURCE, &Event { block, ..request_event(id) }).unwrap();
    let adapter = RequestContract::new(chain.clone(), ADDRESSES);
    (chain, adapter, [request(1), request(2)])
}

async fn ask(adapter: &RequestContract<FakeChain>, request: &Request) -> WitnessVerdict {
    adapter.collect_witnesses(request, request.block, false).await
}

#[tokio::test(start_paused = true)]
async fn b5_two_nodes_that_show_it_are_enough_and_asked_once_for_a_block() {
    let (chain, adapter, [first, second]) = ground();
    let begun = Instant::now();
    let both = tokio::join!(ask(&adapter, &first), ask(&adapter, &second));
    assert_eq!(both, (WitnessVerdict::TwoNodes, WitnessVerdict::TwoNodes));
    assert_eq!((chain.call_count("logs"), begun.elapsed()), (2, Duration::ZERO));
    chain.state().faults.pop();
    assert_eq!(ask(&adapter, &first).await, WitnessVerdict::OnlyNode);
    assert_eq!(chain.call_count("logs"), 2);
}

#[tokio::test(start_paused = true)]
async fn b5_a_log_that_another_node_does_not_have_is_disputed() {
    let (chain, adapter, _) = ground();
    let forged = Event { block: chain.block(11), ..request_event(3) };
    chain.state().faults[0].forges.push(forged.clone());
    let request = abi::decode(SOURCE, &forged).unwrap();
    let disputed = WitnessVerdict::Disputed {
        shown_by: vec!["node-0".to_owned()],
        denied_by: "node-1".to_owned(),
        is_certain: true,
    };
    assert_eq!(ask(&adapter, &request).await, disputed);
    // The same event in a block that no other node has.
    let hash = B256::repeat_byte(7);
    let elsewhere = BlockRef { hash, ..request.block };
    let denied = adapter.collect_witnesses(&request, elsewhere, false).await;
    assert!(matches!(denied, WitnessVerdict::Disputed { .. }), "{denied:?}");
}

/// The denying node answers in time only if the requests share its answer.
#[tokio::test(start_paused = true)]
async fn b5_many_forged_logs_of_a_block_are_denied_by_one_answer() {
    let (chain, adapter, _) = ground();
    chain.state().faults[1].slow_logs = Duration::from_millis(1_100);
    let forged = [3, 4].map(|id| Event { block: chain.block(11), ..request_event(id) });
    chain.state().faults[0].forges.extend(forged.clone());
    let [third, fourth] = forged.map(|event| abi::decode(SOURCE, &event).unwrap());
    let (third, fourth) = tokio::join!(ask(&adapter, &third), ask(&adapter, &fourth));
    assert!(matches!(third, WitnessVerdict::Disputed { .. }), "{third:?}");
    assert!(matches!(fourth, WitnessVerdict::Disputed { .. }), "{fourth:?}");
    assert_eq!(chain.call_count("logs"), 1, "by who forged them: the other one is late");
    assert_eq!(chain.call_count("block_transactions"), 1);
}

/// A flood makes a node refuse calls after it has denied.
#[tokio::test(start_paused = true)]
async fn b5_who_falls_silent_has_not_taken_its_denial_back() {
    let (chain, adapter, _) = ground();
    let forged = Event { block: chain.block(11), ..request_event(3) };
    chain.state().faults[0].forges.push(forged.clone());
    let request = abi::decode(SOURCE, &forged).unwrap();
    let silence = async {
        sleep(DENIED_AGAIN_AFTER / 2).await;
        chain.state().faults[1].is_silent = true;
    };
    let (denied, ()) = tokio::join!(ask(&adapter, &request), silence);
    assert!(matches!(denied, WitnessVerdict::Disputed { .. }), "{denied:?}");
}

/// A liar puts blocks on top of the chain; or the blocks are real, and the other node is a little late.
#[tokio::test(start_paused = true)]
async fn b5_a_block_that_a_node_which_goes_on_has_not_reached_is_waited_for() {
    let (chain, adapter, [first, second]) = ground();
    chain.state().faults[1] =
        NodeFaults { is_advancing: true, lags_from: Some(11), ..NodeFaults::default() };
    let begun = Instant::now();
    let denied = ask(&adapter, &first).await;
    assert!(matches!(denied, WitnessVerdict::Disputed { .. }), "{denied:?}");
    assert!(begun.elapsed() <= REACHES_WITHIN, "{:?}", begun.elapsed());
    let reaching = async {
        sleep(PATIENCE + Duration::from_secs(1)).await;
        chain.state().faults[1].lags_from = None;
    };
    let (witnessed, ()) = tokio::join!(ask(&adapter, &second), reaching);
    assert_eq!(witnessed, WitnessVerdict::TwoNodes);
    // It stops advancing, so it is not waited for any longer.
    chain.state().faults[1] =
        NodeFaults { is_advancing: true, lags_from: Some(11), ..NodeFaults::default() };
    sleep(FRESH).await;
    let (begun, standing_still) = (Instant::now(), async {
        sleep(PATIENCE / 2).await;
        chain.state().faults[1].is_advancing = false;
    });
    let (witnessed, ()) = tokio::join!(ask(&adapter, &second), standing_still);
    assert_eq!(witnessed, WitnessVerdict::OneNode);
    assert!(begun.elapsed() <= PATIENCE, "{:?}", begun.elapsed());
}

/// An attacker may cut off the denying node for a moment.
#[tokio::test(start_paused = true)]
async fn b5_a_denial_outlasts_the_connection_of_who_said_it() {
    let (chain, adapter, [first, second]) = ground();
    chain.state().faults[1].hides_events = true;
    let disputed = ask(&adapter, &first).await;
    assert!(matches!(disputed, WitnessVerdict::Disputed { .. }), "{disputed:?}");
    chain.state().faults[1].is_disconnected = true;
    sleep(Duration::from_mins(5)).await;
    assert_eq!(ask(&adapter, &first).await, disputed);
    assert_eq!(ask(&adapter, &second).await, WitnessVerdict::OneNode, "of which nothing was said");
    // The request was real, and the node late.
    chain.state().faults[1] = NodeFaults::default();
    assert_eq!(ask(&adapter, &first).await, WitnessVerdict::TwoNodes);
    chain.state().faults[1].is_disconnected = true;
    sleep(Duration::from_mins(5)).await;
    assert_eq!(ask(&adapter, &first).await, WitnessVerdict::OneNode);
}

#[tokio::test(start_paused = true)]
async fn b5_a_node_that_is_away_since_a_moment_is_waited_for() {
    let (chain, adapter, [first, second]) = ground();
    let forged = Event { block: chain.block(11), ..request_event(3) };
    chain.state().faults[0].forges.push(forged.clone());
    chain.state().faults[1].is_disconnected = true;
    let request = abi::decode(SOURCE, &forged).unwrap();
    let coming = async {
        sleep(PATIENCE.saturating_sub(Duration::from_millis(500))).await;
        chain.state().faults[1].is_disconnected = false;
    };
    let (disputed, ()) = tokio::join!(ask(&adapter, &request), coming);
    assert!(matches!(disputed, WitnessVerdict::Disputed { .. }), "{disputed:?}");
    chain.state().faults[1].is_disconnected = true;
    let begun = Instant::now();
    assert_eq!(ask(&adapter, &first).await, WitnessVerdict::OneNode);
    assert!(begun.elapsed() <= PATIENCE);
    sleep(SECOND_NODE_GRACE).await;
    let begun = Instant::now();
    assert_eq!(
        (ask(&adapter, &second).await, begun.elapsed()),
        (WitnessVerdict::OneNode, Duration::ZERO)
    );
}

/// The event's transaction is in the block: two nodes without log and receipt so far prove nothing.
#[tokio::test(start_paused = true)]
async fn b5_indices_that_are_late_end_nothing() {
    let (chain, adapter, [first, _]) = ground();
    chain.state().hide_receipts = true;
    for lies in &mut chain.state().faults {
        lies.hides_logs = true;
    }
    let late = ask(&adapter, &first).await;
    assert!(matches!(late, WitnessVerdict::Disputed { .. }), "{late:?}");
    chain.state().hide_receipts = false;
    sleep(ABSENT_FOR).await;
    assert_eq!(ask(&adapter, &first).await, WitnessVerdict::TwoNodes);
}

/// It does not offer logs by block hash, or is slow with them.
#[tokio::test(start_paused = true)]
async fn b5_a_node_without_logs_denies_by_the_transactions_of_the_block() {
    let refuses =
        NodeFaults { no_block_logs: Some((-32_601, "not offered")), ..NodeFaults::default() };
    let slow = NodeFaults { slow_logs: Duration::from_millis(2_500), ..NodeFaults::default() };
    for lies in [refuses, slow] {
        let (chain, adapter, [first, _]) = ground();
        chain.state().faults[1] = lies;
        let forged = Event { block: chain.block(11), ..request_event(3) };
        chain.state().faults[0].forges.push(forged.clone());
        let denied = ask(&adapter, &abi::decode(SOURCE, &forged).unwrap()).await;
        assert!(matches!(denied, WitnessVerdict::Disputed { .. }), "{denied:?}");
        assert_eq!(ask(&adapter, &first).await, WitnessVerdict::TwoNodes, "by its receipt");
    }
}

/// A block full of forged logs costs a node as many calls as one: it may have a quota.
#[tokio::test(start_paused = true)]
async fn b5_a_flood_of_forged_logs_costs_the_other_node_no_more_than_one() {
    let (chain, adapter, _) = ground();
    let forged = (3..203).map(|id| Event { block: chain.block(11), ..request_event(id) });
    let forged: Vec<Event> = forged.collect();
    chain.state().faults[0].forges.extend(forged.clone());
    for event in &forged {
        let denied = ask(&adapter, &abi::decode(SOURCE, event).unwrap()).await;
        assert!(matches!(denied, WitnessVerdict::Disputed { .. }), "{denied:?}");
    }
    assert_eq!((chain.call_count("block_transactions"), chain.call_count("emitted_by")), (1, 0));
}

/// The operator removed the lying node, or it is honest now: what it forged is still in the journal.
#[tokio::test(start_paused = true)]
async fn b5_what_a_node_forged_that_is_gone_is_not_believed_either() {
    let (chain, adapter, [first, _]) = ground();
    let request = abi::decode(SOURCE, &Event { block: first.block, ..request_event(3) }).unwrap();
    assert_eq!(ask(&adapter, &request).await, WitnessVerdict::NeverExisted);
    chain.state().faults.pop();
    let again =
        async |request: &Request| adapter.collect_witnesses(request, request.block, true).await;
    assert!(
        matches!(again(&request).await, WitnessVerdict::Disputed { .. }),
        "one does not end it"
    );
    assert_eq!(again(&first).await, WitnessVerdict::OnlyNode);
    sleep(FRESH).await;
    chain.state().faults[0].is_silent = true;
    assert_eq!(again(&first).await, WitnessVerdict::NoNode);
    assert!(matches!(again(&request).await, WitnessVerdict::Disputed { .. }), "it was certain");
}

/// A node may know better that is away, silent, behind, or the fourth of four.
#[tokio::test(start_paused = true)]
async fn b5_nothing_ends_before_all_who_have_a_say_are_heard() {
    let away = NodeFaults { is_disconnected: true, ..NodeFaults::default() };
    let (mute, lags) = (
        NodeFaults { is_silent: true, ..NodeFaults::default() },
        NodeFaults { lags_from: Some(11), ..NodeFaults::default() },
    );
    for absent in [away, mute, lags] {
        let (chain, adapter, [first, _]) = ground();
        chain.state().faults.push(absent);
        let request =
            abi::decode(SOURCE, &Event { block: first.block, ..request_event(3) }).unwrap();
        for (after, ends) in [(0, false), (50, false), (20, true)] {
            sleep(Duration::from_secs(after)).await;
            let said = ask(&adapter, &request).await;
            assert_eq!(said == WitnessVerdict::NeverExisted, ends, "{said:?}");
        }
    }
    let (chain, adapter, [first, _]) = ground();
    let event = Event { block: first.block, ..request_event(3) };
    let request = abi::decode(SOURCE, &event).unwrap();
    let shows = NodeFaults { forges: vec![event], ..NodeFaults::default() };
    chain.state().faults.extend([NodeFaults::default(), shows]);
    let said = ask(&adapter, &request).await;
    let by_the_last = vec!["node-3".to_owned()];
    assert!(
        matches!(&said, WitnessVerdict::Disputed { shown_by, .. } if *shown_by == by_the_last),
        "{said:?}"
    );
    chain.state().faults[3] = NodeFaults::default();
    sleep(FRESH).await;
    assert_eq!(ask(&adapter, &request).await, WitnessVerdict::NeverExisted);
}

/// Another contract's event is word for word the request's. Its transaction is in the block, and has a
/// receipt.
#[tokio::test(start_paused = true)]
async fn b5_a_log_of_another_contract_shows_no_request() {
    let (chain, adapter, _) = ground();
    chain.mine_with(Vec::new(), vec![(Address::repeat_byte(1), request_event(3))]);
    let forged = Event { block: chain.block(12), ..request_event(3) };
    let request = abi::decode(SOURCE, &forged).unwrap();
    assert_eq!(ask(&adapter, &request).await, WitnessVerdict::NeverExisted);
    // One node says that it is ours.
    chain.state().faults[0].forges.push(forged);
    sleep(FRESH).await;
    let denied = ask(&adapter, &request).await;
    assert!(matches!(denied, WitnessVerdict::Disputed { .. }), "{denied:?}");
}

/// Its node named a transaction beside it that does not exist, and invented another event in the same block, whose
/// transactions the others have been asked for.
#[tokio::test(start_paused = true)]
async fn b5_an_event_that_is_there_is_none_the_less_by_another_transaction() {
    let (chain, adapter, [first, _]) = ground();
    let event = Event { block: first.block, ..request_event(3) };
    let invented = abi::decode(SOURCE, &event).unwrap();
    assert_eq!(ask(&adapter, &invented).await, WitnessVerdict::NeverExisted);
    let renamed = Request { transaction: B256::repeat_byte(9), ..first.clone() };
    assert_eq!(ask(&adapter, &renamed).await, WitnessVerdict::TwoNodes);
    // Without logs they cannot know.
    for lies in &mut chain.state().faults {
        lies.no_block_logs = Some((-32_601, "not offered"));
    }
    sleep(FRESH).await;
    let said = ask(&adapter, &renamed).await;
    let uncertain = matches!(&said, WitnessVerdict::Disputed { is_certain: false, .. });
    assert!(uncertain, "{said:?}");
}

/// Real nodes have had broken indices for hours.
#[tokio::test(start_paused = true)]
async fn b5_a_node_without_an_index_of_logs_is_a_witness_by_its_receipts() {
    let (chain, adapter, [first, _]) = ground();
    chain.state().faults[1].hides_logs = true;
    assert_eq!(ask(&adapter, &first).await, WitnessVerdict::TwoNodes);
}

#[tokio::test(start_paused = true)]
async fn b5_a_node_that_is_behind_or_down_delays_by_two_seconds_at_most() {
    for down in [true, false] {
        let (chain, adapter, [first, second]) = ground();
        chain.state().faults[1].is_silent = down;
        chain.state().faults[1].lags_from = Some(11);
        let begun = Instant::now();
        assert_eq!(ask(&adapter, &first).await, WitnessVerdict::OneNode);
        assert!(begun.elapsed() <= PATIENCE, "{:?}", begun.elapsed());
        let (begun, catching_up) = (Instant::now(), async {
            sleep(Duration::from_millis(600)).await;
            chain.state().faults[1] = NodeFaults::default();
        });
        let (witnessed, ()) = tokio::join!(ask(&adapter, &second), catching_up);
        assert_eq!(witnessed, WitnessVerdict::TwoNodes);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}

/// One node puts another ciphertext under the same request: its handle would be answered with a stranger's
/// value.
#[tokio::test(start_paused = true)]
async fn g7_a_digest_that_one_node_alone_shows_is_disputed() {
    let chain = FakeChain::new(10);
    chain.state().faults.push(NodeFaults::default());
    let event = |digest: u8| {
        let material = (B256::repeat_byte(1), U256::ONE, B256::repeat_byte(digest), vec![CONTRACT]);
        let data = (vec![material], Address::ZERO, Bytes::new(), Bytes::new()).abi_encode_params();
        Event { data: data.into(), ..request_event(1) }
    };
    chain.mine(vec![event(7)]);
    let block = chain.block(11);
    let [right, swapped] = [7, 8].map(|digest| Event { block, ..event(digest) });
    chain.state().faults[0].forges.push(swapped.clone());
    let adapter = RequestContract::new(chain.clone(), ADDRESSES);
    let [right, swapped] = [right, swapped].map(|one| abi::decode(SOURCE, &one).unwrap());
    assert_eq!(right.key, swapped.key);
    let verdict = ask(&adapter, &swapped).await;
    assert!(matches!(verdict, WitnessVerdict::Disputed { .. }), "{verdict:?}");
    assert_eq!(ask(&adapter, &right).await, WitnessVerdict::TwoNodes);
}

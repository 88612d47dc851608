//! Nodes with a broken log index, without blooms in their headers, or with a small block range.

use alloy::primitives::Address;

use super::*;
use crate::{chain::fake_chain::CONTRACT, contracts::abi, domain::Event};

/// A broken log index, and no receipts.
fn blind() -> NodeFaults {
    NodeFaults { hides_logs: true, no_block_receipts: true, ..NodeFaults::default() }
}

/// A log of another contract, and one of ours that is no request: together their bloom contains that of
/// a request.
fn coincidence() -> Vec<(Address, Event)> {
    let of_topic = |topic| Event { topics: vec![topic], ..request_event(0) };
    vec![
        (Address::repeat_byte(1), of_topic(abi::request_topics()[4])),
        (CONTRACT, of_topic(B256::repeat_byte(2))),
    ]
}

/// A1: the only node hides logs for two minutes. The cursor moves on, the blocks are listed with it,
/// and they are read again until they are proven.
#[tokio::test(start_paused = true)]
async fn a1_a_block_whose_logs_are_hidden_is_listed_until_they_show() {
    let chain = FakeChain::new(40);
    let mut reading = Reading::of(chain.clone(), Start::Latest, None);
    pass(100).await;
    chain.state().faults[0] = blind();
    for id in 0..240 {
        chain.mine(if id % 40 == 0 { vec![request_event(id)] } else { Vec::new() });
        pass(500).await;
    }
    assert_eq!(reading.walked(), [0_u64; 0]);
    assert_eq!(reading.cursor(), Some(chain.block(chain.height())), "no block waits for another");
    let listed = reading.ledger.contents().unproven.clone();
    let numbers: Vec<u64> = listed.iter().map(|one| one.first).collect();
    assert_eq!(numbers, [41, 81, 121, 161, 201, 241]);
    assert!(listed.iter().all(|one| one.hash == Some(chain.block(one.first).hash)));
    chain.state().faults[0] = NodeFaults::default();
    pass(35_000).await;
    let mut walked = reading.walked();
    walked.sort_unstable();
    assert_eq!(walked, [0, 40, 80, 120, 160, 200]);
    assert_eq!(reading.ledger.contents().unproven, []);
}

/// A1: the list survives a restart.
#[tokio::test(start_paused = true)]
async fn a1_what_was_listed_before_a_restart_is_proven_after_it() {
    let chain = FakeChain::new(40);
    let mut first = Reading::of(chain.clone(), Start::Latest, None);
    pass(100).await;
    chain.state().faults[0] = blind();
    chain.mine(vec![request_event(1)]);
    chain.mine_empty(1000);
    pass(100_000).await;
    let (ledger, cursor) = (first.ledger.clone(), first.cursor());
    first.stop.cancel();
    first.running.join_next().await;
    chain.state().faults[0] = NodeFaults::default();
    let channel = 1000;
    let mut second = Reading::resumed(ledger, chain.clone(), Start::Latest, cursor, channel);
    pass(10_000).await;
    assert_eq!((first.walked(), second.walked()), (vec![], vec![1]));
    assert_eq!(second.ledger.contents().unproven, []);
}

/// A1: every possible proof is tried at once: the node's own receipts, and the other nodes.
#[tokio::test(start_paused = true)]
async fn a1_a_hidden_request_is_found_wherever_it_shows() {
    let receipts = vec![NodeFaults { hides_logs: true, ..NodeFaults::default() }];
    let others = vec![blind(), blind(), NodeFaults::default()];
    let without_bloom =
        vec![blind(), NodeFaults { blooms: Blooms::Missing, ..NodeFaults::default() }];
    for lies in [receipts, others, without_bloom] {
        let chain = FakeChain::new(40);
        chain.state().faults = lies.clone();
        let mut reading = Reading::of(chain.clone(), Start::Latest, None);
        pass(100).await;
        chain.mine(vec![request_event(1)]);
        chain.mine(vec![request_event(2)]);
        pass(1000).await;
        let mut walked = reading.walked();
        walked.sort_unstable();
        assert_eq!(walked, [1, 2], "{lies:?}");
        assert_eq!(reading.ledger.contents().unproven, []);
    }
}

/// A1: the node shows one of a block's two requests.
#[tokio::test(start_paused = true)]
async fn a1_an_answer_in_part_is_an_answer_in_doubt() {
    let chain = FakeChain::new(40);
    chain.state().shows_at_most = Some(1);
    let mut reading = Reading::of(chain.clone(), Start::Latest, None);
    pass(100).await;
    let other = Event { topics: vec![abi::request_topics()[1], B256::ZERO], ..request_event(2) };
    chain.mine(vec![request_event(1), other]);
    pass(1000).await;
    assert_eq!(reading.walked().len(), 2);
}

/// A1: a coincidence costs one extra call and no log. Other blocks cost none.
#[tokio::test(start_paused = true)]
async fn a1_a_coincidence_costs_one_call() {
    let chain = FakeChain::new(40);
    let mut reading = Reading::of(chain.clone(), Start::Latest, None);
    pass(40_000).await;
    let count = |chain: &FakeChain| {
        (
            chain.call_count("logs"),
            chain.call_count("block_logs"),
            chain.call_count("block_receipts"),
        )
    };
    let before = count(&chain);
    for id in 0..10 {
        // Nothing; a log that the bloom excludes; a request that is shown; a coincidence.
        chain.mine_with(Vec::new(), vec![(Address::repeat_byte(1), request_event(7))]);
        chain.mine(vec![request_event(id)]);
        chain.mine_with(Vec::new(), coincidence());
        chain.mine_empty(1);
        pass(100).await;
    }
    let after = count(&chain);
    assert_eq!(reading.walked(), (0..10).collect::<Vec<_>>());
    assert_eq!((after.0 - before.0, after.1 - before.1, after.2), (20, 10, 0));
    assert_eq!(reading.ledger.contents().unproven, []);
}

/// A1: blooms that are missing, full, or wrong prove nothing.
#[tokio::test(start_paused = true)]
async fn a1_a_bloom_that_says_nothing_lists_nothing() {
    for blooms in [Blooms::Missing, Blooms::Full, Blooms::Empty] {
        let chain = FakeChain::new(40);
        chain.state().faults[0].blooms = blooms;
        let mut reading = Reading::of(chain.clone(), Start::Latest, None);
        pass(100).await;
        for id in 0..200 {
            chain.mine_with(vec![request_event(id)], coincidence());
            chain.mine_with(Vec::new(), coincidence());
            pass(500).await;
        }
        pass(40_000).await;
        let mut walked = reading.walked();
        walked.sort_unstable();
        assert_eq!(walked, (0..200).collect::<Vec<_>>(), "{blooms:?}");
        assert_eq!(reading.ledger.contents().unproven, [], "{blooms:?}");
    }
}

/// A1: blocks that left the chain leave the list.
#[tokio::test(start_paused = true)]
async fn a1_a_block_that_left_the_chain_leaves_the_list() {
    let chain = FakeChain::new(40);
    let mut reading = Reading::of(chain.clone(), Start::Latest, None);
    pass(100).await;
    chain.state().faults[0] = blind();
    chain.mine(vec![request_event(1)]);
    chain.mine_empty(2);
    pass(1000).await;
    assert_eq!(reading.ledger.contents().unproven.len(), 1);
    chain.reorganise(3, vec![vec![], vec![], vec![]]);
    pass(5000).await;
    assert_eq!(reading.walked(), [0_u64; 0]);
    assert_eq!(reading.ledger.contents().unproven, []);
}

/// A1: ids without a hole prove a block.
#[tokio::test(start_paused = true)]
async fn a1_whole_ids_prove_a_block() {
    let chain = FakeChain::new(40);
    let reading = Reading::of(chain.clone(), Start::Latest, None);
    pass(100).await;
    chain.state().faults[0] = blind();
    chain.mine(vec![request_event(1)]);
    chain.mine_empty(1);
    pass(1000).await;
    assert_eq!(reading.ledger.contents().unproven.len(), 1);
    reading.notes.mark_proven(40, 42);
    chain.mine_empty(1);
    pass(1000).await;
    assert_eq!(reading.ledger.contents().unproven, []);
}

/// A2: far from the head no headers are read. Another node does the second reading.
#[tokio::test(start_paused = true)]
async fn a2_what_one_node_hides_in_far_ranges_another_one_shows() {
    let chain = FakeChain::new(1);
    for id in 0..600 {
        chain.mine(if id % 50 == 0 { vec![request_event(id)] } else { Vec::new() });
    }
    chain.state().faults = vec![blind(), NodeFaults::default()];
    let mut reading = Reading::of(chain.clone(), Start::Block(1), None);
    pass(75_000).await;
    let mut walked = reading.walked();
    walked.sort_unstable();
    assert_eq!(walked, (0..600).step_by(50).collect::<Vec<_>>());
}

/// A2: where two nodes disagree, headers reveal what both of them hide.
#[tokio::test(start_paused = true)]
async fn a2_where_nodes_disagree_the_blocks_around_are_proven() {
    let chain = FakeChain::new(1);
    for id in 0..600 {
        chain.mine(if id == 100 || id == 120 { vec![request_event(id)] } else { Vec::new() });
    }
    let index_broken = NodeFaults { hides_logs: true, ..NodeFaults::default() };
    chain.state().faults = vec![index_broken, NodeFaults::default()];
    // The second node's range queries lack the logs of one block.
    chain.state().missing_in_ranges.insert(122);
    let mut reading = Reading::of(chain.clone(), Start::Block(1), None);
    pass(75_000).await;
    let mut walked = reading.walked();
    walked.sort_unstable();
    assert_eq!(walked, [100, 120]);
    assert_eq!(reading.ledger.contents().unproven, []);
}

const TEN: (u64, i64, &str) = (
    10,
    -32600,
    "Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block range.",
);

/// A3: an idle instance, two blocks a second, a node that allows ten blocks.
#[tokio::test(start_paused = true)]
async fn a3_a_node_that_takes_ten_blocks_is_not_asked_all_the_time() {
    let chain = FakeChain::new(1000);
    chain.state().faults[0].block_range_limit = Some(TEN);
    let mut reading = Reading::of(chain.clone(), Start::Latest, None);
    pass(60_000).await;
    let before = (chain.call_count("logs"), chain.call_count("refused"));
    for _ in 0..1200 {
        chain.mine_empty(1);
        pass(500).await;
    }
    let (logs, refused) =
        (chain.call_count("logs") - before.0, chain.call_count("refused") - before.1);
    // Ten minutes: 92 blocks in half a minute.
    assert!(logs <= 10 * 22, "{logs} calls");
    assert!(refused <= 5, "{refused} refused");
    // A request that no bloom contains shows after six seconds.
    chain.state().empty_blooms = true;
    let hidden = chain.height() + 1;
    chain.state().hidden.insert(hidden, 1000);
    chain.mine(vec![request_event(1)]);
    pass(6000).await;
    chain.state().hidden.clear();
    let mut waited = 0;
    while reading.walked().is_empty() {
        chain.mine_empty(1);
        pass(500).await;
        waited += 1;
        assert!(waited < 90, "it is late");
    }
}

/// A3: a hundred blocks at a time, 900 blocks behind.
#[tokio::test(start_paused = true)]
async fn a3_a_second_reading_goes_on_where_it_was_and_ends() {
    let chain = FakeChain::new(100);
    let cursor = chain.block(100);
    chain.mine_empty(900);
    chain.state().faults[0].block_range_limit =
        Some((100, -32602, "range 600 exceeds limit of 100"));
    let reading = Reading::of(chain.clone(), Start::Latest, Some(cursor));
    let mut seconds = 0;
    while reading.notes.lock().read_once.read_twice_up_to(chain.height()) < chain.height() - 100 {
        chain.mine_empty(2);
        pass(1000).await;
        seconds += 1;
        assert!(seconds < 90, "{:?}", reading.notes.lock().read_once);
    }
    assert!(chain.call_count("logs") < 60, "{} calls", chain.call_count("logs"));
    assert!(chain.call_count("refused") <= 2, "{} refused", chain.call_count("refused"));
}

/// A3: a long distance at ten blocks a time. The lag shows that the second reading is late; it
/// completes.
#[tokio::test(start_paused = true)]
async fn a3_a_long_second_reading_is_told_and_ends() {
    let chain = FakeChain::new(20_000);
    chain.state().faults[0].block_range_limit = Some(TEN);
    let reading = Reading::of(chain.clone(), Start::Block(1), None);
    pass(180_000).await;
    assert_eq!(reading.cursor(), Some(chain.block(chain.height())));
    assert!(reading.notes.uncertain().read_once.is_some());
    let calls = chain.call_count("logs");
    pass(60_000).await;
    assert!(chain.call_count("logs") - calls <= 610, "ten calls a second");
    pass(300_000).await;
    assert_eq!(reading.notes.lock().read_once.read_twice_up_to(chain.height()), chain.height());
    assert_eq!(reading.notes.uncertain(), reading_state::UncertainBlocks::default());
}

#[tokio::test(start_paused = true)]
async fn a3_where_a_node_refuses_logs_the_other_one_shows_them() {
    let chain = FakeChain::new(100);
    let refuses = NodeFaults {
        no_block_logs: Some((-32000, "logs are not available")),
        ..NodeFaults::default()
    };
    chain.state().faults = vec![refuses, NodeFaults::default()];
    let mut reading = Reading::of(chain.clone(), Start::Latest, None);
    pass(1000).await;
    chain.mine(vec![request_event(7)]);
    pass(1000).await;
    assert_eq!(reading.walked(), [7]);
}

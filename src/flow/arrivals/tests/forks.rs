//! Chains that are reorganised, and nodes on a fork of their own.

use super::*;
use crate::domain::Event;

#[tokio::test(start_paused = true)]
async fn a_reorganised_chain_is_read_again_and_repeats_nothing() {
    let chain = FakeChain::new(100);
    let mut reading = Reading::of(chain.clone(), Start::Block(1), None);
    chain.mine(vec![request_event(1)]);
    chain.mine(vec![request_event(2)]);
    pass(500).await;
    assert_eq!(reading.walked(), [1, 2]);
    chain.reorganise(2, vec![vec![], vec![request_event(1), request_event(3)]]);
    pass(2000).await;
    assert_eq!(reading.walked(), [3], "1 is known, 2 has left the chain");
    assert_eq!(reading.cursor(), Some(chain.block(chain.height())));
    let block = chain.block(102);
    let book = reading.ledger.contents();
    let moved: Vec<u64> =
        book.requests.iter().filter(|(_, at)| **at == block).map(|(key, _)| key.id.to()).collect();
    assert!(moved.contains(&1), "1 was stored with its new block");
}

/// One of two nodes goes on showing the request in a block that has left the chain, and the chain's own
/// block shows it late.
#[tokio::test(start_paused = true)]
async fn a14_a_log_of_a_block_that_left_the_chain_is_known_for_one() {
    let chain = FakeChain::new(100);
    let reading = Reading::of(chain.clone(), Start::Block(1), None);
    chain.mine(vec![request_event(1)]);
    pass(500).await;
    let seen = |from: usize| -> Vec<Sighting> {
        reading.ledger.contents().seen[from..].iter().map(|(_, seen)| *seen).collect()
    };
    let before = seen(0);
    assert_eq!(before[0], Sighting::Joined);
    let stale = Event { block: chain.block(101), ..request_event(1) };
    chain.reorganise(1, vec![Vec::new(), Vec::new()]);
    chain.state().faults =
        vec![NodeFaults::default(), NodeFaults { stale: vec![stale], ..NodeFaults::default() }];
    pass(120_000).await;
    let later = seen(before.len());
    assert!(later.len() >= 3 && later.iter().all(|seen| *seen == Sighting::Stale), "{later:?}");
    // It is back in a block whose logs are hidden at the first reading.
    chain.state().faults.truncate(1);
    let next = chain.height() + 1;
    chain.state().hidden.insert(next, 5);
    chain.mine(vec![request_event(1)]);
    pass(60_000).await;
    let back = seen(before.len() + later.len());
    assert!(!back.is_empty() && back.iter().all(|seen| *seen == Sighting::Found), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deep_reorganisation_is_followed_to_its_fork() {
    let chain = FakeChain::new(100);
    let mut reading = Reading::of(chain.clone(), Start::Latest, None);
    pass(100).await;
    for _ in 0..150 {
        chain.mine(Vec::new());
        pass(100).await;
    }
    let again = (0..150).map(|n| if n == 10 { vec![request_event(7)] } else { vec![] }).collect();
    chain.reorganise(140, again);
    pass(10_000).await;
    assert_eq!(reading.walked(), [7]);
}

#[tokio::test(start_paused = true)]
async fn b1_what_was_read_by_ranges_on_another_fork_is_read_again() {
    let chain = FakeChain::new(100);
    let mut reading = Reading::of(chain.clone(), Start::Latest, None);
    pass(100).await;
    for _ in 0..400 {
        chain.mine(Vec::new());
    }
    pass(1000).await;
    let again = (0..420).map(|n| if n == 5 { vec![request_event(7)] } else { vec![] }).collect();
    chain.reorganise(400, again);
    pass(10_000).await;
    assert_eq!(reading.walked(), [7]);
}

/// For a long time the node shows blocks of a fork of its own, and then the real ones.
#[tokio::test(start_paused = true)]
async fn b1_a_fork_longer_than_what_is_remembered_is_left_at_its_begin() {
    let chain = FakeChain::new(100);
    let mut reading = Reading::of(chain.clone(), Start::Latest, None);
    pass(100).await;
    for _ in 0..330 {
        chain.mine_empty(10);
        pass(100).await;
    }
    let again = (0..3290).map(|n| if n == 5 { vec![request_event(7)] } else { vec![] }).collect();
    chain.reorganise(3280, again);
    for _ in 0..20 {
        pass(5_000).await;
        chain.mine_empty(1);
    }
    assert_eq!(reading.walked(), [7]);
}

/// A node announced blocks that never existed, at the first start or later.
#[tokio::test(start_paused = true)]
async fn b1_a_cursor_on_blocks_that_never_were_is_given_up() {
    for first_start in [true, false] {
        let chain = FakeChain::new(6000);
        let stray = BlockRef { number: 2_000_000, hash: B256::repeat_byte(9) };
        let mut reading =
            Reading::of(chain.clone(), Start::Latest, (!first_start).then_some(stray));
        pass(100).await;
        if first_start {
            chain.reorganise(4000, vec![vec![request_event(7)]]);
        } else {
            chain.mine(vec![request_event(7)]);
        }
        for _ in 0..70 {
            pass(1000).await;
            chain.mine(Vec::new());
        }
        pass(1000).await;
        assert_eq!(reading.walked(), [7], "{first_start}");
        assert_eq!(reading.cursor(), Some(chain.block(chain.height())));
    }
}

/// The cursor's block left the chain while the connector was down.
#[tokio::test(start_paused = true)]
async fn a_reorganisation_while_down_is_noticed_far_from_the_head() {
    let chain = FakeChain::new(200);
    let cursor = chain.block(200);
    chain.reorganise(
        10,
        (0..500).map(|n| if n == 5 { vec![request_event(7)] } else { vec![] }).collect(),
    );
    chain.state().hidden.insert(196, 1);
    let mut reading = Reading::of(chain.clone(), Start::Latest, Some(cursor));
    pass(5000).await;
    assert_eq!(reading.walked(), [7]);
}

/// Two nodes behind one URL never agree: no hot loop.
#[tokio::test(start_paused = true)]
async fn a_chain_that_never_joins_is_read_at_a_pause() {
    let chain = FakeChain::new(100);
    let stray = BlockRef { number: 100, hash: B256::repeat_byte(9) };
    chain.mine(Vec::new());
    let _reading = Reading::of(chain.clone(), Start::Latest, Some(stray));
    pass(100).await;
    chain.state().lags_from = Some(60);
    let before = chain.call_count("header");
    pass(60_000).await;
    let asked = chain.call_count("header") - before;
    assert!(asked < 1000, "{asked} headers in a minute");
}

//! Which block is chosen, who is believed, and what is said where nobody is.

use futures_util::future::join_all;
use proptest::prelude::*;
use tokio::time::sleep;

use super::*;
use crate::{
    chain::{
        fake_chain::{FakeChain, NodeFaults},
        reader::EthCall,
    },
    domain::B256,
    time::clock,
};

const TWO: [(StateRead, ReadAt); 2] = [
    (StateRead::Code(Address::ZERO), ReadAt::Pinned),
    (StateRead::Code(Address::ZERO), ReadAt::Finalized),
];

fn vote(endpoint: usize, pinned: u8, finalized: Option<u8>) -> Vote {
    let reply = |byte: u8| Reply::Returned(vec![byte].into());
    Vote { endpoint, replies: vec![Some(reply(pinned)), finalized.map(reply)] }
}

#[test]
fn enough_endpoints_have_to_say_the_same() {
    let of = |votes: &[Vote], agreement| {
        agreed(votes, &TWO, agreement).map(|(by, replies)| (by, replies[1].is_some()))
    };
    assert_eq!(of(&[vote(0, 1, Some(1))], 1), Some((vec![0], true)));
    assert_eq!(of(&[vote(0, 1, Some(1))], 2), None);
    assert_eq!(of(&[vote(0, 1, Some(1)), vote(1, 0, Some(1))], 2), None);
    let three = [vote(0, 1, Some(1)), vote(1, 0, None), vote(2, 1, Some(0))];
    // Their final blocks may differ, so nothing is known there.
    assert_eq!(of(&three, 2), Some((vec![0, 2], false)));
    assert_eq!(of(&three, 3), None);
}

proptest! {
    /// Whatever the endpoints say: an answer is one that enough of them gave, each in all of it.
    #[test]
    fn what_is_agreed_was_said_by_enough(
        said in prop::collection::vec((0..3u8, 0..3u8, prop::option::of(0..3u8)), 0..6),
        agreement in 1..4usize,
    ) {
        let reads = [TWO[0].clone(), TWO[0].clone(), TWO[1].clone()];
        let reply = |byte: u8| Some(Reply::Returned(vec![byte].into()));
        let votes: Vec<Vote> = said
            .iter()
            .enumerate()
            .map(|(endpoint, (one, two, last))| Vote {
                endpoint,
                replies: vec![reply(*one), reply(*two), last.and_then(reply)],
            })
            .collect();
        match agreed(&votes, &reads, agreement) {
            Some((by, replies)) => {
                prop_assert!(by.len() >= agreement);
                for endpoint in by {
                    prop_assert_eq!(&votes[endpoint].replies[..2], &replies[..2]);
                }
                if let Some(last) = &replies[2] {
                    let same = votes.iter().filter(|vote| vote.replies[2].as_ref() == Some(last));
                    prop_assert!(same.count() >= agreement);
                }
            }
            None => {
                for vote in &votes {
                    let same = votes.iter().filter(|other| other.replies[..2] == vote.replies[..2]);
                    prop_assert!(same.count() < agreement);
                }
            }
        }
    }
}

const CONTRACT: Address = Address::repeat_byte(0xac);

/// A chain of three nodes, and a reader of all.
fn three(agreement: usize) -> (FakeChain, PinnedReader<FakeChain>) {
    let chain = FakeChain::host(9, CONTRACT, "ACL v0.5.0");
    chain.state().faults = vec![NodeFaults::default(); 3];
    let options = PinnedOptions {
        chain_id: 7,
        agreement,
        max_age: Duration::from_mins(2),
        deadline: Duration::from_secs(10),
        calls: 8,
        clock: Clock::Wall,
    };
    let endpoints = (0..3).map(|node| ChainEndpoint::of(&chain, NodeId(node))).collect();
    let reader = PinnedReader::new(options, endpoints);
    (chain, reader)
}

fn call() -> [(StateRead, ReadAt); 1] {
    [(StateRead::Call(EthCall::view(CONTRACT, Bytes::from_static(&[1]))), ReadAt::Pinned)]
}

fn lie(chain: &FakeChain, node: usize) {
    let told = (Bytes::from_static(&[1]), B256::with_last_byte(1).0.into());
    chain.state().faults[node].views = vec![told];
}

#[tokio::test(start_paused = true)]
async fn as_many_are_asked_as_must_agree() {
    for agreement in 1..=3 {
        let (chain, reader) = three(agreement);
        let told = reader.read(&call()).await.unwrap();
        assert_eq!(told.block, chain.block(9));
        assert_eq!(told.hosts, ["node-0", "node-1", "node-2"][..agreement]);
        assert_eq!(chain.call_count("read_state"), agreement);
        assert_eq!(chain.call_count("header"), agreement - 1, "heads are known, and confirmed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lies_alone_decides_nothing_where_two_must_agree() {
    let (chain, reader) = three(2);
    lie(&chain, 0);
    let told = reader.read(&call()).await.unwrap();
    assert_eq!(told.hosts, ["node-1", "node-2"]);
    assert_eq!(told.replies, [Some(Reply::Returned(B256::ZERO.0.into()))]);
    let (chain, reader) = three(3);
    lie(&chain, 2);
    let error = reader.read(&call()).await.unwrap_err();
    assert_eq!(error.code(), "host_nodes_disagree");
    assert!(error.to_string().contains("node-0, node-1, node-2"), "{error}");
    // Where one is enough the first one is believed.
    let (chain, reader) = three(1);
    lie(&chain, 0);
    assert_eq!(reader.read(&call()).await.unwrap().hosts, ["node-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_away_or_silent_is_passed_over() {
    let (chain, reader) = three(2);
    chain.state().faults[0].is_disconnected = true;
    assert_eq!(reader.read(&call()).await.unwrap().hosts, ["node-1", "node-2"]);
    let (chain, reader) = three(2);
    chain.state().faults[1].slow_state = Duration::from_mins(1);
    let begun = Instant::now();
    assert_eq!(reader.read(&call()).await.unwrap().hosts, ["node-0", "node-2"]);
    assert_eq!(begun.elapsed(), NEXT_AFTER);
    // From then on it is asked last, for a while.
    let begun = Instant::now();
    assert_eq!(reader.read(&call()).await.unwrap().hosts, ["node-0", "node-2"]);
    assert!(begun.elapsed().is_zero());
    tokio::time::advance(ASKED_LAST_FOR).await;
    let begun = Instant::now();
    reader.read(&call()).await.unwrap();
    assert_eq!(begun.elapsed(), NEXT_AFTER);
    // It alone has the newest block: the others' is read then.
    let (chain, reader) = three(1);
    for node in 1..3 {
        chain.state().faults[node].lags_from = Some(9);
    }
    chain.state().faults[0].slow_state = Duration::from_mins(1);
    let told = reader.read(&call()).await.unwrap();
    assert_eq!((told.block, told.hosts), (chain.block(8), vec!["node-1".to_owned()]));
    // Nobody answers: that is told by name, in time.
    let (chain, reader) = three(1);
    for node in 0..3 {
        chain.state().faults[node].slow_state = Duration::from_mins(1);
    }
    let begun = Instant::now();
    let error = reader.read(&call()).await.unwrap_err();
    assert_eq!((error.code(), begun.elapsed().as_secs()), ("host_chain_unreachable", 10));
    assert!(error.to_string().contains("node-0, node-1, node-2"), "{error}");
    let (chain, reader) = three(2);
    for node in 0..2 {
        chain.state().faults[node].is_silent = true;
    }
    assert_eq!(reader.read(&call()).await.unwrap_err().code(), "host_chain_unreachable");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stands_still_freezes_nobody() {
    let (chain, reader) = three(2);
    let old = clock::unix_millis() / 1_000 - 500;
    chain.state().faults[0].lags_from = Some(5);
    chain.age_blocks_below(5, old);
    assert_eq!(reader.read(&call()).await.unwrap().block, chain.block(9));
    // All stand still: that is no answer.
    chain.age_blocks_below(10, old);
    let error = reader.read(&call()).await.unwrap_err();
    assert_eq!(error.code(), "host_chain_stale");
    let told = error.to_string();
    assert!(told.contains("50") && told.contains("node-0, node-1, node-2"), "{told}");
}

/// What is valid until when is judged by the block's time: where two must agree, one of them cannot tell it.
#[tokio::test(start_paused = true)]
async fn the_time_of_a_block_is_no_matter_of_one_endpoint() {
    for lag in [None, Some(5)] {
        let (chain, reader) = three(2);
        let (old, now) = (clock::unix_millis() / 1_000 - 500, clock::unix_millis() / 1_000);
        chain.age_blocks_below(5, old);
        // The first endpoint shows an old block, or the newest, as one of this moment.
        chain.state().faults[0].lags_from = lag;
        chain.state().faults[0].shows_time = Some(now + 7);
        let told = reader.read(&call()).await.unwrap();
        assert_eq!(
            (told.block, told.hosts),
            (chain.block(9), vec!["node-1".into(), "node-2".into()])
        );
        assert_ne!(told.timestamp, now + 7);
        // With nobody else it is no answer, and both are named.
        chain.state().faults[2].is_silent = true;
        let error = reader.read(&call()).await.unwrap_err();
        assert_eq!(error.code(), "host_nodes_disagree", "{error}");
        assert!(
            ["node-0", "node-1"].iter().all(|host| error.to_string().contains(host)),
            "{error}"
        );
    }
}

/// Of the two that are honest one is a block behind, for as long as one likes: they agree where both are.
#[tokio::test(start_paused = true)]
async fn one_liar_does_not_hold_up_two_that_are_a_block_apart() {
    for [ahead, behind, liar] in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    {
        let (chain, reader) = three(2);
        chain.state().faults[behind].lags_from = Some(9);
        lie(&chain, liar);
        for _ in 0..2 {
            let told = reader.read(&call()).await.unwrap();
            let both = [ahead.min(behind), ahead.max(behind)].map(|node| format!("node-{node}"));
            let mut hosts = told.hosts.clone();
            hosts.sort();
            assert_eq!((told.block, &hosts[..]), (chain.block(8), &both[..]), "liar {liar}");
            assert_eq!(told.replies, [Some(Reply::Returned(B256::ZERO.0.into()))]);
        }
        // It answers no more: the newest block is left to those that have it.
        chain.state().faults[liar].views.clear();
        chain.state().faults[liar].slow_state = Duration::from_mins(1);
        let begun = Instant::now();
        assert_eq!(reader.read(&call()).await.unwrap().block, chain.block(8), "liar {liar}");
        assert!(begun.elapsed() <= 3 * NEXT_AFTER, "{:?}", begun.elapsed());
    }
}

/// At no block are there two that say the same.
#[tokio::test(start_paused = true)]
async fn however_many_blocks_are_asked_two_have_to_agree() {
    let (chain, reader) = three(2);
    chain.state().faults[1].lags_from = Some(9);
    lie(&chain, 2);
    let other = (Bytes::from_static(&[1]), B256::with_last_byte(2).0.into());
    chain.state().faults[1].views = vec![other];
    let error = reader.read(&call()).await.unwrap_err();
    assert_eq!(error.code(), "host_nodes_disagree", "{error}");
    // The only block that two have is an old one.
    let (chain, reader) = three(2);
    chain.age_blocks_below(8, clock::unix_millis() / 1_000 - 60);
    chain.state().faults[1].lags_from = Some(8);
    lie(&chain, 2);
    let error = reader.read(&call()).await.unwrap_err();
    assert_eq!(error.code(), "host_nodes_disagree", "{error}");
}

/// It tells its old block at once, and the others take their time.
#[tokio::test(start_paused = true)]
async fn a_quick_endpoint_with_an_old_block_is_not_taken_for_the_chain() {
    let (chain, reader) = three(2);
    chain.state().faults[0].lags_from = Some(5);
    chain.state().faults[2].slow_header = HEADS_WITHIN / 2;
    let Choices { best, .. } = reader.choose_by_asking().await.unwrap();
    assert_eq!((best.block, best.endpoints), (chain.block(9), vec![1, 2]));
    // One that is slower is not waited for.
    chain.state().faults[2].slow_header = HEADS_WITHIN * 2;
    let begun = Instant::now();
    assert_eq!(reader.choose_by_asking().await.unwrap().best.block, chain.block(4));
    assert_eq!(begun.elapsed(), HEADS_WITHIN);
    // Where one is enough nobody is.
    let (chain, reader) = three(1);
    chain.state().faults[2].slow_header = HEADS_WITHIN;
    let begun = Instant::now();
    assert_eq!(reader.choose_by_asking().await.unwrap().best.block, chain.block(9));
    assert!(begun.elapsed().is_zero());
}

/// A refusal that rests on one of several endpoints is shown to a second one.
#[test]
fn where_one_of_several_is_enough_two_can_be_asked() {
    let (_, one_is_enough) = three(1);
    assert_eq!(one_is_enough.of_two().unwrap().options().agreement, 2);
    assert!(three(2).1.of_two().is_none());
    let only = PinnedReader::new(*one_is_enough.options(), one_is_enough.endpoints()[..1].to_vec());
    assert!(only.of_two().is_none());
}

/// The block left the chain between the head and the read.
#[tokio::test(start_paused = true)]
async fn a_block_that_is_gone_is_replaced_by_the_newest() {
    let (chain, reader) = three(1);
    let gone = BlockRef { number: 9, hash: B256::repeat_byte(9) };
    let choice = Choice { block: gone, timestamp: 0, told_by: 0, endpoints: vec![0, 1, 2] };
    let error = reader.ask(&choice, &call(), Round::OfKnownHeads).await.unwrap_err();
    assert!(matches!(error, HostChainError::Unreachable { source: RpcError::Refused { .. }, .. }));
    assert_eq!(chain.call_count("read_state"), 3);
    // A node that dropped the state is no answer either, and another one is asked.
    let (chain, reader) = three(1);
    chain.state().no_state_below = Some(20);
    assert_eq!(reader.read(&call()).await.unwrap_err().code(), "host_chain_unreachable");
    assert_eq!(chain.call_count("header"), 3, "they were asked for their heads then");
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_than_allowed_are_made_at_once() {
    let (chain, mut reader) = three(1);
    reader.places = Arc::new(Semaphore::new(1));
    for node in 0..3 {
        chain.state().faults[node].slow_state = Duration::from_millis(100);
    }
    let begun = Instant::now();
    let call = call();
    let reads = (0..5).map(|_| reader.read(&call));
    assert!(join_all(reads).await.iter().all(Result::is_ok));
    assert_eq!(begun.elapsed(), Duration::from_millis(500));
    sleep(Duration::ZERO).await;
}

//! One node's report of earlier answers, on a chain in memory.

use super::{
    events::MOST_PAGES,
    transactions::{BLOCKS_AT_ONCE, MOST_BLOCKS, OWN_WITHIN, SPAN},
    *,
};
use crate::{
    chain::fake_chain::{ADDRESSES, FakeChain, SOURCE},
    contracts::abi,
    domain::{
        Answer, BlockRef, Bytes, EventShape, Operation, PublicDecryption, RequestKey, SignedResult,
    },
};

const WALLET: Address = Address::repeat_byte(7);
const OTHER: Address = Address::repeat_byte(8);
const HEIGHT: u64 = 3_000;

fn tagged(kind: Kind, number: u64) -> U256 {
    let tag = match kind {
        Kind::PublicDecryption => U256::from(1),
        Kind::UserDecryption => U256::from(2),
        Kind::PrepKeygen => U256::from(3),
        Kind::Keygen => U256::from(4),
        Kind::Crsgen => U256::from(5),
        Kind::NewKmsContext => U256::from(7),
        Kind::NewKmsEpoch => U256::from(8),
        Kind::AbortKeygen
        | Kind::AbortCrsgen
        | Kind::PrssInit
        | Kind::KeyReshareSameSet
        | Kind::ContextDestroyed
        | Kind::EpochDestroyed
        | Kind::RecordedEvent
        | Kind::UnsupportedEvent => U256::ZERO,
    };
    (tag << 248_usize) | U256::from(number)
}

fn sought(id: U256, kind: Kind, block: u64) -> AnswerQuery {
    AnswerQuery { id, kind, block }
}

fn user(number: u64, block: u64) -> AnswerQuery {
    sought(tagged(Kind::UserDecryption, number), Kind::UserDecryption, block)
}

fn public(number: u64, block: u64) -> AnswerQuery {
    sought(tagged(Kind::PublicDecryption, number), Kind::PublicDecryption, block)
}

/// The calldata of an answer to this request.
fn response(id: U256) -> Vec<u8> {
    let operation = PublicDecryption::of_materials(Vec::new(), Bytes::new());
    let request = Request {
        key: RequestKey { source: SOURCE, id, content: B256::ZERO },
        shape: EventShape::G8,
        block: BlockRef { number: 1, hash: B256::ZERO },
        transaction: B256::ZERO,
        operation: Operation::PublicDecryption(operation),
    };
    let answer = Answer::PublicDecryption(SignedResult::default());
    abi::response_call(&request, &answer).to_vec()
}

async fn shown(chain: &FakeChain, sought: &[AnswerQuery]) -> Vec<AnswerStatus> {
    let adapter = RequestContract::new(chain.clone(), ADDRESSES);
    adapter.find_answers(WALLET, sought).await.unwrap()
}

async fn one(chain: &FakeChain, sought: AnswerQuery) -> AnswerStatus {
    shown(chain, &[sought]).await[0]
}

/// Thousands of answered requests cost two calls each, a hundred per message. The state of an earlier
/// block is read only for those: nodes keep it for few blocks.
#[tokio::test]
async fn a13_what_the_contract_lists_costs_two_calls() {
    let chain = FakeChain::new(HEIGHT);
    let these: Vec<AnswerQuery> = (0..100).map(|number| user(number, 10 + number)).collect();
    for one in &these {
        chain.list_answerer(one.id, one.block + 3, OTHER);
        chain.list_answerer(one.id, one.block + 4, WALLET);
    }
    assert_eq!(shown(&chain, &these).await, [AnswerStatus::Settled; 100]);
    let calls = |of| chain.call_count(of);
    assert_eq!((calls("calls"), calls("calls in messages")), (2, 200), "the rest is none");
    assert_eq!((calls("logs_with"), calls("counts_at"), calls("transactions_of")), (0, 0, 0));
    let open: Vec<AnswerQuery> = (200..300).map(|number| user(number, 10)).collect();
    assert_eq!(shown(&chain, &open).await, [AnswerStatus::NotFound; 100]);
    assert_eq!((calls("calls"), calls("calls in messages")), (3, 300));
}

#[tokio::test]
async fn a13_an_answer_of_the_last_blocks_may_still_go() {
    let chain = FakeChain::new(HEIGHT);
    chain.list_answerer(user(1, 5).id, HEIGHT - SETTLED_AFTER + 1, WALLET);
    assert_eq!(one(&chain, user(1, 5)).await, AnswerStatus::Recent);
    chain.mine_empty(1);
    assert_eq!(one(&chain, user(1, 5)).await, AnswerStatus::Settled);
}

/// A user decryption lists everybody who answered, a public one those who agree.
#[tokio::test]
async fn a13_a_list_without_us_is_the_end_for_user_decryptions_only() {
    let chain = FakeChain::new(HEIGHT);
    chain.state().answer_history.version = Some("Decryption v0.3.0");
    for one in [user(1, 5), public(1, 5)] {
        chain.list_answerer(one.id, 7, OTHER);
        let hash = chain.add_transaction(WALLET, 9, response(one.id), true);
        chain.add_response_event(one.id, one.kind, 9, hash);
    }
    assert_eq!(one(&chain, user(1, 5)).await, AnswerStatus::NotFound);
    assert_eq!(chain.call_count("logs_with"), 0);
    assert_eq!(one(&chain, public(1, 5)).await, AnswerStatus::Settled, "with another result");
}

/// Before consensus there is no list: events name the answerer, or their transaction does.
#[tokio::test]
async fn a13_before_consensus_events_tell() {
    let chain = FakeChain::new(HEIGHT);
    chain.state().answer_history.version = Some("Decryption v0.3.0");
    for of in [user, public] {
        let (ours, others, young) = (of(1, 5), of(2, 5), of(3, 5));
        for (one, sender, block) in
            [(ours, OTHER, 8), (ours, WALLET, 9), (others, OTHER, 9), (young, WALLET, HEIGHT)]
        {
            let hash = chain.add_transaction(sender, block, response(one.id), true);
            chain.add_response_event(one.id, one.kind, block, hash);
        }
        let expected = [AnswerStatus::Settled, AnswerStatus::NotFound, AnswerStatus::Recent];
        assert_eq!(shown(&chain, &[ours, others, young]).await, expected);
    }
    assert_eq!(chain.call_count("transactions_of"), 0);
}

/// However little the node returns at once, and however far apart the requests are.
#[tokio::test]
async fn a13_events_are_looked_for_in_pages_that_the_node_takes() {
    let chain = FakeChain::new(HEIGHT);
    chain.state().longest_range = Some((10, true));
    let (soon, late) = (user(1, 100), user(2, 2_500));
    for (one, block) in [(soon, 104), (late, 2_700)] {
        let hash = chain.add_transaction(WALLET, block, response(one.id), true);
        chain.add_response_event(one.id, one.kind, block, hash);
    }
    // A search is bounded; what it starts late is left for the next one.
    assert_eq!(
        shown(&chain, &[soon, late]).await,
        [AnswerStatus::Settled, AnswerStatus::Undetermined]
    );
    assert_eq!(one(&chain, late).await, AnswerStatus::Settled);
    assert!(chain.call_count("logs_with") <= 2 * MOST_PAGES);
}

/// Up to v0.9 (and for all of G7 and G8) only the wallet's own transactions tell.
#[tokio::test]
async fn a13_where_no_event_tells_the_wallets_transactions_do() {
    for (version, no_lists) in [(Some("Decryption v0.1.0"), true), (None, false)] {
        let chain = FakeChain::new(HEIGHT);
        chain.state().answer_history.version = version;
        chain.state().answer_history.no_lists = no_lists;
        let plain = |number, kind, block| sought(U256::from(number), kind, block);
        let these = [
            plain(1, Kind::PublicDecryption, 100),
            plain(2, Kind::UserDecryption, 130),
            plain(3, Kind::UserDecryption, 140),
            plain(4, Kind::UserDecryption, 150),
            public(5, 160),
            plain(6, Kind::UserDecryption, 170),
        ];
        let [first, second, reverted, never, fifth, late] = these;
        chain.add_transaction(OTHER, 133, response(second.id), true);
        chain.add_transaction(WALLET, 101, response(first.id), true);
        chain.add_transaction(WALLET, 700, response(second.id), true);
        chain.add_transaction(WALLET, 703, response(reverted.id), false);
        chain.add_transaction(OTHER, 704, response(never.id), true);
        chain.add_transaction(WALLET, 705, response(fifth.id), true);
        chain.add_transaction(WALLET, late.block + OWN_WITHIN + 100, response(late.id), true);
        let expected = [
            AnswerStatus::Settled,
            AnswerStatus::Settled,
            AnswerStatus::NotFound,
            AnswerStatus::NotFound,
            AnswerStatus::Settled,
            AnswerStatus::NotFound,
        ];
        assert_eq!(shown(&chain, &these).await, expected, "{version:?}");
        let read = chain.call_count("transactions_of") * BLOCKS_AT_ONCE;
        assert_eq!(read, 150, "only where the wallet has sent anything");
    }
}

/// A node without old states is read block by block, within bounds, and each search makes progress.
#[tokio::test]
async fn a13_many_blocks_are_looked_through_in_parts() {
    let chain = FakeChain::new(20_000);
    chain.state().answer_history.no_lists = true;
    chain.state().answer_history.pruned_below = 30_000;
    let mut left: Vec<AnswerQuery> =
        (0..10).map(|nth| sought(U256::from(nth), Kind::PublicDecryption, nth * 1_900)).collect();
    for one in left.iter().step_by(2) {
        chain.add_transaction(WALLET, one.block + 300, response(one.id), true);
    }
    let (mut found, mut looks) = (0, 0);
    while !left.is_empty() {
        looks += 1;
        let before = chain.call_count("transactions_of");
        let these = shown(&chain, &left).await;
        let blocks = (chain.call_count("transactions_of") - before) * BLOCKS_AT_ONCE;
        assert!(blocks < MOST_BLOCKS + usize::try_from(SPAN).unwrap() + BLOCKS_AT_ONCE, "{blocks}");
        found += these.iter().filter(|shown| **shown == AnswerStatus::Settled).count();
        let many = left.len();
        let mut these = these.into_iter();
        left.retain(|_| these.next() == Some(AnswerStatus::Undetermined));
        assert!(left.len() < many, "it gets on");
    }
    assert_eq!((found, looks), (5, 5));
}

/// Hours after the request, where the wallet's transactions are not looked through.
#[tokio::test]
async fn a13_confirmations_of_contexts_and_epochs_are_found_by_their_events() {
    let chain = FakeChain::new(HEIGHT);
    for kind in [Kind::NewKmsContext, Kind::NewKmsEpoch] {
        let [ours, others, open] = [1, 2, 3].map(|number| sought(tagged(kind, number), kind, 5));
        for (of, wallet) in [(ours, WALLET), (others, OTHER)] {
            let transaction = chain.add_transaction(wallet, 2_000, Vec::new(), true);
            chain.add_response_event(of.id, kind, 2_000, transaction);
        }
        let found = shown(&chain, &[ours, others, open]).await;
        let none = AnswerStatus::NotFound;
        assert_eq!(found, [AnswerStatus::Settled, none, none], "{kind}");
    }
    assert_eq!(chain.call_count("counts_at"), 0, "no transactions are looked through");
}

/// A failing node is not a node that shows nothing.
#[tokio::test]
async fn a13_a_failure_is_not_an_answer() {
    let chain = FakeChain::new(HEIGHT);
    chain.list_answerer(user(1, 5).id, 7, WALLET);
    let adapter = RequestContract::new(chain.clone(), ADDRESSES);
    chain.state().faults[0].is_silent = true;
    adapter.find_answers(WALLET, &[user(1, 5)]).await.unwrap_err();
    chain.state().faults[0].is_silent = false;
    // It is far behind.
    let ahead = adapter.find_answers(WALLET, &[user(2, HEIGHT + 1)]).await.unwrap();
    assert_eq!(ahead, [AnswerStatus::Undetermined]);
    // It does not have the block that is asked about.
    chain.state().calls_know_below = Some(HEIGHT - 100);
    adapter.find_answers(WALLET, &[user(1, 5)]).await.unwrap_err();
}

/// A node that keeps the state of few blocks: the contract's list has no date.
#[tokio::test]
async fn a13_a_node_without_the_state_of_earlier_blocks_keeps_nobody_waiting() {
    let chain = FakeChain::new(HEIGHT);
    let (answered, open) = (user(1, 5), user(2, 6));
    chain.list_answerer(answered.id, 7, WALLET);
    chain.state().no_state_below = Some(HEIGHT);
    assert_eq!(
        shown(&chain, &[answered, open]).await,
        [AnswerStatus::Recent, AnswerStatus::NotFound]
    );
}

#[test]
fn a13_windows_overlap_and_end_at_the_head() {
    let window = |from, to, sought: &[usize]| BlockWindow { from, to, queries: sought.to_vec() };
    let of = vec![(0, 500), (1, 10), (2, 60), (3, 990), (4, 2_000)];
    let expected = [window(10, 160, &[1, 2]), window(500, 600, &[0]), window(990, 1_000, &[3])];
    assert_eq!(windows(of, 100, 1_000), expected);
    assert_eq!(windows(vec![], 100, 1_000), []);
}

//! Questions and answers of one host chain.

use super::*;
use crate::{
    chain::{
        fake_chain::{FakeChain, NodeFaults, host::Told},
        reader::NodeId,
    },
    contracts::pinned_reads::{ChainEndpoint, PinnedOptions},
    time::clock::Clock,
};

const ACL_AT: Address = Address::repeat_byte(0xac);
const HANDLE: B256 = B256::repeat_byte(0x11);
const USER: Address = Address::repeat_byte(0x22);

/// A chain of two nodes whose block 4 is final, and its adapter.
fn host(agreement: usize, version: &'static str) -> (FakeChain, HostChain<FakeChain>) {
    let chain = FakeChain::host(9, ACL_AT, version);
    chain.state().faults = vec![NodeFaults::default(); 2];
    chain.state().tagged = Some(4);
    let options = PinnedOptions {
        chain_id: 7,
        agreement,
        max_age: Duration::from_mins(2),
        deadline: Duration::from_secs(10),
        calls: 8,
        clock: Clock::Wall,
    };
    let endpoints = (0..2).map(|node| ChainEndpoint::of(&chain, NodeId(node))).collect();
    let host = HostChain::new(PinnedReader::new(options, endpoints), ACL_AT, 100_000);
    (chain, host)
}

fn allowed() -> AclQuestion {
    AclQuestion::Allowed { handle: HANDLE, account: USER }
}

#[tokio::test(start_paused = true)]
async fn questions_go_out_together_and_come_back_in_order() {
    let (chain, host) = host(2, "ACL v0.5.0");
    let delegate = Address::repeat_byte(0x33);
    let delegated =
        AclQuestion::Delegated { delegator: USER, delegate, contract: delegate, handle: HANDLE };
    chain.answer(acl::is_allowed(HANDLE, USER).calldata(), true);
    chain.answer(acl::is_delegated(USER, delegate, delegate, HANDLE).calldata(), true);
    chain.answer(acl::signature_invalidated_before(USER).calldata(), U256::from(77));
    chain.state().host.code.insert(delegate, Bytes::from_static(&[1, 2, 3]));
    let questions = [
        AclQuestion::AllowedForDecryption { handle: HANDLE },
        allowed(),
        delegated,
        AclQuestion::InvalidatedBefore { account: USER },
        AclQuestion::CodeSize { account: delegate },
        AclQuestion::CodeSize { account: USER },
    ];
    let told = host.ask(&questions).await.unwrap();
    let expected = [
        AclAnswer::No,
        AclAnswer::Yes,
        AclAnswer::Yes,
        AclAnswer::Time(U256::from(77)),
        AclAnswer::Yes,
        AclAnswer::No,
    ];
    assert_eq!(told.answers, expected);
    // The grant is newer than the final block.
    assert_eq!(told.at_finalized, [Some(false), Some(false), None, None, None, None]);
    assert_eq!((told.block, told.hosts.len()), (chain.block(9), 2));
    assert_eq!(chain.call_count("read_state"), 2, "one message to each");
    chain.state().tagged = Some(9);
    let told = host.ask(&questions).await.unwrap();
    assert_eq!(told.at_finalized[1], Some(true));
    // A node without the tag.
    chain.state().tagged = None;
    assert_eq!(host.ask(&questions).await.unwrap().at_finalized, [None; 6]);
}

#[tokio::test(start_paused = true)]
async fn a_smart_account_has_its_say_within_its_gas() {
    let (chain, host) = host(1, "ACL v0.5.0");
    let (digest, signature) = (B256::repeat_byte(1), Bytes::from_static(&[7]));
    let ask = AclQuestion::ValidSignature { account: USER, digest, signature: signature.clone() };
    let StateRead::Call(call) = ask.read(ACL_AT, 100_000) else { panic!("a call") };
    assert_eq!((call.to, call.gas), (USER, Some(100_000)));
    let answer = async || host.ask(std::slice::from_ref(&ask)).await.unwrap().answers.remove(0);
    assert_eq!(answer().await, AclAnswer::No, "nobody is there");
    let calldata = acl::is_valid_signature(digest, signature).calldata();
    let word = |text: &str| Told::Returns(alloy::hex::decode(text).unwrap().into());
    chain.tell(USER, calldata.clone(), word(&format!("1626ba7e{}", "00".repeat(28))));
    assert_eq!(answer().await, AclAnswer::Yes);
    chain.tell(USER, calldata.clone(), word(&"ff".repeat(32)));
    assert_eq!(answer().await, AclAnswer::No);
    chain.tell(USER, calldata, Told::Reverts(Bytes::from_static(&[1])));
    assert_eq!(answer().await, AclAnswer::Reverted);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_can_be_invalidated_nothing_was() {
    let ask = [AclQuestion::InvalidatedBefore { account: USER }];
    let calldata = acl::signature_invalidated_before(USER).calldata();
    for (version, answer) in [
        ("ACL v0.4.0", AclAnswer::Time(U256::ZERO)),
        ("ACL v0.5.0", AclAnswer::Reverted),
        ("something else", AclAnswer::Reverted),
    ] {
        let (chain, host) = host(1, version);
        chain.tell(ACL_AT, calldata.clone(), Told::Reverts(Bytes::new()));
        assert_eq!(host.ask(&ask).await.unwrap().answers, [answer], "{version}");
        assert_eq!(host.state().version.as_deref(), Some(version));
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_without_an_acl_is_told_with_its_key() {
    let (chain, host) = host(1, "ACL v0.5.0");
    chain.state().host.contract = Some(Address::ZERO);
    for error in [host.ask(&[allowed()]).await.unwrap_err(), host.look().await.unwrap_err()] {
        assert_eq!(error.code(), "host_chain_no_contract");
        assert!(error.to_string().contains("acl_address of [[host_chains]]"), "{error}");
        assert_eq!(host.state().error.unwrap().code(), "host_chain_no_contract");
    }
    assert_eq!(host.identity(), None);
}

#[tokio::test(start_paused = true)]
async fn a_word_that_means_nothing_is_no_answer() {
    let (chain, host) = host(1, "ACL v0.5.0");
    chain.answer(acl::is_allowed(HANDLE, USER).calldata(), U256::from(2));
    let error = host.ask(&[allowed()]).await.unwrap_err();
    assert_eq!(error.code(), "host_chain_unreadable");
}

/// What is remembered is dropped when the contract becomes another one, or is not confirmed for long.
#[tokio::test(start_paused = true)]
async fn an_identity_is_known_as_long_as_the_contract_is_the_same() {
    let (chain, host) = host(1, "ACL v0.5.0");
    let asked = async || host.ask(&[allowed()]).await.unwrap().identity;
    assert_eq!(asked().await, None, "not looked at yet");
    host.look().await.unwrap();
    let first = host.identity().unwrap();
    assert_eq!((first.chain_id, first.acl, first.genesis), (7, ACL_AT, chain.block(0).hash));
    assert_eq!(asked().await, Some(first));
    // A question notices the upgrade before the next look.
    chain.state().host.implementation = Address::repeat_byte(0x1b);
    assert_eq!(asked().await, None);
    assert_eq!(host.identity(), None);
    host.look().await.unwrap();
    let second = host.identity().unwrap();
    assert_ne!(first, second);
    // So does a look the code's.
    chain.state().host.code.insert(ACL_AT, Bytes::from_static(&[9]));
    host.look().await.unwrap();
    assert_ne!(host.identity(), Some(second));
    tokio::time::advance(KNOWN_FOR).await;
    assert_eq!(host.identity(), None, "not confirmed for long");
    assert_eq!(asked().await, None);
}

#[tokio::test(start_paused = true)]
async fn one_endpoint_that_lies_grants_nothing_where_two_must_agree() {
    let (chain, host) = host(2, "ACL v0.5.0");
    let grant = (acl::is_allowed(HANDLE, USER).calldata(), B256::with_last_byte(1).0.into());
    chain.state().faults[1].views = vec![grant];
    let error = host.ask(&[allowed()]).await.unwrap_err();
    assert_eq!(error.code(), "host_nodes_disagree");
    assert!(error.to_string().contains("node-0, node-1"), "{error}");
    assert_eq!(host.state().error.unwrap().code(), "host_nodes_disagree");
}

/// A user's signature may be one that nodes refuse to work on.
#[tokio::test(start_paused = true)]
async fn what_a_node_refuses_of_one_request_is_no_trouble_of_the_chain() {
    let (chain, host) = host(1, "ACL v0.5.0");
    host.look().await.unwrap();
    chain.state().no_state_below = Some(20);
    let error = host.ask(&[allowed()]).await.unwrap_err();
    assert_eq!((error.code(), error.may_concern_questions()), ("host_chain_unreachable", true));
    assert!(host.state().error.is_none(), "{:?}", host.state());
    // Nothing is answered: the next look says so.
    host.look().await.unwrap_err();
    assert_eq!(host.state().error.unwrap().code(), "host_chain_unreachable");
    // Silence concerns everybody.
    chain.state().no_state_below = None;
    host.look().await.unwrap();
    chain.state().faults.iter_mut().for_each(|node| node.is_silent = true);
    host.ask(&[allowed()]).await.unwrap_err();
    assert_eq!(host.state().error.unwrap().code(), "host_chain_unreachable");
    // A second opinion is one request's matter.
    chain.state().faults.iter_mut().for_each(|node| node.is_silent = false);
    host.look().await.unwrap();
    chain.state().faults[0].shows_time = Some(1);
    host.of_two().unwrap().ask_unnoted(&[allowed()]).await.unwrap_err();
    assert!(host.state().error.is_none(), "{:?}", host.state());
}

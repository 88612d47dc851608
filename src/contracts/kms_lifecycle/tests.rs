//! Contexts and epochs on a chain in memory.

use alloy::{sol, sol_types::SolValue as _};

use super::*;
use crate::{
    chain::fake_chain::{FakeChain, NodeFaults, host::Told},
    domain::{BlockRef, Bytes},
};

sol! {
    struct KeyDigest { uint8 keyType; bytes digest; }
    struct KeyInfo { uint256 prepKeygenId; uint256 keyId; uint8 paramsType; KeyDigest[] keyDigests; }
}

const PROTOCOL_CONFIG: Address = Address::repeat_byte(0x9c);
const KEY_GENERATION: Address = Address::repeat_byte(0x9d);

fn id(number: u64) -> U256 {
    no_context() | U256::from(number)
}

/// The data of a context without nodes: three empty lists, a text, and four thresholds.
fn definition(threshold: u64) -> Bytes {
    let (nodes, pcr_values) = (Vec::<U256>::new(), Vec::<U256>::new());
    let thresholds = [U256::from(threshold); 4];
    (nodes, thresholds, String::new(), pcr_values).abi_encode_params().into()
}

fn log(topics: Vec<B256>, data: Bytes) -> Event {
    let block = BlockRef { number: 0, hash: B256::ZERO };
    Event { block, transaction: B256::with_last_byte(1), log_index: 0, topics, data }
}

fn defines(context: U256, previous: U256, data: Bytes) -> Event {
    log(vec![abi::CONTEXT_TOPIC, context.into(), previous.into()], data)
}

fn opens(context: U256, epoch: U256) -> Event {
    let data = [U256::ONE; 3].abi_encode().into();
    log(vec![abi::EPOCH_TOPIC, context.into(), epoch.into()], data)
}

fn anchor(chain: &FakeChain, context: U256, block: u64, of: &[u8]) {
    let said = (U256::from(block), alloy::primitives::keccak256(of));
    chain.answer(protocol_config::context_anchor(context).calldata(), said);
}

/// The first context in block 5, anchored, and one after it in block 6.
fn scene() -> (FakeChain, KmsLifecycle<FakeChain>) {
    let chain = FakeChain::host(4, PROTOCOL_CONFIG, "ProtocolConfig v0.2.0");
    chain.mine(vec![defines(id(1), no_context(), definition(1))]);
    chain.mine(vec![defines(id(2), id(1), definition(2))]);
    anchor(&chain, id(1), 5, &definition(1));
    anchor(&chain, id(2), 6, &definition(2));
    let history = KmsLifecycle::new(chain.clone(), PROTOCOL_CONFIG, KEY_GENERATION);
    (chain, history)
}

#[tokio::test(start_paused = true)]
async fn a_definition_is_proven_by_the_hash_that_the_contract_keeps() {
    let (chain, history) = scene();
    let defined = history.definition(id(2)).await.unwrap().unwrap();
    assert_eq!((defined.previous, defined.block), (id(1), 6));
    assert_eq!(defined.context.mpc_threshold, U256::from(2));
    // It is remembered.
    anchor(&chain, id(2), 6, b"else");
    assert_eq!(history.definition(id(2)).await.unwrap(), Some(defined));
    // Another hash, another block, two logs, and none.
    anchor(&chain, id(1), 5, b"else");
    let unproven = async |context| match history.definition(context).await {
        Err(LifecycleError::Unproven { why, .. }) => why,
        told => panic!("{told:?}"),
    };
    assert!(unproven(id(1)).await.contains("something else"));
    anchor(&chain, id(1), 4, &definition(1));
    assert!(unproven(id(1)).await.contains("no log"));
    chain.mine(vec![defines(id(3), id(2), definition(1)), defines(id(3), id(2), definition(1))]);
    anchor(&chain, id(3), 7, &definition(1));
    assert!(unproven(id(3)).await.contains("several"));
    anchor(&chain, id(4), 0, &definition(1));
    let error = history.definition(id(4)).await.unwrap_err();
    assert!(error.to_string().contains("older than v0.14"), "{error}");
    // A contract of G13.
    let call = protocol_config::context_anchor(id(1)).calldata();
    chain.tell(PROTOCOL_CONFIG, call, Told::Reverts(Bytes::new()));
    assert_eq!(history.definition(id(1)).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn one_node_that_tells_something_else_is_not_overruled() {
    let (chain, history) = scene();
    let lie = (U256::from(5), alloy::primitives::keccak256(b"else")).abi_encode();
    let views = vec![(protocol_config::context_anchor(id(1)).calldata(), lie.into())];
    chain.state().faults.push(NodeFaults { views, ..NodeFaults::default() });
    let error = history.definition(id(1)).await.unwrap_err();
    assert_eq!(error.code(), "host_nodes_disagree", "{error}");
    assert!(matches!(error.remedy(), Remedy::Hold(_)));
}

/// Contexts 1 and 2 are of v0.13, 3 was in force when the contract was upgraded.
#[tokio::test(start_paused = true)]
async fn a_context_that_was_replaced_before_v0_14_has_no_epochs() {
    let chain = FakeChain::host(4, PROTOCOL_CONFIG, "ProtocolConfig v0.2.0");
    let history = KmsLifecycle::new(chain.clone(), PROTOCOL_CONFIG, KEY_GENERATION);
    let unkept = |number| anchor(&chain, id(number), 0, &definition(1));
    unkept(1);
    unkept(2);
    chain.answer(protocol_config::context_id_counter().calldata(), id(2));
    let replaced = async |number| history.was_replaced_before(id(number)).await.unwrap();
    assert!(!replaced(1).await, "nobody tells when");
    chain.mine(vec![defines(id(3), no_context(), definition(3))]);
    anchor(&chain, id(3), 5, &definition(3));
    assert!(!replaced(1).await, "it is not defined yet");
    chain.answer(protocol_config::context_id_counter().calldata(), id(3));
    assert!(replaced(1).await && replaced(2).await);
    // It was in force after all: it has epochs.
    chain.mine(vec![opens(id(2), first_epoch() + U256::ONE)]);
    assert!(replaced(1).await && !replaced(2).await);
    // The first one that is defined replaces it.
    let (chain, history) = scene();
    anchor(&chain, id(1), 0, &definition(1));
    chain.answer(protocol_config::context_id_counter().calldata(), id(2));
    assert!(!history.was_replaced_before(id(1)).await.unwrap());
}

/// The first context begins with an epoch of which no event tells.
#[tokio::test(start_paused = true)]
async fn all_epochs_of_a_context_are_found() {
    let (chain, history) = scene();
    let epoch = |number| first_epoch() + U256::from(number);
    chain.mine(vec![opens(id(1), epoch(1))]);
    chain.mine(vec![opens(id(2), epoch(2))]);
    chain.mine(vec![opens(id(1), epoch(3))]);
    let of = async |context| {
        let defined = history.definition(context).await.unwrap().unwrap();
        history.epochs_of(context, &defined).await.unwrap()
    };
    assert_eq!(of(id(1)).await, [epoch(0), epoch(1), epoch(3)]);
    assert_eq!(of(id(2)).await, [epoch(2)]);
}

/// An address without code answers every call with nothing.
#[tokio::test(start_paused = true)]
async fn an_address_without_a_contract_is_told_by_its_key() {
    let chain = FakeChain::host(9, Address::repeat_byte(1), "ProtocolConfig v0.2.0");
    let history = KmsLifecycle::new(chain.clone(), PROTOCOL_CONFIG, KEY_GENERATION);
    let empty = || Told::Returns(Bytes::new());
    chain.tell(PROTOCOL_CONFIG, protocol_config::context_anchor(id(1)).calldata(), empty());
    let error = history.definition(id(1)).await.unwrap_err();
    assert_eq!(error.code(), "key_management_not_configured", "{error}");
    assert!(error.to_string().contains("protocol_config_address"), "{error}");
    for list in [key_generation::completed_keys(), key_generation::completed_crs_list()] {
        chain.state().tell_from(0, (KEY_GENERATION, list.calldata()), empty());
    }
    let error = history.material(U256::from(5)).await.unwrap_err();
    assert!(error.to_string().contains("kms_generation_address"), "{error}");
    // There is one, and the node has forgotten it as of then.
    chain.state().host.code.insert(KEY_GENERATION, Bytes::from_static(&[1]));
    let error = history.material(U256::from(5)).await.unwrap_err();
    assert_eq!(error.code(), "archive_node_needed", "{error}");
}

fn tell(chain: &FakeChain, call: Bytes, returns: Vec<u8>) {
    chain.tell(KEY_GENERATION, call, Told::Returns(returns.into()));
}

#[tokio::test(start_paused = true)]
async fn the_material_is_that_of_its_block() {
    let (chain, history) = scene();
    let (key, crs) = (U256::from(4), U256::from(5));
    let info = KeyInfo {
        prepKeygenId: U256::from(3),
        keyId: key,
        paramsType: 1,
        keyDigests: vec![KeyDigest { keyType: 0, digest: Bytes::from_static(&[7]) }],
    };
    tell(&chain, key_generation::completed_keys().calldata(), vec![key].abi_encode());
    tell(&chain, key_generation::completed_crs_list().calldata(), vec![crs].abi_encode());
    tell(&chain, key_generation::key_info(key).calldata(), info.abi_encode());
    let materials = (Vec::<String>::new(), Bytes::from_static(&[8])).abi_encode_params();
    tell(&chain, key_generation::crs_digest(crs).calldata(), materials);
    let at = U256::from(6);
    let told = history.material(at).await.unwrap();
    assert_eq!((told.keys[0].id, told.keys[0].preparation), (key, U256::from(3)));
    assert_eq!(told.crs_list, [CompletedCrs { id: crs, digest: Bytes::from_static(&[8]) }]);
    // A later block has more.
    chain.mine_empty(1);
    let more = vec![key, key + U256::ONE].abi_encode();
    tell(&chain, key_generation::completed_keys().calldata(), more);
    assert_eq!(history.material(at).await.unwrap().keys.len(), 1);
    // Nodes drop old state.
    chain.state().host.code.insert(KEY_GENERATION, Bytes::from_static(&[1]));
    chain.state().no_state_below = Some(7);
    let error = history.material(at).await.unwrap_err();
    assert_eq!(error.code(), "archive_node_needed", "{error}");
    assert!(matches!(error.remedy(), Remedy::Hold(hold)
        if hold.reason == HoldReason::ArchiveNodeNeeded));
}

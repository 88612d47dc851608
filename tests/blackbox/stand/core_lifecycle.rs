//! The stub of a Core has contexts and epochs as each version has (kms-core-grpc 3.5, 6.3).

use std::time::Duration;

use alloy::primitives::{Address, U256, address};
use kms_connector::flow::kms_core::proto::{
    kms::v1, kms_service::v1::core_service_endpoint_client::CoreServiceEndpointClient,
};
use prost::Message;
use tonic::{Code, Status, transport::Channel};
use world::{
    core_stub::{CoreOptions, CoreStub, CoreVersion, Hopeless, Lifecycle},
    random_key,
};

const CHAIN_ID: u64 = 12_345;
const KEYS: Address = address!("0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed");
const PROTOCOL_CONFIG: Address = address!("0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359");
const WITH_LIFECYCLE: [CoreVersion; 4] =
    [CoreVersion::V0_13_10, CoreVersion::V0_13_20, CoreVersion::V0_14, CoreVersion::Head];

type Client = CoreServiceEndpointClient<Channel>;

/// A client of a stub.
async fn client(stub: &CoreStub) -> Client {
    CoreServiceEndpointClient::connect(stub.endpoint()).await.expect("the stub listens")
}

/// A message of the test world as the product knows it.
fn sent<M: Message + Default>(message: &impl Message) -> M {
    M::decode(message.encode_to_vec().as_slice()).expect("one definition")
}

/// Has a Core make a context.
pub async fn make_context(
    core: &CoreStub,
    request: &world::proto::kms::v1::NewMpcContextRequest,
) -> Result<(), Status> {
    let request: v1::NewMpcContextRequest = sent(request);
    client(core).await.new_mpc_context(request).await.map(drop)
}

async fn core(version: CoreVersion) -> (CoreStub, Client) {
    let stub = CoreStub::start(CoreOptions {
        key_generation: Some((CHAIN_ID, KEYS)),
        protocol_config: Some((CHAIN_ID, PROTOCOL_CONFIG)),
        contexts: Some(vec![text(7)]),
        ..CoreOptions::new(version, CHAIN_ID, Address::ZERO)
    })
    .await;
    stub.change(|behaviour| behaviour.key_latency = Duration::ZERO);
    let client = self::client(&stub).await;
    (stub, client)
}

fn text(id: u64) -> String {
    format!("{id:064x}")
}

fn id(number: u64) -> v1::RequestId {
    v1::RequestId { request_id: text(number) }
}

fn domain(name: &str, contract: Address) -> v1::Eip712DomainMsg {
    v1::Eip712DomainMsg {
        name: name.into(),
        version: "1".into(),
        chain_id: U256::from(CHAIN_ID).to_be_bytes::<32>().to_vec().into(),
        verifying_contract: contract.to_checksum(None),
        salt: None,
    }
}

fn context(number: u64, signers: &[Address]) -> v1::NewMpcContextRequest {
    let node = |(party, signer): (i32, &Address)| v1::MpcNode {
        mpc_identity: format!("party-{party}"),
        party_id: party,
        signer_address: Some(signer.to_vec().into()),
        ..v1::MpcNode::default()
    };
    let new_context = v1::MpcContext {
        mpc_nodes: (1..).zip(signers).map(node).collect(),
        context_id: Some(id(number)),
        threshold: 1,
        ..v1::MpcContext::default()
    };
    v1::NewMpcContextRequest { new_context: Some(new_context) }
}

fn epoch(number: u64, of: u64) -> v1::NewMpcEpochRequest {
    let digest = |key_type: &str| v1::KeyDigest {
        key_type: key_type.into(),
        digest: bytes::Bytes::from_static(&[7; 32]),
    };
    let key = v1::KeyInfo {
        key_id: Some(id(41)),
        preproc_id: Some(id(31)),
        key_parameters: 1,
        key_digests: vec![digest("PublicKey"), digest("CompressedXofKeySet")],
    };
    let crs = v1::CrsInfo { crs_id: Some(id(51)), crs_digest: bytes::Bytes::from_static(&[8; 32]) };
    v1::NewMpcEpochRequest {
        context_id: Some(id(of)),
        epoch_id: Some(id(number)),
        previous_epoch: Some(v1::PreviousEpochInfo {
            context_id: Some(id(7)),
            epoch_id: Some(id(80)),
            keys_info: vec![key],
            crs_info: vec![crs],
        }),
        domain: Some(domain("ProtocolConfig", PROTOCOL_CONFIG)),
        extra_data: bytes::Bytes::from_static(&[2, 1, 1]),
    }
}

fn destroy(number: u64, epochs: &[u64]) -> v1::DestroyMpcContextRequest {
    let epoch_ids = epochs.iter().map(|epoch| id(*epoch)).collect();
    v1::DestroyMpcContextRequest { context_id: Some(id(number)), epoch_ids }
}

fn code<T>(outcome: Result<T, Status>) -> Code {
    outcome.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn a_context_and_its_epochs_come_and_go() {
    for version in WITH_LIFECYCLE {
        let (stub, mut client) = core(version).await;
        let members = [stub.signer_address(), random_key().address()];
        assert_eq!(code(client.new_mpc_epoch(epoch(81, 8)).await), Code::NotFound, "{version:?}");
        assert_eq!(code(client.new_mpc_context(context(8, &[])).await), Code::InvalidArgument);
        client.new_mpc_context(context(8, &members)).await.unwrap();
        assert_eq!(code(client.new_mpc_context(context(8, &members)).await), Code::AlreadyExists);
        assert_eq!(code(client.new_mpc_context(context(7, &members)).await), Code::AlreadyExists);

        stub.change(|behaviour| behaviour.never_finish = true);
        client.new_mpc_epoch(epoch(81, 8)).await.unwrap();
        assert_eq!(code(client.new_mpc_epoch(epoch(81, 8)).await), Code::AlreadyExists);
        assert_eq!(code(client.get_epoch_result(id(81)).await), Code::Unavailable, "and at once");
        // While it runs, nothing else of its kind does.
        assert_eq!(code(client.new_mpc_epoch(epoch(82, 8)).await), Code::FailedPrecondition);
        let other = client.destroy_mpc_context(destroy(8, &[81])).await;
        assert_eq!(code(other), Code::FailedPrecondition);
        stub.change(|behaviour| behaviour.never_finish = false);
        let made = client.get_epoch_result(id(81)).await.unwrap().into_inner();
        let told: v1::EpochResultResponse = sent(&stub.epoch_result(&sent(&epoch(81, 8))));
        assert_eq!(made, told);
        let key = &made.reshare_responses[0];
        assert_eq!((&key.request_id, &key.preprocessing_id), (&Some(id(41)), &Some(id(31))));
        assert_eq!(key.key_digests, epoch(81, 8).previous_epoch.unwrap().keys_info[0].key_digests);
        assert_eq!(made.crs_responses[0].request_id, Some(id(51)));
        assert_eq!(code(client.new_mpc_epoch(epoch(81, 8)).await), Code::InvalidArgument, "stored");

        let unknown = v1::DestroyMpcEpochRequest { epoch_id: Some(id(99)) };
        assert_eq!(code(client.destroy_mpc_epoch(unknown).await), Code::NotFound);
        client.new_mpc_epoch(epoch(82, 8)).await.unwrap();
        client.get_epoch_result(id(82)).await.unwrap();
        let one = v1::DestroyMpcEpochRequest { epoch_id: Some(id(82)) };
        client.destroy_mpc_epoch(one).await.unwrap();
        assert_eq!(code(client.get_epoch_result(id(82)).await), Code::NotFound);

        let told = client.destroy_mpc_context(destroy(8, &[81])).await.unwrap().into_inner();
        assert_eq!(!told.epoch_ids.is_empty(), version == CoreVersion::Head);
        assert!(stub.epochs().is_empty() && stub.contexts().is_empty());
        assert_eq!(code(client.destroy_mpc_context(destroy(8, &[81])).await), Code::NotFound);
        let last = client.destroy_mpc_context(destroy(7, &[80])).await;
        assert_eq!(code(last), Code::FailedPrecondition);
        assert_eq!(stub.accepted_lifecycle(U256::from(81)).len(), 1);
        assert_eq!(
            stub.accepted_lifecycle(U256::from(8)).last(),
            Some(&Lifecycle::DestroyContext(sent(&destroy(8, &[81]))))
        );
    }
}

/// The caller of v0.14 names the epochs, and what he leaves out stays.
#[tokio::test]
async fn a_core_of_v0_14_destroys_the_epochs_it_is_told() {
    for (version, left) in
        [(CoreVersion::V0_14, vec![U256::from(81)]), (CoreVersion::Head, Vec::new())]
    {
        let (stub, mut client) = core(version).await;
        client
            .new_mpc_context(context(8, &[stub.signer_address(), random_key().address()]))
            .await
            .unwrap();
        for number in [81, 82] {
            client.new_mpc_epoch(epoch(number, 8)).await.unwrap();
            client.get_epoch_result(id(number)).await.unwrap();
        }
        client.destroy_mpc_context(destroy(8, &[82])).await.unwrap();
        assert_eq!(stub.epochs(), left, "{version:?}");
    }
}

#[tokio::test]
async fn a_restart_loses_results_of_epochs_and_what_runs_and_no_context() {
    let (mut stub, mut first) = core(CoreVersion::V0_14).await;
    first
        .new_mpc_context(context(8, &[stub.signer_address(), random_key().address()]))
        .await
        .unwrap();
    first.new_mpc_epoch(epoch(81, 8)).await.unwrap();
    first.get_epoch_result(id(81)).await.unwrap();
    stub.change(|behaviour| behaviour.never_finish = true);
    first.new_mpc_epoch(epoch(82, 8)).await.unwrap();
    stub.restart().await;
    let mut client = self::client(&stub).await;
    assert_eq!(code(client.get_epoch_result(id(81)).await), Code::NotFound);
    assert_eq!(code(client.new_mpc_epoch(epoch(81, 8)).await), Code::InvalidArgument, "stored");
    assert_eq!(code(client.new_mpc_epoch(epoch(82, 8)).await), Code::Ok, "was not finished");
    assert_eq!(stub.contexts(), [U256::from(8)]);
}

/// Who is not of the new context gives his shares, and signs nothing for it.
#[tokio::test]
async fn one_who_leaves_signs_nothing_anew() {
    let (stub, mut client) = core(CoreVersion::V0_14).await;
    let others = [random_key().address(), random_key().address()];
    client.new_mpc_context(context(8, &others)).await.unwrap();
    client.new_mpc_epoch(epoch(81, 8)).await.unwrap();
    let left = client.get_epoch_result(id(81)).await.unwrap().into_inner();
    // As a party of the context it was set up with, it signs.
    client.new_mpc_epoch(epoch(82, 7)).await.unwrap();
    let stayed = client.get_epoch_result(id(82)).await.unwrap().into_inner();
    let digests =
        |result: &v1::EpochResultResponse| result.reshare_responses[0].key_digests.clone();
    assert_eq!(digests(&left), digests(&stayed));
    let signature =
        |result: &v1::EpochResultResponse| result.reshare_responses[0].external_signature.clone();
    assert_ne!(signature(&left), signature(&stayed));
    stub.change(|behaviour| behaviour.hopeless = [(U256::from(83), Hopeless::Fails)].into());
    client.new_mpc_epoch(epoch(83, 7)).await.unwrap();
    assert_eq!(code(client.get_epoch_result(id(83)).await), Code::Internal);
}

#[tokio::test]
async fn old_cores_know_no_contexts_and_new_ones_neither_init_nor_resharing() {
    let keygen = |number: u64, of: u64| v1::KeyGenRequest {
        request_id: Some(id(number)),
        preproc_id: Some(id(of)),
        domain: Some(domain("KMSGeneration", KEYS)),
        ..v1::KeyGenRequest::default()
    };
    let preprocessing = |number: u64| v1::KeyGenPreprocRequest {
        request_id: Some(id(number)),
        domain: Some(domain("KMSGeneration", KEYS)),
        ..v1::KeyGenPreprocRequest::default()
    };
    let reshare = |number: u64| v1::InitiateResharingRequest {
        request_id: Some(id(number)),
        key_id: Some(id(41)),
        preproc_id: Some(id(31)),
        domain: Some(domain("KMSGeneration", KEYS)),
        ..v1::InitiateResharingRequest::default()
    };
    let init = || v1::InitRequest { request_id: Some(id(1)), context_id: None };
    for version in
        [CoreVersion::V0_12, CoreVersion::V0_13, CoreVersion::V0_13_10, CoreVersion::Head]
    {
        let (stub, mut client) = core(version).await;
        if version >= CoreVersion::V0_13_10 {
            assert_eq!(code(client.init(init()).await), Code::Unimplemented, "{version:?}");
            assert_eq!(code(client.initiate_resharing(reshare(61)).await), Code::Unimplemented);
            continue;
        }
        assert_eq!(code(client.new_mpc_epoch(epoch(81, 7)).await), Code::Unimplemented);
        client.init(init()).await.unwrap();
        assert_eq!(code(client.init(init()).await), Code::AlreadyExists);
        assert_eq!(code(client.initiate_resharing(reshare(61)).await), Code::NotFound, "no key");
        client.key_gen_preproc(preprocessing(31)).await.unwrap();
        client.get_key_gen_preproc_result(id(31)).await.unwrap();
        client.key_gen(keygen(41, 31)).await.unwrap();
        let key = client.get_key_gen_result(id(41)).await.unwrap().into_inner();
        client.initiate_resharing(reshare(61)).await.unwrap();
        let shared = client.get_resharing_result(id(61)).await.unwrap().into_inner();
        assert_eq!((shared.key_id, shared.key_digests), (Some(id(41)), key.key_digests));
        assert_eq!(shared.external_signature, key.external_signature);
        assert_eq!(stub.lifecycle_asks().len(), 5);
    }
}

#[tokio::test]
async fn a_crs_is_aborted_and_only_while_it_is_made() {
    for version in [CoreVersion::V0_13_10, CoreVersion::V0_13_20, CoreVersion::Head] {
        let (stub, mut client) = core(version).await;
        if version < CoreVersion::V0_13_20 {
            assert_eq!(code(client.abort_crs_gen(id(5)).await), Code::Unimplemented);
            continue;
        }
        let crs = v1::CrsGenRequest {
            request_id: Some(id(5)),
            max_num_bits: Some(2048),
            domain: Some(domain("KMSGeneration", KEYS)),
            context_id: Some(id(7)),
            ..v1::CrsGenRequest::default()
        };
        assert_eq!(code(client.abort_crs_gen(id(5)).await), Code::NotFound);
        stub.change(|behaviour| behaviour.never_finish = true);
        client.crs_gen(crs).await.unwrap();
        client.abort_crs_gen(id(5)).await.unwrap();
        assert_eq!(code(client.get_crs_gen_result(id(5)).await), Code::Aborted);
        assert_eq!(code(client.abort_crs_gen(id(5)).await), Code::NotFound);
        assert_eq!(stub.accepted_lifecycle(U256::from(5)).len(), 1);
    }
}

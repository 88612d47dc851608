//! The stub of a Core makes keys and CRSs as each version does (kms-core-grpc 3.4, 4, 6).

use std::time::Duration;

use alloy::primitives::{Address, U256, address};
use kms_connector::flow::kms_core::proto::{
    kms::v1, kms_service::v1::core_service_endpoint_client::CoreServiceEndpointClient,
};
use tonic::{Code, transport::Channel};
use world::core_stub::{CoreOptions, CoreStub, CoreVersion, Fault, KeyAsk, KeyOperation};

const CHAIN_ID: u64 = 54_321;
const CONTRACT: Address = address!("0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed");
const MAKERS: [CoreVersion; 6] = [
    CoreVersion::V0_12,
    CoreVersion::V0_13,
    CoreVersion::V0_13_10,
    CoreVersion::V0_13_20,
    CoreVersion::V0_14,
    CoreVersion::Head,
];

type Client = CoreServiceEndpointClient<Channel>;

async fn core(version: CoreVersion) -> (CoreStub, Client) {
    let stub = CoreStub::start(CoreOptions {
        key_generation: Some((CHAIN_ID, CONTRACT)),
        ..CoreOptions::new(version, CHAIN_ID, Address::ZERO)
    })
    .await;
    stub.change(|behaviour| behaviour.key_latency = Duration::ZERO);
    let client = CoreServiceEndpointClient::connect(stub.endpoint()).await;
    (stub, client.expect("the stub listens"))
}

fn text(id: u64) -> String {
    format!("{id:064x}")
}

fn id(number: u64) -> v1::RequestId {
    v1::RequestId { request_id: text(number) }
}

fn domain() -> v1::Eip712DomainMsg {
    v1::Eip712DomainMsg {
        name: "KMSGeneration".into(),
        version: "1".into(),
        chain_id: U256::from(CHAIN_ID).to_be_bytes::<32>().to_vec().into(),
        verifying_contract: CONTRACT.to_checksum(None),
        salt: None,
    }
}

fn preprocessing(number: u64) -> v1::KeyGenPreprocRequest {
    let (request_id, domain) = (Some(id(number)), Some(domain()));
    v1::KeyGenPreprocRequest { request_id, domain, ..Default::default() }
}

/// The key of a preprocessing.
fn key(number: u64, of: u64) -> v1::KeyGenRequest {
    let (request_id, preproc_id) = (Some(id(number)), Some(id(of)));
    v1::KeyGenRequest { request_id, preproc_id, domain: Some(domain()), ..Default::default() }
}

fn crs(number: u64) -> v1::CrsGenRequest {
    let (request_id, domain) = (Some(id(number)), Some(domain()));
    v1::CrsGenRequest { request_id, max_num_bits: Some(2048), domain, ..Default::default() }
}

fn keyset(compressed_key_config: i32) -> v1::KeySetConfig {
    let standard = v1::StandardKeySetConfig { compressed_key_config, ..Default::default() };
    v1::KeySetConfig { standard_keyset_config: Some(standard), ..Default::default() }
}

fn names(result: &v1::KeyGenResult) -> Vec<&str> {
    result.key_digests.iter().map(|digest| digest.key_type.as_str()).collect()
}

#[tokio::test]
async fn every_version_makes_a_key_and_a_crs() {
    for version in MAKERS {
        let (stub, mut client) = core(version).await;
        client.key_gen_preproc(preprocessing(1)).await.unwrap();
        let made = client.get_key_gen_preproc_result(id(1)).await.unwrap().into_inner();
        assert_eq!(made.preprocessing_id, Some(id(1)));
        let ask = KeyAsk::new(KeyOperation::Preprocessing, text(1));
        assert_eq!(made.external_signature, stub.answer_to(&ask).signature, "{version:?}");

        client.key_gen(key(2, 1)).await.unwrap();
        let made = client.get_key_gen_result(id(2)).await.unwrap().into_inner();
        assert_eq!((&made.request_id, &made.preprocessing_id), (&Some(id(2)), &Some(id(1))));
        let compressed = version >= CoreVersion::V0_13_20;
        let expected = if compressed {
            ["PublicKey", "CompressedXofKeySet"]
        } else {
            ["ServerKey", "PublicKey"]
        };
        assert_eq!(names(&made), expected, "{version:?}");
        let ask = KeyAsk::new(KeyOperation::Key, text(2));
        let ask = KeyAsk { preprocessing: Some(text(1)), ..ask };
        assert_eq!(made.external_signature, stub.answer_to(&ask).signature);

        client.crs_gen(crs(3)).await.unwrap();
        let made = client.get_crs_gen_result(id(3)).await.unwrap().into_inner();
        assert_eq!((&made.request_id, made.max_num_bits), (&Some(id(3)), 2048));
        let ask = KeyAsk { max_bits: Some(2048), ..KeyAsk::new(KeyOperation::Crs, text(3)) };
        let answer = stub.answer_to(&ask);
        assert_eq!((made.crs_digest, made.external_signature), {
            (answer.digests[0].1.clone(), answer.signature.clone())
        });

        let asked = stub.key_asks();
        let operations = asked.iter().map(|ask| (ask.operation, ask.code));
        assert_eq!(
            operations.collect::<Vec<_>>(),
            [
                (KeyOperation::Preprocessing, Code::Ok),
                (KeyOperation::Key, Code::Ok),
                (KeyOperation::Crs, Code::Ok),
            ]
        );
        assert_eq!(stub.accepted_key(KeyOperation::Key, U256::from(2)), 1);
        assert_eq!(stub.polls(U256::from(2)), 1);
    }
}

#[tokio::test]
async fn cores_agree_on_what_they_make_unless_one_diverges() {
    let (first, _) = core(CoreVersion::V0_12).await;
    let (second, _) = core(CoreVersion::V0_12).await;
    let ask = KeyAsk::new(KeyOperation::Key, text(2));
    let (one, other) = (first.answer_to(&ask), second.answer_to(&ask));
    assert_eq!(one.digests, other.digests);
    assert_ne!(one.signature, other.signature);
    second.change(|behaviour| behaviour.fault = Some(Fault::Diverges));
    assert_ne!(second.answer_to(&ask).digests, one.digests);
    second.change(|behaviour| behaviour.fault = Some(Fault::UnknownKeyType));
    assert_eq!(second.answer_to(&ask).digests[1].0, 9);
}

#[tokio::test]
async fn what_is_asked_at_the_wrong_time_is_refused_by_its_status() {
    for version in MAKERS {
        let (mut stub, mut client) = core(version).await;
        stub.change(|behaviour| {
            behaviour.key_latency = Duration::from_mins(9);
            behaviour.key_hold = Some(Duration::ZERO);
        });
        let code = |outcome: Result<_, tonic::Status>| outcome.err().map(|status| status.code());
        assert_eq!(code(client.key_gen(key(2, 1)).await), Some(Code::NotFound));
        assert_eq!(code(client.key_gen_preproc(preprocessing(1)).await), None);
        assert_eq!(code(client.key_gen_preproc(preprocessing(1)).await), Some(Code::AlreadyExists));
        assert_eq!(code(client.key_gen(key(2, 1)).await), Some(Code::Unavailable));
        let running = client.get_key_gen_preproc_result(id(1)).await.unwrap_err();
        assert_eq!(running.code(), Code::Unavailable);
        let unknown = client.get_key_gen_result(id(1)).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound, "the store of each operation is its own");
        stub.change(|behaviour| behaviour.key_latency = Duration::ZERO);

        let other = v1::KeyGenRequest { keyset_config: Some(keyset(1)), ..key(2, 1) };
        assert_eq!(code(client.key_gen(other).await), Some(Code::InvalidArgument));
        stub.change(|behaviour| behaviour.lifecycle_runs = true);
        assert_eq!(code(client.key_gen(key(2, 1)).await), Some(Code::FailedPrecondition));
        stub.change(|behaviour| behaviour.lifecycle_runs = false);
        assert_eq!(code(client.key_gen(key(2, 1)).await), None);
        assert_eq!(code(client.key_gen(key(2, 1)).await), Some(Code::AlreadyExists));

        client.crs_gen(crs(3)).await.unwrap();
        let nothing = v1::CrsGenRequest { max_num_bits: None, ..crs(4) };
        assert_eq!(code(client.crs_gen(nothing).await), Some(Code::InvalidArgument));
        let elsewhere = v1::CrsGenRequest { domain: None, ..crs(4) };
        assert_eq!(code(client.crs_gen(elsewhere).await), Some(Code::InvalidArgument));

        // A preprocessing and what runs are lost with the process; what was made is stored.
        client.key_gen_preproc(preprocessing(5)).await.unwrap();
        stub.restart().await;
        let mut client = CoreServiceEndpointClient::connect(stub.endpoint()).await.unwrap();
        let lost = client.get_key_gen_preproc_result(id(5)).await.unwrap_err();
        assert_eq!(lost.code(), Code::NotFound);
        client.get_key_gen_result(id(2)).await.unwrap();
        client.get_crs_gen_result(id(3)).await.unwrap();
        stub.change(|behaviour| behaviour.key_latency = Duration::from_mins(9));
        client.crs_gen(crs(6)).await.unwrap();
        stub.restart().await;
        let mut client = CoreServiceEndpointClient::connect(stub.endpoint()).await.unwrap();
        let lost = client.get_crs_gen_result(id(6)).await.unwrap_err();
        assert_eq!(lost.code(), Code::NotFound);
        stub.lose_keys();
        let lost = client.get_key_gen_result(id(2)).await.unwrap_err();
        assert_eq!(lost.code(), Code::NotFound);
    }
}

/// Old Cores count 0 as uncompressed, newer ones as compressed, and those sign `extraData`.
#[tokio::test]
async fn what_key_is_made_and_what_is_signed_turns_at_v0_13_20() {
    let uncompressed = ["ServerKey", "PublicKey"];
    for (version, compressed_key_config, plain) in [
        (CoreVersion::V0_13_10, 0, true),
        (CoreVersion::V0_13_10, 1, false),
        (CoreVersion::V0_13_20, 0, false),
        (CoreVersion::V0_13_20, 1, true),
    ] {
        let (stub, mut client) = core(version).await;
        let asked = v1::KeyGenPreprocRequest {
            keyset_config: Some(keyset(compressed_key_config)),
            extra_data: bytes::Bytes::from_static(&[1, 2, 3]),
            ..preprocessing(1)
        };
        client.key_gen_preproc(asked).await.unwrap();
        let plainly = KeyAsk::new(KeyOperation::Preprocessing, text(1));
        let signed = client.get_key_gen_preproc_result(id(1)).await.unwrap().into_inner();
        let same = signed.external_signature == stub.answer_to(&plainly).signature;
        assert_eq!(same, version == CoreVersion::V0_13_10, "{version:?}");
        let keyset_config = Some(keyset(compressed_key_config));
        let asked = v1::KeyGenRequest { keyset_config, ..key(2, 1) };
        client.key_gen(asked).await.unwrap();
        let made = client.get_key_gen_result(id(2)).await.unwrap().into_inner();
        assert_eq!(names(&made) == uncompressed, plain, "{version:?} {compressed_key_config}");
    }
}

#[tokio::test]
async fn a_malformed_abort_tells_the_version_and_a_good_one_ends_what_runs() {
    for version in CoreVersion::ALL {
        let (stub, mut client) = core(version).await;
        let malformed = v1::RequestId { request_id: "no id".into() };
        let told = client.abort_key_gen(malformed).await.unwrap_err().code();
        if version < CoreVersion::V0_13_20 {
            assert_eq!(told, Code::Unimplemented, "{version:?}");
            continue;
        }
        assert_eq!(told, Code::InvalidArgument, "{version:?}");
        assert_eq!(client.abort_key_gen(id(1)).await.unwrap_err().code(), Code::NotFound);
        stub.change(|behaviour| behaviour.key_latency = Duration::from_mins(9));
        client.key_gen_preproc(preprocessing(1)).await.unwrap();
        client.abort_key_gen(id(1)).await.unwrap();
        let aborted = client.get_key_gen_preproc_result(id(1)).await.unwrap_err();
        assert_eq!(aborted.code(), Code::Aborted);
        assert_eq!(client.abort_key_gen(id(1)).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_poll_is_held_until_there_is_a_result() {
    let (stub, mut client) = core(CoreVersion::V0_13_10).await;
    stub.change(|behaviour| behaviour.key_latency = Duration::from_millis(300));
    client.crs_gen(crs(3)).await.unwrap();
    client.get_crs_gen_result(id(3)).await.unwrap();
    assert_eq!(stub.polls(U256::from(3)), 1);
}

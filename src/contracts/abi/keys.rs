//! The `KMSGeneration` contract: what it asks for, the calls that answer it, and the answers of others
//! (gateway-abi 6). It indexes nothing.
//!
//! | generation | file | what differs from the one before |
//! |---|---|---|
//! | G9 to G12 | `gateway` | on the gateway; its requests name no KMS context |
//! | G13 to HEAD | `host` | on Ethereum; `bytes extraData` at the end of each request, which is signed |
//! | G14 to HEAD | `lifecycle` | beside it `ProtocolConfig`, for KMS contexts and epochs |
//!
//! The answers of `KMSGeneration`, and the events that show them, are the same in all.
//!
//! The contracts are read without a filter of topics: an event that stands in no table here asks for something
//! that this version does not know, and must not be missed.

mod gateway;
mod host;
mod lifecycle;

use alloy::primitives::{Keccak256, b256};
use alloy::sol;
use alloy::sol_types::{self, SolCall, SolEvent, SolValue};

pub use self::lifecycle::{
    CONTEXT_CONFIRMATION_TOPIC, CONTEXT_TOPIC, EPOCH_CONFIRMATION_TOPIC, EPOCH_TOPIC,
    epoch_extra_data, epoch_payload, epoch_result, opened_epoch,
};
use self::lifecycle::{confirmEpochActivationCall, confirmKmsContextCreationCall};
use super::{DECODER, DecodeProblem, UPGRADED_TOPIC};
use crate::domain::{B256, Bytes, Event, KeyOperation, KeyParameters, Kind, SignedResult, U256};

sol! {
    struct KeyDigest {
        uint8 keyType;
        bytes digest;
    }

    /// From v0.10.0 on, one per answer, like the next two.
    event PrepKeygenResponse(uint256 prepKeygenId, bytes signature, address kmsTxSender);
    event KeygenResponse(
        uint256 keyId, KeyDigest[] keyDigests, bytes signature, address kmsTxSender
    );
    event CrsgenResponse(uint256 crsId, bytes crsDigest, bytes signature, address kmsTxSender);
    /// Enough nodes gave the same answer, like the next one.
    event ActivateKey(uint256 keyId, string[] kmsNodeStorageUrls, KeyDigest[] keyDigests);
    event ActivateCrs(uint256 crsId, string[] kmsNodeStorageUrls, bytes crsDigest);

    /// Of every upgradeable contract of the protocol.
    event Initialized(uint64 version);
    event Paused(address account);
    event Unpaused(address account);
    event EIP712DomainChanged();
    event OwnershipTransferStarted(address indexed previousOwner, address indexed newOwner);
    event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);

    function prepKeygenResponse(uint256 prepKeygenId, bytes signature) external;
    function keygenResponse(uint256 keyId, KeyDigest[] keyDigests, bytes signature) external;
    function crsgenResponse(uint256 crsId, bytes crsDigest, bytes signature) external;
}

/// A request event.
struct KeyEventShape {
    topic0: B256,
    /// The canonical event signature.
    event: &'static str,
    /// How many, with the first.
    topics: usize,
    /// Decodes id and operation from topics and data.
    read: fn(&[B256], &[u8]) -> ReadRequest,
}

type ReadRequest = sol_types::Result<(U256, KeyOperation)>;

/// Every request event of every generation.
const SHAPES: [KeyEventShape; 14] = [
    gateway::PREPARATION_REQUEST,
    gateway::KEY_REQUEST,
    gateway::CRS_REQUEST,
    host::PREPARATION_REQUEST,
    host::KEY_REQUEST,
    host::CRS_REQUEST,
    gateway::RANDOMNESS,
    gateway::RESHARING,
    host::KEY_ABORT,
    host::CRS_ABORT,
    lifecycle::CONTEXT,
    lifecycle::EPOCH,
    lifecycle::CONTEXT_END,
    lifecycle::EPOCH_END,
];

fn read_parameters(number: u8) -> sol_types::Result<KeyParameters> {
    KeyParameters::from_number(number).ok_or_else(|| {
        sol_types::Error::custom(format!("the enum of parameters has no member {number}"))
    })
}

/// Selectors of the response functions.
pub(super) const RESPONSE_SELECTORS: [[u8; 4]; 5] = [
    prepKeygenResponseCall::SELECTOR,
    keygenResponseCall::SELECTOR,
    crsgenResponseCall::SELECTOR,
    confirmKmsContextCreationCall::SELECTOR,
    confirmEpochActivationCall::SELECTOR,
];

/// What is known and asks for nothing.
const NOTICES: [B256; 11] = [
    PrepKeygenResponse::SIGNATURE_HASH,
    KeygenResponse::SIGNATURE_HASH,
    CrsgenResponse::SIGNATURE_HASH,
    ActivateKey::SIGNATURE_HASH,
    ActivateCrs::SIGNATURE_HASH,
    Initialized::SIGNATURE_HASH,
    Paused::SIGNATURE_HASH,
    Unpaused::SIGNATURE_HASH,
    EIP712DomainChanged::SIGNATURE_HASH,
    OwnershipTransferStarted::SIGNATURE_HASH,
    OwnershipTransferred::SIGNATURE_HASH,
];

/// What is known and not served: topic and signature (gateway-abi 6.1, and 7.1 of a version before the first that
/// was deployed). No connector ever acted on these.
const UNSERVED: [(B256, &str); 8] = [
    (
        b256!("8511337ad89c20ef904f13e9b9e7eb05f4c0fff128a8760c2c1d436c111b309f"),
        "PreprocessKeygenRequest(uint256,bytes32)",
    ),
    (
        b256!("596d111e7512a47ee0c5eb66eef6f22c45d8ad4fee0520340785a11e221ed512"),
        "PreprocessKskgenRequest(uint256,bytes32)",
    ),
    (
        b256!("796482d60009a80331529afb48bf3415a16c9ff539a8cd138e77a745af6c7b78"),
        "KeygenRequest(uint256,bytes32)",
    ),
    (
        b256!("fd6857403eadbdc0c8b68b151bb46a31d6c352af79b065d472cbd77781514dd4"),
        "KskgenRequest(uint256,uint256,uint256,bytes32)",
    ),
    (
        b256!("04f7b6ae222ef47289cfdc7c3b8298273e1bc92eeb346e805163ed4b37e76b29"),
        "CrsgenRequest(uint256,bytes32)",
    ),
    (
        b256!("bddc1662cdaa871ae40d9edc0e435e0988c6095bfc7c452aedb16c89606b6b75"),
        "ActivateKeyRequest(uint256)",
    ),
    (
        b256!("75e115b7f76bf21d0a2e42da9304d9c357b54c489e5af59ed3c70b7cd48335fc"),
        "PendingContextAborted(uint256)",
    ),
    (
        b256!("6440aaea7b2480b82449c317aa5a9168df77eb69308ff8f7c3980a1ad848b7df"),
        "PendingEpochAborted(uint256,uint256)",
    ),
];

/// Whether the event is known and asks a KMS node for nothing.
#[must_use]
pub fn is_notice(event: &Event) -> bool {
    event.topics.first().is_some_and(is_topic_of_notice)
}

fn is_topic_of_notice(topic0: &B256) -> bool {
    NOTICES.contains(topic0) || lifecycle::NOTICES.contains(topic0)
}

/// The signature of an event that is known and not served.
#[must_use]
pub fn unserved_event(topic: B256) -> Option<&'static str> {
    UNSERVED.iter().find(|(known, _)| *known == topic).map(|(_, signature)| *signature)
}

/// Decodes id and operation from a log of these contracts. What stands in no table is an unsupported event.
pub(super) fn decode(event: &Event) -> Result<(U256, KeyOperation), DecodeProblem> {
    let topic = event.topics.first().copied();
    let asks_nothing = |topic: &B256| *topic == UPGRADED_TOPIC || is_topic_of_notice(topic);
    if let Some(topic0) = topic.filter(asks_nothing) {
        return Err(DecodeProblem::NotARequest { topic0 });
    }
    let Some(shape) = SHAPES.iter().find(|shape| Some(shape.topic0) == topic) else {
        let recorded = lifecycle::RECORDED.iter().find(|(known, _)| Some(*known) == topic);
        let operation = match recorded {
            Some((_, event)) => KeyOperation::RecordedEvent { event },
            None => KeyOperation::UnsupportedEvent { topic },
        };
        return Ok((id_of_content(event), operation));
    };
    if event.topics.len() != shape.topics {
        return Err(DecodeProblem::Topics {
            event: shape.event,
            expected: shape.topics,
            found: event.topics.len(),
        });
    }
    (shape.read)(&event.topics, &event.data)
        .map_err(|cause| DecodeProblem::Data { event: shape.event, source: Box::new(cause) })
}

/// An event without an id that could be read: the hash of everything it says stands for it.
fn id_of_content(event: &Event) -> U256 {
    let mut hash = Keccak256::new();
    hash.update(b"kms-connector unsupported event");
    hash.update((event.topics.len() as u64).to_be_bytes());
    for topic in &event.topics {
        hash.update(topic);
    }
    hash.update(&event.data);
    hash.finalize().into()
}

/// The calldata that delivers the answer to a request of this kind. What is not answered has none.
pub(super) fn response_call(kind: Kind, id: U256, answer: &SignedResult) -> Bytes {
    let SignedResult { payload, signature, extra_data: _ } = answer.clone();
    match kind {
        Kind::PrepKeygen => prepKeygenResponseCall { prepKeygenId: id, signature }.abi_encode(),
        Kind::Keygen => {
            // Nothing else was encoded here. A damaged one is refused by the contract.
            let digests = read_digests(&payload).unwrap_or_default();
            keygenResponseCall { keyId: id, keyDigests: digests, signature }.abi_encode()
        }
        Kind::Crsgen => {
            crsgenResponseCall { crsId: id, crsDigest: payload, signature }.abi_encode()
        }
        Kind::NewKmsContext => confirmKmsContextCreationCall { kmsContextId: id }.abi_encode(),
        Kind::NewKmsEpoch => lifecycle::activation_call(id, &payload).abi_encode(),
        Kind::PublicDecryption
        | Kind::UserDecryption
        | Kind::AbortKeygen
        | Kind::AbortCrsgen
        | Kind::PrssInit
        | Kind::KeyReshareSameSet
        | Kind::ContextDestroyed
        | Kind::EpochDestroyed
        | Kind::RecordedEvent
        | Kind::UnsupportedEvent => Vec::new(),
    }
    .into()
}

/// The payload of a keygen's answer: the digest of each key by its `KeyType`, in the order in which they
/// were signed.
#[must_use]
pub fn key_digests_payload(digests: impl IntoIterator<Item = (u8, Bytes)>) -> Bytes {
    let digests: Vec<KeyDigest> = digests
        .into_iter()
        .map(|(key_type, digest)| KeyDigest { keyType: key_type, digest })
        .collect();
    digests.abi_encode().into()
}

/// The inverse of [`key_digests_payload`]. `None`: it is something else.
#[must_use]
pub fn key_digests(payload: &[u8]) -> Option<Vec<(u8, Bytes)>> {
    let digests = read_digests(payload)?;
    Some(digests.into_iter().map(|one| (one.keyType, one.digest)).collect())
}

fn read_digests(payload: &[u8]) -> Option<Vec<KeyDigest>> {
    Vec::<KeyDigest>::abi_decode_validate(payload).ok()
}

/// What other nodes answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Of the request.
    pub id: U256,
    /// As [`voted_on`] has it of our answer.
    pub payload: Bytes,
}

/// `topic0` of the events that show votes on a key, a CRS or an epoch. About a preparation or a KMS context there is
/// nothing to vote.
pub const VOTE_TOPICS: [B256; 5] = [
    KeygenResponse::SIGNATURE_HASH,
    CrsgenResponse::SIGNATURE_HASH,
    ActivateKey::SIGNATURE_HASH,
    ActivateCrs::SIGNATURE_HASH,
    lifecycle::EPOCH_CONFIRMATION_TOPIC,
];

/// What all nodes have to have the same of an answer's payload. Empty: nothing.
#[must_use]
pub fn voted_on(kind: Kind, payload: &Bytes) -> Bytes {
    if kind != Kind::NewKmsEpoch {
        return payload.clone();
    }
    // Nothing else was encoded here.
    lifecycle::data_hash(payload).map(|hash| hash.0.into()).unwrap_or_default()
}

/// The vote that an event shows. `None`: it shows none.
#[must_use]
pub fn parse_vote(event: &Event) -> Option<Vote> {
    let data = &event.data;
    let (id, payload) = match *event.topics.first()? {
        KeygenResponse::SIGNATURE_HASH => {
            let (id, digests, ..) =
                KeygenResponse::abi_decode_data_with_config(data, DECODER).ok()?;
            (id, digests.abi_encode().into())
        }
        ActivateKey::SIGNATURE_HASH => {
            let (id, _, digests) = ActivateKey::abi_decode_data_with_config(data, DECODER).ok()?;
            (id, digests.abi_encode().into())
        }
        CrsgenResponse::SIGNATURE_HASH => {
            let (id, digest, ..) =
                CrsgenResponse::abi_decode_data_with_config(data, DECODER).ok()?;
            (id, digest)
        }
        ActivateCrs::SIGNATURE_HASH => {
            let (id, _, digest) = ActivateCrs::abi_decode_data_with_config(data, DECODER).ok()?;
            (id, digest)
        }
        lifecycle::EPOCH_CONFIRMATION_TOPIC => {
            let (id, hash) = lifecycle::confirmation(event)?;
            (id, hash.0.into())
        }
        _ => return None,
    };
    Some(Vote { id, payload })
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, hex, keccak256};
    use proptest::prelude::*;

    use super::{
        gateway::{CrsgenRequest, KeygenRequest, PrepKeygenRequest},
        *,
    };
    use crate::domain::BlockRef;

    pub(super) fn event(topics: Vec<B256>, data: Vec<u8>) -> Event {
        let block = BlockRef { number: 1, hash: B256::ZERO };
        Event { block, transaction: B256::ZERO, log_index: 0, topics, data: data.into() }
    }

    fn tagged(tag: u8, number: u64) -> U256 {
        (U256::from(tag) << 248_usize) | U256::from(number)
    }

    #[test]
    fn topics_and_selectors_are_those_of_the_sheet() {
        let of_generation = SHAPES.iter().filter(|shape| shape.topics == 1);
        let topics = of_generation.map(|shape| hex::encode(shape.topic0));
        let votes = VOTE_TOPICS.iter().map(hex::encode);
        let all: Vec<String> = topics.chain(votes).collect();
        assert_eq!(
            all,
            [
                "02024007d96574dbc9d11328bfee9893e7c7bb4ef4aa806df33bfdf454eb5e60",
                "78b179176d1f19d7c28e80823deba2624da2ca2ec64b1701f3632a87c9aedc92",
                "3f038f6f88cb3031b7718588403a2ec220576a868be07dde4c02b846ca352ef5",
                "fbf5274810b94f86970c1147e8ffaebed246ee9777d695a69004dc6256d1fe91",
                "3a116120cca5d4f073cc1fc31ff26133ab7b0499f2712fa010023b87d5a1f9ee",
                "8cf0151393f84fd694c5e315cb74cc05b247de0a454fd9e9129c661efdf9401d",
                "11db42c1878f2e2819241f5250984563f06cf22818e7adb86a66921d15d59d3f",
                "1ccb5545c4c8db50a0f5b416499526929f68534ed47f6cfd4c9f069075e60b45",
                "2b087b884b35a81d769d1a1e092880f1da56de964e4b339eabcb1f45f5fe3264",
                "384f90fefbcfaa68f22e00094aeaa52b2bc693936d2ce1afed1212520b59b58e",
                "2afe64fb3afde8e2678aea84cf36223f330e2fb1286d37aed573ab9cd1db47c7",
                "7bf1b42c10e9497c879620c5b7afced10bda17d8c90b22f0e3bc6b2fd6ced0bd",
                "eb85c26dbcad46b80a68a0f24cce7c2c90f0a1faded84184138839fc9e80a25b",
                "2258b73faed33fb2e2ea454403bef974920caf682ab3a723484fcf67553b16a2",
                "7eda6f85e23b7b91c019b0570d02b663606ef9d74594f7e01fcfbdb0f4e954d5",
            ]
        );
        for (topic, signature) in UNSERVED {
            assert_eq!(keccak256(signature), topic, "{signature}");
        }
        let answer = SignedResult::default();
        for (kind, selector) in
            [(Kind::PrepKeygen, "589adb0e"), (Kind::Keygen, "4610ffe8"), (Kind::Crsgen, "62978787")]
        {
            let call = response_call(kind, U256::ONE, &answer);
            assert_eq!(hex::encode(&call[..4]), selector, "{kind}");
        }
    }

    #[test]
    fn requests_are_read_and_an_unknown_parameter_set_is_none() {
        let prep =
            PrepKeygenRequest { prepKeygenId: tagged(3, 1), epochId: U256::ZERO, paramsType: 1 };
        let read = |data: Vec<u8>, topic0| decode(&event(vec![topic0], data));
        let (parameters, extra_data) = (KeyParameters::Test, None);
        assert_eq!(
            read(prep.encode_data(), PrepKeygenRequest::SIGNATURE_HASH),
            Ok((tagged(3, 1), KeyOperation::PrepKeygen { parameters, extra_data }))
        );
        let odd = PrepKeygenRequest { paramsType: 2, ..prep };
        let refused = read(odd.encode_data(), PrepKeygenRequest::SIGNATURE_HASH);
        assert!(matches!(refused, Err(DecodeProblem::Data { .. })), "{refused:?}");
        let keygen = KeygenRequest { prepKeygenId: tagged(3, 1), keyId: tagged(4, 1) };
        assert_eq!(
            read(keygen.encode_data(), KeygenRequest::SIGNATURE_HASH),
            Ok((
                tagged(4, 1),
                KeyOperation::Keygen { preparation: tagged(3, 1), extra_data: None }
            ))
        );
        let (max_bits, parameters) = (U256::MAX, KeyParameters::Default);
        let crs = CrsgenRequest { crsId: tagged(5, 9), maxBitLength: max_bits, paramsType: 0 };
        assert_eq!(
            read(crs.encode_data(), CrsgenRequest::SIGNATURE_HASH),
            Ok((tagged(5, 9), KeyOperation::Crsgen { max_bits, parameters, extra_data: None }))
        );
        let topics = vec![CrsgenRequest::SIGNATURE_HASH, B256::ZERO];
        let refused = decode(&event(topics, crs.encode_data()));
        assert!(matches!(refused, Err(DecodeProblem::Topics { .. })), "{refused:?}");
    }

    #[test]
    fn randomness_and_resharing_are_asked_for_on_the_gateway() {
        let read = |data: Vec<u8>, topic0| decode(&event(vec![topic0], data)).unwrap();
        let init = read(gateway::PRSSInit {}.encode_data(), gateway::PRSSInit::SIGNATURE_HASH);
        assert_eq!(init, (tagged(0x86, 1), KeyOperation::PrssInit));
        let reshare = gateway::KeyReshareSameSet {
            prepKeygenId: tagged(3, 1),
            keyId: tagged(4, 1),
            keyReshareId: tagged(6, 2),
            paramsType: 0,
        };
        let operation = KeyOperation::KeyReshare {
            preparation: tagged(3, 1),
            key: tagged(4, 1),
            parameters: KeyParameters::Default,
        };
        let topic0 = gateway::KeyReshareSameSet::SIGNATURE_HASH;
        assert_eq!(read(reshare.encode_data(), topic0), (tagged(6, 2), operation));
    }

    #[test]
    fn requests_on_ethereum_have_their_extra_data() {
        let parameters = KeyParameters::Default;
        let (extra_data, bytes) = (Some(Bytes::from_static(&[1, 7])), [1, 7].into());
        let read = |data: Vec<u8>, topic0| decode(&event(vec![topic0], data)).unwrap();
        let prep =
            host::PrepKeygenRequest { prepKeygenId: tagged(3, 1), paramsType: 0, extraData: bytes };
        let operation = KeyOperation::PrepKeygen { parameters, extra_data: extra_data.clone() };
        let topic0 = host::PrepKeygenRequest::SIGNATURE_HASH;
        assert_eq!(read(prep.encode_data(), topic0), (tagged(3, 1), operation));
        let (preparation, max_bits) = (tagged(3, 1), U256::from(2048));
        let bytes = Bytes::from_static(&[1, 7]);
        let key = host::KeygenRequest {
            prepKeygenId: preparation,
            keyId: tagged(4, 1),
            extraData: bytes.clone(),
        };
        let operation = KeyOperation::Keygen { preparation, extra_data: extra_data.clone() };
        let topic0 = host::KeygenRequest::SIGNATURE_HASH;
        assert_eq!(read(key.encode_data(), topic0), (tagged(4, 1), operation));
        let crs = host::CrsgenRequest {
            crsId: tagged(5, 1),
            maxBitLength: max_bits,
            paramsType: 0,
            extraData: bytes,
        };
        let operation = KeyOperation::Crsgen { max_bits, parameters, extra_data };
        let topic0 = host::CrsgenRequest::SIGNATURE_HASH;
        assert_eq!(read(crs.encode_data(), topic0), (tagged(5, 1), operation));
        // An abort is no other request of the same id.
        let abort = host::AbortKeygen { prepKeygenId: preparation }.encode_data();
        let operation = KeyOperation::AbortKeygen { preparation };
        let topic0 = host::AbortKeygen::SIGNATURE_HASH;
        assert_eq!(read(abort, topic0), (tagged(0x83, 1), operation));
        let abort = host::AbortCrsgen { crsId: tagged(5, 1) }.encode_data();
        let operation = KeyOperation::AbortCrsgen { crs: tagged(5, 1) };
        let topic0 = host::AbortCrsgen::SIGNATURE_HASH;
        assert_eq!(read(abort, topic0), (tagged(0x85, 1), operation));
    }

    #[test]
    fn what_is_unknown_is_a_request_of_its_own_and_what_asks_nothing_is_none() {
        let unknown = |topics: Vec<B256>, data: &[u8]| {
            let (id, operation) = decode(&event(topics.clone(), data.to_vec())).unwrap();
            let topic = topics.first().copied();
            assert_eq!(operation, KeyOperation::UnsupportedEvent { topic });
            id
        };
        let topic = B256::repeat_byte(7);
        let ids = [
            unknown(vec![], &[]),
            unknown(vec![topic], &[]),
            unknown(vec![topic, topic], &[]),
            unknown(vec![topic], topic.as_slice()),
        ];
        assert!((1..ids.len()).all(|one| !ids[..one].contains(&ids[one])), "{ids:?}");
        assert_eq!(unknown(vec![topic], &[]), ids[1]);
        assert_eq!(unserved_event(UNSERVED[5].0), Some("ActivateKeyRequest(uint256)"));
        assert_eq!(unserved_event(topic), None);
        for topic0 in NOTICES.into_iter().chain([UPGRADED_TOPIC]) {
            let notice = event(vec![topic0], vec![]);
            assert_eq!(decode(&notice), Err(DecodeProblem::NotARequest { topic0 }));
            assert!(is_notice(&notice) || topic0 == UPGRADED_TOPIC);
        }
    }

    #[test]
    fn a_vote_is_compared_in_the_form_of_our_answer() {
        let digests = [(0, Bytes::from_static(&[1; 32])), (1, Bytes::from_static(&[2, 3]))];
        let payload = key_digests_payload(digests.clone());
        assert_eq!(key_digests(&payload), Some(digests.to_vec()));
        assert_eq!(key_digests(&[1]), None);
        let raw = read_digests(&payload).unwrap();
        let (id, by) = (tagged(4, 1), Address::repeat_byte(9));
        let signature = Bytes::from_static(&[4; 65]);
        let response = KeygenResponse {
            keyId: id,
            keyDigests: raw.clone(),
            signature: signature.clone(),
            kmsTxSender: by,
        };
        let vote = |topic0, data| parse_vote(&event(vec![topic0], data));
        let expected = Some(Vote { id, payload: payload.clone() });
        assert_eq!(vote(KeygenResponse::SIGNATURE_HASH, response.encode_data()), expected);
        let urls = vec!["s3".to_owned()];
        let active = ActivateKey { keyId: id, kmsNodeStorageUrls: urls, keyDigests: raw.clone() };
        assert_eq!(vote(ActivateKey::SIGNATURE_HASH, active.encode_data()), expected);
        assert_eq!(vote(KeygenResponse::SIGNATURE_HASH, vec![1]), None);
        assert_eq!(vote(PrepKeygenResponse::SIGNATURE_HASH, vec![]), None);
        // The call carries the same digests.
        let answer = SignedResult { payload, signature, extra_data: Bytes::new() };
        let call = response_call(Kind::Keygen, id, &answer);
        let call = keygenResponseCall::abi_decode(&call).unwrap();
        assert_eq!((call.keyId, call.keyDigests.abi_encode()), (id, raw.abi_encode()));
    }

    proptest! {
        #[test]
        fn any_log_is_read_or_refused(
            row in 0..15_usize,
            data in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let (topic, topics) = SHAPES
                .get(row)
                .map_or((B256::repeat_byte(1), 1), |shape| (shape.topic0, shape.topics));
            let log = event(vec![topic; topics], data);
            prop_assert!(decode(&log).is_ok() || row < 14);
            let _ = parse_vote(&log);
        }
    }
}

//! Requests and responses against hand-written vectors and against alloy's own encoder.

use alloy::primitives::{address, bytes, hex, keccak256};
use alloy::sol_types::{SolCall, SolValue};
use proptest::prelude::*;

use super::*;
use crate::chain::fake_chain::SOURCE;
use crate::domain::{
    HandleEntry, PublicDecryption, RequestTerms, SignedResult, UnifiedTerms, UserDecryption,
};

const G7_PUBLIC: B256 = b256!("17c632196fbf6b96d9675971058d3701733094c3f2f1dcb9ba7d2a08bee0aafb");
const G8_PUBLIC: B256 = b256!("22db480a39bd72556438aadb4a32a3d2a6638b87c03bbec5fef6997e109587ff");
const HEAD_PUBLIC: B256 = b256!("9bb088a53f1fe13ec84fa0a1d7b578b589e193268baaccc5e23f7ab785aa3dae");
const G7_USER: B256 = b256!("1c3dcad6311be6d58dc4d4b9f1bc1625eb18d72de969db75e11a88ef3527d2f3");
const G8_USER: B256 = b256!("f9011bd6ba0da6049c520d70fe5971f17ed7ab795486052544b51019896c596b");
const G14_USER: B256 = b256!("1f80a47b51979837976f999a7735fdccbbe570e0d40081644ec88f8ed76c9612");
const HEAD_USER: B256 = b256!("c71e32c80f3109c673a9adfcded0b3b2093212ab284084a0e03a281dee2bdd5f");
const HEAD_UNIFIED: B256 =
    b256!("8ed4fab8b1d050676cd7d7d9fa448d5d22113375fab8ad4dc690e54593c527bf");

/// Every request topic of gateway-abi 4.1, its signature there, and its kind.
const TABLE: [(B256, &str, Kind); 8] = [
    (
        G7_PUBLIC,
        "PublicDecryptionRequest(uint256,(bytes32,uint256,bytes32,address[])[])",
        Kind::PublicDecryption,
    ),
    (
        G8_PUBLIC,
        "PublicDecryptionRequest(uint256,(bytes32,uint256,bytes32,address[])[],bytes)",
        Kind::PublicDecryption,
    ),
    (HEAD_PUBLIC, "PublicDecryptionRequest(uint256,bytes32[],bytes)", Kind::PublicDecryption),
    (
        G7_USER,
        "UserDecryptionRequest(uint256,(bytes32,uint256,bytes32,address[])[],address,bytes)",
        Kind::UserDecryption,
    ),
    (
        G8_USER,
        "UserDecryptionRequest(uint256,(bytes32,uint256,bytes32,address[])[],address,bytes,bytes)",
        Kind::UserDecryption,
    ),
    (
        G14_USER,
        "UserDecryptionRequest(uint256,(bytes32,uint256,bytes32,address[])[],\
         (bytes32,address,address)[],(address,bytes,address[],(uint256,uint256),bytes,bytes))",
        Kind::UserDecryption,
    ),
    (
        HEAD_USER,
        "UserDecryptionRequest(uint256,bytes32[],address,bytes,bytes)",
        Kind::UserDecryption,
    ),
    (
        HEAD_UNIFIED,
        "UserDecryptionRequest(uint256,(bytes32,address,address)[],\
         (address,bytes,address[],(uint256,uint256),bytes,bytes))",
        Kind::UserDecryption,
    ),
];

/// Words written as hex, separated by white space; short ones are padded on the left.
fn words(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .inspect(|word| assert!(word.len() <= 64, "{word} is longer than a word"))
        .flat_map(|word| hex::decode(format!("{word:0>64}")).expect("a hex word"))
        .collect()
}

fn event(topics: &[B256], data: impl Into<Bytes>) -> Event {
    Event {
        block: BlockRef { number: 17, hash: B256::repeat_byte(0xb1) },
        transaction: B256::repeat_byte(0x7a),
        log_index: 5,
        topics: topics.to_vec(),
        data: data.into(),
    }
}

fn id(tag: u8, counter: u64) -> U256 {
    (U256::from(tag) << 248) | U256::from(counter)
}

fn topic(id: U256) -> B256 {
    B256::from(id)
}

fn answer() -> SignedResult {
    SignedResult {
        payload: bytes!("0102"),
        signature: Bytes::from(vec![0x5a; 65]),
        extra_data: bytes!("00"),
    }
}

#[test]
fn topics_are_those_of_the_table() {
    for (topic0, signature, kind) in TABLE {
        assert_eq!(keccak256(signature), topic0, "{signature}");
        assert_eq!(kind_of_topic(topic0), Some(kind), "{signature}");
        let shape = SHAPES.iter().find(|shape| shape.topic0 == topic0).expect("a shape");
        assert_eq!(shape.event, signature);
    }
    assert_eq!(UPGRADED_TOPIC, keccak256("Upgraded(address)"));
    assert_eq!(kind_of_topic(UPGRADED_TOPIC), None);
    assert_eq!(kind_of_topic(B256::ZERO), None);

    let mut asked = request_topics();
    let mut expected: Vec<_> = TABLE.iter().map(|row| row.0).chain([UPGRADED_TOPIC]).collect();
    asked.sort_unstable();
    expected.sort_unstable();
    assert_eq!(asked, expected);
}

#[test]
fn response_selectors_are_those_of_the_table() {
    assert_eq!(hex::encode(g7::publicDecryptionResponseCall::SELECTOR), "02fd1a64");
    assert_eq!(hex::encode(g7::userDecryptionResponseCall::SELECTOR), "b9bfe0a8");
    assert_eq!(hex::encode(g8::publicDecryptionResponseCall::SELECTOR), "6f8913bc");
    assert_eq!(hex::encode(g8::userDecryptionResponseCall::SELECTOR), "046f9eb3");
}

/// Two materials, of two and of one coprocessor.
const G7_PUBLIC_DATA: &str = "
    20
    2
    40 120
    a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a100000000000030290500
    0400000000000000000000000000000000000000000000000000000000000009
    d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1
    80
    2
    c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c001
    c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c002
    a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a200000000000030290100
    0400000000000000000000000000000000000000000000000000000000000009
    d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2d2
    80
    1
    c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c003";

#[test]
fn reads_a_g7_public_request_word_by_word() {
    let data = words(G7_PUBLIC_DATA);
    let event = event(&[G7_PUBLIC, topic(U256::from(7))], data.clone());
    let request = decode(SOURCE, &event).unwrap();

    assert_eq!((request.key.source, request.key.id), (SOURCE, U256::from(7)));
    let bytes = [G7_PUBLIC.as_slice(), topic(U256::from(7)).as_slice(), &data].concat();
    assert_eq!(early_content(&event), Some(keccak256(bytes)));
    assert_eq!(request.shape, EventShape::G7);
    assert_eq!((request.block, request.transaction), (event.block, event.transaction));
    let expected = PublicDecryption::of_materials(
        vec![
            Material {
                handle: b256!("a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a100000000000030290500"),
                key_id: id(4, 9),
                digest: B256::repeat_byte(0xd1),
                coprocessors: vec![
                    address!("c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c001"),
                    address!("c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c002"),
                ],
            },
            Material {
                handle: b256!("a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a200000000000030290100"),
                key_id: id(4, 9),
                digest: B256::repeat_byte(0xd2),
                coprocessors: vec![address!("c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c003")],
            },
        ],
        Bytes::new(),
    );
    assert_eq!(request.operation, Operation::PublicDecryption(expected));
}

/// One material without coprocessors, a three-byte key, extraData `00`.
const G8_USER_DATA: &str = "
    80
    0000000000000000000000000505050505050505050505050505050505050505
    160
    1a0
    1
    20
    a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a100000000000030290500
    1
    d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1
    80
    0
    3
    aabbcc0000000000000000000000000000000000000000000000000000000000
    1
    0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn reads_a_g8_user_request_word_by_word() {
    let request = decode(SOURCE, &event(&[G8_USER, topic(id(0, 8))], words(G8_USER_DATA))).unwrap();
    assert_eq!(request.shape, EventShape::G8);
    let expected = UserDecryption::of_materials(
        vec![Material {
            handle: b256!("a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a100000000000030290500"),
            key_id: U256::ONE,
            digest: B256::repeat_byte(0xd1),
            coprocessors: vec![],
        }],
        Address::repeat_byte(5),
        bytes!("aabbcc"),
        bytes!("00"),
    );
    assert_eq!(request.operation, Operation::UserDecryption(expected));
}

#[test]
fn the_top_byte_of_the_id_tells_g8_from_g9() {
    // Without materials: decoded here, refused by the walk. The data is (materials, extraData), both
    // empty.
    let public = words("40 60 0 0");
    let user = words(G8_USER_DATA);
    for (topic0, data, tag) in [(G8_PUBLIC, public, 1), (G8_USER, user, 2)] {
        let of = |id| decode(SOURCE, &event(&[topic0, topic(id)], data.clone())).unwrap().shape;
        assert_eq!(of(id(0, 1)), EventShape::G8);
        assert_eq!(of((U256::ONE << 248) - U256::ONE), EventShape::G8);
        assert_eq!(of(id(tag, 1)), EventShape::G9);
        assert_eq!(of(U256::MAX), EventShape::G9);
    }
}

/// Entries for two handles; user 05…, key aabbcc, two allowed contracts, 1,000 s from `0x6a00_0000` on,
/// extraData of version 1 and a two-byte signature.
const UNIFIED_TAIL: &str = "
    2
    a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a100000000000030290500
    e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1
    f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1
    a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a200000000000030290100
    e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2
    0505050505050505050505050505050505050505
    0505050505050505050505050505050505050505
    e0
    120
    6a000000
    3e8
    180
    1e0
    3
    aabbcc0000000000000000000000000000000000000000000000000000000000
    2
    e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1
    e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2
    21
    0107000000000000000000000000000000000000000000000000000000000000
    0900000000000000000000000000000000000000000000000000000000000000
    2
    5a5b000000000000000000000000000000000000000000000000000000000000";

#[test]
fn g14_reads_a_unified_request_word_by_word() {
    // One material only: the two lists are the contract's, and the walk compares them.
    let materials = "1 20
        a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a100000000000030290500
        1
        d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1
        80 0";
    let data = words(&format!("60 140 220 {materials} {UNIFIED_TAIL}"));
    let request = decode(SOURCE, &event(&[G14_USER, topic(id(2, 3))], data)).unwrap();
    assert_eq!((request.kind(), request.shape), (Kind::UserDecryption, EventShape::G14));
    let handles = [
        b256!("a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a100000000000030290500"),
        b256!("a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a200000000000030290100"),
    ];
    let (contracts, user) = ([0xe1, 0xe2].map(Address::repeat_byte), Address::repeat_byte(5));
    let entry =
        |at: usize, owner| HandleEntry { handle: handles[at], contract: contracts[at], owner };
    let material = Material {
        handle: handles[0],
        key_id: U256::ONE,
        digest: B256::repeat_byte(0xd1),
        coprocessors: vec![],
    };
    let extra_data = Bytes::from([&[1, 7][..], &[0; 30], &[9]].concat());
    let mut expected = UserDecryption {
        handles: handles.to_vec(),
        materials: Some(vec![material]),
        user,
        public_key: bytes!("aabbcc"),
        extra_data,
        terms: RequestTerms::Unified(UnifiedTerms {
            entries: vec![entry(0, Address::repeat_byte(0xf1)), entry(1, user)],
            allowed_contracts: contracts.to_vec(),
            start: U256::from(0x6a00_0000),
            duration_secs: U256::from(1000),
            signature: bytes!("5a5b"),
        }),
    };
    assert_eq!(request.operation, Operation::UserDecryption(expected.clone()));

    // HEAD says the same without materials.
    let data = words(&format!("40 120 {UNIFIED_TAIL}"));
    let request = decode(SOURCE, &event(&[HEAD_UNIFIED, topic(id(2, 3))], data)).unwrap();
    assert_eq!((request.kind(), request.shape), (Kind::UserDecryption, EventShape::Head));
    assert_eq!(request.materials(), None);
    expected.materials = None;
    assert_eq!(request.operation, Operation::UserDecryption(expected));
}

#[test]
fn g15_reads_handle_only_requests_word_by_word() {
    let handles = "2
        a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a100000000000030290500
        a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a200000000000030290100";
    let extra_data = "1 0000000000000000000000000000000000000000000000000000000000000000";
    let key = "3 aabbcc0000000000000000000000000000000000000000000000000000000000";
    let expected = vec![
        b256!("a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a100000000000030290500"),
        b256!("a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a200000000000030290100"),
    ];
    let read = |topic0, tag, data: &str| {
        decode(SOURCE, &event(&[topic0, topic(id(tag, 3))], words(data))).unwrap()
    };

    let public = read(HEAD_PUBLIC, 1, &format!("40 a0 {handles} {extra_data}"));
    let operation =
        PublicDecryption { handles: expected.clone(), materials: None, extra_data: bytes!("00") };
    assert_eq!((public.kind(), public.shape), (Kind::PublicDecryption, EventShape::Head));
    assert_eq!(public.operation, Operation::PublicDecryption(operation));

    let user = "0505050505050505050505050505050505050505";
    let user = read(HEAD_USER, 2, &format!("80 {user} e0 120 {handles} {key} {extra_data}"));
    let operation = UserDecryption {
        handles: expected,
        materials: None,
        user: Address::repeat_byte(5),
        public_key: bytes!("aabbcc"),
        extra_data: bytes!("00"),
        terms: RequestTerms::Legacy,
    };
    assert_eq!((user.kind(), user.shape), (Kind::UserDecryption, EventShape::Head));
    assert_eq!(user.operation, Operation::UserDecryption(operation));
}

#[test]
fn g7_the_key_is_what_is_asked_for_and_the_rest_is_compared_apart() {
    let read = |topics: &[B256], data: Vec<u8>| decode(SOURCE, &event(topics, data)).unwrap();
    let data = words(G7_PUBLIC_DATA);
    let known = read(&[G7_PUBLIC, topic(U256::ONE)], data.clone());
    let again = read(&[G7_PUBLIC, topic(U256::ONE)], data.clone());
    assert_eq!((again.key, materials_hash(&again)), (known.key, materials_hash(&known)));
    let next = read(&[G7_PUBLIC, topic(U256::from(2))], data.clone());
    assert_ne!(next.key.content, known.key.content);

    // Another digest, and another coprocessor.
    for word in [6, 9] {
        let mut other = data.clone();
        other[word * 32 + 31] ^= 1;
        let other = read(&[G7_PUBLIC, topic(U256::ONE)], other);
        assert_eq!(other.key, known.key);
        assert_ne!(materials_hash(&other), materials_hash(&known));
    }
    // Another handle.
    let mut other = data.clone();
    other[4 * 32] ^= 1;
    assert_ne!(read(&[G7_PUBLIC, topic(U256::ONE)], other).key, known.key);
    // Trailing bytes mean nothing.
    let longer = [data, vec![0]].concat();
    assert_eq!(read(&[G7_PUBLIC, topic(U256::ONE)], longer).key, known.key);
}

#[test]
fn an_unreadable_log_says_which_and_what() {
    let problem = |event: &Event| decode(SOURCE, event).unwrap_err().problem;
    let data = words(G7_PUBLIC_DATA);
    assert_eq!(
        problem(&event(&[UPGRADED_TOPIC, topic(U256::ONE)], data.clone())),
        DecodeProblem::NotARequest { topic0: UPGRADED_TOPIC }
    );
    for topics in [&[][..], &[B256::ZERO, topic(U256::ONE)]] {
        let unknown = decode(SOURCE, &event(topics, data.clone())).unwrap();
        assert_eq!(unknown.kind(), Kind::UnsupportedEvent);
    }
    for found in [1, 3, 4] {
        let mut topics = vec![G7_PUBLIC];
        topics.resize(found, topic(U256::ONE));
        assert_eq!(
            problem(&event(&topics, data.clone())),
            DecodeProblem::Topics { event: TABLE[0].1, expected: 2, found }
        );
    }
    // Cut anywhere, it does not decode.
    for length in 0..data.len() {
        let cut = event(&[G7_PUBLIC, topic(U256::ONE)], data[..length].to_vec());
        assert!(matches!(problem(&cut), DecodeProblem::Data { .. }), "{length} bytes");
    }
    // A thirteenth byte makes the address invalid.
    let mut dirty = data.clone();
    dirty[9 * 32 + 11] = 1;
    let error = decode(SOURCE, &event(&[G7_PUBLIC, topic(U256::ONE)], dirty)).unwrap_err();
    assert!(matches!(error.problem, DecodeProblem::Data { .. }));
    assert_eq!((error.block.number, error.log_index), (17, 5));
    assert_eq!(error.transaction, B256::repeat_byte(0x7a));

    // Data of another overload: it starts with an offset that is invalid here.
    let foreign = event(&[G8_PUBLIC, topic(U256::ONE)], data);
    assert!(matches!(problem(&foreign), DecodeProblem::Data { .. }));
}

#[test]
fn an_array_aliased_a_thousand_times_is_refused_before_it_fills_memory() {
    // 2,000 materials that alias one material of 2,000 coprocessors: 128 KiB of log data.
    let many = 2_000_usize;
    let mut data = words(&format!("20 {many:x}"));
    for _ in 0..many {
        data.extend(words(&format!("{:x}", many * 32)));
    }
    data.extend(words(&format!("0 0 0 80 {many:x}")));
    data.extend(vec![0; many * 32]);
    let problem = decode(SOURCE, &event(&[G7_PUBLIC, topic(U256::ONE)], data)).unwrap_err().problem;
    let DecodeProblem::Data { source, .. } = problem else { panic!("{problem}") };
    assert!(matches!(*source, sol_types::Error::MemoryLimitExceeded(_)), "{source}");
}

#[test]
fn responses_word_by_word() {
    let request =
        |topic0, id, data: Vec<u8>| decode(SOURCE, &event(&[topic0, topic(id)], data)).unwrap();
    let signature = "41
        5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
        5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
        5a00000000000000000000000000000000000000000000000000000000000000";
    let payload = "2 0102000000000000000000000000000000000000000000000000000000000000";
    let zero = "1 0";
    let call = |selector: &str, arguments: &str| {
        Bytes::from([hex::decode(selector).unwrap(), words(arguments)].concat())
    };

    let g7 = request(G7_PUBLIC, U256::from(7), words(G7_PUBLIC_DATA));
    assert_eq!(
        response_call(&g7, &Answer::new(g7.kind(), answer())),
        call("02fd1a64", &format!("7 60 a0 {payload} {signature}"))
    );
    let g8 = request(G8_USER, U256::from(8), words(G8_USER_DATA));
    assert_eq!(
        response_call(&g8, &Answer::new(g8.kind(), answer())),
        call("046f9eb3", &format!("8 80 c0 140 {payload} {signature} {zero}"))
    );
    let g9 = request(G8_PUBLIC, id(1, 9), words("40 60 0 0"));
    let tagged = "0100000000000000000000000000000000000000000000000000000000000009";
    assert_eq!(
        response_call(&g9, &Answer::new(g9.kind(), answer())),
        call("6f8913bc", &format!("{tagged} 80 c0 140 {payload} {signature} {zero}"))
    );
}

fn some_bytes(most: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn some_word() -> impl Strategy<Value = B256> {
    any::<[u8; 32]>().prop_map(B256::from)
}

fn some_materials() -> impl Strategy<Value = Vec<RawMaterial>> {
    let coprocessors = prop::collection::vec(any::<[u8; 20]>().prop_map(Address::from), 0..5);
    let material = (some_word(), some_word(), some_word(), coprocessors)
        .prop_map(|(handle, key, digest, senders)| (handle, key.into(), digest, senders));
    prop::collection::vec(material, 0..6)
}

fn some_address() -> impl Strategy<Value = Address> {
    any::<[u8; 20]>().prop_map(Address::from)
}

fn some_terms() -> impl Strategy<Value = UnifiedTerms> {
    let entry = (some_word(), some_address(), some_address())
        .prop_map(|(handle, contract, owner)| HandleEntry { handle, contract, owner });
    let parts = (
        prop::collection::vec(entry, 0..6),
        prop::collection::vec(some_address(), 0..4),
        (some_word(), some_word()),
        some_bytes(90),
    );
    parts.prop_map(|(entries, allowed_contracts, (start, duration), signature)| UnifiedTerms {
        entries,
        allowed_contracts,
        start: start.into(),
        duration_secs: duration.into(),
        signature,
    })
}

/// A log of any shape, and what it must decode to.
fn some_request() -> impl Strategy<Value = (Event, EventShape, Operation)> {
    let parts = (
        0..TABLE.len(),
        (any::<u8>(), any::<u64>()),
        some_materials(),
        (some_address(), some_terms()),
        some_bytes(900),
        some_bytes(70),
    );
    parts.prop_map(|(which, (tag, counter), raw, (user, terms), public_key, extra_data)| {
        let later = if tag == 0 { EventShape::G8 } else { EventShape::G9 };
        let (topic0, kind) = (TABLE[which].0, TABLE[which].2);
        let unified = matches!(topic0, G14_USER | HEAD_UNIFIED);
        let extra_data =
            if matches!(topic0, G7_PUBLIC | G7_USER) { Bytes::new() } else { extra_data };
        let handles: Vec<_> = if unified {
            terms.entries.iter().map(|entry| entry.handle).collect()
        } else {
            raw.iter().map(|material| material.0).collect()
        };
        let entries: Vec<_> =
            terms.entries.iter().map(|one| (one.handle, one.contract, one.owner)).collect();
        let payload = (
            user,
            public_key.clone(),
            terms.allowed_contracts.clone(),
            (terms.start, terms.duration_secs),
            extra_data.clone(),
            terms.signature.clone(),
        );
        let (key, extra) = (public_key.clone(), extra_data.clone());
        let (shape, data) = match topic0 {
            G7_PUBLIC => (EventShape::G7, (raw.clone(),).abi_encode_params()),
            G7_USER => (EventShape::G7, (raw.clone(), user, key).abi_encode_params()),
            G8_PUBLIC => (later, (raw.clone(), extra).abi_encode_params()),
            G8_USER => (later, (raw.clone(), user, key, extra).abi_encode_params()),
            G14_USER => (EventShape::G14, (raw.clone(), entries, payload).abi_encode_params()),
            HEAD_PUBLIC => (EventShape::Head, (handles.clone(), extra).abi_encode_params()),
            HEAD_USER => {
                (EventShape::Head, (handles.clone(), user, key, extra).abi_encode_params())
            }
            _ => (EventShape::Head, (entries, payload).abi_encode_params()),
        };
        let materials = (shape != EventShape::Head).then(|| materials(raw));
        let operation = match kind.group() {
            KindGroup::PublicDecryption => {
                Operation::PublicDecryption(PublicDecryption { handles, materials, extra_data })
            }
            KindGroup::UserDecryption => Operation::UserDecryption(UserDecryption {
                handles,
                materials,
                user,
                public_key,
                extra_data,
                terms: if unified { RequestTerms::Unified(terms) } else { RequestTerms::Legacy },
            }),
            KindGroup::KeyOperation => {
                panic!("not in the table")
            }
        };
        (event(&[topic0, topic(id(tag, counter))], data), shape, operation)
    })
}

proptest! {
    #[test]
    fn what_alloy_encodes_is_read_back(
        (event, shape, operation) in some_request(),
        trailing in some_bytes(70),
    ) {
        let mut longer = event.clone();
        longer.data = [&event.data[..], &trailing[..]].concat().into();
        for event in [event, longer] {
            let request = decode(SOURCE, &event).unwrap();
            prop_assert_eq!(&request.operation, &operation);
            prop_assert_eq!(request.shape, shape);
            prop_assert_eq!(B256::from(request.key.id), event.topics[1]);
            prop_assert_eq!(Some(request.kind()), kind_of_topic(event.topics[0]));
        }
    }

    #[test]
    fn a_response_carries_id_and_answer(
        (event, shape, _) in some_request(),
        payload in some_bytes(900),
        signature in some_bytes(70),
        extra_data in some_bytes(70),
    ) {
        let request = decode(SOURCE, &event).unwrap();
        let answer = SignedResult { payload, signature, extra_data };
        let call = response_call(&request, &Answer::new(request.kind(), answer.clone()));
        let (selector, arguments) = call.split_at(4);
        let public = request.kind() == Kind::PublicDecryption;
        if shape == EventShape::G7 {
            prop_assert_eq!(selector, if public { hex!("02fd1a64") } else { hex!("b9bfe0a8") });
            let read = <(U256, Bytes, Bytes)>::abi_decode_params(arguments).unwrap();
            prop_assert_eq!(read, (request.key.id, answer.payload, answer.signature));
        } else {
            prop_assert_eq!(selector, if public { hex!("6f8913bc") } else { hex!("046f9eb3") });
            let read = <(U256, Bytes, Bytes, Bytes)>::abi_decode_params(arguments).unwrap();
            prop_assert_eq!(
                read,
                (request.key.id, answer.payload, answer.signature, answer.extra_data)
            );
        }
    }

    /// Random data under a known topic: a request or an error, and the same one twice.
    #[test]
    fn noise_never_panics(
        shape in 0..TABLE.len() + 1,
        other in some_word(),
        rest in prop::collection::vec(some_word(), 0..4),
        data in some_bytes(1_500),
    ) {
        let topic0 = TABLE.get(shape).map_or(other, |row| row.0);
        let topics: Vec<_> = [topic0].into_iter().chain(rest).collect();
        let event = event(&topics, data);
        prop_assert_eq!(decode(SOURCE, &event), decode(SOURCE, &event));
    }

    /// Valid data with a few changed bytes, as a faulty node might send it.
    #[test]
    fn damage_never_panics(
        (mut event, _, _) in some_request(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut data = event.data.to_vec();
        for (at, value) in hits {
            let at = at.index(data.len());
            data[at] = value;
        }
        event.data = data.into();
        if let Ok(request) = decode(SOURCE, &event) {
            prop_assert_eq!(Some(request.kind()), kind_of_topic(event.topics[0]));
        }
    }

    /// T15: valid data of every shape, cut, lengthened, damaged, under another shape's topic or with
    /// topics missing: a request of the topic's kind or an error that names the problem, and the same
    /// every time.
    #[test]
    fn a_log_of_any_damage_is_a_request_or_says_what_is_wrong(
        (mut event, _, _) in some_request(),
        shape in prop::option::of(0..TABLE.len()),
        topics in 0..4_usize,
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in prop::option::of(any::<prop::sample::Index>()),
        more in some_bytes(70),
    ) {
        if let Some(shape) = shape {
            event.topics[0] = TABLE[shape].0;
        }
        match topics {
            0 => event.topics.truncate(1),
            1 => event.topics.push(B256::repeat_byte(9)),
            _ => {}
        }
        let mut data = event.data.to_vec();
        for (at, value) in hits {
            let at = at.index(data.len().max(1));
            if let Some(byte) = data.get_mut(at) {
                *byte = value;
            }
        }
        if let Some(end) = end {
            data.truncate(end.index(data.len() + 1));
        }
        data.extend_from_slice(&more);
        event.data = data.into();
        match decode(SOURCE, &event) {
            Ok(request) => {
                prop_assert_eq!(Some(request.kind()), kind_of_topic(event.topics[0]));
                prop_assert_eq!(B256::from(request.key.id), event.topics[1]);
                // Every handle needs bytes in the data.
                prop_assert!(request.handles().len() * 32 <= event.data.len());
                let materials = request.materials().unwrap_or_default();
                prop_assert!(materials.len() * 32 <= event.data.len());
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        prop_assert_eq!(decode(SOURCE, &event), decode(SOURCE, &event));
    }
}

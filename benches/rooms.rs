//! What one request costs inside the rooms, piece by piece: a log decoded, a ciphertext's digest, the
//! Core's message, a commit of the journal, the books of the lane, a signature.
//!
//! Real code on made-up requests, one piece at a time and nothing beside it. Read the figures as
//! ratios: of one piece to the others, and of today's to those of another version on this machine.

use std::{
    collections::VecDeque,
    hint::black_box,
    time::{Duration, Instant},
};

use alloy::{primitives::keccak256, sol_types::SolEvent};
use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt as _;
use kms_connector::{
    chain::{
        lane::{
            ChainKind, HIGHEST_FEE, LaneOptions, Payload, Recovered, SignedTransaction,
            state::{Effect, LaneState},
            unsigned::UnsignedTransaction,
        },
        reader::{Head, NodeId, Receipt},
        sender::Acceptance,
        wallet::Wallet,
    },
    contracts::abi,
    domain::{
        Address, Answer, B256, BlockRef, Bytes, Ciphertext, CiphertextFormat, Event, Kind,
        KindGroup, Operation, Request, RequestSource, SignedResult, SigningDomain, U256,
    },
    flow::{
        Arrival, Batch, RequestLedger as _, Sighting,
        kms_core::wire::{self, ExtraDataMeaning},
    },
    journal::{Identity, Journal},
    telemetry::{heartbeat::Heartbeat, metrics::Metrics},
};
use prost::Message as _;
use tokio::{runtime::Runtime, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// The connector's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const CHAIN_ID: u64 = 54_321;
const SOURCE: RequestSource =
    RequestSource { chain_id: CHAIN_ID, contract: Address::repeat_byte(9) };
/// A user's public encryption key has about this size.
const PUBLIC_KEY: usize = 800;
const UINT64: u8 = 5;

alloy::sol! {
    struct Ct { bytes32 handle; uint256 keyId; bytes32 digest; address[] coprocessors; }

    event PublicDecryptionRequest(uint256 indexed id, Ct[] materials, bytes extraData);
    event UserDecryptionRequest(
        uint256 indexed id, Ct[] materials, address user, bytes publicKey, bytes extraData
    );
}

fn block() -> BlockRef {
    BlockRef { number: 1_000_000, hash: B256::repeat_byte(0xb1) }
}

/// The `count`th request of its kind, as a contract of G10 emits it.
fn event(kind: Kind, materials: usize, count: u64) -> Event {
    let material = |index: usize| {
        let mut handle = keccak256(format!("{count} {index}"));
        handle[30] = UINT64;
        Ct {
            handle,
            keyId: (U256::from(4) << 248) | U256::from(1),
            digest: keccak256(handle),
            coprocessors: vec![Address::repeat_byte(1), Address::repeat_byte(2)],
        }
    };
    let materials: Vec<Ct> = (0..materials).map(material).collect();
    let id = |tag: u64| (U256::from(tag) << 248) | U256::from(count);
    let log = match kind.group() {
        KindGroup::PublicDecryption => {
            PublicDecryptionRequest { id: id(1), materials, extraData: Bytes::new() }
                .encode_log_data()
        }
        KindGroup::UserDecryption => UserDecryptionRequest {
            id: id(2),
            materials,
            user: Address::repeat_byte(3),
            publicKey: vec![7; PUBLIC_KEY].into(),
            extraData: Bytes::new(),
        }
        .encode_log_data(),
        KindGroup::KeyOperation => {
            panic!("no decryption")
        }
    };
    Event {
        block: block(),
        transaction: keccak256(count.to_be_bytes()),
        log_index: count,
        topics: log.topics().to_vec(),
        data: log.data,
    }
}

fn request(kind: Kind, count: u64) -> Request {
    abi::decode(SOURCE, &event(kind, 1, count)).expect("an event of a shape that is served")
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for kind in [Kind::PublicDecryption, Kind::UserDecryption] {
        for materials in [1, 4] {
            let event = event(kind, materials, 1);
            let decoded = abi::decode(SOURCE, &event).expect("an event of a shape that is served");
            assert_eq!(decoded.handles().len(), materials);
            group.bench_function(BenchmarkId::new(kind.as_str(), materials), |bencher| {
                bencher.iter(|| abi::decode(SOURCE, black_box(&event)));
            });
        }
    }
    group.finish();
}

fn digest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("digest");
    for size in [64 * KIB, 4 * MIB] {
        let body = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(kib(size)), |bencher| {
            bencher.iter(|| keccak256(black_box(&body)));
        });
    }
    group.finish();
}

fn kib(size: usize) -> String {
    format!("{} KiB", size / KIB)
}

/// From a request and its ciphertext to the bytes on the wire, as the room's codec makes them.
fn core_request(criterion: &mut Criterion) {
    let request = request(Kind::PublicDecryption, 1);
    let Operation::PublicDecryption(public) = &request.operation else {
        unreachable!("it was made a public decryption");
    };
    let domain = SigningDomain {
        name: "Decryption".to_owned(),
        version: "1".to_owned(),
        chain_id: CHAIN_ID,
        verifying_contract: Address::repeat_byte(9),
    };
    let key_id = request.materials().expect("it was made with them")[0].key_id;
    let mut group = criterion.benchmark_group("core_request");
    for size in [64 * KIB, 4 * MIB] {
        let ciphertexts = vec![Ciphertext {
            handle: public.handles[0],
            format: CiphertextFormat::BigExpanded,
            body: vec![7; size].into(),
        }];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(kib(size)), |bencher| {
            bencher.iter(|| {
                let typed = wire::typed_ciphertexts(&public.handles, ciphertexts.clone());
                let typed = typed.expect("the ciphertexts of the request");
                let (id, meaning) = (request.key.id, ExtraDataMeaning::Opaque);
                let message = wire::public_request(id, key_id, public, typed, &domain, meaning);
                let mut buffer = BytesMut::with_capacity(message.encoded_len());
                message.encode(&mut buffer).expect("the buffer grows");
                buffer
            });
        });
    }
    group.finish();
}

/// Requests and their cursor to the disk, fsync included: door (a).
fn journal_batch(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads");
    let mut group = criterion.benchmark_group("journal_batch");
    for size in [1_u64, 16, 256] {
        // Beside the build: the folder for temporary files may be in memory.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let identity =
            Identity { chain_id: CHAIN_ID, genesis: B256::ZERO, wallet: Address::repeat_byte(5) };
        let (journal, writer) = Journal::open(dir.path(), identity, Address::repeat_byte(9))
            .expect("a journal in a new folder");
        let stop = CancellationToken::new();
        let mut writing = JoinSet::new();
        writing.spawn_on(
            writer.run(Heartbeat::default(), Metrics::default(), stop.clone()),
            runtime.handle(),
        );
        let mut count = 0;
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|commits| {
                runtime.block_on(async {
                    let mut spent = Duration::ZERO;
                    for _ in 0..commits {
                        let batch = batch(count, size);
                        count += size;
                        let begun = Instant::now();
                        let taken = journal.store_batch(batch).await.expect("a disk with room");
                        spent += begun.elapsed();
                        assert_eq!(taken.new.len() as u64, size);
                    }
                    spent
                })
            });
        });
        stop.cancel();
        drop(runtime.block_on(writing.join_all()));
    }
    group.finish();
}

/// So many new requests.
fn batch(count: u64, size: u64) -> Batch {
    let arrival = |count| {
        let event = event(Kind::PublicDecryption, 1, count);
        let request = abi::decode(SOURCE, &event).expect("an event of a shape that is served");
        Arrival { key: request.key, kind: request.kind(), event, seen: Sighting::Joined }
    };
    Batch {
        arrivals: (count..count + size).map(arrival).collect(),
        cursor: Some(block()),
        ..Batch::default()
    }
}

/// A public answer as it goes to the contract.
fn payload(count: u64) -> Payload {
    let request = request(Kind::PublicDecryption, count);
    let answer = Answer::PublicDecryption(SignedResult {
        payload: vec![1; 32].into(),
        signature: vec![2; 65].into(),
        extra_data: Bytes::new(),
    });
    let data = abi::response_call(&request, &answer);
    Payload { request: request.key, to: Address::repeat_byte(9), data, gas_limit: 500_000 }
}

fn empty_book(wallet: &Wallet, max_in_flight: usize) -> LaneState {
    let options = LaneOptions {
        chain_id: CHAIN_ID,
        max_in_flight,
        max_fee_per_gas: HIGHEST_FEE,
        kind: ChainKind::Sequencer,
    };
    let now = tokio::time::Instant::now();
    let mut book = LaneState::new(options, wallet.address(), 0, Recovered::default(), now);
    book.apply_head(
        &Head {
            block: block(),
            parent: B256::ZERO,
            bloom: None,
            node: NodeId(0),
            base_fee: Some(1_000_000_000),
            gas_limit: None,
            connection: 1,
            timestamp: None,
        },
        now,
    );
    book.set_tip(Some(0));
    book
}

/// What comes back to the book, one at a time, as its owner brings it.
enum Done {
    Signed(Vec<SignedTransaction>),
    Recorded(Vec<SignedTransaction>),
    Mined { nonce: u64, hash: B256 },
}

/// The whole life of so many payloads that come at once: nonce, signed, sent, mined. Nothing is
/// signed: `raw` stands for the bytes of all of them.
fn live(book: &mut LaneState, payloads: Vec<Payload>, raw: &Bytes) -> usize {
    let now = tokio::time::Instant::now();
    for payload in payloads {
        book.submit(payload);
    }
    let (mut done, mut landed) = (VecDeque::new(), 0);
    loop {
        book.plan_work(|_| true, now);
        for effect in book.take_effects() {
            match effect {
                Effect::Sign(drafts) => {
                    let signed = drafts.iter().map(|draft| SignedTransaction {
                        nonce: draft.nonce(),
                        hash: U256::from(draft.nonce()).into(),
                        raw: raw.clone(),
                        request: draft.request,
                    });
                    done.push_back(Done::Signed(signed.collect()));
                }
                Effect::Record(signed) => done.push_back(Done::Recorded(signed)),
                Effect::Broadcast { transaction, .. } => {
                    let SignedTransaction { nonce, hash, .. } = transaction;
                    done.push_back(Done::Mined { nonce, hash });
                }
                Effect::NotifyIncluded(..) => landed += 1,
                Effect::Mined(..)
                | Effect::GiveUp(..)
                | Effect::Reopen(_)
                | Effect::NotifyFailed(..)
                | Effect::Notify(..)
                | Effect::Log(_) => {}
            }
        }
        match done.pop_front() {
            Some(Done::Signed(signed)) => book.apply_signed(signed, Vec::new(), now, 0.5),
            Some(Done::Recorded(signed)) => book.apply_recorded(signed, now),
            Some(Done::Mined { nonce, hash }) => {
                let receipt = Receipt {
                    hash,
                    block: block(),
                    success: true,
                    gas_used: 200_000,
                    gas_price: 1_000_000_000,
                };
                book.apply_broadcast(nonce, hash, Ok(Acceptance::Mined(receipt)), now, 0.5);
            }
            None => return landed,
        }
    }
}

fn wallet() -> Wallet {
    Wallet::from_private_key(&[7; 32]).expect("a valid key")
}

/// A transaction with a nonce, as the book makes it.
fn draft(wallet: &Wallet) -> UnsignedTransaction {
    let mut book = empty_book(wallet, 1);
    book.submit(payload(1));
    book.plan_work(|_| true, tokio::time::Instant::now());
    let drafts = book.take_effects().into_iter().find_map(|effect| match effect {
        Effect::Sign(drafts) => Some(drafts),
        Effect::Record(_)
        | Effect::Broadcast { .. }
        | Effect::Mined(..)
        | Effect::GiveUp(..)
        | Effect::Reopen(_)
        | Effect::NotifyIncluded(..)
        | Effect::NotifyFailed(..)
        | Effect::Notify(..)
        | Effect::Log(_) => None,
    });
    drafts.and_then(|drafts| drafts.into_iter().next()).expect("a payload is signed at once")
}

fn sign(draft: &UnsignedTransaction, wallet: &Wallet) -> SignedTransaction {
    let signed = draft.sign(wallet).now_or_never().expect("a key in memory waits for nothing");
    signed.expect("a valid key")
}

fn nonces(criterion: &mut Criterion) {
    let wallet = wallet();
    let raw = sign(&draft(&wallet), &wallet).raw;
    let mut group = criterion.benchmark_group("nonces");
    for in_flight in [1_u64, 64, 512] {
        let payloads: Vec<Payload> = (0..in_flight).map(payload).collect();
        group.throughput(Throughput::Elements(in_flight));
        group.bench_function(BenchmarkId::from_parameter(in_flight), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let (mut book, payloads) =
                        (empty_book(&wallet, payloads.len()), payloads.clone());
                    let begun = Instant::now();
                    let landed = live(&mut book, payloads, &raw);
                    spent += begun.elapsed();
                    assert_eq!(landed as u64, in_flight);
                }
                spent
            });
        });
    }
    group.finish();
}

fn signing(criterion: &mut Criterion) {
    let wallet = wallet();
    let draft = draft(&wallet);
    criterion.bench_function("sign", |bencher| bencher.iter(|| sign(black_box(&draft), &wallet)));
}

criterion_group!(rooms, decoding, digest, core_request, journal_batch, nonces, signing);
criterion_main!(rooms);

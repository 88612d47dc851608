//! What the client remembers of a Core that did not answer. The calls themselves are tested by the black-box
//! tests, with a Core of every version.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy::primitives::U256;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use proptest::prelude::*;
use tokio::task::JoinSet;
use tonic::{Code, Status, body::Body, codegen::http};

use super::{
    CoreError, Expected, ExtraDataMeaning, GrpcService, KmsCore, NamedContext, Options, SendBefore,
    Transport, fake_core::FakeCore, unreachable_error,
};
use crate::{
    chain::fake_chain::SOURCE,
    domain::{
        self, Address, B256, BlockRef, Bytes, Ciphertext, CiphertextFormat, DisplayId, EventShape,
        HoldReason, Material, Operation, PublicDecryption, RequestKey, SigningDomain, is_printable,
    },
    telemetry::metrics::Metrics,
    time::clock::Clock,
};

fn core(fake: &FakeCore) -> KmsCore {
    core_over(fake.service())
}

fn core_over(call: GrpcService) -> KmsCore {
    let transport = Transport::over("core", call);
    KmsCore::new(transport, domain(), Options::default(), Metrics::default())
}

fn domain() -> SigningDomain {
    SigningDomain {
        name: "Decryption".into(),
        version: "1".into(),
        chain_id: 1,
        verifying_contract: Address::ZERO,
    }
}

/// A server without TLS at an endpoint with https.
#[tokio::test]
async fn c4_a_core_that_speaks_no_tls_is_told_so() {
    use tokio::io::AsyncWriteExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let roots = crate::net::tls::TlsRoots::load(None).unwrap();
    let transport = Transport::to(&endpoint.parse().unwrap(), &roots).unwrap();
    let core = KmsCore::new(transport, domain(), Options::default(), Metrics::default());
    let said = core.health().await.unwrap_err().to_string();
    assert!(said.contains("does not speak TLS"), "{said}");
}

#[tokio::test]
async fn what_answers_and_has_no_calls_of_a_core_is_none() {
    let with = |code: Code| {
        let call: GrpcService = Arc::new(move |_| {
            let answer = Status::new(code, "said").into_http::<Body>();
            Box::pin(async move { Ok(answer) })
        });
        core_over(call)
    };
    assert!(!with(Code::Unimplemented).knows_decryptions().await.unwrap());
    for code in [Code::NotFound, Code::InvalidArgument, Code::Unavailable, Code::Internal] {
        assert!(with(code).knows_decryptions().await.unwrap(), "{code:?}");
    }
    assert!(core(&FakeCore::pending()).knows_decryptions().await.unwrap());
}

/// A Core that answers a poll with the beginning of a gigabyte.
#[tokio::test(start_paused = true)]
async fn b4_a_core_that_sends_too_much_is_not_listened_to() {
    let call: GrpcService = Arc::new(|_| {
        let begins = [&[0][..], &(1_u32 << 30).to_be_bytes(), b"begins"].concat();
        let piece = Ok::<_, Status>(Frame::data(bytes::Bytes::from(begins)));
        let body = StreamBody::new(stream::iter([piece]).chain(stream::pending()));
        let answer = http::Response::builder().header("content-type", "application/grpc");
        Box::pin(async move { Ok(answer.body(Body::new(body))?) })
    });
    let begun = tokio::time::Instant::now();
    let error = core_over(call).poll(&request(), ANYBODY).await.unwrap_err();
    let CoreError::Held(hold) = error else { panic!("{error}") };
    assert_eq!(hold.reason, HoldReason::InvalidAnswer);
    assert!(hold.detail.contains("1073741824"), "{hold}");
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

const OPAQUE: ExtraDataMeaning = ExtraDataMeaning::Opaque;
const ANYBODY: Expected<'_> = Expected { extra_data: OPAQUE, signers: &[], is_checked: true };
const HANDLE: B256 = B256::with_last_byte(1);

fn request() -> domain::Request {
    let material =
        Material { handle: HANDLE, key_id: U256::ONE, digest: B256::ZERO, coprocessors: vec![] };
    domain::Request {
        key: RequestKey { source: SOURCE, id: U256::ONE, content: B256::ZERO },
        shape: EventShape::G9,
        block: BlockRef { number: 1, hash: B256::ZERO },
        transaction: B256::ZERO,
        operation: Operation::PublicDecryption(PublicDecryption::of_materials(
            vec![material],
            Bytes::new(),
        )),
    }
}

#[test]
fn c10_a_refusal_that_quotes_an_id_shows_ours_beside_it() {
    let detail = |message: &str| {
        let status = tonic::Status::invalid_argument(message);
        super::hold(
            HoldReason::CoreRefused,
            "the KMS Core refuses the request",
            &status,
            &request(),
        )
        .detail
    };
    let (zeros, ours) = ("0".repeat(61), DisplayId(U256::ONE).to_string());
    for quoted in [format!("01{zeros}7"), format!("0x01{zeros}7")] {
        let said = detail(&format!("no request with ID {quoted}, sorry"));
        assert!(said.contains(&quoted) && said.ends_with(&ours), "{said}");
    }
    let said = detail("bad ciphertext");
    assert!(!said.contains(&ours), "{said}");
}

fn in_time() -> SendBefore {
    SendBefore::new(Clock::Wall, Duration::MAX)
}

/// Its connection stands only after what permits the ask is too old: not a byte of the message is sent.
#[tokio::test(start_paused = true)]
async fn an_ask_that_is_connected_too_late_sends_nothing() {
    let at = tokio::time::Instant::now();
    let clock = Clock::Runtime { at, unix_ms: 0 };
    for (connects_after, is_sent) in [(10, true), (11, false)] {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let call: GrpcService = Arc::new(move |request| {
            let count = count.clone();
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(connects_after)).await;
                let body = request.into_body().collect().await?.to_bytes();
                count.fetch_add(body.len(), Ordering::Relaxed);
                Err("connection reset".into())
            })
        });
        let core = core_over(call);
        let until = clock.since_boot() + Duration::from_secs(10);
        let before = SendBefore::new(clock, until);
        let body = Bytes::from_static(&[1; 1_000]);
        let ciphertext = Ciphertext { handle: HANDLE, format: CiphertextFormat::BigExpanded, body };
        let turn = core.acquire_ask_permit().await.unwrap();
        let ciphertexts = (U256::ONE, vec![ciphertext]);
        core.ask(turn, &request(), OPAQUE, ciphertexts, &before).await.unwrap_err();
        assert_eq!(before.was_late(), !is_sent, "{connects_after}");
        assert_eq!(sent.load(Ordering::Relaxed) > 1_000, is_sent, "{connects_after}");
    }
}

/// Asks without success, so that the Core counts as lost.
async fn lose(core: &KmsCore) {
    let body = Bytes::from_static(&[1]);
    let ciphertext = Ciphertext { handle: HANDLE, format: CiphertextFormat::BigExpanded, body };
    let turn = core.acquire_ask_permit().await.unwrap();
    let ciphertexts = (U256::ONE, vec![ciphertext]);
    let lost = core.ask(turn, &request(), OPAQUE, ciphertexts, &in_time()).await.unwrap_err();
    assert!(matches!(lost, CoreError::Unreachable { .. }), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_core_is_asked_how_it_is_until_it_is_back() {
    let fake = FakeCore::pending();
    let core = core(&fake);
    core.acquire_ask_permit().await.unwrap();
    assert_eq!(fake.counts().questions, 0, "nobody asks a Core that answers");
    fake.cut(true);
    lose(&core).await;
    for _ in 0..10 {
        core.acquire_ask_permit().await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    fake.cut(false);
    core.acquire_ask_permit().await.unwrap();
    let asked = fake.counts().questions;
    core.acquire_ask_permit().await.unwrap();
    assert_eq!(fake.counts().questions, asked, "it is back");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_who_lost_the_core_ask_it_once_in_a_second() {
    let fake = FakeCore::pending();
    let core = core(&fake);
    fake.cut(true);
    lose(&core).await;
    let mut waiting = JoinSet::new();
    for _ in 0..1000 {
        let core = core.clone();
        waiting.spawn(async move { core.acquire_ask_permit().await.is_err() });
    }
    assert!(waiting.join_all().await.into_iter().all(|lost| lost));
    assert!(!core.is_answering().await);
    assert_eq!(fake.counts().questions, 1);
}

/// A call failed while the Core answers others: an answer from before the failure does not count.
#[tokio::test(start_paused = true)]
async fn whether_it_answers_is_asked_anew() {
    let fake = FakeCore::pending();
    let core = core(&fake);
    assert!(core.is_answering().await);
    tokio::time::sleep(Duration::from_millis(1)).await;
    fake.cut(true);
    assert!(!core.is_answering().await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    fake.cut(false);
    assert!(core.is_answering().await);
}

proptest! {
    /// A message of a Core or a proxy becomes one line of a log, and is cut if it is long.
    #[test]
    fn a_foreign_text_fits_a_line(text in proptest::collection::vec(any::<char>(), 0..400)) {
        let text: String = text.into_iter().collect();
        let error = unreachable_error(&Status::unknown(text)).to_string();
        prop_assert!(error.chars().all(is_printable));
        prop_assert!(error.chars().count() <= 400);
    }
}

/// What the Core lacks is told by what it was asked with: its own words do not say it.
#[test]
fn g1_a_core_that_lacks_a_context_is_not_called_one_without_a_key() {
    let named = |context, epoch| NamedContext { context, epoch };
    let context = ExtraDataMeaning::Context { drops_zero: true };
    let (key, seven, eight) = (U256::from(5), U256::from(7), U256::from(8));
    let said = |of, meaning| super::lacking(key, of, meaning);
    let (reason, what) = said(named(Some(seven), None), context);
    assert_eq!(reason, HoldReason::CoreLacksContext);
    assert!(
        what.contains(&format!("KMS context {seven:#066x}")) && !what.contains("epoch"),
        "{what}"
    );
    let (reason, what) = said(named(Some(seven), Some(eight)), context);
    assert_eq!(reason, HoldReason::CoreLacksContext);
    assert!(what.contains(&format!("its epoch {eight:#066x}")), "{what}");
    for meaning in [context, OPAQUE] {
        let (reason, what) = said(NamedContext::default(), meaning);
        assert_eq!(reason, HoldReason::UnknownKey);
        assert!(what.contains(&format!("key {key:#066x}")), "{what}");
        assert_eq!(what.contains("context"), meaning == context, "{what}");
    }
}

//! Fetching from servers that misbehave in every known way.

mod attested;
mod memory;
mod named;

use std::{collections::HashMap, sync::Mutex, time::Duration};

use alloy::primitives::{U256, keccak256};
use tokio::time::{sleep, timeout};

use super::format::tests::object;
use super::s3_error::{S3ErrorKind, tests::body as xml};
use super::scripted::{AfterBody, Server, ServerAction};
use super::*;
use crate::{
    chain::fake_chain::SOURCE,
    domain::{
        BlockRef, Bytes, CiphertextFormat, EventShape, HoldReason, Material, Operation,
        PublicDecryption, Remedy, RequestKey,
    },
};

const MIB: u64 = 1024 * 1024;

/// A table in place of the contract `GatewayConfig`.
#[derive(Default)]
struct Registry {
    urls: HashMap<Address, Result<Option<String>, BucketLookupError>>,
    unregistered: Vec<Address>,
    coprocessors: Coprocessors,
    asked: Mutex<Vec<Address>>,
}

impl BucketRegistry for Registry {
    async fn bucket_url_of(
        &self,
        coprocessor: Address,
    ) -> Result<Option<String>, BucketLookupError> {
        self.asked.lock().unwrap().push(coprocessor);
        self.urls.get(&coprocessor).cloned().unwrap_or(Ok(None))
    }

    async fn is_known_coprocessor(&self, coprocessor: Address) -> Result<bool, BucketLookupError> {
        Ok(!self.unregistered.contains(&coprocessor))
    }

    async fn coprocessors(&self) -> Result<Arc<Coprocessors>, BucketLookupError> {
        Ok(Arc::new(self.coprocessors.clone()))
    }
}

impl Ciphertexts<Registry> {
    /// Fetches the ciphertexts of a request with these materials, by their digests.
    async fn fetch_of(&self, materials: &[Material]) -> Result<Fetched, FetchError> {
        self.fetch(&request(materials), CiphertextSource::Digest).await
    }
}

/// A request with these materials.
fn request(materials: &[Material]) -> Request {
    let block = BlockRef { number: 1, hash: B256::ZERO };
    let public = PublicDecryption::of_materials(materials.to_vec(), Bytes::new());
    Request {
        key: RequestKey { source: SOURCE, id: U256::ONE, content: B256::ZERO },
        shape: EventShape::G9,
        block,
        transaction: B256::ZERO,
        operation: Operation::PublicDecryption(public),
    }
}

fn coprocessor(index: usize) -> Address {
    Address::with_last_byte(u8::try_from(index).unwrap() + 1)
}

fn registry(urls: &[String]) -> Registry {
    let urls = urls
        .iter()
        .enumerate()
        .map(|(index, url)| (coprocessor(index), Ok(Some(url.clone()))))
        .collect();
    Registry { urls, ..Registry::default() }
}

/// Plain HTTP only: no root certificates.
pub(super) fn plain_http() -> BucketClient {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    BucketClient::new(tls, &crate::net::proxy::Proxies::default()).unwrap()
}

/// Shorter than the real deadlines, and long enough for a busy machine.
fn short() -> DownloadTimeouts {
    DownloadTimeouts {
        headers: Duration::from_secs(3),
        stall: Duration::from_secs(2),
        body: Duration::from_secs(3),
        longest_body: Duration::from_secs(30),
        hedge: Duration::from_millis(50),
    }
}

fn room_with(registry: Registry, memory_mib: u32) -> Ciphertexts<Registry> {
    let mut room = Ciphertexts::new(CiphertextsOptions {
        buckets: Arc::new(registry),
        fallback: None,
        memory_mib,
        verify_coprocessors: false,
        http: plain_http(),
        metrics: Metrics::default(),
    });
    room.patience = short();
    room
}

fn room(servers: &[&Server]) -> Ciphertexts<Registry> {
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    room_with(registry(&urls), SMALLEST_MEMORY_MIB)
}

fn material(fhe_type: u8, body: &[u8], coprocessors: usize) -> Material {
    let mut handle = keccak256(body);
    handle.0[30] = fhe_type;
    Material {
        handle,
        key_id: U256::from(1),
        digest: keccak256(body),
        coprocessors: (0..coprocessors).map(coprocessor).collect(),
    }
}

fn body(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| seed.wrapping_add((index % 251).to_le_bytes()[0])).collect()
}

fn serve(body: &[u8]) -> ServerAction {
    ServerAction::Serve { body: body.to_vec(), format: None }
}

/// A bucket with these objects, each under its digest.
async fn bucket_of(bodies: Vec<Vec<u8>>) -> Server {
    let objects: HashMap<String, Vec<u8>> =
        bodies.into_iter().map(|body| (format!("{:x}", keccak256(&body)), body)).collect();
    Server::start(move |key| objects.get(key).map_or(ServerAction::Status(404), |body| serve(body)))
        .await
}

fn troubles(error: &FetchError) -> Vec<BucketError> {
    let FetchError::Unavailable { failures, .. } = error else { panic!("{error}") };
    failures.iter().map(|failure| failure.error.clone()).collect()
}

fn refused(trouble: &BucketError) -> Option<S3ErrorKind> {
    if let BucketError::Refused(error) = trouble { Some(error.kind()) } else { None }
}

/// The hold reason after the refusals have lasted for long.
fn reason(error: &FetchError) -> Option<HoldReason> {
    match error.remedy(Duration::MAX) {
        Remedy::Hold(hold) => Some(hold.reason),
        Remedy::Retry | Remedy::Refuse(_) => None,
    }
}

/// The right bytes with a wrong format header, or none: the object's own header decides, at once and for
/// every bucket.
#[tokio::test]
async fn b2_an_object_is_taken_for_what_it_says_itself() {
    const NAMES: [&str; 2] = [
        "high_level_api::CompressedSquashedNoiseCiphertextList",
        "high_level_api::SquashedNoiseFheUint",
    ];
    const LABELS: [Option<&str>; 3] =
        [None, Some("compressed_on_gpu"), Some("uncompressed_on_cpu")];
    let objects: Vec<Vec<u8>> =
        (0..6_u8).map(|nth| object(NAMES[usize::from(nth % 2)], &body(nth, 500))).collect();
    let acts: HashMap<String, ServerAction> = objects
        .iter()
        .enumerate()
        .map(|(nth, body)| {
            let act = ServerAction::Serve { body: body.clone(), format: LABELS[nth / 2] };
            (format!("{:x}", keccak256(body)), act)
        })
        .collect();
    let server = Server::start(move |key| acts[key].clone()).await;
    let room = room(&[&server]);
    let metrics = room.calls.metrics.clone();
    let materials: Vec<_> = objects.iter().map(|body| material(5, body, 1)).collect();
    let fetched = room.fetch_of(&materials).await.unwrap();
    for (nth, ciphertext) in fetched.ciphertexts.iter().enumerate() {
        let compressed = ciphertext.format == CiphertextFormat::BigCompressed;
        assert_eq!(compressed, nth % 2 == 0, "{nth}");
    }
    assert_eq!(server.requests(), 6);
    // Missing or "expanded" for a compressed object, "compressed" for an expanded one.
    let counted = metrics.gather();
    let wrong = counted.iter().find(|one| one.name().ends_with("wrong_format_headers_total"));
    let wrong: f64 =
        wrong.unwrap().get_metric().iter().map(|one| one.get_counter().get_value()).sum();
    assert!((wrong - 3.0).abs() < f64::EPSILON, "{wrong}");
}

#[tokio::test]
async fn brings_all_in_order_with_their_formats_and_holds_their_memory() {
    let bodies: Vec<_> = (0..40_u8).map(|seed| body(seed, 1000 * usize::from(seed))).collect();
    let objects: HashMap<String, (usize, Vec<u8>)> = bodies
        .iter()
        .enumerate()
        .map(|(index, body)| (format!("{:x}", keccak256(body)), (index, body.clone())))
        .collect();
    let server = Server::start(move |key| {
        let (index, body) = objects[key].clone();
        let format = [None, Some("compressed_on_cpu"), Some("uncompressed_on_gpu")][index % 3];
        ServerAction::Serve { body, format }
    })
    .await;
    let room = room(&[&server]);
    let materials: Vec<_> = bodies.iter().map(|body| material(5, body, 1)).collect();
    let fetched = room.fetch_of(&materials).await.unwrap();
    assert_eq!(fetched.ciphertexts.len(), 40);
    for (index, ciphertext) in fetched.ciphertexts.iter().enumerate() {
        assert_eq!(ciphertext.handle, materials[index].handle);
        assert_eq!(ciphertext.body, bodies[index]);
        let compressed = ciphertext.format == CiphertextFormat::BigCompressed;
        assert_eq!(compressed, index % 3 == 1);
    }
    assert!(fetched.reservation.kib() as u64 * 1024 >= 40 * 2 * 16 * 65_552);
    assert_eq!(room.reserved_kib(), fetched.reservation.kib());
    drop(fetched);
    assert_eq!(room.reserved_kib(), 0);
    let head = server.counters.heads.lock().unwrap()[0].clone();
    assert!(head.starts_with("GET /ct128/"), "{head}");
    assert!(!head.to_lowercase().contains("authorization"));
    assert!(!head.to_lowercase().contains("accept-encoding"));
    assert_eq!(*room.buckets.asked.lock().unwrap(), [coprocessor(0)], "asked once per request");
}

/// Field failure T25.
#[tokio::test]
async fn a_dead_and_a_corrupt_bucket_do_not_keep_the_third_from_answering() {
    let bodies: Vec<_> = (0..10_u8).map(|seed| body(seed, 66_000)).collect();
    let dead = Server::always(ServerAction::BlackHole).await;
    let corrupt = Server::always(serve(&body(99, 66_000))).await;
    let good = bucket_of(bodies.clone()).await;
    let room = room(&[&dead, &corrupt, &good]);
    let materials: Vec<_> = bodies.iter().map(|body| material(0, body, 3)).collect();
    let fetched = room.fetch_of(&materials).await.unwrap();
    assert_eq!(fetched.ciphertexts.len(), 10);
    assert!(dead.requests() > 0 && corrupt.requests() > 0);

    // The health of buckets is remembered: the next request asks the good one first, and only it.
    let before = (dead.requests(), corrupt.requests());
    room.fetch_of(&materials).await.unwrap();
    assert_eq!((dead.requests(), corrupt.requests()), before);
}

/// Field failure T19.
#[tokio::test]
async fn every_misbehaviour_has_its_name_and_the_next_bucket_its_turn() {
    type Check = fn(&BucketError) -> bool;
    let wanted = body(1, 66_000);
    let good = bucket_of(vec![wanted.clone()]).await;
    let announce = |announced: u64, sent: usize, then: AfterBody| ServerAction::Announce {
        announced,
        body: wanted[..sent].to_vec(),
        then,
    };
    let cases: Vec<(&str, ServerAction, Check)> = vec![
        ("black hole", ServerAction::BlackHole, |it| *it == BucketError::Silent),
        ("garbage", ServerAction::Garbage, |it| matches!(it, BucketError::Cut { received: 0, .. })),
        ("stall", announce(66_000, 500, AfterBody::Silence), |it| {
            *it == BucketError::Stalled { received: 500 }
        }),
        ("cut", announce(66_000, 500, AfterBody::Close), |it| {
            matches!(it, BucketError::Cut { received: 500, .. })
        }),
        ("announces less", announce(65_999, 66_000, AfterBody::Close), |it| {
            *it == BucketError::WrongBytes { received: 65_999 }
        }),
        ("announces more", announce(66_001, 66_000, AfterBody::Close), |it| {
            matches!(it, BucketError::Cut { received: 66_000, .. })
        }),
        ("announces 100 MiB", announce(100 * MIB, 0, AfterBody::Silence), |it| {
            *it == BucketError::TooLarge { bytes: 100 * MIB }
        }),
        ("wrong bytes", serve(&body(2, 66_000)), |it| {
            *it == BucketError::WrongBytes { received: 66_000 }
        }),
        ("empty", serve(&[]), |it| *it == BucketError::WrongBytes { received: 0 }),
        ("redirect", ServerAction::Redirect(format!("{}/x", good.url())), |it| {
            refused(it) == Some(S3ErrorKind::Redirect)
        }),
        ("401", ServerAction::Status(401), |it| refused(it) == Some(S3ErrorKind::Denied)),
        ("403", ServerAction::Status(403), |it| refused(it) == Some(S3ErrorKind::Denied)),
        ("404", ServerAction::Status(404), |it| refused(it) == Some(S3ErrorKind::Missing)),
        ("500", ServerAction::Status(500), |it| refused(it) == Some(S3ErrorKind::Status)),
        ("206", ServerAction::Status(206), |it| refused(it) == Some(S3ErrorKind::Status)),
        (
            "drip",
            ServerAction::Drip {
                body: wanted.clone(),
                piece: 10,
                pause: Duration::from_millis(100),
            },
            |it| matches!(it, BucketError::TooSlow { .. }),
        ),
    ];
    // Concurrently: some of them take a while.
    let mut running = tokio::task::JoinSet::new();
    for (name, act, check) in cases {
        let (wanted, good_url) = (wanted.clone(), good.url());
        running.spawn(async move {
            let bad = Server::always(act).await;
            let alone = room(&[&bad]);
            let error = alone.fetch_of(&[material(0, &wanted, 1)]).await.unwrap_err();
            let [trouble] = &troubles(&error)[..] else { panic!("{name}: {error}") };
            assert!(check(trouble), "{name}: {trouble}");
            assert!(error.to_string().contains(&bad.address.to_string()), "{name}: {error}");
            assert_eq!(alone.reserved_kib(), 0, "{name}");

            let both = room_with(registry(&[bad.url(), good_url]), SMALLEST_MEMORY_MIB);
            let fetched = both.fetch_of(&[material(0, &wanted, 2)]).await.unwrap();
            assert_eq!(fetched.ciphertexts[0].body, wanted, "{name}");
        });
    }
    while let Some(joined) = running.join_next().await {
        joined.unwrap();
    }
}

#[tokio::test]
async fn nobody_listening_is_a_connect_failure() {
    let address = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let room = room_with(registry(&[format!("http://{address}/b")]), SMALLEST_MEMORY_MIB);
    let error = room.fetch_of(&[material(0, b"x", 1)]).await.unwrap_err();
    assert!(
        matches!(&troubles(&error)[..], [BucketError::Connect(why)] if why.contains("refused"))
    );
    assert_eq!(error.remedy(Duration::MAX), Remedy::Retry);
}

/// Field failure T22.
#[tokio::test]
async fn a_flood_is_stopped_at_the_protocols_limit() {
    let flood = Server::always(ServerAction::Flood { total: 100 * MIB }).await;
    // Enough memory, so that the budget is not what stops it.
    let mut room = room_with(registry(&[flood.url()]), 200);
    room.patience = DownloadTimeouts::default();
    let error = room.fetch_of(&[material(11, b"x", 1)]).await.unwrap_err();
    assert!(
        matches!(troubles(&error)[..], [BucketError::TooLarge { bytes }] if bytes > LARGEST_CIPHERTEXT),
        "{error}"
    );
    assert_eq!(reason(&error), Some(HoldReason::CiphertextTooLarge));
    assert_eq!(room.reserved_kib(), 0);
}

#[tokio::test]
async fn what_only_an_operator_mends_is_held_and_all_else_retried() {
    let denied = Server::always(ServerAction::Status(403)).await;
    let missing = Server::always(ServerAction::Status(404)).await;
    let huge = Server::always(ServerAction::Announce {
        announced: LARGEST_CIPHERTEXT + 1,
        body: Vec::new(),
        then: AfterBody::Silence,
    })
    .await;
    let cases: [(&[&Server], Option<HoldReason>); 6] = [
        (&[&denied], Some(HoldReason::AccessDenied)),
        (&[&denied, &denied], Some(HoldReason::AccessDenied)),
        (&[&denied, &missing], None),
        (&[&missing], None),
        (&[&huge], Some(HoldReason::CiphertextTooLarge)),
        (&[&huge, &missing], None),
    ];
    for (servers, expected) in cases {
        let error = room(servers).fetch_of(&[material(0, b"x", servers.len())]).await.unwrap_err();
        assert_eq!(reason(&error), expected, "{error}");
        let at_first = error.remedy(Duration::from_mins(1));
        assert_eq!(at_first == Remedy::Retry, expected != Some(HoldReason::CiphertextTooLarge));
    }

    let nothing = room(&[]);
    let error = nothing.fetch_of(&[material(0, b"x", 2)]).await.unwrap_err();
    assert_eq!(error.remedy(Duration::MAX), Remedy::Retry);
    assert_eq!(troubles(&error), [BucketError::NoUrl, BucketError::NoUrl]);
    let error = nothing.fetch_of(&[material(0, b"x", 0)]).await.unwrap_err();
    assert_eq!(error.remedy(Duration::MAX), Remedy::Retry);
    let error = nothing.fetch_of(&[material(200, b"x", 2)]).await.unwrap_err();
    assert_eq!(reason(&error), Some(HoldReason::UnsupportedType));
    // 2048 bits five times: no contract accepts that.
    let error = nothing.fetch_of(&vec![material(11, b"x", 1); 5]).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { budget_mib: SMALLEST_MEMORY_MIB, .. }));
    assert_eq!(reason(&error), Some(HoldReason::CiphertextTooLarge));
}

/// A bucket's error is shown with S3's error code and the remedy, and nothing else of the response is shown.
#[tokio::test]
async fn c4_the_error_names_code_region_and_remedy() {
    let moved = |header| ServerAction::Refuse {
        status: 301,
        header,
        body: xml("PermanentRedirect", "<Endpoint>canary.s3.amazonaws.com</Endpoint>"),
    };
    let server = Server::always(moved("x-amz-bucket-region: eu-central-1")).await;
    let error = room(&[&server]).fetch_of(&[material(0, b"x", 1)]).await.unwrap_err();
    let said = error.to_string();
    for word in ["301 PermanentRedirect", "region eu-central-1", "coprocessor"] {
        assert!(said.contains(word), "{said}");
    }
    assert!(!said.contains("canary"), "{said}");
    assert_eq!(reason(&error), Some(HoldReason::AccessDenied));

    let mut own = room(&[]);
    let endpoint = format!("http://{}", server.address);
    own.fallback = Some(FallbackStore::new("us-east-1", "mine", Some(&endpoint)).unwrap().bucket);
    let error = own.fetch_of(&[material(0, b"x", 1)]).await.unwrap_err();
    assert!(error.to_string().contains("region = \"eu-central-1\""), "{error}");

    // A long body is not read to its end, and an invalid region is not shown.
    let (header, body) = ("x-amz-bucket-region: Canary!", "<Error>".repeat(1_000_000));
    let server = Server::always(ServerAction::Refuse { status: 403, header, body }).await;
    let error = room(&[&server]).fetch_of(&[material(0, b"x", 1)]).await.unwrap_err();
    assert!(error.to_string().contains("access denied (403)"), "{error}");
    assert!(!error.to_string().contains("Canary"), "{error}");
}

/// An error of a proxy is not taken for one of the bucket behind it.
#[tokio::test]
async fn c5_the_proxy_on_the_way_to_a_bucket_is_named() {
    for (act, remedy) in [(ServerAction::Status(502), ""), (ServerAction::Status(407), "user name")]
    {
        let server = Server::always(act).await;
        let proxy = server.address.to_string();
        let proxies =
            crate::net::proxy::Proxies::new(None, crate::net::proxy::parse(&proxy).ok(), "");
        let mut room =
            room_with(registry(&["http://bucket.example/b".to_owned()]), SMALLEST_MEMORY_MIB);
        let roots = crate::net::tls::TlsRoots::load(None).unwrap();
        let http = BucketClient::new(roots.client_config(), &proxies).unwrap();
        room.calls = Arc::new(BucketCalls::new(http, Metrics::default()));
        let said = room.fetch_of(&[material(0, b"x", 1)]).await.unwrap_err().to_string();
        assert!(said.contains(&format!("through the proxy {proxy}")), "{said}");
        assert!(said.contains(remedy), "{said}");
    }
}

#[tokio::test]
async fn never_a_part_of_a_request() {
    let bodies: Vec<_> = (0..20_u8).map(|seed| body(seed, 5000)).collect();
    let server = bucket_of(bodies[..19].to_vec()).await;
    let room = room(&[&server]);
    let materials: Vec<_> = bodies.iter().map(|body| material(2, body, 1)).collect();
    let error = room.fetch_of(&materials).await.unwrap_err();
    assert_eq!(
        troubles(&error).iter().filter_map(refused).collect::<Vec<_>>(),
        [S3ErrorKind::Missing]
    );
    assert!(error.to_string().contains(&materials[19].handle.to_string()));
    assert_eq!(room.reserved_kib(), 0);
}

#[tokio::test]
async fn the_fallback_is_asked_only_when_no_bucket_is_known() {
    let wanted = body(1, 1000);
    let bucket = bucket_of(vec![wanted.clone()]).await;
    let empty = bucket_of(Vec::new()).await;
    let store = bucket_of(vec![wanted.clone()]).await;
    let fallback = || {
        let credentials = aws_credential_types::Credentials::new("AKID", "s", None, None, "test");
        let provider = aws_credential_types::provider::SharedCredentialsProvider::new(credentials);
        let endpoint = format!("http://{}", store.address);
        FallbackStore::with_credentials("eu-west-1", "mine", Some(&endpoint), Some(provider))
            .unwrap()
            .bucket
    };

    let mut known = room(&[&bucket]);
    known.fallback = Some(fallback());
    known.fetch_of(&[material(0, &wanted, 1)]).await.unwrap();
    assert_eq!(store.requests(), 0);

    let mut elsewhere = room(&[&empty]);
    elsewhere.fallback = Some(fallback());
    let error = elsewhere.fetch_of(&[material(0, &wanted, 1)]).await.unwrap_err();
    assert_eq!(refused(&troubles(&error)[0]), Some(S3ErrorKind::Missing));
    assert_eq!(store.requests(), 0);

    let down = BucketLookupError { code: "unavailable", source: Arc::new(fmt::Error) };
    for answer in [Ok(None), Ok(Some("  ".to_owned())), Err(down)] {
        let registry =
            Registry { urls: HashMap::from([(coprocessor(0), answer)]), ..Registry::default() };
        let mut unknown = room_with(registry, SMALLEST_MEMORY_MIB);
        unknown.fallback = Some(fallback());
        let before = store.requests();
        unknown.fetch_of(&[material(0, &wanted, 1)]).await.unwrap();
        assert_eq!(store.requests(), before + 1);
    }
    let head = store.counters.heads.lock().unwrap()[0].to_lowercase();
    assert!(head.starts_with(&format!("get /mine/{:x}", keccak256(&wanted))), "{head}");
    assert!(head.contains("x-amz-credential=akid%2f"), "{head}");
    assert!(head.contains(&format!("host: {}", store.address)), "{head}");
}

#[tokio::test]
async fn strangers_are_skipped_where_coprocessors_are_verified() {
    let wanted = body(1, 1000);
    let one = bucket_of(vec![wanted.clone()]).await;
    let two = bucket_of(vec![wanted.clone()]).await;
    let verified = |unregistered: Vec<Address>| {
        let mut registry = registry(&[one.url(), two.url()]);
        registry.unregistered = unregistered;
        let mut room = room_with(registry, SMALLEST_MEMORY_MIB);
        room.verify_coprocessors = true;
        room
    };
    verified(vec![coprocessor(0)]).fetch_of(&[material(0, &wanted, 2)]).await.unwrap();
    assert_eq!((one.requests(), two.requests()), (0, 1));

    let mut nobody = verified(vec![coprocessor(0), coprocessor(1)]);
    let endpoint = format!("http://{}", one.address);
    nobody.fallback = Some(FallbackStore::new("r", "b", Some(&endpoint)).unwrap().bucket);
    let error = nobody.fetch_of(&[material(0, &wanted, 2)]).await.unwrap_err();
    assert_eq!(troubles(&error), [BucketError::Unregistered, BucketError::Unregistered]);
    assert_eq!(error.remedy(Duration::MAX), Remedy::Retry);
    assert_eq!((one.requests(), two.requests()), (0, 1), "nobody was asked");

    let mut lax = verified(vec![coprocessor(0)]);
    lax.verify_coprocessors = false;
    lax.fetch_of(&[material(0, &wanted, 2)]).await.unwrap();
    assert_eq!((one.requests(), two.requests()), (1, 1));
}

#[tokio::test]
async fn unusable_urls_are_failed_buckets_and_secrets_stay_inside() {
    let server = Server::always(ServerAction::Status(403)).await;
    let urls = [
        "s3://canary/ct128".to_owned(),
        format!("http://canary:canary@{}/canary?canary=canary", server.address),
    ];
    let room = room_with(registry(&urls), SMALLEST_MEMORY_MIB);
    let error = room.fetch_of(&[material(0, b"x", 2)]).await.unwrap_err();
    let troubles = troubles(&error);
    assert_eq!(troubles[0], BucketError::UnusableUrl(UnusableUrl::Scheme));
    assert_eq!(refused(&troubles[1]), Some(S3ErrorKind::Denied));
    for text in [format!("{error}"), format!("{error:?}")] {
        assert!(!text.contains("canary"), "{text}");
        assert!(text.contains(&server.address.to_string()), "{text}");
    }
    let head = server.counters.heads.lock().unwrap()[0].clone();
    assert!(head.starts_with("GET /canary/") && head.contains("?canary=canary"), "{head}");
    assert!(head.to_lowercase().contains("authorization: basic"), "{head}");
}

/// Field failure T18.
#[tokio::test]
async fn a_slow_but_steady_line_is_not_cut() {
    let wanted = body(1, 60_000);
    // Longer than the body's deadline, well within the upper limit.
    let drip =
        ServerAction::Drip { body: wanted.clone(), piece: 1500, pause: Duration::from_millis(100) };
    let server = Server::always(drip).await;
    let fetched = room(&[&server]).fetch_of(&[material(0, &wanted, 1)]).await.unwrap();
    assert_eq!(fetched.ciphertexts[0].body, wanted);
}

/// Field failure T18.
#[tokio::test]
async fn a_crawling_body_is_overtaken_by_the_next_bucket() {
    let wanted = body(1, 60_000);
    let crawl =
        ServerAction::Drip { body: wanted.clone(), piece: 1, pause: Duration::from_millis(50) };
    let crawling = Server::always(crawl).await;
    let good = bucket_of(vec![wanted.clone()]).await;
    let mut room = room(&[&crawling, &good]);
    // So long that only a second bucket can help.
    room.patience.body = Duration::from_mins(10);
    room.patience.longest_body = Duration::from_hours(1);
    let fetching = room.fetch_of(&[material(0, &wanted, 2)]).await;
    assert_eq!(fetching.unwrap().ciphertexts[0].body, wanted);
    assert_eq!(good.requests(), 1);
}

#[tokio::test]
async fn a_slow_first_may_still_win() {
    let wanted = body(1, 60_000);
    let slow = Server::always(ServerAction::Late {
        body: wanted.clone(),
        after: Duration::from_millis(300),
    })
    .await;
    let dead = Server::always(ServerAction::BlackHole).await;
    let room = room(&[&slow, &dead]);
    let fetched = room.fetch_of(&[material(0, &wanted, 2)]).await.unwrap();
    assert_eq!(fetched.ciphertexts[0].body, wanted);
    assert_eq!((slow.requests(), dead.requests()), (1, 1));
}

/// Field failures T20, T21.
#[tokio::test]
async fn calls_are_bounded_per_request_and_per_host() {
    let wanted = body(1, 1000);
    let late = ServerAction::Late { body: wanted.clone(), after: Duration::from_millis(20) };
    let server = Server::always(late.clone()).await;
    let room = self::room(&[&server]);
    room.fetch_of(&vec![material(0, &wanted, 1); 60]).await.unwrap();
    let peak = |server: &Server| server.counters.peak.load(std::sync::atomic::Ordering::SeqCst);
    assert!((2..=16).contains(&peak(&server)), "{}", peak(&server));

    let server = Server::always(late).await;
    let room = self::room(&[&server]);
    let materials = vec![material(0, &wanted, 1); 16];
    let requests = (0..10).map(|_| room.fetch_of(&materials));
    for result in futures_util::future::join_all(requests).await {
        result.unwrap();
    }
    assert!((17..=64).contains(&peak(&server)), "{}", peak(&server));
}

#[tokio::test]
async fn dropping_the_future_frees_the_memory_and_the_connections() {
    let server = Server::always(ServerAction::BlackHole).await;
    let mut room = room(&[&server]);
    room.patience.headers = Duration::from_mins(10);
    let materials: Vec<_> = (0..10_u8).map(|seed| material(0, &[seed], 1)).collect();
    let fetching = room.fetch_of(&materials);
    let patience = Duration::from_mins(1);
    timeout(patience, async {
        tokio::select! {
            result = fetching => panic!("{result:?}"),
            () = async { while server.live() < 10 { sleep(Duration::from_millis(5)).await; } } => {}
        }
    })
    .await
    .unwrap();
    assert_eq!(room.reserved_kib(), 0);
    let closed = async {
        while server.live() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(patience, closed).await.expect("the connections are closed");
}

//! The line to a Core: sizes, TLS, endpoints, and what is no Core at all.

use std::{net::TcpListener as StdListener, time::Duration};

use kms_connector::{
    domain::{HoldReason, Kind, Remedy},
    flow::kms_core::{AskResult, CoreError, EndpointError, KmsCore, Options, Transport},
    net::tls::TlsRoots,
    telemetry::metrics::Metrics,
};
use tokio::task::JoinSet;

use super::sample::{Sample, answered, client, client_with, domain, held, options, stub};
use world::core_stub::{CoreStub, CoreVersion};

#[tokio::test]
async fn large_messages_pass_both_ways() {
    let version = CoreVersion::V0_12;
    let stub = stub(version).await;
    // More than gRPC libraries take by themselves, and what the answer to so many may have.
    stub.change(|behaviour| behaviour.padding = 8 * 1024 * 1024);
    let core = client(&stub);
    let mib = 1024 * 1024;
    let mut ciphertexts = vec![(8, 32 * mib), (8, 4 * mib), (8, 4 * mib)];
    ciphertexts.resize(600, (0, 100));
    for kind in [Kind::PublicDecryption, Kind::UserDecryption] {
        let sample = Sample::new(version, kind, 40, &ciphertexts);
        assert_eq!(sample.ask(&core).await, Ok(AskResult::Accepted));
        let answer = answered(sample.answer(&core, &stub).await);
        assert_eq!(answer.payload, sample.expected_payload(version));
    }
}

#[tokio::test]
async fn a_core_that_takes_only_small_messages_is_told_from_a_busy_one() {
    let version = CoreVersion::V0_12;
    let mut options = options(version);
    options.message_limit = 10_000;
    let stub = CoreStub::start(options).await;
    let core = client(&stub);
    let sample = Sample::new(version, Kind::PublicDecryption, 1, &[(8, 20_000)]);
    assert_eq!(held(sample.ask(&core).await), HoldReason::MessageTooLarge);
    let small = Sample::public(version);
    assert_eq!(small.ask(&core).await, Ok(AskResult::Accepted));
}

#[tokio::test]
async fn something_that_is_no_core_is_waited_for_within_deadlines() {
    let options = Options {
        ask: Duration::from_millis(300),
        health: Duration::from_millis(300),
        ..Options::default()
    };
    // Accepts connections (in the kernel) and says nothing.
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let core = client_with(&endpoint, options);
    let sample = Sample::public(CoreVersion::V0_12);
    assert_eq!(sample.ask(&core).await.unwrap_err().remedy(), Remedy::Retry);
    assert!(matches!(core.health().await, Err(CoreError::Unreachable { .. })));
    // Speaks, but not HTTP/2.
    let listener = tokio::net::TcpListener::from_std({
        listener.set_nonblocking(true).unwrap();
        listener
    })
    .unwrap();
    let mut talker = JoinSet::new();
    talker.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::AsyncWriteExt as _;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let core = client_with(&endpoint, options);
    assert_eq!(sample.ask(&core).await.unwrap_err().remedy(), Remedy::Retry);
}

#[tokio::test]
async fn tls_is_spoken_with_a_private_authority_only() {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec![]).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();

    let version = CoreVersion::V0_12;
    let mut options = options(version);
    options.tls = Some((leaf.pem(), key.serialize_pem()));
    let stub = CoreStub::start(options).await;
    let sample = Sample::public(version);

    let stranger = client(&stub);
    let error = sample.ask(&stranger).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
    assert_eq!(error.remedy(), Remedy::Retry);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let roots = TlsRoots::load(Some(file.path())).unwrap();
    let endpoint = stub.endpoint().parse().unwrap();
    let transport = Transport::to(&endpoint, &roots).unwrap();
    let core = KmsCore::new(transport, domain(), Options::default(), Metrics::default());
    assert_eq!(sample.ask(&core).await, Ok(AskResult::Accepted));
    answered(sample.answer(&core, &stub).await);
}

#[tokio::test]
async fn an_endpoint_is_refused_without_repeating_its_secrets() {
    let roots = TlsRoots::load(None).unwrap();
    let prepare = |url: &str| Transport::to(&url.parse().unwrap(), &roots);
    let error = prepare("ftp://canary:canary@host/canary").unwrap_err();
    assert!(matches!(error, EndpointError::Scheme));
    assert!(!format!("{error} {error:?}").contains("canary"));
    let transport = prepare("http://canary:canary@127.0.0.1:1/canary?canary").unwrap();
    let core = KmsCore::new(transport, domain(), Options::default(), Metrics::default());
    let error = Sample::public(CoreVersion::V0_12).ask(&core).await.unwrap_err();
    assert!(!format!("{core:?} {error} {error:?}").contains("canary"));
}

//! Room 3 against a KMS Core of every version.

use std::{net::TcpListener as StdListener, time::Duration};

use alloy::{
    primitives::{U256, keccak256},
    signers::local::PrivateKeySigner,
};
use kms_connector::{
    domain::{HoldReason, Kind, Refusal, Remedy},
    flow::kms_core::{
        AskResult, CoreError, CoreHealth, EndpointError, KmsCore, Options, PollResult, PollingEnd,
        Transport, wire::RequestError,
    },
    net::tls::TlsRoots,
    telemetry::metrics::Metrics,
};
use tokio::task::JoinSet;
use tonic::Code;

use super::sample::{
    ANYBODY, CEILING, CHAIN_ID, DECRYPTION, ENC_KEY, KEY_ID, LONG, Sample, USER, answered, by,
    client, client_with, domain, eventually, held, options, stub,
};
use world::core_stub::{CoreOptions, CoreStub, CoreVersion, Fault};

#[tokio::test]
async fn every_core_version_answers_both_kinds() {
    for version in CoreVersion::ALL {
        let stub = stub(version).await;
        assert_eq!(stub.version(), version);
        let core = client(&stub);
        for sample in [Sample::public(version), Sample::user(version)] {
            assert_eq!(sample.ask(&core).await, Ok(AskResult::Accepted));
            let answer = answered(sample.answer(&core, &stub).await);
            assert_eq!(answer.payload, sample.expected_payload(version), "{version:?}");
            assert_eq!(answer.signature.len(), 65);
            let extra_data: &[u8] = if version == CoreVersion::V0_11_0_21 { &[] } else { &[0] };
            assert_eq!(answer.extra_data.as_ref(), extra_data);

            let ask = stub.asks().pop().unwrap();
            assert_eq!(ask.id, format!("{:064x}", sample.id()));
            assert_eq!(ask.key_id, format!("{KEY_ID:064x}"));
            assert_eq!(ask.extra_data, extra_data);
            assert_eq!((ask.context_id, ask.epoch_id), (None, None));
            assert_eq!(ask.formats, [3, 2]);
            for (index, one) in sample.ciphertexts.iter().enumerate() {
                assert_eq!(ask.handles[index], one.handle);
                assert_eq!(ask.digests[index], keccak256(&one.body));
                assert_eq!(ask.fhe_types[index], i32::from(one.handle[30]));
            }
            if sample.request.kind() == Kind::UserDecryption {
                let (address, key) = ask.client.unwrap();
                assert_eq!(address, USER.to_checksum(None));
                assert_eq!(key, ENC_KEY);
            }
            assert_eq!(stub.accepted(sample.id()), 1);
            assert!(stub.polls(sample.id()) >= 1);
        }
    }
}

#[tokio::test]
async fn old_cores_decrypt_large_types() {
    for version in [CoreVersion::V0_11_0_21, CoreVersion::V0_11_0_26] {
        let stub = stub(version).await;
        let core = client(&stub);
        let types = [(9, 50), (2, 50), (10, 50), (1, 50), (11, 50)];
        let sample = Sample::new(version, Kind::PublicDecryption, 9, &types);
        sample.ask(&core).await.unwrap();
        let answer = answered(sample.answer(&core, &stub).await);
        assert_eq!(answer.payload, sample.expected_payload(version));
    }
}

/// Field failure T28.
#[tokio::test]
async fn a_request_asked_twice_is_known() {
    for version in CoreVersion::ALL {
        let stub = stub(version).await;
        let core = client(&stub);
        for sample in [Sample::public(version), Sample::user(version)] {
            assert_eq!(sample.ask(&core).await, Ok(AskResult::Accepted));
            assert_eq!(sample.ask(&core).await, Ok(AskResult::AlreadyKnown), "while it runs");
            answered(sample.answer(&core, &stub).await);
            assert_eq!(sample.ask(&core).await, Ok(AskResult::AlreadyKnown), "when it is done");
            assert_eq!(stub.accepted(sample.id()), 1);
        }
    }
}

/// Field failure T61.
#[tokio::test]
async fn a_core_that_forgot_is_asked_again() {
    for version in CoreVersion::ALL {
        let stub = stub(version).await;
        stub.change(|behaviour| behaviour.never_finish = true);
        let core = client(&stub);
        let sample = Sample::public(version);
        sample.ask(&core).await.unwrap();
        let (ending, ()) = tokio::join!(sample.answer(&core, &stub), async {
            eventually(|| async { stub.polls(sample.id()) > 0 }).await;
            stub.forget();
        });
        assert_eq!(ending, Ok(PollingEnd::Forgotten));
        assert_eq!(core.poll(&sample.request, ANYBODY).await, Ok(PollResult::Forgotten));
        stub.change(|behaviour| behaviour.never_finish = false);
        assert_eq!(sample.ask(&core).await, Ok(AskResult::Accepted));
        answered(sample.answer(&core, &stub).await);
    }
}

#[tokio::test]
async fn a_restart_of_the_core_is_survived_by_the_same_client() {
    let version = CoreVersion::V0_12;
    let mut stub = stub(version).await;
    stub.change(|behaviour| behaviour.never_finish = true);
    let core = client(&stub);
    let sample = Sample::user(version);
    sample.ask(&core).await.unwrap();

    let polling = {
        let (core, request) = (core.clone(), sample.request.clone());
        let mut tasks = JoinSet::new();
        tasks
            .spawn(async move { core.poll_until_answered(&request, ANYBODY, LONG, CEILING).await });
        tasks
    };
    eventually(|| async { stub.polls(sample.id()) > 0 }).await;
    stub.stop().await;
    let cut = polling.join_all().await.pop().unwrap();
    assert_eq!(cut.unwrap_err().remedy(), Remedy::Retry, "a poll cut in the middle");
    let down = sample.ask(&core).await.unwrap_err();
    assert!(
        matches!(&down, CoreError::Unreachable { cause } if cause.contains("refused")),
        "{down}"
    );
    assert!(matches!(core.health().await, Err(CoreError::Unreachable { .. })));

    stub.restart().await;
    stub.change(|behaviour| behaviour.never_finish = false);
    eventually(|| async { core.health().await == Ok(CoreHealth::Serving) }).await;
    assert_eq!(sample.answer(&core, &stub).await, Ok(PollingEnd::Forgotten));
    assert_eq!(sample.ask(&core).await, Ok(AskResult::Accepted));
    answered(sample.answer(&core, &stub).await);
}

#[tokio::test]
async fn pending_is_waited_for_with_and_without_a_long_poll() {
    for hold in [Duration::ZERO, Duration::from_mins(1)] {
        let stub = stub(CoreVersion::V0_13).await;
        stub.change(|behaviour| {
            behaviour.hold = hold;
            behaviour.latency = Duration::from_millis(300);
        });
        let core = client(&stub);
        let sample = Sample::public(CoreVersion::V0_13);
        sample.ask(&core).await.unwrap();
        if hold.is_zero() {
            assert_eq!(core.poll(&sample.request, ANYBODY).await, Ok(PollResult::Pending));
        }
        answered(sample.answer(&core, &stub).await);
        if !hold.is_zero() {
            assert_eq!(stub.polls(sample.id()), 1, "the Core held the poll until it was done");
        }
    }
}

#[tokio::test]
async fn our_own_deadline_means_pending_and_the_callers_silence() {
    let stub = stub(CoreVersion::V0_12).await;
    stub.change(|behaviour| behaviour.never_finish = true);
    let poll = Duration::from_millis(50);
    let core = client_with(&stub.endpoint(), Options { poll, ..Options::default() });
    let sample = Sample::public(CoreVersion::V0_12);
    sample.ask(&core).await.unwrap();
    assert_eq!(core.poll(&sample.request, ANYBODY).await, Ok(PollResult::Pending));
    let deadline = Duration::from_millis(400);
    let silent = core.poll_until_answered(&sample.request, ANYBODY, deadline, CEILING).await;
    assert_eq!(silent, Ok(PollingEnd::TimedOut));
    assert!(stub.polls(sample.id()) > 2, "it was polled again after each deadline");
    // A single call held longer than all we have is no reason to stay longer.
    let core = client(&stub);
    let silent = core.poll_until_answered(&sample.request, ANYBODY, deadline, CEILING).await;
    assert_eq!(silent, Ok(PollingEnd::TimedOut));
}

/// Field failure T63.
#[tokio::test]
async fn held_polls_do_not_keep_new_asks_waiting() {
    let version = CoreVersion::V0_12;
    let stub = stub(version).await;
    stub.change(|behaviour| behaviour.never_finish = true);
    let core = client(&stub);
    let mut polls = JoinSet::new();
    let many = 500;
    for number in 0..many {
        let sample = Sample::new(version, Kind::PublicDecryption, 100 + number, &[(2, 40)]);
        assert_eq!(sample.ask(&core).await, Ok(AskResult::Accepted));
        let core = core.clone();
        polls.spawn(async move {
            core.poll_until_answered(&sample.request, ANYBODY, LONG, CEILING).await
        });
    }
    let first = U256::from(1) << 248;
    let polled = || (0..many).filter(|n| stub.polls(first + U256::from(100 + n)) > 0).count();
    eventually(|| async { polled() == 500 }).await;
    stub.change(|behaviour| behaviour.never_finish = false);
    while let Some(ending) = polls.join_next().await {
        answered(ending.unwrap());
    }
}

#[tokio::test]
async fn a_busy_core_is_asked_again_later() {
    for version in CoreVersion::ALL {
        let stub = stub(version).await;
        stub.change(|behaviour| behaviour.busy = 2);
        let core = client(&stub);
        let sample = Sample::public(version);
        for _ in 0..2 {
            let busy = sample.ask(&core).await.unwrap_err();
            assert!(matches!(busy, CoreError::Busy { .. }));
            assert_eq!(busy.remedy(), Remedy::Retry);
        }
        assert_eq!(sample.ask(&core).await, Ok(AskResult::Accepted));
    }
}

#[tokio::test]
async fn an_unknown_key_is_held_in_each_versions_way() {
    for version in CoreVersion::ALL {
        let mut options = options(version);
        options.keys = Some(vec![U256::from(78)]);
        let stub = CoreStub::start(options).await;
        let core = client(&stub);
        let sample = Sample::public(version);
        let asked = sample.ask(&core).await;
        match version {
            CoreVersion::V0_11_0_21 => assert_eq!(held(asked), HoldReason::CoreRefused),
            CoreVersion::V0_11_0_26 => {
                assert_eq!(asked, Ok(AskResult::Accepted), "and then it is pending for ever");
                let soon = Duration::from_millis(100);
                let ending =
                    core.poll_until_answered(&sample.request, ANYBODY, soon, CEILING).await;
                assert_eq!(ending, Ok(PollingEnd::TimedOut));
            }
            CoreVersion::V0_12 | CoreVersion::V0_13_20 | CoreVersion::V0_14 | CoreVersion::Head => {
                assert_eq!(held(asked), HoldReason::UnknownKey);
                assert_eq!(held(sample.ask(&core).await), HoldReason::UnknownKey, "again");
            }
            CoreVersion::V0_13 | CoreVersion::V0_13_10 => {
                assert_eq!(held(asked), HoldReason::UnknownKey);
                assert_eq!(
                    sample.ask(&core).await,
                    Ok(AskResult::AlreadyKnown),
                    "it stays pending"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_refused_request_is_told_from_a_known_one() {
    // The Core serves another contract, so it refuses the domain.
    for version in CoreVersion::ALL {
        let stub = CoreStub::start(CoreOptions::new(version, CHAIN_ID + 1, DECRYPTION)).await;
        let core = client(&stub);
        for sample in [Sample::public(version), Sample::user(version)] {
            assert_eq!(held(sample.ask(&core).await), HoldReason::CoreRefused);
        }
        assert!(stub.asks().iter().all(|ask| ask.code != Code::Ok));
    }
    // A full store says `Aborted` up to v0.13, and a known request says it in old versions.
    for version in CoreVersion::ALL {
        let mut options = options(version);
        options.capacity = 1;
        let stub = CoreStub::start(options).await;
        let core = client(&stub);
        let (first, second) = (Sample::public(version), Sample::user(version));
        assert_eq!(first.ask(&core).await, Ok(AskResult::Accepted));
        assert_eq!(first.ask(&core).await, Ok(AskResult::AlreadyKnown));
        let full = second.ask(&core).await;
        if version < CoreVersion::V0_14 {
            assert_eq!(held(full), HoldReason::CoreRefused);
        } else {
            assert!(matches!(full, Err(CoreError::Busy { .. })), "{full:?}");
        }
    }
    // A running request of which the Core says nothing within our probe's deadline.
    let stub = stub(CoreVersion::V0_11_0_26).await;
    stub.change(|behaviour| behaviour.never_finish = true);
    let probe = Duration::from_millis(100);
    let core = client_with(&stub.endpoint(), Options { probe, ..Options::default() });
    let sample = Sample::public(CoreVersion::V0_11_0_26);
    assert_eq!(sample.ask(&core).await, Ok(AskResult::Accepted));
    assert_eq!(sample.ask(&core).await, Ok(AskResult::AlreadyKnown));
}

#[tokio::test]
async fn every_status_of_an_ask_has_its_remedy() {
    use HoldReason::{CoreFailed, CoreRefused, MessageTooLarge, UnknownKey};
    let stub = stub(CoreVersion::V0_12).await;
    let core = client(&stub);
    let sample = Sample::public(CoreVersion::V0_12);
    for (code, text, reason) in [
        (Code::InvalidArgument, "", CoreRefused),
        (Code::NotFound, "", UnknownKey),
        (Code::Internal, "", CoreFailed),
        (Code::FailedPrecondition, "", CoreFailed),
        (Code::DataLoss, "", CoreFailed),
        (Code::Unimplemented, "", CoreRefused),
        (Code::PermissionDenied, "", CoreRefused),
        (Code::Unauthenticated, "", CoreRefused),
        (Code::Aborted, "", CoreRefused),
        (Code::OutOfRange, "", MessageTooLarge),
        (Code::ResourceExhausted, "received message larger than max", MessageTooLarge),
    ] {
        stub.change(|behaviour| behaviour.ask_status = Some((code, text)));
        assert_eq!(held(sample.ask(&core).await), reason, "{code:?}");
    }
    for code in [
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::Cancelled,
        Code::Unknown,
        Code::ResourceExhausted,
    ] {
        stub.change(|behaviour| behaviour.ask_status = Some((code, "")));
        assert_eq!(sample.ask(&core).await.unwrap_err().remedy(), Remedy::Retry, "{code:?}");
    }
    stub.change(|behaviour| behaviour.ask_status = Some((Code::AlreadyExists, "")));
    assert_eq!(sample.ask(&core).await, Ok(AskResult::AlreadyKnown));
}

/// Field failure T29.
#[tokio::test]
async fn every_status_of_a_poll_has_its_remedy() {
    use HoldReason::{CoreFailed, CoreRefused, MessageTooLarge};
    let stub = stub(CoreVersion::V0_12).await;
    let core = client(&stub);
    let sample = Sample::user(CoreVersion::V0_12);
    sample.ask(&core).await.unwrap();
    let set = |code| stub.change(|behaviour| behaviour.poll_status = Some((code, "a reason")));
    for (code, reason) in [
        (Code::Internal, CoreFailed),
        (Code::Aborted, CoreFailed),
        (Code::DataLoss, CoreFailed),
        (Code::FailedPrecondition, CoreFailed),
        (Code::InvalidArgument, CoreRefused),
        (Code::Unimplemented, CoreRefused),
        (Code::PermissionDenied, CoreRefused),
        (Code::OutOfRange, MessageTooLarge),
    ] {
        set(code);
        let error =
            core.poll_until_answered(&sample.request, ANYBODY, LONG, CEILING).await.unwrap_err();
        assert!(error.to_string().contains("a reason"), "the Core's words are kept: {error}");
        assert_eq!(held::<()>(Err(error)), reason, "{code:?}");
    }
    for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled] {
        set(code);
        assert_eq!(core.poll(&sample.request, ANYBODY).await, Ok(PollResult::Pending), "{code:?}");
    }
    set(Code::NotFound);
    assert_eq!(core.poll(&sample.request, ANYBODY).await, Ok(PollResult::Forgotten));
    set(Code::Unknown);
    assert_eq!(core.poll(&sample.request, ANYBODY).await.unwrap_err().remedy(), Remedy::Retry);
    set(Code::ResourceExhausted);
    let busy = core.poll(&sample.request, ANYBODY).await;
    assert!(matches!(busy, Err(CoreError::Busy { .. })));
    // Busy is polled through.
    let (ending, ()) = tokio::join!(sample.answer(&core, &stub), async {
        let before = stub.polls(sample.id());
        eventually(|| async { stub.polls(sample.id()) > before + 2 }).await;
        stub.change(|behaviour| behaviour.poll_status = None);
    });
    answered(ending);
}

#[tokio::test]
async fn a_wrong_signer_is_held_and_named() {
    for version in CoreVersion::ALL {
        let stub = stub(version).await;
        let registered = stub.signer_address();
        let core = client(&stub);
        for sample in [Sample::public(version), Sample::user(version)] {
            sample.ask(&core).await.unwrap();
            stub.set_signer(PrivateKeySigner::random());
            let wrong = stub.signer_address();
            let result =
                core.poll_until_answered(&sample.request, by(&[registered]), LONG, CEILING).await;
            let error = result.unwrap_err();
            let text = error.to_string();
            assert_eq!(held::<()>(Err(error)), HoldReason::SignerMismatch);
            assert!(text.contains(&registered.to_string()), "{text}");
            if sample.request.kind() == Kind::PublicDecryption {
                assert!(text.contains(&wrong.to_string()), "{text}");
            }
            // Known or not, it recovers.
            assert!(matches!(core.poll(&sample.request, ANYBODY).await, Ok(PollResult::Answer(_))));
            answered(sample.answer(&core, &stub).await);
        }
    }
}

#[tokio::test]
async fn the_other_result_encoding_is_accepted() {
    for version in CoreVersion::ALL {
        let stub = stub(version).await;
        stub.change(|behaviour| behaviour.other_encoding = true);
        let core = client(&stub);
        let sample = Sample::public(version);
        sample.ask(&core).await.unwrap();
        let answer = answered(sample.answer(&core, &stub).await);
        assert_ne!(answer.payload, sample.expected_payload(version));
    }
}

#[tokio::test]
async fn a_core_of_another_generation_is_a_mismatch_that_says_so() {
    let old = stub(CoreVersion::V0_11_0_21).await;
    let core = client(&old);
    // extraData and an id as of v0.9, answered by a Core that signs no extraData.
    let sample = Sample::user(CoreVersion::V0_12);
    sample.ask(&core).await.unwrap();
    let error = sample.answer(&core, &old).await.unwrap_err();
    assert!(error.to_string().contains("too old"), "{error}");
    assert_eq!(held::<()>(Err(error)), HoldReason::SignerMismatch);
}

#[tokio::test]
async fn nonsense_is_an_invalid_answer() {
    for version in CoreVersion::ALL {
        let stub = stub(version).await;
        let core = client(&stub);
        for sample in [Sample::public(version), Sample::user(version)] {
            sample.ask(&core).await.unwrap();
            for fault in [
                Fault::NoSignature,
                Fault::ShortSignature,
                Fault::HighS,
                Fault::OtherRequest,
                Fault::TooFew,
                Fault::Garbage,
                Fault::Empty,
            ] {
                stub.change(|behaviour| behaviour.fault = Some(fault));
                for registered in [&[][..], &[stub.signer_address()]] {
                    let result = core
                        .poll_until_answered(&sample.request, by(registered), LONG, CEILING)
                        .await;
                    assert_eq!(held(result), HoldReason::InvalidAnswer, "{version:?} {fault:?}");
                }
            }
            // Mended, it is believed.
            stub.change(|behaviour| behaviour.fault = None);
            answered(sample.answer(&core, &stub).await);
        }
    }
}

#[tokio::test]
async fn extra_data_that_is_not_echoed_is_what_was_sent() {
    for version in [CoreVersion::V0_11_0_26, CoreVersion::V0_13] {
        let stub = stub(version).await;
        stub.change(|behaviour| behaviour.fault = Some(Fault::NoEcho));
        let core = client(&stub);
        for sample in [Sample::public(version), Sample::user(version)] {
            sample.ask(&core).await.unwrap();
            let answer = answered(sample.answer(&core, &stub).await);
            assert_eq!(answer.extra_data, vec![0]);
        }
    }
}

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
async fn what_no_core_can_be_asked_is_not_sent() {
    let version = CoreVersion::V0_12;
    let stub = stub(version).await;
    let core = client(&stub);

    let nothing = Sample::new(version, Kind::PublicDecryption, 1, &[]);
    let refused = nothing.ask(&core).await.unwrap_err();
    assert_eq!(refused, CoreError::Request(RequestError::NoHandles));
    assert!(matches!(refused.remedy(), Remedy::Refuse(Refusal::Malformed(_))));

    let unknown = Sample::new(version, Kind::UserDecryption, 1, &[(84, 10)]);
    assert_eq!(held(unknown.ask(&core).await), HoldReason::UnsupportedType);

    let mut part = Sample::public(version);
    part.ciphertexts.pop();
    assert!(matches!(part.ask(&core).await, Err(CoreError::Ciphertexts(_))));

    let huge = Sample::new(version, Kind::PublicDecryption, 1, &[(8, 257 * 1024 * 1024)]);
    assert_eq!(held(huge.ask(&core).await), HoldReason::MessageTooLarge);
    assert_eq!(stub.asks(), []);
}

#[tokio::test]
async fn health_is_what_the_core_says() {
    let stub = stub(CoreVersion::V0_13).await;
    let core = client(&stub);
    assert_eq!(core.health().await, Ok(CoreHealth::Serving));
    stub.change(|behaviour| behaviour.serving = false);
    assert_eq!(core.health().await, Ok(CoreHealth::NotServing));
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

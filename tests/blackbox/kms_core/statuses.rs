//! What every status of a Core means, to an ask, to a poll and of its health.

use std::time::Duration;

use alloy::primitives::U256;
use kms_connector::{
    domain::{HoldReason, Remedy},
    flow::kms_core::{AskResult, CoreError, CoreHealth, Options, PollResult, PollingEnd},
};
use tonic::Code;

use super::sample::{
    ANYBODY, CEILING, CHAIN_ID, DECRYPTION, LONG, Sample, answered, client, client_with,
    eventually, held, options, stub,
};
use world::core_stub::{CoreOptions, CoreStub, CoreVersion};

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
async fn health_is_what_the_core_says() {
    let stub = stub(CoreVersion::V0_13).await;
    let core = client(&stub);
    assert_eq!(core.health().await, Ok(CoreHealth::Serving));
    stub.change(|behaviour| behaviour.serving = false);
    assert_eq!(core.health().await, Ok(CoreHealth::NotServing));
}

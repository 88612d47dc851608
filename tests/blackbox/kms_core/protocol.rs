//! Asking and polling a KMS Core of every version.

use std::time::Duration;

use alloy::primitives::{U256, keccak256};
use kms_connector::{
    domain::{HoldReason, Kind, Refusal, Remedy},
    flow::kms_core::{
        AskResult, CoreError, CoreHealth, Options, PollResult, PollingEnd, wire::RequestError,
    },
};
use tokio::task::JoinSet;

use super::sample::{
    ANYBODY, CEILING, ENC_KEY, KEY_ID, LONG, Sample, USER, answered, client, client_with,
    eventually, held, stub,
};
use world::core_stub::CoreVersion;

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

//! Answers of a Core that are not what was asked for, or not by whom.

use alloy::signers::local::PrivateKeySigner;
use kms_connector::{
    domain::{HoldReason, Kind},
    flow::kms_core::PollResult,
};

use super::sample::{ANYBODY, CEILING, LONG, Sample, answered, by, client, held, stub};
use world::core_stub::{CoreVersion, Fault};

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

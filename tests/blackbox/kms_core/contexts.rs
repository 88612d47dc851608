//! Contexts, epochs and extraData as the Core gets them, and what a Core of each version makes of those
//! that it does not have.

use kms_connector::{
    domain::{Bytes, HoldReason, Operation},
    flow::kms_core::{AskResult, CoreError, PollResult, wire::ExtraDataMeaning},
};

use super::sample::{Sample, answered, by, client, held, options};
use world::core_stub::{CoreStub, CoreVersion, DEFAULT_CONTEXT, Hopeless};

const CONTEXT: ExtraDataMeaning = ExtraDataMeaning::Context { drops_zero: true };
/// The hybrid v0.13.0-0.
const KEEPING: ExtraDataMeaning = ExtraDataMeaning::Context { drops_zero: false };

/// A public decryption and a user decryption with this extraData.
fn samples(version: CoreVersion, extra_data: &[u8]) -> [Sample; 2] {
    let mut samples = [Sample::public(version), Sample::user(version)];
    for sample in &mut samples {
        let bytes = Bytes::copy_from_slice(extra_data);
        match &mut sample.request.operation {
            Operation::PublicDecryption(public) => public.extra_data = bytes,
            Operation::UserDecryption(user) => user.extra_data = bytes,
            Operation::Key(_) => panic!("a decryption"),
        }
    }
    samples
}

fn context() -> String {
    "c7".repeat(32)
}

fn named() -> Vec<u8> {
    [&[1][..], &[0xC7; 32]].concat()
}

/// A Core of each version signs the bytes that its contracts compare, and hears of the context apart.
#[tokio::test]
async fn g1_a_core_hears_what_the_extra_data_names() {
    let epoch = [&[2][..], &[0xC7; 32], &[0xE8; 32]].concat();
    let longer = [&named()[..], b"more"].concat();
    for version in
        [CoreVersion::V0_13_10, CoreVersion::V0_13_20, CoreVersion::V0_14, CoreVersion::Head]
    {
        let stub = CoreStub::start(options(version)).await;
        let core = client(&stub);
        for (meaning, sent, signed, context_id, epoch_id) in [
            (CONTEXT, &[][..], &[][..], None, None),
            (CONTEXT, &[0], &[], None, None),
            (KEEPING, &[0], &[0], None, None),
            (CONTEXT, &[0, 0, 9], &[0, 0, 9], None, None),
            (CONTEXT, &named(), &named(), Some(context()), None),
            (CONTEXT, &longer, &longer, Some(context()), None),
            (CONTEXT, &epoch, &epoch, Some(context()), Some("e8".repeat(32))),
            // Up to G10 the bytes mean nothing.
            (ExtraDataMeaning::Opaque, &named(), &named(), None, None),
            (ExtraDataMeaning::Opaque, &[0], &[0], None, None),
        ] {
            for sample in samples(version, sent) {
                assert_eq!(sample.ask_meaning(&core, meaning).await, Ok(AskResult::Accepted));
                let ask = stub.asks().pop().unwrap();
                assert_eq!(ask.extra_data, signed, "{sent:?}");
                assert_eq!((ask.context_id, ask.epoch_id), (context_id.clone(), epoch_id.clone()));
                let answer = answered(sample.answer_meaning(&core, &stub, meaning).await);
                assert_eq!(answer.extra_data.as_ref(), signed);
            }
            stub.forget();
        }
    }
}

/// A Core that was never told of a context has the words of an unknown key for it: the hold names the
/// context, because one was sent. It is asked again later, and answers once it was told.
#[tokio::test]
async fn g1_a_core_that_was_not_told_of_the_context_is_called_that() {
    for version in
        [CoreVersion::V0_13_10, CoreVersion::V0_13_20, CoreVersion::V0_14, CoreVersion::Head]
    {
        let mut of = options(version);
        of.contexts = Some(vec![DEFAULT_CONTEXT.to_owned()]);
        let stub = CoreStub::start(of).await;
        let core = client(&stub);
        for sample in samples(version, &named()) {
            let error = sample.ask_meaning(&core, CONTEXT).await.unwrap_err();
            let said = error.to_string();
            assert!(said.contains(&format!("KMS context 0x{}", context())), "{said}");
            assert_eq!(held::<()>(Err(error)), HoldReason::CoreLacksContext, "{version:?}");
            assert_eq!(stub.accepted(sample.id()), 0);
        }
        // Those that name none are of its default context.
        for sample in samples(version, &[]) {
            assert_eq!(sample.ask_meaning(&core, CONTEXT).await, Ok(AskResult::Accepted));
        }
        stub.forget();
        // No context was sent, and the key is missing: the key is named.
        let mut of = options(version);
        of.keys = Some(Vec::new());
        let stub = CoreStub::start(of).await;
        let core = client(&stub);
        for sample in samples(version, &[0]) {
            let asked = sample.ask_meaning(&core, CONTEXT).await;
            assert_eq!(held(asked), HoldReason::UnknownKey);
        }
    }
    // Up to v0.12 it is a failure like any other.
    let mut of = options(CoreVersion::V0_12);
    of.contexts = Some(Vec::new());
    let stub = CoreStub::start(of).await;
    let core = client(&stub);
    for sample in samples(CoreVersion::V0_12, &named()) {
        let asked = sample.ask_meaning(&core, CONTEXT).await;
        assert_eq!(held(asked), HoldReason::CoreFailed);
    }
}

/// From v0.14 on a failed decryption can be asked again under its id; before that it is known and failed.
#[tokio::test]
async fn g1_what_failed_is_asked_again_from_v0_14_on() {
    for version in CoreVersion::ALL {
        let stub = CoreStub::start(options(version)).await;
        let core = client(&stub);
        let [sample, _] = samples(version, &[]);
        stub.change(|core| core.hopeless = [(sample.id(), Hopeless::Fails)].into());
        sample.ask(&core).await.unwrap();
        let failed = core.poll(&sample.request, by(&[])).await;
        assert_eq!(held(failed), HoldReason::CoreFailed, "{version:?}");
        let again = sample.ask(&core).await.unwrap();
        let expected = if version < CoreVersion::V0_14 {
            AskResult::AlreadyKnown
        } else {
            AskResult::Accepted
        };
        assert_eq!(again, expected, "{version:?}");
        stub.change(|core| core.hopeless.clear());
        answered(sample.answer(&core, &stub).await);
    }
}

/// At v0.15 an id that the Core deleted exists for whoever asks, and not for whoever polls.
#[tokio::test]
async fn g1_a_deleted_id_is_known_and_unknown() {
    for version in CoreVersion::ALL {
        let stub = CoreStub::start(options(version)).await;
        let core = client(&stub);
        let [sample, _] = samples(version, &[]);
        sample.ask(&core).await.unwrap();
        answered(sample.answer(&core, &stub).await);
        stub.delete(sample.id());
        assert_eq!(core.poll(&sample.request, by(&[])).await, Ok(PollResult::Forgotten));
        let again: Result<AskResult, CoreError> = sample.ask(&core).await;
        let expected =
            if version < CoreVersion::Head { AskResult::Accepted } else { AskResult::AlreadyKnown };
        assert_eq!(again, Ok(expected), "{version:?}");
    }
}

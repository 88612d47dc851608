//! Every step from every state of a request, and sequences of all events.

use proptest::prelude::*;

use super::*;
use crate::{
    domain::{Bytes, SignedResult},
    flow::ledger::AccessNote,
};

const REOPENINGS: [Reopening; 3] =
    [Reopening::SeenAgain, Reopening::AnswerDropped, Reopening::RetryAsked];

fn answer() -> Answer {
    Answer::PublicDecryption(SignedResult {
        payload: Bytes::from_static(b"payload"),
        signature: Bytes::from_static(b"signature"),
        extra_data: Bytes::new(),
    })
}

fn hold(reason: HoldReason) -> Step {
    Step::Held(Hold::new(reason, "top it up"))
}

fn at(stage: StageName) -> Progress {
    Progress {
        stage,
        held: Some(StoredHold { hold: Hold::new(HoldReason::NoFunds, "empty"), since_ms: 5 }),
        attempts: 3,
        last_error: None,
        worked_ms: 8,
        transaction: None,
        arrived_at_ms: 1,
        asked_at_ms: None,
        asked_core: None,
        answered_at_ms: None,
        submitted_at_ms: None,
        settled_at_ms: None,
        outcome: None,
    }
}

fn steps() -> Vec<Step> {
    vec![
        Step::Asked { core: "core:50051".into() },
        Step::Forgotten,
        Step::Answered(answer()),
        Step::Submitted { transaction: B256::repeat_byte(7) },
        Step::Returned { why: "reverted".into() },
        Step::Failed { why: "timeout".into() },
        hold(HoldReason::AccessDenied),
        Step::WorkTime(Duration::from_millis(2)),
        Step::AccessChecked(AccessNote::default()),
        Step::Settled(Outcome::Expired),
    ]
}

fn open(stored: StoredRequest) -> Progress {
    match stored {
        StoredRequest::Open(OpenProgress(progress)) => progress,
        StoredRequest::Ended(ended) => panic!("{ended:?}"),
    }
}

#[test]
fn every_stage_and_step_lands_where_the_drawing_says() {
    use StageName::{Answered, Arrived, Asked, Submitted};
    const ILLEGAL: Option<StageName> = None;
    // One row per stage, one column per step in the order of `steps`, without the last ones.
    let table = [
        (Arrived, [Some(Asked), Some(Arrived), Some(Answered), ILLEGAL, ILLEGAL]),
        (Asked, [Some(Asked), Some(Arrived), Some(Answered), ILLEGAL, ILLEGAL]),
        (Answered, [Answered, Answered, Answered, Submitted, Answered].map(Some)),
        (Submitted, [Submitted, Submitted, Answered, Submitted, Answered].map(Some)),
    ];
    for (before, row) in table {
        // Failed, Held, WorkTime and AccessChecked do not change the stage.
        let row = row.into_iter().chain([Some(before); 4]);
        for (step, expected) in steps().iter().zip(row) {
            let after = StoredRequest::from(at(before)).step(step, 9);
            let Some(expected) = expected else {
                assert_eq!(after, Err(IllegalStep::NoAnswer), "{before:?} {step:?}");
                continue;
            };
            let after = open(after.unwrap());
            assert_eq!(after.stage, expected, "{before:?} {step:?}");
            let clears =
                matches!(step, Step::Asked { .. } | Step::Answered(_) | Step::Submitted { .. });
            assert_eq!(after.held.is_none(), clears, "{before:?} {step:?}");
            assert_eq!((after.outcome, after.settled_at_ms), (None, None));
        }
    }
}

/// Nothing ends twice; only the reopenings named here lead back from an end.
#[test]
fn an_end_is_an_end_but_for_the_chain_and_an_operator() {
    use Reopening::{AnswerDropped, RetryAsked, SeenAgain};
    for outcome in Outcome::each() {
        let opens: &[Reopening] = match &outcome {
            Outcome::Accepted { .. } => &[SeenAgain, AnswerDropped],
            Outcome::AlreadyAnswered => &[SeenAgain, AnswerDropped, RetryAsked],
            Outcome::Orphaned | Outcome::Refused(Refusal::NotRequested) | Outcome::NoAnswerDue => {
                &[SeenAgain, RetryAsked]
            }
            Outcome::Aborted => &[SeenAgain],
            Outcome::Expired
            | Outcome::Refused(Refusal::Malformed(_) | Refusal::AccessRefused(_)) => &[RetryAsked],
            Outcome::Observed | Outcome::Recorded => &[],
        };
        for stage in StageName::ALL {
            let end =
                StoredRequest::from(at(stage)).step(&Step::Settled(outcome.clone()), 9).unwrap();
            let StoredRequest::Ended(ended) = &end else { panic!("{end:?}") };
            assert_eq!((&ended.outcome, ended.at_ms, &ended.progress.held), (&outcome, 9, &None));
            assert_eq!(ended.duration(), Duration::from_millis(8));
            for step in steps() {
                assert_eq!(end.clone().step(&step, 10), Err(IllegalStep::HasEnded), "{step:?}");
            }
            for by in REOPENINGS {
                assert_eq!(
                    StoredRequest::from(at(stage)).open_again(by, 10),
                    Err(IllegalStep::IsOpen),
                    "{by:?}"
                );
                let again = end.clone().open_again(by, 10);
                assert_eq!(again.is_ok(), opens.contains(&by), "{outcome:?} {by:?}");
                let Ok(OpenProgress(after)) = again else {
                    assert_eq!(again, Err(IllegalStep::CannotReopen));
                    continue;
                };
                let retried = by == RetryAsked;
                let stands = if retried { StageName::Arrived } else { stage };
                assert_eq!((after.stage, after.outcome, after.settled_at_ms), (stands, None, None));
                assert_eq!(after.worked_ms, if retried { 0 } else { 8 });
                assert_eq!(after.held.is_some(), by != SeenAgain);
                assert_eq!(after.last_error.is_some(), retried);
            }
        }
    }
}

/// What a sighting does to a request that is open or has ended so: in its old block, and in another one.
#[test]
fn a14_what_is_seen_again_is_believed_as_far_as_it_was_seen() {
    use Sighting::{Found, Joined, Stale};
    let change_of = |outcome: Option<Outcome>, again| {
        let mut stored = StoredRequest::from(at(StageName::Asked));
        if let Some(outcome) = outcome {
            stored = stored.step(&Step::Settled(outcome), 9).unwrap();
        }
        match stored.seen_again(again, 10) {
            SeenAgain::Unchanged => '-',
            SeenAgain::Moved => 'm',
            SeenAgain::Reopened(open) => {
                let OpenProgress(open) = *open;
                assert_eq!((open.stage, open.outcome), (StageName::Asked, None));
                'r'
            }
        }
    };
    let change = |outcome, seen, elsewhere| {
        change_of(outcome, Resighting { seen, elsewhere, id_taken: false })
    };
    for outcome in Outcome::each().map(Some).into_iter().chain([None]) {
        // Joined, found, stale: first in the same block, then in another one.
        let expected = match &outcome {
            Some(Outcome::Orphaned) => "rr- rr-",
            Some(
                Outcome::Accepted { .. }
                | Outcome::AlreadyAnswered
                | Outcome::Refused(Refusal::NotRequested)
                | Outcome::Aborted
                | Outcome::NoAnswerDue,
            ) => "--- r--",
            None
            | Some(
                Outcome::Expired
                | Outcome::Refused(Refusal::Malformed(_) | Refusal::AccessRefused(_))
                | Outcome::Observed
                | Outcome::Recorded,
            ) => "--- mm-",
        };
        let row =
            |elsewhere| [Joined, Found, Stale].map(|seen| change(outcome.clone(), seen, elsewhere));
        let found: String = row(false).into_iter().chain([' ']).chain(row(true)).collect();
        assert_eq!(found, expected, "{outcome:?}");
        // That its id is another one's keeps an orphan shut, unless the reading itself shows it.
        for elsewhere in [false, true] {
            let taken = [Joined, Found, Stale].map(|seen| {
                change_of(outcome.clone(), Resighting { seen, elsewhere, id_taken: true })
            });
            let [joined, found, stale] = row(elsewhere);
            let shut = if outcome == Some(Outcome::Orphaned) { '-' } else { found };
            assert_eq!(taken, [joined, shut, stale], "{outcome:?}");
        }
    }
}

#[test]
fn failures_count_and_are_cut_at_500_characters() {
    let step = Step::Failed { why: "ä".repeat(900) };
    let after = open(StoredRequest::from(at(StageName::Asked)).step(&step, 9).unwrap());
    assert_eq!(after.attempts, 4);
    assert_eq!(after.last_error.unwrap().chars().count(), 501, "and a mark");
}

#[test]
fn a_hold_keeps_its_start_while_its_reason_stays() {
    let since = |reason| {
        let after = StoredRequest::from(at(StageName::Arrived)).step(&hold(reason), 9).unwrap();
        open(after).held.unwrap().since_ms
    };
    assert_eq!(since(HoldReason::NoFunds), 5);
    assert_eq!(since(HoldReason::FeeCap), 9);
}

#[test]
fn stored_names_are_those_of_the_domain() {
    let stages =
        [Stage::Arrived, Stage::Asked, Stage::Answered(answer()), Stage::Submitted(answer())];
    for (name, stage) in StageName::ALL.into_iter().zip(stages) {
        assert_eq!(name.as_str(), stage.as_str());
        assert_eq!(StageName::from_name(name.as_str()), Some(name));
        assert_eq!(name.with_answer(Some(answer())), stage);
        assert_eq!(name.has_answer(), matches!(stage, Stage::Answered(_) | Stage::Submitted(_)));
    }
    assert_eq!(StageName::Submitted.with_answer(None), Stage::Arrived);
}

/// Every event of a stored request.
#[derive(Clone, Debug)]
enum Happening {
    Step(Step),
    Reopening(Reopening),
}

fn happening() -> impl Strategy<Value = Happening> {
    let steps = prop::sample::select(steps()).prop_map(Happening::Step);
    let ends = prop::sample::select(Outcome::each().to_vec());
    let ends = ends.prop_map(|outcome| Happening::Step(Step::Settled(outcome)));
    let reopenings = prop::sample::select(&REOPENINGS[..]).prop_map(Happening::Reopening);
    prop_oneof![6 => steps, 2 => ends, 2 => reopenings]
}

proptest! {
    /// In any order: between two ends there is a reopening that the first end allows, only an operator's
    /// retry drops an answer, illegal steps change nothing, and a crash in between makes no difference.
    #[test]
    fn no_sequence_leads_to_two_outcomes_or_back_from_one(
        happenings in prop::collection::vec(happening(), 1..40),
    ) {
        let mut stored = StoredRequest::from(at(StageName::Arrived));
        let mut ended = false;
        for (now_ms, happening) in (10..).zip(happenings) {
            let had_answer = match &stored {
                StoredRequest::Open(OpenProgress(progress)) => progress.stage.has_answer(),
                StoredRequest::Ended(end) => end.progress.stage.has_answer(),
            };
            let (after, is_retry) = match happening {
                Happening::Step(step) => (stored.clone().step(&step, now_ms), false),
                Happening::Reopening(by) => {
                    let again = stored.clone().open_again(by, now_ms).map(StoredRequest::Open);
                    (again, by == Reopening::RetryAsked)
                }
            };
            let Ok(after) = after else { continue };
            let ends = matches!(after, StoredRequest::Ended(_));
            prop_assert!(!(ended && ends), "ended twice");
            ended = ends;
            let progress = match &after {
                StoredRequest::Open(OpenProgress(progress)) => progress,
                StoredRequest::Ended(end) => &end.progress,
            };
            prop_assert!(progress.stage.has_answer() || !had_answer || is_retry);
            prop_assert_eq!((&progress.outcome, progress.settled_at_ms), (&None, None));
            // Written and read again.
            let mut read = progress.clone();
            if let StoredRequest::Ended(end) = &after {
                (read.outcome, read.settled_at_ms) = (Some(end.outcome.clone()), Some(end.at_ms));
            }
            prop_assert_eq!(&StoredRequest::from(read), &after);
            stored = after;
        }
    }
}

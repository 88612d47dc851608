//! Each row of the table, and every combination of its inputs.

use super::{setback::Cause, *};
use crate::{
    chain::rpc_error::RpcError,
    contracts::abi::ContractError,
    domain::{Address, SignedResult, U256},
    flow::{access::AccessError, submission::SubmissionError},
};

const EXPIRY: Duration = Duration::from_mins(10);
/// One second less than that.
const ALMOST: Duration = Duration::from_secs(10 * 60 - 1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

fn answer(byte: u8) -> Answer {
    let signed = SignedResult { payload: vec![byte].into(), ..SignedResult::default() };
    Answer::PublicDecryption(signed)
}

fn stages() -> [Stage; 4] {
    [Stage::Arrived, Stage::Asked, Stage::Answered(answer(1)), Stage::Submitted(answer(1))]
}

fn held(reason: HoldReason) -> Setback {
    Setback::held(Hold::new(reason, "an operator mends it"))
}

fn trouble(own: bool) -> Setback {
    Setback { is_own: own, ..Setback::retry(Cause::BlockLeftChain) }
}

fn refused() -> Setback {
    Setback::own(Remedy::Refuse(Refusal::NotRequested), Cause::NoNodeShowsIt)
}

/// Every error of a submission.
fn submission_errors() -> Vec<SubmissionError> {
    let signer = Address::ZERO;
    let rejections = [
        ContractError::KmsNodeAlreadySigned { id: U256::ONE, signer },
        ContractError::DecryptionNotRequested(U256::ONE),
        ContractError::EnforcedPause,
        ContractError::NotKmsSigner(signer),
    ];
    let mut all: Vec<_> = rejections.into_iter().map(SubmissionError::Rejected).collect();
    all.extend([
        SubmissionError::Rpc(RpcError::Unavailable { host: "a".into(), what: "away".into() }),
        SubmissionError::Held(Hold::new(HoldReason::MessageTooLarge, "it is")),
        SubmissionError::PriorAnswerNotFinal,
        SubmissionError::PriorAnswerSearchIncomplete,
        SubmissionError::NodesContradict,
        SubmissionError::NotSaidByAll,
        SubmissionError::Paused,
        SubmissionError::NotRequestedYet,
        SubmissionError::NotRequested,
        SubmissionError::Stopped,
    ]);
    all
}

fn setbacks() -> Vec<Setback> {
    let mut all: Vec<Setback> = HoldReason::ALL.iter().map(|reason| held(*reason)).collect();
    all.extend([trouble(false), trouble(true), refused()]);
    all.push(Setback::own(Remedy::Refuse(Refusal::Malformed("odd".to_owned())), Cause::SameAnswer));
    all.extend(submission_errors().into_iter().map(Setback::of_submission));
    all
}

fn standing(worked: Duration) -> RequestState {
    RequestState {
        stage: Stage::Arrived,
        held: None,
        worked,
        bound_context: None,
        is_approved: false,
    }
}

/// Every history that makes a difference to [`decide`].
fn histories(begun: Instant) -> Vec<History> {
    let mut all = Vec::new();
    for worked in [None, Some(Duration::ZERO), Some(ALMOST), Some(EXPIRY)] {
        for rejected in [None, Some((answer(0), Hold::new(HoldReason::InvalidAnswer, "no")))] {
            for (stuck_for, doubted) in [
                (None, false),
                (None, true),
                (Some(GIVE_WAY_AFTER / 2), false),
                (Some(GIVE_WAY_AFTER / 2), true),
                (Some(GIVE_WAY_AFTER), false),
            ] {
                let standing = worked.map(standing);
                let mut history = History::begin(standing.as_ref(), false, LONGEST_PAUSE);
                history.rejected.clone_from(&rejected);
                history.doubted = doubted;
                history.stuck_since = stuck_for.map(|long| begun - long);
                all.push(history);
            }
        }
    }
    all
}

/// An attempt that took this long and failed just now.
fn moment(took: Duration, wanted: bool, dice: f64) -> FailedAttempt {
    let begun = Instant::now() + Duration::from_hours(1);
    FailedAttempt { begun, now: begun + took, is_recalled: wanted, dice }
}

fn moments() -> Vec<FailedAttempt> {
    let mut all = Vec::new();
    for took in [Duration::ZERO, Duration::from_secs(1), GIVE_WAY_AFTER] {
        for wanted in [false, true] {
            all.extend([0.0, 1.0].map(|dice| moment(took, wanted, dice)));
        }
    }
    all
}

/// One combination and its decision.
struct Case {
    stage: Stage,
    setback: Setback,
    before: History,
    at: FailedAttempt,
    then: WalkDecision,
    after: History,
}

impl Case {
    fn has_answer(&self) -> bool {
        matches!(self.stage, Stage::Answered(_) | Stage::Submitted(_))
    }

    fn took(&self) -> Duration {
        self.at.now - self.at.begun
    }

    /// Working time in this attempt.
    fn work(&self) -> Duration {
        if self.stage == Stage::Asked { self.took() } else { Duration::ZERO }
    }

    fn stuck_for(&self) -> Duration {
        self.at.now - self.before.stuck_since.unwrap_or(self.at.begun)
    }

    fn asks_for_another(&self) -> bool {
        let Remedy::Hold(hold) = &self.setback.remedy else { return false };
        let first = self.before.rejected.is_none();
        self.has_answer() && self.before.recovered && first && blames_answer(hold.reason)
    }
}

fn each_case(check: impl Fn(&Case)) {
    let mut cases = 0;
    for at in moments() {
        for before in histories(at.begun) {
            for stage in stages() {
                for setback in setbacks() {
                    let mut after = before.clone();
                    let then = decide(&stage, &setback, &mut after, at, EXPIRY);
                    let (stage, before) = (stage.clone(), before.clone());
                    check(&Case { stage, setback, before, at, then, after });
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 30_000, "{cases}");
}

/// In the order of the table.
#[test]
fn each_line_of_the_table() {
    let second = Duration::from_secs(1);
    let new = || History::begin(None, false, LONGEST_PAUSE);
    let again = |worked| History::begin(Some(&standing(worked)), false, LONGEST_PAUSE);
    let stuck =
        |at: FailedAttempt| History { stuck_since: Some(at.begun - GIVE_WAY_AFTER), ..new() };
    let [arrived, asked, answered, _] = stages();
    let at = moment(second, true, 1.0);
    let then = |stage: &Stage, setback: Setback, mut history: History, at| {
        decide(stage, &setback, &mut history, at, EXPIRY)
    };
    let hold = |reason, worked| {
        let Remedy::Hold(hold) = held(reason).remedy else { unreachable!("it is one") };
        WalkDecision::Hold { hold, worked, valid_after: None }
    };

    assert_eq!(
        then(&asked, refused(), again(EXPIRY), at),
        WalkDecision::Refuse(Refusal::NotRequested)
    );

    let blamed = HoldReason::SignerNotRegistered;
    assert_eq!(then(&answered, held(blamed), again(EXPIRY), at), WalkDecision::AskForBetterAnswer);
    assert_eq!(then(&answered, held(blamed), new(), at), hold(blamed, Duration::ZERO));
    let poor = HoldReason::NoFunds;
    assert_eq!(then(&answered, held(poor), again(second), at), hold(poor, Duration::ZERO));

    let silent = Setback::no_answer(Some(second));
    let almost = || again(ALMOST);
    assert_eq!(then(&asked, silent.clone(), almost(), at), WalkDecision::Expire { worked: second });
    let [half, zero] = [second / 2, Duration::ZERO];
    let reason = HoldReason::CoreSilent;
    let soon = moment(half, true, 1.0);
    assert!(matches!(
        then(&asked, silent, almost(), soon),
        WalkDecision::Hold { hold, worked, .. } if hold.reason == reason && worked == half
    ));
    let denied = HoldReason::AccessDenied;
    assert_eq!(then(&arrived, held(denied), almost(), at), hold(denied, zero));

    assert!(matches!(
        then(&arrived, trouble(true), stuck(at), at),
        WalkDecision::GiveWay { hold, valid_after: None } if hold.reason == HoldReason::NoProgress
    ));
    let denied = |at: FailedAttempt| History {
        stuck_since: Some(at.begun - DENIED_GIVES_WAY_AFTER),
        doubted: true,
        ..new()
    };
    let gives_way = |then| matches!(then, WalkDecision::GiveWay { .. });
    assert!(gives_way(then(&arrived, trouble(true), denied(at), at)));
    let unwanted = FailedAttempt { is_recalled: false, ..at };
    for (setback, history, at) in [
        (trouble(false), stuck(at), at),
        (trouble(true), denied(at), unwanted),
        (trouble(true), History { doubted: false, ..denied(at) }, at),
        (trouble(true), stuck(at), unwanted),
        (trouble(true), new(), at),
        (trouble(true), again(EXPIRY), at),
    ] {
        let retry = WalkDecision::Retry { after: FIRST_PAUSE, is_new_cause: true };
        assert_eq!(then(&arrived, setback, history, at), retry);
    }
}

/// Held or giving way: the time until it is valid goes with it, and with nothing else.
#[test]
fn what_is_not_valid_yet_is_looked_at_again_when_it_is() {
    let early = AccessError::Early { chain_id: 1, now: 100, start: U256::from(190) };
    let waits = Some(Duration::from_secs(90));
    let hold = Hold::new(HoldReason::NotYetValid, early.to_string());
    let at = moment(GIVE_WAY_AFTER, true, 1.0);
    let decided = |remedy, error: &AccessError| {
        let setback = Setback::own(remedy, error.clone());
        let mut history = History::begin(None, false, LONGEST_PAUSE);
        decide(&Stage::Arrived, &setback, &mut history, at, EXPIRY)
    };
    assert_eq!(
        decided(Remedy::Hold(hold.clone()), &early),
        WalkDecision::Hold { hold: hold.clone(), worked: Duration::ZERO, valid_after: waits }
    );
    assert_eq!(decided(Remedy::Retry, &early), WalkDecision::GiveWay { hold, valid_after: waits });
    let never = AccessError::Early { chain_id: 1, now: 100, start: U256::MAX };
    let valid_after = Some(Duration::from_secs(u64::MAX));
    let hold = Hold::new(HoldReason::NotYetValid, never.to_string());
    assert_eq!(decided(Remedy::Retry, &never), WalkDecision::GiveWay { hold, valid_after });
    let denied = AccessError::Denied { chain_id: 1, what: "no".into() };
    let then = decided(Remedy::Retry, &denied);
    assert!(matches!(then, WalkDecision::GiveWay { valid_after: None, .. }), "{then:?}");
}

/// Of all contract errors only one ends the request: no node knows it.
#[test]
fn a13_what_the_nodes_do_not_agree_on_is_tried_again() {
    each_case(|case| {
        let Cause::Submission(error) = &case.setback.cause else { return };
        let refused = matches!(case.then, WalkDecision::Refuse(_));
        assert_eq!(refused, matches!(error, SubmissionError::NotRequested), "{error}");
        let unclear = matches!(
            error,
            SubmissionError::NodesContradict
                | SubmissionError::NotSaidByAll
                | SubmissionError::NotRequestedYet
        );
        let goes_on =
            matches!(case.then, WalkDecision::Retry { .. } | WalkDecision::GiveWay { .. });
        assert!(goes_on || !unclear, "{error}");
    });
}

#[test]
fn what_is_refused_ends_and_nothing_else_is_refused() {
    each_case(|case| match (&case.setback.remedy, &case.then) {
        (Remedy::Refuse(refusal), then) => assert_eq!(then, &WalkDecision::Refuse(refusal.clone())),
        (Remedy::Hold(_) | Remedy::Retry, then) => {
            assert!(!matches!(then, WalkDecision::Refuse(_)));
        }
    });
}

/// T33: an outage, or anything transient, never ends a request, however long it lasts.
#[test]
fn t33_only_work_expires_and_all_that_has_worked_enough_does() {
    each_case(|case| {
        let is_held = matches!(case.setback.remedy, Remedy::Hold(_));
        let expires =
            is_held && case.before.worked + case.work() >= EXPIRY && !case.asks_for_another();
        assert_eq!(matches!(case.then, WalkDecision::Expire { .. }), expires);
        if let WalkDecision::Expire { worked } | WalkDecision::Hold { worked, .. } = case.then {
            assert_eq!(worked, case.work());
        }
    });
}

#[test]
fn what_somebody_has_to_mend_is_held_for_what_was_said() {
    each_case(|case| {
        if let WalkDecision::Hold { hold, .. } = &case.then {
            assert_eq!(case.setback.remedy, Remedy::Hold(hold.clone()));
        }
        if matches!(case.setback.remedy, Remedy::Hold(_)) {
            assert!(!matches!(
                case.then,
                WalkDecision::Retry { .. } | WalkDecision::GiveWay { .. }
            ));
        }
    });
}

/// T63: a walk gives its permit up for a lasting problem of its own if another request waits; soon, if
/// a node denies the request.
#[test]
fn t63_who_gets_nowhere_gives_way_to_who_waits() {
    each_case(|case| {
        let gives_way = matches!(case.setback.remedy, Remedy::Retry)
            && case.setback.is_own
            && case.at.is_recalled
            && case.stuck_for()
                >= if case.before.doubted { DENIED_GIVES_WAY_AFTER } else { GIVE_WAY_AFTER };
        assert_eq!(matches!(case.then, WalkDecision::GiveWay { .. }), gives_way);
    });
}

#[test]
fn another_answer_is_asked_for_once() {
    each_case(|case| {
        assert_eq!(matches!(case.then, WalkDecision::AskForBetterAnswer), case.asks_for_another());
        if case.then == WalkDecision::AskForBetterAnswer {
            let (mut after, at) = (case.after.clone(), case.at);
            assert!(after.was_rejected(&answer(1)) && !after.was_rejected(&answer(2)));
            let again = decide(&case.stage, &case.setback, &mut after, at, EXPIRY);
            assert_ne!(again, WalkDecision::AskForBetterAnswer);
        }
    });
}

/// If the Core has no other answer, the request is held for the contract's reason, not for the Core's.
#[test]
fn who_has_no_other_answer_is_held_for_the_one_it_has() {
    each_case(|case| {
        let instead = case.setback.clone().without_better_answer(&case.stage, &case.before);
        let stands = matches!(case.setback.remedy, Remedy::Refuse(_)) || case.has_answer();
        match &case.before.rejected {
            Some((_, said)) if !stands => assert_eq!(instead.remedy, Remedy::Hold(said.clone())),
            Some(_) | None => assert_eq!(instead.remedy, case.setback.remedy),
        }
    });
}

#[test]
fn pauses_grow_and_have_a_bound_and_a_reason_is_news_once() {
    each_case(|case| {
        let WalkDecision::Retry { after, is_new_cause: news, .. } = &case.then else { return };
        assert!(*news && *after >= FIRST_PAUSE / 2 && *after <= FIRST_PAUSE, "{after:?}");
        let mut history = case.after.clone();
        let mut last = *after;
        for _ in 0..20 {
            let then = decide(&case.stage, &case.setback, &mut history, case.at, EXPIRY);
            let WalkDecision::Retry { after, is_new_cause: news, .. } = then else {
                panic!("{then:?}")
            };
            assert!(!news && after >= last && after <= LONGEST_PAUSE, "{after:?}");
            last = after;
        }
        assert!(last >= LONGEST_PAUSE / 2);
        history.advanced(&Stage::Asked, &Stage::Answered(answer(1)));
        assert!(history.pause_before_core(case.at.dice) <= FIRST_PAUSE);
    });
}

#[test]
fn the_third_panic_holds() {
    for times in 0..10 {
        match after_panic(times) {
            Ok(pause) => assert!(times < 3 && pause == PANIC_PAUSE),
            Err(hold) => assert!(times >= 3 && hold.reason == HoldReason::Panicked),
        }
    }
}

/// Whether an answer was sent earlier is never forgotten until it has been checked.
#[test]
fn an_answer_that_may_be_on_its_way_is_looked_for() {
    for (recovered, forgotten) in [(false, false), (false, true), (true, false), (true, true)] {
        let standing = recovered.then(|| standing(Duration::ZERO));
        let mut history = History::begin(standing.as_ref(), forgotten, LONGEST_PAUSE);
        let expected = match (forgotten, recovered) {
            (true, _) => PriorAnswer::MaybeForgotten,
            (false, true) => PriorAnswer::MaybeSent,
            (false, false) => PriorAnswer::Impossible,
        };
        assert_eq!((history.prior_answer, history.maybe_asked), (expected, recovered));
        history.visited(&Stage::Asked);
        assert_eq!((history.prior_answer, history.maybe_asked), (expected, true));
        history.visited(&Stage::Answered(answer(1)));
        assert_ne!(history.prior_answer, PriorAnswer::Impossible);
        assert_eq!(history.prior_answer == PriorAnswer::MaybeForgotten, forgotten);
        history.no_forgotten_answer();
        assert_eq!(history.prior_answer, PriorAnswer::MaybeSent);
    }
}

//! The disk format: how the domain's words become columns and come back, and what a step does to a
//! stored request. No SQL and no I/O here.
//!
//! Names in the `stage`, `hold_reason`, `kind` and `outcome` columns are the stable names of the
//! domain, so that an operator reads them with plain `sqlite3`. Numbers are stored as `SQLite`'s
//! signed 64 bits; above `i64::MAX` (which no chain reaches) they saturate.
//!
//! Invariants:
//! - no step changes a settled request; only its event in another block can open it again;
//! - an answer in hand is never given up: only a newer answer replaces it;
//! - *held* is a flag beside the stage and never moves it.

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef};

use crate::{
    domain::{
        Address, Answer, B256, BlockRef, Bytes, Hold, HoldReason, Kind, Outcome, Refusal,
        RequestKey, U256, excerpt, stage::Stage,
    },
    flow::ledger::Step,
};

/// Errors of requests are kept up to this many characters.
const LONGEST_ERROR: usize = 500;

/// Where an unfinished request stands, without the answer's bytes (they live in a table of their
/// own, so that scans do not read them).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StageName {
    Arrived,
    Asked,
    Answered,
    Submitted,
}

impl StageName {
    pub const ALL: [Self; 4] = [Self::Arrived, Self::Asked, Self::Answered, Self::Submitted];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arrived => "arrived",
            Self::Asked => "asked",
            Self::Answered => "answered",
            Self::Submitted => "submitted",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == name)
    }

    /// The domain's stage. Without its answer (a damaged or edited file) an answered request is
    /// asked again: that costs a repeat, never an outcome.
    pub(super) fn with_answer(self, answer: Option<Answer>) -> Stage {
        match (self, answer) {
            (Self::Arrived, _) | (Self::Answered | Self::Submitted, None) => Stage::Arrived,
            (Self::Asked, _) => Stage::Asked,
            (Self::Answered, Some(answer)) => Stage::Answered(answer),
            (Self::Submitted, Some(answer)) => Stage::Submitted(answer),
        }
    }
}

/// A hold and since when (Unix ms) it lasts for this reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub hold: Hold,
    pub since_ms: u64,
}

/// The part of a stored request that steps change. Times are Unix milliseconds; that of a stage
/// says when it was last entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub stage: StageName,
    pub held: Option<Held>,
    /// Failed attempts so far.
    pub attempts: u32,
    pub last_error: Option<String>,
    /// Time that counts towards the expiry, in milliseconds.
    pub worked_ms: u64,
    /// The transaction last broadcast with the answer.
    pub transaction: Option<B256>,
    pub arrived_at_ms: u64,
    pub asked_at_ms: Option<u64>,
    pub answered_at_ms: Option<u64>,
    pub submitted_at_ms: Option<u64>,
    pub settled_at_ms: Option<u64>,
    pub outcome: Option<Outcome>,
}

/// What a step does to a stored request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change<'s> {
    /// Nothing: the reason is for the log.
    Nothing(&'static str),
    /// The unfinished request moves on; an answer replaces the stored one.
    Advance(Box<Progress>, Option<&'s Answer>),
    /// The request ends.
    Settle(Box<Progress>),
}

/// The effect of `step` at `now_ms` on a request that stands at `before`.
///
/// ```text
///                                                                    Failed, Held
///            Asked      Forgotten  Answered   Submitted   Returned   or Worked    Settled
/// arrived    asked      arrived    answered   (nothing)   arrived    arrived      settled
/// asked      asked      arrived    answered   (nothing)   asked      asked        settled
/// answered   answered   answered   answered   submitted   answered   answered     settled
/// submitted  submitted  submitted  answered   submitted   answered   submitted    settled
/// settled    (nothing in every column)
/// ```
///
/// `Submitted` without an answer contradicts the order of the walk; believing it would leave a
/// restart without bytes to send, so the request stays where it can still be asked.
pub(super) fn advance<'s>(before: &Progress, step: &'s Step, now_ms: u64) -> Change<'s> {
    if before.outcome.is_some() {
        return Change::Nothing("the request is settled");
    }
    let has_answer = match before.stage {
        StageName::Arrived | StageName::Asked => false,
        StageName::Answered | StageName::Submitted => true,
    };
    let mut after = Box::new(before.clone());
    match step {
        Step::Asked => {
            after.held = None;
            if before.stage == StageName::Arrived {
                after.stage = StageName::Asked;
                after.asked_at_ms = Some(now_ms);
            }
            Change::Advance(after, None)
        }
        Step::Forgotten => {
            if !has_answer {
                after.stage = StageName::Arrived;
            }
            Change::Advance(after, None)
        }
        Step::Answered(answer) => {
            after.held = None;
            after.stage = StageName::Answered;
            after.answered_at_ms = Some(now_ms);
            Change::Advance(after, Some(answer))
        }
        Step::Submitted { .. } if !has_answer => {
            Change::Nothing("submitted, but no answer is stored")
        }
        Step::Submitted { transaction } => {
            after.held = None;
            after.stage = StageName::Submitted;
            after.submitted_at_ms = Some(now_ms);
            after.transaction = Some(*transaction);
            Change::Advance(after, None)
        }
        Step::Returned { why } => {
            if has_answer {
                after.stage = StageName::Answered;
            }
            after.last_error = Some(excerpt(LONGEST_ERROR, why));
            Change::Advance(after, None)
        }
        Step::Failed { why } => {
            after.attempts = after.attempts.saturating_add(1);
            after.last_error = Some(excerpt(LONGEST_ERROR, why));
            Change::Advance(after, None)
        }
        Step::Held(hold) => {
            let since_ms = before
                .held
                .as_ref()
                .filter(|held| held.hold.reason == hold.reason)
                .map_or(now_ms, |held| held.since_ms);
            let hold = Hold::new(hold.reason, excerpt(LONGEST_ERROR, &hold.detail));
            after.held = Some(Held { hold, since_ms });
            Change::Advance(after, None)
        }
        Step::Worked(time) => {
            let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            after.worked_ms = after.worked_ms.saturating_add(time_ms);
            Change::Advance(after, None)
        }
        Step::Settled(outcome) => {
            after.held = None;
            after.settled_at_ms = Some(now_ms);
            after.outcome = Some(outcome.clone());
            Change::Settle(after)
        }
    }
}

/// The step's name for the log: its contents may be large.
pub(super) fn step_name(step: &Step) -> &'static str {
    match step {
        Step::Asked => "asked",
        Step::Forgotten => "forgotten",
        Step::Answered(_) => "answered",
        Step::Submitted { .. } => "submitted",
        Step::Returned { .. } => "returned",
        Step::Failed { .. } => "failed",
        Step::Held(_) => "held",
        Step::Worked(_) => "worked",
        Step::Settled(_) => "settled",
    }
}

/// Whether what settled a request is a fact of the chain, which a reorganisation can undo.
pub(super) fn settled_by_chain(outcome: Option<&str>, refusal: Option<&str>) -> bool {
    match outcome {
        Some("accepted" | "already_answered" | "orphaned") => true,
        Some("refused") => refusal == Some("not_requested"),
        _ => false,
    }
}

/// A text as stored, perhaps by a version that took others' words as they came.
pub(super) fn told(text: Option<String>) -> Option<String> {
    text.map(|text| excerpt(LONGEST_ERROR + 1, text))
}

/// The kind of a stored name.
pub(super) fn kind_from_name(name: &str) -> Option<Kind> {
    [Kind::PublicDecryption, Kind::UserDecryption].into_iter().find(|kind| kind.as_str() == name)
}

/// A hold as stored. A reason this version does not know reads as "not held": the request is
/// tried again and the reason found anew.
pub(super) fn held_from_columns(
    reason: Option<&str>,
    detail: Option<String>,
    since_ms: Option<u64>,
) -> Option<Held> {
    let reason = HoldReason::from_name(reason?)?;
    let hold = Hold::new(reason, told(detail).unwrap_or_default());
    Some(Held { hold, since_ms: since_ms.unwrap_or_default() })
}

/// An outcome in the shape of its columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OutcomeColumns {
    pub name: Option<String>,
    /// The refusal's name.
    pub refusal: Option<String>,
    pub detail: Option<String>,
    pub transaction: Option<B256>,
    pub block: Option<BlockRef>,
}

impl From<&Outcome> for OutcomeColumns {
    fn from(outcome: &Outcome) -> Self {
        let name = Some(outcome.as_str().to_owned());
        match outcome {
            Outcome::Accepted { transaction, block } => Self {
                name,
                transaction: Some(*transaction),
                block: Some(*block),
                ..Self::default()
            },
            Outcome::AlreadyAnswered | Outcome::Expired | Outcome::Orphaned | Outcome::Observed => {
                Self { name, ..Self::default() }
            }
            Outcome::Refused(Refusal::Malformed(what)) => Self {
                name,
                refusal: Some("malformed".to_owned()),
                detail: Some(what.clone()),
                ..Self::default()
            },
            Outcome::Refused(Refusal::NotRequested) => {
                Self { name, refusal: Some("not_requested".to_owned()), ..Self::default() }
            }
        }
    }
}

impl OutcomeColumns {
    /// The outcome, `None` if there is none yet. An unknown or half-written one is an error: a
    /// settled request must not be taken for an open one.
    pub(super) fn read(self) -> Result<Option<Outcome>, String> {
        let Some(name) = self.name else { return Ok(None) };
        let outcome = match (name.as_str(), self.refusal.as_deref(), self.transaction, self.block) {
            ("accepted", _, Some(transaction), Some(block)) => {
                Outcome::Accepted { transaction, block }
            }
            ("already_answered", ..) => Outcome::AlreadyAnswered,
            ("expired", ..) => Outcome::Expired,
            ("orphaned", ..) => Outcome::Orphaned,
            ("observed", ..) => Outcome::Observed,
            ("refused", Some("malformed"), ..) => {
                Outcome::Refused(Refusal::Malformed(told(self.detail).unwrap_or_default()))
            }
            ("refused", Some("not_requested"), ..) => Outcome::Refused(Refusal::NotRequested),
            _ => return Err(format!("outcome {name:?} with these columns")),
        };
        Ok(Some(outcome))
    }
}

/// A `u64` in `SQLite`'s signed 64 bits, saturating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(pub u64);

impl ToSql for Number {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(Value::Integer(i64::try_from(self.0).unwrap_or(i64::MAX))))
    }
}

impl FromSql for Number {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = i64::column_result(value)?;
        u64::try_from(number)
            .map(Self)
            .map_err(|_| rusqlite::types::FromSqlError::OutOfRange(number))
    }
}

/// Fixed bytes as a blob of exactly their length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fixed<T>(pub T);

impl ToSql for Fixed<B256> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.0.as_slice())))
    }
}

impl FromSql for Fixed<B256> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 32]>::column_result(value).map(|bytes| Self(B256::from(bytes)))
    }
}

impl ToSql for Fixed<Address> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.0.as_slice())))
    }
}

impl FromSql for Fixed<Address> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 20]>::column_result(value).map(|bytes| Self(Address::from(bytes)))
    }
}

impl ToSql for Fixed<U256> {
    /// 32 bytes big-endian, so that ids sort as numbers.
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(Value::Blob(self.0.to_be_bytes::<32>().to_vec())))
    }
}

impl FromSql for Fixed<U256> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 32]>::column_result(value).map(|bytes| Self(U256::from_be_bytes(bytes)))
    }
}

/// A key out of its two columns; both or none.
pub(super) fn key_from_columns(
    id: Option<Fixed<U256>>,
    content: Option<Fixed<B256>>,
) -> Option<RequestKey> {
    Some(RequestKey { id: id?.0, content: content?.0 })
}

/// A block out of its two columns; both or none.
pub(super) fn block_from_columns(
    number: Option<Number>,
    hash: Option<Fixed<B256>>,
) -> Option<BlockRef> {
    Some(BlockRef { number: number?.0, hash: hash?.0 })
}

/// Topics as one blob, 32 bytes each.
pub(super) fn topics_to_blob(topics: &[B256]) -> Vec<u8> {
    topics.iter().flat_map(|topic| topic.0).collect()
}

/// The topics of [`topics_to_blob`]; `None` if the length is no multiple of 32.
pub(super) fn topics_from_blob(blob: &[u8]) -> Option<Vec<B256>> {
    let (words, rest) = blob.as_chunks::<32>();
    rest.is_empty().then(|| words.iter().map(|word| B256::from(*word)).collect())
}

/// Bytes of a blob column.
pub(super) fn bytes(blob: Vec<u8>) -> Bytes {
    Bytes::from(blob)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        Answer {
            payload: Bytes::from_static(b"payload"),
            signature: Bytes::from_static(b"signature"),
            extra_data: Bytes::new(),
        }
    }

    fn hold(reason: HoldReason) -> Step {
        Step::Held(Hold::new(reason, "top it up"))
    }

    fn at(stage: StageName) -> Progress {
        Progress {
            stage,
            held: Some(Held { hold: Hold::new(HoldReason::NoFunds, "empty"), since_ms: 5 }),
            attempts: 3,
            last_error: None,
            worked_ms: 0,
            transaction: None,
            arrived_at_ms: 1,
            asked_at_ms: None,
            answered_at_ms: None,
            submitted_at_ms: None,
            settled_at_ms: None,
            outcome: None,
        }
    }

    fn steps() -> Vec<Step> {
        vec![
            Step::Asked,
            Step::Forgotten,
            Step::Answered(answer()),
            Step::Submitted { transaction: B256::repeat_byte(7) },
            Step::Returned { why: "reverted".into() },
            Step::Failed { why: "timeout".into() },
            hold(HoldReason::AccessDenied),
            Step::Settled(Outcome::Expired),
        ]
    }

    #[test]
    fn every_stage_and_step_lands_where_the_table_says() {
        use StageName::{Answered, Arrived, Asked, Submitted};
        // One row per stage, one column per step in the order of `steps`; None: settled.
        let table = [
            (Arrived, [Asked, Arrived, Answered, Arrived, Arrived, Arrived, Arrived]),
            (Asked, [Asked, Arrived, Answered, Asked, Asked, Asked, Asked]),
            (Answered, [Answered, Answered, Answered, Submitted, Answered, Answered, Answered]),
            (
                Submitted,
                [Submitted, Submitted, Answered, Submitted, Answered, Submitted, Submitted],
            ),
        ];
        for (before, row) in table {
            for (step, expected) in steps().iter().zip(row) {
                let start = at(before);
                match advance(&start, step, 9) {
                    Change::Advance(after, stored) => {
                        assert_eq!(after.stage, expected, "{before:?} {step:?}");
                        assert_eq!(stored.is_some(), matches!(step, Step::Answered(_)));
                        assert_eq!(after.outcome, None);
                        let clears = matches!(
                            step,
                            Step::Asked | Step::Answered(_) | Step::Submitted { .. }
                        );
                        assert_eq!(after.held.is_none(), clears, "{before:?} {step:?}");
                    }
                    Change::Nothing(_) => {
                        assert_eq!(before, expected);
                        assert!(matches!(step, Step::Submitted { .. }), "{before:?} {step:?}");
                    }
                    Change::Settle(_) => panic!("{before:?} {step:?} settled"),
                }
            }
            let start = at(before);
            let Change::Settle(after) = advance(&start, &Step::Settled(Outcome::Orphaned), 9)
            else {
                panic!("not settled")
            };
            assert_eq!(after.outcome, Some(Outcome::Orphaned));
            assert_eq!((after.settled_at_ms, after.held.clone()), (Some(9), None));
            for step in steps() {
                assert!(matches!(advance(&after, &step, 10), Change::Nothing(_)), "{step:?}");
            }
        }
    }

    #[test]
    fn failures_count_and_are_cut_at_500_characters() {
        let start = at(StageName::Asked);
        let step = Step::Failed { why: "ä".repeat(900) };
        let Change::Advance(after, None) = advance(&start, &step, 9) else { panic!() };
        assert_eq!(after.attempts, 4);
        assert_eq!(after.last_error.unwrap().chars().count(), 501, "and a mark");
    }

    #[test]
    fn a_hold_keeps_its_start_while_its_reason_stays() {
        let start = at(StageName::Arrived);
        let since = |reason| {
            let step = hold(reason);
            let Change::Advance(after, None) = advance(&start, &step, 9) else { panic!() };
            after.held.unwrap().since_ms
        };
        assert_eq!(since(HoldReason::NoFunds), 5);
        assert_eq!(since(HoldReason::FeeCap), 9);
    }

    #[test]
    fn outcomes_come_back_from_their_columns() {
        let block = BlockRef { number: 7, hash: B256::repeat_byte(1) };
        for outcome in [
            Outcome::Accepted { transaction: B256::repeat_byte(2), block },
            Outcome::AlreadyAnswered,
            Outcome::Expired,
            Outcome::Orphaned,
            Outcome::Observed,
            Outcome::Refused(Refusal::Malformed("no materials".into())),
            Outcome::Refused(Refusal::NotRequested),
        ] {
            assert_eq!(OutcomeColumns::from(&outcome).read(), Ok(Some(outcome)));
        }
        assert_eq!(OutcomeColumns::default().read(), Ok(None));
        for broken in ["accepted", "refused", "from_the_future"] {
            let columns = OutcomeColumns { name: Some(broken.into()), ..Default::default() };
            assert!(columns.read().is_err(), "{broken}");
        }
    }

    #[test]
    fn stored_names_are_those_of_the_domain() {
        let stages =
            [Stage::Arrived, Stage::Asked, Stage::Answered(answer()), Stage::Submitted(answer())];
        for (name, stage) in StageName::ALL.into_iter().zip(stages) {
            assert_eq!(name.as_str(), stage.as_str());
            assert_eq!(StageName::from_name(name.as_str()), Some(name));
            assert_eq!(name.with_answer(Some(answer())), stage);
        }
        assert_eq!(StageName::Submitted.with_answer(None), Stage::Arrived);
        for kind in [Kind::PublicDecryption, Kind::UserDecryption] {
            assert_eq!(kind_from_name(kind.as_str()), Some(kind));
        }
    }

    #[test]
    fn topics_keep_their_order_and_refuse_a_cut_blob() {
        let topics = vec![B256::repeat_byte(1), B256::repeat_byte(2)];
        let blob = topics_to_blob(&topics);
        assert_eq!(topics_from_blob(&blob), Some(topics));
        assert_eq!(topics_from_blob(&blob[..40]), None);
    }
}

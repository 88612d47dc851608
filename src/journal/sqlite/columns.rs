//! The disk format: converts the domain's types into columns and back. No SQL and no I/O here.
//!
//! The columns `stage`, `hold_reason`, `kind` and `outcome` contain the domain's stable names, so that an
//! operator can read them with plain `sqlite3`. Numbers are stored as `SQLite`'s signed 64 bits and saturate
//! at `i64::MAX` (which no chain reaches).

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef};

use crate::{
    domain::{
        AccessRefusal, AccessRefusalReason, Address, B256, BlockRef, Bytes, Hold, HoldReason,
        Outcome, Refusal, RequestKey, RequestSource, U256, excerpt,
    },
    flow::ledger::Step,
    journal::progress::{LONGEST_ERROR, StoredHold},
};

/// Lines of an access check that are read back.
const LONGEST_RECORD_LINES: usize = 200;

/// The step's name for logs. Its contents may be large.
pub(super) fn step_name(step: &Step) -> &'static str {
    match step {
        Step::AccessChecked(_) => "access_checked",
        Step::Asked { .. } => "asked",
        Step::Forgotten => "forgotten",
        Step::Answered(_) => "answered",
        Step::Submitted { .. } => "submitted",
        Step::Returned { .. } => "returned",
        Step::Failed { .. } => "failed",
        Step::Held(_) => "held",
        Step::WorkTime(_) => "worked",
        Step::Settled(_) => "settled",
    }
}

/// A text as stored, bounded again: an earlier version may have stored texts of other programs without a
/// bound.
pub(super) fn bounded_text(text: Option<String>) -> Option<String> {
    text.map(|text| excerpt(LONGEST_ERROR + 1, text))
}

/// A text of several lines as stored, bounded again.
pub(super) fn bounded_lines(text: &str) -> String {
    let lines = text.lines().take(LONGEST_RECORD_LINES);
    lines.map(|line| excerpt(LONGEST_ERROR + 1, line)).collect::<Vec<_>>().join("\n")
}

/// A hold as stored. A reason that this version does not know reads as "not held": the request is tried
/// again, and the reason is found again.
pub(super) fn held_from_columns(
    reason: Option<&str>,
    detail: Option<String>,
    since_ms: Option<u64>,
) -> Option<StoredHold> {
    let reason = HoldReason::from_name(reason?)?;
    let hold = Hold::new(reason, bounded_text(detail).unwrap_or_default());
    Some(StoredHold { hold, since_ms: since_ms.unwrap_or_default() })
}

/// The columns of an outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OutcomeColumns {
    pub name: Option<String>,
    /// The name of the refusal.
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
            Outcome::AlreadyAnswered
            | Outcome::Expired
            | Outcome::Orphaned
            | Outcome::Observed
            | Outcome::Aborted
            | Outcome::NoAnswerDue
            | Outcome::Recorded => Self { name, ..Self::default() },
            Outcome::Refused(Refusal::Malformed(what)) => Self {
                name,
                refusal: Some("malformed".to_owned()),
                detail: Some(what.clone()),
                ..Self::default()
            },
            Outcome::Refused(Refusal::AccessRefused(why)) => Self {
                name,
                refusal: Some(why.reason.as_str().to_owned()),
                detail: Some(why.detail.clone()),
                ..Self::default()
            },
            Outcome::Refused(Refusal::NotRequested) => {
                Self { name, refusal: Some("not_requested".to_owned()), ..Self::default() }
            }
        }
    }
}

impl OutcomeColumns {
    /// Reads the outcome. `None`: there is none yet. An unknown or incomplete outcome is an error: a settled
    /// request must not be taken for an open one.
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
            ("aborted", ..) => Outcome::Aborted,
            ("no_answer_due", ..) => Outcome::NoAnswerDue,
            ("recorded", ..) => Outcome::Recorded,
            ("refused", Some("malformed"), ..) => {
                Outcome::Refused(Refusal::Malformed(bounded_text(self.detail).unwrap_or_default()))
            }
            ("refused", Some("not_requested"), ..) => Outcome::Refused(Refusal::NotRequested),
            ("refused", Some(word), ..) => {
                let reason = AccessRefusalReason::from_name(word)
                    .ok_or_else(|| format!("refusal {word:?}"))?;
                let detail = bounded_text(self.detail).unwrap_or_default();
                Outcome::Refused(Refusal::AccessRefused(AccessRefusal { reason, detail }))
            }
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

/// A source as stored in the `contract` columns. A contract on the journal's own chain is its address alone;
/// one on another chain is that chain's id (8 bytes, big-endian) followed by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SourceColumn {
    pub source: RequestSource,
    /// The journal's own chain.
    pub home: u64,
    bytes: [u8; 28],
}

impl SourceColumn {
    /// In a journal of the chain `home`.
    pub fn of(source: RequestSource, home: u64) -> Self {
        let mut bytes = [0; 28];
        bytes[..8].copy_from_slice(&source.chain_id.to_be_bytes());
        bytes[8..].copy_from_slice(source.contract.as_slice());
        Self { source, home, bytes }
    }

    /// A contract on the journal's own chain, whichever that is: for what returns no keys.
    pub fn home(contract: Address) -> Self {
        Self::of(RequestSource { chain_id: 0, contract }, 0)
    }

    /// The prefix before the address: empty on the journal's own chain.
    pub fn chain(&self) -> &[u8] {
        &self.bytes[self.begins()..8]
    }

    /// Where what is written of the bytes begins.
    fn begins(&self) -> usize {
        if self.source.chain_id == self.home { 8 } else { 0 }
    }
}

/// The source that a `contract` column names in a journal of the chain `home`.
pub(super) fn source_from_column(blob: &[u8], home: u64) -> Option<RequestSource> {
    let (chain, contract) = blob.split_at_checked(blob.len().checked_sub(20)?)?;
    let chain_id = match chain {
        [] => home,
        chain => u64::from_be_bytes(chain.try_into().ok()?),
    };
    Some(RequestSource { chain_id, contract: Address::from_slice(contract) })
}

impl ToSql for SourceColumn {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(&self.bytes[self.begins()..])))
    }
}

/// Fixed bytes, stored as a blob of exactly their length.
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
    /// 32 bytes, big-endian, so that ids sort as numbers.
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(Value::Blob(self.0.to_be_bytes::<32>().to_vec())))
    }
}

impl FromSql for Fixed<U256> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 32]>::column_result(value).map(|bytes| Self(U256::from_be_bytes(bytes)))
    }
}

/// A key from its two columns. `None` unless both are set.
pub(super) fn key_from_columns(
    source: RequestSource,
    id: Option<Fixed<U256>>,
    content: Option<Fixed<B256>>,
) -> Option<RequestKey> {
    Some(RequestKey { source, id: id?.0, content: content?.0 })
}

/// A block from its two columns. `None` unless both are set.
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

/// The inverse of [`topics_to_blob`]. `None` if the length is no multiple of 32.
pub(super) fn topics_from_blob(blob: &[u8]) -> Option<Vec<B256>> {
    let (words, rest) = blob.as_chunks::<32>();
    rest.is_empty().then(|| words.iter().map(|word| B256::from(*word)).collect())
}

pub(super) fn bytes(blob: Vec<u8>) -> Bytes {
    Bytes::from(blob)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Kind;

    #[test]
    fn outcomes_come_back_from_their_columns() {
        for outcome in Outcome::each() {
            assert_eq!(OutcomeColumns::from(&outcome).read(), Ok(Some(outcome)));
        }
        assert_eq!(OutcomeColumns::default().read(), Ok(None));
        for broken in ["accepted", "refused", "from_the_future"] {
            let columns = OutcomeColumns { name: Some(broken.into()), ..Default::default() };
            assert!(columns.read().is_err(), "{broken}");
        }
    }

    #[test]
    fn stored_kinds_are_those_of_the_domain() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.as_str()), Some(kind));
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

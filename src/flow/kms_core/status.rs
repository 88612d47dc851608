//! What a gRPC status means: the one table (protocol: kms-core-grpc 6). Pure.
//!
//! A status with a source was made on our side of the wire (connection lost, stream reset, nothing
//! listening), whatever its code is. Only a status without a source comes from a Core.

use std::error::Error as _;

use tonic::{Code, Status};

use super::bounded_reply::TooLarge;
use crate::domain::HoldReason;

/// A code's name, for metrics.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// The call that a status answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// `PublicDecrypt`, `UserDecrypt`.
    Ask,
    /// `KeyGenPreproc`, `KeyGen`, `CrsGen`: a Core that makes a KMS context or an epoch takes none.
    AskKey,
    /// `GetPublicDecryptionResult`, `GetUserDecryptionResult`.
    Poll,
    /// `GetKeyGenPreprocResult`, `GetKeyGenResult`, `GetCrsGenResult`, `GetEpochResult`.
    PollKey,
    /// `Init`, `InitiateResharing`, `NewMpcContext`, `NewMpcEpoch`: of these a Core does one at a time.
    Tell,
    /// `AbortKeyGen`, `AbortCrsGen`, `DestroyMpcContext`, `DestroyMpcEpoch`: calls without a result that undo
    /// something.
    Undo,
}

/// What a status means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusMeaning {
    /// Ask: the Core has this id already. The same as accepted. Undo: there is nothing to undo.
    AlreadyKnown,
    /// Ask: refused or already known. Cores up to v0.11.0 answer `Aborted` to both, later ones if their
    /// result store is full. Only a poll can tell.
    Ambiguous,
    /// Poll: the Core still works on it.
    Pending,
    /// Poll: the Core does not know the id: restarted, evicted, or never accepted.
    Forgotten,
    /// Ask: the Core does not have the key, or not the context or epoch. Its words are the same.
    Lacking,
    /// The Core is overloaded. Try the same again later.
    Busy,
    /// No Core answered. Try the same again later.
    Unreachable,
    /// Time or an operator must act. The text says what to check.
    Hold(HoldReason, &'static str),
}

/// The table.
#[must_use]
pub fn meaning(call: CallKind, status: &Status) -> StatusMeaning {
    if let Some(source) = status.source() {
        return if source.is::<prost::DecodeError>() {
            StatusMeaning::Hold(HoldReason::InvalidAnswer, "the reply is not the expected message")
        } else if source.is::<TooLarge>() {
            StatusMeaning::Hold(
                HoldReason::InvalidAnswer,
                "the KMS Core's reply is larger than any answer to this request",
            )
        } else {
            StatusMeaning::Unreachable
        };
    }
    let too_large = StatusMeaning::Hold(
        HoldReason::MessageTooLarge,
        "a message exceeds a size limit; see grpc_max_message_size of the Core",
    );
    let no_such_service = StatusMeaning::Hold(
        HoldReason::CoreRefused,
        "kms_core_endpoint answers, but is not a known KMS Core",
    );
    let not_allowed = StatusMeaning::Hold(
        HoldReason::CoreRefused,
        "a proxy in front of the KMS Core denies access",
    );
    let no_signing_key = StatusMeaning::Hold(
        HoldReason::CoreFailed,
        "the KMS Core is not ready for requests; does it have its signing key?",
    );
    match (call, status.code()) {
        (CallKind::Ask | CallKind::AskKey | CallKind::Tell, Code::AlreadyExists)
        | (CallKind::Undo, Code::NotFound | Code::AlreadyExists | Code::Unimplemented) => {
            StatusMeaning::AlreadyKnown
        }
        (CallKind::Ask | CallKind::AskKey, Code::Aborted) => StatusMeaning::Ambiguous,
        (CallKind::Ask | CallKind::AskKey | CallKind::Tell, Code::NotFound) => {
            StatusMeaning::Lacking
        }
        (CallKind::AskKey, Code::FailedPrecondition) => StatusMeaning::Hold(
            HoldReason::CoreFailed,
            "the KMS Core takes no key operation now: it makes a KMS context or an epoch, and is asked again; else it \
             has no signing key",
        ),
        (CallKind::Tell, Code::Unimplemented) => StatusMeaning::Hold(
            HoldReason::CoreVersion,
            "the KMS Core has no such call: it is of another time than the contract",
        ),
        (CallKind::Poll | CallKind::PollKey, Code::NotFound) => StatusMeaning::Forgotten,
        (CallKind::PollKey, Code::Aborted) => StatusMeaning::Hold(
            HoldReason::CoreAborted,
            "the KMS Core has aborted the operation, and the contract has not",
        ),
        // "Unavailable" is the Core's word for "still running". A proxy without a Core behind it says the
        // same; polling on is right in both cases. The other codes are the server's own limit on the duration
        // of a call, in different versions of tonic.
        (
            CallKind::Poll | CallKind::PollKey,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled,
        ) => StatusMeaning::Pending,
        (_, Code::InvalidArgument) => {
            StatusMeaning::Hold(HoldReason::CoreRefused, "the KMS Core refuses the request")
        }
        (CallKind::Ask | CallKind::AskKey | CallKind::Tell | CallKind::Undo, Code::Internal) => {
            StatusMeaning::Hold(
                HoldReason::CoreFailed,
                "the KMS Core failed on the request (up to v0.12 also: unknown context or epoch)",
            )
        }
        (
            CallKind::Poll | CallKind::PollKey,
            Code::Internal | Code::Aborted | Code::AlreadyExists,
        ) => StatusMeaning::Hold(HoldReason::CoreFailed, "the KMS Core failed on the request"),
        (_, Code::ResourceExhausted) if speaks_of_size(status.message()) => too_large,
        // The others: another operation of its kind runs.
        (_, Code::ResourceExhausted)
        | (CallKind::Tell | CallKind::Undo, Code::FailedPrecondition | Code::Aborted) => {
            StatusMeaning::Busy
        }
        (_, Code::OutOfRange) => too_large,
        (_, Code::FailedPrecondition) => no_signing_key,
        (_, Code::Unimplemented) => no_such_service,
        (_, Code::PermissionDenied | Code::Unauthenticated) => not_allowed,
        (_, Code::DataLoss) => {
            StatusMeaning::Hold(HoldReason::CoreFailed, "the KMS Core reports lost data")
        }
        (
            CallKind::Ask | CallKind::AskKey | CallKind::Tell | CallKind::Undo,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled,
        )
        | (_, Code::Unknown | Code::Ok) => StatusMeaning::Unreachable,
    }
}

/// Returns whether "exhausted" is about a message's size, and not about load: matches the texts of tonic,
/// grpc-go and grpc-core, whose servers and proxies use this code for both.
fn speaks_of_size(message: &str) -> bool {
    const TEXTS: [&str; 3] = ["message length too large", "larger than max", "message too large"];
    let message = message.to_ascii_lowercase();
    TEXTS.iter().any(|text| message.contains(text))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_each_code_means() {
        use HoldReason::{CoreFailed, CoreRefused, InvalidAnswer, MessageTooLarge};
        let hold = |meaning| match meaning {
            StatusMeaning::Hold(reason, _) => Some(reason),
            StatusMeaning::AlreadyKnown
            | StatusMeaning::Ambiguous
            | StatusMeaning::Pending
            | StatusMeaning::Forgotten
            | StatusMeaning::Lacking
            | StatusMeaning::Busy
            | StatusMeaning::Unreachable => None,
        };
        let ask = |code| meaning(CallKind::Ask, &Status::new(code, ""));
        let poll = |code| meaning(CallKind::Poll, &Status::new(code, ""));

        assert_eq!(ask(Code::AlreadyExists), StatusMeaning::AlreadyKnown);
        assert_eq!(ask(Code::Aborted), StatusMeaning::Ambiguous);
        assert_eq!(ask(Code::NotFound), StatusMeaning::Lacking);
        assert_eq!(hold(ask(Code::Internal)), Some(CoreFailed));
        assert_eq!(ask(Code::Unavailable), StatusMeaning::Unreachable);
        assert_eq!(ask(Code::DeadlineExceeded), StatusMeaning::Unreachable);
        assert_eq!(ask(Code::Cancelled), StatusMeaning::Unreachable);

        assert_eq!(poll(Code::NotFound), StatusMeaning::Forgotten);
        assert_eq!(poll(Code::Unavailable), StatusMeaning::Pending);
        assert_eq!(poll(Code::DeadlineExceeded), StatusMeaning::Pending);
        assert_eq!(poll(Code::Cancelled), StatusMeaning::Pending);
        assert_eq!(hold(poll(Code::Internal)), Some(CoreFailed));
        assert_eq!(hold(poll(Code::Aborted)), Some(CoreFailed));

        // What differs is said in words: it ends by itself, or is the operator's.
        let ask_key = |code| meaning(CallKind::AskKey, &Status::new(code, ""));
        let busy = ask_key(Code::FailedPrecondition);
        assert!(matches!(busy, StatusMeaning::Hold(CoreFailed, what) if what.contains("epoch")));
        for code in (0..17).map(Code::from_i32).filter(|code| *code != Code::FailedPrecondition) {
            assert_eq!(ask_key(code), ask(code), "{code:?}");
        }
        let key = |code| meaning(CallKind::PollKey, &Status::new(code, ""));
        assert_eq!(key(Code::NotFound), StatusMeaning::Forgotten);
        assert_eq!(key(Code::Unavailable), StatusMeaning::Pending);
        assert_eq!(hold(key(Code::Internal)), Some(CoreFailed));
        assert_eq!(hold(key(Code::Aborted)), Some(HoldReason::CoreAborted));
        let undo = |code| meaning(CallKind::Undo, &Status::new(code, ""));
        for done in [Code::NotFound, Code::AlreadyExists, Code::Unimplemented] {
            assert_eq!(undo(done), StatusMeaning::AlreadyKnown, "{done:?}");
        }
        assert_eq!(undo(Code::FailedPrecondition), StatusMeaning::Busy);
        assert_eq!(undo(Code::Unavailable), StatusMeaning::Unreachable);
        assert_eq!(hold(undo(Code::InvalidArgument)), Some(CoreRefused));
        assert_eq!(hold(undo(Code::Internal)), Some(CoreFailed));

        let tell = |code| meaning(CallKind::Tell, &Status::new(code, ""));
        assert_eq!(tell(Code::AlreadyExists), StatusMeaning::AlreadyKnown);
        assert_eq!(tell(Code::NotFound), StatusMeaning::Lacking);
        assert_eq!(tell(Code::FailedPrecondition), StatusMeaning::Busy);
        assert_eq!(tell(Code::Unavailable), StatusMeaning::Unreachable);
        assert_eq!(hold(tell(Code::Unimplemented)), Some(HoldReason::CoreVersion));
        assert_eq!(hold(tell(Code::Internal)), Some(CoreFailed));

        for of in [ask, poll] as [fn(Code) -> StatusMeaning; 2] {
            assert_eq!(hold(of(Code::InvalidArgument)), Some(CoreRefused));
            assert_eq!(of(Code::ResourceExhausted), StatusMeaning::Busy);
            assert_eq!(hold(of(Code::OutOfRange)), Some(MessageTooLarge));
            assert_eq!(hold(of(Code::FailedPrecondition)), Some(CoreFailed));
            assert_eq!(hold(of(Code::Unimplemented)), Some(CoreRefused));
            assert_eq!(hold(of(Code::PermissionDenied)), Some(CoreRefused));
            assert_eq!(hold(of(Code::Unauthenticated)), Some(CoreRefused));
            assert_eq!(hold(of(Code::DataLoss)), Some(CoreFailed));
            assert_eq!(of(Code::Unknown), StatusMeaning::Unreachable);
        }

        let sized = Status::resource_exhausted("grpc: received message larger than max (9 vs. 4)");
        assert_eq!(hold(meaning(CallKind::Ask, &sized)), Some(MessageTooLarge));

        let mut undecodable = Status::internal("");
        let cut = <String as prost::Message>::decode(&[0x0A, 0x05][..]).unwrap_err();
        undecodable.set_source(Arc::new(cut));
        assert_eq!(hold(meaning(CallKind::Poll, &undecodable)), Some(InvalidAnswer));
    }

    #[test]
    fn a_status_of_our_own_side_speaks_for_no_core() {
        for code in [Code::Internal, Code::NotFound, Code::AlreadyExists, Code::ResourceExhausted] {
            let mut status = Status::new(code, "h2 protocol error");
            status.set_source(Arc::new(std::io::Error::other("reset")));
            assert_eq!(meaning(CallKind::Ask, &status), StatusMeaning::Unreachable);
            assert_eq!(meaning(CallKind::Poll, &status), StatusMeaning::Unreachable);
        }
    }

    proptest! {
        /// Whatever the status: a poll is never taken for accepted, an ask never for running or forgotten,
        /// and no text decides except about a size.
        ///
        /// Field failure T29.
        #[test]
        fn any_status_has_a_meaning_of_its_call(code in 0..20_i32, text in "\\PC{0,200}") {
            let status = Status::new(Code::from_i32(code), text.clone());
            let (ask, poll) = (meaning(CallKind::Ask, &status), meaning(CallKind::Poll, &status));
            prop_assert!(!matches!(ask, StatusMeaning::Pending | StatusMeaning::Forgotten), "{ask:?}");
            let of_ask = [StatusMeaning::AlreadyKnown, StatusMeaning::Ambiguous, StatusMeaning::Lacking];
            prop_assert!(!of_ask.contains(&poll), "{poll:?}");
            if !speaks_of_size(&text) {
                let silent = Status::new(status.code(), "");
                prop_assert_eq!(ask, meaning(CallKind::Ask, &silent));
                prop_assert_eq!(poll, meaning(CallKind::Poll, &silent));
            }
        }
    }
}

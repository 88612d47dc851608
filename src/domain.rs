//! The words that all modules share. Imports no module of this crate.
//!
//! A **request** is one id on chain for which this KMS node is asked for one answer. It is identified
//! by its id *and* the hash of what it asks for: ids are counters, and after a reorganisation another request
//! can have the same id. Its state is its [`stage::Stage`]; its end is its [`Outcome`].

mod core_address;
mod access_refusal;
pub mod eip712;
mod id;
mod key_operation;
mod kms_context;
mod epoch;
mod ciphertext;
mod generation;
mod terms;
pub mod stage;
mod stable_words;
mod hold;
mod untrusted_text;

use std::{
    fmt,
    ops::{Index, IndexMut},
    sync::Arc,
};

pub use alloy::primitives::{Address, B256, Bytes, U256};

pub use self::{
    access_refusal::{AccessRefusal, AccessRefusalReason},
    ciphertext::{Ciphertext, CiphertextFormat, Material, fhe_bits, fhe_type, handle_chain_id},
    core_address::CoreAddress,
    epoch::{CompletedCrs, CompletedKey, EpochMaterial, EpochResult, SharedCrs, SharedKey},
    generation::Generation,
    hold::{Hold, HoldReason},
    id::DisplayId,
    key_operation::{
        COMPRESSED_KEY_SET, KeyOperation, KeyParameters, KeyRepresentation, abort_id, first_epoch,
        no_context, prss_init_id,
    },
    kms_context::{KmsContext, KmsContextNode, PcrValues},
    terms::{HandleEntry, RequestTerms, UnifiedTerms},
    untrusted_text::{EscapingWriter, UntrustedText, excerpt, is_printable},
};

/// A block by number and hash: after a reorganisation another block can have the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRef {
    pub number: u64,
    pub hash: B256,
}

/// A contract on a chain that emits requests. What the `KMSGeneration` of a gateway asks for is named by the
/// Decryption contract beside which it stands, and what `ProtocolConfig` asks for by the `KMSGeneration` beside it:
/// their ids have no values in common (protocol: gateway-abi 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestSource {
    pub chain_id: u64,
    pub contract: Address,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    PublicDecryption,
    UserDecryption,
    PrepKeygen,
    Keygen,
    Crsgen,
    AbortKeygen,
    AbortCrsgen,
    PrssInit,
    KeyReshareSameSet,
    NewKmsContext,
    NewKmsEpoch,
    ContextDestroyed,
    EpochDestroyed,
    RecordedEvent,
    /// Of a contract that asks for key operations.
    UnsupportedEvent,
}

/// What kinds have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindGroup {
    PublicDecryption,
    UserDecryption,
    KeyOperation,
}

impl Kind {
    pub const ALL: [Self; 15] = [
        Self::PublicDecryption,
        Self::UserDecryption,
        Self::PrepKeygen,
        Self::Keygen,
        Self::Crsgen,
        Self::AbortKeygen,
        Self::AbortCrsgen,
        Self::PrssInit,
        Self::KeyReshareSameSet,
        Self::NewKmsContext,
        Self::NewKmsEpoch,
        Self::ContextDestroyed,
        Self::EpochDestroyed,
        Self::RecordedEvent,
        Self::UnsupportedEvent,
    ];

    /// The name in logs, metrics and the journal.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PublicDecryption => "public_decryption",
            Self::UserDecryption => "user_decryption",
            Self::PrepKeygen => "prep_keygen",
            Self::Keygen => "keygen",
            Self::Crsgen => "crsgen",
            Self::AbortKeygen => "abort_keygen",
            Self::AbortCrsgen => "abort_crsgen",
            Self::PrssInit => "prss_init",
            Self::KeyReshareSameSet => "key_reshare_same_set",
            Self::NewKmsContext => "new_kms_context",
            Self::NewKmsEpoch => "new_kms_epoch",
            Self::ContextDestroyed => "context_destroyed",
            Self::EpochDestroyed => "epoch_destroyed",
            Self::RecordedEvent => "recorded_event",
            Self::UnsupportedEvent => "unsupported_event",
        }
    }

    #[must_use]
    pub fn group(self) -> KindGroup {
        match self {
            Self::PublicDecryption => KindGroup::PublicDecryption,
            Self::UserDecryption => KindGroup::UserDecryption,
            Self::PrepKeygen
            | Self::Keygen
            | Self::Crsgen
            | Self::AbortKeygen
            | Self::AbortCrsgen
            | Self::PrssInit
            | Self::KeyReshareSameSet
            | Self::NewKmsContext
            | Self::NewKmsEpoch
            | Self::ContextDestroyed
            | Self::EpochDestroyed
            | Self::RecordedEvent
            | Self::UnsupportedEvent => KindGroup::KeyOperation,
        }
    }

    /// Whether it is asked for by a contract of key operations.
    #[must_use]
    pub fn is_key_operation(self) -> bool {
        self.group() == KindGroup::KeyOperation
    }

    /// Whether it is about KMS contexts and epochs: then `ProtocolConfig` asks for it.
    #[must_use]
    pub fn is_lifecycle(self) -> bool {
        matches!(
            self,
            Self::NewKmsContext
                | Self::NewKmsEpoch
                | Self::ContextDestroyed
                | Self::EpochDestroyed
                | Self::RecordedEvent
        )
    }
}

impl Kind {
    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One value for each kind of decryption, and one for all key operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerKind<T> {
    pub public_decryption: T,
    pub user_decryption: T,
    pub key_operation: T,
}

impl<T: Copy> PerKind<T> {
    /// The same value for each kind.
    #[must_use]
    pub const fn all(value: T) -> Self {
        Self { public_decryption: value, user_decryption: value, key_operation: value }
    }

    #[must_use]
    pub fn map<U>(self, mut of: impl FnMut(T) -> U) -> PerKind<U> {
        let Self { public_decryption, user_decryption, key_operation } = self;
        PerKind {
            public_decryption: of(public_decryption),
            user_decryption: of(user_decryption),
            key_operation: of(key_operation),
        }
    }
}

impl<T> Index<Kind> for PerKind<T> {
    type Output = T;

    fn index(&self, kind: Kind) -> &T {
        match kind.group() {
            KindGroup::PublicDecryption => &self.public_decryption,
            KindGroup::UserDecryption => &self.user_decryption,
            KindGroup::KeyOperation => &self.key_operation,
        }
    }
}

impl<T> IndexMut<Kind> for PerKind<T> {
    fn index_mut(&mut self, kind: Kind) -> &mut T {
        match kind.group() {
            KindGroup::PublicDecryption => &mut self.public_decryption,
            KindGroup::UserDecryption => &mut self.user_decryption,
            KindGroup::KeyOperation => &mut self.key_operation,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The shape of a request's event, which the request keeps (protocol: gateway-abi 1.1). Named after the
/// first generation of contracts that emits it.
///
/// The capabilities of the deployment are a separate question, asked of the contract as it is now
/// (`contracts::abi::Deployment`): contracts are upgraded, and G9 to G13 emit the same events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventShape {
    /// No `extraData`; ids are one plain counter.
    G7,
    /// `extraData`; ids are one plain counter (top byte 0).
    G8,
    /// `extraData`; the id's top byte is the kind. Every tag from v0.9.0 to v0.13.
    G9,
    /// The unified user decryption request of v0.14.
    G14,
    /// The handle-only overloads of v0.15-dev.
    Head,
}

impl EventShape {
    /// The name shown to people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::G7 => "G7",
            Self::G8 => "G8",
            Self::G9 => "G9 to G13",
            Self::G14 => "G14",
            Self::Head => "HEAD",
        }
    }

    /// Returns whether the signed data of a request of this shape, and the call that submits its answer,
    /// contain `extraData`.
    #[must_use]
    pub fn has_extra_data(self) -> bool {
        self != Self::G7
    }
}

/// The generations of contracts that are served, as the protocol names them.
pub const SERVED_GENERATIONS: [&str; 8] = ["G7", "G8", "G9", "G10", "G12", "G13", "G14", "HEAD"];

impl fmt::Display for EventShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The identity of a request: its source, its id there, and the hash of what it asks for. What its event
/// says of the ciphertexts is no part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey {
    pub source: RequestSource,
    pub id: U256,
    pub content: B256,
}

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&DisplayId(self.id), f)
    }
}

/// One log of a contract that emits requests, as read. The journal keeps it so that a later version can decode
/// it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub block: BlockRef,
    pub transaction: B256,
    pub log_index: u64,
    pub topics: Vec<B256>,
    pub data: Bytes,
}

/// A decoded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub key: RequestKey,
    pub shape: EventShape,
    pub block: BlockRef,
    pub transaction: B256,
    pub operation: Operation,
}

impl Request {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match &self.operation {
            Operation::PublicDecryption(_) => Kind::PublicDecryption,
            Operation::UserDecryption(_) => Kind::UserDecryption,
            Operation::Key(operation) => operation.kind(),
        }
    }

    /// The values that are asked for, in on-chain order; none by a key operation.
    #[must_use]
    pub fn handles(&self) -> &[B256] {
        match &self.operation {
            Operation::PublicDecryption(public) => &public.handles,
            Operation::UserDecryption(user) => &user.handles,
            Operation::Key(_) => &[],
        }
    }

    /// What the event says of the handles' ciphertexts, in on-chain order. `None`: the event says nothing
    /// (HEAD's handle-only overloads).
    #[must_use]
    pub fn materials(&self) -> Option<&[Material]> {
        match &self.operation {
            Operation::PublicDecryption(public) => public.materials.as_deref(),
            Operation::UserDecryption(user) => user.materials.as_deref(),
            Operation::Key(_) => None,
        }
    }

    /// Empty in G7, and of key operations up to G12.
    #[must_use]
    pub fn extra_data(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match &self.operation {
            Operation::PublicDecryption(public) => &public.extra_data,
            Operation::UserDecryption(user) => &user.extra_data,
            Operation::Key(operation) => operation.extra_data().unwrap_or(&NONE),
        }
    }
}

/// What the request asks for, with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    PublicDecryption(PublicDecryption),
    UserDecryption(UserDecryption),
    Key(KeyOperation),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicDecryption {
    /// In on-chain order.
    pub handles: Vec<B256>,
    /// `None`: the event has none.
    pub materials: Option<Vec<Material>>,
    /// Empty in G7.
    pub extra_data: Bytes,
}

impl PublicDecryption {
    /// Asks for the handles of these materials.
    #[must_use]
    pub fn of_materials(materials: Vec<Material>, extra_data: Bytes) -> Self {
        Self { handles: handles_of(&materials), materials: Some(materials), extra_data }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserDecryption {
    /// In on-chain order.
    pub handles: Vec<B256>,
    /// `None`: the event has none. In a unified request a list of its own: nothing but a check makes its
    /// handles those of the request.
    pub materials: Option<Vec<Material>>,
    /// The recipient of the shares; for a delegated request the delegate.
    pub user: Address,
    /// The user's public encryption key, exactly as on chain.
    pub public_key: Bytes,
    /// Empty in G7.
    pub extra_data: Bytes,
    pub terms: RequestTerms,
}

impl UserDecryption {
    /// Asks for the handles of these materials, under the terms in the transaction's calldata.
    #[must_use]
    pub fn of_materials(
        materials: Vec<Material>,
        user: Address,
        public_key: Bytes,
        extra_data: Bytes,
    ) -> Self {
        let (handles, materials) = (handles_of(&materials), Some(materials));
        Self { handles, materials, user, public_key, extra_data, terms: RequestTerms::Legacy }
    }
}

fn handles_of(materials: &[Material]) -> Vec<B256> {
    materials.iter().map(|material| material.handle).collect()
}

/// The KMS Core's signed answer in the contract's form, by the kind of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    PublicDecryption(SignedResult),
    UserDecryption(SignedResult),
    /// The payload is what the contract takes between id and signature: nothing for a preparation or a KMS context,
    /// the ABI-encoded key digests, or the digest of a CRS. Of an epoch: its ABI-encoded [`EpochResult`], whose
    /// signatures are inside.
    Key(SignedResult),
}

impl Answer {
    /// An answer to a request of this kind.
    #[must_use]
    pub fn new(kind: Kind, signed: SignedResult) -> Self {
        match kind.group() {
            KindGroup::PublicDecryption => Self::PublicDecryption(signed),
            KindGroup::UserDecryption => Self::UserDecryption(signed),
            KindGroup::KeyOperation => Self::Key(signed),
        }
    }

    #[must_use]
    pub fn signed(&self) -> &SignedResult {
        match self {
            Self::PublicDecryption(signed) | Self::UserDecryption(signed) | Self::Key(signed) => {
                signed
            }
        }
    }
}

/// A result and the Core's signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignedResult {
    /// `decryptedResult` or `userDecryptedShare`: the signed bytes. Of a key operation: see
    /// [`Answer::Key`].
    pub payload: Bytes,
    /// The 65-byte EIP-712 signature of the Core's signer.
    pub signature: Bytes,
    /// The signed `extraData`. Empty in G7.
    pub extra_data: Bytes,
}

/// The EIP-712 domain of a contract (protocol: gateway-abi 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningDomain {
    pub name: String,
    pub version: String,
    pub chain_id: u64,
    pub verifying_contract: Address,
}

/// For operators. The contract's texts are untrusted.
impl fmt::Display for SigningDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, version, chain_id, verifying_contract } = self;
        let [name, version] = [name, version].map(|said| excerpt(80, said));
        write!(
            f,
            "name \"{name}\", version \"{version}\", chain id {chain_id}, contract {verifying_contract}"
        )
    }
}

/// How a request ended: exactly one per request, and only if no action could change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Our transaction was mined and the contract accepted the answer.
    Accepted { transaction: B256, block: BlockRef },
    /// The contract already has an answer of this node's signer.
    AlreadyAnswered,
    /// Not answered within `request_expiry_secs` of working time.
    Expired,
    /// Its block left the chain, and the request is in no other block.
    Orphaned,
    /// An answer is impossible, whatever anyone does.
    Refused(Refusal),
    /// Its ciphertexts were verified, and it is intentionally not answered: this instance only observes.
    Observed,
    /// The contract has taken a key operation back.
    Aborted,
    /// It is done, and the chain expects no answer.
    NoAnswerDue,
    /// It asks this node for nothing.
    Recorded,
}

impl Outcome {
    /// The name in logs, metrics and the journal.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::AlreadyAnswered => "already_answered",
            Self::Expired => "expired",
            Self::Orphaned => "orphaned",
            Self::Refused(_) => "refused",
            Self::Observed => "observed",
            Self::Aborted => "aborted",
            Self::NoAnswerDue => "no_answer_due",
            Self::Recorded => "recorded",
        }
    }
}

#[cfg(test)]
impl Outcome {
    /// One of each.
    pub fn each() -> [Self; 11] {
        let block = BlockRef { number: 7, hash: B256::repeat_byte(1) };
        [
            Self::Accepted { transaction: B256::repeat_byte(2), block },
            Self::AlreadyAnswered,
            Self::Expired,
            Self::Orphaned,
            Self::Observed,
            Self::Aborted,
            Self::NoAnswerDue,
            Self::Recorded,
            Self::Refused(Refusal::Malformed("no materials".into())),
            Self::Refused(Refusal::NotRequested),
            Self::Refused(Refusal::AccessRefused(AccessRefusal::new(
                AccessRefusalReason::ForeignCall,
                "it calls something else",
            ))),
        ]
    }
}

/// Why an answer is impossible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The event itself contradicts the protocol (no materials, several key ids …).
    Malformed(String),
    /// The contract does not know the id, confirmed by a node that knows the request's block.
    NotRequested,
    /// The access check ends it.
    AccessRefused(AccessRefusal),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "malformed request: {what}"),
            Self::NotRequested => f.write_str("the contract does not know this request"),
            Self::AccessRefused(why) => write!(f, "access refused, {why}"),
        }
    }
}

/// What to do about an error: every error of a stage answers this question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Repeat after a back-off.
    Retry,
    /// Set aside until time or an operator fixes it.
    Hold(Hold),
    /// Terminal.
    Refuse(Refusal),
}

/// The store behind a ledger port failed. The instance ends and is rebuilt from what was stored.
#[derive(Clone, Debug, thiserror::Error)]
#[error("journal: {cause}")]
pub struct LedgerError {
    code: &'static str,
    #[source]
    cause: Arc<dyn std::error::Error + Send + Sync>,
}

impl LedgerError {
    /// `code`: the stable name of the store's error.
    pub fn new(
        code: &'static str,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { code, cause: cause.into().into() }
    }

    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d8_a_signing_domain_is_told_in_words_and_whatever_it_says_is_one_line() {
        let domain = SigningDomain {
            name: format!("Decryption\u{1b}[2J\n{}", "x".repeat(1000)),
            version: "1".to_owned(),
            chain_id: 7,
            verifying_contract: Address::ZERO,
        };
        let told = domain.to_string();
        assert!(told.starts_with("name \"Decryption\\u{1b}[2J\\n"), "{told}");
        assert!(told.contains("version \"1\", chain id 7, contract 0x00"), "{told}");
        assert!(told.len() < 250 && !told.contains("SigningDomain"), "{told}");
    }

    #[test]
    fn g1_a_handle_tells_its_type_and_its_chain() {
        let mut handle = B256::repeat_byte(0xee);
        handle[22..].copy_from_slice(&[0, 0, 0, 1, 2, 3, 4, 5, 8, 0]);
        assert_eq!((fhe_type(&handle), handle_chain_id(&handle)), (8, 0x01_0203_0405));
        assert_eq!(handle_chain_id(&B256::repeat_byte(0xff)), u64::MAX);
    }

    #[test]
    fn c10_a_shape_of_several_generations_is_not_called_by_one() {
        assert_eq!(EventShape::G9.to_string(), "G9 to G13");
        let source = RequestSource { chain_id: 1, contract: Address::ZERO };
        let key = RequestKey { source, id: U256::from(5), content: B256::ZERO };
        assert_eq!(key.to_string(), format!("0x{}5", "0".repeat(63)));
    }
}

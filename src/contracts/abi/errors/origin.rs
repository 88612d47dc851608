//! Which answers a contract refuses with which error, and what the error is about: the one table of that
//! (gateway-abi 4.3, 4.4, 6.2, 6.3, 7.4). What it means for the request is [`ContractError::meaning`].

use std::ops::RangeInclusive;

use super::ContractError;
use crate::domain::{Address, Generation, U256};

/// The answers that contracts may refuse with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaisedFor {
    /// Of decryptions, by contracts of these generations; and of keys or of KMS contexts and epochs.
    DecryptionsAndOthers(Since, Until),
    /// Of decryptions alone.
    Decryptions(Since, Until),
    /// Of keys and CRSs, by `KMSGeneration`.
    Keys,
    /// Of KMS contexts and epochs, by `ProtocolConfig`.
    Lifecycle,
    /// None: the owner's calls, or views.
    NoAnswer,
    /// Any call.
    Anything,
}

type Since = Generation;
type Until = Generation;

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// There is no request of this id.
    Id(U256),
    /// The wallet, which a registry may list.
    Wallet,
    /// The signer that the contract has recovered, which a registry may list.
    Signer(Address),
    /// The answer is there already, or is not wanted any more.
    Done,
    /// What the answer says, or its signature's form: checked after the id, and before the signer.
    Content,
    /// The state of the contract: it is paused, or something else has to come first.
    State,
    /// Nothing that this program has checked.
    Other,
}

impl RaisedFor {
    /// The generations whose Decryption contract raises it. `None`: not for an answer to a decryption alone.
    fn decryptions(self) -> Option<RangeInclusive<Generation>> {
        match self {
            Self::DecryptionsAndOthers(since, until) | Self::Decryptions(since, until) => {
                Some(since..=until)
            }
            Self::Anything => Some(Generation::UpToG10..=Generation::Head),
            Self::Keys | Self::Lifecycle | Self::NoAnswer => None,
        }
    }

    /// Whether a Decryption contract of this generation may refuse so. Of errors of other contracts it says nothing.
    #[must_use]
    pub fn fits(self, generation: Generation) -> bool {
        self.decryptions().is_none_or(|these| these.contains(&generation))
    }

    /// Whether an answer to a decryption may be refused so.
    #[must_use]
    pub fn is_of_decryptions(self) -> bool {
        self.decryptions().is_some()
    }
}

impl ContractError {
    /// The table. A new error does not compile without a row here.
    #[must_use]
    pub fn origin(&self) -> (RaisedFor, Subject) {
        use Generation::{G12, G13, Head, UpToG10};
        use RaisedFor::{Anything, Decryptions, DecryptionsAndOthers, Keys, Lifecycle, NoAnswer};

        match self {
            Self::DecryptionNotRequested(id) => (Decryptions(UpToG10, Head), Subject::Id(*id)),
            Self::KmsNodeAlreadySigned { .. } => (Decryptions(UpToG10, Head), Subject::Done),
            Self::EnforcedPause => (DecryptionsAndOthers(UpToG10, Head), Subject::State),
            // From G12 on the sender is not looked at.
            Self::NotKmsTxSender(_) => (DecryptionsAndOthers(UpToG10, UpToG10), Subject::Wallet),
            Self::NotKmsSigner(signer) | Self::KmsSignerDoesNotMatchTxSender { signer, .. } => {
                (DecryptionsAndOthers(UpToG10, Head), Subject::Signer(*signer))
            }
            Self::ECDSAInvalidSignature
            | Self::ECDSAInvalidSignatureLength(_)
            | Self::ECDSAInvalidSignatureS(_) => {
                (DecryptionsAndOthers(UpToG10, Head), Subject::Content)
            }
            Self::InvalidExtraDataLength { .. } => (Decryptions(G12, Head), Subject::Content),
            Self::UnsupportedExtraDataVersion(_) => {
                (DecryptionsAndOthers(G12, Head), Subject::Content)
            }
            Self::DecryptionContextMismatch { .. } | Self::InvalidNullContextId => {
                (Decryptions(G13, Head), Subject::Content)
            }
            Self::InvalidKmsContext(_) => (DecryptionsAndOthers(G13, Head), Subject::Content),
            Self::KmsAlreadySignedForPrepKeygen { .. }
            | Self::KmsAlreadySignedForKeygen { .. }
            | Self::KmsAlreadySignedForCrsgen { .. } => (Keys, Subject::Done),
            Self::PrepKeygenNotRequested(id)
            | Self::KeygenNotRequested(id)
            | Self::CrsgenNotRequested(id) => (Keys, Subject::Id(*id)),
            Self::EmptyKeyDigests(_) | Self::DeserializingExtraDataFail => (Keys, Subject::Content),
            Self::KeyManagementRequestPending => (Keys, Subject::State),
            Self::KmsContextCreationAlreadyConfirmed { .. }
            | Self::KmsContextNotPending(_)
            | Self::EpochActivationAlreadyConfirmed { .. }
            | Self::InvalidKmsEpoch(_)
            | Self::InvalidEpoch(_) => (Lifecycle, Subject::Done),
            // It is in neither of two contexts, and no registry tells of both.
            Self::KmsContextCreationUnauthorized { .. } => (Lifecycle, Subject::Other),
            Self::EpochActivationUnauthorized { .. } => (Lifecycle, Subject::Wallet),
            Self::EpochActivationSignerDoesNotMatchTxSender { signer, .. } => {
                (Lifecycle, Subject::Signer(*signer))
            }
            Self::EmptyEpochActivationAttestation(_) => (Lifecycle, Subject::Content),
            Self::KmsContextNotCreated(_) | Self::EpochNotUnderActiveContext { .. } => {
                (Lifecycle, Subject::State)
            }
            Self::DecryptionNotDone(_) | Self::KmsLifecycleOperationInFlight { .. } => {
                (NoAnswer, Subject::State)
            }
            Self::Error(_) | Self::Panic(_) | Self::Other { .. } | Self::UnknownData(_) => {
                (Anything, Subject::Other)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands in for the three lists that there were: of which contract, from when on, and about what.
    #[test]
    fn each_error_is_of_a_contract_and_about_something() {
        use Generation::{G12, G13, G14, Head, UpToG10};
        let (id, signer, wallet) = (U256::ONE, Address::repeat_byte(1), Address::repeat_byte(2));
        let every = [UpToG10, G12, G13, G14, Head];
        let raised = |error: &ContractError| {
            let (raised_for, _) = error.origin();
            every.into_iter().filter(|one| raised_for.fits(*one)).collect::<Vec<_>>()
        };
        let sender = ContractError::NotKmsTxSender(wallet);
        assert_eq!(raised(&sender), [UpToG10]);
        assert_eq!(raised(&ContractError::UnsupportedExtraDataVersion(9)), [G12, G13, G14, Head]);
        assert_eq!(raised(&ContractError::InvalidKmsContext(id)), [G13, G14, Head]);
        // What another contract says, no Decryption contract contradicts.
        for (error, of, about) in [
            (ContractError::KeygenNotRequested(id), RaisedFor::Keys, Subject::Id(id)),
            (ContractError::KmsContextNotCreated(id), RaisedFor::Lifecycle, Subject::State),
            (ContractError::InvalidKmsEpoch(id), RaisedFor::Lifecycle, Subject::Done),
            (
                ContractError::EpochActivationUnauthorized { epoch: id, wallet },
                RaisedFor::Lifecycle,
                Subject::Wallet,
            ),
            (
                ContractError::EpochActivationSignerDoesNotMatchTxSender {
                    signer,
                    tx_sender: wallet,
                },
                RaisedFor::Lifecycle,
                Subject::Signer(signer),
            ),
            (ContractError::DecryptionNotDone(id), RaisedFor::NoAnswer, Subject::State),
        ] {
            assert_eq!(error.origin(), (of, about), "{error}");
            assert_eq!(raised(&error), every, "{error}");
            assert!(!of.is_of_decryptions(), "{error}");
        }
        let text = ContractError::Error("no".into()).origin();
        assert_eq!(text, (RaisedFor::Anything, Subject::Other));
        assert!(text.0.is_of_decryptions());
    }
}

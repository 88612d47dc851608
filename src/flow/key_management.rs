//! What key operations need beyond what every request needs: the contract that asks for them, and the
//! operator's word. They take hours, cost a Core hours of work, and end in a vote that cannot be taken back.
//!
//! ```text
//! checks         what the operators, the contracts and the Core have to agree on, see
//!                [`policy`](super::walk::policy::key_operations)                held, with what is missing
//! ask, poll      as often as it takes; nothing expires
//! votes          what other nodes answered must be the same                     held (result_differs)
//! submission     as for a decryption
//! ```
//!
//! Two contracts ask for them: `KMSGeneration`, and from G14 on `ProtocolConfig` for KMS contexts and epochs. What a
//! Core signs for either has that contract's domain.

use tokio::sync::watch;

use super::{Confirmation, kms_core::KmsCore, submission::Submission};
use crate::{
    contracts::{
        decryption::{DeploymentSupport, RequestContract},
        kms_lifecycle::KmsLifecycle,
        protocol_config::ProtocolConfig,
    },
    domain::{KeyRepresentation, Kind},
};

/// What is done about a key operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPolicy {
    Answer,
    /// An operator has to approve each.
    Hold,
}

/// Which kind of key is made where the contracts leave that to the operators (`key_representation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepresentationChoice {
    /// What the other nodes make by themselves, where that is known.
    Auto,
    Named(KeyRepresentation),
}

/// What is done with the requests of one contract.
#[derive(Debug)]
pub struct KeyRooms<P> {
    pub contract: RequestContract<P>,
    /// The same Core, with the contract's domain.
    pub core: KmsCore,
    pub submission: Submission<P>,
    pub confirmation: Confirmation<P>,
}

/// What is done with those of `ProtocolConfig`.
#[derive(Debug)]
pub struct LifecycleRooms<P> {
    pub rooms: KeyRooms<P>,
    /// What the chain tells of contexts and epochs beside.
    pub history: KmsLifecycle<P>,
}

/// The stages of key operations.
#[derive(Debug)]
pub struct KeyManagement<P> {
    /// Of `KMSGeneration`.
    pub generation: KeyRooms<P>,
    /// `None`: the configuration does not name `ProtocolConfig`; up to G12 there is none.
    pub lifecycle: Option<LifecycleRooms<P>>,
    pub policy: KeyPolicy,
    pub representation: RepresentationChoice,
    /// Where the contexts that requests name are checked. `None`: not configured; up to G12 there are none.
    pub contexts: Option<ProtocolConfig<P>>,
    /// The gateway's contracts: those on Ethereum do not tell G14 from HEAD.
    pub gateway: watch::Receiver<DeploymentSupport>,
}

impl<P> KeyManagement<P> {
    /// The rooms of the contract that asks for this. `None`: it is not configured.
    pub(super) fn rooms_of(&self, kind: Kind) -> Option<&KeyRooms<P>> {
        if kind.is_lifecycle() {
            self.lifecycle.as_ref().map(|lifecycle| &lifecycle.rooms)
        } else {
            Some(&self.generation)
        }
    }
}

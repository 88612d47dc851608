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

use tokio::sync::watch;

use super::{Confirmation, kms_core::KmsCore, submission::Submission};
use crate::{
    contracts::{
        decryption::{DeploymentSupport, RequestContract},
        protocol_config::ProtocolConfig,
    },
    domain::KeyRepresentation,
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

/// The stages of key operations.
#[derive(Debug)]
pub struct KeyManagement<P> {
    pub contract: RequestContract<P>,
    /// The same Core, with the contract's domain.
    pub core: KmsCore,
    pub submission: Submission<P>,
    pub confirmation: Confirmation<P>,
    pub policy: KeyPolicy,
    pub representation: RepresentationChoice,
    /// Where the contexts that requests name are checked. `None`: not configured; up to G12 there are none.
    pub contexts: Option<ProtocolConfig<P>>,
    /// The gateway's contracts: those on Ethereum do not tell G14 from HEAD.
    pub gateway: watch::Receiver<DeploymentSupport>,
}

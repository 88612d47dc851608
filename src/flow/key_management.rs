//! What key operations need beyond what every request needs: the contract that asks for them, and the
//! operator's word. They take hours, cost a Core hours of work, and end in a vote that cannot be taken back.
//!
//! ```text
//! approval       `key_management = "hold"`: an operator has to approve it       held (operator_approval)
//! preparation    a key waits for this node's own preparation of it              held (waits_for_preparation)
//! age            the Core must be as old as the contract                        held (core_version)
//! ask, poll      as often as it takes; nothing expires
//! votes          what other nodes answered must be the same                     held (result_differs)
//! submission     as for a decryption
//! ```

use super::{Confirmation, kms_core::KmsCore, submission::Submission};
use crate::contracts::decryption::RequestContract;

/// What is done about a key operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPolicy {
    Answer,
    /// An operator has to approve each.
    Hold,
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
}

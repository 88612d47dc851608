//! What a user signed for a decryption, and where it stands.

use super::{Address, B256, Bytes, U256};

/// Where the terms that the user signed stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestTerms {
    /// In the calldata of the request's transaction.
    Legacy,
    /// In the event (from G14 on).
    Unified(UnifiedTerms),
}

/// The terms of a unified request (protocol: gateway-abi 3, `UserDecryptionRequestPayload`). The contract
/// checks none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnifiedTerms {
    /// One for each handle, in order.
    pub entries: Vec<HandleEntry>,
    /// Contracts of the host chain; empty means any.
    pub allowed_contracts: Vec<Address>,
    /// When the signature begins to be valid, in seconds since 1970.
    pub start: U256,
    pub duration_secs: U256,
    /// The user's EIP-712 signature, or what their contract takes for one (ERC-1271).
    pub signature: Bytes,
}

/// A handle of a unified request, with the account that owns it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleEntry {
    pub handle: B256,
    pub contract: Address,
    pub owner: Address,
}

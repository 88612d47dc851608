//! Views of the `ProtocolConfig` contract: contexts and epochs.

use alloy::sol;
use alloy::sol_types::SolCall;

use super::View;
use crate::contracts::abi::DECODER;
use crate::domain::{B256, U256};

sol! {
    function isValidKmsContext(uint256 kmsContextId) external view returns (bool valid);
    function isLiveKmsContext(uint256 kmsContextId) external view returns (bool live);
    function getCurrentKmsContextIdCounter() external view returns (uint256 counter);
    function isValidEpochForContext(uint256 kmsContextId, uint256 epochId) external view
        returns (bool valid);
    function getKmsContextAnchor(uint256 contextId) external view
        returns (uint256 blockNumber, bytes32 infoHash);
}

/// Where a context was defined, and the hash of what its event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextAnchor {
    pub block: U256,
    pub info_hash: B256,
}

/// `getKmsContextAnchor`: also of a destroyed one. From v0.2.0 (G14) on.
#[must_use]
pub fn context_anchor(context: U256) -> View<ContextAnchor> {
    View::of(&getKmsContextAnchorCall { contextId: context }, |returned| {
        let said = getKmsContextAnchorCall::abi_decode_returns_with_config(returned, DECODER)?;
        Ok(ContextAnchor { block: said.blockNumber, info_hash: said.infoHash })
    })
}

/// `isValidKmsContext`: active, and not destroyed.
#[must_use]
pub fn is_valid_context(context: U256) -> View<bool> {
    View::of(&isValidKmsContextCall { kmsContextId: context }, |returned| {
        Ok(isValidKmsContextCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `isLiveKmsContext`: defined, and not destroyed. From v0.2.0 (G14) on.
#[must_use]
pub fn is_live_context(context: U256) -> View<bool> {
    View::of(&isLiveKmsContextCall { kmsContextId: context }, |returned| {
        Ok(isLiveKmsContextCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getCurrentKmsContextIdCounter`: the id of the context defined last. From v0.2.0 (G14) on.
#[must_use]
pub fn context_id_counter() -> View<U256> {
    View::of(&getCurrentKmsContextIdCounterCall {}, |returned| {
        Ok(getCurrentKmsContextIdCounterCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `isValidEpochForContext`: active, of this context, which is valid. From v0.2.0 (G14) on.
#[must_use]
pub fn is_valid_epoch(context: U256, epoch: U256) -> View<bool> {
    let call = isValidEpochForContextCall { kmsContextId: context, epochId: epoch };
    View::of(&call, |returned| {
        Ok(isValidEpochForContextCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calldata_begins_as_in_the_tables() {
        let id = U256::from(1);
        for (calldata, selector) in [
            (is_valid_context(id).calldata(), "bf9b16c8"),
            (is_live_context(id).calldata(), "ee7d52d1"),
            (context_id_counter().calldata(), "9d1b1be1"),
            (is_valid_epoch(id, id).calldata(), "cceac019"),
            (context_anchor(id).calldata(), "c999a8b4"),
        ] {
            assert_eq!(alloy::hex::encode(&calldata[..4]), selector);
        }
    }
}

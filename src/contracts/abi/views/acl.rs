//! Views of a host chain's ACL contract, and of smart accounts (ERC-1271).

use alloy::sol;
use alloy::sol_types::SolCall;

use super::View;
use crate::contracts::abi::DECODER;
use crate::domain::{Address, B256, Bytes, U256};

sol! {
    function isAllowedForDecryption(bytes32 handle) external view returns (bool allowed);
    function isAllowed(bytes32 handle, address account) external view returns (bool allowed);
    function isHandleDelegatedForUserDecryption(
        address delegator, address delegate, address contractAddress, bytes32 handle
    ) external view returns (bool delegated);
    function decryptionSignatureInvalidatedBefore(address account) external view
        returns (uint256 timestamp);
    function isValidSignature(bytes32 hash, bytes signature) external view returns (bytes32 magic);
    function getVersion() external pure returns (string version);
}

/// What a smart account returns for a signature of its own (ERC-1271), as a whole word.
const VALID_SIGNATURE: B256 =
    B256::new(alloy::hex!("1626ba7e00000000000000000000000000000000000000000000000000000000"));

/// `isAllowedForDecryption`: anybody may have the handle decrypted.
#[must_use]
pub fn is_allowed_for_decryption(handle: B256) -> View<bool> {
    View::of(&isAllowedForDecryptionCall { handle }, |returned| {
        Ok(isAllowedForDecryptionCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `isAllowed`: the account may use the handle. In a call only permissions that last are seen.
#[must_use]
pub fn is_allowed(handle: B256, account: Address) -> View<bool> {
    View::of(&isAllowedCall { handle, account }, |returned| {
        Ok(isAllowedCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `isHandleDelegatedForUserDecryption`: the delegator and the contract may use the handle, and the
/// delegation is in force at the block's time.
#[must_use]
pub fn is_delegated(
    delegator: Address,
    delegate: Address,
    contract: Address,
    handle: B256,
) -> View<bool> {
    let call = isHandleDelegatedForUserDecryptionCall {
        delegator,
        delegate,
        contractAddress: contract,
        handle,
    };
    View::of(&call, |returned| {
        let decode = isHandleDelegatedForUserDecryptionCall::abi_decode_returns_with_config;
        Ok(decode(returned, DECODER)?)
    })
}

/// `decryptionSignatureInvalidatedBefore`, in Unix seconds: signatures whose validity begins before are
/// void. From ACL v0.5.0 on.
#[must_use]
pub fn signature_invalidated_before(account: Address) -> View<U256> {
    View::of(&decryptionSignatureInvalidatedBeforeCall { account }, |returned| {
        let decode = decryptionSignatureInvalidatedBeforeCall::abi_decode_returns_with_config;
        Ok(decode(returned, DECODER)?)
    })
}

/// `isValidSignature` of a smart account (ERC-1271). Anything but its word for yes is a no.
#[must_use]
pub fn is_valid_signature(digest: B256, signature: Bytes) -> View<bool> {
    View::of(&isValidSignatureCall { hash: digest, signature }, |returned| {
        Ok(returned.get(..32) == Some(&VALID_SIGNATURE[..]))
    })
}

/// `getVersion` of a host contract, such as `ACL v0.5.0`.
#[must_use]
pub fn version() -> View<String> {
    View::of(&getVersionCall {}, |returned| {
        Ok(getVersionCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// Whether an ACL of this version has no `decryptionSignatureInvalidatedBefore`, so that no signature can
/// have been invalidated. An unknown version has it.
#[must_use]
pub fn is_before_invalidation(version: &str) -> bool {
    let Some(numbers) = version.strip_prefix("ACL v0.") else { return false };
    // The numbering restarted more than once, always below this (gateway-abi 1.1).
    let minor = numbers.split('.').next().and_then(|minor| minor.parse::<u32>().ok());
    minor.is_some_and(|minor| (1..=4).contains(&minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smart_account_says_yes_with_one_word() {
        let view = is_valid_signature(B256::ZERO, Bytes::new());
        let said = |returned: &[u8]| view.decode(returned).unwrap_or(false);
        assert!(said(VALID_SIGNATURE.as_slice()));
        assert!(!said(&VALID_SIGNATURE[..4]), "no whole word");
        assert!(!said(&[0; 32]) && !said(&[0xff; 32]));
        let mut dirty = VALID_SIGNATURE.0;
        dirty[31] = 1;
        assert!(!said(&dirty));
        assert!(view.decode(&[]).is_err(), "nobody is there");
    }

    #[test]
    fn a_word_that_is_no_boolean_is_no_answer() {
        let view = is_allowed(B256::ZERO, Address::ZERO);
        let word = |last: u8| B256::with_last_byte(last);
        assert!(view.decode(word(1).as_slice()).unwrap());
        assert!(!view.decode(word(0).as_slice()).unwrap());
        assert!(view.decode(word(2).as_slice()).is_err());
        assert!(view.decode(&[1]).is_err());
    }

    #[test]
    fn invalidation_came_with_v0_5() {
        for (version, before) in [
            ("ACL v0.1.0", true),
            ("ACL v0.4.9", true),
            ("ACL v0.5.0", false),
            ("ACL v0.10.0", false),
            ("ACL v1.0.0", false),
            ("ACL v0", false),
            ("KMSVerifier v0.1.0", false),
            ("", false),
        ] {
            assert_eq!(is_before_invalidation(version), before, "{version}");
        }
    }

    #[test]
    fn calldata_begins_as_in_the_tables() {
        let (handle, account) = (B256::ZERO, Address::ZERO);
        for (calldata, selector) in [
            (is_allowed_for_decryption(handle).calldata(), "c0d02943"),
            (is_allowed(handle, account).calldata(), "82027b6d"),
            (is_delegated(account, account, account, handle).calldata(), "d09c0dee"),
            (signature_invalidated_before(account).calldata(), "0dff1525"),
            (is_valid_signature(handle, Bytes::new()).calldata(), "1626ba7e"),
            (version().calldata(), "0d8e6e2c"),
        ] {
            assert_eq!(alloy::hex::encode(&calldata[..4]), selector);
        }
    }
}

//! Against alloy's own hashing of the same structures, and against keys.

use alloy::{
    primitives::{b256, keccak256},
    signers::{SignerSync, local::PrivateKeySigner},
    sol,
    sol_types::{Eip712Domain, SolStruct as _},
};

use super::*;
use crate::domain::{Bytes, HandleEntry, RequestTerms};

mod direct {
    super::sol! {
        struct UserDecryptRequestVerification {
            bytes publicKey;
            address[] contractAddresses;
            uint256 startTimestamp;
            uint256 durationDays;
            bytes extraData;
        }
    }
}

mod delegated {
    super::sol! {
        struct DelegatedUserDecryptRequestVerification {
            bytes publicKey;
            address[] contractAddresses;
            address delegatorAddress;
            uint256 startTimestamp;
            uint256 durationDays;
            bytes extraData;
        }
    }
}

mod unified {
    super::sol! {
        struct UserDecryptRequestVerification {
            address userAddress;
            bytes publicKey;
            address[] allowedContracts;
            uint256 startTimestamp;
            uint256 durationSeconds;
            bytes extraData;
        }
    }
}

const CHAIN: u64 = 31_337;
const CONTRACT: Address = Address::repeat_byte(0xdc);

fn domain() -> SigningDomain {
    SigningDomain {
        name: "Decryption".into(),
        version: "1".into(),
        chain_id: 1,
        verifying_contract: CONTRACT,
    }
}

/// The same on the host chain.
fn host_domain() -> Eip712Domain {
    Eip712Domain::new(
        Some("Decryption".into()),
        Some("1".into()),
        Some(U256::from(CHAIN)),
        Some(CONTRACT),
        None,
    )
}

fn call(delegator: Option<Address>) -> LegacyUserCall {
    LegacyUserCall {
        pairs: Vec::new(),
        start: U256::from(7),
        duration_days: U256::from(8),
        chain_id: U256::from(CHAIN),
        contracts: vec![Address::repeat_byte(3), Address::repeat_byte(4)],
        user: Address::repeat_byte(5),
        delegator,
        public_key: Bytes::from_static(b"key"),
        signature: Bytes::new(),
        extra_data: Bytes::from_static(&[1, 2]),
    }
}

#[test]
fn type_strings_hash_to_the_protocols_type_hashes() {
    // gateway-abi 10.
    assert_eq!(
        keccak256(DIRECT),
        b256!("9bf1f2b06a0ed501e5fa5a12ba3f9fbc1343c988847fb585c29c59ada4b71ab5")
    );
    assert_eq!(
        keccak256(UNIFIED),
        b256!("4ee965201c2f6fd39bb37401a5de0ea2362ef4db8199c112ec67d694006e114e")
    );
}

#[test]
fn digests_are_those_of_the_structures() {
    let direct = call(None);
    let structure = direct::UserDecryptRequestVerification {
        publicKey: direct.public_key.clone(),
        contractAddresses: direct.contracts.clone(),
        startTimestamp: direct.start,
        durationDays: direct.duration_days,
        extraData: direct.extra_data.clone(),
    };
    let expected = structure.eip712_signing_hash(&host_domain());
    assert_eq!(legacy_digest(&domain(), CHAIN, &direct), expected);

    let delegator = Address::repeat_byte(6);
    let delegated = call(Some(delegator));
    let structure = delegated::DelegatedUserDecryptRequestVerification {
        publicKey: delegated.public_key.clone(),
        contractAddresses: delegated.contracts.clone(),
        delegatorAddress: delegator,
        startTimestamp: delegated.start,
        durationDays: delegated.duration_days,
        extraData: delegated.extra_data.clone(),
    };
    let expected = structure.eip712_signing_hash(&host_domain());
    assert_eq!(legacy_digest(&domain(), CHAIN, &delegated), expected);

    let terms = UnifiedTerms {
        entries: Vec::<HandleEntry>::new(),
        allowed_contracts: delegated.contracts.clone(),
        start: U256::from(70),
        duration_secs: U256::from(80),
        signature: Bytes::new(),
    };
    let user = UserDecryption {
        handles: Vec::new(),
        materials: None,
        user: Address::repeat_byte(5),
        public_key: Bytes::from_static(b"key"),
        extra_data: Bytes::from_static(&[1, 2]),
        terms: RequestTerms::Unified(terms.clone()),
    };
    let structure = unified::UserDecryptRequestVerification {
        userAddress: user.user,
        publicKey: user.public_key.clone(),
        allowedContracts: terms.allowed_contracts.clone(),
        startTimestamp: terms.start,
        durationSeconds: terms.duration_secs,
        extraData: user.extra_data.clone(),
    };
    let expected = structure.eip712_signing_hash(&host_domain());
    assert_eq!(unified_digest(&domain(), CHAIN, &user, &terms), expected);
}

#[test]
fn the_signer_is_found_in_every_form_of_its_signature_and_in_no_other_bytes() {
    let key = PrivateKeySigner::from_slice(&[7; 32]).unwrap();
    let digest = B256::repeat_byte(9);
    let signature = key.sign_hash_sync(&digest).unwrap().as_bytes();
    assert_eq!(signer(digest, &signature), Some(key.address()));
    let mut bare = signature;
    bare[64] -= 27;
    assert_eq!(signer(digest, &bare), Some(key.address()));
    assert_ne!(signer(B256::ZERO, &signature), Some(key.address()));
    for odd in [&signature[..64], &[], &[0; 65], &[&signature[..], &[0]].concat()] {
        assert_eq!(signer(digest, odd), None, "{odd:?}");
    }
}

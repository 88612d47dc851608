//! The digests, compared with those that alloy makes of the contracts' structures.

use alloy::{
    primitives::{address, b256},
    sol_types::{Eip712Domain, SolStruct as _},
};
use proptest::prelude::*;

use super::*;
use crate::domain::{U256, eip712::DOMAIN_TYPE};

mod g7 {
    alloy::sol! {
        struct PublicDecryptVerification { bytes32[] ctHandles; bytes decryptedResult; }
        struct UserDecryptResponseVerification {
            bytes publicKey; bytes32[] ctHandles; bytes userDecryptedShare;
        }
    }
}

mod g8 {
    alloy::sol! {
        struct PublicDecryptVerification {
            bytes32[] ctHandles; bytes decryptedResult; bytes extraData;
        }
        struct UserDecryptResponseVerification {
            bytes publicKey; bytes32[] ctHandles; bytes userDecryptedShare; bytes extraData;
        }
    }
}

fn domain() -> SigningDomain {
    SigningDomain {
        name: "Decryption".into(),
        version: "1".into(),
        chain_id: 54321,
        verifying_contract: address!("0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"),
    }
}

fn alloys(domain: &SigningDomain) -> Eip712Domain {
    Eip712Domain::new(
        Some(domain.name.clone().into()),
        Some(domain.version.clone().into()),
        Some(U256::from(domain.chain_id)),
        Some(domain.verifying_contract),
        None,
    )
}

#[test]
fn the_type_strings_hash_to_the_protocols_constants() {
    for (text, hash) in [
        (DOMAIN_TYPE, b256!("0x8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f")),
        (
            PREPARATION.without_extra_data,
            b256!("0x5f9676496d7809c84f94f0ba86890bd661594fa715e72e57cc327238eb3c5265"),
        ),
        (
            PREPARATION.with_extra_data,
            b256!("0x76e9aa7d78d48bc6c0bcdce52b7c722f8bce936a97a619baae97af05193c9c66"),
        ),
        (
            KEY.without_extra_data,
            b256!("0xa291f9864173cc77db6137c9f5a1d097994dd8ef4d71725f0b12dd94a85dbfb0"),
        ),
        (
            KEY.with_extra_data,
            b256!("0xbd14835bb4ae13c78ecb88ded2c3370325f39e6006eb94ff45e95f98e4c85a2a"),
        ),
        (KEY_DIGEST, b256!("0xddd108772e6a3899feb04d148ae915cbe3eb5ebd202688080399e9921ac3616b")),
        (
            CRS.without_extra_data,
            b256!("0x3778e83715e573b1c60ad238000d5a03bf815d401f31c1de9e6756135b9e5c6a"),
        ),
        (
            CRS.with_extra_data,
            b256!("0xa264b318e95080300a3f06a6656a8e7fe24f9903f0e6bcca307efbe39c4c4e09"),
        ),
        (
            PUBLIC.without_extra_data,
            b256!("0x0fadf98b8136b99fb0131ba0fcbca3082d7d632509fad62cf0d18ebdf9670cc1"),
        ),
        (
            PUBLIC.with_extra_data,
            b256!("0x89bac15e5ba205584832145601e359431e80fb9fb331ba5a22058132d525c794"),
        ),
        (
            USER.without_extra_data,
            b256!("0x66b7de8ddbdfcd47d72af09b73afd147c55ee65b08d2da318d957728ceb27b65"),
        ),
        (
            USER.with_extra_data,
            b256!("0x2c4b1a55fe4090104eb889f0e48d4cf11c7cc4b95cf47117b9f0008cbcc10f5f"),
        ),
    ] {
        assert_eq!(keccak256(text), hash, "{text}");
    }
}

proptest! {
    #[test]
    fn digests_agree_with_alloys(
        handles in proptest::collection::vec(any::<[u8; 32]>(), 0..5),
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        public_key in proptest::collection::vec(any::<u8>(), 0..40),
        extra_data in proptest::collection::vec(any::<u8>(), 0..70),
        chain_id in any::<u64>(),
    ) {
        let handles: Vec<B256> = handles.into_iter().map(B256::from).collect();
        let domain = SigningDomain { chain_id, ..domain() };
        let alloys = alloys(&domain);
        prop_assert_eq!(domain.separator(), alloys.separator());

        let old = g7::PublicDecryptVerification {
            ctHandles: handles.clone(),
            decryptedResult: payload.clone().into(),
        };
        prop_assert_eq!(
            public_digest(&domain, &handles, &payload, None),
            old.eip712_signing_hash(&alloys)
        );
        let new = g8::PublicDecryptVerification {
            ctHandles: handles.clone(),
            decryptedResult: payload.clone().into(),
            extraData: extra_data.clone().into(),
        };
        prop_assert_eq!(
            public_digest(&domain, &handles, &payload, Some(&extra_data)),
            new.eip712_signing_hash(&alloys)
        );
        let old = g7::UserDecryptResponseVerification {
            publicKey: public_key.clone().into(),
            ctHandles: handles.clone(),
            userDecryptedShare: payload.clone().into(),
        };
        prop_assert_eq!(
            user_digest(&domain, &public_key, &handles, &payload, None),
            old.eip712_signing_hash(&alloys)
        );
        let new = g8::UserDecryptResponseVerification {
            publicKey: public_key.clone().into(),
            ctHandles: handles.clone(),
            userDecryptedShare: payload.clone().into(),
            extraData: extra_data.clone().into(),
        };
        prop_assert_eq!(
            user_digest(&domain, &public_key, &handles, &payload, Some(&extra_data)),
            new.eip712_signing_hash(&alloys)
        );
    }
}

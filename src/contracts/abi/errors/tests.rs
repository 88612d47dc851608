use alloy::primitives::{address, bytes, hex, keccak256};
use proptest::prelude::*;

use super::*;

const NODE: Address = address!("00000000000000000000000000000000000000aa");
const WALLET: Address = address!("00000000000000000000000000000000000000bb");

/// Builds revert data: a selector, and words padded on the left.
fn revert(selector: &str, arguments: &[&str]) -> Vec<u8> {
    let words = arguments.iter().map(|word| format!("{word:0>64}"));
    let all: Vec<_> = [selector.to_owned()].into_iter().chain(words).collect();
    hex::decode(all.concat()).expect("hex")
}

/// Every row of gateway-abi 4.4, and of 6.2, 6.3 and 7.4: signature, selector, arguments, variant, verdict.
#[expect(clippy::too_many_lines, reason = "a table, a row per error")]
fn table() -> Vec<(&'static str, &'static str, Vec<&'static str>, ContractError, RevertMeaning)> {
    use ContractError as E;
    let held = RevertMeaning::Hold;
    let seven = U256::from(7);
    vec![
        (
            "DecryptionNotRequested(uint256)",
            "d48af942",
            vec!["7"],
            E::DecryptionNotRequested(seven),
            RevertMeaning::NotRequested,
        ),
        (
            "KmsNodeAlreadySigned(uint256,address)",
            "99ec48d9",
            vec!["7", "aa"],
            E::KmsNodeAlreadySigned { id: seven, signer: NODE },
            RevertMeaning::AlreadyAnswered,
        ),
        (
            "NotKmsTxSender(address)",
            "aee86323",
            vec!["bb"],
            E::NotKmsTxSender(WALLET),
            held(HoldReason::WalletNotRegistered),
        ),
        (
            "NotKmsSigner(address)",
            "2a7c6ef6",
            vec!["aa"],
            E::NotKmsSigner(NODE),
            held(HoldReason::SignerNotRegistered),
        ),
        (
            "KmsSignerDoesNotMatchTxSender(address,address)",
            "0d86f521",
            vec!["aa", "bb"],
            E::KmsSignerDoesNotMatchTxSender { signer: NODE, tx_sender: WALLET },
            held(HoldReason::WalletCoreMismatch),
        ),
        ("EnforcedPause()", "d93c0665", vec![], E::EnforcedPause, RevertMeaning::Retry),
        (
            "DecryptionContextMismatch(uint256,uint256,uint256)",
            "abb5f486",
            vec!["7", "1", "2"],
            E::DecryptionContextMismatch {
                id: seven,
                requested: U256::from(1),
                answered: U256::from(2),
            },
            held(HoldReason::InvalidAnswer),
        ),
        (
            "InvalidExtraDataLength(uint256,uint256)",
            "93548a66",
            vec!["3", "21"],
            E::InvalidExtraDataLength { length: U256::from(3), minimum: U256::from(33) },
            held(HoldReason::InvalidAnswer),
        ),
        (
            "UnsupportedExtraDataVersion(uint8)",
            "2139cc2c",
            vec!["9"],
            E::UnsupportedExtraDataVersion(9),
            held(HoldReason::InvalidAnswer),
        ),
        (
            "InvalidKmsContext(uint256)",
            "77ddbe81",
            vec!["7"],
            E::InvalidKmsContext(seven),
            held(HoldReason::ContextUnknown),
        ),
        (
            "InvalidNullContextId()",
            "cb17b7a5",
            vec![],
            E::InvalidNullContextId,
            held(HoldReason::ContractRejected),
        ),
        (
            "ECDSAInvalidSignature()",
            "f645eedf",
            vec![],
            E::ECDSAInvalidSignature,
            held(HoldReason::InvalidAnswer),
        ),
        (
            "ECDSAInvalidSignatureLength(uint256)",
            "fce698f7",
            vec!["40"],
            E::ECDSAInvalidSignatureLength(U256::from(64)),
            held(HoldReason::InvalidAnswer),
        ),
        (
            "ECDSAInvalidSignatureS(bytes32)",
            "d78bce0c",
            vec!["ff"],
            E::ECDSAInvalidSignatureS(B256::with_last_byte(0xff)),
            held(HoldReason::InvalidAnswer),
        ),
        (
            "DecryptionNotDone(uint256)",
            "0bf01406",
            vec!["7"],
            E::DecryptionNotDone(seven),
            held(HoldReason::ContractRejected),
        ),
        (
            "KmsContextCreationAlreadyConfirmed(address,uint256)",
            "62585cc8",
            vec!["bb", "7"],
            E::KmsContextCreationAlreadyConfirmed { context: seven, wallet: WALLET },
            RevertMeaning::AlreadyAnswered,
        ),
        (
            "KmsContextNotPending(uint256)",
            "3586efa1",
            vec!["7"],
            E::KmsContextNotPending(seven),
            RevertMeaning::Over,
        ),
        (
            "KmsContextCreationUnauthorized(address,uint256)",
            "b81df8e8",
            vec!["bb", "7"],
            E::KmsContextCreationUnauthorized { context: seven, wallet: WALLET },
            held(HoldReason::WalletNotRegistered),
        ),
        (
            "EpochActivationAlreadyConfirmed(address,uint256)",
            "49417636",
            vec!["aa", "7"],
            E::EpochActivationAlreadyConfirmed { epoch: seven, signer: NODE },
            RevertMeaning::AlreadyAnswered,
        ),
        (
            "InvalidKmsEpoch(uint256)",
            "7995bbcf",
            vec!["7"],
            E::InvalidKmsEpoch(seven),
            RevertMeaning::Over,
        ),
        (
            "InvalidEpoch(uint256)",
            "a225656d",
            vec!["7"],
            E::InvalidEpoch(seven),
            RevertMeaning::Over,
        ),
        (
            "EpochActivationUnauthorized(address,uint256)",
            "a3f4afeb",
            vec!["bb", "7"],
            E::EpochActivationUnauthorized { epoch: seven, wallet: WALLET },
            held(HoldReason::WalletNotRegistered),
        ),
        (
            "KmsContextNotCreated(uint256)",
            "32c5b9f6",
            vec!["7"],
            E::KmsContextNotCreated(seven),
            RevertMeaning::Retry,
        ),
        (
            "EmptyEpochActivationAttestation(uint256)",
            "ce9440df",
            vec!["7"],
            E::EmptyEpochActivationAttestation(seven),
            held(HoldReason::InvalidAnswer),
        ),
        (
            "EpochActivationSignerDoesNotMatchTxSender(address,address)",
            "f1735b46",
            vec!["aa", "bb"],
            E::EpochActivationSignerDoesNotMatchTxSender { signer: NODE, tx_sender: WALLET },
            held(HoldReason::WalletCoreMismatch),
        ),
        (
            "EpochNotUnderActiveContext(uint256,uint256)",
            "a69d7d5b",
            vec!["7", "9"],
            E::EpochNotUnderActiveContext { epoch: seven, context: U256::from(9) },
            held(HoldReason::ContextUnknown),
        ),
        (
            "KmsLifecycleOperationInFlight(uint256,uint256)",
            "078020be",
            vec!["9", "7"],
            E::KmsLifecycleOperationInFlight { context: U256::from(9), epoch: seven },
            held(HoldReason::ContractRejected),
        ),
        (
            "KmsAlreadySignedForPrepKeygen(uint256,address)",
            "33ca1fe3",
            vec!["7", "aa"],
            E::KmsAlreadySignedForPrepKeygen { id: seven, signer: NODE },
            RevertMeaning::AlreadyAnswered,
        ),
        (
            "KmsAlreadySignedForKeygen(uint256,address)",
            "98fb957d",
            vec!["7", "aa"],
            E::KmsAlreadySignedForKeygen { id: seven, signer: NODE },
            RevertMeaning::AlreadyAnswered,
        ),
        (
            "KmsAlreadySignedForCrsgen(uint256,address)",
            "fcf5a6e9",
            vec!["7", "aa"],
            E::KmsAlreadySignedForCrsgen { id: seven, signer: NODE },
            RevertMeaning::AlreadyAnswered,
        ),
        (
            "PrepKeygenNotRequested(uint256)",
            "0ab7f687",
            vec!["7"],
            E::PrepKeygenNotRequested(seven),
            RevertMeaning::NotRequested,
        ),
        (
            "KeygenNotRequested(uint256)",
            "adfab904",
            vec!["7"],
            E::KeygenNotRequested(seven),
            RevertMeaning::NotRequested,
        ),
        (
            "CrsgenNotRequested(uint256)",
            "8d8c940a",
            vec!["7"],
            E::CrsgenNotRequested(seven),
            RevertMeaning::NotRequested,
        ),
        (
            "EmptyKeyDigests(uint256)",
            "e6f9083b",
            vec!["7"],
            E::EmptyKeyDigests(seven),
            held(HoldReason::InvalidAnswer),
        ),
        (
            "KeyManagementRequestPending()",
            "6fbcdd2b",
            vec![],
            E::KeyManagementRequestPending,
            RevertMeaning::Retry,
        ),
        (
            "DeserializingExtraDataFail()",
            "8b248b60",
            vec![],
            E::DeserializingExtraDataFail,
            held(HoldReason::ContractRejected),
        ),
        (
            "Panic(uint256)",
            "4e487b71",
            vec!["11"],
            E::Panic(U256::from(0x11)),
            held(HoldReason::ContractRejected),
        ),
        (
            "Error(string)",
            "08c379a0",
            vec!["20", "2", "6e6f000000000000000000000000000000000000000000000000000000000000"],
            E::Error("no".into()),
            held(HoldReason::ContractRejected),
        ),
    ]
}

/// Field failure T43.
#[test]
fn every_error_of_the_table_is_known() {
    for (signature, selector, arguments, error, verdict) in table() {
        assert_eq!(hex::encode(&keccak256(signature)[..4]), selector, "{signature}");
        let decoded = ContractError::decode(&revert(selector, &arguments)).unwrap();
        assert_eq!(decoded, error, "{signature}");
        assert_eq!(decoded.meaning(), verdict, "{signature}");
        assert_eq!(decoded.code(), signature.split('(').next().unwrap());
    }
    assert_eq!(Raised::COUNT, table().len() - 2, "all but the compiler's own two");
}

/// Of 6.2 and 6.3: held under their names, with the bytes that came.
#[test]
fn errors_of_other_calls_are_held_by_name() {
    for (selector, signature) in OF_OTHER_CALLS {
        assert_eq!(keccak256(signature)[..4], selector, "{signature}");
        let data = revert(&hex::encode(selector), &["7"]);
        let decoded = ContractError::decode(&data).unwrap();
        assert_eq!(decoded.code(), "other", "{signature}");
        assert_eq!(decoded.meaning(), RevertMeaning::Hold(HoldReason::ContractRejected));
        assert!(decoded.to_string().contains(signature), "{decoded}");
        let ours = table().iter().any(|row| row.1 == hex::encode(selector));
        assert!(!ours, "{signature} is one of an answer");
    }
}

#[test]
fn a_known_selector_with_bad_arguments_is_another_error() {
    for (signature, selector, arguments, _, _) in table() {
        if arguments.is_empty() {
            continue;
        }
        let data = revert(selector, &arguments);
        let cut = ContractError::decode(&data[..data.len() - 32]).unwrap();
        assert_eq!(cut.code(), "other", "{signature}");
        assert_eq!(cut.meaning(), RevertMeaning::Hold(HoldReason::ContractRejected));
    }
    // An address of thirteen bytes.
    let dirty = revert("aee86323", &["1000000000000000000000000000000000000000bb"]);
    assert_eq!(ContractError::decode(&dirty).unwrap().code(), "other");
}

#[test]
fn what_is_no_error_of_ours_keeps_its_bytes() {
    assert_eq!(ContractError::decode(&[]), None);
    assert_eq!(
        ContractError::decode(&hex!("d48af9")),
        Some(ContractError::UnknownData(bytes!("d48af9")))
    );
    // NotCoprocessorTxSender(address): an error of the contract that no response call raises.
    assert_eq!(
        ContractError::decode(&hex!("52d725f5 01")),
        Some(ContractError::Other {
            selector: Selector::from(hex!("52d725f5")),
            arguments: bytes!("01"),
        })
    );
    assert_eq!(ContractError::UnknownData(bytes!("01")).code(), "unknown_data");
    for error in [
        ContractError::UnknownData(bytes!("01")),
        ContractError::Other { selector: Selector::ZERO, arguments: Bytes::new() },
    ] {
        assert_eq!(error.meaning(), RevertMeaning::Hold(HoldReason::ContractRejected));
    }
}

#[test]
fn says_it_in_words() {
    let said = |error: ContractError| error.to_string();
    let mismatch =
        said(ContractError::KmsSignerDoesNotMatchTxSender { signer: NODE, tx_sender: WALLET });
    assert!(mismatch.contains(&NODE.to_string()) && mismatch.contains(&WALLET.to_string()));
    assert_eq!(
        said(ContractError::DecryptionNotRequested(U256::from(7))),
        format!("the contract does not know decryption 0x{}7", "0".repeat(63))
    );
    assert_eq!(
        said(ContractError::Other {
            selector: Selector::from(hex!("52d725f5")),
            arguments: bytes!("01")
        }),
        "the contract reverted with unknown error 0x52d725f5 and 1 bytes of arguments"
    );
    // Text from the chain can neither break the line nor fill the log.
    assert_eq!(
        said(ContractError::Error("a\nb\u{1b}[31m".into())),
        r"the contract reverted: a\nb\u{1b}[31m"
    );
    let long = said(ContractError::Error("x".repeat(10_000).into()));
    assert!(long.ends_with("x…") && long.len() < 400);
}

proptest! {
    #[test]
    fn any_data_gets_a_name_and_a_verdict(
        row in 0..2 * table().len(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        // Half of the cases start with a known selector.
        let mut data = table().get(row).map_or(vec![], |row| revert(row.1, &[]));
        data.extend(noise);
        let decoded = ContractError::decode(&data);
        prop_assert_eq!(decoded.is_none(), data.is_empty());
        if let Some(error) = decoded {
            prop_assert!(!error.code().is_empty() && !error.to_string().is_empty());
            let unknown = matches!(error.code(), "other" | "unknown_data");
            let rejected = error.meaning() == RevertMeaning::Hold(HoldReason::ContractRejected);
            prop_assert!(!unknown || rejected);
        }
    }
}

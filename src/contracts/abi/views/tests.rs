//! Results of views, word by word, and noise.

use alloy::primitives::address;
use proptest::prelude::*;

use super::*;
use crate::domain::{Address, Kind, SigningDomain};

const WALLET: Address = address!("00000000000000000000000000000000000000bb");
const SIGNER: Address = address!("00000000000000000000000000000000000000aa");
/// `http://s3/b` as a string.
const URL: &str = "b 687474703a2f2f73332f62000000000000000000000000000000000000000000";
/// `10.0.0.1` as a string.
const IP: &str = "8 31302e302e302e31000000000000000000000000000000000000000000000000";

fn words(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .inspect(|word| assert!(word.len() <= 64, "{word} is longer than a word"))
        .flat_map(|word| hex::decode(format!("{word:0>64}")).expect("a hex word"))
        .collect()
}

fn problem<T: fmt::Debug>(view: &View<T>, returned: &[u8]) -> ViewProblem {
    view.decode(returned).unwrap_err().problem
}

#[test]
fn calldata_is_that_of_the_tables() {
    let seven = "0000000000000000000000000000000000000000000000000000000000000007";
    let wallet = "00000000000000000000000000000000000000000000000000000000000000bb";
    let id = U256::from(7);
    let no_handles = &hex::encode(words("40 60 0 0"))[..];
    for (calldata, selector, argument) in [
        (coprocessor(WALLET).calldata(), "ef6997f9", wallet),
        (coprocessor_tx_senders().calldata(), "1ea5bd42", ""),
        (kms_tx_senders().calldata(), "7420f3d4", ""),
        (kms_signers().calldata(), "7eaac8f2", ""),
        (kms_node(WALLET).calldata(), "e3b2a874", wallet),
        (kms_node_for_context(id, WALLET).calldata(), "31ff41c8", &format!("{seven}{wallet}")),
        (coprocessor_majority_threshold().calldata(), "6799ef52", ""),
        (current_kms_context_id().calldata(), "976f3eb9", ""),
        (is_valid_kms_context(id).calldata(), "bf9b16c8", seven),
        (unified_request_is_ready().calldata(), "410bf0ba", no_handles),
        (contract_version().calldata(), "0d8e6e2c", ""),
        (signing_domain().calldata(), "84b0196e", ""),
        (is_decryption_done(id).calldata(), "58f5b8ab", seven),
        (consensus_tx_senders(Kind::UserDecryption, id).calldata(), "0900cc69", seven),
        (consensus_tx_senders(Kind::Keygen, id).calldata(), "16c713d9", seven),
    ] {
        assert_eq!(hex::encode(calldata), format!("{selector}{argument}"));
    }
    assert_eq!(kms_node(WALLET).signature(), "getKmsNode(address)");
}

#[test]
fn reads_a_coprocessor() {
    let view = coprocessor(WALLET);
    assert_eq!(
        view.decode(&words(&format!("20 bb aa 60 {URL}"))).unwrap(),
        Some(Coprocessor { tx_sender: WALLET, signer: SIGNER, url: "http://s3/b".to_owned() })
    );
    assert_eq!(view.decode(&words("20 0 0 60 0")).unwrap(), None);
    // Registered without a bucket is not the same as unregistered.
    let bare = view.decode(&words("20 bb aa 60 0")).unwrap().unwrap();
    assert_eq!(bare.url, "");
    // A URL that is not UTF-8.
    let bad =
        words("20 bb aa 60 1 ff00000000000000000000000000000000000000000000000000000000000000");
    assert!(matches!(problem(&view, &bad), ViewProblem::Abi(_)));
}

#[test]
fn reads_a_kms_node_in_both_layouts() {
    let view = kms_node(WALLET);
    let node = Some(KmsNode { tx_sender: WALLET, signer: SIGNER });
    let three = words(&format!("20 bb aa 60 {IP}"));
    let four = words(&format!("20 bb aa 80 c0 {IP} {URL}"));
    assert_eq!(view.decode(&three).unwrap(), node);
    assert_eq!(view.decode(&four).unwrap(), node);
    // Empty texts, and no node at all, in both layouts.
    assert_eq!(view.decode(&words("20 bb aa 60 0")).unwrap(), node);
    assert_eq!(view.decode(&words("20 bb aa 80 a0 0 0")).unwrap(), node);
    assert_eq!(view.decode(&words("20 0 0 60 0")).unwrap(), None);
    assert_eq!(view.decode(&words("20 0 0 80 a0 0 0")).unwrap(), None);
    // An address text of 128 bytes puts 0x80 where the other layout has an offset.
    let long = format!("20 bb aa 60 80 {}", "61 ".repeat(4));
    assert_eq!(view.decode(&words(&long)).unwrap(), node);

    // A fifth field, another start, cut short.
    for odd in ["20 bb aa a0 c0 e0 0 0 0", "40 bb aa 60 0", "20 bb aa", "20"] {
        assert!(matches!(problem(&view, &words(odd)), ViewProblem::KmsNodeLayout { .. }), "{odd}");
    }
    assert!(matches!(problem(&view, &four[..four.len() - 32]), ViewProblem::Abi(_)));
    assert!(matches!(problem(&view, &three[..three.len() - 32]), ViewProblem::Abi(_)));
    assert_eq!(problem(&view, &[]), ViewProblem::Empty);
}

#[test]
fn reads_lists_and_scalars() {
    let list = words("20 2 aa bb");
    for view in [
        coprocessor_tx_senders(),
        kms_tx_senders(),
        kms_signers(),
        consensus_tx_senders(Kind::UserDecryption, U256::from(7)),
    ] {
        assert_eq!(view.decode(&list).unwrap(), [SIGNER, WALLET]);
        assert!(view.decode(&words("20 0")).unwrap().is_empty());
        assert_eq!(problem(&view, &[]), ViewProblem::Empty);
        assert!(matches!(problem(&view, &words("20 2 aa")), ViewProblem::Abi(_)));
    }
    let done = is_decryption_done(U256::from(7));
    assert!(done.decode(&words("1")).unwrap());
    assert!(!done.decode(&words("0")).unwrap());
    assert!(matches!(problem(&done, &words("2")), ViewProblem::Abi(_)));

    let context = words("0700000000000000000000000000000000000000000000000000000000000001");
    assert_eq!(
        current_kms_context_id().decode(&context).unwrap(),
        (U256::from(7) << 248) | U256::ONE
    );
    let version = words("20 11 44656372797074696f6e2076302e332e30000000000000000000000000000000");
    assert_eq!(contract_version().decode(&version).unwrap(), "Decryption v0.3.0");
}

#[test]
fn reads_the_signing_domain() {
    let view = signing_domain();
    let domain = |fields: &str, chain_id: &str, extensions: &str| {
        words(&format!(
            "{fields:0<64} e0 120 {chain_id} bb 0 160
             a 44656372797074696f6e00000000000000000000000000000000000000000000
             1 3100000000000000000000000000000000000000000000000000000000000000
             {extensions}"
        ))
    };
    assert_eq!(
        view.decode(&domain("0f", "d431", "0")).unwrap(),
        SigningDomain {
            name: "Decryption".to_owned(),
            version: "1".to_owned(),
            chain_id: 54_321,
            verifying_contract: WALLET,
        }
    );
    let salted = view.decode(&domain("1f", "d431", "0")).unwrap_err();
    assert_eq!(salted.problem, ViewProblem::DomainFields { fields: 0x1f, extensions: 0 });
    assert_eq!(
        problem(&view, &domain("0f", "d431", "1 5")),
        ViewProblem::DomainFields { fields: 0x0f, extensions: 1 }
    );
    assert_eq!(
        problem(&view, &domain("0f", "10000000000000000", "0")),
        ViewProblem::DomainChainId(U256::ONE << 64)
    );
    let nothing = view.decode(&[]).unwrap_err();
    assert!(nothing.to_string().starts_with("eip712Domain(): nothing came back"));
}

proptest! {
    #[test]
    fn noise_never_panics(
        head in prop::sample::select(vec!["", "20", "20 bb aa 60", "20 bb aa 80", "20 2"]),
        noise in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let returned = [words(head), noise].concat();
        let empty = returned.is_empty();
        prop_assert!(!empty || coprocessor(WALLET).decode(&returned).is_err());
        prop_assert!(!empty || kms_node(WALLET).decode(&returned).is_err());
        prop_assert!(!empty || kms_signers().decode(&returned).is_err());
        prop_assert!(!empty || signing_domain().decode(&returned).is_err());
        prop_assert!(!empty || contract_version().decode(&returned).is_err());
    }
}

//! View calls of the Decryption and `GatewayConfig` contracts: a [`View`] is the calldata and a function
//! that decodes the result. Which node is asked, and how often, is decided by the adapter.

use std::fmt;

use alloy::primitives::hex;
use alloy::sol;
use alloy::sol_types::{self, SolCall, SolType, sol_data};

use super::DECODER;
use crate::domain::{Address, Bytes, SigningDomain, U256};

sol! {
    struct CoprocessorOnChain { address txSenderAddress; address signerAddress; string s3BucketUrl; }

    // GatewayConfig
    function getCoprocessor(address coprocessorTxSenderAddress) external view
        returns (CoprocessorOnChain coprocessor);
    function getCoprocessorTxSenders() external view returns (address[] txSenders);
    function getKmsTxSenders() external view returns (address[] txSenders);
    function getKmsSigners() external view returns (address[] signers);
    function getCurrentKmsContextId() external view returns (uint256 contextId);
    // The result has two layouts under one selector: see `read_kms_node`.
    function getKmsNode(address kmsTxSenderAddress) external view;

    // Decryption
    function getVersion() external pure returns (string version);
    function eip712Domain() external view returns (
        bytes1 fields,
        string name,
        string version,
        uint256 chainId,
        address verifyingContract,
        bytes32 salt,
        uint256[] extensions
    );
    function isDecryptionDone(uint256 decryptionId) external view returns (bool done);
    function getDecryptionConsensusTxSenders(uint256 decryptionId) external view
        returns (address[] txSenders);
}

/// `KmsNode` up to v0.8.1: tx sender, signer, `ipAddress`.
type ThreeFieldKmsNode = (sol_data::Address, sol_data::Address, sol_data::String);
/// `KmsNode` from v0.9.0 on: `storageUrl` added.
type FourFieldKmsNode = (sol_data::Address, sol_data::Address, sol_data::String, sol_data::String);

/// A call of a view function, and how to decode its result.
#[derive(Clone)]
pub struct View<T> {
    signature: &'static str,
    calldata: Bytes,
    read: fn(&[u8]) -> Result<T, ViewProblem>,
}

impl<T> View<T> {
    fn of<C: SolCall>(call: &C, read: fn(&[u8]) -> Result<T, ViewProblem>) -> Self {
        Self { signature: C::SIGNATURE, calldata: call.abi_encode().into(), read }
    }

    /// The canonical signature of the function, for logs and errors.
    #[must_use]
    pub fn signature(&self) -> &'static str {
        self.signature
    }

    /// The `data` of the `eth_call`.
    #[must_use]
    pub fn calldata(&self) -> Bytes {
        self.calldata.clone()
    }

    /// Decodes the result of the `eth_call`.
    pub fn decode(&self, returned: &[u8]) -> Result<T, UnreadableView> {
        let read =
            if returned.is_empty() { Err(ViewProblem::Empty) } else { (self.read)(returned) };
        read.map_err(|problem| UnreadableView { view: self.signature, problem })
    }
}

impl<T> fmt::Debug for View<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({}, {})", self.signature, hex::encode_prefixed(&self.calldata))
    }
}

/// A registered coprocessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coprocessor {
    pub tx_sender: Address,
    pub signer: Address,
    /// `s3BucketUrl`, exactly as on chain.
    pub url: String,
}

/// A registered KMS node. Its addresses for other nodes are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KmsNode {
    pub tx_sender: Address,
    pub signer: Address,
}

/// `getCoprocessor`, by the tx sender that the event's materials list. `None`: not registered.
#[must_use]
pub fn coprocessor(tx_sender: Address) -> View<Option<Coprocessor>> {
    View::of(&getCoprocessorCall { coprocessorTxSenderAddress: tx_sender }, |returned| {
        let CoprocessorOnChain { txSenderAddress, signerAddress, s3BucketUrl } =
            getCoprocessorCall::abi_decode_returns_with_config(returned, DECODER)?;
        // The contract never reverts here: for an unknown address it returns a zeroed struct.
        let zeroed = txSenderAddress.is_zero() && signerAddress.is_zero() && s3BucketUrl.is_empty();
        Ok((!zeroed).then_some(Coprocessor {
            tx_sender: txSenderAddress,
            signer: signerAddress,
            url: s3BucketUrl,
        }))
    })
}

/// `getCoprocessorTxSenders`: all registered coprocessors.
#[must_use]
pub fn coprocessor_tx_senders() -> View<Vec<Address>> {
    View::of(&getCoprocessorTxSendersCall {}, |returned| {
        Ok(getCoprocessorTxSendersCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getKmsTxSenders`: all registered KMS wallets (of the current context from G12 on).
#[must_use]
pub fn kms_tx_senders() -> View<Vec<Address>> {
    View::of(&getKmsTxSendersCall {}, |returned| {
        Ok(getKmsTxSendersCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getKmsSigners`: all registered KMS signers (of the current context from G12 on).
#[must_use]
pub fn kms_signers() -> View<Vec<Address>> {
    View::of(&getKmsSignersCall {}, |returned| {
        Ok(getKmsSignersCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getKmsNode`: the node that owns this wallet. `None`: not registered.
#[must_use]
pub fn kms_node(wallet: Address) -> View<Option<KmsNode>> {
    View::of(&getKmsNodeCall { kmsTxSenderAddress: wallet }, read_kms_node)
}

/// Decodes both layouts under one selector: three fields up to v0.8.1, four from v0.9.0 on.
///
/// The struct is `txSender, signer, offset of ipAddress[, offset of storageUrl]`, then the tails. The
/// first tail follows the head directly, so its offset equals the head's size and tells the layout.
fn read_kms_node(returned: &[u8]) -> Result<Option<KmsNode>, ViewProblem> {
    let word = |index: usize| {
        let word = returned.get(32 * index..32 * (index + 1))?;
        u32::try_from(U256::from_be_slice(word)).ok()
    };
    let (tx_sender, signer, empty) = match (word(0), word(3)) {
        (Some(0x20), Some(0x60)) => {
            let (tx_sender, signer, ip) =
                ThreeFieldKmsNode::abi_decode_with_config(returned, DECODER)?;
            (tx_sender, signer, ip.is_empty())
        }
        (Some(0x20), Some(0x80)) => {
            let (tx_sender, signer, ip, storage) =
                FourFieldKmsNode::abi_decode_with_config(returned, DECODER)?;
            (tx_sender, signer, ip.is_empty() && storage.is_empty())
        }
        _ => return Err(ViewProblem::KmsNodeLayout { returned: returned.len() }),
    };
    let zeroed = tx_sender.is_zero() && signer.is_zero() && empty;
    Ok((!zeroed).then_some(KmsNode { tx_sender, signer }))
}

/// `getCurrentKmsContextId`. Exists from G12 on.
#[must_use]
pub fn current_kms_context_id() -> View<U256> {
    View::of(&getCurrentKmsContextIdCall {}, |returned| {
        Ok(getCurrentKmsContextIdCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getVersion` of the Decryption contract, for [`deployment_from_version`].
#[must_use]
pub fn decryption_version() -> View<String> {
    View::of(&getVersionCall {}, |returned| {
        Ok(getVersionCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `eip712Domain` of the Decryption contract: the domain that the KMS Core signs under.
#[must_use]
pub fn signing_domain() -> View<SigningDomain> {
    /// Fields of the domain (EIP-5267): name, version, chain id and verifying contract; neither salt nor
    /// extensions.
    const FIELDS: u8 = 0x0f;
    View::of(&eip712DomainCall {}, |returned| {
        let domain = eip712DomainCall::abi_decode_returns_with_config(returned, DECODER)?;
        let [fields] = domain.fields.0;
        if fields != FIELDS || !domain.extensions.is_empty() {
            let extensions = domain.extensions.len();
            return Err(ViewProblem::DomainFields { fields, extensions });
        }
        Ok(SigningDomain {
            name: domain.name,
            version: domain.version,
            chain_id: u64::try_from(domain.chainId)
                .map_err(|_| ViewProblem::DomainChainId(domain.chainId))?,
            verifying_contract: domain.verifyingContract,
        })
    })
}

/// `isDecryptionDone`: whether consensus is reached. From v0.9.0 on.
#[must_use]
pub fn is_decryption_done(id: U256) -> View<bool> {
    View::of(&isDecryptionDoneCall { decryptionId: id }, |returned| {
        Ok(isDecryptionDoneCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getDecryptionConsensusTxSenders`: the senders whose answers formed the consensus; empty before there
/// is one. From v0.8.0-1 on.
#[must_use]
pub fn decryption_consensus_tx_senders(id: U256) -> View<Vec<Address>> {
    View::of(&getDecryptionConsensusTxSendersCall { decryptionId: id }, |returned| {
        Ok(getDecryptionConsensusTxSendersCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// A view whose result does not decode.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{view}: {problem}")]
pub struct UnreadableView {
    /// The function's signature.
    pub view: &'static str,
    #[source]
    pub problem: ViewProblem,
}

/// Why the result of a view does not decode.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ViewProblem {
    /// A node returns nothing for an address without code.
    #[error("nothing came back: there is no contract at this address")]
    Empty,
    #[error("what came back does not decode: {0}")]
    Abi(#[from] sol_types::Error),
    #[error("the {returned} bytes that came back are no KmsNode of three or four fields")]
    KmsNodeLayout { returned: usize },
    #[error(
        "the signing domain is not of name, version, chain id and contract alone \
         (fields {fields:#04x}, {extensions} extensions)"
    )]
    DomainFields { fields: u8, extensions: usize },
    #[error("the signing domain's chain id {0} does not fit 64 bits")]
    DomainChainId(U256),
}

impl UnreadableView {
    /// Stable, for throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.problem {
            ViewProblem::Empty => "no_contract",
            ViewProblem::Abi(_)
            | ViewProblem::KmsNodeLayout { .. }
            | ViewProblem::DomainFields { .. }
            | ViewProblem::DomainChainId(_) => "view_unreadable",
        }
    }
}

/// The deployed contracts, as far as the Decryption contract's version tells (gateway-abi 1.1). The
/// numbering restarted at v0.9.0, so one version may belong to several generations, but never to both
/// sides of G12.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// G7 to G10: the gateway checks access. Served.
    UpToG10,
    /// G12 and later: nobody but the connectors checks access.
    FromG12,
    /// An unknown version, verbatim.
    Unknown(String),
}

/// Parses `getVersion()` of the Decryption contract: `Decryption v<major>.<minor>.<patch>`.
#[must_use]
pub fn deployment_from_version(decryption_version: &str) -> Deployment {
    match version_numbers(decryption_version) {
        Some((0, 1..=3, _)) => Deployment::UpToG10,
        Some((0, 4.., _) | (1.., _, _)) => Deployment::FromG12,
        Some((0, 0, _)) | None => Deployment::Unknown(decryption_version.to_owned()),
    }
}

pub(super) fn version_numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.strip_prefix("Decryption v")?.split('.').map(|part| {
        // `parse` alone would accept a sign.
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten()
    });
    let numbers = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::address;
    use proptest::prelude::*;

    use super::*;

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
        for (calldata, selector, argument) in [
            (coprocessor(WALLET).calldata(), "ef6997f9", wallet),
            (coprocessor_tx_senders().calldata(), "1ea5bd42", ""),
            (kms_tx_senders().calldata(), "7420f3d4", ""),
            (kms_signers().calldata(), "7eaac8f2", ""),
            (kms_node(WALLET).calldata(), "e3b2a874", wallet),
            (current_kms_context_id().calldata(), "976f3eb9", ""),
            (decryption_version().calldata(), "0d8e6e2c", ""),
            (signing_domain().calldata(), "84b0196e", ""),
            (is_decryption_done(id).calldata(), "58f5b8ab", seven),
            (decryption_consensus_tx_senders(id).calldata(), "0900cc69", seven),
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
            assert!(
                matches!(problem(&view, &words(odd)), ViewProblem::KmsNodeLayout { .. }),
                "{odd}"
            );
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
            decryption_consensus_tx_senders(U256::from(7)),
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
        let version =
            words("20 11 44656372797074696f6e2076302e332e30000000000000000000000000000000");
        assert_eq!(decryption_version().decode(&version).unwrap(), "Decryption v0.3.0");
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

    #[test]
    fn versions_tell_the_deployment() {
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.17"] {
            let version = format!("Decryption v{version}");
            assert_eq!(deployment_from_version(&version), Deployment::UpToG10, "{version}");
        }
        for version in ["0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.10.0", "1.0.0"] {
            let version = format!("Decryption v{version}");
            assert_eq!(deployment_from_version(&version), Deployment::FromG12, "{version}");
        }
        for odd in [
            "",
            "v0.3.0",
            "Decryption",
            "Decryption v",
            "Decryption v0.3",
            "Decryption v0.3.",
            "Decryption v0.3.0.1",
            "Decryption v0.3.0-rc1",
            "Decryption v0.+3.0",
            "Decryption v0.0.9",
            "Decryption v0.99999999999.0",
            "KmsManagement v0.1.0",
            " Decryption v0.3.0",
        ] {
            assert_eq!(deployment_from_version(odd), Deployment::Unknown(odd.to_owned()));
        }
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
            prop_assert!(!empty || decryption_version().decode(&returned).is_err());
        }

        #[test]
        fn versions_never_panic(version in ".{0,30}") {
            let wrapped = format!("Decryption v{version}");
            for version in [version, wrapped] {
                match deployment_from_version(&version) {
                    Deployment::Unknown(said) => prop_assert_eq!(said, version),
                    Deployment::UpToG10 => prop_assert!(version.starts_with("Decryption v0.")),
                    Deployment::FromG12 => prop_assert!(version.starts_with("Decryption v")),
                }
            }
        }
    }
}

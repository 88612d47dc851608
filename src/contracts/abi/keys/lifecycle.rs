//! The `ProtocolConfig` contract: KMS contexts and epochs (gateway-abi 7). Its ids are indexed.
//!
//! ```text
//! NewKmsContext        a context is defined: G14 on; that of G13 is only recorded
//! NewKmsEpoch          its nodes have confirmed it: all keys are shared anew
//! Kms*Destroyed        its owner has ended one
//! ```

use alloy::primitives::{Keccak256, U256, keccak256};
use alloy::sol;
use alloy::sol_types::{self, SolEvent, SolValue};

use super::{DECODER, KeyEventShape};
use crate::domain::{
    self, B256, Bytes, EpochResult, Event, KeyOperation, KmsContext, KmsContextNode, SharedCrs,
    SharedKey, abort_id,
};

sol! {
    struct KmsNodeParams {
        address txSenderAddress;
        address signerAddress;
        string ipAddress;
        string storageUrl;
        int32 partyId;
        string mpcIdentity;
        bytes caCert;
        string storagePrefix;
    }
    struct KmsThresholds {
        uint256 publicDecryption;
        uint256 userDecryption;
        uint256 kmsGen;
        uint256 mpc;
    }
    struct PcrValues {
        bytes pcr0;
        bytes pcr1;
        bytes pcr2;
    }
    struct KeyDigest {
        uint8 keyType;
        bytes digest;
    }
    struct EpochKeyResult {
        uint256 prepKeygenId;
        uint256 keyId;
        KeyDigest[] keyDigests;
        bytes signature;
    }
    struct EpochCrsResult {
        uint256 crsId;
        uint256 maxBitLength;
        bytes crsDigest;
        bytes signature;
    }
    struct EpochPayload {
        EpochKeyResult[] keys;
        EpochCrsResult[] crsList;
    }

    event NewKmsContext(
        uint256 indexed contextId,
        uint256 indexed previousContextId,
        KmsNodeParams[] kmsNodeParams,
        KmsThresholds thresholds,
        string softwareVersion,
        PcrValues[] pcrValues
    );
    event NewKmsEpoch(
        uint256 indexed kmsContextId,
        uint256 indexed epochId,
        uint256 previousContextId,
        uint256 previousEpochId,
        uint256 materialBlockNumber
    );
    event KmsContextDestroyed(uint256 indexed kmsContextId);
    event KmsEpochDestroyed(uint256 indexed epochId);

    /// Of replicas on other chains, like the next one.
    event MirrorKmsContextAndEpoch(
        uint256 indexed contextId,
        uint256 indexed epochId,
        KmsNodeParams[] kmsNodeParams,
        KmsThresholds thresholds,
        string softwareVersion,
        PcrValues[] pcrValues
    );
    event MirrorKmsEpoch(uint256 indexed contextId, uint256 indexed epochId);

    /// Notices, from here on.
    event ActivateEpoch(
        uint256 indexed kmsContextId,
        uint256 indexed epochId,
        EpochKeyResult[] keys,
        EpochCrsResult[] crsList,
        string[] kmsNodeStorageUrls
    );
    event KmsContextCreationConfirmation(
        uint256 indexed kmsContextId,
        address indexed txSender,
        bool isPreviousTxSender,
        bool isNewTxSender
    );
    event EpochActivationConfirmation(
        uint256 indexed epochId, address indexed signer, bytes32 dataHash
    );
    event PublicDecryptionThresholdUpdated(uint256 kmsContextId, uint256 threshold);
    event UserDecryptionThresholdUpdated(uint256 kmsContextId, uint256 threshold);
    event KmsGenThresholdUpdated(uint256 kmsContextId, uint256 threshold);
    event MpcThresholdUpdated(uint256 kmsContextId, uint256 threshold);
    struct ChainUpgradeWindow { uint64 chainId; uint64 startBlock; uint64 endBlock; }
    event CoprocessorUpgradeProposed(
        uint256 indexed proposalId,
        string softwareVersion,
        ChainUpgradeWindow[] chainUpgradeWindows,
        uint64 gwStartBlock
    );

    function confirmKmsContextCreation(uint256 kmsContextId) external;
    function confirmEpochActivation(
        uint256 epochId, EpochKeyResult[] keys, EpochCrsResult[] crsList
    ) external;
}

mod early {
    alloy::sol! {
        struct KmsNode {
            address txSenderAddress;
            address signerAddress;
            string ipAddress;
            string storageUrl;
        }
        struct Thresholds {
            uint256 publicDecryption;
            uint256 userDecryption;
            uint256 kmsGen;
            uint256 mpc;
        }
        /// Of G13: nobody asked a Core for a context then.
        event NewKmsContext(
            uint256 indexed kmsContextId, KmsNode[] kmsNodes, Thresholds thresholds
        );
    }
}

/// `topic0` of the event that defines a context.
pub const CONTEXT_TOPIC: B256 = NewKmsContext::SIGNATURE_HASH;
/// Of the event that opens an epoch.
pub const EPOCH_TOPIC: B256 = NewKmsEpoch::SIGNATURE_HASH;

/// What asks nobody for anything and tells of a context or an epoch: topic and signature.
pub(super) const RECORDED: [(B256, &str); 3] = [
    (early::NewKmsContext::SIGNATURE_HASH, early::NewKmsContext::SIGNATURE),
    (MirrorKmsContextAndEpoch::SIGNATURE_HASH, MirrorKmsContextAndEpoch::SIGNATURE),
    (MirrorKmsEpoch::SIGNATURE_HASH, MirrorKmsEpoch::SIGNATURE),
];

pub(super) const NOTICES: [B256; 8] = [
    ActivateEpoch::SIGNATURE_HASH,
    KmsContextCreationConfirmation::SIGNATURE_HASH,
    EpochActivationConfirmation::SIGNATURE_HASH,
    PublicDecryptionThresholdUpdated::SIGNATURE_HASH,
    UserDecryptionThresholdUpdated::SIGNATURE_HASH,
    KmsGenThresholdUpdated::SIGNATURE_HASH,
    MpcThresholdUpdated::SIGNATURE_HASH,
    CoprocessorUpgradeProposed::SIGNATURE_HASH,
];

/// The event that shows that a node has confirmed a context.
pub const CONTEXT_CONFIRMATION_TOPIC: B256 = KmsContextCreationConfirmation::SIGNATURE_HASH;
/// The event that shows what a node has confirmed of an epoch.
pub const EPOCH_CONFIRMATION_TOPIC: B256 = EpochActivationConfirmation::SIGNATURE_HASH;

pub(super) const CONTEXT: KeyEventShape = KeyEventShape {
    topic0: NewKmsContext::SIGNATURE_HASH,
    event: NewKmsContext::SIGNATURE,
    topics: 3,
    read: |topics, data| {
        let (nodes, thresholds, software_version, pcr_values) =
            NewKmsContext::abi_decode_data_with_config(data, DECODER)?;
        let said = (nodes, thresholds, software_version, pcr_values);
        let info_hash = keccak256(said.abi_encode_params());
        let (nodes, thresholds, software_version, pcr_values) = said;
        let context = KmsContext {
            nodes: nodes.into_iter().map(Into::into).collect(),
            mpc_threshold: thresholds.mpc,
            software_version,
            pcr_values: pcr_values.into_iter().map(Into::into).collect(),
        };
        let previous = word(topics, 2)?;
        let context = context.into();
        Ok((word(topics, 1)?, KeyOperation::NewKmsContext { previous, context, info_hash }))
    },
};

pub(super) const EPOCH: KeyEventShape = KeyEventShape {
    topic0: NewKmsEpoch::SIGNATURE_HASH,
    event: NewKmsEpoch::SIGNATURE,
    topics: 3,
    read: |topics, data| {
        let (previous_context, previous_epoch, material_block) =
            NewKmsEpoch::abi_decode_data_with_config(data, DECODER)?;
        let (context, id) = (word(topics, 1)?, word(topics, 2)?);
        let operation = KeyOperation::NewKmsEpoch {
            context,
            previous_context,
            previous_epoch,
            material_block,
            extra_data: epoch_extra_data(context, id),
        };
        Ok((id, operation))
    },
};

pub(super) const CONTEXT_END: KeyEventShape = KeyEventShape {
    topic0: KmsContextDestroyed::SIGNATURE_HASH,
    event: KmsContextDestroyed::SIGNATURE,
    topics: 2,
    read: |topics, _| {
        let context = word(topics, 1)?;
        Ok((abort_id(context), KeyOperation::ContextDestroyed { context }))
    },
};

pub(super) const EPOCH_END: KeyEventShape = KeyEventShape {
    topic0: KmsEpochDestroyed::SIGNATURE_HASH,
    event: KmsEpochDestroyed::SIGNATURE,
    topics: 2,
    read: |topics, _| {
        let epoch = word(topics, 1)?;
        Ok((abort_id(epoch), KeyOperation::EpochDestroyed { epoch }))
    },
};

fn word(topics: &[B256], index: usize) -> sol_types::Result<U256> {
    let topic = topics.get(index).ok_or_else(|| sol_types::Error::custom("a topic is missing"))?;
    Ok((*topic).into())
}

/// The `extraData` of everything that is signed in an epoch of a context (gateway-abi 11).
#[must_use]
pub fn epoch_extra_data(context: U256, epoch: U256) -> Bytes {
    [&[2][..], &context.to_be_bytes::<32>(), &epoch.to_be_bytes::<32>()].concat().into()
}

/// The epoch that a log of [`EPOCH_TOPIC`] opens.
#[must_use]
pub fn opened_epoch(event: &Event) -> Option<U256> {
    let &[EPOCH_TOPIC, _, epoch] = event.topics.as_slice() else { return None };
    Some(epoch.into())
}

impl From<KmsNodeParams> for KmsContextNode {
    fn from(node: KmsNodeParams) -> Self {
        Self {
            tx_sender: node.txSenderAddress,
            signer: node.signerAddress,
            external_url: node.ipAddress,
            storage_url: node.storageUrl,
            party_id: node.partyId,
            identity: node.mpcIdentity,
            ca_cert: node.caCert,
            storage_prefix: node.storagePrefix,
        }
    }
}

impl From<PcrValues> for domain::PcrValues {
    fn from(PcrValues { pcr0, pcr1, pcr2 }: PcrValues) -> Self {
        Self { pcr0, pcr1, pcr2 }
    }
}

/// The payload of an epoch's answer.
#[must_use]
pub fn epoch_payload(result: EpochResult) -> Bytes {
    let key = |SharedKey { id, preparation, digests, signature }: SharedKey| {
        let digest = |(key_type, digest)| KeyDigest { keyType: key_type, digest };
        let digests = digests.into_iter().map(digest).collect();
        EpochKeyResult { prepKeygenId: preparation, keyId: id, keyDigests: digests, signature }
    };
    let crs = |SharedCrs { id, max_bits, digest, signature }: SharedCrs| EpochCrsResult {
        crsId: id,
        maxBitLength: max_bits,
        crsDigest: digest,
        signature,
    };
    let (keys, crs_list) = (
        result.keys.into_iter().map(key).collect(),
        result.crs_list.into_iter().map(crs).collect(),
    );
    EpochPayload { keys, crsList: crs_list }.abi_encode().into()
}

/// The inverse of [`epoch_payload`]. `None`: it is something else.
#[must_use]
pub fn epoch_result(payload: &[u8]) -> Option<EpochResult> {
    let EpochPayload { keys, crsList } = read_payload(payload)?;
    let key = |key: EpochKeyResult| SharedKey {
        id: key.keyId,
        preparation: key.prepKeygenId,
        digests: key.keyDigests.into_iter().map(|one| (one.keyType, one.digest)).collect(),
        signature: key.signature,
    };
    let crs = |crs: EpochCrsResult| SharedCrs {
        id: crs.crsId,
        max_bits: crs.maxBitLength,
        digest: crs.crsDigest,
        signature: crs.signature,
    };
    Some(EpochResult {
        keys: keys.into_iter().map(key).collect(),
        crs_list: crsList.into_iter().map(crs).collect(),
    })
}

fn read_payload(payload: &[u8]) -> Option<EpochPayload> {
    EpochPayload::abi_decode_validate(payload).ok()
}

/// The call that confirms an epoch.
pub(super) fn activation_call(id: U256, payload: &[u8]) -> confirmEpochActivationCall {
    // Nothing else was encoded here. A damaged one is refused by the contract.
    let EpochPayload { keys, crsList } =
        read_payload(payload).unwrap_or(EpochPayload { keys: Vec::new(), crsList: Vec::new() });
    confirmEpochActivationCall { epochId: id, keys, crsList }
}

/// What all signers of an epoch have to agree on (gateway-abi 7.3).
pub(super) fn data_hash(payload: &[u8]) -> Option<B256> {
    let EpochPayload { keys, crsList } = read_payload(payload)?;
    let digest_type = keccak256("KeyDigest(uint8 keyType,bytes digest)");
    let key = |key: &EpochKeyResult| {
        let mut list = Keccak256::new();
        for one in &key.keyDigests {
            let kind = U256::from(one.keyType);
            list.update(keccak256((digest_type, kind, keccak256(&one.digest)).abi_encode()));
        }
        keccak256((key.prepKeygenId, key.keyId, list.finalize()).abi_encode())
    };
    let crs = |crs: &EpochCrsResult| {
        keccak256((crs.crsId, crs.maxBitLength, crs.crsDigest.clone()).abi_encode_params())
    };
    let hashes: (Vec<B256>, Vec<B256>) =
        (keys.iter().map(key).collect(), crsList.iter().map(crs).collect());
    Some(keccak256(hashes.abi_encode_params()))
}

/// What a log of [`EPOCH_CONFIRMATION_TOPIC`] shows: the epoch, and the hash of the result.
pub(super) fn confirmation(event: &Event) -> Option<(U256, B256)> {
    let (_, epoch) = (event.topics.first()?, event.topics.get(1)?);
    let (hash,) =
        EpochActivationConfirmation::abi_decode_data_with_config(&event.data, DECODER).ok()?;
    Some(((*epoch).into(), hash))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, hex};
    use alloy::sol_types::SolCall;

    use super::*;
    use crate::{
        contracts::abi::keys::{decode, is_notice, tests::event},
        domain::{first_epoch, no_context},
    };

    fn context_id(number: u64) -> U256 {
        no_context() | U256::from(number)
    }

    fn node(byte: u8) -> KmsNodeParams {
        KmsNodeParams {
            txSenderAddress: Address::repeat_byte(byte),
            signerAddress: Address::repeat_byte(byte + 1),
            ipAddress: "http://a".to_owned(),
            storageUrl: "s3://b".to_owned(),
            partyId: 1,
            mpcIdentity: "party-1".to_owned(),
            caCert: Bytes::from_static(b"cert"),
            storagePrefix: "PUB".to_owned(),
        }
    }

    #[test]
    fn topics_and_selectors_are_those_of_the_sheet() {
        let shapes = [CONTEXT, EPOCH, CONTEXT_END, EPOCH_END].map(|shape| shape.topic0);
        let recorded = RECORDED.map(|(topic, _)| topic);
        let all = shapes.into_iter().chain(recorded).chain(NOTICES[..3].iter().copied());
        assert_eq!(
            all.chain([CoprocessorUpgradeProposed::SIGNATURE_HASH])
                .map(hex::encode)
                .collect::<Vec<_>>(),
            [
                "204d6b80121154cd87d99cf54c639a3dd0a53b3084277098de972ebdd34c6be9",
                "15aaaf475ef407543f5164f57dcf57f7f93816f55bae77ca09efc445ba40eef7",
                "da075d09198d207e3a918d4b8dfc87df2d60a00be703fd39eaac90962da0b7f0",
                "03436013075f8d1abb1781dbcaf418fc76fc797d1ab51c38664c1a51f3cd57f9",
                "e5296a8184d19a5fd24548749ea3c435b69ad26f12ca0afa1e8efef592368bf2",
                "2ac68f78f4ccde76b64906026d01ff3c42403eb7eef86fe788474a23267d64cf",
                "0a1c24c2ba5e6e1b1a8585795e5b781e372aee1db686247dac7574c10fd735a6",
                "1a547b42e72cd3dda04e6adccd2200276cfef01fe2138d07f3a7440f416d38bc",
                "b79c48003695b6ebe555afa36fad071deeee75eb3718ad63de5621d35ba44b4f",
                "7eda6f85e23b7b91c019b0570d02b663606ef9d74594f7e01fcfbdb0f4e954d5",
                "c42f1ecac8d4881ef9fd335ca98ee7254a436b92ba874a609e50a7d30c487b8d",
            ]
        );
        assert_eq!(hex::encode(confirmKmsContextCreationCall::SELECTOR), "d9be2de4");
        assert_eq!(hex::encode(confirmEpochActivationCall::SELECTOR), "4cb950e1");
    }

    #[test]
    fn a_context_is_read_with_the_hash_that_the_contract_keeps() {
        let thresholds = KmsThresholds {
            publicDecryption: U256::from(3),
            userDecryption: U256::from(3),
            kmsGen: U256::from(3),
            mpc: U256::from(1),
        };
        let pcr = PcrValues {
            pcr0: Bytes::from_static(&[1]),
            pcr1: Bytes::new(),
            pcr2: Bytes::from_static(&[3]),
        };
        let said = NewKmsContext {
            contextId: context_id(2),
            previousContextId: context_id(1),
            kmsNodeParams: vec![node(1), node(3)],
            thresholds,
            softwareVersion: "v1".to_owned(),
            pcrValues: vec![pcr],
        };
        let data = said.encode_data();
        let topics = vec![CONTEXT_TOPIC, context_id(2).into(), context_id(1).into()];
        let (id, operation) = decode(&event(topics.clone(), data.clone())).unwrap();
        let KeyOperation::NewKmsContext { previous, context, info_hash } = operation else {
            panic!("{operation:?}")
        };
        assert_eq!((id, previous), (context_id(2), context_id(1)));
        // The data are the ABI encoding of what the contract hashes.
        assert_eq!(info_hash, keccak256(&data));
        assert_eq!((context.nodes.len(), context.mpc_threshold), (2, U256::from(1)));
        assert_eq!(context.node_of(Address::repeat_byte(3)).unwrap().signer.0[0], 4);
        assert!(decode(&event(topics[..2].to_vec(), data)).is_err());
    }

    #[test]
    fn epochs_and_ends_are_requests_of_their_own_ids() {
        let (context, epoch) = (context_id(2), first_epoch() + U256::ONE);
        let said = NewKmsEpoch {
            kmsContextId: context,
            epochId: epoch,
            previousContextId: context_id(1),
            previousEpochId: first_epoch(),
            materialBlockNumber: U256::from(77),
        };
        let topics = vec![EPOCH_TOPIC, context.into(), epoch.into()];
        let log = event(topics, said.encode_data());
        assert_eq!(opened_epoch(&log), Some(epoch));
        let operation = KeyOperation::NewKmsEpoch {
            context,
            previous_context: context_id(1),
            previous_epoch: first_epoch(),
            material_block: U256::from(77),
            extra_data: epoch_extra_data(context, epoch),
        };
        assert_eq!(operation.extra_data().unwrap().len(), 65);
        assert_eq!(decode(&log), Ok((epoch, operation)));
        for (topic, id, operation) in [
            (CONTEXT_END.topic0, context, KeyOperation::ContextDestroyed { context }),
            (EPOCH_END.topic0, epoch, KeyOperation::EpochDestroyed { epoch }),
        ] {
            let read = decode(&event(vec![topic, id.into()], Vec::new()));
            assert_eq!(read, Ok((abort_id(id), operation)));
        }
    }

    #[test]
    fn what_asks_for_nothing_is_recorded_or_a_notice() {
        for (topic, signature) in RECORDED {
            let log = event(vec![topic, B256::ZERO], vec![1]);
            let (_, operation) = decode(&log).unwrap();
            assert_eq!(operation, KeyOperation::RecordedEvent { event: signature });
            assert!(!is_notice(&log));
        }
        for topic in NOTICES {
            assert!(is_notice(&event(vec![topic], Vec::new())));
        }
    }

    fn result() -> EpochResult {
        let digests = vec![(0, Bytes::from_static(&[1; 32])), (1, Bytes::from_static(&[2; 32]))];
        let key = SharedKey {
            id: U256::from(4),
            preparation: U256::from(3),
            digests,
            signature: Bytes::from_static(&[9; 65]),
        };
        let crs = SharedCrs {
            id: U256::from(5),
            max_bits: U256::from(2048),
            digest: Bytes::from_static(&[7; 32]),
            signature: Bytes::from_static(&[8; 65]),
        };
        EpochResult { keys: vec![key], crs_list: vec![crs] }
    }

    #[test]
    fn a_result_is_sent_as_it_was_signed() {
        let payload = epoch_payload(result());
        assert_eq!(epoch_result(&payload), Some(result()));
        assert_eq!(epoch_result(&[1, 2]), None);
        let call = activation_call(U256::from(8), &payload);
        assert_eq!((call.epochId, call.keys.len(), call.crsList.len()), (U256::from(8), 1, 1));
        assert_eq!(call.keys[0].keyDigests[1].keyType, 1);
    }

    /// Signatures differ from node to node, and everything else counts, in its order.
    #[test]
    fn the_hash_that_all_agree_on_is_of_everything_but_the_signatures() {
        let of = |result: EpochResult| data_hash(&epoch_payload(result)).unwrap();
        let mut same = result();
        same.keys[0].signature = Bytes::new();
        assert_eq!(of(same), of(result()));
        let changes: [fn(&mut EpochResult); 7] = [
            |_| {},
            |one| one.keys[0].id = U256::from(6),
            |one| one.keys[0].preparation = U256::from(6),
            |one| one.keys[0].digests.swap(0, 1),
            |one| one.crs_list[0].max_bits = U256::from(4096),
            |one| one.crs_list[0].digest = Bytes::new(),
            |one| one.keys.push(one.keys[0].clone()),
        ];
        let mut hashes = changes.map(|change| {
            let mut one = result();
            change(&mut one);
            of(one)
        });
        hashes.sort_unstable();
        assert!(hashes.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(data_hash(&[1]), None);
        let hash = of(result());
        let said = EpochActivationConfirmation {
            epochId: U256::from(8),
            signer: Address::ZERO,
            dataHash: hash,
        };
        let topics = vec![EPOCH_CONFIRMATION_TOPIC, U256::from(8).into(), B256::ZERO];
        assert_eq!(confirmation(&event(topics, said.encode_data())), Some((U256::from(8), hash)));
    }
}

//! KMS contexts and epochs on Ethereum, from G14 on: what the nodes do about them, as a careful node reads
//! the chain. For nodes that no connector runs, and to be compared with what a connector asked and sent.

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    sol_types::{SolEvent, SolValue},
};
use serde_json::json;

use super::{
    Error, Result,
    core_stub::request_id,
    host::Host,
    host_contracts::{
        EpochCrsResult, EpochKeyResult, KeyDigest, KmsNodeParams, ProtocolConfig, RawLog,
    },
    key_contracts::{KMSGeneration, OnEthereum},
    key_generation::KeyGeneration,
    proto::kms::v1,
    rpc::{Call, Log, Receipt},
};

/// What the names of kinds of keys are on chain (kms-core-grpc 4).
const KEY_TYPES: [(&str, u8); 3] = [("ServerKey", 0), ("PublicKey", 1), ("CompressedXofKeySet", 3)];

impl Host {
    /// The event that defined a context.
    pub async fn new_kms_context(&self, context: U256) -> Result<ProtocolConfig::NewKmsContext> {
        self.event(context, 1).await
    }

    /// The event that opened an epoch.
    pub async fn new_kms_epoch(&self, epoch: U256) -> Result<ProtocolConfig::NewKmsEpoch> {
        self.event(epoch, 2).await
    }

    /// The event of this kind that names `id` in its topic `at`.
    async fn event<E: SolEvent>(&self, id: U256, at: usize) -> Result<E> {
        let logs: Vec<Log> = self.chain.logs(self.protocol_config, 0, E::SIGNATURE_HASH).await?;
        let mine = logs.into_iter().find(|log| log.topics.get(at) == Some(&B256::from(id)));
        let log = mine.ok_or_else(|| Error::other(format!("no {} of {id:#x}", E::SIGNATURE)))?;
        Ok(E::decode_raw_log(log.topics.iter().copied(), &log.data)?)
    }

    /// What a Core is asked for a new context.
    pub async fn context_request(&self, context: U256) -> Result<v1::NewMpcContextRequest> {
        let event = self.new_kms_context(context).await?;
        let node = |node: KmsNodeParams| v1::MpcNode {
            mpc_identity: node.mpcIdentity,
            party_id: node.partyId,
            signer_address: Some(node.signerAddress.to_vec().into()),
            external_url: node.ipAddress,
            ca_cert: Some(node.caCert.0),
            public_storage_url: node.storageUrl,
            public_storage_prefix: Some(node.storagePrefix),
            extra_signer_addresses: vec![node.txSenderAddress.to_vec().into()],
        };
        Ok(v1::NewMpcContextRequest {
            new_context: Some(v1::MpcContext {
                mpc_nodes: event.kmsNodeParams.into_iter().map(node).collect(),
                context_id: Some(request_id(context)),
                software_version: event.softwareVersion,
                threshold: i32::try_from(event.thresholds.mpc).unwrap_or_default(),
                pcr_values: event
                    .pcrValues
                    .into_iter()
                    .map(|one| v1::PcrValues {
                        pcr0: one.pcr0.0,
                        pcr1: one.pcr1.0,
                        pcr2: one.pcr2.0,
                    })
                    .collect(),
            }),
        })
    }

    /// What a Core is asked for a new epoch: keys and CRSs of `keys` as of the block that its event names.
    pub async fn epoch_request(
        &self,
        keys: &KeyGeneration,
        epoch: U256,
    ) -> Result<v1::NewMpcEpochRequest> {
        let event = self.new_kms_epoch(epoch).await?;
        let at = event.materialBlockNumber;
        let mut keys_info = Vec::new();
        for key in self.view_at(keys, OnEthereum::getCompletedKeyIdsCall {}, at).await? {
            let info = self.view_at(keys, OnEthereum::getKeyInfoCall { keyId: key }, at).await?;
            let digest = |one: super::key_contracts::KeyDigest| {
                let name = KEY_TYPES.iter().find(|(_, number)| *number == one.keyType);
                let key_type = name.map(|(name, _)| (*name).to_owned()).unwrap_or_default();
                v1::KeyDigest { key_type, digest: one.digest.0 }
            };
            keys_info.push(v1::KeyInfo {
                key_id: Some(request_id(info.keyId)),
                preproc_id: Some(request_id(info.prepKeygenId)),
                key_parameters: info.paramsType.into(),
                key_digests: info.keyDigests.into_iter().map(digest).collect(),
            });
        }
        let mut crs_info = Vec::new();
        for crs in self.view_at(keys, OnEthereum::getCompletedCrsIdsCall {}, at).await? {
            let call = KMSGeneration::getCrsMaterialsCall { crsId: crs };
            let crs_digest = self.view_at(keys, call, at).await?.digest.0;
            crs_info.push(v1::CrsInfo { crs_id: Some(request_id(crs)), crs_digest });
        }
        Ok(v1::NewMpcEpochRequest {
            context_id: Some(request_id(event.kmsContextId)),
            epoch_id: Some(request_id(epoch)),
            previous_epoch: Some(v1::PreviousEpochInfo {
                context_id: Some(request_id(event.previousContextId)),
                epoch_id: Some(request_id(event.previousEpochId)),
                keys_info,
                crs_info,
            }),
            domain: Some(v1::Eip712DomainMsg {
                name: "ProtocolConfig".into(),
                version: "1".into(),
                chain_id: U256::from(self.chain_id).to_be_bytes::<32>().to_vec().into(),
                verifying_contract: self.protocol_config.to_checksum(None),
                salt: None,
            }),
            extra_data: extra_data_of(event.kmsContextId, epoch).0,
        })
    }

    /// Asks the contract for keys about the state after a block.
    async fn view_at<C: alloy::sol_types::SolCall>(
        &self,
        keys: &KeyGeneration,
        call: C,
        block: U256,
    ) -> Result<C::Return> {
        let data = Bytes::from(call.abi_encode());
        let parameters = json!([{"to": keys.address, "data": data}, format!("{block:#x}")]);
        let answer: Bytes = self.chain.rpc("eth_call", parameters).await?;
        Ok(C::abi_decode_returns(&answer)?)
    }

    /// A node's confirmation of a pending context.
    pub fn confirm_context(&self, wallet: Address, context: U256) -> Call {
        let call = ProtocolConfig::confirmKmsContextCreationCall { kmsContextId: context };
        Call::new(self.protocol_config, &call).from(wallet)
    }

    /// A node's confirmation of a pending epoch, with its Core's result.
    pub fn confirm_epoch(
        &self,
        wallet: Address,
        epoch: U256,
        result: &v1::EpochResultResponse,
    ) -> Call {
        let (keys, crs_list) = (keys_of(result), crs_list_of(result));
        let call =
            ProtocolConfig::confirmEpochActivationCall { epochId: epoch, keys, crsList: crs_list };
        Call::new(self.protocol_config, &call).from(wallet)
    }

    /// Who has confirmed a context (by wallet), or an epoch (by signer, and with which hash).
    pub async fn confirmations(&self, id: U256) -> Result<Vec<ProtocolConfig::Confirmation>> {
        self.protocol(ProtocolConfig::confirmationsCall { id }).await
    }

    /// Makes every confirmation revert with `data`; `None` ends that.
    pub async fn fail_confirmations(&self, data: Option<Bytes>) -> Result<()> {
        let call = match data {
            Some(data) => Call::new(self.protocol_config, &ProtocolConfig::failWithCall { data }),
            None => Call::new(self.protocol_config, &ProtocolConfig::failNoMoreCall {}),
        };
        self.chain.send(call).await.map(drop)
    }

    /// `ProtocolConfig` emits logs as they are.
    pub async fn emit_raw(&self, logs: Vec<RawLog>) -> Result<Receipt> {
        let call = ProtocolConfig::emitRawCall { logs };
        self.chain.send(Call::new(self.protocol_config, &call)).await
    }
}

/// The `extraData` of an epoch of a context (gateway-abi 11).
pub fn extra_data_of(context: U256, epoch: U256) -> Bytes {
    [&[2][..], &context.to_be_bytes::<32>(), &epoch.to_be_bytes::<32>()].concat().into()
}

fn word(id: Option<&v1::RequestId>) -> U256 {
    id.and_then(|id| U256::from_str_radix(&id.request_id, 16).ok()).unwrap_or_default()
}

fn keys_of(result: &v1::EpochResultResponse) -> Vec<EpochKeyResult> {
    let digest = |one: &v1::KeyDigest| {
        let number = KEY_TYPES.iter().find(|(name, _)| *name == one.key_type);
        let key_type = number.map_or(u8::MAX, |(_, number)| *number);
        KeyDigest { keyType: key_type, digest: one.digest.clone().into() }
    };
    let key = |one: &v1::KeyGenResult| EpochKeyResult {
        prepKeygenId: word(one.preprocessing_id.as_ref()),
        keyId: word(one.request_id.as_ref()),
        keyDigests: one.key_digests.iter().map(digest).collect(),
        signature: one.external_signature.clone().into(),
    };
    result.reshare_responses.iter().map(key).collect()
}

fn crs_list_of(result: &v1::EpochResultResponse) -> Vec<EpochCrsResult> {
    let crs = |one: &v1::CrsGenResult| EpochCrsResult {
        crsId: word(one.request_id.as_ref()),
        maxBitLength: U256::from(one.max_num_bits),
        crsDigest: one.crs_digest.clone().into(),
        signature: one.external_signature.clone().into(),
    };
    result.crs_responses.iter().map(crs).collect()
}

/// What all signers of an epoch must agree on (gateway-abi 7.3), computed by hand.
pub fn data_hash(result: &v1::EpochResultResponse) -> B256 {
    let digest_type = keccak256("KeyDigest(uint8 keyType,bytes digest)");
    let key = |one: EpochKeyResult| {
        let digests = one.keyDigests.iter().map(|digest| {
            let kind = U256::from(digest.keyType);
            keccak256((digest_type, kind, keccak256(&digest.digest)).abi_encode())
        });
        let list = keccak256(digests.collect::<Vec<B256>>().concat());
        keccak256((one.prepKeygenId, one.keyId, list).abi_encode())
    };
    let crs = |one: EpochCrsResult| {
        keccak256((one.crsId, one.maxBitLength, one.crsDigest).abi_encode_params())
    };
    let keys: Vec<B256> = keys_of(result).into_iter().map(key).collect();
    let crs_list: Vec<B256> = crs_list_of(result).into_iter().map(crs).collect();
    keccak256((keys, crs_list).abi_encode_params())
}

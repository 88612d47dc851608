//! One contract for keys: making requests for keys and CRSs, answering them as nodes do, and looking at
//! what was accepted.

use std::time::Duration;

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolEvent,
};

use super::{
    Error, Result,
    contracts::{Variant, proxy_code},
    core_stub::{CoreStub, KeyAnswer, KeyAsk, KeyOperation},
    deployment::{Deployment, create},
    host::Host,
    key_contracts::{
        KMSGeneration, KeyDigest, OnEthereum, OnGateway, RawLog, ethereum_code, gateway_code,
    },
    proto::kms::v1,
    rpc::{Call, Chain, Receipt},
    until,
};

/// The bits of a CRS that nothing depends on.
pub const BITS: u32 = 2048;
/// `ParamsType`: Test.
const TEST_PARAMETERS: u8 = 1;

/// A `KMSGeneration`, on the gateway or on Ethereum.
#[derive(Clone, Debug)]
pub struct KeyGeneration {
    pub chain: Chain,
    pub chain_id: u64,
    pub variant: Variant,
    pub address: Address,
    pub since_block: u64,
    on_ethereum: bool,
}

/// One request, as its event told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    pub operation: KeyOperation,
    pub id: U256,
    /// The preprocessing of a key.
    pub preprocessing: Option<U256>,
    /// Of a CRS.
    pub bits: Option<u32>,
    pub extra_data: Bytes,
    /// The `CompressedKeyConfig` that nodes send with it to Cores of v0.13.20 and later (kms-core-grpc 4): up
    /// to v0.14 contracts know no compressed keys. `None`: they send none.
    pub compression: Option<i32>,
}

/// A key that is not compressed, and one that is, in the numbers of Cores from v0.13.20 on.
const UNCOMPRESSED: i32 = 1;
const COMPRESSED: i32 = 0;

impl KeyRequest {
    /// What a Core is asked for it, as far as its answer depends on that.
    pub fn ask(&self) -> KeyAsk {
        let keyset = |compressed_key_config: i32| v1::KeySetConfig {
            keyset_type: 0,
            standard_keyset_config: Some(v1::StandardKeySetConfig {
                compressed_key_config,
                ..v1::StandardKeySetConfig::default()
            }),
        };
        KeyAsk {
            keyset: self.compression.map(keyset),
            preprocessing: self.preprocessing.map(|id| format!("{id:064x}")),
            max_bits: self.bits,
            extra_data: self.extra_data.0.clone(),
            ..KeyAsk::new(self.operation, format!("{:064x}", self.id))
        }
    }

    /// The key that is made of this preprocessing: it has the same number.
    #[must_use]
    pub fn key(&self) -> Self {
        let number = self.id & ((U256::from(1) << 248) - U256::from(1));
        Self {
            operation: KeyOperation::Key,
            id: (U256::from(4) << 248) | number,
            preprocessing: Some(self.id),
            ..self.clone()
        }
    }
}

impl KeyGeneration {
    /// Deploys the gateway's beside `deployment`, of its variant.
    pub async fn on_gateway(deployment: &Deployment) -> Result<Self> {
        let code = gateway_code(deployment.variant, deployment.gateway_config)?;
        Self::deploy(&deployment.chain, deployment.variant, code, false).await
    }

    /// Deploys Ethereum's beside the `ProtocolConfig` of `host`, of its variant.
    pub async fn on_ethereum(host: &Host) -> Result<Self> {
        let code = ethereum_code(host.protocol_variant, host.protocol_config)?;
        Self::deploy(&host.chain, host.protocol_variant, code, true).await
    }

    async fn deploy(
        chain: &Chain,
        variant: Variant,
        code: Vec<u8>,
        on_ethereum: bool,
    ) -> Result<Self> {
        let code = create(chain, code).await?;
        let address = create(chain, proxy_code(code, Bytes::new())?).await?;
        // Its proxy has just said `Upgraded`: that is no event of this contract.
        let since_block = chain.block_number().await? + 1;
        let chain_id = chain.chain_id().await?;
        Ok(Self { chain: chain.clone(), chain_id, variant, address, since_block, on_ethereum })
    }

    pub fn is_on_ethereum(&self) -> bool {
        self.on_ethereum
    }

    /// What a configuration says of it.
    pub fn config(&self) -> String {
        format!("kms_generation_address = \"{}\"\n", self.address)
    }

    // Requests.

    /// Asks for a key. Its own request comes when enough nodes have answered the preprocessing.
    pub async fn keygen(&self) -> Result<KeyRequest> {
        let call = KMSGeneration::keygenCall { paramsType: TEST_PARAMETERS };
        let receipt = self.send(&call).await?;
        let (id, extra_data) = if self.on_ethereum {
            let event: OnEthereum::PrepKeygenRequest = first(&receipt)?;
            (event.prepKeygenId, event.extraData)
        } else {
            let event: OnGateway::PrepKeygenRequest = first(&receipt)?;
            (event.prepKeygenId, Bytes::new())
        };
        Ok(KeyRequest {
            operation: KeyOperation::Preprocessing,
            id,
            preprocessing: None,
            bits: None,
            extra_data,
            compression: self.compression(),
        })
    }

    /// Asks for a CRS of [`BITS`].
    pub async fn crsgen(&self) -> Result<KeyRequest> {
        self.crsgen_of(U256::from(BITS)).await
    }

    /// The same of any number of bits, also of more than a Core can be told.
    pub async fn crsgen_of(&self, bits: U256) -> Result<KeyRequest> {
        let call =
            KMSGeneration::crsgenRequestCall { maxBitLength: bits, paramsType: TEST_PARAMETERS };
        let receipt = self.send(&call).await?;
        let (id, extra_data) = if self.on_ethereum {
            let event: OnEthereum::CrsgenRequest = first(&receipt)?;
            (event.crsId, event.extraData)
        } else {
            let event: OnGateway::CrsgenRequest = first(&receipt)?;
            (event.crsId, Bytes::new())
        };
        let (operation, bits) = (KeyOperation::Crs, u32::try_from(bits).ok());
        let compression = None;
        Ok(KeyRequest { operation, id, preprocessing: None, bits, extra_data, compression })
    }

    /// The event that tells of a request.
    pub fn topic_of(&self, request: &KeyRequest) -> B256 {
        match (self.on_ethereum, request.operation) {
            (true, KeyOperation::Preprocessing) => OnEthereum::PrepKeygenRequest::SIGNATURE_HASH,
            (true, KeyOperation::Key) => OnEthereum::KeygenRequest::SIGNATURE_HASH,
            (true, KeyOperation::Crs) => OnEthereum::CrsgenRequest::SIGNATURE_HASH,
            (false, KeyOperation::Preprocessing) => OnGateway::PrepKeygenRequest::SIGNATURE_HASH,
            (false, KeyOperation::Key) => OnGateway::KeygenRequest::SIGNATURE_HASH,
            (false, KeyOperation::Crs) => OnGateway::CrsgenRequest::SIGNATURE_HASH,
        }
    }

    fn compression(&self) -> Option<i32> {
        match (self.on_ethereum, self.variant) {
            (false, _) => None,
            (true, Variant::Head) => Some(COMPRESSED),
            (true, _) => Some(UNCOMPRESSED),
        }
    }

    /// Emits logs as they are (`key_contracts::raw` makes one of an event).
    pub async fn emit_raw(&self, logs: Vec<RawLog>) -> Result<Receipt> {
        self.send(&KMSGeneration::emitRawCall { logs }).await
    }

    /// Makes every response call revert with `data`; `None` ends that.
    pub async fn fail_with(&self, data: Option<Bytes>) -> Result<()> {
        match data {
            Some(data) => self.send(&KMSGeneration::failWithCall { data }).await.map(drop),
            None => self.send(&KMSGeneration::failNoMoreCall {}).await.map(drop),
        }
    }

    /// From now on the responses to each request revert with its bytes.
    pub async fn fail_each(&self, failures: &[(U256, Bytes)]) -> Result<()> {
        let call = |(id, data): &(U256, Bytes)| {
            let call = KMSGeneration::failForCall { id: *id, data: data.clone() };
            Call::new(self.address, &call)
        };
        self.chain.send_all(failures.iter().map(call).collect()).await.map(drop)
    }

    /// Ends that for these requests.
    pub async fn fail_no_more(&self, ids: &[U256]) -> Result<()> {
        let call =
            |id: &U256| Call::new(self.address, &KMSGeneration::failNoMoreForCall { id: *id });
        self.chain.send_all(ids.iter().map(call).collect()).await.map(drop)
    }

    pub async fn send(&self, call: &impl alloy::sol_types::SolCall) -> Result<Receipt> {
        self.chain.send(Call::new(self.address, call)).await
    }

    pub async fn view<C: alloy::sol_types::SolCall>(&self, call: C) -> Result<C::Return> {
        self.chain.call(self.address, &call).await
    }

    // Answers.

    /// The answer of a node to a request, as its Core gives it.
    pub fn answer(&self, wallet: Address, core: &CoreStub, request: &KeyRequest) -> Call {
        self.respond(wallet, request, core.answer_to(&request.ask()))
    }

    /// Any answer of a node.
    pub fn respond(&self, wallet: Address, request: &KeyRequest, answer: KeyAnswer) -> Call {
        let KeyAnswer { digests, signature } = answer;
        let signature = signature.into();
        let call = match request.operation {
            KeyOperation::Preprocessing => {
                let call =
                    KMSGeneration::prepKeygenResponseCall { prepKeygenId: request.id, signature };
                Call::new(self.address, &call)
            }
            KeyOperation::Key => {
                let digest = |(key_type, digest): (u8, bytes::Bytes)| KeyDigest {
                    keyType: key_type,
                    digest: digest.into(),
                };
                let key_digests = digests.into_iter().map(digest).collect();
                let call = KMSGeneration::keygenResponseCall {
                    keyId: request.id,
                    keyDigests: key_digests,
                    signature,
                };
                Call::new(self.address, &call)
            }
            KeyOperation::Crs => {
                let digest = digests.into_iter().next().unwrap_or_default().1;
                let call = KMSGeneration::crsgenResponseCall {
                    crsId: request.id,
                    crsDigest: digest.into(),
                    signature,
                };
                Call::new(self.address, &call)
            }
        };
        call.from(wallet)
    }

    /// Every accepted answer to a request, in order.
    pub async fn answers(&self, id: U256) -> Result<Vec<KMSGeneration::Answer>> {
        self.view(KMSGeneration::answersCall { id }).await
    }

    /// Waits until each of `signers` has answered `request`, and checks that each did so once and that
    /// they agree.
    pub async fn answered_by(
        &self,
        request: &KeyRequest,
        signers: &[Address],
        deadline: Duration,
    ) -> Result<()> {
        let what = format!("answers to {:#x}", request.id);
        let mut found: Vec<KMSGeneration::Answer> = Vec::new();
        let waited = until(&what, deadline, Duration::from_millis(100), async || {
            found = self.answers(request.id).await?;
            found.retain(|answer| signers.contains(&answer.signer));
            let has = |signer: &Address| found.iter().any(|answer| answer.signer == *signer);
            Ok(signers.iter().all(has).then_some(()))
        });
        let waited = waited.await;
        waited.map_err(|error| Error::other(format!("{error}; there are {found:?}")))?;
        if found.len() != signers.len() {
            return Err(Error::other(format!("{what}: more than one of each: {found:?}")));
        }
        if found.iter().any(|answer| answer.digest != found[0].digest) {
            return Err(Error::other(format!("{what}: they do not agree: {found:?}")));
        }
        Ok(())
    }

    /// Those whose answers to a request made the consensus, and later ones who agree. Empty: none yet.
    pub async fn consensus(&self, id: U256) -> Result<Vec<Address>> {
        self.view(KMSGeneration::getConsensusTxSendersCall { requestId: id }).await
    }
}

/// The first event of this kind.
fn first<E: alloy::sol_types::SolEvent>(receipt: &Receipt) -> Result<E> {
    let mine = receipt.logs.iter().find(|log| log.topics.first() == Some(&E::SIGNATURE_HASH));
    let log = mine.ok_or_else(|| Error::other(format!("no {}", E::SIGNATURE)))?;
    Ok(E::decode_raw_log(log.topics.iter().copied(), &log.data)?)
}

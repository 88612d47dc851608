//! One deployment of the Gateway contracts: registering parties, making requests, reading answers.

use std::{collections::HashMap, time::Duration};

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    signers::local::PrivateKeySigner,
    sol_types::SolEvent,
};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    Error, Result,
    attestation::{Layout, Lie, objects},
    contracts::{
        Coprocessor, Decryption, G7, G8, GatewayConfig, KmsNode, SnsCiphertextMaterial,
        Upgradeable, Variant, decryption_code, gateway_config_code, proxy_code, response_call,
    },
    ministack::Bucket,
    random_address,
    request::{Ask, Ciphertext, Issued, Kind, fhe},
    rpc::{Call, Chain, Log, Receipt},
    signing::Domain,
    until,
};

/// Requests, or materials, in one transaction.
const BATCH: usize = 25;
/// Requests in one block.
const BLOCK: usize = 40;
/// For a request by the protocol's own function; what comes before it in its block may matter.
const REQUEST_GAS: u64 = 20_000_000;
/// Uploads at once.
const UPLOADS: usize = 16;

/// A KMS node to register: its wallet and its Core's signer.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    pub wallet: Address,
    pub signer: Address,
}

impl Node {
    /// The node as registries have it.
    pub fn entry(self) -> KmsNode {
        KmsNode {
            txSenderAddress: self.wallet,
            signerAddress: self.signer,
            ipAddress: "127.0.0.1".into(),
            storageUrl: "http://127.0.0.1/vault".into(),
        }
    }
}

/// A coprocessor to register: its wallet and the bucket its ciphertexts stand in.
#[derive(Clone, Debug)]
pub struct Store {
    pub tx_sender: Address,
    pub bucket: Bucket,
}

impl Store {
    /// A coprocessor with a random wallet.
    pub fn new(bucket: Bucket) -> Self {
        Self { tx_sender: random_address(), bucket }
    }

    /// The key the coprocessor attests with.
    pub fn signer(&self) -> PrivateKeySigner {
        attester(self.tx_sender)
    }
}

/// A coprocessor's key follows from its wallet: who knows the network can also write to its buckets.
fn attester(tx_sender: Address) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&keccak256(tx_sender)).expect("a hash is a key")
}

/// Answers needed for consensus.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    pub public: u64,
    pub user: u64,
}

impl Thresholds {
    /// Every answer is a consensus.
    pub const ONE: Self = Self { public: 1, user: 1 };
}

/// One accepted answer, as the contract recorded it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub id: U256,
    pub signer: Address,
    pub tx_sender: Address,
    pub payload: Bytes,
    pub signature: Bytes,
    pub extra_data: Bytes,
    pub block: u64,
    pub transaction: B256,
}

/// The contracts of one variant on one chain.
#[derive(Clone, Debug)]
pub struct Deployment {
    pub chain: Chain,
    pub chain_id: u64,
    pub variant: Variant,
    pub decryption: Address,
    pub gateway_config: Address,
    /// No event of this deployment is older.
    pub since_block: u64,
    /// Under which names the coprocessors keep ciphertexts.
    pub layout: Layout,
    /// Named in every request, and given every ciphertext.
    pub stores: Vec<Store>,
}

impl Deployment {
    /// Deploys both contracts and registers the parties.
    pub async fn deploy(
        chain: &Chain,
        variant: Variant,
        nodes: &[Node],
        stores: &[Store],
        thresholds: Thresholds,
    ) -> Result<Self> {
        let config_code = create(chain, gateway_config_code(variant)?).await?;
        let gateway_config = create(chain, proxy_code(config_code, Bytes::new())?).await?;
        let code = create(chain, decryption_code(variant, gateway_config)?).await?;
        let decryption = create(chain, proxy_code(code, Bytes::new())?).await?;
        // Its proxy has just said `Upgraded`: that is no upgrade of anything.
        let since_block = chain.block_number().await? + 1;
        let deployment = Self {
            chain: chain.clone(),
            chain_id: chain.chain_id().await?,
            variant,
            decryption,
            gateway_config,
            since_block,
            layout: Layout::of(variant),
            stores: stores.to_vec(),
        };
        let mut calls: Vec<_> = nodes.iter().map(|node| deployment.register_call(*node)).collect();
        calls.extend(stores.iter().map(|s| deployment.bucket_call(s.tx_sender, s.bucket.url())));
        calls.push(deployment.thresholds_call(thresholds));
        chain.send_all(calls).await?;
        Ok(deployment)
    }

    /// The domain of this deployment's signatures.
    pub fn domain(&self) -> Domain {
        Domain { chain_id: self.chain_id, decryption: self.decryption, variant: self.variant }
    }

    // The registry.

    /// Registers a KMS node; for a known wallet this replaces the signer.
    pub async fn register(&self, node: Node) -> Result<()> {
        self.chain.send(self.register_call(node)).await.map(drop)
    }

    pub async fn unregister(&self, wallet: Address) -> Result<()> {
        let call = GatewayConfig::unregisterKmsNodeCall { txSender: wallet };
        self.chain.send(self.config_call(&call)).await.map(drop)
    }

    /// Sets the bucket a coprocessor announces (any text, also an empty one).
    pub async fn set_bucket(&self, tx_sender: Address, url: &str) -> Result<()> {
        self.chain.send(self.bucket_call(tx_sender, url)).await.map(drop)
    }

    pub async fn unregister_coprocessor(&self, tx_sender: Address) -> Result<()> {
        let call = GatewayConfig::unregisterCoprocessorCall { txSender: tx_sender };
        self.chain.send(self.config_call(&call)).await.map(drop)
    }

    fn register_call(&self, node: Node) -> Call {
        self.config_call(&GatewayConfig::registerKmsNodeCall { node: node.entry() })
    }

    fn bucket_call(&self, tx_sender: Address, url: &str) -> Call {
        self.config_call(&GatewayConfig::setCoprocessorCall {
            coprocessor: Coprocessor {
                txSenderAddress: tx_sender,
                signerAddress: attester(tx_sender).address(),
                s3BucketUrl: url.into(),
            },
        })
    }

    /// Sets how many answers make a consensus from now on.
    pub async fn set_thresholds(&self, thresholds: Thresholds) -> Result<()> {
        self.chain.send(self.thresholds_call(thresholds)).await.map(drop)
    }

    fn thresholds_call(&self, thresholds: Thresholds) -> Call {
        self.config_call(&GatewayConfig::setThresholdsCall {
            publicDecryption: U256::from(thresholds.public),
            userDecryption: U256::from(thresholds.user),
        })
    }

    fn config_call(&self, call: &impl alloy::sol_types::SolCall) -> Call {
        Call::new(self.gateway_config, call)
    }

    // Switches.

    /// Pauses the contract: v0.7 then refuses answers.
    pub async fn pause(&self, paused: bool) -> Result<()> {
        let call = if paused {
            Call::new(self.decryption, &Decryption::pauseCall {})
        } else {
            Call::new(self.decryption, &Decryption::unpauseCall {})
        };
        self.chain.send(call).await.map(drop)
    }

    /// Makes every response call revert with `data`; `None` ends that.
    pub async fn fail_with(&self, data: Option<Bytes>) -> Result<()> {
        let call = match data {
            Some(data) => Call::new(self.decryption, &Decryption::failWithCall { data }),
            None => Call::new(self.decryption, &Decryption::failNoMoreCall {}),
        };
        self.chain.send(call).await.map(drop)
    }

    /// From now on the responses to these requests revert so, and no others.
    pub async fn fail_each(&self, failures: &[(U256, Bytes)]) -> Result<()> {
        let calls = failures.iter().map(|(id, data)| {
            let call = Decryption::failForCall { id: *id, data: data.clone() };
            Call::new(self.decryption, &call)
        });
        self.chain.send_all(calls.collect()).await.map(drop)
    }

    /// The responses to these requests are taken again.
    pub async fn fail_no_more(&self, ids: &[U256]) -> Result<()> {
        let calls = ids
            .iter()
            .map(|id| Call::new(self.decryption, &Decryption::failNoMoreForCall { id: *id }));
        self.chain.send_all(calls.collect()).await.map(drop)
    }

    /// Turns both contracts into another variant; both emit `Upgraded`.
    pub async fn upgrade(&mut self, variant: Variant) -> Result<()> {
        self.upgrade_to(variant, variant).await
    }

    /// Turns each contract into a variant of its own: v0.13.0-0 has a Decryption of G12 beside a
    /// GatewayConfig of G13.
    pub async fn upgrade_to(&mut self, decryption: Variant, config: Variant) -> Result<()> {
        let calls = self.upgrade_calls(decryption, config).await?;
        self.chain.send_all(calls).await?;
        self.variant = decryption;
        self.layout = Layout::of(decryption);
        Ok(())
    }

    /// Deploys the code of another variant, and answers the calls that put it in place.
    pub async fn upgrade_calls(&self, decryption: Variant, config: Variant) -> Result<Vec<Call>> {
        let of_config = create(&self.chain, gateway_config_code(config)?).await?;
        let of_decryption =
            create(&self.chain, decryption_code(decryption, self.gateway_config)?).await?;
        let call = |proxy, implementation| {
            let data = Bytes::new();
            Call::new(proxy, &Upgradeable::upgradeToAndCallCall { implementation, data })
        };
        Ok(vec![call(self.gateway_config, of_config), call(self.decryption, of_decryption)])
    }

    // Contexts, from G12 on.

    /// The context in force.
    pub async fn context(&self) -> Result<U256> {
        let call = GatewayConfig::getCurrentKmsContextIdCall {};
        self.chain.call(self.gateway_config, &call).await
    }

    /// Puts a new context in force, of these nodes alone.
    pub async fn new_context(&self, nodes: &[Node], thresholds: Thresholds) -> Result<U256> {
        let id = self.context().await? + U256::from(1);
        let user = U256::from(thresholds.user);
        let call = GatewayConfig::updateKmsContextCall {
            newContextId: id,
            newKmsNodes: nodes.iter().map(|node| node.entry()).collect(),
            newMpcThreshold: U256::from(nodes.len() / 3),
            newPublicDecryptionThreshold: U256::from(thresholds.public),
            newUserDecryptionThreshold: user,
            newKmsGenThreshold: user,
        };
        self.chain.send(self.config_call(&call)).await?;
        Ok(id)
    }

    pub async fn destroy_context(&self, context: U256) -> Result<()> {
        let call = GatewayConfig::destroyKmsContextCall { kmsContextId: context };
        self.chain.send(self.config_call(&call)).await.map(drop)
    }

    /// How many coprocessors must agree.
    pub async fn set_coprocessor_threshold(&self, threshold: u64) -> Result<()> {
        let threshold = U256::from(threshold);
        let call = GatewayConfig::setCoprocessorThresholdCall { threshold };
        self.chain.send(self.config_call(&call)).await.map(drop)
    }

    // Requests.

    /// `count` public decryptions of one 64-bit value each.
    pub async fn request_public(&self, count: usize) -> Result<Vec<Issued>> {
        self.request((0..count).map(|_| Ask::public(&[fhe::UINT64])).collect()).await
    }

    /// Stores the ciphertexts in every bucket and emits the requests, in order.
    pub async fn request(&self, asks: Vec<Ask>) -> Result<Vec<Issued>> {
        self.upload(&asks).await?;
        self.emit(asks).await
    }

    /// As [`Self::request`], a `portion` of them at a time with a `pause` after each.
    pub async fn request_slowly(
        &self,
        asks: Vec<Ask>,
        portion: usize,
        pause: Duration,
    ) -> Result<Vec<Issued>> {
        self.upload(&asks).await?;
        let mut issued = Vec::with_capacity(asks.len());
        for portion in asks.chunks(portion) {
            issued.extend(self.emit(portion.to_vec()).await?);
            tokio::time::sleep(pause).await;
        }
        Ok(issued)
    }

    /// Stores the ciphertexts of `asks` in every bucket.
    pub async fn upload(&self, asks: &[Ask]) -> Result<()> {
        self.upload_lying(asks, |_, _| None).await
    }

    /// As [`Self::upload`], where the bucket of a number lies about a ciphertext as `lie` says.
    pub async fn upload_lying(
        &self,
        asks: &[Ask],
        lie: impl Fn(usize, &Ciphertext) -> Option<Lie>,
    ) -> Result<()> {
        let mut uploads = Vec::new();
        for ask in asks {
            for ciphertext in &ask.ciphertexts {
                for (number, store) in self.stores.iter().enumerate() {
                    let lie = lie(number, ciphertext);
                    let objects = objects(self.layout, ask, ciphertext, &store.signer(), lie)?;
                    uploads.extend(objects.into_iter().map(|object| async move {
                        store.bucket.put_at(&object.key, &object.bytes, &object.headers).await
                    }));
                }
            }
        }
        stream::iter(uploads).buffer_unordered(UPLOADS).try_collect::<()>().await
    }

    /// Emits the requests without storing anything: their ciphertexts are missing, or elsewhere.
    /// From G12 on each comes by the protocol's own function, in a transaction of its own.
    pub async fn emit(&self, asks: Vec<Ask>) -> Result<Vec<Issued>> {
        let receipts = if self.variant.since(Variant::G12) {
            let mut receipts = Vec::new();
            for chunk in asks.chunks(BLOCK) {
                let commits = self.commits(chunk);
                let first = commits.len();
                let mut calls = commits;
                for ask in chunk {
                    calls.push(self.request_call(ask)?);
                }
                receipts.extend(self.chain.send_all(calls).await?.split_off(first));
            }
            receipts
        } else {
            let calls = asks.chunks(BATCH).map(|chunk| {
                let requests = chunk.iter().map(|ask| self.any_request(ask)).collect();
                Call::new(self.decryption, &Decryption::requestCall { requests })
            });
            self.chain.send_all(calls.collect()).await?
        };
        let mut logs: Vec<Log> = receipts.into_iter().flat_map(|receipt| receipt.logs).collect();
        // The second event of a request at HEAD.
        logs.dedup_by_key(|log| (log.transaction_hash, log.topics[1]));
        if logs.len() != asks.len() {
            return Err(Error::other(format!("{} requests, {} events", asks.len(), logs.len())));
        }
        Ok(asks.into_iter().zip(logs).map(|(ask, log)| self.issued(ask, &log)).collect())
    }

    /// Makes the materials of `asks` known to the contract, as coprocessors do before anybody asks.
    pub fn commits(&self, asks: &[Ask]) -> Vec<Call> {
        let materials: Vec<_> = asks.iter().flat_map(|ask| self.materials(ask)).collect();
        let call = |chunk: &[SnsCiphertextMaterial]| {
            Call::new(self.decryption, &Decryption::commitCall { materials: chunk.to_vec() })
        };
        materials.chunks(BATCH).map(call).collect()
    }

    /// The transaction of one request by the protocol's own function, from G12 on.
    pub fn request_call(&self, ask: &Ask) -> Result<Call> {
        let data = ask.calldata(self.domain())?;
        Ok(Call::encoded(self.decryption, data).gas(REQUEST_GAS))
    }

    /// A request as the function takes it that knows no generations.
    pub fn any_request(&self, ask: &Ask) -> Decryption::Request {
        Decryption::Request {
            user: ask.kind == Kind::User,
            materials: self.materials(ask),
            userAddress: ask.user,
            publicKey: ask.public_key.clone(),
            extraData: ask.extra_data.clone(),
        }
    }

    /// The materials of a request as its event carries them.
    pub fn materials(&self, ask: &Ask) -> Vec<SnsCiphertextMaterial> {
        let coprocessors: Vec<_> = self.stores.iter().map(|store| store.tx_sender).collect();
        ask.materials(&coprocessors)
    }

    /// What became of a request, by its first log.
    pub fn issued(&self, ask: Ask, log: &Log) -> Issued {
        Issued {
            id: U256::from_be_bytes(log.topics[1].0),
            kind: ask.kind,
            handles: ask.ciphertexts.iter().map(|c| c.handle).collect(),
            digests: ask.ciphertexts.iter().map(|c| c.digest).collect(),
            public_key: ask.public_key,
            extra_data: if self.variant.has_extra_data() { ask.extra_data } else { Bytes::new() },
            block: log.block_number.to(),
            transaction: log.transaction_hash,
        }
    }

    /// The next request is kept as asked and told by these logs: what a lying node makes of it.
    pub fn tell_next_as(&self, logs: Vec<Decryption::RawLog>) -> Call {
        Call::new(self.decryption, &Decryption::tellNextAsCall { logs })
    }

    /// Emits logs as they are (`contracts::raw` makes one of an event).
    pub async fn emit_raw(&self, logs: Vec<Decryption::RawLog>) -> Result<Receipt> {
        self.chain.send(Call::new(self.decryption, &Decryption::emitRawCall { logs })).await
    }

    /// topic0 of the variant's request event.
    pub fn request_topic(&self, kind: Kind) -> B256 {
        match (self.variant.has_extra_data(), kind) {
            (false, Kind::Public) => G7::PublicDecryptionRequest::SIGNATURE_HASH,
            (false, Kind::User) => G7::UserDecryptionRequest::SIGNATURE_HASH,
            (true, Kind::Public) => G8::PublicDecryptionRequest::SIGNATURE_HASH,
            (true, Kind::User) => G8::UserDecryptionRequest::SIGNATURE_HASH,
        }
    }

    // Answers.

    /// A response call as a KMS node sends it.
    pub fn respond(
        &self,
        from: Address,
        request: &Issued,
        payload: &Bytes,
        signature: &Bytes,
    ) -> Call {
        let user = request.kind == Kind::User;
        let extra = &request.extra_data;
        let data = response_call(self.variant, user, request.id, payload, signature, extra);
        Call::encoded(self.decryption, data).from(from)
    }

    /// Every accepted answer so far.
    pub async fn answers(&self) -> Result<Vec<Answer>> {
        let topic = Decryption::ResponseRecorded::SIGNATURE_HASH;
        let logs = self.chain.logs(self.decryption, self.since_block, topic).await?;
        logs.iter().map(answer).collect()
    }

    /// The accepted answers to one request.
    pub async fn response(&self, id: U256) -> Result<Vec<Answer>> {
        Ok(self.answers().await?.into_iter().filter(|answer| answer.id == id).collect())
    }

    /// Waits until each of `ids` has an accepted answer, and returns the answers by id.
    pub async fn wait_answered(
        &self,
        ids: impl IntoIterator<Item = U256>,
        deadline: Duration,
    ) -> Result<HashMap<U256, Vec<Answer>>> {
        let ids: Vec<U256> = ids.into_iter().collect();
        let mut found: HashMap<U256, Vec<Answer>> = HashMap::new();
        let waited = until("answers", deadline, Duration::from_millis(100), async || {
            found.clear();
            for answer in self.answers().await? {
                found.entry(answer.id).or_default().push(answer);
            }
            Ok(ids.iter().all(|id| found.contains_key(id)).then_some(()))
        });
        let waited = waited.await;
        let missing: Vec<_> = ids.iter().filter(|id| !found.contains_key(*id)).collect();
        if let Err(error) = waited {
            let first = missing.iter().take(5).map(|id| format!("{id:#x}")).collect::<Vec<_>>();
            let of =
                format!("{} of {} missing, first {}", missing.len(), ids.len(), first.join(" "));
            return Err(Error::other(format!("{error}; {of}")));
        }
        found.retain(|id, _| ids.contains(id));
        Ok(found)
    }

    /// Waits until each of `requests` has an accepted answer of each of `signers`, and checks that
    /// there is one of each and that it is what the ciphertexts decrypt to.
    pub async fn answered_by(
        &self,
        requests: &[Issued],
        signers: &[Address],
        deadline: Duration,
    ) -> Result<()> {
        let mut found: HashMap<(U256, Address), Vec<Answer>> = HashMap::new();
        let each = |request: &Issued| {
            let id = request.id;
            signers.iter().map(move |signer| (id, *signer))
        };
        let due: Vec<(U256, Address)> = requests.iter().flat_map(each).collect();
        let waited = until("answers", deadline, Duration::from_millis(100), async || {
            found.clear();
            for answer in self.answers().await? {
                found.entry((answer.id, answer.signer)).or_default().push(answer);
            }
            Ok(due.iter().all(|one| found.contains_key(one)).then_some(()))
        });
        if let Err(error) = waited.await {
            let missing: Vec<_> = due.iter().filter(|one| !found.contains_key(*one)).collect();
            let of = format!("{} of {} missing", missing.len(), due.len());
            let first: Vec<_> =
                missing.iter().take(5).map(|(id, signer)| format!("{id:#x} of {signer}")).collect();
            return Err(Error::other(format!("{error}; {of}, first {}", first.join(", "))));
        }
        for request in requests {
            for signer in signers {
                let what =
                    |what: &str| Error::other(format!("{:#x} of {signer}: {what}", request.id));
                match found.get(&(request.id, *signer)).map(Vec::as_slice).unwrap_or_default() {
                    [one] => request.check(&one.payload).map_err(|wrong| what(&wrong))?,
                    several => return Err(what(&format!("{} answers", several.len()))),
                }
            }
        }
        Ok(())
    }

    /// Whether the contract has seen enough answers to a request.
    pub async fn is_done(&self, id: U256) -> Result<bool> {
        self.chain
            .call(self.decryption, &Decryption::isDecryptionDoneCall { decryptionId: id })
            .await
    }

    /// How often an answer of `signer` was accepted for a request.
    pub async fn accepted_by(&self, id: U256, signer: Address) -> Result<u64> {
        let call = Decryption::acceptedByCall { id, signer };
        Ok(self.chain.call(self.decryption, &call).await?.saturating_to())
    }

    /// Transactions to the Decryption contract that were mined with status 0.
    pub async fn failed_transactions(&self) -> Result<Vec<Receipt>> {
        let mut failed = Vec::new();
        for number in self.since_block..=self.chain.block_number().await? {
            let receipts = self.chain.block_receipts(number).await?;
            failed.extend(
                receipts.into_iter().filter(|r| r.to == Some(self.decryption) && !r.succeeded()),
            );
        }
        Ok(failed)
    }
}

/// Deploys this code and answers where.
pub async fn create(chain: &Chain, code: Vec<u8>) -> Result<Address> {
    let receipt = chain.send(Call::create(code)).await?;
    receipt.contract_address.ok_or_else(|| Error::other("a creation without an address"))
}

/// An answer as the contract's log tells it.
pub fn answer(log: &Log) -> Result<Answer> {
    let event =
        Decryption::ResponseRecorded::decode_raw_log(log.topics.iter().copied(), &log.data)?;
    Ok(Answer {
        id: event.decryptionId,
        signer: event.signer,
        tx_sender: event.txSender,
        payload: event.payload,
        signature: event.signature,
        extra_data: event.extraData,
        block: log.block_number.to(),
        transaction: log.transaction_hash,
    })
}

//! A host chain: a node of its own with the contracts that say who may decrypt what, and which KMS
//! contexts and epochs are in force.

use std::{path::Path as FilePath, time::Duration};

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::{SolCall, SolEvent},
};

use super::{
    Error, Result,
    access::Path,
    anvil::{Anvil, AnvilOptions},
    contracts::{Upgradeable, Variant, proxy_code},
    deployment::{Node, Thresholds, create},
    host_contracts::{
        ACL, KmsNode, KmsNodeParams, KmsThresholds, Mood, ProtocolConfig, Wallet, acl_code,
        protocol_config_code, wallet_code,
    },
    request::{Ask, HOST_CHAIN, Kind},
    rpc::{Call, Chain, Receipt},
};

/// How a host chain runs.
#[derive(Clone, Debug)]
pub struct HostOptions {
    pub variant: Variant,
    pub anvil: AnvilOptions,
}

impl HostOptions {
    /// The chain of the handles, of this variant. A block is final once two others stand on it.
    pub fn of(variant: Variant) -> Self {
        let anvil = AnvilOptions {
            chain_id: HOST_CHAIN,
            arguments: vec!["--slots-in-an-epoch".into(), "1".into()],
            ..AnvilOptions::default()
        };
        Self { variant, anvil }
    }

    #[must_use]
    pub fn chain_id(mut self, chain_id: u64) -> Self {
        self.anvil.chain_id = chain_id;
        self
    }

    /// `None` mines a block per transaction.
    #[must_use]
    pub fn block_time(mut self, block_time: Option<Duration>) -> Self {
        self.anvil.block_time = block_time;
        self
    }
}

/// A host chain's node and what is deployed there. Dropping it ends the node.
#[derive(Debug)]
pub struct HostChain {
    pub anvil: Anvil,
    pub host: Host,
}

impl HostChain {
    /// Starts a node with its data in a folder of its own in `dir`, and deploys the contracts there:
    /// the first context is that of `nodes`.
    pub async fn start(
        dir: &FilePath,
        options: HostOptions,
        nodes: &[Node],
        thresholds: Thresholds,
    ) -> Result<Self> {
        let dir = dir.join(format!("host-{}", options.anvil.chain_id));
        std::fs::create_dir_all(&dir).map_err(|e| Error::Io("a host chain's folder".into(), e))?;
        let anvil = Anvil::start(&dir, options.anvil).await?;
        let host = Host::deploy(anvil.chain(), options.variant, nodes, thresholds).await?;
        Ok(Self { anvil, host })
    }
}

/// What a connector's configuration says of these chains, after all other keys. The contexts are on the
/// first.
pub fn config(chains: &[HostChain]) -> String {
    let urls: Vec<String> = chains.iter().map(|chain| chain.anvil.http_url()).collect();
    let each: Vec<_> =
        urls.iter().map(String::as_str).zip(chains.iter().map(|c| &c.host)).collect();
    config_of(&each)
}

/// The same of chains that are known by a URL of their nodes.
pub fn config_of(chains: &[(&str, &Host)]) -> String {
    let contexts = chains.first().map(|(url, host)| ethereum_of(url, host)).unwrap_or_default();
    contexts + &config_without_ethereum(chains)
}

/// The same without the Ethereum keys, with which keys are read there and not on the gateway.
pub fn config_without_ethereum(chains: &[(&str, &Host)]) -> String {
    chains.iter().map(|(url, host)| table_of(url, host)).collect()
}

fn ethereum_of(url: &str, Host { chain_id, protocol_config, .. }: &Host) -> String {
    format!(
        "ethereum_url = \"{url}\"\nethereum_chain_id = {chain_id}\n\
         protocol_config_address = \"{protocol_config}\"\n"
    )
}

fn table_of(url: &str, Host { chain_id, acl, .. }: &Host) -> String {
    format!("[[host_chains]]\nchain_id = {chain_id}\nurl = \"{url}\"\nacl_address = \"{acl}\"\n")
}

/// The contracts of one host chain.
#[derive(Clone, Debug)]
pub struct Host {
    pub chain: Chain,
    pub chain_id: u64,
    pub acl: Address,
    pub acl_variant: Variant,
    pub protocol_config: Address,
    pub protocol_variant: Variant,
}

/// The contract of a delegation for every contract.
pub const EVERY_CONTRACT: Address = Address::repeat_byte(0xff);
/// Delegations given without an expiry end so late.
const FOR_EVER: u64 = u64::MAX;

impl Host {
    /// Deploys the contracts. There is no `ProtocolConfig` before G13: then that of G13 stands there,
    /// of which nobody knows.
    pub async fn deploy(
        chain: &Chain,
        variant: Variant,
        nodes: &[Node],
        thresholds: Thresholds,
    ) -> Result<Self> {
        let protocol_variant = if variant.since(Variant::G13) { variant } else { Variant::G13 };
        let code = create(chain, acl_code(variant)?).await?;
        let acl = create(chain, proxy_code(code, Bytes::new())?).await?;
        let code = create(chain, protocol_config_code(protocol_variant)?).await?;
        let first = define_context(protocol_variant, nodes, thresholds);
        let protocol_config = create(chain, proxy_code(code, first)?).await?;
        Ok(Self {
            chain: chain.clone(),
            chain_id: chain.chain_id().await?,
            acl,
            acl_variant: variant,
            protocol_config,
            protocol_variant,
        })
    }

    // Access.

    /// Gives each ask what it needs on this chain: nothing, if its handles are of another.
    pub async fn grant(&self, asks: &[Ask]) -> Result<()> {
        self.set(asks, true).await
    }

    /// Takes it back.
    pub async fn revoke(&self, asks: &[Ask]) -> Result<()> {
        self.set(asks, false).await
    }

    async fn set(&self, asks: &[Ask], granted: bool) -> Result<()> {
        let ours = asks.iter().filter(|ask| ask.chain_id() == self.chain_id);
        let calls = ours.flat_map(|ask| self.grants(ask, granted)).collect();
        self.chain.send_all(calls).await.map(drop)
    }

    /// The calls that give an ask what it needs, or take it back.
    pub fn grants(&self, ask: &Ask, granted: bool) -> Vec<Call> {
        let mut calls = Vec::new();
        let access = &ask.access;
        for (index, handle) in ask.handles().into_iter().enumerate() {
            if ask.kind == Kind::Public {
                calls.push(self.allow_for_decryption(handle, granted));
                continue;
            }
            let (owner, contract) = (access.owners[index], access.contracts[index]);
            calls.push(self.allow(handle, owner, granted));
            calls.push(self.allow(handle, contract, granted));
            if owner != ask.user || access.path == Path::Delegated {
                let expiry = if granted { FOR_EVER } else { 0 };
                calls.push(self.delegate(owner, ask.user, contract, expiry));
            }
        }
        calls
    }

    pub fn allow(&self, handle: B256, account: Address, is_: bool) -> Call {
        Call::new(self.acl, &ACL::setAllowedCall { handle, account, is_ })
    }

    pub fn allow_for_decryption(&self, handle: B256, is_: bool) -> Call {
        Call::new(self.acl, &ACL::setAllowedForDecryptionCall { handle, is_ })
    }

    /// Until `expiry` in unix seconds; 0 takes a delegation back.
    pub fn delegate(
        &self,
        delegator: Address,
        delegate: Address,
        contract: Address,
        expiry: u64,
    ) -> Call {
        let call =
            ACL::setDelegationCall { delegator, delegate, contractAddress: contract, expiry };
        Call::new(self.acl, &call)
    }

    /// Signatures of `account` whose validity begins before this are void.
    pub fn invalidate_before(&self, account: Address, timestamp: u64) -> Call {
        let timestamp = U256::from(timestamp);
        Call::new(self.acl, &ACL::setInvalidatedBeforeCall { account, timestamp })
    }

    pub fn deny(&self, account: Address, is_: bool) -> Call {
        Call::new(self.acl, &ACL::setDeniedCall { account, is_ })
    }

    /// Sends these calls, mined in one block.
    pub async fn send(&self, calls: Vec<Call>) -> Result<Vec<Receipt>> {
        self.chain.send_all(calls).await
    }

    /// Whether the ACL itself lets this ask pass now, by the calls an honest connector would make:
    /// not its signature and its times.
    pub async fn grants_all(&self, ask: &Ask) -> Result<bool> {
        let access = &ask.access;
        for (index, handle) in ask.handles().into_iter().enumerate() {
            let granted = if ask.kind == Kind::Public {
                self.view(ACL::isAllowedForDecryptionCall { handle }).await?
            } else {
                let (owner, contract) = (access.owners[index], access.contracts[index]);
                let allowed = |account| self.view(ACL::isAllowedCall { handle, account });
                if owner == ask.user && access.path != Path::Delegated {
                    allowed(owner).await? && allowed(contract).await?
                } else {
                    self.view(ACL::isHandleDelegatedForUserDecryptionCall {
                        delegator: owner,
                        delegate: ask.user,
                        contractAddress: contract,
                        handle,
                    })
                    .await?
                }
            };
            if !granted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Asks the ACL.
    pub async fn view<C: SolCall>(&self, call: C) -> Result<C::Return> {
        self.chain.call(self.acl, &call).await
    }

    /// A new smart account.
    pub async fn wallet(&self, mood: Mood, owner: Address) -> Result<Address> {
        create(&self.chain, wallet_code(mood, owner)?).await
    }

    pub async fn set_mood(&self, wallet: Address, mood: Mood) -> Result<()> {
        let call = Wallet::setMoodCall { mood: mood.flag() };
        self.chain.send(Call::new(wallet, &call)).await.map(drop)
    }

    // Contexts and epochs.

    /// Asks `ProtocolConfig`.
    pub async fn protocol<C: SolCall>(&self, call: C) -> Result<C::Return> {
        self.chain.call(self.protocol_config, &call).await
    }

    async fn change(&self, call: impl SolCall) -> Result<Receipt> {
        self.chain.send(Call::new(self.protocol_config, &call)).await
    }

    /// Defines a context: pending from G14 on, in force at once before.
    pub async fn define_context(&self, nodes: &[Node], thresholds: Thresholds) -> Result<U256> {
        let data = define_context(self.protocol_variant, nodes, thresholds);
        let call = Call::encoded(self.protocol_config, data);
        let receipt = self.chain.send(call).await?;
        Ok(U256::from_be_bytes(receipt.logs[0].topics[1].0))
    }

    /// Ends the pending state of a context; answers the epoch that begins with it, which is pending.
    pub async fn confirm_creation(&self, context: U256) -> Result<U256> {
        let call = ProtocolConfig::confirmCreationCall { kmsContextId: context };
        epoch_of(&self.change(call).await?)
    }

    /// A further epoch of the context in force, pending.
    pub async fn new_epoch(&self) -> Result<U256> {
        epoch_of(&self.change(ProtocolConfig::defineNewEpochForCurrentKmsContextCall {}).await?)
    }

    /// Puts a pending epoch and its context in force.
    pub async fn activate_epoch(&self, epoch: U256) -> Result<()> {
        self.change(ProtocolConfig::activateEpochCall { epochId: epoch }).await.map(drop)
    }

    /// Puts a new context with an epoch in force (from G14 on).
    pub async fn new_context(
        &self,
        nodes: &[Node],
        thresholds: Thresholds,
    ) -> Result<(U256, U256)> {
        let context = self.define_context(nodes, thresholds).await?;
        let epoch = self.confirm_creation(context).await?;
        self.activate_epoch(epoch).await?;
        Ok((context, epoch))
    }

    /// The context and epoch in force (from G14 on).
    pub async fn in_force(&self) -> Result<(U256, U256)> {
        let both = self.protocol(ProtocolConfig::getCurrentKmsContextAndEpochCall {}).await?;
        Ok((both.contextId, both.epochId))
    }

    pub async fn destroy_context(&self, context: U256) -> Result<()> {
        let call = ProtocolConfig::destroyKmsContextCall { kmsContextId: context };
        self.change(call).await.map(drop)
    }

    pub async fn destroy_epoch(&self, epoch: U256) -> Result<()> {
        self.change(ProtocolConfig::destroyKmsEpochCall { epochId: epoch }).await.map(drop)
    }

    // Upgrades: each contract by itself.

    pub async fn upgrade_acl(&mut self, variant: Variant) -> Result<()> {
        let code = create(&self.chain, acl_code(variant)?).await?;
        self.upgrade(self.acl, code, Bytes::new()).await?;
        self.acl_variant = variant;
        Ok(())
    }

    /// From G13 on. Towards G14 the context in force becomes the only active one, with a first epoch.
    pub async fn upgrade_protocol_config(&mut self, variant: Variant) -> Result<()> {
        let lifecycle_begins =
            variant.since(Variant::G14) && !self.protocol_variant.since(Variant::G14);
        let data = if lifecycle_begins {
            let id = self.protocol(ProtocolConfig::getCurrentKmsContextIdCall {}).await?;
            let call = ProtocolConfig::getKmsNodesForContextCall { kmsContextId: id };
            let nodes = self.protocol(call).await?;
            let nodes = nodes
                .iter()
                .map(|node| Node { wallet: node.txSenderAddress, signer: node.signerAddress });
            ProtocolConfig::reinitializeV2Call {
                kmsNodeParams: params(&nodes.collect::<Vec<_>>()),
                softwareVersion: SOFTWARE.into(),
                pcrValues: Vec::new(),
            }
            .abi_encode()
            .into()
        } else {
            Bytes::new()
        };
        let code = create(&self.chain, protocol_config_code(variant)?).await?;
        self.upgrade(self.protocol_config, code, data).await?;
        self.protocol_variant = variant;
        Ok(())
    }

    async fn upgrade(&self, proxy: Address, implementation: Address, data: Bytes) -> Result<()> {
        let call = Upgradeable::upgradeToAndCallCall { implementation, data };
        self.chain.send(Call::new(proxy, &call)).await.map(drop)
    }
}

const SOFTWARE: &str = "v0.13.22";

/// The call that defines a context of these nodes.
fn define_context(variant: Variant, nodes: &[Node], thresholds: Thresholds) -> Bytes {
    let user = U256::from(thresholds.user);
    let thresholds = KmsThresholds {
        publicDecryption: U256::from(thresholds.public),
        userDecryption: user,
        kmsGen: user,
        mpc: U256::from(nodes.len() / 3),
    };
    if variant.since(Variant::G14) {
        ProtocolConfig::defineNewKmsContextAndEpochCall {
            kmsNodeParams: params(nodes),
            thresholds,
            softwareVersion: SOFTWARE.into(),
            pcrValues: Vec::new(),
        }
        .abi_encode()
        .into()
    } else {
        let node = |node: &Node| {
            let entry = node.entry();
            KmsNode {
                txSenderAddress: entry.txSenderAddress,
                signerAddress: entry.signerAddress,
                ipAddress: entry.ipAddress,
                storageUrl: entry.storageUrl,
            }
        };
        let nodes = nodes.iter().map(node).collect();
        ProtocolConfig::defineNewKmsContextCall { kmsNodes: nodes, thresholds }.abi_encode().into()
    }
}

/// The nodes as a context's event has them.
fn params(nodes: &[Node]) -> Vec<KmsNodeParams> {
    let params = |(party, node): (i32, &Node)| {
        let entry = node.entry();
        KmsNodeParams {
            txSenderAddress: entry.txSenderAddress,
            signerAddress: entry.signerAddress,
            ipAddress: entry.ipAddress,
            storageUrl: entry.storageUrl,
            partyId: party,
            mpcIdentity: format!("party-{party}"),
            caCert: Bytes::from_static(b"a certificate"),
            storagePrefix: format!("PUB-p{party}"),
        }
    };
    (1..).zip(nodes).map(params).collect()
}

/// The epoch a receipt tells of.
fn epoch_of(receipt: &Receipt) -> Result<U256> {
    let log = receipt.logs.first().ok_or_else(|| Error::other("no event"))?;
    let event = ProtocolConfig::NewKmsEpoch::decode_raw_log(log.topics.iter().copied(), &log.data)?;
    Ok(event.epochId)
}

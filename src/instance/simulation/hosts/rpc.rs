//! A node of the host chain, as one life of the process reaches it.

use std::sync::Arc;

use alloy::{
    primitives::U64,
    sol,
    sol_types::{SolCall, SolValue},
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{FINAL_AFTER, Grant, HostBlock};
use crate::{
    chain::{
        provider::{ArbitrumProvider, ChainRole, endpoint::Endpoint},
        reader::NodeId,
    },
    contracts::{abi, pinned_reads::ChainEndpoint},
    dice::Dice,
    domain::{Address, B256, Bytes, U256},
    instance::{
        HostEdges,
        simulation::{
            contexts::context,
            deployment::{ACL, HOST_ID, HOST_IDS, PROTOCOL_CONFIG},
            lies::{Refusal, refused},
            rpc::{Call, CallFate, draw_fate, spelled},
            world::{Life, WorldState},
        },
    },
    telemetry::metrics::Metrics,
};

sol! {
    function isAllowedForDecryption(bytes32 handle) external view returns (bool);
    function isAllowed(bytes32 handle, address account) external view returns (bool);
    function isHandleDelegatedForUserDecryption(
        address delegator, address delegate, address contractAddress, bytes32 handle
    ) external view returns (bool);
    function decryptionSignatureInvalidatedBefore(address account) external view returns (uint256);
    function isValidSignature(bytes32 hash, bytes signature) external view returns (bytes32);
    function getVersion() external pure returns (string);
    function isValidKmsContext(uint256 kmsContextId) external view returns (bool);
    function isLiveKmsContext(uint256 kmsContextId) external view returns (bool);
    function getCurrentKmsContextIdCounter() external view returns (uint256);
    function isValidEpochForContext(uint256 kmsContextId, uint256 epochId) external view
        returns (bool);
}

/// By chain, and by node.
const HOSTS: [[&str; 3]; 2] =
    [["host-0", "host-1", "host-2"], ["other-host-0", "other-host-1", "other-host-2"]];
/// The word of a smart account for yes, and for no.
const MAGIC: [u8; 4] = [0x16, 0x26, 0xba, 0x7e];

/// The nodes as this life reaches them, if the story has contracts that need them.
pub(in crate::instance::simulation) fn edges(
    life: &Life,
    metrics: &Metrics,
    dice: &Dice,
) -> HostEdges {
    let plan = life.world.state().plan;
    if !plan.has_hosts() {
        return HostEdges::default();
    }
    let mut edges = HostEdges::default();
    for (chain, id) in HOST_IDS.into_iter().enumerate().take(plan.hosts.chains) {
        let nodes = 0..plan.hosts.nodes;
        let urls = nodes.clone().map(|node| endpoint(life, HostUrl { chain, node })).collect();
        let (provider, connections) = ArbitrumProvider::new(id, urls, metrics.clone(), dice);
        let endpoints = nodes.map(|node| ChainEndpoint::of(&provider, NodeId(node))).collect();
        edges.chains.insert(id, endpoints);
        edges.connecting.push(Box::new(|hearts, stop| Box::pin(connections.run(hearts, stop))));
    }
    edges.ethereum = edges.chains[&HOST_ID].clone();
    edges
}

/// A node of one of the host chains.
#[derive(Clone, Copy, Debug)]
struct HostUrl {
    chain: usize,
    node: usize,
}

impl HostUrl {
    fn name(self) -> &'static str {
        HOSTS[self.chain][self.node]
    }
}

/// One URL, as this life reaches it.
fn endpoint(life: &Life, url: HostUrl) -> Endpoint {
    let life = life.clone();
    let carrier = Arc::new(move |message: String| {
        let life = life.clone();
        let exchange: futures_util::future::BoxFuture<'static, Option<Vec<u8>>> =
            Box::pin(async move { exchange(&life, url, &message).await });
        exchange
    });
    Endpoint::with_transport(url.name(), carrier).with_role(ChainRole::Host)
}

/// Exchanges one message for its response; `None` if there is none.
async fn exchange(life: &Life, url: HostUrl, message: &str) -> Option<Vec<u8>> {
    let (is_batch, calls) = Call::read(message);
    if calls.iter().all(Call::keeps_connection) {
        let pause = life.world.state().millis(20);
        sleep(pause).await;
        let answers = life.world.state().host_answers(url, &calls, &CallFate::Answered)?;
        return Some(spelled(is_batch, answers.into_iter().map(|(id, told)| (Some(id), told))));
    }
    life.death_point().await;
    let (fate, pause) = draw_fate(life, false);
    sleep(pause / 3).await;
    if is_batch && life.world.state().plan.hosts.no_arrays {
        life.world.state().record_fault("host arrays");
        let odd = refused(-32_600, "batch requests are disabled", None);
        return Some(spelled(false, [(None, Err(odd))].into_iter()));
    }
    let answers = life.world.state().host_answers(url, &calls, &fate)?;
    let told: Vec<String> = answers
        .iter()
        .map(|(_, told)| match told {
            Ok(told) => told.to_string().chars().rev().take(8).collect(),
            Err(error) => error.message.to_owned(),
        })
        .collect();
    life.world.say(format_args!("{}: {} calls: {}", url.name(), calls.len(), told.join(" ")));
    sleep(pause / 3 * 2).await;
    life.death_point().await;
    match fate {
        CallFate::Answered | CallFate::Refused(..) => {
            Some(spelled(is_batch, answers.into_iter().map(|(id, told)| (Some(id), told))))
        }
        CallFate::Unanswered | CallFate::Lost => None,
    }
}

type Told = Result<Value, Refusal>;

impl WorldState {
    fn host_answers(
        &mut self,
        url: HostUrl,
        calls: &[Call],
        fate: &CallFate,
    ) -> Option<Vec<(u64, Told)>> {
        if self.hosts[url.chain].nodes[url.node].is_away() {
            return None;
        }
        if self.hosts[url.chain].nodes[url.node].lie.is_some() {
            self.record_fault("host lies");
        }
        let answer = |call: &Call| match fate {
            CallFate::Answered | CallFate::Unanswered => self.host_answer(url, call),
            CallFate::Lost => Ok(Value::Null),
            CallFate::Refused(code, text) => Err(refused(*code, text, None)),
        };
        Some(calls.iter().map(|call| call.id).zip(calls.iter().map(answer)).collect())
    }

    fn host_answer(&self, url: HostUrl, Call { method, params, .. }: &Call) -> Told {
        let address = |place: &Value| -> Address {
            serde_json::from_value(place.clone()).expect("the provider writes well")
        };
        match method.as_str() {
            "eth_chainId" => Ok(json!(U64::from(self.hosts[url.chain].id))),
            "eth_getBlockByNumber" => Ok(self.spelled_block(url, self.host_block(url, &params[0]))),
            "eth_getBlockByHash" => {
                let hash: B256 =
                    serde_json::from_value(params[0].clone()).expect("the provider writes well");
                let mut known =
                    self.hosts[url.chain].ancestry(self.hosts[url.chain].nodes[url.node].tip());
                Ok(self.spelled_block(url, known.find(|found| found.block.hash == hash)))
            }
            "eth_call" => {
                let at = self.host_state(url, &params[1])?;
                let data: Bytes = serde_json::from_value(params[0]["data"].clone())
                    .expect("the provider writes well");
                self.host_view(url, address(&params[0]["to"]), &data, at).map(|told| json!(told))
            }
            "eth_getCode" => {
                self.host_state(url, &params[1])?;
                let of = address(&params[0]);
                let is_there =
                    [ACL, PROTOCOL_CONFIG].contains(&of) || self.hosts[url.chain].is_account(of);
                Ok(json!(if is_there { "0x01" } else { "0x" }))
            }
            "eth_getStorageAt" => {
                let at = self.host_state(url, &params[2])?;
                Ok(json!(B256::with_last_byte(self.hosts[url.chain].implementation(at.timestamp))))
            }
            other => panic!("nobody has said what {other} answers"),
        }
    }

    fn spelled_block(&self, url: HostUrl, found: Option<&HostBlock>) -> Value {
        found.map_or(Value::Null, |found| {
            json!({
                "number": U64::from(found.block.number), "hash": found.block.hash,
                "parentHash": self.hosts[url.chain].blocks[found.parent].block.hash,
                "timestamp": U64::from(found.timestamp), "transactions": [],
            })
        })
    }

    /// The block that a node has at this number or tag.
    fn host_block(&self, url: HostUrl, at: &Value) -> Option<&HostBlock> {
        let tip = self.hosts[url.chain].nodes[url.node].tip();
        let head = self.hosts[url.chain].blocks[tip].block.number;
        let number = match at.as_str()? {
            "latest" => head,
            "safe" | "finalized" => head.saturating_sub(FINAL_AFTER),
            "0x0" => return self.hosts[url.chain].blocks.first(),
            number => U64::from_str_radix(number.trim_start_matches("0x"), 16).ok()?.to(),
        };
        self.hosts[url.chain].ancestry(tip).find(|block| block.block.number == number)
    }

    /// The block whose state is read. A hash must be of the node's own chain, if that is asked for.
    fn host_state(&self, url: HostUrl, at: &Value) -> Result<&HostBlock, Refusal> {
        let found = if let Some(hash) = at.get("blockHash") {
            if self.plan.hosts.no_block_hashes {
                return Err(refused(-32_602, "invalid argument 1: hex string without 0x", None));
            }
            let hash: B256 =
                serde_json::from_value(hash.clone()).expect("the provider writes well");
            let is_it = |block: &&HostBlock| block.block.hash == hash;
            if at["requireCanonical"] == json!(true) {
                self.hosts[url.chain]
                    .ancestry(self.hosts[url.chain].nodes[url.node].tip())
                    .find(is_it)
            } else {
                self.hosts[url.chain].blocks.iter().find(is_it)
            }
        } else {
            self.host_block(url, at)
        };
        found.ok_or_else(|| refused(-32_000, "header not found", None))
    }

    fn host_view(
        &self,
        url: HostUrl,
        to: Address,
        data: &[u8],
        at: &HostBlock,
    ) -> Result<Bytes, Refusal> {
        let said = |granted: bool| -> Bytes {
            self.hosts[url.chain].nodes[url.node].lie.unwrap_or(granted).abi_encode().into()
        };
        if self.hosts[url.chain].is_account(to) && isValidSignatureCall::abi_decode(data).is_ok() {
            let mut word = B256::ZERO;
            if self.hosts[url.chain].nodes[url.node]
                .lie
                .unwrap_or(at.grants(&Grant::Signature { account: to }))
            {
                word[..4].copy_from_slice(&MAGIC);
            }
            return Ok(word.abi_encode().into());
        }
        let name = if to == ACL { "ACL v0.5.0" } else { "ProtocolConfig v0.2.0" };
        if [ACL, PROTOCOL_CONFIG].contains(&to) && getVersionCall::abi_decode(data).is_ok() {
            return Ok(name.to_owned().abi_encode().into());
        }
        if to == PROTOCOL_CONFIG {
            let (contexts, time) = (self.chain.contexts(), at.timestamp);
            let wallet = self.chain.wallet();
            for number in 1..=contexts.counted(time) {
                let view = abi::kms_node_for_context(context(number), wallet);
                if *data == view.calldata()[..] {
                    let node = (wallet, self.core.address(), "node".to_owned(), String::new());
                    return Ok(node.abi_encode().into());
                }
            }
            if let Ok(call) = isValidKmsContextCall::abi_decode(data) {
                return Ok(contexts.is_in_force(call.kmsContextId, time).abi_encode().into());
            }
            if let Ok(call) = isLiveKmsContextCall::abi_decode(data) {
                return Ok(contexts.is_in_force(call.kmsContextId, time).abi_encode().into());
            }
            if getCurrentKmsContextIdCounterCall::abi_decode(data).is_ok() {
                return Ok(context(contexts.counted(time)).abi_encode().into());
            }
            if let Ok(call) = isValidEpochForContextCall::abi_decode(data) {
                let is_ours = contexts.has_epoch(call.kmsContextId, call.epochId, time);
                return Ok(is_ours.abi_encode().into());
            }
        }
        if to == ACL {
            if let Ok(isAllowedForDecryptionCall { handle }) =
                isAllowedForDecryptionCall::abi_decode(data)
            {
                return Ok(said(at.grants(&Grant::Everybody { handle })));
            }
            if let Ok(isAllowedCall { handle, account }) = isAllowedCall::abi_decode(data) {
                return Ok(said(at.grants(&Grant::Account { handle, account })));
            }
            if let Ok(call) = isHandleDelegatedForUserDecryptionCall::abi_decode(data) {
                let grant = Grant::Delegation {
                    delegator: call.delegator,
                    delegate: call.delegate,
                    contract: call.contractAddress,
                    handle: call.handle,
                };
                return Ok(said(at.grants(&grant)));
            }
            if decryptionSignatureInvalidatedBeforeCall::abi_decode(data).is_ok() {
                return Ok(U256::ZERO.abi_encode().into());
            }
        }
        Err(refused(3, "execution reverted", Some(Bytes::new())))
    }
}

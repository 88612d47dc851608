//! Probes Ethereum where key operations are asked for there: its nodes, the contract, state some thousand blocks
//! back, the finality tag, what the wallet has there, and the journal of that chain.

use std::path::Path;

use tokio::time::timeout;

use super::{DEADLINE, Finding, balance, contracts, dependencies, disk, nodes, within_deadline};
use crate::{
    chain::{
        provider::ArbitrumProvider,
        reader::{BlockId, ChainReader, EthCall, Head},
        rpc_error::RpcError,
    },
    config::{Config, Ethereum, KeyChain},
    contracts::{
        abi,
        decryption::{Addresses, RequestContract},
    },
    domain::{Address, B256, RequestSource},
    instance::Unready,
    machine::Machine,
    time::clock,
};

const SUBJECT: &str = "Ethereum";
const OLD_STATE: &str = "old state";
/// Contexts and epochs are confirmed as of a block that is up to about a day old.
const BLOCKS_BACK: u64 = 7_200;
/// A newest block older than this is no newest block, in seconds.
const STALE_AFTER: u64 = 180;

/// What is asked about the chain.
pub(super) struct SecondChainTarget<'c> {
    pub(super) config: &'c Config,
    pub(super) state_dir: &'c Path,
    /// All its nodes. `None`: key operations are not read on Ethereum.
    pub(super) provider: Option<&'c ArbitrumProvider>,
    pub(super) wallet: Option<Address>,
}

/// Nothing if key operations are not asked for there.
pub(super) async fn diagnose_second_chain(whose: SecondChainTarget<'_>) -> Vec<Finding> {
    let SecondChainTarget { config, state_dir, provider, wallet } = whose;
    let (Some(KeyChain::Ethereum { chain, contract: at }), Some(provider)) =
        (config.key_chain(), provider)
    else {
        return Vec::new();
    };
    let head = match timeout(DEADLINE, newest(provider)).await {
        Ok(Ok(head)) => head,
        Ok(Err(error)) => return vec![unusable(&error.to_string())],
        Err(_) => return vec![unusable(&format!("no answer within {} s", DEADLINE.as_secs()))],
    };
    let addresses = Addresses {
        chain_id: chain.chain_id,
        decryption: at,
        gateway_config: config.gateway_config_address,
    };
    let contract = RequestContract::new(provider.clone(), addresses).key_generation(at);
    let newest = (head.block.number, head.timestamp.unwrap_or_default());
    let of_contract = contracts::diagnose_key_contract(&contract, chain.chain_id);
    let of_past = within_deadline(OLD_STATE, diagnose_old_state(provider, at, head.block.number));
    let of_tag =
        within_deadline("finality", nodes::diagnose_tag(provider, chain.finality, Some(newest)));
    let of_wallet = async {
        let wallet = wallet?;
        let looking = balance::diagnose_balance(provider, wallet, "Ethereum");
        Some(within_deadline("balance", looking).await.unwrap_or_else(|late| late))
    };
    let of_journal = diagnose_journal(chain, at, state_dir, (provider, wallet, head.block.number));
    let (of_contract, of_past, of_tag, of_wallet, of_journal) =
        tokio::join!(of_contract, of_past, of_tag, of_wallet, of_journal);
    let mut findings = vec![of_head(provider.hosts(), chain.chain_id, &head)];
    findings.extend(of_contract);
    findings.push(of_past.unwrap_or_else(|late| late));
    findings.extend(of_tag.unwrap_or_else(Some));
    findings.extend(of_wallet);
    findings.extend(of_journal);
    findings
}

/// The newest block, from a node of the configured chain.
async fn newest(provider: &ArbitrumProvider) -> Result<Head, Unready> {
    provider.first_attempt().await?;
    dependencies::ask_chain(provider).await?;
    let head = provider.header(BlockId::Latest).await?;
    let what = "it has no newest block".into();
    Ok(head.ok_or_else(|| RpcError::Unavailable { host: provider.hosts().to_owned(), what })?)
}

fn unusable(what: &str) -> Finding {
    let remedy = "key operations wait for it, decryptions do not: see ethereum_url";
    Finding::fail(SUBJECT, what, remedy)
}

fn of_head(hosts: &str, chain_id: u64, head: &Head) -> Finding {
    let now = clock::unix_millis() / 1_000;
    let age = now.saturating_sub(head.timestamp.unwrap_or(now));
    let found = format!("{hosts}: chain {chain_id}, block {} ({age} s old)", head.block.number);
    if age > STALE_AFTER {
        return Finding::warn(
            SUBJECT,
            found,
            "the node stands still, or this machine's clock is wrong: key operations wait",
        );
    }
    Finding::ok(SUBJECT, found)
}

/// Whether a node has the state that votes on epochs are compared with.
async fn diagnose_old_state(provider: &ArbitrumProvider, contract: Address, head: u64) -> Finding {
    let back = head.saturating_sub(BLOCKS_BACK);
    let call = EthCall::view(contract, abi::contract_version().calldata());
    of_old_state(back, provider.call(&call, BlockId::Number(back)).await.map(drop))
}

/// A contract that did not exist then is an answer.
fn of_old_state(block: u64, told: Result<(), RpcError>) -> Finding {
    match told {
        Ok(()) => Finding::ok(OLD_STATE, format!("the node has that of block {block}")),
        Err(error) if error.is_state_pruned() => Finding::warn(
            OLD_STATE,
            format!("the node has no state of block {block}: {error}"),
            "archive_node_needed: name a node that keeps the state of at least a day in ethereum_url; \
             contexts and epochs cannot be confirmed without",
        ),
        Err(error) if error.revert_data().is_some() => {
            Finding::ok(OLD_STATE, format!("the node has that of block {block}"))
        }
        Err(error) => Finding::warn(OLD_STATE, error.to_string(), "try again"),
    }
}

async fn diagnose_journal(
    chain: &Ethereum,
    contract: Address,
    state_dir: &Path,
    (provider, wallet, head): (&ArbitrumProvider, Option<Address>, u64),
) -> Vec<Finding> {
    let Some(wallet) = wallet else { return Vec::new() };
    let genesis = genesis(provider, chain.chain_id, state_dir, wallet).await;
    let Some(genesis) = genesis else { return Vec::new() };
    let source = RequestSource { chain_id: chain.chain_id, contract };
    let whose = disk::JournalTarget { source, genesis, wallet, head: Some(head) };
    disk::diagnose_journal(state_dir.to_owned(), &whose).await
}

async fn genesis(
    provider: &ArbitrumProvider,
    chain_id: u64,
    state_dir: &Path,
    wallet: Address,
) -> Option<B256> {
    let machine = Machine::default();
    let looking = dependencies::ask_beginnings(&machine, chain_id, state_dir, wallet, "");
    let chains = looking.await.unwrap_or_default();
    dependencies::settle_genesis(provider, &chains).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chain::reader::NodeId, domain::BlockRef, instance::diagnose::Severity};

    #[test]
    fn state_that_is_gone_is_told_with_its_code() {
        let refused = |message: &str| RpcError::Refused {
            host: "h".to_owned(),
            code: -32000,
            message: message.into(),
            data: None,
        };
        let found = of_old_state(7, Err(refused("missing trie node 8b16 (path )")));
        assert_eq!(found.verdict, Severity::Warn);
        assert!(found.remedy.starts_with("archive_node_needed"), "{found:?}");
        assert_eq!(of_old_state(7, Ok(())).verdict, Severity::Ok);
        let found = of_old_state(7, Err(refused("too many requests")));
        assert!(found.verdict == Severity::Warn && !found.remedy.contains("archive"), "{found:?}");
    }

    #[test]
    fn a_head_that_stands_still_is_told() {
        let now = clock::unix_millis() / 1_000;
        let head = |timestamp| Head {
            block: BlockRef { number: 9, hash: B256::ZERO },
            parent: B256::ZERO,
            bloom: None,
            base_fee: None,
            gas_limit: None,
            timestamp: Some(timestamp),
            connection: 0,
            node: NodeId(0),
        };
        assert_eq!(of_head("h", 1, &head(now)).verdict, Severity::Ok);
        assert_eq!(of_head("h", 1, &head(now - STALE_AFTER - 9)).verdict, Severity::Warn);
    }
}

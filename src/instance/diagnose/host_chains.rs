//! Probes each host chain: its nodes, its ACL, and whether enough nodes can agree. The chain of
//! `ProtocolConfig` likewise.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{DEADLINE, Finding};
use crate::{
    chain::{
        provider::ArbitrumProvider,
        reader::{BlockId, ChainReader, Head},
        rpc_error::RpcError,
    },
    contracts::pinned_reads::{ChainEndpoint, HostChainError},
    instance::host_chains::{HostContract, Hosts},
    time::clock,
};

const SUBJECT: &str = "host chain";

pub(super) async fn diagnose_host_chains(hosts: &Hosts<ArbitrumProvider>) -> Vec<Finding> {
    let looked = join_all(hosts.contracts().into_iter().map(diagnose_contract)).await;
    looked.into_iter().flatten().collect()
}

async fn diagnose_contract(contract: HostContract<ArbitrumProvider>) -> Vec<Finding> {
    let (options, endpoints) = (contract.reads().options(), contract.reads().endpoints());
    let chain = options.chain_id;
    let heads = join_all(endpoints.iter().map(newest)).await;
    let now = clock::unix_millis() / 1_000;
    let max_age = options.max_age.as_secs();
    let mut findings = Vec::new();
    let mut usable = 0;
    for (endpoint, head) in endpoints.iter().zip(&heads) {
        match judge_node(chain, &endpoint.host(), head, now, max_age) {
            None => usable += 1,
            Some(finding) => findings.push(finding),
        }
    }
    if usable < options.agreement {
        findings.push(Finding::fail(
            SUBJECT,
            format!(
                "chain {chain}: {usable} of {} endpoints can be used, and {} must agree",
                endpoints.len(),
                options.agreement
            ),
            "requests that need this chain are held: fix the nodes, or name others",
        ));
        return findings;
    }
    findings.push(match timeout(DEADLINE, contract.look()).await {
        Ok(Ok(())) => {
            let version = contract.state().version.unwrap_or_default();
            let (name, address) = (contract.name(), contract.address());
            if is_another_contract(name, &version) {
                let what = format!(
                    "chain {chain}: the {name} contract at {address} calls itself {version}"
                );
                findings.push(Finding::fail(SUBJECT, what, "correct the address"));
                return findings;
            }
            let newest = heads.iter().flatten().flatten().max_by_key(|head| head.block.number);
            let newest = newest.map_or(String::new(), |head| {
                let age = now.saturating_sub(head.timestamp.unwrap_or(now));
                format!(", block {} ({age} s old)", head.block.number)
            });
            Finding::ok(
                SUBJECT,
                format!(
                    "chain {chain}: {name} at {address} ({version}){newest}; {usable} of {} \
                     endpoints can be used, and {} must agree",
                    endpoints.len(),
                    options.agreement
                ),
            )
        }
        Ok(Err(error)) => Finding::fail(SUBJECT, error.to_string(), remedy(&error)),
        Err(_) => {
            let what = format!("chain {chain}: no answer within {} s", DEADLINE.as_secs());
            Finding::fail(SUBJECT, what, "look at its nodes, and at the network between")
        }
    });
    findings.extend(diagnose_final_block(chain, endpoints, &heads).await);
    findings
}

/// Returns whether a version text (such as `ACL v0.5.0`) is that of a contract of another name.
fn is_another_contract(name: &str, version: &str) -> bool {
    version.split_once(" v").is_some_and(|(called, _)| called != name)
}

/// The newest block of one node, once it was tried.
async fn newest(endpoint: &ChainEndpoint<ArbitrumProvider>) -> Result<Option<Head>, RpcError> {
    let asking = async {
        endpoint.reader.attempt(endpoint.node).await?;
        endpoint.reader.header(BlockId::Latest).await
    };
    timeout(DEADLINE, asking).await.unwrap_or_else(|_| {
        let what = format!("no answer within {} s", DEADLINE.as_secs()).into();
        Err(RpcError::Unavailable { host: endpoint.host(), what })
    })
}

/// What is wrong with a node.
fn judge_node(
    chain: u64,
    host: &str,
    head: &Result<Option<Head>, RpcError>,
    now: u64,
    max_age: u64,
) -> Option<Finding> {
    let head = match head {
        Ok(Some(head)) => head,
        Ok(None) => {
            let what = format!("chain {chain}: {host} has no newest block");
            return Some(Finding::fail(SUBJECT, what, "use another node"));
        }
        Err(error @ (RpcError::WrongChain { .. } | RpcError::WrongGenesis { .. })) => {
            let remedy = "correct chain_id or url in [[host_chains]] (or ethereum_chain_id)";
            return Some(Finding::fail(SUBJECT, error.to_string(), remedy));
        }
        Err(error) => {
            let what = format!("chain {chain}: {error}");
            return Some(Finding::fail(SUBJECT, what, "look at the node and at its URL"));
        }
    };
    let Some(timestamp) = head.timestamp else {
        let what = format!("chain {chain}: {host} tells no time of its blocks");
        return Some(Finding::fail(SUBJECT, what, "use another node"));
    };
    let age = now.saturating_sub(timestamp);
    (age > max_age).then(|| {
        Finding::fail(
            SUBJECT,
            format!(
                "chain {chain}: the newest block of {host} is {age} s old, more than {max_age} s"
            ),
            "the node stands still, or this machine's clock is wrong; if the chain makes blocks so \
             rarely, raise max_age_secs",
        )
    })
}

/// Without the tag nothing can be remembered, and no context counts as final.
async fn diagnose_final_block(
    chain: u64,
    endpoints: &[ChainEndpoint<ArbitrumProvider>],
    heads: &[Result<Option<Head>, RpcError>],
) -> Vec<Finding> {
    let answering = endpoints.iter().zip(heads).filter(|(_, head)| head.is_ok());
    let asked = join_all(answering.map(|(endpoint, _)| async {
        let asking = endpoint.reader.header(BlockId::Finalized);
        let has = matches!(timeout(Duration::from_secs(5), asking).await, Ok(Ok(Some(_))));
        (!has).then(|| {
            Finding::warn(
                SUBJECT,
                format!("chain {chain}: {} tells no finalized block", endpoint.host()),
                "nothing for a host chain, every grant is asked again; for the chain of \
                 protocol_config_address use another node: no context counts as final",
            )
        })
    }));
    asked.await.into_iter().flatten().collect()
}

fn remedy(error: &HostChainError) -> &'static str {
    match error {
        HostChainError::NoContract { .. } => "correct the address, or the chain",
        HostChainError::Disagree { .. } => {
            "one of the nodes lies or is on another fork: ask their operators, or use others"
        }
        HostChainError::WrongChain { .. } => {
            "correct chain_id or url in [[host_chains]] (or ethereum_chain_id)"
        }
        HostChainError::Stale { .. } => "use a node that follows the chain; compare the clocks",
        HostChainError::Unreachable { .. }
        | HostChainError::TimedOut { .. }
        | HostChainError::NoFinalizedBlock { .. } => {
            "look at its nodes, and at the network between"
        }
        HostChainError::Unreadable { .. } => "is the address that of the named contract?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::reader::NodeId,
        domain::{B256, BlockRef},
        instance::diagnose::Severity,
    };

    fn head(timestamp: Option<u64>) -> Head {
        Head {
            block: BlockRef { number: 7, hash: B256::ZERO },
            parent: B256::ZERO,
            bloom: None,
            base_fee: None,
            gas_limit: None,
            timestamp,
            connection: 1,
            node: NodeId(0),
        }
    }

    #[test]
    fn a_contract_that_calls_itself_otherwise_is_another_one() {
        assert!(is_another_contract("ACL", "ProtocolConfig v0.2.0"));
        for version in ["ACL v0.5.0", "mine", ""] {
            assert!(!is_another_contract("ACL", version), "{version}");
        }
    }

    #[test]
    fn a_node_is_usable_if_it_is_of_the_chain_and_follows_it() {
        let judged = |head| judge_node(5, "node:1", &head, 1_000, 120);
        assert_eq!(judged(Ok(Some(head(Some(990))))), None);
        for (head, word) in [
            (Ok(Some(head(Some(800)))), "200 s old, more than 120 s"),
            (Ok(Some(head(None))), "no time"),
            (Ok(None), "no newest block"),
            (
                Err(RpcError::WrongChain { host: "node:1".into(), expected: 5, found: 6 }),
                "serves chain id 6",
            ),
        ] {
            let finding = judged(head).unwrap();
            assert_eq!(finding.verdict, Severity::Fail);
            assert!(finding.found.contains(word), "{}", finding.found);
        }
    }
}

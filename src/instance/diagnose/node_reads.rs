//! Tries the reads that the connector makes all the time, once at each gateway node: a range of logs, a
//! block's logs compared with its header's bloom, a receipt. Faults here otherwise show late and far
//! from their cause.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{DEADLINE, Finding};
use crate::{
    chain::{
        provider::ArbitrumProvider,
        reader::{BlockId, ChainReader, Head, LogSource},
    },
    contracts::decryption::{Addresses, RequestContract},
    domain::B256,
    flow::arrivals::blooms::{BloomComparison, compare},
};

const SUBJECT: &str = "gateway node";
/// Blocks per range: the size the connector asks for at first.
const RANGE_BLOCKS: u64 = 500;
/// Nodes behind one URL may not all know the newest blocks.
const BELOW_HEAD: u64 = 3;
/// Blocks searched for one with a log and one with a transaction.
const SEARCHED_BLOCKS: u64 = 8;
/// A node may publish a bloom a moment before the logs.
const RECHECK_DELAY: Duration = Duration::from_secs(1);

/// One node.
pub(super) struct DiagnosedNode {
    /// Scheme, host and port.
    pub shown: String,
    /// Host and port of the proxy on the way to it.
    pub proxy: Option<String>,
    pub provider: ArbitrumProvider,
    pub addresses: Addresses,
}

/// Reports the faults of nodes that answer. `newest`: their heads.
pub(super) async fn diagnose_reads(nodes: &[(&DiagnosedNode, u64)]) -> Vec<Finding> {
    let alone = nodes.len() < 2;
    let looks = nodes.iter().map(|(node, newest)| async move {
        let looks = async {
            let (range, logs, receipt) = tokio::join!(
                of_range(node, *newest),
                of_logs(&node.provider, *newest),
                of_receipt(&node.provider, *newest),
            );
            [range, logs, receipt]
        };
        // A slow node is reported with the answers it did give.
        timeout(DEADLINE, looks).await.unwrap_or([Some(NodeFault::Slow), None, None])
    });
    let looked = join_all(looks).await;
    let told = nodes.iter().zip(looked);
    told.flat_map(|((node, _), odd)| {
        odd.into_iter().flatten().map(|odd| odd.finding(&node.shown, alone))
    })
    .collect()
}

/// A fault of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NodeFault {
    Slow,
    /// It refuses ranges of [`RANGE_BLOCKS`] blocks, with this error.
    SmallRanges(String),
    NoRange(String),
    NoBloom,
    /// It refuses the logs of this block, with this error.
    NoLogs(u64, String),
    /// It returns fewer logs of this block than the header's bloom announces.
    Hidden(u64),
    /// The bloom of this block's header lacks logs that the block has.
    WrongBloom(u64),
    /// A transaction of this block has no readable receipt; the error, if there was one.
    NoReceipt(u64, Option<String>),
}

impl NodeFault {
    fn finding(&self, shown: &str, alone: bool) -> Finding {
        let bad = |found: String, remedy: &str| {
            let make = if alone { Finding::fail } else { Finding::warn };
            make(SUBJECT, found, remedy)
        };
        match self {
            Self::Slow => Finding::warn(
                SUBJECT,
                format!("{shown} did not answer all that is read of it in time"),
                "try again; another node if it stays so",
            ),
            Self::SmallRanges(error) => Finding::warn(
                SUBJECT,
                format!(
                    "{shown} does not return the logs of {RANGE_BLOCKS} blocks at once: {error}"
                ),
                "nothing: it is asked for fewer, and reading takes longer after a downtime",
            ),
            Self::NoRange(error) => bad(
                format!("{shown} does not return the logs of a range of blocks: {error}"),
                "look at the node; name another one in gateway_url",
            ),
            Self::NoBloom => Finding::warn(
                SUBJECT,
                format!("the headers of {shown} have no logsBloom"),
                "nothing: every block is asked for its logs, and hidden ones are found by their ids",
            ),
            Self::NoLogs(block, error) => bad(
                format!("{shown} does not return the logs of block {block}: {error}"),
                "look at the node; name another one in gateway_url",
            ),
            Self::Hidden(block) => bad(
                format!("{shown} hides logs: of block {block} it shows fewer than its header has"),
                "have the node's index of logs rebuilt, or name another node: requests may be hidden",
            ),
            Self::WrongBloom(block) => Finding::warn(
                SUBJECT,
                format!("{shown} reports a logsBloom of block {block} without logs that it shows"),
                "nothing: its blooms are not believed, and every block is asked for its logs",
            ),
            Self::NoReceipt(block, error) => {
                let error = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                bad(
                    format!(
                        "{shown} has no readable receipt of a transaction of block {block}{error}"
                    ),
                    "check the node, or use another one: receipts show that an answer was mined",
                )
            }
        }
    }
}

async fn of_range(node: &DiagnosedNode, newest: u64) -> Option<NodeFault> {
    let to = newest.saturating_sub(BELOW_HEAD);
    let adapter = RequestContract::new(node.provider.clone(), node.addresses);
    match node
        .provider
        .logs_between(adapter.filter(), to.saturating_sub(RANGE_BLOCKS - 1), to)
        .await
    {
        Ok(_) => None,
        Err(error) if error.range_refusal().is_some() => {
            Some(NodeFault::SmallRanges(error.to_string()))
        }
        Err(error) => Some(NodeFault::NoRange(error.to_string())),
    }
}

/// A sample of the last blocks, newest first.
fn last_blocks(newest: u64) -> impl Iterator<Item = u64> {
    let last = newest.saturating_sub(BELOW_HEAD);
    (last.saturating_sub(SEARCHED_BLOCKS - 1)..=last).rev()
}

async fn of_logs(provider: &ArbitrumProvider, newest: u64) -> Option<NodeFault> {
    let headers =
        join_all(last_blocks(newest).map(|number| provider.header(BlockId::Number(number)))).await;
    let headers: Vec<Head> = headers.into_iter().filter_map(|told| told.ok().flatten()).collect();
    if !headers.is_empty() && headers.iter().all(|head| head.bloom.is_none()) {
        return Some(NodeFault::NoBloom);
    }
    let with_logs = |head: &&Head| head.bloom.is_some_and(|bloom| !bloom.is_zero());
    // Without a block with logs there is nothing to compare.
    let head = headers.iter().find(with_logs)?;
    let (block, bloom) = (head.block, head.bloom?);
    let compared = async || match provider.block_logs(block.hash, LogSource::Logs).await {
        Ok(told) => match compare(&bloom, &told.value) {
            BloomComparison::Complete => None,
            BloomComparison::LogsMissing => Some(NodeFault::Hidden(block.number)),
            BloomComparison::WrongBloom => Some(NodeFault::WrongBloom(block.number)),
        },
        Err(error) => Some(NodeFault::NoLogs(block.number, error.to_string())),
    };
    compared().await?;
    tokio::time::sleep(RECHECK_DELAY).await;
    compared().await
}

async fn of_receipt(provider: &ArbitrumProvider, newest: u64) -> Option<NodeFault> {
    let told = join_all(last_blocks(newest).map(|number| async move {
        Some((number, provider.first_transaction_in(number).await.ok().flatten()?))
    }));
    let (block, transaction): (u64, B256) = told.await.into_iter().flatten().next()?;
    match provider.receipts(&[transaction]).await {
        Ok(receipts) if receipts.iter().any(Option::is_some) => None,
        Ok(_) => Some(NodeFault::NoReceipt(block, None)),
        Err(error) => Some(NodeFault::NoReceipt(block, Some(error.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::diagnose::Severity;

    #[test]
    fn c9_what_loses_requests_fails_and_what_costs_time_is_told() {
        let verdict = |odd: &NodeFault, alone| odd.finding("ws://h", alone).verdict;
        for odd in [
            NodeFault::Hidden(7),
            NodeFault::NoLogs(7, "no".into()),
            NodeFault::NoRange("no".into()),
            NodeFault::NoReceipt(7, None),
        ] {
            assert_eq!(verdict(&odd, true), Severity::Fail, "{odd:?}");
            assert_eq!(verdict(&odd, false), Severity::Warn, "{odd:?}: others are read from");
        }
        for odd in [
            NodeFault::Slow,
            NodeFault::SmallRanges("no".into()),
            NodeFault::NoBloom,
            NodeFault::WrongBloom(7),
        ] {
            assert_eq!(verdict(&odd, true), Severity::Warn, "{odd:?}");
        }
    }

    #[test]
    fn the_first_blocks_of_a_chain_are_looked_through_too() {
        assert_eq!(last_blocks(100).collect::<Vec<_>>(), (90..=97).rev().collect::<Vec<_>>());
        assert_eq!(last_blocks(4).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(last_blocks(0).collect::<Vec<_>>(), [0]);
    }
}

//! Estimates of the nodes for one answer, and what makes one plausible.

use std::time::Duration;

use crate::chain::{
    lane::unsigned::{least_gas, most_gas},
    reader::EthCall,
    rpc_error::RpcError,
    sender::TransactionSender,
    survey::Survey,
};

/// An estimate this many times above the lowest is an outlier: a block has no room for many such
/// limits.
const OUTLIER_FACTOR: u64 = 8;
/// Another node's estimate that takes longer is not used.
const OTHER_NODES_TIMEOUT: Duration = Duration::from_secs(2);

/// The plausible range of gas for a call.
#[derive(Clone, Debug)]
pub(super) struct PlausibleGas {
    least: u64,
    pub(super) most: u64,
    /// The node whose block gas limit is below the cost of any answer, and that limit.
    by_block: Option<(String, u64)>,
}

impl PlausibleGas {
    pub(super) fn of<P: TransactionSender>(provider: &P, call: &EthCall) -> Self {
        let (least, most) = (least_gas(&call.data), most_gas(call.data.len()));
        let head = *provider.heads().borrow();
        let block = head.and_then(|head| Some((head.node, head.plausible_gas_limit()?)));
        let by_block = block.filter(|(_, takes)| *takes < most);
        let by_block = by_block.map(|(node, takes)| (provider.host(node), takes));
        let most = by_block.as_ref().map_or(most, |(_, takes)| *takes);
        Self { least, most, by_block }
    }

    fn contains(&self, gas: u64) -> bool {
        (self.least..=self.most).contains(&gas)
    }

    /// The error if no estimate of these nodes was plausible. `first`: one of the estimates.
    fn implausible_error(self, hosts: &[String], first: u64, calldata: usize) -> RpcError {
        let Self { least, most, by_block } = self;
        match by_block {
            Some((host, takes)) if (takes..=most_gas(calldata)).contains(&first) => {
                let what =
                    format!("it reports blocks that take {takes} gas, but an answer needs {first}");
                RpcError::Unreadable { host, what: what.into() }
            }
            Some(_) | None => {
                let what = format!(
                    "an estimate of {first} gas, but an answer of this size needs {least} to \
                     {most}; if it needs more here, set gas_limit"
                );
                RpcError::Unreadable { host: hosts.join(", "), what: what.into() }
            }
        }
    }
}

/// The nodes' estimates. `highest` excludes outliers.
pub(super) struct Estimates {
    pub(super) lowest: u64,
    pub(super) highest: u64,
}

/// Plausible estimates: only that of the node that is read from if it `fits` what is known, else those
/// of all sound nodes. `least`: gas known to be needed.
pub(super) async fn estimates<P: TransactionSender>(
    provider: &P,
    call: &EthCall,
    least: u64,
    fits: impl Fn(u64) -> bool,
) -> Result<Estimates, RpcError> {
    let sense = PlausibleGas::of(provider, call);
    let first = provider.estimate_gas(call).await?;
    if sense.contains(first) && fits(first) {
        return Ok(Estimates { lowest: first, highest: first });
    }
    let ask = |one: P| async move { one.estimate_gas(call).await };
    let nodes = provider.sound_nodes();
    let others =
        Survey::among(provider, nodes.get(1..).unwrap_or_default(), OTHER_NODES_TIMEOUT, ask);
    let first_of = nodes.first().map(|node| (*node, first));
    let told: Vec<_> = first_of.into_iter().chain(others.await.replies).collect();
    let sensible =
        || told.iter().map(|(_, gas)| *gas).chain([first]).filter(|gas| sense.contains(*gas));
    let Some(lowest) = sensible().min() else {
        let hosts: Vec<String> = told.iter().map(|(node, _)| provider.host(*node)).collect();
        return Err(sense.implausible_error(&hosts, first, call.data.len()));
    };
    let far = lowest.max(least).saturating_mul(OUTLIER_FACTOR);
    let highest = sensible().filter(|gas| *gas <= far).max().unwrap_or(lowest);
    Ok(Estimates { lowest, highest })
}

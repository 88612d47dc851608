//! The state of each gateway node.

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::REPORT_INTERVAL;
use crate::{
    admin::status::{Reporter, StaleNode},
    chain::provider::ArbitrumProvider,
    instance::{dependencies, stale_nodes},
    telemetry::log_throttle::LogThrottle,
    time::clock::Clock,
};

/// Publishes the state of each gateway node, also during the build, which may wait for one.
pub(in crate::instance) async fn follow_endpoints(
    provider: ArbitrumProvider,
    reporter: Reporter,
    clock: Clock,
) {
    let mut tick = interval(REPORT_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut nodes, mut repeats) = (stale_nodes::StaleNodes::default(), LogThrottle::default());
    loop {
        tick.tick().await;
        let (gauges, stale) = nodes.update(&provider.endpoint_statuses(), clock.unix_millis());
        reporter.metrics.endpoints(gauges);
        for node in &stale {
            log_stale_node(node, &mut repeats);
        }
        reporter
            .gauges
            .send_if_modified(|gauges| dependencies::replace_if_changed(&mut gauges.stale, stale));
    }
}

/// A chain without new blocks is not logged as a warning.
fn log_stale_node(StaleNode { host, head, others, .. }: &StaleNode, repeats: &mut LogThrottle) {
    let cause = if others.is_some() { "behind" } else { "still" };
    let Some(times) = repeats.should_log_for(host, cause, Instant::now()) else { return };
    if let Some(newest) = others {
        warn!(host, head, newest, times, "a gateway node is behind another one");
    } else {
        info!(host, head, times, "no gateway node shows a new block");
    }
}

//! What must hold whenever the Core is asked, storm or not: asked implies granted.
//!
//! From G12 on nobody but the connector checks. So the request was on the chain with this very content, and
//! as many honest nodes of the host chain as must agree were lately at a block that grants everything it
//! needs: within the age of a pass, and each block no older than the configuration lets it be. What a liar
//! says does not count, and what left the host chain earlier than that does not either.

use std::time::Duration;

use tokio::time::Instant;

use super::{asks::Ask, hosts::HostChain, world::WorldState};
use crate::{
    contracts::abi::Generation,
    domain::{B256, U256},
};

/// The oldest block by which contexts are judged.
const CONTEXTS_JUDGED_BY: Duration = Duration::from_mins(2);
/// The age of a pass, and the way to the Core.
const PASSES_FOR: Duration = Duration::from_secs(11);
/// The oldest block by which a host chain is judged.
pub(super) const MAX_AGE: Duration = Duration::from_secs(30);

impl WorldState {
    /// Judges an ask that the Core has received. Returns a word for the trace if it is wrong.
    pub fn judge_ask(
        &mut self,
        id: U256,
        handles: &[B256],
        public_key: Option<&[u8]>,
    ) -> &'static str {
        let asked = self.chain.ever_requested(id).iter();
        let asked = asked.filter(|one| one.ask.is_asked_by(handles, public_key));
        let Some(least) = asked.min_by_key(|one| one.generation) else {
            return self.asked_wrongly(id, "which nobody asked for");
        };
        if least.generation < Generation::G12 {
            return "";
        }
        let ask = least.ask.clone();
        self.record_fault("asked by grants");
        if ask.is_mixed() {
            self.record_fault("asked by two chains");
        }
        if !self.is_granted(&ask) {
            return self.asked_wrongly(id, "which is not granted");
        }
        let destroyed = ask.context().and_then(|id| self.chain.contexts().destroyed_at(id));
        let known_by = (PASSES_FOR + CONTEXTS_JUDGED_BY).as_secs();
        if destroyed.is_some_and(|at| at + known_by < self.now()) {
            return self.asked_wrongly(id, "in a context that was destroyed");
        }
        ""
    }

    fn asked_wrongly(&mut self, id: U256, why: &str) -> &'static str {
        let number = id & U256::from(u64::MAX);
        self.violations.push(format!("the Core was asked for {number}, {why}"));
        "VIOLATION: "
    }

    fn is_granted(&self, ask: &Ask) -> bool {
        let hosts = self.plan.hosts;
        let since = Instant::now().checked_sub(PASSES_FOR).unwrap_or(Instant::now());
        let oldest = self.now().saturating_sub((PASSES_FOR + MAX_AGE).as_secs());
        // One that denies everything never makes up a grant.
        let liars = usize::from(hosts.lie == Some(true));
        let (honest, needed) = (hosts.nodes - liars, hosts.agreement - liars);
        let grants = |host: &HostChain| host.count_granting(honest, ask, (since, oldest)) >= needed;
        ask.flaw.is_none() && self.hosts.iter().all(grants)
    }
}

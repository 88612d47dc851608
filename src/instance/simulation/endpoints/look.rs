//! Which endpoint is read from: the product's own [`Choice`](crate::gateway::provider::choice::Choice)
//! decides, as it is asked in `provider::endpoints`.

use std::time::Duration;

use tokio::time::Instant;

use super::Reading;
use crate::{
    gateway::provider::{
        Head, NodeId,
        choice::{Kin, Order, Sight},
    },
    instance::simulation::world::State,
};

/// As in `provider::endpoints`: between two looks, and after which one that is behind looks again.
pub(in crate::instance::simulation) const LOOK_EVERY: Duration = Duration::from_millis(500);
const DOUBT_AFTER: Duration = Duration::from_secs(1);
const FAILING: u32 = 2;

impl State {
    /// Behind which endpoint a machine is.
    pub fn endpoint_of(&self, machine: usize) -> usize {
        machine % self.plan.urls
    }

    /// A machine behind an endpoint.
    pub fn machine(&mut self, endpoint: usize) -> usize {
        let behind = (self.chain.nodes.len() - endpoint).div_ceil(self.plan.urls);
        endpoint + self.plan.urls * self.dice.usize(..behind)
    }

    /// The process starts and connects.
    pub fn connect(&mut self) {
        self.reading = Reading::new(self.plan.urls);
        for endpoint in 0..self.plan.urls {
            self.endpoints[endpoint].connection += 1;
            self.endpoints[endpoint].unanswered = 0;
            self.hear(endpoint);
        }
        self.look();
    }

    /// An endpoint tells its head.
    pub fn hear(&mut self, endpoint: usize) {
        if self.endpoints[endpoint].is_away() {
            return;
        }
        let machine = self.machine(endpoint);
        let sight = self.chain.sight(machine);
        let Some(head) = self.chain.block(sight).map(|block| block.head) else { return };
        let head = self.as_told(endpoint, &head);
        let connection = self.endpoints[endpoint].connection;
        self.endpoints[endpoint].head = Some(Head { connection, ..head });
    }

    /// As `provider::endpoints` looks at all of them and chooses.
    pub fn look(&mut self) {
        let (now, several) = (Instant::now(), self.endpoints.len() > 1);
        let mut sights = Vec::with_capacity(self.endpoints.len());
        for endpoint in &mut self.endpoints {
            let failing = several && endpoint.unanswered >= FAILING;
            if failing {
                endpoint.unanswered = 0;
            }
            let head = endpoint.head.map(|head| head.block.number);
            sights.push(Sight {
                up: !endpoint.is_away(),
                head,
                failing,
                kin: Kin::Ours,
                arrived: None,
            });
        }
        let Order { nodes, .. } = self.reading.choice.look(&sights, now);
        self.reading.order = nodes;
        let Some(first) = self.reading.order.first().copied() else { return };
        let Some(head) = self.endpoints[first].head else { return };
        if self.reading.choice.behind(head.block.number, now) >= DOUBT_AFTER {
            self.hear(first);
        }
        let Some(head) = self.endpoints[first].head else { return };
        let reading = &mut self.reading;
        reading.choice.acted_on(head.block.number);
        let source = Some((first, head.connection));
        if reading.source != source {
            (reading.source, reading.sources) = (source, reading.sources + 1);
        }
        let head = Some(Head { connection: reading.sources, by: NodeId(first), ..head });
        if reading.told != head {
            reading.told = head;
            self.listeners.retain(|listener| !listener.is_closed());
            for listener in &self.listeners {
                listener.send_replace(head);
            }
        }
    }
}

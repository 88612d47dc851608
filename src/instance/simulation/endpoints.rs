//! The endpoints of the connector's configuration: one or two, each with machines behind it.

pub(super) mod asked;
pub(super) mod look;

use tokio::time::Instant;

use super::lies::Lies;
use crate::gateway::provider::{Head, choice::Choice};

/// One endpoint.
#[derive(Debug, Default)]
pub(super) struct Endpoint {
    pub lies: Lies,
    /// The last head it told.
    head: Option<Head>,
    pub connection: u64,
    /// It cannot be connected to.
    pub away_until: Option<Instant>,
    /// Unanswered calls in a row.
    unanswered: u32,
}

impl Endpoint {
    /// The newest block it told of.
    pub fn height(&self) -> Option<u64> {
        self.head.map(|head| head.block.number)
    }

    pub fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| Instant::now() < until)
    }
}

/// What one life of the process makes of its endpoints.
#[derive(Debug)]
pub(super) struct Reading {
    choice: Choice,
    order: Vec<usize>,
    source: Option<(usize, u64)>,
    sources: u64,
    told: Option<Head>,
}

impl Reading {
    pub fn new(urls: usize) -> Self {
        let choice = Choice::new(urls);
        Self { choice, order: Vec::new(), source: None, sources: 0, told: None }
    }

    pub fn told(&self) -> Option<Head> {
        self.told
    }
}

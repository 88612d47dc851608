//! Requests and answers as they stand on chain.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, U256},
    sol_types::SolEvent as _,
};
use tokio::time::{Instant, sleep};
use world::{Error, Result, contracts::Decryption, deployment::Deployment, request::Kind};

use crate::ground::BLOCK_TIME;

/// Blocks read at once.
const PAGE: u64 = 40;

/// Blocks of requests and answers.
pub struct Tally<'a> {
    deployment: &'a Deployment,
    next: u64,
    requests: HashMap<U256, u64>,
    answers: HashMap<(U256, Address), u64>,
    doubles: usize,
}

impl<'a> Tally<'a> {
    /// Of what stands on chain from block `next` on.
    pub fn new(deployment: &'a Deployment, next: u64) -> Self {
        let (requests, answers) = (HashMap::new(), HashMap::new());
        Self { deployment, next, requests, answers, doubles: 0 }
    }

    /// Reads on, until so many requests have so many answers each.
    pub async fn complete(&mut self, requests: usize, each: usize, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        loop {
            self.read().await?;
            let known = &self.requests;
            let answers = self.answers.keys().filter(|(id, _)| known.contains_key(id)).count();
            if known.len() >= requests && answers >= requests * each {
                return Ok(());
            }
            if Instant::now() > until {
                let asked = known.len();
                let what = format!("{asked} of {requests} requests have {answers} answers");
                return Err(Error::other(what));
            }
            sleep(BLOCK_TIME / 2).await;
        }
    }

    async fn read(&mut self) -> Result<()> {
        let chain = &self.deployment.chain;
        let topics: [B256; 3] = [
            self.deployment.request_topic(Kind::Public),
            self.deployment.request_topic(Kind::User),
            Decryption::ResponseRecorded::SIGNATURE_HASH,
        ];
        let head = chain.block_number().await?;
        while self.next <= head {
            let to = head.min(self.next + PAGE - 1);
            let range = (self.next, to);
            for log in chain.logs_between(self.deployment.decryption, range, &topics).await? {
                let (id, block) = (U256::from_be_bytes(log.topics[1].0), log.block_number.to());
                if log.topics[0] == Decryption::ResponseRecorded::SIGNATURE_HASH {
                    let signer = Address::from_word(log.topics[2]);
                    let before = self.answers.insert((id, signer), block);
                    self.doubles += usize::from(before.is_some());
                } else {
                    self.requests.insert(id, block);
                }
            }
            self.next = to + 1;
        }
        Ok(())
    }

    /// Answers that were accepted twice.
    pub fn doubles(&self) -> usize {
        self.doubles
    }

    pub fn answers(&self) -> usize {
        self.answers.len()
    }

    /// From the request's block to the answer's, sorted, in milliseconds.
    pub fn latencies(&self, heads: &BTreeMap<u64, Instant>) -> Vec<f64> {
        let mut all: Vec<f64> = self
            .answers
            .iter()
            .filter_map(|((id, _), block)| {
                let (from, to) = (heads.get(self.requests.get(id)?)?, heads.get(block)?);
                Some(to.saturating_duration_since(*from).as_secs_f64() * 1000.0)
            })
            .collect();
        all.sort_unstable_by(f64::total_cmp);
        all
    }

    /// The block of the first request, and that of the last answer.
    pub fn ends(&self) -> Option<(u64, u64)> {
        Some((*self.requests.values().min()?, *self.answers.values().max()?))
    }
}

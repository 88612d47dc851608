//! What the chain says in the end, and the connector's own books only where the chain cannot know.
//!
//! The chain's logs are all there is to it: its requests are those whose events stand in it, its
//! answers are those that the contract recorded. Whatever a reorganisation dropped for good is in
//! neither.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolEvent,
};
use tokio::time::{Instant, sleep};
use world::{
    Error, Result,
    contracts::{Decryption, G8, SnsCiphertextMaterial},
    deployment::{Answer, Deployment, answer},
    fleet::name,
    journal,
    parties::{Parties, Party},
    request::{Issued, Kind},
    rpc::Log,
};

/// Blocks of one call.
const PAGE: u64 = 200;
/// Lines that are shown of what is wrong.
const SHOWN: usize = 10;
/// Answers may still be mined twice, a moment later.
const AFTERWARDS: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Requests and answers of a chain that is not reorganised any more.
#[derive(Debug)]
struct Story<'a> {
    deployment: &'a Deployment,
    read_to: u64,
    requests: HashMap<U256, Issued>,
    answers: HashMap<(U256, Address), Vec<Answer>>,
}

impl<'a> Story<'a> {
    fn new(deployment: &'a Deployment) -> Self {
        let read_to = deployment.since_block.saturating_sub(1);
        Self { deployment, read_to, requests: HashMap::new(), answers: HashMap::new() }
    }

    /// Reads on to the head.
    async fn read(&mut self) -> Result<()> {
        let chain = &self.deployment.chain;
        let head = chain.block_number().await?;
        let topics = [
            G8::PublicDecryptionRequest::SIGNATURE_HASH,
            G8::UserDecryptionRequest::SIGNATURE_HASH,
            Decryption::ResponseRecorded::SIGNATURE_HASH,
        ];
        while self.read_to < head {
            let range = (self.read_to + 1, head.min(self.read_to + PAGE));
            for log in chain.logs_between(self.deployment.decryption, range, &topics).await? {
                if log.topics[0] == topics[2] {
                    let answer = answer(&log)?;
                    self.answers.entry((answer.id, answer.signer)).or_default().push(answer);
                } else {
                    let request = issued(&log, log.topics[0] == topics[1])?;
                    self.requests.insert(request.id, request);
                }
            }
            self.read_to = range.1;
        }
        Ok(())
    }

    /// What each of these nodes has not answered.
    fn missing<'b>(&'b self, parties: &'b Parties) -> impl Iterator<Item = (usize, U256)> + 'b {
        let signers = parties.list.iter().map(|party| party.signer.address()).enumerate();
        let of = move |(index, signer)| {
            let ids = self.requests.keys().copied();
            ids.filter(move |id| !self.answers.contains_key(&(*id, signer)))
                .map(move |id| (index, id))
        };
        signers.flat_map(of)
    }
}

/// A request as its event tells it.
fn issued(log: &Log, user: bool) -> Result<Issued> {
    let topics = || log.topics.iter().copied();
    let (id, materials, public_key, extra_data) = if user {
        let event = G8::UserDecryptionRequest::decode_raw_log(topics(), &log.data)?;
        (event.decryptionId, event.snsCtMaterials, event.publicKey, event.extraData)
    } else {
        let event = G8::PublicDecryptionRequest::decode_raw_log(topics(), &log.data)?;
        (event.decryptionId, event.snsCtMaterials, Bytes::new(), event.extraData)
    };
    let each = |of: fn(&SnsCiphertextMaterial) -> B256| materials.iter().map(of).collect();
    Ok(Issued {
        id,
        kind: if user { Kind::User } else { Kind::Public },
        handles: each(|material| material.ctHandle),
        digests: each(|material| material.snsCiphertextDigest),
        public_key,
        extra_data,
        block: log.block_number.to(),
        transaction: log.transaction_hash,
    })
}

/// What is wrong, one line each; good if all lists are empty.
#[derive(Debug, Default)]
pub struct Verdict {
    pub requests: usize,
    pub answers: usize,
    lost: Vec<String>,
    twice: Vec<String>,
    wrong: Vec<String>,
    refused: Vec<String>,
    open: Vec<String>,
    outcomes: HashMap<String, usize>,
    mined: usize,
    failed: usize,
    noops: usize,
    /// From the end of the faults to the last answer.
    drained: Duration,
}

impl Verdict {
    /// Waits at most `limit` for the last answers, and reads the chain.
    pub async fn of(parties: &Parties, state_dir: PathBuf, limit: Duration) -> Result<Self> {
        let (deployment, begun) = (&parties.deployment, Instant::now());
        let mut story = Story::new(deployment);
        loop {
            story.read().await?;
            if story.missing(parties).next().is_none() || begun.elapsed() > limit {
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        let mut verdict = Self { drained: begun.elapsed(), ..Self::default() };
        sleep(AFTERWARDS).await;
        story.read().await?;
        verdict.read_books(parties, &state_dir, &story)?;
        verdict.compare(parties, &story);
        verdict.count_transactions(parties, &story).await?;
        Ok(verdict)
    }

    /// Requests against answers.
    fn compare(&mut self, parties: &Parties, story: &Story<'_>) {
        self.requests = story.requests.len();
        self.lost.extend(story.missing(parties).map(|(index, id)| line(index, id, "no answer")));
        for ((id, signer), answers) in &story.answers {
            self.answers += answers.len();
            let index = parties.list.iter().position(|party| party.signer.address() == *signer);
            let Some(index) = index else {
                self.wrong.push(format!("{id:#x} was answered by a stranger, {signer}"));
                continue;
            };
            if answers.len() > 1 {
                self.twice.push(line(index, *id, &format!("{} answers", answers.len())));
            }
            let checked = match story.requests.get(id) {
                Some(request) => request.check(&answers[0].payload),
                None => Err("was never asked".into()),
            };
            if let Err(what) = checked {
                self.wrong.push(line(index, *id, &what));
            }
        }
    }

    /// The chain does not know who was refused, and what is still under way.
    fn read_books(
        &mut self,
        parties: &Parties,
        state_dir: &std::path::Path,
        story: &Story<'_>,
    ) -> Result<()> {
        for (index, party) in parties.list.iter().enumerate() {
            let file = journal::of(state_dir, party.address())
                .ok_or_else(|| Error::other(format!("{} has no journal", name(index))))?;
            for entry in journal::entries(&file)? {
                let request = story.requests.get(&entry.id);
                let stands = request.is_some_and(|r| r.transaction == entry.event_transaction);
                let outcome = entry.outcome.as_deref().unwrap_or("open");
                *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
                // Nothing that is asked here is to be refused.
                let refusal = entry.refusal.as_deref().unwrap_or_default();
                match outcome {
                    "refused" | "expired" => {
                        self.refused.push(line(index, entry.id, &format!("{outcome}: {refusal}")));
                    }
                    "orphaned" if stands => {
                        self.refused.push(line(
                            index,
                            entry.id,
                            "orphaned, and stands in the chain",
                        ));
                    }
                    "open" if stands => {
                        let held = entry.held.map_or_else(String::new, |(reason, detail)| {
                            format!(", held {reason}: {detail}")
                        });
                        let error = entry.last_error.unwrap_or_default();
                        let what = format!("{}{held} {error}", entry.stage);
                        self.open.push(line(index, entry.id, &what));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// All transactions of the wallets.
    async fn count_transactions(&mut self, parties: &Parties, story: &Story<'_>) -> Result<()> {
        let wallets: Vec<Address> = parties.list.iter().map(Party::address).collect();
        let deployment = &parties.deployment;
        for number in deployment.since_block..=story.read_to {
            for receipt in deployment.chain.block_receipts(number).await? {
                if !wallets.contains(&receipt.from) {
                    continue;
                }
                self.mined += 1;
                if receipt.to != Some(deployment.decryption) {
                    self.noops += 1;
                } else if !receipt.succeeded() {
                    self.failed += 1;
                }
            }
        }
        Ok(())
    }

    pub fn is_good(&self) -> bool {
        let lists = [&self.lost, &self.twice, &self.wrong, &self.refused, &self.open];
        self.requests > 0 && lists.iter().all(|list| list.is_empty())
    }
}

fn line(index: usize, id: U256, what: &str) -> String {
    format!("{} {id:#x}: {what}", name(index))
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { requests, answers, mined, failed, noops, drained, .. } = self;
        writeln!(f, "requests     {requests} in the chain, {answers} answers recorded")?;
        writeln!(
            f,
            "verdict      {} lost, {} accepted twice, {} wrong, {} refused without a true reason, \
             {} answered and still open in the journal",
            self.lost.len(),
            self.twice.len(),
            self.wrong.len(),
            self.refused.len(),
            self.open.len(),
        )?;
        let extra = mined.saturating_sub(*answers);
        writeln!(
            f,
            "transactions {mined} mined, {extra} more than answers: {failed} reverted, {noops} no-ops"
        )?;
        let mut outcomes: Vec<_> = self.outcomes.iter().collect();
        outcomes.sort();
        let outcomes: Vec<String> =
            outcomes.iter().map(|(name, count)| format!("{count} {name}")).collect();
        writeln!(f, "journals     {}", outcomes.join(", "))?;
        write!(f, "drained      {:.1} s after the last fault", drained.as_secs_f64())?;
        for list in [&self.lost, &self.twice, &self.wrong, &self.refused, &self.open] {
            for line in list.iter().take(SHOWN) {
                write!(f, "\n  {line}")?;
            }
            if list.len() > SHOWN {
                write!(f, "\n  and {} more", list.len() - SHOWN)?;
            }
        }
        Ok(())
    }
}

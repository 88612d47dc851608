//! A network whose gateway has its contract for keys, and what becomes of requests there.

use std::time::Duration;

use alloy::primitives::{Address, U256};
use world::{
    Error, Result,
    contracts::Variant,
    core_stub::CoreStub,
    deployment::Thresholds,
    fleet::{Fleet, name},
    host::HostOptions,
    journal::Entry,
    key_generation::{KeyGeneration, KeyRequest},
    program,
    scene::{PATIENCE, SceneOptions, tail},
    until,
};

pub const POLL: Duration = Duration::from_millis(50);
/// Nobody waits for Ethereum's finality, which is asked for every 12 s.
pub const SOON_FINAL: &str = "ethereum_finality = \"latest\"";
/// Of the four parties of a [`Stage`].
const MUST_AGREE: u64 = 3;

/// Four parties; how many of them have a connector is up to the test.
pub struct Stage {
    pub fleet: Fleet,
    pub keys: KeyGeneration,
}

impl Stage {
    /// No connector runs. From G13 on the contract is on Ethereum, which is the host chain.
    pub async fn set(options: SceneOptions) -> Result<Self> {
        Self::of(options, 4).await
    }

    /// The same of any number of parties.
    pub async fn of(options: SceneOptions, parties: usize) -> Result<Self> {
        let mut options = SceneOptions { keys: true, ..options };
        if options.variant.since(Variant::G13) && options.hosts.is_empty() {
            let block_time = Some(Duration::from_millis(250));
            options.hosts.push(HostOptions::of(options.variant).block_time(block_time));
        }
        let thresholds = Thresholds { public: MUST_AGREE, user: MUST_AGREE };
        let fleet = Fleet::with(&options, parties, thresholds).await?;
        let keys = fleet.parties.keys.clone().ok_or_else(|| Error::other("no keys"))?;
        Ok(Self { fleet, keys })
    }

    /// Party 0 has a connector, configured with `more`; for the others the test answers.
    pub async fn with_one(variant: Variant, more: &str) -> Result<Self> {
        let mut stage = Self::set(SceneOptions::of(variant)).await?;
        stage.fleet.write(0, more)?;
        stage.fleet.supervisor.start(program())?;
        stage.fleet.supervisor.until_running(&[name(0)]).await?;
        Ok(stage)
    }

    pub fn core(&self, party: usize) -> &CoreStub {
        &self.fleet.parties.list[party].core
    }

    /// Party `party`, which has no connector, answers.
    pub async fn vote(&self, party: usize, request: &KeyRequest) -> Result<()> {
        let party = &self.fleet.parties.list[party];
        let call = self.keys.answer(party.address(), &party.core, request);
        self.keys.chain.send(call).await.map(drop)
    }

    /// Every party without a connector answers.
    pub async fn others_vote(&self, request: &KeyRequest) -> Result<()> {
        for party in 1..4 {
            self.vote(party, request).await?;
        }
        Ok(())
    }

    /// Waits until each of `parties` has answered, once, and as the others did.
    pub async fn answered(&self, parties: &[usize], requests: &[&KeyRequest]) -> Result<()> {
        let signers = self.fleet.parties.signers(parties);
        for request in requests {
            let answered = self.keys.answered_by(request, &signers, PATIENCE).await;
            answered.map_err(|error| self.with_log(&error))?;
        }
        Ok(())
    }

    /// The answers of party 0.
    pub async fn mine(&self, request: &KeyRequest) -> Result<usize> {
        let signer: Address = self.fleet.parties.list[0].signer.address();
        let answers = self.keys.answers(request.id).await?;
        Ok(answers.iter().filter(|answer| answer.signer == signer).count())
    }

    /// Waits until party 0's journal has a request as `wanted`.
    pub async fn row(&self, what: &str, wanted: impl Fn(&Entry) -> bool) -> Result<Entry> {
        let seen = until(what, PATIENCE, POLL, async || {
            let entries = self.fleet.key_entries(0).unwrap_or_default();
            Ok(entries.into_iter().find(|entry| wanted(entry)))
        });
        seen.await.map_err(|error| {
            let rows = self.fleet.key_entries(0);
            self.with_log(&Error::other(format!("{error}; there are {rows:?}")))
        })
    }

    /// Waits until party 0 holds the request of `id` for `reason`, and answers what it says of it.
    pub async fn held(&self, id: U256, reason: &str) -> Result<String> {
        let wanted = |entry: &Entry| entry.id == id && reason_of(entry) == Some(reason);
        let entry = self.row(&format!("{id:#x} held {reason}"), wanted).await?;
        Ok(entry.held.unwrap_or_default().1)
    }

    /// Waits until party 0 has ended the request of `id` so.
    pub async fn settled(&self, id: U256, outcome: &str) -> Result<Entry> {
        let wanted = |entry: &Entry| entry.id == id && entry.outcome.as_deref() == Some(outcome);
        self.row(&format!("{id:#x} {outcome}"), wanted).await
    }

    /// What connectors warned of.
    pub fn warnings(&self) -> String {
        let log = self.fleet.supervisor.log();
        let lines = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// What was waited for, or what the log says of why not.
    pub fn told<T>(&self, seen: Result<T>) -> Result<T> {
        seen.map_err(|error| self.with_log(&error))
    }

    fn with_log(&self, error: &Error) -> Error {
        Error::other(format!("{error}\n{}", tail(&self.fleet.supervisor.log())))
    }
}

pub fn reason_of(entry: &Entry) -> Option<&str> {
    entry.held.as_ref().map(|(reason, _)| reason.as_str())
}

//! Several parties of one network, and one supervisor that runs a connector for each of them.
//!
//! Party 0 is called `node-0`, and so on: the name of its configuration, unless a test gives it
//! another. A sick instance with a world of its own is a [`super::scene::Scene`] whose connector is
//! not started and whose configuration is put into the fleet's directory.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::primitives::{Address, U256};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Result,
    audit::{Books, Journal, unbroken},
    deployment::{Deployment, Thresholds},
    journal::{self, Entry},
    parties::Parties,
    request::{Ask, Issued},
    scene::{PATIENCE, SceneOptions, tail},
    supervised::Supervised,
};

/// The parties and their supervisor.
#[derive(Debug)]
pub struct Fleet {
    // Dropped in this order: the supervisor before what its instances talk to, the folder last.
    pub supervisor: Supervised,
    pub parties: Parties,
    pub dir: tempfile::TempDir,
}

/// The name of a party's instance.
pub fn name(index: usize) -> String {
    format!("node-{index}")
}

impl Fleet {
    /// Brings up `count` parties of which each answer is a consensus; no supervisor runs, and there
    /// is no configuration.
    pub async fn new(count: usize) -> Result<Self> {
        Self::with(&SceneOptions::default(), count, Thresholds::ONE).await
    }

    pub async fn with(
        options: &SceneOptions,
        count: usize,
        thresholds: Thresholds,
    ) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| Error::Io("a folder".into(), e))?;
        let parties = Parties::start(dir.path(), options, count, thresholds).await?;
        let supervisor = Supervised::new(dir.path())?;
        Ok(Self { supervisor, parties, dir })
    }

    /// [`Self::new`], with a configuration for each party and a supervisor that runs them all.
    pub async fn running(count: usize, program: &Path) -> Result<Self> {
        let mut fleet = Self::new(count).await?;
        fleet.run_all(program).await?;
        Ok(fleet)
    }

    /// Writes every party's configuration, and waits until a supervisor runs them.
    pub async fn run_all(&mut self, program: &Path) -> Result<()> {
        let all = self.all();
        for index in &all {
            self.write(*index, "")?;
        }
        self.supervisor.start(program)?;
        let names: Vec<String> = all.iter().map(|index| name(*index)).collect();
        self.supervisor.until_running(&names).await.map(drop)
    }

    /// The index of every party.
    pub fn all(&self) -> Vec<usize> {
        (0..self.parties.list.len()).collect()
    }

    /// The configuration of a party.
    pub fn config(&self, index: usize, more: &str) -> String {
        self.parties.config(index, more)
    }

    /// Writes a party's configuration under its name.
    pub fn write(&self, index: usize, more: &str) -> Result<()> {
        self.supervisor.configs.write(&name(index), &self.config(index, more))
    }

    pub fn deployment(&self) -> &Deployment {
        &self.parties.deployment
    }

    /// The wallet of a party.
    pub fn wallet(&self, index: usize) -> Address {
        self.parties.list[index].address()
    }

    /// Stores the ciphertexts and emits the requests.
    pub async fn request(&self, asks: Vec<Ask>) -> Result<Vec<Issued>> {
        self.deployment().request(asks).await
    }

    /// Waits until each of these parties has answered each request, once and rightly.
    pub async fn answered_by(&self, parties: &[usize], requests: &[Issued]) -> Result<()> {
        let signers = self.parties.signers(parties);
        let answered = self.deployment().answered_by(requests, &signers, PATIENCE).await;
        let log = || tail(&self.supervisor.log());
        answered.map_err(|error| Error::other(format!("{error}\n{}", log())))
    }

    /// Waits until each of these parties has answered each request, once and rightly, and holds the
    /// chain against each one's journal. These must be all requests there are.
    pub async fn audit(&self, parties: &[usize], requests: &[Issued]) -> Result<()> {
        self.answered_by(parties, requests).await?;
        for index in parties {
            let file = self.journal(*index)?;
            let audited = self.books(*index, &file).audit(requests, Journal::Whole).await;
            audited.map_err(|error| Error::other(format!("{}: {error}", name(*index))))?;
        }
        Ok(())
    }

    /// Holds the chain of the key operations of these ids against each party's journal of it, once all are
    /// answered. There were no other requests.
    pub async fn audit_keys(&self, parties: &[usize], ids: &[U256]) -> Result<()> {
        let chain = self.parties.keys.as_ref().map_or(&self.deployment().chain, |keys| &keys.chain);
        for index in parties {
            let file = self.key_journal(*index)?;
            let audited = self.books(*index, &file).audit_keys(chain, ids).await;
            audited.map_err(|error| Error::other(format!("{}: {error}", name(*index))))?;
        }
        Ok(())
    }

    /// The journal of a party's wallet on the chain that asks for keys.
    pub fn key_journal(&self, index: usize) -> Result<PathBuf> {
        let keys = self.parties.keys.as_ref();
        let chain_id = keys.map_or(self.deployment().chain_id, |keys| keys.chain_id);
        let file = journal::of_chain(&self.supervisor.state_dir(), chain_id, self.wallet(index));
        file.ok_or_else(|| Error::other(format!("{} has no journal of {chain_id}", name(index))))
    }

    /// The requests in it.
    pub fn key_entries(&self, index: usize) -> Result<Vec<Entry>> {
        journal::entries(&self.key_journal(index)?)
    }

    /// The gateway's journal of a party's wallet.
    pub fn journal(&self, index: usize) -> Result<PathBuf> {
        let (state_dir, chain_id) = (self.supervisor.state_dir(), self.deployment().chain_id);
        let file = journal::of_chain(&state_dir, chain_id, self.wallet(index));
        file.ok_or_else(|| Error::other(format!("{} has no journal", name(index))))
    }

    /// A party's `file`, to be held against the chain.
    pub fn books<'a>(&'a self, index: usize, file: &'a Path) -> Books<'a> {
        Books { deployment: self.deployment(), wallet: self.wallet(index), file }
    }

    /// The requests in a party's journal.
    pub fn entries(&self, index: usize) -> Result<Vec<Entry>> {
        journal::entries(&self.journal(index)?)
    }

    /// The connections to the Core of a party: those of its instance.
    pub fn core_connections(&self, index: usize) -> Result<BTreeSet<u64>> {
        self.supervisor.connections(self.parties.list[index].core.port())
    }

    /// The connections to the chain's node: those of all instances.
    pub fn chain_connections(&self) -> Result<BTreeSet<u64>> {
        self.supervisor.connections(self.parties.anvil.port())
    }

    /// An error if an instance has ended by itself, or if anything panicked.
    pub fn unbroken(&self) -> Result<()> {
        unbroken(&self.supervisor.log())
    }

    /// Whether the contract has seen enough answers to a request.
    pub async fn consensus(&self, id: U256) -> Result<bool> {
        self.deployment().is_done(id).await
    }

    /// Puts requests on chain, one at a time with `pause` between them, until `meanwhile` ends.
    /// Answers the requests and what it ended with.
    pub async fn under_load<T>(
        &self,
        pause: Duration,
        meanwhile: impl Future<Output = Result<T>>,
    ) -> Result<(Vec<Issued>, T)> {
        let over = CancellationToken::new();
        let loading = async {
            let mut issued = Vec::new();
            let mut turn = tokio::time::interval(pause);
            turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // Looked at between requests only: what is emitted is also told.
            while !over.is_cancelled() {
                turn.tick().await;
                issued.extend(self.request(Ask::mixed(1, 0)).await?);
            }
            Ok::<_, Error>(issued)
        };
        let ending = async {
            let _over = over.clone().drop_guard();
            meanwhile.await
        };
        let (issued, ended) = tokio::join!(loading, ending);
        Ok((issued?, ended?))
    }
}

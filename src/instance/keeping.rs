//! An instance and its journal: opened at its beginning, or gone on with; closed at its end, or handed on.

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument, error, info, warn};

use super::{
    BuildError, DROP_DEADLINE, Exit, FLUSH_DEADLINE, Instance, ROOM, earlier_wallet, observe_dir,
    parts::{fail, refuse},
    world::{self, Waits},
};
use crate::{
    backoff::Backoff,
    config::Config,
    domain::Address,
    gateway::provider::Nodes,
    heart,
    journal::{
        self, Condition, Damage, Identity, Journal, Kept, OpenError, Opened, Predecessor, open_as,
    },
};

/// How long to wait for a journal that an earlier generation of this process is still closing.
const OWN_LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// Which journal is open, and how its store is.
pub(super) struct OpenJournal {
    pub dir: PathBuf,
    pub identity: Identity,
    pub contract: Address,
    pub condition: Condition,
}

impl Instance {
    /// Opens the journal, or goes on with the one left by the generation before, and starts its
    /// writer; follows what an earlier wallet of this instance has signed.
    pub(super) async fn open_journal(
        &mut self,
        config: &Config,
        wallet: Address,
        provider: &impl Nodes,
    ) -> Result<Journal, BuildError> {
        let dir = if config.observes {
            observe_dir(&self.supervision.state_dir, &self.supervision.name)
        } else {
            self.supervision.state_dir.clone()
        };
        let (gateway, waits) =
            (world::gateway_name(provider), Waits::building(&self.supervision.reporter));
        let name = &self.supervision.name;
        let machine = self.machine.clone();
        let known = world::known_beginnings(&machine, config, dir.clone(), wallet, name).await?;
        let genesis =
            waits.until_ready(&gateway, || world::settle_genesis(provider, &known)).await?;
        waits.over();
        let identity = Identity { chain_id: config.chain_id, genesis, wallet };
        let mut kept = None;
        if let Some(estate) = self.estate.take() {
            if estate.kept.identity() == identity {
                kept = Some(estate.kept);
            } else {
                // Of another wallet: this one may inherit from it.
                estate.close().await;
            }
        }
        let begun = Instant::now();
        let mut pause = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut last = None;
        let opened = loop {
            let (at, contract) = (dir.clone(), config.decryption_address);
            let (name, kept) = (self.supervision.name.clone(), kept.take());
            let machine = machine.clone();
            let opening = async move {
                let open = {
                    let machine = machine.clone();
                    move || open_as(&machine, &at, identity, contract, &name, kept)
                };
                machine.run(open).await
            };
            self.opening.spawn(opening.in_current_span());
            let opened = match self.opening.join_next().await {
                Some(Ok(Some(opened))) => opened,
                Some(Err(error)) => return Err(fail(format!("opening the journal: {error}"))),
                Some(Ok(None)) | None => {
                    return Err(fail("opening the journal: the process is ending"));
                }
            };
            match opened {
                Ok(opened) => {
                    if last.is_some() {
                        waits.over();
                    }
                    break opened;
                }
                Err(OpenError::Locked { pid: Some(pid), .. })
                    if pid == std::process::id() && begun.elapsed() < OWN_LOCK_PATIENCE =>
                {
                    sleep(Duration::from_millis(100)).await;
                }
                Err(error) if error.may_pass() => {
                    let why = Some(error.to_string());
                    if let Some(why) = why.as_deref().filter(|_| why != last) {
                        warn!(why, "waiting for {ROOM}");
                        waits.on(ROOM, why);
                    }
                    last = why;
                    sleep(pause.next_delay()).await;
                }
                Err(error) if error.needs_rebuild() => return Err(refuse(error)),
                Err(error) => return Err(fail(error)),
            }
        };
        let Opened { journal, writer, predecessor, left } = opened;
        let (contract, condition) = (config.decryption_address, journal.condition());
        self.opened = Some(OpenJournal { dir, identity, contract, condition });
        let heart = self.supervision.hearts.heart(heart::JOURNAL);
        let metrics = self.supervision.reporter.metrics.clone();
        let writing = writer.run(heart, metrics, self.journal_stop.clone());
        self.journal.spawn(writing.in_current_span());
        for warning in journal.warnings() {
            warn!("{warning}");
        }
        info!(path = %journal.path().display(), "journal open");
        if let Some(Predecessor { wallet, cursor, requests }) = predecessor {
            info!(
                earlier_wallet = %wallet,
                cursor = cursor.number,
                requests,
                "the wallet was changed: taking over what the earlier one left"
            );
        }
        // Who only observes sends nothing on for anybody.
        for left in left.into_iter().filter(|_| !config.observes) {
            match left {
                Ok(left) => {
                    let following =
                        earlier_wallet::follow(left, provider.clone(), self.below.clone());
                    self.tasks.spawn("earlier wallet", async move {
                        following.await;
                        Ok::<(), String>(())
                    });
                }
                Err(error) => warn!(
                    %error,
                    "the transactions of an earlier wallet are not followed any more"
                ),
            }
        }
        Ok(journal)
    }

    /// A damaged journal is nothing to go on with.
    pub(super) async fn set_aside(&mut self, damage: Damage, kept: Option<Kept>) -> Exit {
        let error = damage.detail.clone();
        let Some(OpenJournal { dir, identity, contract, .. }) = self.opened.take() else {
            return Exit::Failed { task: heart::JOURNAL, error };
        };
        let setting_aside = self.machine.run(move || {
            drop(kept);
            journal::set_aside(&damage, &dir, identity, contract)
        });
        match setting_aside.await {
            Some(Ok(told)) => Exit::Refused { why: told.to_string() },
            // The next generation finds it damaged, or in order.
            Some(Err(error)) => Exit::Failed { task: heart::JOURNAL, error: error.to_string() },
            None => Exit::Failed { task: heart::JOURNAL, error },
        }
    }

    /// The journal for the next generation, with all that was noted.
    pub(super) async fn close_journal(&mut self, exit: &Exit) -> Option<Kept> {
        self.journal_stop.cancel();
        let hangs = *exit == Exit::Hung { task: heart::JOURNAL };
        let limit = if hangs { DROP_DEADLINE } else { FLUSH_DEADLINE };
        if !self.opening.is_empty() {
            // Closed at its end if it takes longer.
            let opened = timeout(limit, self.opening.join_next()).await.ok()??.ok()??.ok()?;
            return self.machine.run(move || opened.writer.keep()).await;
        }
        let Ok(flushed) = timeout(limit, self.journal.join_next()).await else {
            warn!("the journal did not close in time; what it had promised is on disk");
            return None;
        };
        match flushed?.ok()? {
            Ok(kept) => Some(kept),
            Err(error) => {
                error!(%error, "the journal failed while it was closed");
                None
            }
        }
    }
}

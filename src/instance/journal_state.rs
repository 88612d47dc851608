//! Opens the journal of one of an instance's chains, or takes it over from the previous generation; closes
//! it, or hands it on.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, warn};

use super::{
    BuildError, DROP_DEADLINE, EndedStack, Exit, FLUSH_DEADLINE, JOURNAL_DISK, Stack,
    dependencies::{self, Waits},
    earlier_wallet,
    stored_state::InHand,
    tasks::exit_of,
};
use crate::{
    admin::status::OtherContracts,
    chain::{lane::ChainKind, provider::ArbitrumProvider},
    domain::{Address, RequestSource},
    journal::{
        self, Condition, Damage, Identity, IdleStore, JournalError, OpenError, OpenWarning,
        OpenedJournal, Predecessor, open_as,
    },
    machine::Machine,
    telemetry::{errors::ADVICE, heartbeat},
    time::backoff::Backoff,
};

/// How long to wait for a journal that an earlier generation of this process is still closing.
const OWN_LOCK_DEADLINE: Duration = Duration::from_secs(3);

/// State of the chain's journal.
pub(super) enum JournalState {
    /// Not open; the previous generation's journal, if it left one.
    NotOpen(Option<KeptJournal>),
    /// Being opened.
    Opening(JoinSet<Option<Result<OpenedJournal, OpenError>>>),
    Open(OpenJournal),
}

/// The previous generation's journal until this one opens it, which may have to wait for a node. Its files
/// are looked at meanwhile, as those of an open one.
pub(super) struct KeptJournal {
    keeping: JoinSet<Option<IdleStore>>,
    stop: CancellationToken,
}

impl KeptJournal {
    pub(super) fn of(store: IdleStore, machine: &Machine) -> Self {
        let (stop, mut keeping) = (CancellationToken::new(), JoinSet::new());
        let kept = store.keep(machine.clone(), stop.clone());
        let keep = async move {
            kept.await
                .inspect_err(|error| {
                    let code = error.code();
                    error!(%error, code, "what the last generation left is lost: the journal is opened anew");
                })
                .ok()
        };
        keeping.spawn(keep.in_current_span());
        Self { keeping, stop }
    }

    /// `None`: it was lost.
    async fn give_back(mut self) -> Option<IdleStore> {
        self.stop.cancel();
        self.keeping.join_next().await?.ok()?
    }
}

/// Which journal is opened, and where.
pub(super) struct JournalPlace {
    pub(super) dir: PathBuf,
    /// Who keeps it: written into it.
    pub(super) keeper: String,
    /// The chain, and the contract whose requests it is for.
    pub(super) source: RequestSource,
    pub(super) wallet: Address,
    /// That of the chain.
    pub(super) kind: ChainKind,
    /// An observing instance sends nothing, for no wallet.
    pub(super) sends: bool,
}

/// An open journal and its writer task, which ends last, even after an abort.
pub(super) struct OpenJournal {
    writer: JoinSet<Result<IdleStore, JournalError>>,
    stop: CancellationToken,
    dir: PathBuf,
    identity: Identity,
    contract: Address,
    condition: Condition,
}

impl JournalState {
    /// Waits for the result of opening.
    async fn await_opened(&mut self) -> Result<Result<OpenedJournal, OpenError>, BuildError> {
        let ended = match self {
            Self::Opening(attempt) => attempt.join_next().await,
            Self::NotOpen(_) | Self::Open(_) => None,
        };
        match ended {
            Some(Ok(Some(opened))) => Ok(opened),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(None)) | None => Err(BuildError::Ending),
        }
    }

    /// Condition of its store.
    pub(super) fn condition(&self) -> Condition {
        match self {
            Self::Open(open) => open.condition.clone(),
            Self::NotOpen(_) | Self::Opening(_) => Condition::default(),
        }
    }

    /// Waits for the writer to end.
    pub(super) async fn writer_ended(&mut self) -> (&'static str, Exit) {
        if let Self::Open(open) = self
            && let Some(ended) = open.writer.join_next().await
        {
            return (heartbeat::JOURNAL, exit_of(heartbeat::JOURNAL, ended));
        }
        std::future::pending().await
    }

    /// Closes it for the next generation with everything that was noted. A damaged journal is set aside
    /// and cannot be handed on.
    pub(super) async fn close(self, exit: Exit, machine: &Machine) -> EndedStack {
        let hangs = matches!(exit, Exit::Hung { task: heartbeat::JOURNAL });
        let limit = if hangs { DROP_DEADLINE } else { FLUSH_DEADLINE };
        match self {
            Self::NotOpen(None) => EndedStack { exit, kept: None },
            Self::NotOpen(Some(kept)) => {
                let kept = timeout(limit, kept.give_back()).await.ok().flatten();
                EndedStack { exit, kept }
            }
            Self::Opening(mut opening) => {
                // If opening takes longer, the journal is closed when the task ends.
                let opened = timeout(limit, opening.join_next()).await.ok().flatten();
                let kept = match opened.and_then(Result::ok).flatten() {
                    Some(Ok(opened)) => machine.run(move || opened.writer.into_idle_store()).await,
                    Some(Err(_)) | None => None,
                };
                EndedStack { exit, kept }
            }
            Self::Open(mut open) => {
                let kept = open.close(limit).await;
                match open.condition.damage() {
                    Some(damage) => {
                        let exit = open.set_aside(damage, kept, machine).await;
                        EndedStack { exit, kept: None }
                    }
                    None => EndedStack { exit, kept },
                }
            }
        }
    }
}

impl OpenJournal {
    async fn close(&mut self, limit: Duration) -> Option<IdleStore> {
        self.stop.cancel();
        let Ok(flushed) = timeout(limit, self.writer.join_next()).await else {
            warn!("the journal did not close in time; everything that it confirmed is on disk");
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

    async fn set_aside(self, damage: Damage, kept: Option<IdleStore>, machine: &Machine) -> Exit {
        let Self { dir, identity, contract, .. } = self;
        let cause = Arc::clone(&damage.cause);
        let setting_aside = machine.run(move || {
            drop(kept);
            journal::set_aside(&damage, &dir, identity, contract)
        });
        match setting_aside.await {
            Some(Ok(told)) => Exit::refused(told),
            // The next generation finds it either damaged or sound.
            Some(Err(error)) => Exit::failed(heartbeat::JOURNAL, error),
            None => Exit::failed(heartbeat::JOURNAL, cause),
        }
    }
}

impl Stack {
    /// Waits for the disk, and for an earlier generation of this process that is still closing the
    /// file.
    async fn open_file(
        &mut self,
        waits: &Waits,
        (dir, keeper): (&Path, &str),
        (identity, contract): (Identity, Address),
        mut kept: Option<IdleStore>,
    ) -> Result<OpenedJournal, BuildError> {
        let begun = Instant::now();
        let mut pause = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut last = None;
        loop {
            let (at, kept) = (dir.to_owned(), kept.take());
            let (name, machine) = (keeper.to_owned(), self.machine.clone());
            let opening = async move {
                let open = {
                    let machine = machine.clone();
                    move || open_as(&machine, &at, identity, contract, &name, kept)
                };
                machine.run(open).await
            };
            let mut attempt = JoinSet::new();
            attempt.spawn(opening.in_current_span());
            self.journal_state = JournalState::Opening(attempt);
            match waits.for_disk(dir, self.journal_state.await_opened()).await? {
                Ok(opened) => {
                    if last.is_some() {
                        waits.done_waiting();
                    }
                    return Ok(opened);
                }
                Err(OpenError::Locked { pid: Some(pid), .. })
                    if pid == std::process::id() && begun.elapsed() < OWN_LOCK_DEADLINE =>
                {
                    sleep(Duration::from_millis(100)).await;
                }
                Err(error) if error.is_transient() => {
                    let (why, code) = (error.to_string(), error.code());
                    if last != Some(code) {
                        warn!(why, code, "waiting for {JOURNAL_DISK}");
                    }
                    waits.waiting_for(JOURNAL_DISK, &why);
                    last = Some(code);
                    sleep(pause.next_delay(self.machine.dice.roll())).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Opens the journal, or continues with the previous generation's, and starts its writer; follows
    /// open transactions of this instance's earlier wallet.
    pub(super) async fn open_journal(
        &mut self,
        JournalPlace { dir, keeper, source, wallet, kind, sends }: JournalPlace,
        provider: &ArbitrumProvider,
    ) -> Result<InHand, BuildError> {
        let (nodes, waits) = (
            dependencies::node_name(provider),
            Waits::building(&self.supervision.reporter, &self.machine.dice),
        );
        let name = keeper.as_str();
        let (machine, chain_id) = (&self.machine, source.chain_id);
        let chains = waits.known_beginnings(machine, chain_id, &dir, wallet, name).await;
        let genesis = waits
            .retry_until_ready(&nodes, || dependencies::settle_genesis(provider, &chains))
            .await?;
        waits.done_waiting();
        let begun_before = dependencies::began_after(provider, &chains, genesis).await;
        let identity = Identity { chain_id, genesis, wallet };
        let mut kept = None;
        let before = std::mem::replace(&mut self.journal_state, JournalState::NotOpen(None));
        if let JournalState::NotOpen(Some(left)) = before
            && let Some(store) = waits.for_disk(&dir, left.give_back()).await
        {
            if store.identity() == identity {
                kept = Some(store);
            } else {
                // It belongs to another wallet: the new journal may inherit from it.
                store.close().await;
            }
        }
        let contract = source.contract;
        let opened = self.open_file(&waits, (&dir, name), (identity, contract), kept).await?;
        let OpenedJournal { journal, writer, predecessor, earlier } = opened;
        let condition = journal.condition();
        let heart = self.supervision.heartbeats.heartbeat(heartbeat::JOURNAL);
        let metrics = self.supervision.reporter.metrics.clone();
        let (stop, mut task) = (CancellationToken::new(), JoinSet::new());
        task.spawn(writer.run(heart, metrics, stop.clone()).in_current_span());
        let open = OpenJournal { writer: task, stop, dir, identity, contract, condition };
        self.journal_state = JournalState::Open(open);
        // A chain that is created anew, also before anything is read of it: the instance is built again then,
        // with the journal of the chain that there is.
        let asked = provider.clone();
        self.tasks.spawn_until(&self.support_stop, "chain", async move {
            Err(asked.chain_recreated().await)
        });
        for warning in journal.warnings() {
            match warning {
                OpenWarning::ChainReset { .. } => warn!("{warning}"),
                OpenWarning::OtherContracts { requests } => {
                    // The status goes on telling it.
                    warn!(target: ADVICE, "{warning}");
                    let others = Some(OtherContracts { requests: *requests });
                    self.supervision
                        .reporter
                        .gauges
                        .send_modify(|gauges| gauges.other_contracts = others);
                }
            }
        }
        info!(path = %journal.path().display(), "journal open");
        if let Some(Predecessor { wallet, cursor, requests }) = predecessor {
            info!(
                earlier_wallet = %wallet,
                cursor = cursor.number,
                requests,
                "the wallet was changed: taking over the earlier wallet's requests"
            );
        }
        for journal in earlier.into_iter().filter(|_| sends) {
            match journal {
                Ok(journal) => {
                    let following = earlier_wallet::follow(
                        journal,
                        kind,
                        provider.clone(),
                        self.machine.dice.clone(),
                        self.support_stop.clone(),
                    );
                    self.tasks.spawn("earlier wallet", async move {
                        following.await;
                        Ok::<(), Infallible>(())
                    });
                }
                Err(error) => warn!(
                    %error,
                    "the transactions of an earlier wallet are not followed any more"
                ),
            }
        }
        Ok(InHand { journal, begun_before })
    }
}

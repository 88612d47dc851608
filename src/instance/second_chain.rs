//! The second chain of an instance: Ethereum, where contracts from G13 on ask for key operations.
//!
//! It has a [stack](super::Stack) of the same parts as the gateway's, which the two do not share: nodes, journal,
//! lane, walk, cursor. They share the wallet and the KMS Core ([`KmsNode`]), which the gateway's stack opens.
//!
//! ```text
//! build: its nodes -> wallet, Core (of the gateway's stack) -> journal (lock) -> KMSGeneration -> rooms
//! ends:  nodes of another chain, a foreign lock, a bug: told by name, and built again after a pause
//! ```
//!
//! Nothing of it holds up decryptions: whatever it waits for, and however it ends, the gateway's stack runs.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::{
    BuildError, DROP_DEADLINE, EndedStack, Exit, FLUSH_DEADLINE, Stack, StackParts, Supervision,
    dependencies::{self, Expected, Waits, replace_if_changed},
    edges::Edges,
    inquiries,
    journal_state::JournalPlace,
    key_requests::{ContractsBeside, KeyCircumstances, KeyContract},
    prior_answers,
    report::ReportMode,
    rooms::{ChainRules, CommonParts, WalkInputs, flow_options, whose},
    stored_state::StoredState,
};
use crate::{
    admin::status::{ChainStatus, Phase, Reporter},
    chain::{
        lane::{ChainKind, LaneOptions, MempoolRules},
        provider::ArbitrumProvider,
        wallet::Wallet,
    },
    config::{self, Config, KeyChain},
    contracts::{
        decryption::{Addresses, DeploymentSupport, RequestContract},
        gateway_config::GatewayConfigAdapter,
    },
    domain::Address,
    flow::{self, AnswerStages, Confirmation, Flow, kms_core::KmsCore},
    journal::IdleStore,
    machine::Machine,
    telemetry::heartbeat::Heartbeats,
    time::backoff::Backoff,
};

/// Transactions of one account that every pool takes.
const MOST_IN_POOLS: usize = 16;
/// Pauses before it is built again.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// After so long without an end the pauses begin short again.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);
/// How often its state is told, while it changes.
const TOLD_EVERY: Duration = Duration::from_millis(500);

/// What both chains of an instance use: a KMS node has one wallet and one Core.
#[derive(Clone, Debug)]
pub(super) struct KmsNode {
    pub(super) wallet: Arc<Wallet>,
    pub(super) core: KmsCore,
    /// Who is registered, as the gateway knows it.
    pub(super) registry: GatewayConfigAdapter<ArbitrumProvider>,
    pub(super) circumstances: KeyCircumstances,
}

/// What Ethereum's stack is built from.
#[derive(Clone)]
pub(super) struct EthereumParts {
    chain: config::Ethereum,
    /// The contract that asks for key operations.
    contract: Address,
    provider: ArbitrumProvider,
    /// `None`: the gateway's stack has not opened them yet.
    node: watch::Receiver<Option<KmsNode>>,
}

/// A second chain that is not started yet.
pub(super) struct SecondChain {
    config: Arc<Config>,
    parts: EthereumParts,
    machine: Machine,
}

impl SecondChain {
    /// `None`: the configuration has none.
    pub(super) fn of(
        config: &Arc<Config>,
        edges: &Edges,
        node: watch::Receiver<Option<KmsNode>>,
    ) -> Option<Self> {
        // An observing instance answers nothing.
        let Some(KeyChain::Ethereum { chain, contract }) =
            config.key_chain().filter(|_| !config.observes())
        else {
            return None;
        };
        let provider = edges.hosts.key_chain.clone()?;
        let parts = EthereumParts { chain: chain.clone(), contract, provider, node };
        Some(Self { config: config.clone(), parts, machine: edges.machine.clone() })
    }

    /// Runs its stack, again and again, until it is asked to stop. Returns the journal, open and locked.
    async fn run(self, supervision: Supervision, mut kept: Option<IdleStore>) -> Option<IdleStore> {
        let Self { config, parts, machine } = self;
        let mut pause = Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE);
        loop {
            let begun = Instant::now();
            // Those of tasks that were dropped would be looked at for ever.
            let supervision =
                Supervision { heartbeats: Heartbeats::default(), ..supervision.clone() };
            let Supervision { stop, abort, reporter, .. } = supervision.clone();
            let mut stack = Stack::new(supervision, machine.clone(), kept.take());
            let exit = stack.run(&config, StackParts::Ethereum(Box::new(parts.clone()))).await;
            let EndedStack { exit, kept: left } = stack.close(exit).await;
            reporter.inbox.send_replace(None);
            kept = left;
            if stop.is_cancelled() || abort.is_cancelled() {
                return kept;
            }
            let why = exit.to_string();
            warn!(why, "the chain of key operations is built again; decryptions go on");
            let on = dependencies::node_name(&parts.provider);
            reporter.phase.send_replace(Phase::Waiting { on, why });
            if begun.elapsed() >= HEALTHY_AFTER {
                pause.reset();
            }
            let pausing = sleep(pause.next_delay(machine.dice.roll()));
            if stop.run_until_cancelled(pausing).await.is_none() {
                return kept;
            }
        }
    }
}

/// A second chain that runs beside the gateway's stack; or that there is none.
pub(super) struct RunningSecond {
    running: JoinSet<Option<IdleStore>>,
    /// What it left, if it has ended.
    kept: Option<IdleStore>,
    stop: CancellationToken,
    abort: CancellationToken,
    /// Ends with this.
    telling: JoinSet<()>,
}

impl RunningSecond {
    /// Starts it. Returns the supervision of the gateway's stack, whose answers to operators are joined with
    /// those of this one. `kept`: the journal that the previous generation left.
    pub(super) async fn start(
        second: Option<SecondChain>,
        supervision: Supervision,
        kept: Option<IdleStore>,
    ) -> (Self, Supervision) {
        let (stop, abort) = (supervision.stop.child_token(), supervision.abort.child_token());
        let mut this = Self {
            running: JoinSet::new(),
            kept: None,
            stop: stop.clone(),
            abort: abort.clone(),
            telling: JoinSet::new(),
        };
        let told = supervision.reporter.clone();
        let Some(second) = second else {
            told.gauges
                .send_if_modified(|gauges| replace_if_changed(&mut gauges.chains, Vec::new()));
            if let Some(kept) = kept {
                kept.close().await;
            }
            return (this, supervision);
        };
        let chain_id = second.parts.chain.chain_id;
        let reporter = Reporter::new(told.metrics.of_chain(chain_id));
        let status = ChainStatus {
            chain_id,
            hosts: second.parts.provider.hosts().to_owned(),
            contract: second.parts.contract.to_string(),
            state: Phase::Starting.into(),
            gauges: reporter.gauges.borrow().clone(),
        };
        let gateway = Reporter { inbox: watch::channel(None).0, ..told.clone() };
        let inboxes = (gateway.inbox.subscribe(), reporter.inbox.subscribe());
        let stored = inquiries::StoredRequests {
            state_dir: supervision.state_dir.clone(),
            keeper: second_keeper(&supervision.name),
        };
        let joining = inquiries::join(inboxes, stored, chain_id, told.inbox.clone());
        this.telling.spawn(joining.in_current_span());
        this.telling.spawn(tell(status, reporter.clone(), told).in_current_span());
        let of_chain = Supervision { reporter, stop, abort, ..supervision.clone() };
        let span = info_span!("chain", id = chain_id);
        this.running.spawn(second.run(of_chain, kept).instrument(span));
        (this, Supervision { reporter: gateway, ..supervision })
    }

    /// Waits for a bug in what runs it. Its stack's ends are its own.
    pub(super) async fn broken(&mut self) -> Exit {
        match self.running.join_next().await {
            Some(Err(error)) if error.is_panic() => Exit::Panicked { task: "second chain" },
            Some(Ok(kept)) => {
                self.kept = kept;
                std::future::pending().await
            }
            Some(Err(_)) | None => std::future::pending().await,
        }
    }

    /// Ends it after the gateway's stack. Both have the time until the instance is aborted to finish what is
    /// answered; if the gateway's stack has failed, this one is aborted, because decryptions wait for the next
    /// generation. `exit`: of the gateway's stack. Returns its journal.
    pub(super) async fn end(mut self, exit: &Exit) -> Option<IdleStore> {
        self.stop.cancel();
        if !exit.is_stopped() {
            self.abort.cancel();
        }
        if let Some(kept) = self.kept.take() {
            return Some(kept);
        }
        let ended = tokio::select! {
            biased;
            ended = self.running.join_next() => ended,
            () = self.abort.cancelled() => None,
        };
        let ended = if ended.is_some() {
            ended
        } else {
            let closing = FLUSH_DEADLINE + DROP_DEADLINE * 2;
            timeout(closing, self.running.join_next()).await.ok().flatten()
        };
        self.telling.abort_all();
        ended?.ok().flatten()
    }
}

/// Tells the instance's status of the chain's, for ever.
async fn tell(mut status: ChainStatus, of_chain: Reporter, told: Reporter) {
    let mut tick = interval(TOLD_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        status.state = of_chain.phase.borrow().clone().into();
        status.gauges = of_chain.gauges.borrow().clone();
        let now = vec![status.clone()];
        told.gauges.send_if_modified(|gauges| replace_if_changed(&mut gauges.chains, now));
        tick.tick().await;
    }
}

impl Stack {
    /// Builds Ethereum's stack from each dependency in turn.
    pub(super) async fn build_ethereum(
        &mut self,
        config: &Config,
        parts: EthereumParts,
    ) -> Result<(), BuildError> {
        let EthereumParts { chain, contract: at, provider, mut node } = parts;
        let dice = self.machine.dice.clone();
        let reporter = self.supervision.reporter.clone();
        reporter.metrics.new_generation();
        let nodes = dependencies::node_name(&provider);
        let waits = Waits::building(&reporter, &dice);
        let following =
            super::report::follow_endpoints(provider.clone(), reporter.clone(), self.machine.clock);
        self.tasks.spawn_endless(&self.support_stop, "endpoint health", following);
        if let Err(error) = provider.first_attempt().await {
            waits.waiting_for(&nodes, &error.to_string());
        }
        waits.retry_until_ready(&nodes, || dependencies::ask_chain(&provider)).await?;
        waits.done_waiting();
        let KmsNode { wallet, core, registry, circumstances } = opened(&waits, &mut node).await?;
        let address = wallet.address();
        reporter.gauges.send_modify(|gauges| gauges.wallet = Some(address.to_string()));

        let rules = ChainRules::of_ethereum(&chain, at);
        let kind = ChainKind::Mempool(MempoolRules::ethereum(chain.confirmations));
        let place = JournalPlace {
            dir: self.supervision.state_dir.clone(),
            keeper: second_keeper(&self.supervision.name),
            source: rules.source,
            wallet: address,
            kind,
            sends: true,
        };
        let opened = self.open_journal(place, &provider).await?;
        let journal = opened.journal.clone();
        let addresses = Addresses {
            chain_id: chain.chain_id,
            decryption: at,
            gateway_config: config.gateway_config_address,
        };
        let contract = RequestContract::new(provider.clone(), addresses).key_generation(at);
        let expected = Expected::key_generation(chain.chain_id, at);
        dependencies::find_contract(&waits, &nodes, &contract, expected).await?;
        dependencies::check_wallet(&provider, address, &journal, chain.starting_block).await;
        let stored = waits.for_disk(journal.path(), StoredState::read(&opened, kind)).await?;
        let StoredState { transactions, reading } = stored;
        let maybe_answered_up_to = prior_answers::maybe_answered_up_to(
            &provider,
            &journal,
            address,
            reading.cursor,
            &transactions,
            &dice,
        )
        .await?;
        // Upgrades are logged. There is nothing by which its requests are judged but their events.
        let support = watch::channel(DeploymentSupport::Upgraded { block: 0 }).0;
        let common = CommonParts { chain: rules, provider, journal, contract, support, reading };
        let lane_options = LaneOptions {
            chain_id: chain.chain_id,
            max_in_flight: config.max_transactions_in_flight.min(MOST_IN_POOLS),
            max_fee_per_gas: chain.max_fee_per_gas,
            kind,
        };
        let lane = self.open_lane(&common, wallet, lane_options, transactions);
        let keys = KeyContract::of(common.contract.clone());
        let metrics = reporter.metrics.clone();
        let beside = ContractsBeside::of(config, &common.contract);
        let of_core = (&metrics, circumstances);
        let stages = keys.stages(config, beside.lifecycle.as_ref(), &core, (lane, None), of_core);
        let (height_sender, final_height) = watch::channel(rules.finality.final_height(0, None));
        let flow = Flow {
            whose: whose(&self.supervision.name, config),
            decryptions: None,
            confirmation: Confirmation::new(common.contract.clone(), keys.suspects()),
            mode: flow::Mode::Answer(Box::new(AnswerStages {
                core,
                submission: None,
                gateway_config: registry,
                maybe_answered_up_to,
                keys: Some(Box::new(stages)),
            })),
            final_height,
            ledger: common.journal.clone(),
            metrics,
            options: flow_options(config),
            dice,
            log_throttle: std::sync::Mutex::default(),
        };
        let (walk, walk_again) = self.open_walk(config, flow);
        let suspects = keys.suspects();
        let final_height = height_sender;
        let beside = beside.into_list();
        let inputs = WalkInputs { walk, walk_again, final_height, suspects, beside };
        self.open_support(config, common, ReportMode::Keys { wallet: address }, inputs);
        let contexts = chain.protocol_config_address.map(|at| at.to_string());
        info!(contract = %at, contexts, "key operations are read on Ethereum");
        Ok(())
    }
}

/// The name under which the journal of an instance's second chain is kept.
#[must_use]
pub fn second_keeper(instance: &str) -> String {
    format!("{instance} (Ethereum)")
}

/// Waits for what the gateway's stack opens.
async fn opened(
    waits: &Waits,
    node: &mut watch::Receiver<Option<KmsNode>>,
) -> Result<KmsNode, BuildError> {
    if let Some(node) = &*node.borrow() {
        return Ok(node.clone());
    }
    let why = "the wallet is opened once the gateway answers: see the state of the instance";
    waits.waiting_for("the gateway's part of this instance", why);
    let opened = node.wait_for(Option::is_some).await;
    let opened = opened.ok().and_then(|node| node.clone()).ok_or(BuildError::Ending)?;
    waits.done_waiting();
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::status::ChainState,
        config::{Environment, LoadMode, Source, load},
        instance::run_with_real_edges,
        telemetry::metrics::Metrics,
    };

    const NOBODY: &str = "http://127.0.0.1:1";

    fn config(more: &[(&str, &str)]) -> Arc<Config> {
        let key = "11".repeat(32);
        let given =
            [("KMS_CONNECTOR_PRIVATE_KEY", key.as_str()), ("KMS_CONNECTOR_GATEWAY_URL", NOBODY)];
        let environment: Environment = given.iter().chain(more).copied().collect();
        let source =
            Source { file: None, environment, credentials_directory: None, mode: LoadMode::Start };
        load(&source).unwrap().config.into()
    }

    const ETHEREUM: [(&str, &str); 3] = [
        ("KMS_CONNECTOR_ETHEREUM_URL", NOBODY),
        ("KMS_CONNECTOR_ETHEREUM_CHAIN_ID", "9"),
        ("KMS_CONNECTOR_KMS_GENERATION_ADDRESS", "0xd1220a0cf47c7b9be7a2e6ba89f429762e7b9adb"),
    ];

    /// Runs an instance whose nodes are all away until its second chain is told so, and stops it.
    async fn told(config: Arc<Config>) -> Vec<ChainStatus> {
        crate::net::tls::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let abort = CancellationToken::new();
        let supervision = Supervision {
            name: "a".to_owned(),
            state_dir: dir.path().to_owned(),
            reporter: Reporter::new(Metrics::default()),
            heartbeats: Heartbeats::default(),
            stop: abort.child_token(),
            abort,
        };
        let (stop, reporter) = (supervision.stop.clone(), supervision.reporter.clone());
        let running = Box::pin(run_with_real_edges(config, supervision, None));
        let watching = async {
            let waits = |phase: &Phase| matches!(phase, Phase::Waiting { .. });
            reporter.phase.subscribe().wait_for(waits).await.unwrap();
            sleep(Duration::from_secs(20)).await;
            let chains = reporter.gauges.borrow().chains.clone();
            stop.cancel();
            chains
        };
        let (ended, chains) = tokio::join!(running, watching);
        assert!(ended.exit.is_stopped(), "{}", ended.exit);
        chains
    }

    #[tokio::test(start_paused = true)]
    async fn a_chain_whose_nodes_are_away_is_told_beside_the_gateway_and_stopped_with_it() {
        let chains = told(config(&ETHEREUM)).await;
        let [ChainStatus { chain_id: 9, state: ChainState::Waiting { on, .. }, .. }] = &chains[..]
        else {
            panic!("{chains:?}")
        };
        assert_eq!(on, "the Ethereum node at 127.0.0.1:1");
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_no_second_chain_unless_key_operations_are_asked_for_there() {
        assert_eq!(told(config(&[])).await, []);
        // The contract alone is the gateway's; without a wallet nothing is answered.
        assert_eq!(told(config(&ETHEREUM[2..])).await, []);
        let observes = [&ETHEREUM[..], &[("KMS_CONNECTOR_MODE", "observe")]].concat();
        assert_eq!(told(config(&observes)).await, []);
    }
}

//! Builds the gateway's stack of an instance: each dependency in turn is asked, waited for or refused, then
//! the rooms are opened.

use std::{convert::Infallible, sync::Arc};

use tokio::sync::watch;
use tracing::info;

use super::{
    Stack,
    dependencies::{self, Expected, Waits},
    deployment::{OldestGeneration, follow_support},
    edges::{ConnectTask, Edges, HostEdges},
    errors::BuildError,
    host_chains::{self, Hosts},
    journal_state::JournalPlace,
    key_requests::KeyCircumstances,
    prior_answers, report,
    rooms::{ChainRules, CommonParts, RoomParts, open_access, open_ciphertexts},
    second_chain::KmsNode,
    stored_state::StoredState,
};
use crate::{
    chain::{lane::ChainKind, provider::ArbitrumProvider},
    config::Config,
    contracts::decryption::{DeploymentSupport, RequestContract},
    flow::kms_core::{self, KmsCore},
    journal::Journal,
    telemetry::heartbeat,
};

/// What the gateway's stack is built from.
pub(super) struct GatewayParts {
    pub(super) edges: Edges,
    /// Receives what both chains of an instance use.
    pub(super) node: watch::Sender<Option<KmsNode>>,
}

impl Stack {
    /// Builds from each dependency in turn: an outage is waited for and reported, a contradiction
    /// refuses.
    pub(super) async fn build_gateway(
        &mut self,
        config: &Config,
        GatewayParts { edges, node }: GatewayParts,
    ) -> Result<(), BuildError> {
        let Edges { gateway: provider, connecting, hosts, core, buckets, fallback, machine: _ } =
            edges;
        let metrics = self.supervision.reporter.metrics.clone();
        metrics.new_generation();
        self.connect(&provider, connecting);
        let hosts = self.follow_hosts(config, hosts);
        let gateway = dependencies::node_name(&provider);
        let dice = &self.machine.dice.clone();
        let waits = Waits::building(&self.supervision.reporter, dice);
        if let Err(error) = provider.first_attempt().await {
            waits.waiting_for(&gateway, &error.to_string());
        }
        waits.retry_until_ready(&gateway, || dependencies::ask_chain(&provider)).await?;
        waits.done_waiting();
        let Some(configured) = &config.wallet else {
            return self.build_observer(config, provider, (buckets, fallback), hosts).await;
        };
        let opening =
            waits.retry_until_ready("AWS KMS", || dependencies::ask_wallet(configured, config));
        let wallet = Arc::new(opening.await?);
        wallet.set_metrics(&metrics);
        info!(wallet = %wallet.address(), "wallet ready");
        self.supervision.reporter.gauges.send_modify(|gauges| {
            gauges.wallet = Some(wallet.address().to_string());
        });
        let chain = ChainRules::of_gateway(config);
        let place = JournalPlace {
            dir: self.supervision.state_dir.clone(),
            keeper: self.supervision.name.clone(),
            source: chain.source,
            wallet: wallet.address(),
            kind: ChainKind::Sequencer,
            sends: true,
        };
        let opened = self.open_journal(place, &provider).await?;
        let journal = opened.journal.clone();
        host_chains::report_last_deployment(&journal, &self.supervision.reporter).await;

        let decryption = RequestContract::new(provider.clone(), dependencies::addresses(config));
        let contract = Expected::decryption(config);
        let domain = dependencies::find_contract(&waits, &gateway, &decryption, contract).await?;
        let support = self.follow_support(config, &waits, &decryption, &journal).await?;
        let address = wallet.address();
        let registry = dependencies::find_registry_and_registration(
            &waits, &gateway, &provider, address, config,
        )
        .await;
        dependencies::check_wallet(&provider, address, &journal, config.starting_block).await;
        let core = KmsCore::new(core, domain, kms_core::Options::default(), metrics.clone())
            .rolling(dice.clone());
        node.send_replace(Some(KmsNode {
            wallet: wallet.clone(),
            core: core.clone(),
            registry: registry.clone(),
            circumstances: KeyCircumstances {
                contexts: hosts.protocol_config.clone(),
                gateway: support.subscribe(),
            },
        }));
        let stored = waits
            .for_disk(journal.path(), StoredState::read(&opened, ChainKind::Sequencer))
            .await?;
        let (address, cursor) = (wallet.address(), stored.reading.cursor);
        let sent = &stored.transactions;
        let maybe_answered_up_to =
            prior_answers::maybe_answered_up_to(&provider, &journal, address, cursor, sent, dice)
                .await?;
        let access = open_access(
            config,
            hosts,
            (decryption.clone(), registry.clone()),
            (self.machine.clock, metrics.clone()),
        );
        let (ciphertexts, shadow) =
            open_ciphertexts(config, buckets, fallback, registry.clone(), metrics);
        self.tasks.spawn_endless(&self.supervision.stop, "attestation shadow", shadow.run());
        let reading = stored.reading;
        let common =
            CommonParts { chain, provider, journal, contract: decryption, support, reading };
        let transactions = stored.transactions;
        let parts = RoomParts {
            common,
            access,
            ciphertexts,
            registry,
            core,
            wallet,
            transactions,
            maybe_answered_up_to,
        };
        self.open_rooms(config, parts);
        info!("instance running");
        Ok(())
    }

    /// Connects the nodes and reports their state.
    pub(super) fn connect(&mut self, provider: &ArbitrumProvider, connecting: ConnectTask) {
        let connecting = connecting(self.supervision.heartbeats.clone(), self.support_stop.clone());
        self.tasks.spawn(heartbeat::GATEWAY_CONNECTION, async move {
            connecting.await;
            Ok::<(), Infallible>(())
        });
        let reporter = self.supervision.reporter.clone();
        let following = report::follow_endpoints(provider.clone(), reporter, self.machine.clock);
        self.tasks.spawn_endless(&self.support_stop, "endpoint health", following);
    }

    /// Connects the host chains' nodes and looks at the chains. Nothing waits for them.
    fn follow_hosts(&mut self, config: &Config, edges: HostEdges) -> Hosts<ArbitrumProvider> {
        let hosts = Hosts::new(config, &edges, self.machine.clock);
        for connecting in edges.connecting {
            let hearts = self.supervision.heartbeats.clone();
            let connecting = connecting(hearts, self.support_stop.clone());
            self.tasks.spawn(heartbeat::HOST_CONNECTION, async move {
                connecting.await;
                Ok::<(), Infallible>(())
            });
        }
        let contracts = hosts.contracts();
        if !contracts.is_empty() {
            let reporter = self.supervision.reporter.clone();
            let following = host_chains::follow(contracts, reporter, self.machine.clock);
            self.tasks.spawn_endless(&self.support_stop, "host chain health", following);
        }
        hosts
    }

    /// Detects the deployed contract and keeps following it.
    pub(super) async fn follow_support(
        &mut self,
        config: &Config,
        waits: &Waits,
        decryption: &RequestContract<ArbitrumProvider>,
        journal: &Journal,
    ) -> Result<watch::Sender<DeploymentSupport>, BuildError> {
        let gateway = dependencies::node_name(decryption.provider());
        let oldest = OldestGeneration::open(config.minimum_generation, journal.clone()).await?;
        let told = dependencies::find_support(waits, &gateway, decryption, None).await;
        let found = oldest.judge(told);
        dependencies::log_support(&found);
        let (support, _) = watch::channel(found);
        let (adapter, dice) = (decryption.clone(), self.machine.dice.clone());
        let following = follow_support(gateway, adapter, oldest, support.clone(), dice);
        self.tasks.spawn_endless(&self.support_stop, "contract support", following);
        let reporter = self.supervision.reporter.clone();
        let (deployed, journal) = (support.subscribe(), journal.clone());
        let following = host_chains::follow_deployment(config.clone(), deployed, journal, reporter);
        self.tasks.spawn_endless(&self.support_stop, "configuration of host chains", following);
        Ok(support)
    }
}

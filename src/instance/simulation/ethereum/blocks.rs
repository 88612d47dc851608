//! Its blocks, and how a life of the connector reaches its nodes.

use std::fmt::Write as _;

use tokio::time::{Instant, sleep};

use super::{Ethereum, Side};
use crate::{
    chain::provider::ArbitrumProvider,
    contracts::abi::Generation,
    dice::Dice,
    domain::{Address, Bytes},
    instance::{
        HostEdges,
        simulation::{
            chain::Chain,
            contexts::{context, epoch},
            deployment::HOST_ID,
            disturbances::described,
            rpc,
            world::{Life, World, WorldState},
        },
    },
    telemetry::metrics::Metrics,
};

impl WorldState {
    /// Does something with the chain of this side in the place of the gateway's: what is true of the one is true of
    /// the other.
    pub fn at<T>(&mut self, side: Side, act: impl FnOnce(&mut Self) -> T) -> T {
        let Some(mut ethereum) = self.ethereum.take_if(|_| side == Side::Ethereum) else {
            return act(self);
        };
        let swap = |state: &mut Self, ethereum: &mut Ethereum| {
            std::mem::swap(&mut state.chain, &mut ethereum.chain);
            std::mem::swap(&mut state.endpoints, &mut ethereum.endpoints);
        };
        swap(self, &mut ethereum);
        let done = act(self);
        swap(self, &mut ethereum);
        self.ethereum = Some(ethereum);
        done
    }

    /// The chains of the story.
    pub fn sides(&self) -> Vec<Side> {
        let second = self.ethereum.is_some().then_some(Side::Ethereum);
        std::iter::once(Side::Gateway).chain(second).collect()
    }

    /// The side on which key operations are asked for.
    pub fn key_side(&self) -> Side {
        if self.ethereum.is_some() { Side::Ethereum } else { Side::Gateway }
    }

    /// The chain on which key operations are asked for.
    pub fn key_chain(&self) -> &Chain {
        self.ethereum.as_ref().map_or(&self.chain, |ethereum| &ethereum.chain)
    }

    /// `extraData` of what is asked for now.
    fn key_extra_data(&self) -> Bytes {
        let number = self.chain.contexts().newest();
        let words = [context(number), epoch(number)].map(|id| id.to_be_bytes::<32>());
        if self.plan.path.last() > Some(&Generation::G13) {
            [&[2][..], &words[0], &words[1]].concat().into()
        } else {
            [&[1][..], &words[0]].concat().into()
        }
    }

    fn ethereum_block(&mut self, elapsed: f64) -> String {
        let mut story = self.nodes_misbehave();
        story.push_str(&self.key_actions(elapsed));
        if self.fault(self.plan.faults.reorganisation) {
            story.push_str(&self.reorganise());
        }
        self.next_block();
        let _ = write!(story, "Ethereum: {}", described(&self.chain));
        story
    }
}

/// Mines block after block, without end; if there is an Ethereum.
pub(in crate::instance::simulation) async fn mine_blocks(world: World) {
    let begun = Instant::now();
    let plan = world.state().plan;
    if world.state().ethereum.is_none() {
        return;
    }
    loop {
        sleep(plan.keys.block_time).await;
        let story = {
            let mut state = world.state();
            let extra_data = state.key_extra_data();
            let elapsed = begun.elapsed().as_secs_f64() / plan.storm.as_secs_f64();
            state.at(Side::Ethereum, |state| {
                state.chain.key_extra_data = extra_data;
                state.ethereum_block(elapsed)
            })
        };
        world.say(format_args!("{story}"));
    }
}

/// The nodes as this life reaches them, beside those of the host chains.
pub(in crate::instance::simulation) fn connect(
    edges: &mut HostEdges,
    (life, wallet): (&Life, Address),
    metrics: &Metrics,
    dice: &Dice,
) {
    if life.world.state().ethereum.is_none() {
        return;
    }
    let urls = 0..life.world.state().plan.urls;
    let endpoints = urls.map(|url| rpc::endpoint(life, wallet, (Side::Ethereum, url))).collect();
    let (provider, connections) = ArbitrumProvider::new(HOST_ID, endpoints, metrics.clone(), dice);
    edges.key_chain = Some(provider);
    edges.connecting.push(Box::new(|hearts, stop| Box::pin(connections.run(hearts, stop))));
}

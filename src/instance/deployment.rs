//! Which deployment stands at the address of the Decryption contract, as long as the instance runs.
//!
//! A contract is upgraded and does not go back, and from G12 on nobody but the connector checks access. So a
//! generation that has stood there in a final block is remembered in the journal, and an older one is not
//! believed from then on: that the only node tells of one, or all nodes do, switches no check off.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};
use tracing::{debug, info, warn};

use super::{
    dependencies::{Waits, find_support, log_support},
    housekeeping::{HOUSEKEEPING_INTERVAL, final_block},
};
use crate::{
    chain::reader::{BlockId, ChainReader},
    contracts::decryption::{DeploymentSupport, RequestContract},
    dice::Dice,
    domain::{BlockRef, Generation},
    journal::{Journal, JournalError, Query},
};

/// Delay before the contract is read once more after an upgrade, because the node may have lagged. The
/// same delay applies while the deployment holds every request, because that is one node's answer.
const UPGRADE_RECHECK: Duration = Duration::from_secs(10);
/// Delay before it is read once more while a newer generation is not remembered yet.
const LEARNING_RECHECK: Duration = Duration::from_mins(1);
/// So far below the newest block every node that is not behind has the block.
const BELOW_HEAD: u64 = 8;

/// The oldest generation that is believed.
#[derive(Debug)]
pub(super) struct OldestGeneration {
    /// An operator's word. It counts alone, so that one can say that the contract did go back.
    configured: Option<Generation>,
    /// What has stood there in a final block.
    remembered: Option<Generation>,
    /// What the nodes agreed on in a block that was not final yet.
    seen: Option<(Generation, BlockRef)>,
    /// How often in a row no node told of a final block.
    untold: u32,
    journal: Journal,
}

impl OldestGeneration {
    pub(super) async fn open(
        configured: Option<Generation>,
        journal: Journal,
    ) -> Result<Self, JournalError> {
        let remembered = journal.ask(Query::Generation).await?;
        if let (Some(minimum), Some(remembered)) = (configured, remembered)
            && minimum < remembered
        {
            warn!(
                minimum_generation = minimum.name(),
                %remembered,
                "older contracts are believed than have stood there: take minimum_generation out, unless they were \
                 taken back"
            );
        }
        Ok(Self { configured, remembered, seen: None, untold: 0, journal })
    }

    /// What the nodes tell, as far as it is believed.
    pub(super) fn judge(&self, told: DeploymentSupport) -> DeploymentSupport {
        told.not_before(self.configured.or(self.remembered))
    }

    /// Whether what the nodes tell is worth remembering and is not remembered.
    fn is_learning(&self, told: &DeploymentSupport) -> bool {
        self.seen.is_some() || news(told, self.remembered).is_some()
    }

    /// Remembers what the nodes agree on, once the block in which they do is final.
    async fn learn<P: ChainReader>(
        &mut self,
        decryption: &RequestContract<P>,
        told: &DeploymentSupport,
    ) {
        if let Some((generation, block)) = self.seen {
            match has_become_final(decryption.provider(), block, &mut self.untold).await {
                Some(true) => {
                    // A failing journal ends the instance elsewhere.
                    if let Err(error) = self.journal.note_generation(generation, block.number).await
                    {
                        debug!(%error, "could not note the generation");
                        return;
                    }
                    info!(
                        %generation,
                        block = block.number,
                        "older contracts are not believed to stand there any more"
                    );
                    self.remembered = Some(generation);
                    self.seen = None;
                }
                Some(false) => self.seen = None,
                None => {}
            }
        }
        let known = self.seen.map(|(generation, _)| generation).max(self.remembered);
        if news(told, known).is_some()
            && let Some((found, block)) = agreed_below_head(decryption).await
            && let Some(generation) = news(&found, known)
        {
            self.seen = Some((generation, block));
        }
    }
}

/// The generation of what is told, if it is later than what is known. Older ones than G12 need not be known.
fn news(told: &DeploymentSupport, known: Option<Generation>) -> Option<Generation> {
    let generation = told.answered()?.generation;
    (generation > known.unwrap_or(Generation::UpToG10)).then_some(generation)
}

/// What the nodes agree on in a block that all of them have. `None`: they do not agree, or do not answer.
async fn agreed_below_head<P: ChainReader>(
    decryption: &RequestContract<P>,
) -> Option<(DeploymentSupport, BlockRef)> {
    let provider = decryption.provider();
    let head = provider.header(BlockId::Latest).await.ok()??.block.number;
    let number = head.checked_sub(BELOW_HEAD)?;
    let block = provider.header(BlockId::Number(number)).await.ok()??.block;
    let told = decryption.told_support(Some(number)).await.ok()?;
    told.is_agreed.then_some((told.support, block))
}

/// Whether the block is final and still there. `None`: it is not final yet, or that is not known.
async fn has_become_final<P: ChainReader>(
    provider: &P,
    block: BlockRef,
    untold: &mut u32,
) -> Option<bool> {
    let last = final_block(provider, untold).await?;
    if last < block.number {
        return None;
    }
    let now = provider.header(BlockId::Number(block.number)).await.ok()??;
    Some(now.block == block)
}

/// The block of an upgrade after which the contract was not looked at.
fn upgrade_block(support: &DeploymentSupport) -> Option<u64> {
    match support {
        DeploymentSupport::Upgraded { block } => Some(*block),
        DeploymentSupport::Served(_)
        | DeploymentSupport::Newer { .. }
        | DeploymentSupport::WentBack { .. } => None,
    }
}

/// Reads the contract again after an upgrade, once more soon afterwards (the node may have lagged), when
/// somebody doubts what is known of it, and periodically. A task of its own, because requests wait for it.
pub(super) async fn follow_support<P: ChainReader>(
    gateway: String,
    decryption: RequestContract<P>,
    mut oldest: OldestGeneration,
    support: watch::Sender<DeploymentSupport>,
    dice: Dice,
) {
    let waits = Waits::beside(dice);
    let mut changes = support.subscribe();
    let mut settles = false;
    let told = support.borrow().clone();
    oldest.learn(&decryption, &told).await;
    let mut learns = oldest.is_learning(&told);
    loop {
        let holds = support.borrow().answered().is_none();
        let patience = match (settles || holds, learns) {
            (true, _) => UPGRADE_RECHECK,
            (false, true) => LEARNING_RECHECK,
            (false, false) => HOUSEKEEPING_INTERVAL,
        };
        let upgrade =
            changes.wait_for(|support| matches!(support, DeploymentSupport::Upgraded { .. }));
        let doubt = async {
            sleep(UPGRADE_RECHECK).await;
            decryption.deployment_doubted().await;
        };
        let upgraded = tokio::select! {
            biased;
            _ = upgrade => true,
            () = doubt => false,
            () = sleep(patience) => false,
        };
        settles = upgraded;
        let seen = support.borrow().clone();
        let told = find_support(&waits, &gateway, &decryption, upgrade_block(&seen)).await;
        let found = oldest.judge(told.clone());
        // Unless there was another upgrade meanwhile.
        support.send_if_modified(|support| {
            let current = *support == seen && found != seen;
            if current {
                if !upgraded {
                    warn!("the Decryption contract has changed");
                }
                log_support(&found);
                *support = found;
            }
            current
        });
        oldest.learn(&decryption, &told).await;
        learns = oldest.is_learning(&told);
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        chain::fake_chain::{ADDRESSES, FakeChain, NodeFaults},
        domain::{Address, B256, Bytes},
        journal::Identity,
        telemetry::{heartbeat::Heartbeat, metrics::Metrics},
    };

    /// A journal and a chain of 20 blocks.
    struct World {
        chain: FakeChain,
        decryption: RequestContract<FakeChain>,
        journal: Journal,
        stop: CancellationToken,
        writing: JoinSet<()>,
        _dir: TempDir,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let identity = Identity { chain_id: 1, genesis: B256::ZERO, wallet: Address::ZERO };
            let (journal, writer) = Journal::open(dir.path(), identity, Address::ZERO).unwrap();
            let (stop, mut writing) = (CancellationToken::new(), JoinSet::new());
            let run = writer.run(Heartbeat::default(), Metrics::default(), stop.clone());
            writing.spawn(async move { drop(run.await) });
            let chain = FakeChain::new(20);
            let decryption = RequestContract::new(chain.clone(), ADDRESSES);
            Self { chain, decryption, journal, stop, writing, _dir: dir }
        }

        async fn open(&self, configured: Option<Generation>) -> OldestGeneration {
            OldestGeneration::open(configured, self.journal.clone()).await.unwrap()
        }

        /// One look, while the contract is of this version and this block is final.
        async fn look(&self, oldest: &mut OldestGeneration, version: &'static str, last: u64) {
            self.chain.state().answer_history.version = Some(version);
            self.chain.state().tagged = Some(last);
            let told = self.decryption.told_support(None).await.unwrap().support;
            oldest.learn(&self.decryption, &told).await;
        }

        async fn end(mut self) {
            self.stop.cancel();
            self.writing.shutdown().await;
        }
    }

    const G10: &str = "Decryption v0.3.0";
    const G13: &str = "Decryption v0.5.0";
    const HEAD: &str = "Decryption v0.7.0";

    fn believes_g10(oldest: &OldestGeneration) -> bool {
        oldest.judge(DeploymentSupport::up_to_g10()).answered().is_some()
    }

    #[tokio::test]
    async fn what_has_stood_there_in_a_final_block_is_the_oldest_that_is_believed() {
        let world = World::new();
        let mut oldest = world.open(None).await;
        world.look(&mut oldest, G10, 20).await;
        world.look(&mut oldest, G10, 20).await;
        assert!(believes_g10(&oldest), "it is what stands there");
        world.look(&mut oldest, G13, 11).await;
        world.look(&mut oldest, G13, 11).await;
        assert!(believes_g10(&oldest), "block 12 is not final yet");
        world.look(&mut oldest, G13, 12).await;
        assert!(!believes_g10(&oldest));

        let mut next_life = world.open(None).await;
        assert!(!believes_g10(&next_life));
        world.look(&mut next_life, G10, 20).await;
        world.look(&mut next_life, G10, 20).await;
        assert!(!believes_g10(&next_life), "what is told later does not count");
        world.look(&mut next_life, HEAD, 20).await;
        world.look(&mut next_life, HEAD, 20).await;
        assert_eq!(next_life.remembered, Some(Generation::Head));
        assert!(believes_g10(&world.open(Some(Generation::UpToG10)).await), "an operator's word");
        world.end().await;
    }

    #[tokio::test]
    async fn an_operator_may_know_better_than_a_new_journal() {
        let world = World::new();
        assert!(!believes_g10(&world.open(Some(Generation::G12)).await));
        world.end().await;
    }

    /// One of two nodes must not be able to make every later word of the other one count for nothing.
    #[tokio::test]
    async fn what_one_of_two_nodes_tells_is_not_remembered() {
        let world = World::new();
        let mut oldest = world.open(None).await;
        let told = |text: &str| -> (Bytes, Bytes) {
            use alloy::sol_types::SolValue as _;
            let call = crate::contracts::abi::contract_version().calldata();
            (call, text.to_owned().abi_encode().into())
        };
        let lies = NodeFaults { views: vec![told(G13)], ..NodeFaults::default() };
        world.chain.state().faults = vec![lies, NodeFaults::default()];
        for _ in 0..3 {
            world.look(&mut oldest, G10, 20).await;
        }
        assert_eq!((oldest.seen, oldest.remembered), (None, None));
        world.end().await;
    }

    #[tokio::test]
    async fn an_upgrade_that_has_left_the_chain_is_not_remembered() {
        let world = World::new();
        let mut oldest = world.open(None).await;
        world.look(&mut oldest, G13, 11).await;
        assert!(oldest.seen.is_some());
        world.chain.reorganise(10, vec![Vec::new(); 10]);
        world.look(&mut oldest, G10, 20).await;
        assert_eq!((oldest.seen, oldest.remembered), (None, None));
        world.end().await;
    }
}

//! Before a request ends because its event makes no sense, the event is looked for again: a log that
//! one node damaged, or made up, ends nothing.
//!
//! ```text
//! two nodes show it ----------------------------------------------------> it ends
//! one shows it, and there is no other one -> held -> at the retry it ends
//! one shows it, and another one denies, is behind, or does not answer --> held
//! nobody has it in its block -------------------------------------------> not in the chain: gone
//! ```
//!
//! Unless it ends, its block is read again at every node: what should be in its place may not be known.
//! So it is for a request that is held for what its event says, and may end some day.

use tracing::debug;

use super::{
    Flow, RequestLedger, arrivals::suspects::SuspectBlocks, ciphertexts::BucketRegistry,
    walk::policy::setback::Setback,
};
use crate::{
    chain::provider::{ChainReader, RpcError, TransactionSender},
    contracts::decryption::{DecryptionAdapter, RequestLocation, WitnessVerdict},
    domain::{BlockRef, Event, Hold, HoldReason, Outcome, Refusal, Remedy, Request},
};

/// Who can be asked for an event, and where the chain has it now.
#[derive(Clone, Debug)]
pub struct Confirmation<P> {
    adapter: DecryptionAdapter<P>,
    suspects: SuspectBlocks,
}

/// What becomes of a request whose event makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// It is as it was read.
    Yes,
    /// No node shows it.
    Gone,
    /// Neither is certain.
    NotYet(Hold),
}

/// What follows. `alone`: there is one node only; `before`: it was held for this.
fn conclude(witnessed: &WitnessVerdict, alone: bool, before: bool) -> Confirmed {
    let why = match witnessed {
        WitnessVerdict::TwoNodes => return Confirmed::Yes,
        WitnessVerdict::OnlyNode if before => return Confirmed::Yes,
        WitnessVerdict::NeverExisted => return Confirmed::Gone,
        WitnessVerdict::Disputed { shown_by, .. } if alone && shown_by.is_empty() => {
            return Confirmed::Gone;
        }
        WitnessVerdict::OnlyNode => "only one gateway node can be asked".to_owned(),
        WitnessVerdict::OneNode => "no other gateway node has its block, or answers".to_owned(),
        WitnessVerdict::NoNode => "no gateway node shows its block now".to_owned(),
        WitnessVerdict::Disputed { denied_by, .. } => format!("{denied_by} does not show it"),
    };
    let why = format!("its event makes no sense, and {why}: it is read again");
    Confirmed::NotYet(Hold::new(HoldReason::Unconfirmed, why))
}

impl<P: ChainReader> Confirmation<P> {
    pub fn new(adapter: DecryptionAdapter<P>, suspects: SuspectBlocks) -> Self {
        Self { adapter, suspects }
    }

    /// Whether a request that cannot be answered is what the chain holds. `held`: why it was held when
    /// its walk began.
    pub(super) async fn verify(&self, request: &Request, held: Option<HoldReason>) -> Confirmed {
        let alone = self.adapter.provider().node_count() < 2;
        let witnessed = self.adapter.collect_witnesses_afresh(request).await;
        let confirmed = conclude(&witnessed, alone, held == Some(HoldReason::Unconfirmed));
        if confirmed != Confirmed::Yes {
            debug!(?witnessed, "an event that makes no sense is not confirmed");
            self.reread_block(request);
        }
        confirmed
    }

    /// Whether several nodes show the request in this block.
    pub(super) async fn ask_witnesses(
        &self,
        request: &Request,
        block: BlockRef,
        again: bool,
    ) -> WitnessVerdict {
        self.adapter.collect_witnesses(request, block, again).await
    }

    /// Where a request is now, and whether one of its `namesakes` has its id.
    pub(super) async fn whereabouts(
        &self,
        request: &Request,
        namesakes: &[Event],
    ) -> Result<RequestLocation, RpcError> {
        self.adapter.locate(request, namesakes).await
    }

    /// It is not on chain, or not any more.
    pub(super) fn report_orphan(&self, request: &Request) {
        self.suspects.report_orphan(request.key, request.block);
    }

    /// The event may not be what the chain holds: its block is read at every node.
    pub(super) fn reread_block(&self, request: &Request) {
        let number = request.block.number;
        self.suspects.reread_everywhere(number, number);
    }
}

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// A setback that ends the request or sets it aside, or what takes its place once the chain was
    /// looked at. An outcome: it is not there. `before`: why it was held when its walk began.
    pub(super) async fn confirm(
        &self,
        request: &Request,
        setback: Setback,
        before: Option<HoldReason>,
    ) -> Result<Setback, Outcome> {
        let setback = match &setback.remedy {
            Remedy::Retry | Remedy::Refuse(Refusal::NotRequested) => return Ok(setback),
            Remedy::Refuse(Refusal::Malformed(_)) => {
                match self.confirmation.verify(request, before).await {
                    Confirmed::Yes => return Ok(setback),
                    Confirmed::Gone => return Err(Outcome::Orphaned),
                    Confirmed::NotYet(hold) => Setback::held(hold),
                }
            }
            Remedy::Hold(hold) => {
                if hold.reason == HoldReason::UnsupportedType {
                    self.confirmation.reread_block(request);
                }
                setback
            }
        };
        // Nobody waits for an answer that the chain does not ask for any more. Not known counts as no.
        match self.whereabouts(request).await {
            Ok(RequestLocation::Gone) => Err(Outcome::Orphaned),
            Ok(RequestLocation::In(_) | RequestLocation::Unknown) | Err(_) => Ok(setback),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::fake_chain::{ADDRESSES, FakeChain, NodeFaults, SOURCE, request_event},
        contracts::abi,
    };

    /// A request as one node damaged its event, on a chain that has it whole.
    fn scene() -> (FakeChain, Confirmation<FakeChain>, SuspectBlocks, Request) {
        let chain = FakeChain::new(40);
        let whole = Event { data: vec![7; 64].into(), ..request_event(1) };
        chain.mine(vec![whole.clone()]);
        let damaged = Event { block: chain.block(41), data: vec![0; 64].into(), ..whole };
        let suspects = SuspectBlocks::default();
        let adapter = DecryptionAdapter::new(chain.clone(), ADDRESSES);
        let request = abi::decode(SOURCE, &damaged).unwrap();
        (chain, Confirmation::new(adapter, suspects.clone()), suspects, request)
    }

    fn zeroes() -> NodeFaults {
        NodeFaults { zeroes: true, ..NodeFaults::default() }
    }

    fn is_held(confirmed: &Confirmed) -> bool {
        matches!(confirmed, Confirmed::NotYet(hold) if hold.reason == HoldReason::Unconfirmed)
    }

    const UNCONFIRMED: Option<HoldReason> = Some(HoldReason::Unconfirmed);

    #[tokio::test(start_paused = true)]
    async fn b11_what_one_node_shows_and_another_denies_ends_nothing() {
        let (chain, confirmation, suspects, request) = scene();
        let silent = NodeFaults { is_silent: true, ..NodeFaults::default() };
        for other in [NodeFaults::default(), silent.clone()] {
            chain.state().faults = vec![zeroes(), other];
            for held in [None, UNCONFIRMED] {
                assert!(is_held(&confirmation.verify(&request, held).await));
                assert!(suspects.is_waiting(41, 41));
            }
        }
        // Alone, and nothing is remembered of another one.
        let (chain, confirmation, _, request) = scene();
        chain.state().faults = vec![silent];
        assert!(is_held(&confirmation.verify(&request, UNCONFIRMED).await));
    }

    #[tokio::test(start_paused = true)]
    async fn b11_what_all_nodes_say_ends_it() {
        let (chain, confirmation, _, request) = scene();
        chain.state().faults = vec![zeroes(), zeroes()];
        assert_eq!(confirmation.verify(&request, None).await, Confirmed::Yes);
        chain.state().faults = vec![NodeFaults::default(), NodeFaults::default()];
        assert_eq!(confirmation.verify(&request, None).await, Confirmed::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn b11_one_node_alone_is_asked_again_later() {
        let (chain, confirmation, _, request) = scene();
        chain.state().faults = vec![zeroes()];
        assert!(is_held(&confirmation.verify(&request, None).await));
        assert_eq!(confirmation.verify(&request, UNCONFIRMED).await, Confirmed::Yes);
        // What it showed a moment ago does not count.
        chain.state().faults = vec![NodeFaults::default()];
        assert_eq!(confirmation.verify(&request, UNCONFIRMED).await, Confirmed::Gone);
    }
}

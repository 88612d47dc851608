//! Confirms a request's event before the request ends as malformed: a log that one node damaged or
//! invented must not end anything.
//!
//! ```text
//! two nodes show it                                               two witnesses
//! one shows it, and there is no other node                        the only one
//! one shows it, another denies it, is behind, or does not answer  one of several
//! no node has it in its block                                     not on chain: orphaned
//! ```
//!
//! Whether witnesses are enough is decided by [`refusals`](super::walk::policy::refusals), as of every refusal.
//!
//! Unless the request ends, its block is read again at every node, because the block may contain
//! another request instead. The same happens to a request that is held for the content of its event and
//! may end later.

use tracing::debug;

use super::{
    Flow, RequestLedger,
    access::Witnesses,
    arrivals::suspects::SuspectBlocks,
    ciphertexts::BucketRegistry,
    walk::policy::{refusals::is_confirmed, setback::Setback},
};
use crate::{
    chain::{reader::ChainReader, rpc_error::RpcError, sender::TransactionSender},
    contracts::decryption::{CurrentContext, RequestContract, RequestLocation, WitnessVerdict},
    domain::{BlockRef, Event, Hold, HoldReason, Outcome, Refusal, Remedy, Request},
};

/// Asks the nodes for an event and its current block.
#[derive(Clone, Debug)]
pub struct Confirmation<P> {
    adapter: RequestContract<P>,
    suspects: SuspectBlocks,
}

/// Whether the event of a malformed request is confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// The event is as it was read.
    Yes,
    /// No node shows it.
    Gone,
    /// Neither is certain.
    NotYet(Hold),
}

/// `alone`: there is only one node. `held`: the reason for which the request was held when its walk began.
fn conclude(witnessed: &WitnessVerdict, alone: bool, held: Option<HoldReason>) -> Confirmed {
    let (shown_by, why) = match witnessed {
        WitnessVerdict::NeverExisted => return Confirmed::Gone,
        WitnessVerdict::Disputed { shown_by, .. } if alone && shown_by.is_empty() => {
            return Confirmed::Gone;
        }
        WitnessVerdict::TwoNodes => (Witnesses::Two, "two gateway nodes show it".to_owned()),
        WitnessVerdict::OnlyNode => {
            (Witnesses::TheOnlyOne, "only one gateway node can be asked".to_owned())
        }
        WitnessVerdict::OneNode => {
            (Witnesses::One, "no other gateway node has its block, or answers".to_owned())
        }
        WitnessVerdict::NoNode => {
            (Witnesses::One, "no gateway node shows its block now".to_owned())
        }
        WitnessVerdict::Disputed { denied_by, .. } => {
            (Witnesses::One, format!("{denied_by} does not show it"))
        }
    };
    if is_confirmed(shown_by, held) {
        return Confirmed::Yes;
    }
    let why = format!("its event is invalid, and {why}: it is read again");
    Confirmed::NotYet(Hold::new(HoldReason::Unconfirmed, why))
}

impl<P: ChainReader> Confirmation<P> {
    pub fn new(adapter: RequestContract<P>, suspects: SuspectBlocks) -> Self {
        Self { adapter, suspects }
    }

    /// Checks whether a request that cannot be answered is on chain as it was read. `held`: the reason for
    /// which it was held when its walk began.
    pub(super) async fn verify(&self, request: &Request, held: Option<HoldReason>) -> Confirmed {
        let alone = self.adapter.provider().node_count() < 2;
        let witnessed = self.adapter.collect_witnesses_afresh(request).await;
        let confirmed = conclude(&witnessed, alone, held);
        if confirmed != Confirmed::Yes {
            debug!(?witnessed, "an invalid event is not confirmed");
            self.reread_block(request);
        }
        confirmed
    }

    /// Asks whether several nodes show the request in this block.
    pub(super) async fn ask_witnesses(
        &self,
        request: &Request,
        block: BlockRef,
        again: bool,
    ) -> WitnessVerdict {
        self.adapter.collect_witnesses(request, block, again).await
    }

    /// Returns where a request is now, and whether one of its `namesakes` has its id.
    pub(super) async fn whereabouts(
        &self,
        request: &Request,
        namesakes: &[Event],
    ) -> Result<RequestLocation, RpcError> {
        self.adapter.locate(request, namesakes).await
    }

    /// What all nodes say of an answer in the KMS context that is current now.
    pub(super) async fn current_context_taken(
        &self,
        request: &Request,
    ) -> Result<CurrentContext, RpcError> {
        self.adapter.current_context_taken(request).await
    }

    /// A request of this contract, as its event tells it. `None`: it tells none.
    pub(super) fn decode(&self, event: &Event) -> Option<Request> {
        self.adapter.decode(event).ok()
    }

    /// Has the deployment read again.
    pub(super) fn doubt_deployment(&self) {
        self.adapter.doubt_deployment();
    }

    /// Reports that the request is not on chain, or not any more.
    pub(super) fn report_orphan(&self, request: &Request) {
        self.suspects.report_orphan(request.key, request.block);
    }

    /// Has the request's block read again at every node: the event may differ from what the chain holds.
    pub(super) fn reread_block(&self, request: &Request) {
        let number = request.block.number;
        self.suspects.reread_everywhere(number, number);
    }
}

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// Confirms a setback that would end the request or set it aside, or replaces it by what the chain
    /// shows. Returns an outcome as the error if the request is not on chain. `before`: the reason for
    /// which it was held when its walk began.
    pub(super) async fn confirm(
        &self,
        request: &Request,
        setback: Setback,
        before: Option<HoldReason>,
    ) -> Result<Setback, Outcome> {
        let setback = match &setback.remedy {
            Remedy::Retry | Remedy::Refuse(Refusal::NotRequested) => return Ok(setback),
            // What rests on more than the event was confirmed by the room.
            Remedy::Refuse(Refusal::AccessRefused(_)) if !setback.rests_on_event() => {
                return Ok(setback);
            }
            Remedy::Refuse(Refusal::Malformed(_) | Refusal::AccessRefused(_)) => {
                match self.confirmation_of(request).verify(request, before).await {
                    Confirmed::Yes => return Ok(setback),
                    Confirmed::Gone => return Err(Outcome::Orphaned),
                    Confirmed::NotYet(hold) => Setback::held(hold),
                }
            }
            Remedy::Hold(hold) => {
                if hold.reason == HoldReason::UnsupportedType {
                    self.confirmation_of(request).reread_block(request);
                }
                setback
            }
        };
        // The chain no longer asks for an answer. Unknown counts as a denial here.
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
        chain::fake_chain::{
            ADDRESSES, FakeChain, NodeFaults, SOURCE, request_data, request_event,
        },
        contracts::abi,
    };

    /// A chain with a request's real event, and the same request as one node damaged it.
    fn scene() -> (FakeChain, Confirmation<FakeChain>, SuspectBlocks, Request) {
        let chain = FakeChain::new(40);
        chain.mine(vec![request_event(1)]);
        let damaged = Event { block: chain.block(41), data: request_data(9), ..request_event(1) };
        let suspects = SuspectBlocks::default();
        let adapter = RequestContract::new(chain.clone(), ADDRESSES);
        let request = abi::decode(SOURCE, &damaged).unwrap();
        (chain, Confirmation::new(adapter, suspects.clone()), suspects, request)
    }

    fn rewrites() -> NodeFaults {
        NodeFaults { rewrites: Some(9), ..NodeFaults::default() }
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
            chain.state().faults = vec![rewrites(), other];
            for held in [None, UNCONFIRMED] {
                assert!(is_held(&confirmation.verify(&request, held).await));
                assert!(suspects.is_waiting(41, 41));
            }
        }
        // With one node, and no memory of another one.
        let (chain, confirmation, _, request) = scene();
        chain.state().faults = vec![silent];
        assert!(is_held(&confirmation.verify(&request, UNCONFIRMED).await));
    }

    #[tokio::test(start_paused = true)]
    async fn b11_what_all_nodes_say_ends_it() {
        let (chain, confirmation, _, request) = scene();
        chain.state().faults = vec![rewrites(), rewrites()];
        assert_eq!(confirmation.verify(&request, None).await, Confirmed::Yes);
        chain.state().faults = vec![NodeFaults::default(), NodeFaults::default()];
        assert_eq!(confirmation.verify(&request, None).await, Confirmed::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn b11_one_node_alone_is_asked_again_later() {
        let (chain, confirmation, _, request) = scene();
        chain.state().faults = vec![rewrites()];
        assert!(is_held(&confirmation.verify(&request, None).await));
        assert_eq!(confirmation.verify(&request, UNCONFIRMED).await, Confirmed::Yes);
        // Earlier answers of the node do not count.
        chain.state().faults = vec![NodeFaults::default()];
        assert_eq!(confirmation.verify(&request, UNCONFIRMED).await, Confirmed::Gone);
    }
}

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
//! A legacy request whose transaction no node shows may be an event that a node invented: then it ends in the same
//! way, and until that is said by all who have a say it is held, and told as what it is.
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

/// Whether the nodes say for certain that the event's block does not contain it: all that have a say, or the only
/// one (`alone`).
fn is_absent(witnessed: &WitnessVerdict, alone: bool) -> bool {
    match witnessed {
        WitnessVerdict::NeverExisted => true,
        WitnessVerdict::Disputed { shown_by, is_certain, .. } => {
            alone && *is_certain && shown_by.is_empty()
        }
        WitnessVerdict::OnlyNode
        | WitnessVerdict::TwoNodes
        | WitnessVerdict::OneNode
        | WitnessVerdict::NoNode => false,
    }
}

/// What follows for a request whose transaction no node shows in its block, which is to be held for that. `before`:
/// the reason for which it was held when its walk began; one node alone is asked twice.
fn conclude_missing(
    witnessed: &WitnessVerdict,
    alone: bool,
    hold: Hold,
    before: Option<HoldReason>,
) -> Confirmed {
    let is_repeated = before == Some(hold.reason);
    if is_absent(witnessed, alone) && (!alone || is_repeated) {
        return Confirmed::Gone;
    }
    let WitnessVerdict::Disputed { shown_by, denied_by, .. } = witnessed else {
        return Confirmed::NotYet(hold);
    };
    let told_by = match &shown_by[..] {
        [] => "no node shows its event any more".to_owned(),
        some => format!("only {} tells of its event", some.join(" and ")),
    };
    let ends = if alone { "if it says so again" } else { "once every node says so" };
    let why = format!(
        "{told_by}, and {denied_by} has the block without it: a node may have invented it, and it ends as \
         orphaned {ends}"
    );
    Confirmed::NotYet(Hold::new(hold.reason, why))
}

/// `alone`: there is only one node. `held`: the reason for which the request was held when its walk began.
fn conclude(witnessed: &WitnessVerdict, alone: bool, held: Option<HoldReason>) -> Confirmed {
    if is_absent(witnessed, alone) {
        return Confirmed::Gone;
    }
    let (shown_by, why) = match witnessed {
        WitnessVerdict::TwoNodes => (Witnesses::Two, "two gateway nodes show it".to_owned()),
        WitnessVerdict::OnlyNode => {
            (Witnesses::TheOnlyOne, "only one gateway node can be asked".to_owned())
        }
        WitnessVerdict::OneNode => {
            (Witnesses::One, "no other gateway node has its block, or answers".to_owned())
        }
        WitnessVerdict::NoNode | WitnessVerdict::NeverExisted => {
            (Witnesses::One, "no gateway node shows it now".to_owned())
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

    /// Checks whether a request whose transaction no node shows is on chain at all, before it is held for that.
    /// `before`: the reason for which it was held when its walk began.
    pub(super) async fn look_for(
        &self,
        request: &Request,
        hold: Hold,
        before: Option<HoldReason>,
    ) -> Confirmed {
        let alone = self.adapter.provider().node_count() < 2;
        let witnessed = self.adapter.collect_witnesses(request, request.block, true).await;
        let found = conclude_missing(&witnessed, alone, hold, before);
        if found == Confirmed::Gone {
            debug!(?witnessed, "the chain does not have this event");
            self.reread_block(request);
        }
        found
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
            Remedy::Hold(hold) if hold.reason == HoldReason::NoTransaction => {
                let hold = hold.clone();
                match self.confirmation_of(request).look_for(request, hold, before).await {
                    Confirmed::Gone => return Err(Outcome::Orphaned),
                    Confirmed::NotYet(hold) => Setback::held(hold),
                    Confirmed::Yes => setback,
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

    /// What all say, or the only one twice and for certain, ends what a node invented; nothing else does.
    #[test]
    fn what_has_no_transaction_ends_if_the_chain_does_not_have_it() {
        let disputed = |shown_by: &[&str], is_certain| WitnessVerdict::Disputed {
            shown_by: shown_by.iter().map(|host| (*host).to_owned()).collect(),
            denied_by: "b:2".to_owned(),
            is_certain,
        };
        let missing = || Hold::new(HoldReason::NoTransaction, "no transaction");
        let (same, other) = (Some(HoldReason::NoTransaction), Some(HoldReason::Unconfirmed));
        let ends = |witnessed: &WitnessVerdict, alone| {
            [None, other, same].map(|before| {
                let found = conclude_missing(witnessed, alone, missing(), before);
                let is_held = matches!(&found, Confirmed::NotYet(hold)
                    if hold.reason == HoldReason::NoTransaction);
                assert!(is_held || found == Confirmed::Gone, "{found:?}");
                found == Confirmed::Gone
            })
        };
        let (never, always) = ([false; 3], [true; 3]);
        for (witnessed, alone, expected) in [
            (WitnessVerdict::NeverExisted, false, always),
            (disputed(&["a:1"], true), false, never),
            (disputed(&[], true), false, never),
            (disputed(&[], false), false, never),
            (WitnessVerdict::TwoNodes, false, never),
            (WitnessVerdict::OneNode, false, never),
            (WitnessVerdict::NoNode, false, never),
            (WitnessVerdict::NoNode, true, never),
            (WitnessVerdict::OnlyNode, true, never),
            (disputed(&[], true), true, [false, false, true]),
            (disputed(&[], false), true, never),
        ] {
            assert_eq!(ends(&witnessed, alone), expected, "{witnessed:?} {alone}");
        }
        // It says what it is; while nothing is known of that, what is missing.
        for (witnessed, words) in [
            (
                disputed(&["a:1"], true),
                ["only a:1 tells of its event", "b:2 has the block without it"],
            ),
            (disputed(&[], true), ["no node shows its event", "b:2 has the block without it"]),
            (WitnessVerdict::NoNode, ["no transaction", ""]),
        ] {
            let found = conclude_missing(&witnessed, false, missing(), None);
            let Confirmed::NotYet(hold) = found else { panic!("{found:?}") };
            assert!(words.iter().all(|word| hold.detail.contains(word)), "{}", hold.detail);
        }
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

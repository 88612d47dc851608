//! Key operations: what is done before the Core is asked for one, and while it is polled. Before its answer is sent,
//! [`super::key_votes`] compares it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{Instrument, debug_span};

use super::{
    KeyStages, Transition,
    policy::{
        History,
        key_operations::{self as policy, Check, InTurn, KeyRule, Prerequisite, Withdrawal},
        lifecycle::lost_result,
        representation,
        setback::{Cause, Setback},
    },
    stages::core_setback,
};
use crate::{
    chain::sender::TransactionSender,
    domain::{
        Answer, EpochMaterial, Hold, HoldReason, KeyOperation, KeyRepresentation, KmsContext,
        Operation, Outcome, Remedy, Request, SignedResult, stage::Stage,
    },
    flow::{
        AnswerStages, AnsweredHere, Flow, KeyManagement, Mode, RequestLedger, Step, access,
        ciphertexts::BucketRegistry,
        kms_core::{self, CoreError, KeyAsk, KmsCore, Supplement, rate_limiter::AskPermit},
        walk_queue::{Activity, AttendanceGuard},
    },
};

/// How often a request that is polled looks for its abort.
const LOOKS_FOR_ABORT_EVERY: Duration = Duration::from_secs(10);
/// How long after the Core knows of an abort the journal may not: the abort's walk has told the one, and is about
/// to note the other.
const ABORT_SHOWS_WITHIN: Duration = Duration::from_secs(5);

impl<P: TransactionSender, B: BucketRegistry, L: RequestLedger> Flow<P, B, L> {
    /// The stages of a key operation. `None`: nothing here can serve it.
    pub(super) fn key_stages(&self, request: &Request) -> Option<KeyStages<'_, P>> {
        match &self.mode {
            Mode::Answer(rooms) => {
                let (keys, own) = (rooms.keys_of(request)?, rooms.key_rooms_of(request)?);
                Some(KeyStages { rooms, keys, own })
            }
            Mode::Observe { .. } => None,
        }
    }

    /// Asks the Core for a key operation, once it may and can be asked.
    pub(super) async fn ask_key_operation(
        &self,
        request: &Request,
        operation: &KeyOperation,
        history: &mut History,
        attendance: &AttendanceGuard,
    ) -> Result<Transition, Setback> {
        kms_core::wire::check(request).map_err(|error| Setback::own(error.remedy(), error))?;
        let stages = self.key_stages(request).ok_or_else(|| not_configured(request))?;
        let core = &stages.own.core;
        let about = Asking { stages, request, operation, attendance };
        let mut gathered = Gathered::Nothing;
        let asked = match policy::rule(request.key.id, operation) {
            KeyRule::Record => return Ok(Transition::End(Outcome::Recorded)),
            KeyRule::Hold { topic } => return Err(Setback::held(policy::unsupported(topic))),
            KeyRule::Tell(checks, telling) => {
                let turn = match self.pass_in_turn(checks, &about, history, &mut gathered).await? {
                    Ok(turn) => turn,
                    Err(instead) => return Ok(instead),
                };
                attendance.set_activity(Activity::Asking);
                return self.tell(stages, request, telling, turn).await.map(Transition::End);
            }
            KeyRule::TellEnd(checks, end) => {
                if let Some(instead) = self.pass(checks, &about, history, &mut gathered).await? {
                    return Ok(instead);
                }
                attendance.set_activity(Activity::Asking);
                return self.tell_end(stages, request, end).await.map(Transition::End);
            }
            KeyRule::Ask(checks) => {
                let turn = match self.pass_in_turn(checks, &about, history, &mut gathered).await? {
                    Ok(turn) => turn,
                    Err(instead) => return Ok(instead),
                };
                attendance.set_activity(Activity::Asking);
                let ask = KeyAsk { operation, supplement: gathered.supplement() };
                let asking = core.ask_key_operation(turn, request, ask);
                asking.instrument(debug_span!("kms_core_ask")).await
            }
            KeyRule::AskLifecycle(checks, _) => {
                if let Some(instead) = self.pass(checks, &about, history, &mut gathered).await? {
                    return Ok(instead);
                }
                attendance.set_activity(Activity::Asking);
                let ask = KeyAsk { operation, supplement: gathered.supplement() };
                let asking = core.ask_lifecycle(request, ask);
                asking.instrument(debug_span!("kms_core_ask")).await
            }
        };
        match asked {
            Ok(asked) => {
                history.core.on_asked(asked);
                let asked = Step::Asked { core: core.address().clone() };
                Ok(Transition::Advance(Stage::Asked, asked))
            }
            Err(error) => Err(asking_setback(stages.rooms, operation, history, &error).await),
        }
    }

    /// Passes these checks, and waits for the turn between them. A transition: what happens instead.
    async fn pass_in_turn(
        &self,
        InTurn { before, after }: InTurn,
        about: &Asking<'_, P>,
        history: &mut History,
        gathered: &mut Gathered,
    ) -> Result<Result<AskPermit, Transition>, Setback> {
        if let Some(instead) = self.pass(before, about, history, gathered).await? {
            return Ok(Err(instead));
        }
        about.attendance.set_activity(Activity::WaitingForCore);
        let turn = turn_at(&about.stages.own.core).await?;
        Ok(match self.pass(after, about, history, gathered).await? {
            Some(instead) => Err(instead),
            None => Ok(turn),
        })
    }

    /// Passes these checks, in this order. A transition: what happens instead.
    async fn pass(
        &self,
        checks: &[Check],
        about: &Asking<'_, P>,
        history: &mut History,
        gathered: &mut Gathered,
    ) -> Result<Option<Transition>, Setback> {
        let &Asking { stages, request, operation, attendance } = about;
        let KeyStages { rooms, keys, own } = stages;
        for check in checks {
            match check {
                Check::NotAborted => {
                    if let Some(withdrawal) = self.was_aborted(request).await? {
                        // The Core may have been asked after it was told of the abort.
                        let again = Some(withdrawal).filter(|_| history.maybe_asked);
                        return self.end_aborted(request, again).await.map(Some);
                    }
                }
                Check::Approval => policy::approval(keys.policy, history.approval, request.key)
                    .map_err(Setback::held)?,
                Check::Context => self.check_key_context(keys, operation, history).await?,
                Check::Prerequisite => self.check_prerequisite(operation).await?,
                Check::Part => {
                    attendance.set_activity(Activity::CheckingChain);
                    match self.check_part(stages, request).await? {
                        Ok(found) => *gathered = Gathered::PreviousContext(found.previous),
                        Err(instead) => return Ok(Some(instead)),
                    }
                }
                Check::Material => {
                    attendance.set_activity(Activity::CheckingChain);
                    *gathered = Gathered::Material(self.material_of(stages, operation).await?);
                }
                Check::Witnesses => {
                    attendance.set_activity(Activity::CheckingChain);
                    if let Some(end) = self.check_on_chain(request, history).await? {
                        return Ok(Some(Transition::End(end)));
                    }
                }
                Check::Age => {
                    attendance.set_activity(Activity::Asking);
                    match own.core.age().await {
                        Ok(age) => policy::age(operation, age).map_err(Setback::held)?,
                        Err(error) => return Err(core_setback(rooms, &error).await),
                    }
                }
                Check::Representation => {
                    if let Some(kind) = self.choose_representation(keys, request, operation).await?
                    {
                        *gathered = Gathered::Representation(kind);
                    }
                }
            }
        }
        Ok(None)
    }

    /// What the Core is told of the abort of this request, if one was carried out.
    async fn was_aborted(&self, request: &Request) -> Result<Option<Withdrawal>, Setback> {
        let Operation::Key(operation) = &request.operation else { return Ok(None) };
        for (abort, withdrawal) in policy::aborts_of(request.key.id, operation) {
            match self.ledger.is_done(abort).await {
                Ok(true) => return Ok(Some(withdrawal)),
                Ok(false) => {}
                // A failing journal ends the instance elsewhere.
                Err(_) => return Err(Setback::retry(Cause::Stopping)),
            }
        }
        Ok(None)
    }

    /// Ends a request that the contract has taken back. `again`: what the Core is told once more, as it may have
    /// been asked after it was told of the abort.
    async fn end_aborted(
        &self,
        request: &Request,
        again: Option<Withdrawal>,
    ) -> Result<Transition, Setback> {
        if let Some(withdrawal) = again {
            let stages = self.key_stages(request).ok_or_else(|| not_configured(request))?;
            self.tell_again(stages, request, withdrawal).await?;
        }
        Ok(Transition::End(Outcome::Aborted))
    }

    /// How a request ends whose answer has not been handed to the lane: not at all, unless the contract has taken
    /// it back.
    pub(super) async fn aborted_before_sending(
        &self,
        request: &Request,
    ) -> Result<Option<Transition>, Setback> {
        let aborted = self.was_aborted(request).await?;
        Ok(aborted.map(|_| Transition::End(Outcome::Aborted)))
    }

    /// How a request ends whose submission ended so: that the contract waits for no answer may be because it was
    /// taken back.
    pub(super) async fn after_submission(
        &self,
        request: &Request,
        outcome: Outcome,
    ) -> Result<Outcome, Setback> {
        let is_over = outcome == Outcome::NoAnswerDue;
        let is_aborted = is_over && self.was_aborted(request).await?.is_some();
        Ok(if is_aborted { Outcome::Aborted } else { outcome })
    }

    /// Polls the Core for a key operation, and looks now and then whether the contract has taken it back.
    pub(super) async fn poll_key_operation(
        &self,
        rooms: &AnswerStages<P>,
        (request, operation): (&Request, &KeyOperation),
        history: &mut History,
    ) -> Result<Transition, Setback> {
        let is_aborted = async {
            loop {
                match self.was_aborted(request).await {
                    Ok(Some(withdrawal)) => break Ok(withdrawal),
                    Ok(None) => sleep(LOOKS_FOR_ABORT_EVERY).await,
                    Err(setback) => break Err(setback),
                }
            }
        };
        let polling = async {
            if policy::rule(request.key.id, operation).has_no_result() {
                let answer = Answer::Key(SignedResult::default());
                let answered = Step::Answered(answer.clone());
                return Ok(Transition::Advance(Stage::Answered(answer), answered));
            }
            self.poll(rooms, request, history).await
        };
        let polled = tokio::select! {
            biased;
            aborted = is_aborted => {
                return self.end_aborted(request, Some(aborted?)).await;
            }
            polled = polling => polled,
        };
        // The Core may know of the abort a moment earlier than the journal.
        if let Err(Setback { remedy: Remedy::Hold(hold), .. }) = &polled
            && hold.reason == HoldReason::CoreAborted
        {
            sleep(ABORT_SHOWS_WITHIN).await;
            if self.was_aborted(request).await?.is_some() {
                return Ok(Transition::End(Outcome::Aborted));
            }
        }
        polled
    }

    /// How the request ends, if the nodes show that it is not on chain.
    async fn check_on_chain(
        &self,
        request: &Request,
        history: &mut History,
    ) -> Result<Option<Outcome>, Setback> {
        let again = history.maybe_asked;
        match self.block_of(request, again).await? {
            Ok(block) => self.check_witnesses(request, block, again, &mut history.doubted).await,
            Err(end) => Ok(Some(end)),
        }
    }

    /// The KMS context that it names has to be in force.
    async fn check_key_context(
        &self,
        keys: &KeyManagement<P>,
        operation: &KeyOperation,
        history: &mut History,
    ) -> Result<(), Setback> {
        let Some(extra_data) = operation.extra_data() else { return Ok(()) };
        let checked = access::check_key_context(keys.contexts.as_ref(), extra_data).await;
        history.access.context_checked(checked, Instant::now()).map_err(|without| {
            let (remedy, error) = *without;
            Setback { is_own: error.is_own(), ..Setback::new(remedy, error) }
        })
    }

    /// The kind of key that the Core is told to make, which is recorded with its preparation.
    async fn choose_representation(
        &self,
        keys: &KeyManagement<P>,
        request: &Request,
        operation: &KeyOperation,
    ) -> Result<Option<KeyRepresentation>, Setback> {
        // A failing journal ends the instance elsewhere.
        let failing = |_| Setback::retry(Cause::Stopping);
        let preparation = if let KeyOperation::Keygen { preparation, .. } = operation {
            *preparation
        } else {
            request.key.id
        };
        let recorded = self.ledger.representation_of(preparation).await.map_err(failing)?;
        let gateway = keys.gateway.borrow().answered().map(|known| known.generation);
        let chosen = representation::chosen(operation, keys.representation, gateway, recorded);
        match chosen.map_err(Setback::held)? {
            Some(chosen) if matches!(operation, KeyOperation::PrepKeygen { .. }) => {
                let recording = self.ledger.choose_representation(request.key, chosen);
                recording.await.map(Some).map_err(failing)
            }
            chosen => Ok(chosen),
        }
    }

    /// What has to come first is done here, as far as the journal knows of it.
    async fn check_prerequisite(&self, operation: &KeyOperation) -> Result<(), Setback> {
        let Some(first) = policy::prerequisite(operation) else { return Ok(()) };
        let lacks = match first {
            Prerequisite::Preparation(id) => {
                let answered = self.ledger.answered_here(vec![id]).await;
                answered.map(|answered| answered.first() == Some(&AnsweredHere::No))
            }
            Prerequisite::Context(id) => self.ledger.is_unasked(id).await,
        };
        match lacks {
            Ok(true) => Err(Setback::held(first.hold())),
            Ok(false) => Ok(()),
            // A failing journal ends the instance elsewhere.
            Err(_) => Err(Setback::retry(Cause::Stopping)),
        }
    }
}

/// The setback of an ask that the Core refuses.
async fn asking_setback<P>(
    rooms: &AnswerStages<P>,
    operation: &KeyOperation,
    history: &History,
    error: &CoreError,
) -> Setback {
    if let (KeyOperation::NewKmsEpoch { .. }, CoreError::Held(hold)) = (operation, error)
        && hold.reason == HoldReason::CoreRefused
        && history.core.has_lost_a_result()
    {
        return Setback::held(lost_result(hold));
    }
    core_setback(rooms, error).await
}

/// Waits for the turn to ask this Core once.
pub(super) async fn turn_at(core: &KmsCore) -> Result<AskPermit, Setback> {
    core.acquire_ask_permit().await.map_err(|error| Setback::new(error.remedy(), error))
}

/// The setback of a key operation that nothing here can serve.
pub(super) fn not_configured(request: &Request) -> Setback {
    not_configured_for(if request.kind().is_lifecycle() {
        Contract::ProtocolConfig
    } else if signed_on_ethereum(request) {
        Contract::OnEthereum
    } else {
        Contract::OnGateway
    })
}

/// The contract that asks for a key operation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Contract {
    OnGateway,
    OnEthereum,
    ProtocolConfig,
}

pub(super) fn not_configured_for(contract: Contract) -> Setback {
    let keys = match contract {
        Contract::OnGateway => "kms_generation_address",
        Contract::OnEthereum => "ethereum_url, ethereum_chain_id and kms_generation_address",
        Contract::ProtocolConfig => "ethereum_url, ethereum_chain_id and protocol_config_address",
    };
    let detail =
        format!("the configuration does not name the contract that asks for it: set {keys}");
    Setback::held(Hold::new(HoldReason::KeyManagementNotConfigured, detail))
}

/// Whether the answer is signed by whom Ethereum's registry lists.
pub(super) fn signed_on_ethereum(request: &Request) -> bool {
    matches!(&request.operation, Operation::Key(operation) if operation.is_of_ethereum())
}

/// What is asked of the Core, and in which walk.
struct Asking<'a, P> {
    stages: KeyStages<'a, P>,
    request: &'a Request,
    operation: &'a KeyOperation,
    attendance: &'a AttendanceGuard,
}

/// What the checks found that the Core is told.
enum Gathered {
    Nothing,
    Representation(KeyRepresentation),
    PreviousContext(Arc<KmsContext>),
    Material(EpochMaterial),
}

impl Gathered {
    fn supplement(&self) -> Supplement<'_> {
        match self {
            Self::Nothing => Supplement::Nothing,
            Self::Representation(kind) => Supplement::Representation(*kind),
            Self::PreviousContext(context) => Supplement::PreviousContext(context),
            Self::Material(material) => Supplement::Material(material),
        }
    }
}

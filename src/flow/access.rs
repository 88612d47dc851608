//! Room 2: may this be decrypted? From G12 on nobody but the connectors checks it (protocol:
//! ciphertext-storage 10).
//!
//! ```text
//! request --> context::claim ------------------> is that KMS context in force? ----+
//!        \--> plan (with the calldata, if legacy) --> host chains, one block each --+--> decision --> pass
//! ```
//!
//! Fail closed: only [`decision`] grants, only from plain answers to everything that [`plan`] asks, and
//! whatever else happens is an [`AccessError`]. A pass is good for seconds ([`Access::is_fresh`]).
//!
//! A gateway node may lie about the event and its calldata, a host node about the state of its chain.
//! The first cannot get anything granted, because the user's signature and the ACL decide; so one node
//! is enough to go on with, and two are needed to end a request. What follows from a check without a pass
//! is decided by the walk's policy (`walk::policy::access_history`).

mod budget;
mod cache;
mod calldata;
mod context;
mod decision;
mod error;
mod plan;
mod record;
mod second_opinion;
mod user_signature;

use std::{borrow::Cow, time::Duration};

use futures_util::future::{join, join_all};

use self::{
    budget::{NoTurn, QuestionBudget, Reserved},
    cache::GrantCache,
    context::ContextClaim,
    decision::{Verdict, decide},
    plan::ChainPlan,
    record::{ChainRecord, call_text},
};
pub use self::{
    error::{AccessError, Grounds, Witnesses},
    record::AccessRecord,
};
use crate::{
    chain::reader::ChainReader,
    contracts::{
        abi::{CiphertextSource, ContextRule, Deployment},
        acl::{AclAnswer, AclQuestion, HostChain, HostChains},
        decryption::{CurrentContext, RequestContract},
        gateway_config::GatewayConfigAdapter,
        pinned_reads::HostChainError,
        protocol_config::{ContextStatus, ProtocolConfig},
    },
    domain::{
        AccessRefusal, AccessRefusalReason, BlockRef, Kind, Operation, Refusal, Request,
        RequestTerms, SigningDomain, U256,
    },
    telemetry::metrics::Metrics,
    time::clock::Clock,
};

/// How old a pass may be when the Core is asked.
const FRESH: Duration = Duration::from_secs(10);

/// The room.
#[derive(Debug)]
pub struct Access<P> {
    pub options: AccessOptions<P>,
    cache: GrantCache,
    budget: QuestionBudget,
}

/// What the room asks, and with what.
#[derive(Clone, Debug)]
pub struct AccessOptions<P> {
    pub hosts: HostChains<P>,
    /// Where contexts are checked from G14 on. `None`: not configured.
    pub protocol_config: Option<ProtocolConfig<P>>,
    pub gateway: RequestContract<P>,
    pub registry: GatewayConfigAdapter<P>,
    /// The gateway's, which users sign under with the chain id of their host chain.
    pub domain: SigningDomain,
    pub clock: Clock,
    pub metrics: Metrics,
}

/// Everything that was asked granted.
#[derive(Clone, Debug)]
pub struct AccessPass {
    /// Time since boot when the check began.
    made_at: Duration,
}

impl AccessPass {
    /// Time since boot from which on the Core is not asked on its strength.
    #[must_use]
    pub fn good_until(&self) -> Duration {
        self.made_at.saturating_add(FRESH)
    }
}

#[cfg(test)]
impl AccessPass {
    pub fn for_tests() -> Self {
        Self { made_at: Duration::ZERO }
    }
}

/// A check: its result, and what an operator may want to know of it.
#[derive(Clone, Debug)]
pub struct AccessCheck {
    pub result: Result<AccessPass, AccessError>,
    pub record: AccessRecord,
    /// The context that was current when the request was made, if it names none.
    pub bound_context: Option<U256>,
}

impl<P> Access<P> {
    #[must_use]
    pub fn new(options: AccessOptions<P>) -> Self {
        let budget = options.hosts.ids().collect();
        Self { options, cache: GrantCache::default(), budget }
    }

    /// Whether the check of a request may have to wait for those of others: then it is made before the request
    /// takes anything that others wait for.
    #[must_use]
    pub fn may_wait(request: &Request) -> bool {
        budget::is_large(&plan::needs(&request.operation))
    }
}

impl<P: ChainReader> Access<P> {
    /// Whether the Core may be asked on the strength of this pass. A machine that slept in between has lost
    /// that time.
    #[must_use]
    pub fn is_fresh(&self, pass: &AccessPass) -> bool {
        self.options.clock.since_boot() <= pass.good_until()
    }

    /// Checks a request, which is in `block` now. `bound`: what an earlier check said of its context.
    pub async fn check(
        &self,
        request: &Request,
        block: BlockRef,
        deployment: &Deployment,
        mut bound: Option<U256>,
    ) -> AccessCheck {
        let mut record = AccessRecord::default();
        let reserved = self.reserve(request, deployment).await;
        // What is waited for before makes a pass no older.
        let made_at = self.options.clock.since_boot();
        let checked = match &reserved {
            Ok(_) => self.run(request, block, deployment, (&mut bound, &mut record)).await,
            Err(error) => Err(error.clone()),
        };
        let result = match checked {
            Ok(()) => Ok(AccessPass { made_at }),
            Err(AccessError::Refused { refusal, grounds }) => {
                Err(self.weigh_refusal(refusal, grounds, block, deployment).await)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            record.line(&error.to_string());
        }
        AccessCheck { result, record, bound_context: bound }
    }

    /// Room for the questions that the request needs. Waiting for it is no matter of the host chains.
    async fn reserve(
        &self,
        request: &Request,
        deployment: &Deployment,
    ) -> Result<Reserved, AccessError> {
        if !deployment.checks_access() {
            return Ok(Reserved::default());
        }
        let needs = plan::needs(&request.operation);
        self.budget.reserve(&needs).await.map_err(|NoTurn { waited }| {
            let questions = needs.values().sum();
            AccessError::NoTurn { questions, secs: waited.as_secs() }
        })
    }

    async fn run(
        &self,
        request: &Request,
        block: BlockRef,
        deployment: &Deployment,
        (bound, record): (&mut Option<U256>, &mut AccessRecord),
    ) -> Result<(), AccessError> {
        if !deployment.checks_access() {
            return self.confirm_deployment(block, deployment).await;
        }
        let claim = context::claim(request.extra_data(), deployment).map_err(of_event)?;
        let contexts = self.check_context(claim, request, block, deployment, bound);
        let chains = async {
            let plans = self.plans(request, block, deployment).await?;
            let kind = request.kind();
            Ok(join_all(plans.iter().map(|plan| self.ask_chain(plan, kind))).await)
        };
        let (context, chains) = join(contexts, chains).await;
        let mut errors = Vec::new();
        match chains {
            Err(error) => errors.push(error),
            // Nothing asked is nothing granted.
            Ok(chains) if chains.is_empty() => errors.push(malformed(plan::no_handles())),
            Ok(chains) => {
                for (of_chain, result) in chains {
                    record.append(&of_chain);
                    errors.extend(result.err());
                }
            }
        }
        errors.extend(context.err());
        errors.into_iter().min_by_key(AccessError::rank).map_or(Ok(()), Err)
    }

    /// That no later contract than this took the requests of the block. Otherwise it was upgraded, and this
    /// instance has not heard of it yet.
    async fn confirm_deployment(
        &self,
        block: BlockRef,
        deployment: &Deployment,
    ) -> Result<(), AccessError> {
        let gateway = &self.options.gateway;
        let found = gateway.generation_in(block).await?;
        if found.is_some_and(|found| found <= deployment.generation) {
            return Ok(());
        }
        gateway.doubt_deployment();
        Err(AccessError::Upgraded { block: block.number })
    }

    /// A refusal rests on the rules of the deployment. So it waits if a later one took the request, and ends
    /// nothing if the nodes do not agree that this one stands there.
    async fn weigh_refusal(
        &self,
        refusal: Refusal,
        grounds: Grounds,
        block: BlockRef,
        deployment: &Deployment,
    ) -> AccessError {
        if let Err(error) = self.confirm_deployment(block, deployment).await {
            return error;
        }
        let grounds = match self.options.gateway.agrees_on(deployment).await {
            Ok(true) => grounds,
            Ok(false) => Grounds::State { witnesses: Witnesses::One },
            Err(error) => return AccessError::Gateway(error),
        };
        AccessError::Refused { refusal, grounds }
    }

    /// What has to be asked of the host chains.
    async fn plans(
        &self,
        request: &Request,
        block: BlockRef,
        deployment: &Deployment,
    ) -> Result<Vec<ChainPlan>, AccessError> {
        match &request.operation {
            Operation::PublicDecryption(public) => plan::public(&public.handles).map_err(malformed),
            Operation::UserDecryption(user) => match &user.terms {
                RequestTerms::Legacy => Ok(vec![self.legacy_plan(request, user, block).await?]),
                RequestTerms::Unified(terms) => {
                    let from_event =
                        deployment.ciphertext_source() != CiphertextSource::Attestation;
                    let materials = user.materials.as_deref().filter(|_| from_event);
                    let plan = plan::unified(user, terms, materials, &self.options.domain);
                    Ok(vec![plan.map_err(malformed)?])
                }
            },
            // It names no handle.
            Operation::Key(_) => Ok(Vec::new()),
        }
    }

    /// Asks one chain, and decides.
    async fn ask_chain(
        &self,
        plan: &ChainPlan,
        kind: Kind,
    ) -> (AccessRecord, Result<(), AccessError>) {
        let begun = self.options.clock.since_boot();
        let mut record = AccessRecord::default();
        let result = self.answers_of_chain(plan, &mut record).await;
        let took = self.options.clock.since_boot().saturating_sub(begun);
        let code = result.as_ref().err().map_or("granted", AccessError::code);
        // The ids of chains that nobody configured come from outside.
        let chain = self.options.hosts.get(plan.chain_id).map(|_| plan.chain_id);
        self.options.metrics.access_checked(chain, kind, code, took);
        (record, result)
    }

    async fn answers_of_chain(
        &self,
        plan: &ChainPlan,
        record: &mut AccessRecord,
    ) -> Result<(), AccessError> {
        let chain_id = plan.chain_id;
        let Some(host) = self.options.hosts.get(chain_id) else {
            return Err(AccessError::NotConfigured { chain_id });
        };
        let answered = self.ask_what_is_not_known(plan, host).await;
        let found = answered.map_err(|cause| AccessError::HostChain { chain_id, cause })?;
        let Answered { answers, known, at, hosts } = found;
        let verdict = decide(plan, &answers, at.map(|(_, time)| time));
        record.chain(&ChainRecord {
            chain_id,
            acl: host.acl(),
            at,
            hosts: &hosts,
            questions: &plan.questions,
            answers: &answers,
            known: &known,
            verdict: &verdict,
        });
        match verdict {
            Verdict::Granted => Ok(()),
            Verdict::Early { now, start } => Err(AccessError::Early { chain_id, now, start }),
            Verdict::Refused(why) => {
                let witnesses = second_opinion::on_refusal(plan, host).await;
                let refusal = Refusal::AccessRefused(why);
                Err(AccessError::Refused { refusal, grounds: Grounds::State { witnesses } })
            }
            Verdict::Denied(index) => {
                let question = index.and_then(|index| plan.questions.get(index));
                let what = match (question, index.and_then(|index| answers.get(index))) {
                    (Some(question), Some(answer)) => {
                        let call = call_text(host.acl(), question);
                        let block = at.map_or(String::new(), |(block, _)| {
                            format!(" in block {} of {}", block.number, hosts.join(" and "))
                        });
                        format!("{call} is {}{block}", record::answer_text(answer))
                    }
                    _ => "its answers are incomplete".to_owned(),
                };
                Err(AccessError::Denied { chain_id, what })
            }
        }
    }

    /// The answers to all questions of a plan: those that are known grants, and the rest from one block.
    async fn ask_what_is_not_known(
        &self,
        plan: &ChainPlan,
        host: &HostChain<P>,
    ) -> Result<Answered, HostChainError> {
        let identity = host.identity();
        let mut known = match &identity {
            Some(identity) => self.cache.known(identity, &plan.questions),
            None => vec![false; plan.questions.len()],
        };
        let hits = known.iter().filter(|known| **known).count();
        if hits == plan.questions.len() {
            self.options.metrics.access_known(plan.chain_id, hits);
            let answers = vec![AclAnswer::Yes; hits];
            return Ok(Answered { answers, known, at: None, hosts: Vec::new() });
        }
        let open = |known: &[bool]| -> Cow<'_, [AclQuestion]> {
            if !known.contains(&true) {
                return Cow::Borrowed(&plan.questions);
            }
            let each = plan.questions.iter().zip(known);
            each.filter(|(_, known)| !**known).map(|(question, _)| question.clone()).collect()
        };
        let mut asked = open(&known);
        let mut told = host.ask(&asked).await?;
        if hits > 0 && told.identity != identity {
            // The contract changed in between: what was known is of another one.
            known.fill(false);
            asked = open(&known);
            told = host.ask(&asked).await?;
        }
        let hits = known.iter().filter(|known| **known).count();
        self.options.metrics.access_known(plan.chain_id, hits);
        if let Some(identity) = &told.identity {
            let kept = asked.iter().zip(&told.answers).zip(&told.at_finalized);
            let kept = kept.filter(|((_, answer), granted)| {
                **answer == AclAnswer::Yes && **granted == Some(true)
            });
            self.cache.keep(identity, kept.map(|((question, _), _)| question));
        }
        let mut fresh = told.answers.into_iter();
        // A missing answer leaves the list short, which denies.
        let answers = known
            .iter()
            .map_while(|known| if *known { Some(AclAnswer::Yes) } else { fresh.next() })
            .collect();
        Ok(Answered { answers, known, at: Some((told.block, told.timestamp)), hosts: told.hosts })
    }

    /// Whether the request's context is in force, and which it is.
    async fn check_context(
        &self,
        claim: ContextClaim,
        request: &Request,
        block: BlockRef,
        deployment: &Deployment,
        bound: &mut Option<U256>,
    ) -> Result<(), AccessError> {
        match claim {
            ContextClaim::Opaque => Ok(()),
            ContextClaim::Current if !deployment.pins_context() => Ok(()),
            ContextClaim::Current => self.check_bound_context(request, block, bound).await,
            ContextClaim::Context(context) => self.check_named(context, None, deployment).await,
            ContextClaim::Epoch { context, epoch } => {
                self.check_named(context, Some(epoch), deployment).await
            }
        }
    }

    async fn check_named(
        &self,
        context: U256,
        epoch: Option<U256>,
        deployment: &Deployment,
    ) -> Result<(), AccessError> {
        let rule = deployment.context_rule();
        if rule != ContextRule::ProtocolConfig {
            let is_valid = self.options.registry.context_is_valid(context, rule).await?;
            return if is_valid { Ok(()) } else { Err(AccessError::ContextUnknown { context }) };
        }
        check_in_force(self.options.protocol_config.as_ref(), context, epoch).await
    }

    /// The context of a request that names none: the one that was current in its block, to which the
    /// contract has bound it. If another one is current now, the contract takes no answer, unless it did
    /// not bind the request (it was made before the contract learnt that).
    async fn check_bound_context(
        &self,
        request: &Request,
        block: BlockRef,
        bound: &mut Option<U256>,
    ) -> Result<(), AccessError> {
        let registry = &self.options.registry;
        if bound.is_none() {
            *bound = registry.current_context_at(block.hash).await?;
        }
        let current = registry.current_context().await?;
        if bound.is_some() && *bound == current {
            return Ok(());
        }
        // A node without the state of that block leaves it to the contract. So do nodes of which one takes
        // an answer: one of them lags or lies.
        let witnesses = match self.options.gateway.current_context_taken(request).await? {
            CurrentContext::Taken => {
                *bound = current;
                return Ok(());
            }
            CurrentContext::Disputed => {
                *bound = bound.or(current);
                return Ok(());
            }
            CurrentContext::Refused { by_one_of_several: true } => Witnesses::One,
            CurrentContext::Refused { by_one_of_several: false } => Witnesses::TheOnlyOne,
        };
        let name = |context: Option<U256>| {
            context.map_or("another one".to_owned(), |context| format!("{context:#066x}"))
        };
        let detail = format!(
            "it was made in KMS context {} without naming it, and {} is current now: the contract \
             takes no answer",
            name(*bound),
            name(current)
        );
        let why = AccessRefusal::new(AccessRefusalReason::ContextChanged, detail);
        let refusal = Refusal::AccessRefused(why);
        Err(AccessError::Refused { refusal, grounds: Grounds::State { witnesses } })
    }
}

/// Checks the KMS context that a key operation names: as for a decryption.
pub async fn check_key_context<P: ChainReader>(
    contexts: Option<&ProtocolConfig<P>>,
    extra_data: &[u8],
) -> Result<(), AccessError> {
    let (context, epoch) = context::key_claim(extra_data).map_err(of_event)?;
    check_in_force(contexts, context, epoch).await
}

/// Whether `ProtocolConfig` has this context, and this epoch in it, in force.
async fn check_in_force<P: ChainReader>(
    contexts: Option<&ProtocolConfig<P>>,
    context: U256,
    epoch: Option<U256>,
) -> Result<(), AccessError> {
    let Some(contexts) = contexts else {
        return Err(AccessError::EthereumNotConfigured { context });
    };
    let status = contexts.context_and_epoch(context, epoch).await.map_err(AccessError::Ethereum)?;
    let witnesses = second_opinion::on_context(contexts, (context, epoch), status).await;
    let destroyed = |what| {
        let why = AccessRefusal::new(AccessRefusalReason::ContextDestroyed, what);
        let refusal = Refusal::AccessRefused(why);
        Err(AccessError::Refused { refusal, grounds: Grounds::State { witnesses } })
    };
    match status {
        ContextStatus::Valid => Ok(()),
        ContextStatus::Unknown => Err(AccessError::ContextUnknown { context }),
        ContextStatus::EpochUnknown => {
            Err(AccessError::EpochUnknown { context, epoch: epoch.unwrap_or_default() })
        }
        ContextStatus::Destroyed => destroyed(format!("KMS context {context:#066x} was destroyed")),
        ContextStatus::EpochDestroyed => {
            let epoch = epoch.unwrap_or_default();
            destroyed(format!("epoch {epoch:#066x} of KMS context {context:#066x} was destroyed"))
        }
    }
}

/// The answers to a plan's questions.
struct Answered {
    answers: Vec<AclAnswer>,
    /// Which of them are grants known from before.
    known: Vec<bool>,
    /// The block that was asked, and its time. `None`: nothing was asked.
    at: Option<(BlockRef, u64)>,
    hosts: Vec<String>,
}

fn of_event(why: AccessRefusal) -> AccessError {
    malformed(Refusal::AccessRefused(why))
}

/// A refusal that follows from the event alone.
fn malformed(refusal: Refusal) -> AccessError {
    AccessError::Refused { refusal, grounds: Grounds::Event }
}

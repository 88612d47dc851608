//! What must hold once the faults have ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    super::second_chain::second_keeper,
    NAME, Running,
    asks::Flaw,
    chain::Requested,
    contexts::context,
    deployment::DECRYPTION,
    ethereum::Side,
    hosts::UPGRADE_KNOWN,
    keys,
    world::{World, WorldState},
};
use crate::{
    contracts::abi::Generation,
    domain::{AccessRefusalReason, B256, HoldReason, Outcome, Refusal, RequestKey, U256},
    journal::{Query, ReadOnly, RequestFilter, RequestPage, RequestRecord},
};

/// Time for all held requests to be retried and finished.
const QUIET_WITHIN: Duration = Duration::from_mins(30);
/// By then the connector treats what the chain dropped last as gone.
const SURE_WITHIN: Duration = Duration::from_secs(30);
/// By then hidden logs are found and no longer reported: gaps are checked at growing intervals.
const SEEN_WITHIN: Duration = Duration::from_mins(15);
/// By then every log index is in order.
const INDEX_FIXED_WITHIN: Duration = Duration::from_mins(5);
/// Time for one request in a world without faults.
const FRESH_WITHIN: Duration = Duration::from_mins(2);

/// The same after foreign use of the wallet, which holds requests until ten minutes were quiet.
const FRESH_AFTER_FOREIGN: Duration = Duration::from_mins(15);

/// The connector fills no wider nonce gap.
const MOST_FILLED: u64 = 64;
/// The most no-op transactions in one story.
const MOST_NOOPS: usize = 64;

/// It cannot be answered, and is refused by the right name.
fn judge_refused(world: &World, key: RequestKey, outcome: Option<&Outcome>, flaw: Flaw) {
    let is_right = matches!(
        outcome,
        Some(Outcome::Refused(Refusal::AccessRefused(why))) if why.reason.as_str() == flaw.as_str()
    );
    if !is_right {
        world.violation(format!("request {} ended as {outcome:?}: {}", short(key), flaw.as_str()));
    }
}

fn short(key: RequestKey) -> String {
    format!("{}/{}", key.id & U256::from(u64::MAX), &key.content.to_string()[2..8])
}

/// What an operator reads in the journal: the stored requests, and the nonces that are signed and not
/// mined.
struct Stored {
    requests: Vec<RequestRecord>,
    open_nonces: BTreeSet<u64>,
}

impl Stored {
    fn read(running: &Running<'_>) -> Result<Self, String> {
        Self::read_of(running, NAME)
    }

    /// What the journal of this chain tells.
    fn read_at(running: &Running<'_>, side: Side) -> Result<Self, String> {
        match side {
            Side::Gateway => Self::read(running),
            Side::Ethereum => Self::read_of(running, &second_keeper(NAME)),
        }
    }

    fn read_of(running: &Running<'_>, keeper: &str) -> Result<Self, String> {
        let journal = ReadOnly::find(&[running.home.state_dir.to_owned()], keeper);
        let journal = journal.map_err(|error| error.to_string())?;
        let look = journal.queries();
        let all = RequestPage { filter: RequestFilter::All, after: None, limit: 10_000 };
        let requests =
            look.ask(|slot| Query::Records(all, slot)).map_err(|error| error.to_string())?;
        let (mut signed, mut mined) = (BTreeSet::new(), BTreeSet::new());
        for request in &requests {
            let transactions = look.ask(|slot| Query::TransactionsOf(request.key, slot));
            for one in transactions.map_err(|error| error.to_string())? {
                let nonce = one.transaction.nonce;
                if one.mined.is_some() {
                    mined.insert(nonce);
                } else if one.given_up.is_none() {
                    signed.insert(nonce);
                }
            }
        }
        Ok(Self { requests, open_nonces: signed.difference(&mined).copied().collect() })
    }

    fn request(&self, key: RequestKey) -> Option<&RequestRecord> {
        self.requests.iter().find(|request| request.key == key)
    }

    /// The same, whichever contract the journal names it by: one that stands beside another is named by that.
    fn named(&self, key: RequestKey) -> Option<&RequestRecord> {
        let is_it = |of: RequestKey| (of.id, of.content) == (key.id, key.content);
        self.requests.iter().find(|request| is_it(request.key))
    }

    fn outcome(&self, key: RequestKey) -> Option<Outcome> {
        self.request(key)?.progress.outcome.clone()
    }

    fn unfinished(&self) -> impl Iterator<Item = &RequestRecord> {
        self.requests.iter().filter(|request| request.progress.outcome.is_none())
    }
}

/// Waits until no work is left, then judges.
pub(super) async fn verify(world: &World, running: &Running<'_>) {
    tokio::time::sleep(SURE_WITHIN).await;
    // What was denied all the time is held by that name, and answered once it is granted.
    if !is_quiet(world, running).await {
        return;
    }
    world.say(format_args!("everything is granted"));
    world.state().grant_everything(true);
    if !is_quiet(world, running).await {
        return;
    }
    let mended = world.wait_until(INDEX_FIXED_WITHIN, || !world.state().is_index_broken()).await;
    assert!(mended, "the world does as it was told");
    let plan = world.state().plan;
    let within = if plan.may_hold_wallet() { FRESH_AFTER_FOREIGN } else { FRESH_WITHIN };
    let fresh = world.state().request().transaction;
    expect_through(world, running, fresh, within).await;
    if plan.repeats() {
        take_back_known_grants(world, running).await;
    }
    // It is updated every few seconds.
    let hidden = || running.reporter.gauges.borrow().hidden.clone();
    if !world.wait_until(SEEN_WITHIN, || hidden().is_empty()).await {
        let hidden = hidden();
        world.violation(format!("requests are said to be hidden: {hidden:?}"));
    }
    judge(world, running);
}

/// Waits for the answer to a new request.
async fn expect_through(world: &World, running: &Running<'_>, asked: B256, within: Duration) {
    let through = world
        .wait_until(within, || {
            let key = {
                let chain = &world.state().chain;
                let mut requests = chain.requests();
                requests.find(|one| one.ask.transaction == asked).map(|one| one.request.key)
            };
            let Some(key) = key else { return false };
            let outcome = Stored::read(running).ok().and_then(|stored| stored.outcome(key));
            matches!(outcome, Some(Outcome::Accepted { .. }))
        })
        .await;
    if !through {
        world.violation(format!("the fresh request {asked} does not get through"));
    }
}

/// What is known to be granted, without asking, is known no more once the ACL is another contract: it would
/// be asked of the Core (`grants`).
async fn take_back_known_grants(world: &World, running: &Running<'_>) {
    let again = world.state().request_again();
    let Some(known) = again else { return };
    expect_through(world, running, known.transaction, FRESH_WITHIN).await;
    {
        let mut state = world.state();
        let now = state.now();
        for host in &mut state.hosts {
            host.upgrade_to_empty(now);
        }
    }
    world.say(format_args!("the ACL is upgraded and grants nothing"));
    tokio::time::sleep(UPGRADE_KNOWN + SURE_WITHIN).await;
    let known = world.state().catalogue.repeat(&known);
    {
        let mut state = world.state();
        for host in &mut state.hosts {
            host.expect_again(&known);
        }
        state.numbered += 1;
        state.chain.request(known.clone(), 0);
    }
    tokio::time::sleep(SURE_WITHIN).await;
    world.say(format_args!("everything is granted"));
    world.state().grant_everything(true);
    expect_through(world, running, known.transaction, FRESH_WITHIN).await;
}

/// Waits until no work is left.
async fn is_quiet(world: &World, running: &Running<'_>) -> bool {
    let mut quiet = world.wait_until(QUIET_WITHIN, || still_open(world, running).is_empty()).await;
    let stale = |left: &String| left.contains("StaleAnswer");
    if !quiet && still_open(world, running).iter().all(stale) {
        // The Core was asked for a request that left the chain before anybody could know. The fix in
        // config/troubleshooting.md is a restart of the Core.
        world.say(format_args!("an operator restarts the core"));
        world.state().core.restart();
        quiet = world.wait_until(QUIET_WITHIN, || still_open(world, running).is_empty()).await;
    }
    if !quiet {
        for left in still_open(world, running) {
            world.violation(left);
        }
    }
    quiet
}

/// What has not reached its required state.
fn still_open(world: &World, running: &Running<'_>) -> Vec<String> {
    let (requests, due, used) = {
        let state = world.state();
        let requests: Vec<Requested> = state.chain.requests().cloned().collect();
        let due = state.chain.is_due() || state.numbered < state.plan.requests;
        (requests, due, state.chain.nonce(state.chain.height()))
    };
    let mut left = Vec::new();
    if due {
        left.push("a request is not on the chain yet".to_owned());
    }
    let stored = match Stored::read(running) {
        Ok(stored) => stored,
        Err(error) => {
            left.push(error);
            return left;
        }
    };
    for one in &requests {
        let key = one.request.key;
        let Some(RequestRecord { progress, .. }) = stored.request(key) else {
            left.push(format!("request {} was never seen", short(key)));
            continue;
        };
        let held = progress.held.as_ref().map(|held| &held.hold);
        let is_denied = held.is_some_and(|hold| hold.reason == HoldReason::AccessDeniedOnChain);
        if progress.outcome.is_none() && is_denied && is_withheld(world, one) {
            continue;
        }
        // The outcome `orphaned` is wrong here: the request is on the chain.
        if progress.outcome.as_ref().is_none_or(|end| *end == Outcome::Orphaned) {
            left.push(format!(
                "request {} has no outcome: {} {:?} {:?}",
                short(key),
                progress.stage.as_str(),
                held,
                progress.last_error,
            ));
        }
    }
    let side = world.state().key_side();
    match Stored::read_at(running, side) {
        Ok(of_keys) => {
            left.extend(keys::oracle::still_open(world, |key| of_keys.named(key)));
            let used = world.state().at(side, |state| state.chain.nonce(state.chain.height()));
            let open = of_keys.open_nonces.range(used..);
            left.extend(open.map(|nonce| format!("nonce {nonce} of keys is signed and not mined")));
        }
        Err(error) => left.push(error),
    }
    // Requests that left the chain and whose id now belongs to another request do not count.
    let keys: Vec<RequestKey> = requests.iter().map(|one| one.request.key).collect();
    let ids: BTreeSet<U256> = keys.iter().map(|key| key.id).collect();
    let gone =
        stored.unfinished().filter(|one| !keys.contains(&one.key) && ids.contains(&one.key.id));
    left.extend(gone.map(|one| {
        let held = one.progress.held.as_ref().map(|held| held.hold.to_string());
        let stage = one.progress.stage.as_str();
        format!("request {} has left the chain: {stage} {held:?}", short(one.key))
    }));
    // A nonce used by a foreign transaction stays open in the journal, and is followed at each
    // start.
    let open = stored.open_nonces.range(used..);
    left.extend(open.map(|nonce| format!("nonce {nonce} is signed and not mined")));
    left
}

/// Whether it ended because its KMS context is not current any more, or was destroyed; and that is true.
fn is_ended_by_its_context(world: &World, one: &Requested, stored: &Stored) -> bool {
    let Some(Outcome::Refused(Refusal::AccessRefused(why))) = stored.outcome(one.request.key)
    else {
        return false;
    };
    let state = world.state();
    let (chain, contexts) = (&state.chain, state.chain.contexts());
    let (named, current) = (one.ask.context(), context(contexts.current(chain.height())));
    let is_destroyed = named.is_some_and(|id| contexts.destroyed_at(id).is_some());
    let is_changed =
        named.is_none() && chain.bound_context(one).is_some_and(|bound| bound != current);
    (why.reason == AccessRefusalReason::ContextDestroyed && is_destroyed)
        || (why.reason == AccessRefusalReason::ContextChanged && is_changed)
}

/// Whether nobody may answer it yet.
fn is_withheld(world: &World, one: &Requested) -> bool {
    let state = world.state();
    let present = state.chain.generation(state.chain.height());
    present >= Generation::G12 && state.is_withheld(&one.ask)
}

/// What there is to say of the wallet's nonces on a chain, and whether it is wrong.
fn judge_nonces(state: &mut WorldState) -> Vec<(String, bool)> {
    let mut waiting = Vec::new();
    let next = state.chain.nonce(state.chain.height());
    for node in &state.chain.nodes {
        // Nonces far above were signed under a wrong count, and were given up.
        let near = node.pool.range(next..next + MOST_FILLED);
        waiting.extend(near.map(|(nonce, _)| *nonce));
    }
    let mined = state.chain.blocks().iter().flat_map(|block| &block.transactions);
    let own = mined.map(|mined| &mined.transaction).filter(|one| !one.foreign);
    let noops = own.filter(|one| one.answers().is_none()).count();
    // Nobody can know what a life signed whose journal is lost.
    let is_missing = !waiting.is_empty() && !state.lost;
    let mut said = vec![(format!("{noops} nonces were filled with nothing"), noops > MOST_NOOPS)];
    if is_missing {
        said.push((format!("a nonce is missing below {waiting:?}"), true));
    }
    said
}

fn judge(world: &World, running: &Running<'_>) {
    let stored = match Stored::read(running) {
        Ok(stored) => stored,
        Err(error) => return world.violation(error),
    };
    let requests: Vec<_> = world.state().chain.requests().cloned().collect();
    // What the chain says: answers by request, successful or not.
    let mut answers: BTreeMap<U256, (u32, u32)> = BTreeMap::new();
    {
        let state = world.state();
        for block in state.chain.blocks() {
            for mined in &block.transactions {
                let Some(id) = mined.transaction.answers() else { continue };
                let counts = answers.entry(id).or_default();
                if mined.receipt.success {
                    counts.0 += 1;
                } else {
                    counts.1 += 1;
                }
            }
        }
    }
    let sides = world.state().sides();
    for side in sides {
        let said = world.state().at(side, judge_nonces);
        for (what, is_wrong) in said {
            world.say(format_args!("{what}"));
            if is_wrong {
                world.violation(what);
            }
        }
    }
    for one in &requests {
        let Requested { request, ask, .. } = one;
        let (taken, refused) = answers.get(&request.key.id).copied().unwrap_or_default();
        let is_ended = is_ended_by_its_context(world, one, &stored);
        if let Some(flaw) = ask.flaw.filter(|_| !is_ended) {
            judge_refused(world, request.key, stored.outcome(request.key).as_ref(), flaw);
            continue;
        }
        // An earlier answer of a journal that was lost is found once there is another one.
        if is_ended && (taken == 0 || (taken == 1 && world.state().lost)) {
            continue;
        }
        if taken != 1 {
            world.violation(format!("request {} has {taken} answers", short(request.key)));
        }
        if refused > 0 {
            let what = format!("request {} was sent {refused} times too often", short(request.key));
            world.say(format_args!("{what}"));
            if !world.state().plan.may_waste() {
                world.violation(what);
            }
        }
        match stored.outcome(request.key) {
            Some(Outcome::Accepted { transaction, .. }) => {
                let state = world.state();
                let receipt = state.chain.receipt(transaction, state.chain.height());
                let there = receipt.is_some_and(|receipt| receipt.success);
                drop(state);
                if !there {
                    world.violation(format!(
                        "request {} was accepted in a transaction the chain does not have",
                        short(request.key)
                    ));
                }
            }
            Some(Outcome::AlreadyAnswered) => {}
            other @ (None
            | Some(
                Outcome::Expired
                | Outcome::Orphaned
                | Outcome::Refused(_)
                | Outcome::Observed
                | Outcome::Aborted
                | Outcome::NoAnswerDue
                | Outcome::Recorded,
            )) => {
                world.violation(format!("request {} ended as {other:?}", short(request.key)));
            }
        }
    }
    for one in stored.unfinished() {
        let held = one.progress.held.as_ref().map(|held| held.hold.to_string());
        let what = (one.progress.stage.as_str(), held);
        world.say(format_args!("left the chain, and open: {} {what:?}", short(one.key)));
    }
    let side = world.state().key_side();
    match Stored::read_at(running, side) {
        Ok(of_keys) => {
            for wrong in keys::oracle::judge(world, |key| of_keys.named(key)) {
                world.violation(wrong);
            }
        }
        Err(error) => world.violation(error),
    }
    assert_eq!(world.state().chain.blocks()[0].events.len(), 0, "{DECRYPTION}");
}

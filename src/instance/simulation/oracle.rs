//! What must hold once the world is well.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Running, chain::DECRYPTION, ledger::short, world::World};
use crate::{
    domain::{Outcome, RequestKey, U256},
    journal::Holds,
};

/// Time for everything that was held or waits to be tried again.
const QUIET_WITHIN: Duration = Duration::from_mins(30);
/// What the chain dropped last is believed to be gone by then.
const SURE_WITHIN: Duration = Duration::from_secs(30);
/// What was hidden is found, and not told any more: holes are looked at ever more seldom.
const SEEN_WITHIN: Duration = Duration::from_mins(15);
/// By then every index of logs is in order.
const MENDED_WITHIN: Duration = Duration::from_mins(5);
/// Time for one request in a world without faults.
const FRESH_WITHIN: Duration = Duration::from_mins(2);

/// The same where somebody else used the wallet: it is held until ten minutes were quiet.
const FRESH_AFTER_FOREIGN: Duration = Duration::from_mins(15);

/// A gap that is wider is not filled.
const MOST_FILLED: u64 = 64;
/// Nonces that were filled with nothing, in one story.
const MOST_NOOPS: usize = 64;

/// Waits until nothing is left to do, and judges.
pub(super) async fn look(world: &World, running: &mut Running) {
    tokio::time::sleep(SURE_WITHIN).await;
    let mut quiet =
        world.until(QUIET_WITHIN, async || still_open(world, running).await.is_empty()).await;
    let stale = |left: &String| left.contains("StaleAnswer");
    if !quiet && still_open(world, running).await.iter().all(stale) {
        // Asked for what left the chain before anybody could know: as the README says, a restart of
        // the Core mends it.
        world.say(format_args!("an operator restarts the core"));
        world.state().core.restart();
        quiet =
            world.until(QUIET_WITHIN, async || still_open(world, running).await.is_empty()).await;
    }
    if !quiet {
        for left in still_open(world, running).await {
            world.violation(left);
        }
        return;
    }
    let mended = world.until(MENDED_WITHIN, async || !world.state().is_index_broken()).await;
    debug_assert!(mended, "the world does as it was told");
    let fresh = world.state().request().transaction;
    let plan = world.state().plan;
    let within = if plan.may_hold_wallet() { FRESH_AFTER_FOREIGN } else { FRESH_WITHIN };
    let through = world
        .until(within, async || {
            let key = {
                let chain = &world.state().chain;
                let mut requests = chain.requests();
                requests.find(|request| request.transaction == fresh).map(|request| request.key)
            };
            let Some(key) = key else { return false };
            matches!(outcome(running, key).await, Some(Outcome::Accepted { .. }))
        })
        .await;
    if !through {
        world.violation(format!("the fresh request {fresh} does not get through"));
    }
    // It is looked at every few seconds.
    if !world.until(SEEN_WITHIN, async || running.sight.borrow().hidden.is_empty()).await {
        let hidden = running.sight.borrow().hidden.clone();
        world.violation(format!("requests are said to be hidden: {hidden:?}"));
    }
    judge(world, running).await;
}

async fn outcome(running: &Running, key: RequestKey) -> Option<Outcome> {
    let record = running.journal.request(key).await.ok()??;
    record.progress.outcome
}

/// What is not yet as it must become.
async fn still_open(world: &World, running: &Running) -> Vec<String> {
    let (keys, due) = {
        let state = world.state();
        let keys: Vec<RequestKey> = state.chain.requests().map(|request| request.key).collect();
        (keys, state.chain.is_due() || state.numbered < state.plan.requests)
    };
    let mut left = Vec::new();
    if due {
        left.push("a request is not on the chain yet".to_owned());
    }
    if let Err(error) = running.journal.flush().await {
        left.push(format!("the journal failed: {error}"));
    }
    for key in keys.iter().copied() {
        match running.journal.request(key).await {
            // That it left the chain is no end: it is there.
            Ok(Some(record))
                if record
                    .progress
                    .outcome
                    .as_ref()
                    .is_some_and(|end| *end != Outcome::Orphaned) => {}
            Ok(Some(record)) => left.push(format!(
                "request {} has no outcome: {} {:?} {:?}",
                short(key),
                record.progress.stage.as_str(),
                record.progress.held.map(|held| held.hold),
                record.progress.last_error,
            )),
            Ok(None) => left.push(format!("request {} was never seen", short(key))),
            Err(error) => left.push(error.to_string()),
        }
    }
    // What left the chain, and whose id is another one's, is nobody's business any more.
    let ids: BTreeSet<U256> = keys.iter().map(|key| key.id).collect();
    match running.journal.unfinished(None, 1000, Holds::Included).await {
        Ok(open) => {
            let gone =
                open.iter().filter(|one| !keys.contains(&one.key) && ids.contains(&one.key.id));
            left.extend(gone.map(|one| {
                let (stage, held) =
                    (one.stage.as_str(), one.held.as_ref().map(ToString::to_string));
                format!("request {} has left the chain: {stage} {held:?}", short(one.key))
            }));
        }
        Err(error) => left.push(error.to_string()),
    }
    // A nonce that somebody else used stays open in the journal, and is followed at each start.
    let used = {
        let state = world.state();
        state.chain.nonce(state.chain.height())
    };
    match running.journal.open_transactions().await {
        Ok(open) => {
            let open = open.iter().map(|one| one.nonce).filter(|nonce| *nonce >= used);
            left.extend(open.map(|nonce| format!("nonce {nonce} is signed and not mined")));
        }
        Err(error) => left.push(error.to_string()),
    }
    left
}

async fn judge(world: &World, running: &Running) {
    let requests: Vec<_> = world.state().chain.requests().cloned().collect();
    // The chain's word: answers by request, successful or not.
    let mut answers: BTreeMap<U256, (u32, u32)> = BTreeMap::new();
    let mut waiting = Vec::new();
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
        let next = state.chain.nonce(state.chain.height());
        for node in &state.chain.nodes {
            // What is far beyond was signed under a wrong count, and was given up.
            let near = node.pool.range(next..next + MOST_FILLED);
            waiting.extend(near.map(|(nonce, _)| *nonce));
        }
    }
    let noops = {
        let state = world.state();
        let mined = state.chain.blocks().iter().flat_map(|block| &block.transactions);
        let own = mined.map(|mined| &mined.transaction).filter(|one| !one.foreign);
        own.filter(|one| one.answers().is_none()).count()
    };
    world.say(format_args!("{noops} nonces were filled with nothing"));
    if noops > MOST_NOOPS {
        world.violation(format!("{noops} nonces were filled with nothing"));
    }
    // What a life signed whose journal is lost, nobody can know.
    if !waiting.is_empty() && !world.state().lost {
        world.violation(format!("a nonce is missing below {waiting:?}"));
    }
    for request in &requests {
        let (taken, refused) = answers.get(&request.key.id).copied().unwrap_or_default();
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
        match outcome(running, request.key).await {
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
                Outcome::Expired | Outcome::Orphaned | Outcome::Refused(_) | Outcome::Observed,
            )) => {
                world.violation(format!("request {} ended as {other:?}", short(request.key)));
            }
        }
    }
    if let Ok(left) = running.journal.unfinished(None, 1000, Holds::Included).await {
        for one in left {
            let what = (one.stage.as_str(), one.held.map(|hold| hold.to_string()));
            world.say(format_args!("left the chain, and open: {} {what:?}", short(one.key)));
        }
    }
    debug_assert_eq!(world.state().chain.blocks()[0].events.len(), 0, "{DECRYPTION}");
}

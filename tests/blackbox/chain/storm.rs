//! Many answers at once, and what can happen to all of them: sends that are lost or late, blocks that
//! leave the chain with what was mined in them.

use std::time::Duration;

use serde_json::Value;
use world::{
    Error, Result,
    audit::Journal,
    faulty_rpc::{FaultyRpc, Lie, Rule},
    program,
    request::{Ask, Issued},
    scene::{PATIENCE, Scene, SceneOptions, tail},
    until,
};

const POLL: Duration = Duration::from_millis(100);
/// Longer than the connector waits for the answer to a send.
const PAST_THE_DEADLINE: Duration = Duration::from_secs(12);
/// A nonce whose send was lost is sent again after that deadline, perhaps several times.
const STORM: Duration = Duration::from_mins(5);

// The nonce storm.

/// T39, T62: what became of a send is not known, five hundred times over. The same bytes again are
/// no second transaction.
#[world::test]
async fn t39_t62_a_storm_of_lost_and_late_sends_is_answered_without_more_transactions() -> Result<()>
{
    const REQUESTS: usize = 500;
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
    for send in ["eth_sendRawTransaction", "eth_sendRawTransactionSync"] {
        // A fifth of all, then a fourth of the others: a fifth each.
        node.rule(Rule::share(0.2, send, Lie::Silence));
        node.rule(Rule::share(0.25, send, Lie::Late(PAST_THE_DEADLINE)));
    }
    scene.start_with(program(), &through(&scene, &node))?;
    let requests = scene.deployment.request(Ask::mixed(REQUESTS / 2, REQUESTS / 2)).await?;
    scene.answered_within(&requests, STORM).await?;
    scene.audit(&requests, Journal::Whole).await?;
    let mined = scene.deployment.chain.nonce(scene.wallet.address()).await?;
    let extra = mined.saturating_sub(REQUESTS as u64);
    let failed = scene.deployment.failed_transactions().await?.len();
    let sends = node.transactions().len();
    println!("{sends} sends, {mined} transactions mined, {failed} of them failed");
    assert!(sends > REQUESTS, "nothing was lost");
    assert!(extra * 50 <= REQUESTS as u64, "{extra} transactions too many");
    Ok(())
}

fn through(scene: &Scene, node: &FaultyRpc) -> String {
    scene.config("").replace(&scene.anvil.ws_url(), &node.ws_url())
}

// A reorganisation that drops a hundred mined answers.

const HUNDRED: usize = 100;
/// Requests of one transaction, as `Deployment` groups them.
const AT_ONCE: usize = 25;

/// A chain that makes blocks when told to, a hundred requests on it, and all their answers in its
/// last block. The connector knows that they are there.
async fn a_hundred_answers() -> Result<(Scene, Vec<Issued>)> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let chain = scene.deployment.chain.clone();
    scene.start(program())?;
    chain.set_block_time(0).await?;
    // So that the reorganisation never goes below the contracts.
    chain.mine(10).await?;
    let requests = scene.deployment.request(Ask::mixed(HUNDRED / 2, HUNDRED / 2)).await?;
    until("a hundred broadcast answers", PATIENCE, POLL, async || {
        let unmined = chain.unmined(scene.wallet.address()).await?;
        Ok((unmined.len() == HUNDRED).then_some(()))
    })
    .await
    .map_err(|error| Error::other(format!("{error}\n{}", tail(&scene.log()))))?;
    chain.mine(1).await?;
    scene.answered(&requests).await?;
    until("a hundred settled requests", PATIENCE, POLL, async || {
        let outcomes = outcomes(&scene)?;
        let accepted = |outcome: &&Option<String>| outcome.as_deref() == Some("accepted");
        Ok((outcomes.iter().filter(accepted).count() == HUNDRED).then_some(()))
    })
    .await?;
    Ok((scene, requests))
}

fn outcomes(scene: &Scene) -> Result<Vec<Option<String>>> {
    scene.query("SELECT outcome FROM requests ORDER BY seq", |row| row.get(0))
}

/// How many blocks must go for `number` to be gone.
async fn depth_of(scene: &Scene, number: u64) -> Result<u64> {
    Ok(scene.deployment.chain.block_number().await? - number + 1)
}

async fn none_are_answered(scene: &Scene) -> Result<()> {
    let left = scene.deployment.answers().await?.len();
    if left == 0 { Ok(()) } else { Err(Error::other(format!("{left} answers are left"))) }
}

/// The answers were mined again by the transactions they were in, and no others were made.
async fn no_others(scene: &Scene) -> Result<()> {
    let mined = scene.deployment.chain.nonce(scene.wallet.address()).await?;
    let failed = scene.deployment.failed_transactions().await?.len();
    if mined == HUNDRED as u64 {
        return Ok(());
    }
    let log = tail(&scene.log());
    Err(Error::other(format!("{mined} transactions were mined, {failed} of them failed\n{log}")))
}

/// The requests stay, and their answers go.
#[world::test]
async fn a_reorganisation_drops_a_hundred_mined_answers() -> Result<()> {
    let (mut scene, requests) = a_hundred_answers().await?;
    let chain = scene.deployment.chain.clone();
    let above = requests.iter().map(|request| request.block).max().unwrap_or_default() + 1;
    chain.reorg(depth_of(&scene, above).await?).await?;
    none_are_answered(&scene).await?;
    chain.set_block_time(1).await?;
    scene.audit(&requests, Journal::Whole).await?;
    no_others(&scene).await
}

/// The transactions that made these requests, in order.
async fn asking(scene: &Scene, requests: &[Issued]) -> Result<Vec<Value>> {
    let mut asking = Vec::new();
    for portion in requests.chunks(AT_ONCE) {
        let hash = portion[0].transaction;
        assert!(portion.iter().all(|request| request.transaction == hash));
        asking.push(scene.deployment.chain.transaction_again(hash).await?);
    }
    Ok(asking)
}

/// The requests in the blocks they stand in now.
async fn moved(scene: &Scene, requests: &[Issued]) -> Result<Vec<Issued>> {
    let mut moved = requests.to_vec();
    for portion in moved.chunks_mut(AT_ONCE) {
        let receipt = scene.deployment.chain.receipt(portion[0].transaction).await?;
        for request in portion {
            request.block = receipt.block_number.to();
        }
    }
    Ok(moved)
}

/// The requests go as well, and come back in other blocks.
#[world::test]
async fn a_reorganisation_moves_a_hundred_requests_and_drops_their_answers() -> Result<()> {
    let (scene, requests) = a_hundred_answers().await?;
    let chain = scene.deployment.chain.clone();
    let asking = asking(&scene, &requests).await?;
    let depth = depth_of(&scene, requests[0].block).await?;
    // Some where they were, the others a block later.
    let kept: Vec<(Value, u64)> =
        asking.into_iter().enumerate().map(|(n, call)| (call, u64::from(n >= 2))).collect();
    chain.reorg_with(depth, &kept).await?;
    none_are_answered(&scene).await?;
    chain.set_block_time(1).await?;
    scene.answered_within(&moved(&scene, &requests).await?, PATIENCE * 2).await?;
    no_others(&scene).await
}

/// Three quarters of the requests come back, the others do not: those are answered again, these end
/// as orphaned.
#[world::test]
async fn a_reorganisation_brings_only_some_of_a_hundred_requests_back() -> Result<()> {
    let (scene, requests) = a_hundred_answers().await?;
    let chain = scene.deployment.chain.clone();
    let (back, gone) = requests.split_at(HUNDRED - AT_ONCE);
    let kept: Vec<(Value, u64)> =
        asking(&scene, back).await?.into_iter().map(|call| (call, 0)).collect();
    chain.reorg_with(depth_of(&scene, requests[0].block).await?, &kept).await?;
    none_are_answered(&scene).await?;
    chain.set_block_time(1).await?;
    scene.answered_within(&moved(&scene, back).await?, PATIENCE * 2).await?;
    // Deep enough to be sure that the others do not come back.
    chain.mine(70).await?;
    until("orphaned requests", PATIENCE, POLL, async || {
        let outcomes = outcomes(&scene)?;
        let orphaned = |outcome: &&Option<String>| outcome.as_deref() == Some("orphaned");
        Ok((outcomes.iter().filter(orphaned).count() == gone.len()).then_some(()))
    })
    .await
    .map_err(|error| Error::other(format!("{error}\n{}", tail(&scene.log()))))?;
    let answers = scene.deployment.answers().await?;
    assert_eq!(answers.len(), back.len());
    Ok(())
}

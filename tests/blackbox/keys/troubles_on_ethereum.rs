//! What goes wrong with keys and CRSs on Ethereum: everything is held by its name, and nothing wrong is sent.

use std::time::{Duration, Instant};

use alloy::primitives::{U256, keccak256};
use world::{
    Result,
    contracts::Variant,
    core_stub::{CoreVersion, Fault, KeyOperation},
    fleet::name,
    journal::Entry,
    key_contracts::{OnEthereum, RawLog, raw},
    program, random_key,
    request::Ask,
    scene::{PATIENCE, SceneOptions},
    until,
};

use super::stage::{POLL, SOON_FINAL, Stage, reason_of};

/// An event that comes thrice, one that no version knows, a signature of another key, a result that differs.
#[world::test]
async fn a_crs_through_every_trouble() -> Result<()> {
    let stage = Stage::with_one(Variant::G14, SOON_FINAL).await?;
    let (core, registered) = (stage.core(0), stage.fleet.parties.list[0].signer.clone());
    core.set_signer(random_key());
    let crs = stage.keys.crsgen().await?;
    let again = OnEthereum::CrsgenRequest {
        crsId: crs.id,
        maxBitLength: U256::from(crs.bits.unwrap_or_default()),
        paramsType: 1,
        extraData: crs.extra_data.clone(),
    };
    let unknown = keccak256("KeygenRequest(uint256,uint256,uint256)");
    let unknown = RawLog { topics: vec![unknown], data: vec![7; 96].into() };
    stage.keys.emit_raw(vec![raw(&again), raw(&again), unknown]).await?;
    let held = |entry: &Entry| reason_of(entry) == Some("unsupported_event");
    stage.row("an unsupported event", held).await?;

    stage.held(crs.id, "signer_mismatch").await?;
    stage.others_vote(&crs).await?;
    core.change(|behaviour| behaviour.fault = Some(Fault::Diverges));
    core.set_signer(registered);
    let told = stage.held(crs.id, "result_differs").await?;
    for digest in [core, stage.core(1)].map(|core| core.answer_to(&crs.ask()).digests[0].1.clone())
    {
        let digest = alloy::hex::encode(digest);
        assert!(told.contains(&digest), "{digest} in {told}");
    }
    assert_eq!(stage.mine(&crs).await?, 0);
    core.change(|behaviour| behaviour.fault = None);
    stage.answered(&[0, 1, 2, 3], &[&crs]).await?;
    assert_eq!(core.accepted_key(crs.operation, crs.id), 1);
    let rows = stage.fleet.key_entries(0)?;
    assert_eq!(rows.iter().filter(|entry| entry.id == crs.id).count(), 1);
    assert_eq!(rows.iter().filter(|entry| held(entry)).count(), 1);
    Ok(())
}

/// Digests of a kind that the contract does not know; then a preparation that the Core has lost, whose key the
/// owner gives up.
#[world::test]
async fn a_key_whose_digests_nobody_knows_and_one_without_its_preparation() -> Result<()> {
    let mut stage = Stage::with_one(Variant::G13, SOON_FINAL).await?;
    let preparation = stage.keys.keygen().await?;
    let key = preparation.key();
    stage.answered(&[0], &[&preparation]).await?;
    stage.core(0).change(|behaviour| behaviour.fault = Some(Fault::UnknownKeyType));
    stage.others_vote(&preparation).await?;
    stage.held(key.id, "invalid_answer").await?;
    assert_eq!(stage.mine(&key).await?, 0);
    stage.core(0).change(|behaviour| behaviour.fault = None);
    stage.others_vote(&key).await?;
    stage.answered(&[0, 1, 2, 3], &[&key]).await?;

    let preparation = stage.keys.keygen().await?;
    let key = preparation.key();
    stage.answered(&[0], &[&preparation]).await?;
    stage.fleet.parties.list[0].core.restart().await;
    stage.others_vote(&preparation).await?;
    stage.held(key.id, "core_lacks_preparation").await?;
    assert_eq!(stage.mine(&key).await?, 0);
    let abort = OnEthereum::abortKeygenCall { prepKeygenId: preparation.id };
    stage.keys.send(&abort).await?;
    stage.settled(key.id, "aborted").await?;
    stage.fleet.unbroken()
}

/// The preparation of the key was before this node's time, and its Core does not know it.
#[world::test]
async fn a_key_of_a_preparation_that_nobody_here_knows_is_held() -> Result<()> {
    let mut stage = Stage::set(SceneOptions::of(Variant::G14)).await?;
    let preparation = stage.keys.keygen().await?;
    let key = preparation.key();
    let begin = stage.keys.chain.block_number().await? + 1;
    let config = stage.fleet.config(0, SOON_FINAL);
    let since = |block: u64| format!("ethereum_starting_block = {block}\n");
    let config = config.replace(&since(stage.keys.since_block), &since(begin));
    stage.fleet.supervisor.configs.write(&name(0), &config)?;
    stage.fleet.supervisor.start(program())?;
    stage.fleet.supervisor.until_running(&[name(0)]).await?;
    stage.others_vote(&preparation).await?;
    stage.held(key.id, "core_lacks_preparation").await?;
    assert_eq!(stage.core(0).accepted_key(KeyOperation::Key, key.id), 0);
    assert_eq!(stage.mine(&key).await?, 0);
    Ok(())
}

/// A Core that signs no extraData, which these contracts check. It is replaced, and answers.
#[world::test]
async fn a_core_of_an_earlier_version_is_not_asked() -> Result<()> {
    let options = SceneOptions { core: CoreVersion::V0_13_10, ..SceneOptions::of(Variant::G13) };
    let mut stage = Stage::set(options).await?;
    stage.fleet.write(0, SOON_FINAL)?;
    stage.fleet.supervisor.start(program())?;
    stage.fleet.supervisor.until_running(&[name(0)]).await?;
    let requests = [stage.keys.crsgen().await?, stage.keys.keygen().await?];
    for request in &requests {
        let told = stage.held(request.id, "core_version").await?;
        assert!(told.contains("older than v0.13.20"), "{told}");
    }
    assert_eq!(stage.core(0).key_asks(), []);
    // Its aborts are due all the same: such a Core was never asked.
    for request in &requests {
        let id = request.id;
        if request.operation == KeyOperation::Crs {
            stage.keys.send(&OnEthereum::abortCrsgenCall { crsId: id }).await?;
        } else {
            stage.keys.send(&OnEthereum::abortKeygenCall { prepKeygenId: id }).await?;
        }
        stage.settled(id, "aborted").await?;
    }
    Ok(())
}

/// Its wallet is empty on Ethereum: it says where, decryptions go on, and nothing is lost.
#[world::test]
async fn an_empty_wallet_on_ethereum_holds_up_no_decryption() -> Result<()> {
    let stage = Stage::with_one(Variant::G14, SOON_FINAL).await?;
    let wallet = stage.fleet.wallet(0);
    stage.keys.chain.set_balance(wallet, U256::ZERO).await?;
    let crs = stage.keys.crsgen().await?;
    let told = stage.held(crs.id, "no_funds").await?;
    let chain = format!("on chain {}", stage.keys.chain_id);
    assert!(told.contains(&chain), "{told}");
    let asks = Ask::mixed_of(Variant::G14, 1, 1);
    for chain in &stage.fleet.parties.hosts {
        chain.host.grant(&asks).await?;
    }
    let issued = stage.fleet.request(asks).await?;
    stage.fleet.answered_by(&[0], &issued).await?;
    stage.fleet.parties.hosts[0].anvil.fund(wallet).await?;
    stage.answered(&[0], &[&crs]).await?;
    until("it is settled", PATIENCE, POLL, async || {
        let rows = stage.fleet.key_entries(0)?;
        Ok(rows.iter().all(|row| row.outcome.as_deref() == Some("accepted")).then_some(()))
    })
    .await
}

/// An answer is mined, and counts once its block is deep: the end of the program does not wait for that, and the
/// next start goes on with it.
#[world::test]
async fn a_stop_waits_for_no_depth() -> Result<()> {
    let mut stage = Stage::set(SceneOptions::of(Variant::G14)).await?;
    let config = stage.fleet.config(0, SOON_FINAL);
    let config = config.replace("_confirmations = 3", "_confirmations = 200");
    stage.fleet.supervisor.configs.write(&name(0), &config)?;
    stage.fleet.supervisor.start(program())?;
    stage.fleet.supervisor.until_running(&[name(0)]).await?;
    let crs = stage.keys.crsgen().await?;
    stage.answered(&[0], &[&crs]).await?;
    stage.row("it is submitted", |entry| entry.stage == "submitted").await?;
    let begun = Instant::now();
    assert_eq!(stage.fleet.supervisor.stop().await?, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    stage.fleet.supervisor.start(program())?;
    stage.fleet.supervisor.until_running(&[name(0)]).await?;
    stage.keys.chain.mine(200).await?;
    stage.settled(crs.id, "accepted").await?;
    assert_eq!(stage.keys.chain.nonce(stage.fleet.wallet(0)).await?, 1);
    assert_eq!(stage.core(0).accepted_key(crs.operation, crs.id), 1);
    stage.fleet.unbroken()
}

/// The base fee leaps above what the operator pays at most: votes wait under the key's name and the chain's, and
/// are sent once it has fallen.
#[world::test]
async fn a_base_fee_above_the_cap_makes_a_vote_wait() -> Result<()> {
    let stage = Stage::with_one(Variant::G14, SOON_FINAL).await?;
    let chain = &stage.keys.chain;
    // It falls by an eighth with each empty block: some seconds.
    let fee = serde_json::json!([format!("{:#x}", 10_000_000_000_000_u64)]);
    let _null: serde_json::Value = chain.rpc("anvil_setNextBlockBaseFeePerGas", fee).await?;
    let crs = stage.keys.crsgen().await?;
    let told = stage.held(crs.id, "fee_cap").await?;
    assert!(told.contains("ethereum_max_fee_per_gas_gwei = 500"), "{told}");
    assert!(told.contains(&format!("of chain {}", stage.keys.chain_id)), "{told}");
    stage.answered(&[0], &[&crs]).await?;
    stage.settled(crs.id, "accepted").await?;
    assert_eq!(chain.nonce(stage.fleet.wallet(0)).await?, 1);
    assert_eq!(stage.core(0).accepted_key(crs.operation, crs.id), 1);
    Ok(())
}

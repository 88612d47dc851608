//! Journals of an earlier version (schema 6) in which a node's wrong word was signed: false nonces, fees
//! and gas that nothing pays. They start, heal, and everything is answered once.
//!
//! Their rows are this version's own, of answers that no node took, put into the tables of that version
//! and signed anew as it did.

use std::{path::Path, time::Duration};

use alloy::{
    consensus::{SignableTransaction as _, TxEip1559, TxEnvelope},
    eips::{Decodable2718 as _, Encodable2718 as _},
    primitives::U256,
    signers::{SignerSync as _, local::PrivateKeySigner},
};
use world::{
    Error, Result,
    audit::Journal,
    faulty_rpc::{FaultyRpc, Lie, Rule},
    journal, program,
    request::{Ask, Issued},
    scene::{PATIENCE, Scene, SceneOptions},
    until,
};

const GWEI: u128 = 1_000_000_000;

/// Four requests whose answers are signed, and taken by nobody; then all of it is poisoned. The node is
/// honest from then on.
async fn poisoned(poison: impl Fn(&mut TxEip1559)) -> Result<(Scene, FaultyRpc, Vec<Issued>)> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
    node.rule(Rule::always("eth_sendRawTransaction", Lie::error(-32603, "internal error")));
    let config = scene.config("").replace(&scene.anvil.ws_url(), &node.ws_url());
    scene.start_with(program(), &config)?;
    let requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    until("signed answers", PATIENCE, Duration::from_millis(50), async || {
        let Some(file) = scene.journal() else { return Ok(None) };
        let signed = journal::signed(&file).unwrap_or_default();
        Ok((signed.len() == requests.len()).then_some(()))
    })
    .await?;
    scene.kill();
    let file = scene.journal().ok_or_else(|| Error::other("no journal"))?;
    journal::into_version_6(&file)?;
    sign_anew(&file, &scene.wallet, poison)?;
    node.be_honest();
    Ok((scene, node, requests))
}

fn sign_anew(
    file: &Path,
    wallet: &PrivateKeySigner,
    poison: impl Fn(&mut TxEip1559),
) -> Result<()> {
    let failed = |error: String| Error::other(format!("signing anew: {error}"));
    for (seq, raw) in journal::signed(file)? {
        let envelope = TxEnvelope::decode_2718(&mut raw.as_slice());
        let TxEnvelope::Eip1559(signed) = envelope.map_err(|e| failed(e.to_string()))? else {
            return Err(failed("another type".to_owned()));
        };
        let mut transaction = signed.strip_signature();
        poison(&mut transaction);
        let signature = wallet.sign_hash_sync(&transaction.signature_hash());
        let signed = transaction.into_signed(signature.map_err(|e| failed(e.to_string()))?);
        let (nonce, hash) = (signed.tx().nonce, *signed.hash());
        let raw = TxEnvelope::from(signed).encoded_2718();
        journal::sign_instead(file, seq, (nonce, hash, &raw))?;
    }
    Ok(())
}

/// What was signed while a node said that the wallet had sent 5,000 transactions.
#[world::test]
async fn a9_false_nonces_of_an_earlier_version_heal() -> Result<()> {
    let (mut scene, _node, mut requests) = poisoned(|one| one.nonce += 5000).await?;
    scene.start_again(program())?;
    requests.extend(scene.deployment.request(Ask::mixed(1, 1)).await?);
    scene.answered(&requests).await?;
    for request in &requests {
        scene.settled(request.id, "accepted").await?;
    }
    let sent = scene.deployment.chain.nonce(scene.wallet.address()).await?;
    assert_eq!(sent, requests.len() as u64, "no hole is filled");
    let given_up = scene.query("SELECT given_up FROM transactions WHERE nonce >= 5000", |row| {
        row.get::<_, Option<String>>(0)
    })?;
    assert_eq!(given_up, vec![Some("stranded".to_owned()); 4]);
    scene.alive()
}

/// What was signed while a node told absurd tips, and an absurd estimate.
#[world::test]
async fn a9b_a9c_absurd_fees_and_gas_of_an_earlier_version_heal() -> Result<()> {
    let poison = |one: &mut TxEip1559| match one.nonce {
        0 => one.gas_limit = u64::MAX,
        1 => {
            (one.max_fee_per_gas, one.max_priority_fee_per_gas) = (100_000 * GWEI, 100_000 * GWEI);
        }
        _ => {
            let tip = u128::from(u64::MAX);
            (one.max_fee_per_gas, one.max_priority_fee_per_gas) = (tip + GWEI, tip);
        }
    };
    let (mut scene, _node, mut requests) = poisoned(poison).await?;
    let balance = async |scene: &Scene| scene.anvil.chain().balance(scene.wallet.address()).await;
    let before = balance(&scene).await?;
    scene.start_again(program())?;
    requests.extend(scene.deployment.request(Ask::mixed(1, 1)).await?);
    scene.audit(&requests, Journal::Whole).await?;
    let paid = before - balance(&scene).await?;
    assert!(paid < U256::from(GWEI * GWEI), "less than an ether: {paid}");
    Ok(())
}

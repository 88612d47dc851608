//! Key generations that the owner of the contract gives up: before they begin, while they run, and when our
//! answer is sent.

use alloy::primitives::U256;
use world::{
    Result,
    contracts::Variant,
    core_stub::{KeyOperation, Lifecycle, request_id},
    key_contracts::{KMSGeneration, OnEthereum},
    key_generation::{BITS, KeyRequest},
    rpc::Call,
    scene::PATIENCE,
    until,
};

use super::stage::{POLL, SOON_FINAL, Stage};

/// More than any call here needs: what a call of the same block makes possible cannot be estimated.
const GAS: u64 = 1_000_000;

/// The first preparation and the first CRS.
const FIRST: [U256; 2] =
    [U256::from_limbs([1, 0, 0, 3 << 56]), U256::from_limbs([1, 0, 0, 5 << 56])];

/// Request and abort are in one block.
async fn before_they_begin(stage: &Stage) -> Result<()> {
    stage.core(0).change(|core| core.never_finish = true);
    let ([preparation, crs], bits) = (FIRST, U256::from(BITS));
    let contract = stage.keys.address;
    let calls = [
        Call::new(contract, &KMSGeneration::keygenCall { paramsType: 1 }),
        Call::new(contract, &OnEthereum::abortKeygenCall { prepKeygenId: preparation }),
        Call::new(
            contract,
            &KMSGeneration::crsgenRequestCall { maxBitLength: bits, paramsType: 1 },
        ),
        Call::new(contract, &OnEthereum::abortCrsgenCall { crsId: crs }),
    ];
    let calls = calls.into_iter().map(|call| call.gas(GAS)).collect();
    stage.keys.chain.send_all(calls).await?;
    for id in FIRST {
        stage.settled(id, "aborted").await?;
        assert_eq!(stage.keys.answers(id).await?.len(), 0);
    }
    // Which of the two walks was first is chance; what was begun is undone.
    for ask in stage.core(0).key_asks() {
        let id = U256::from_str_radix(&ask.id, 16).expect("an id");
        let told = stage.core(0).accepted_lifecycle(id);
        assert_eq!(told.len(), 1, "{ask:?} was taken back");
    }
    Ok(())
}

async fn abort(stage: &Stage, request: &KeyRequest) -> Result<()> {
    let aborted = if request.operation == KeyOperation::Crs {
        stage.keys.send(&OnEthereum::abortCrsgenCall { crsId: request.id }).await
    } else {
        stage.keys.send(&OnEthereum::abortKeygenCall { prepKeygenId: request.id }).await
    };
    aborted.map(drop)
}

async fn while_the_core_is_at_it(stage: &Stage) -> Result<()> {
    stage.core(0).change(|core| core.never_finish = true);
    let (preparation, crs) = (stage.keys.keygen().await?, stage.keys.crsgen().await?);
    for request in [&preparation, &crs] {
        until("it is asked", PATIENCE, POLL, async || {
            Ok((stage.core(0).accepted_key(request.operation, request.id) == 1).then_some(()))
        })
        .await?;
        abort(stage, request).await?;
    }
    for request in [&preparation, &crs] {
        stage.settled(request.id, "aborted").await?;
        assert_eq!(stage.mine(request).await?, 0);
        let id = request_id(request.id);
        let told = if request.operation == KeyOperation::Crs {
            Lifecycle::AbortCrs(id)
        } else {
            Lifecycle::AbortKey(id)
        };
        // Once by the abort's walk; the request's may tell it again, and finds nothing to undo.
        assert_eq!(stage.core(0).accepted_lifecycle(request.id), [told]);
    }
    stage.core(0).change(|core| core.never_finish = false);
    Ok(())
}

/// What we have voted stays, and the next one is made.
async fn after_our_answer(stage: &Stage) -> Result<()> {
    let preparation = stage.keys.keygen().await?;
    stage.answered(&[0], &[&preparation]).await?;
    abort(stage, &preparation).await?;
    stage.settled(preparation.id, "accepted").await?;
    let next = stage.keys.keygen().await?;
    stage.others_vote(&next).await?;
    let key = next.key();
    stage.others_vote(&key).await?;
    stage.answered(&[0], &[&next, &key]).await?;
    assert_eq!(stage.core(0).accepted_key(KeyOperation::Preprocessing, preparation.id), 1);
    Ok(())
}

async fn given_up(variant: Variant, more: &str) -> Result<()> {
    let stage = Stage::with_one(variant, &format!("{SOON_FINAL}\n{more}")).await?;
    before_they_begin(&stage).await?;
    while_the_core_is_at_it(&stage).await?;
    after_our_answer(&stage).await?;
    // Each abort was a request of its own, of which the Core was told.
    until("five aborts that are told", PATIENCE, POLL, async || {
        let entries = stage.fleet.key_entries(0)?.into_iter();
        let told = entries.filter(|entry| entry.outcome.as_deref() == Some("no_answer_due"));
        Ok((told.count() == 5).then_some(()))
    })
    .await?;
    stage.fleet.unbroken()
}

#[world::test]
async fn what_the_owner_gives_up_is_not_made_and_not_voted_on_g13() -> Result<()> {
    given_up(Variant::G13, "").await
}

#[world::test]
async fn what_the_owner_gives_up_is_not_made_and_not_voted_on_head() -> Result<()> {
    given_up(Variant::Head, "key_representation = \"compressed\"").await
}

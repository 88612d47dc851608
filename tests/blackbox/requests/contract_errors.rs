//! Every error a response can meet (gateway-abi 4.4), raised by the contract, on every variant that
//! has it: what becomes of the request, and that it is answered once the cause is mended.

use std::time::Duration;

use alloy::{
    primitives::{B256, Bytes, U256},
    signers::local::PrivateKeySigner,
    sol,
    sol_types::SolError,
};
use world::{
    Result, at_length,
    contracts::{Decryption, G7, G8, GatewayConfig, Variant, raw},
    deployment::Node,
    program, random_address, random_key,
    request::{Ask, Issued, fhe},
    rpc::Call,
    scene::{PATIENCE, Scene, SceneOptions},
    signing::sign,
    until,
};

sol! {
    // What only contracts from v0.12 on raise.
    error DecryptionContextMismatch(uint256 decryptionId, uint256 requested, uint256 answered);
    error InvalidKmsContext(uint256 contextId);
    // And what stands in no table.
    error Error(string reason);
    error Panic(uint256 code);
    error SomethingNew(uint256 argument);
}

/// A scene whose node is not registered, the key of its Core, and the connector running.
async fn unregistered(variant: Variant) -> Result<(Scene, PrivateKeySigner)> {
    let options = SceneOptions { registered: false, ..SceneOptions::of(variant) };
    let mut scene = Scene::new(options).await?;
    let signer = random_key();
    scene.core.set_signer(signer.clone());
    scene.start(program())?;
    Ok((scene, signer))
}

async fn public(scene: &Scene) -> Result<Issued> {
    let mut issued = scene.deployment.request(vec![Ask::public(&[fhe::UINT64])]).await?;
    Ok(issued.remove(0))
}

async fn user(scene: &Scene) -> Result<Issued> {
    let mut issued = scene.deployment.request(vec![Ask::user(&[fhe::UINT64])]).await?;
    Ok(issued.remove(0))
}

/// The answer another transaction sender would send, with `signer`'s signature.
fn answer_of(
    scene: &Scene,
    request: &Issued,
    sender: alloy::primitives::Address,
    signer: &PrivateKeySigner,
) -> Result<Call> {
    let payload = Bytes::from_static(&[7; 32]);
    let domain = scene.deployment.domain();
    let digest = domain.public_digest(&request.handles, &payload, &request.extra_data);
    Ok(scene.deployment.respond(sender, request, &payload, &sign(signer, digest)?))
}

/// An estimate shows an error for free: gas is spent only where it was learned before, once per size of
/// answer.
async fn cheap(scene: &Scene) -> Result<()> {
    let wasted = scene.deployment.failed_transactions().await?.len();
    assert!(wasted <= 4, "{wasted} transactions failed");
    Ok(())
}

/// One public and one user request walk through what a registry can lack.
async fn registration(variant: Variant) -> Result<()> {
    let (mut scene, signer) = unregistered(variant).await?;
    let (deployment, wallet) = (&scene.deployment, scene.wallet.address());
    let requests = [public(&scene).await?, user(&scene).await?];
    for request in &requests {
        let row = scene.held(request.id, "wallet_not_registered").await?;
        assert!(row.detail.contains(&wallet.to_string()), "{row:?}");
        assert_eq!(row.stage, "answered", "the Core's answer is kept");
    }
    // Registered, but for another Core.
    deployment.register(Node { wallet, signer: random_address() }).await?;
    for request in &requests {
        let row = scene.held(request.id, "signer_not_registered").await?;
        assert!(row.detail.contains(&signer.address().to_string()), "{row:?}");
    }
    if deployment.variant.flag() >= Variant::V0_9_7.flag() {
        // The Core is registered too, but with another node.
        deployment.register(Node { wallet: random_address(), signer: signer.address() }).await?;
        for request in &requests {
            let row = scene.held(request.id, "wallet_core_mismatch").await?;
            assert!(row.detail.contains(&wallet.to_string()), "{row:?}");
            assert!(row.detail.contains(&signer.address().to_string()), "{row:?}");
        }
    }
    deployment.register(Node { wallet, signer: signer.address() }).await?;
    scene.answered(&requests).await?;
    for request in &requests {
        scene.settled(request.id, "accepted").await?;
        assert_eq!(scene.core.accepted(request.id), 1, "asked once, however often it was held");
    }
    cheap(&scene).await?;
    assert_eq!(scene.stop().await?, Some(0));
    Ok(())
}

/// What comes between a request and its answer, and needs nobody to fix anything.
async fn no_hold(variant: Variant) -> Result<()> {
    let (mut scene, signer) = unregistered(variant).await?;
    let node = Node { wallet: scene.wallet.address(), signer: signer.address() };
    scene.deployment.register(node).await?;
    pause(&scene).await?;
    // Both are looked at twice, seconds apart: at the same time.
    tokio::try_join!(already_signed(&scene, &signer), not_requested(&scene))?;
    cheap(&scene).await?;
    assert_eq!(scene.stop().await?, Some(0));
    Ok(())
}

/// Only v0.7 refuses answers while paused; it is tried again until the pause ends.
async fn pause(scene: &Scene) -> Result<()> {
    scene.deployment.pause(true).await?;
    let request = public(scene).await?;
    if scene.deployment.variant == Variant::G7 {
        let paused = |row: &world::rows::Row| row.last_error.contains("paused");
        let row = scene.row(request.id, "tried while paused", paused).await?;
        assert_eq!((row.stage.as_str(), row.held.as_str()), ("answered", ""), "{row:?}");
    } else {
        scene.answered(std::slice::from_ref(&request)).await?;
    }
    scene.deployment.pause(false).await?;
    scene.answered(std::slice::from_ref(&request)).await?;
    scene.settled(request.id, "accepted").await.map(drop)
}

/// Another transaction with this Core's signature was faster: the work is done.
async fn already_signed(scene: &Scene, signer: &PrivateKeySigner) -> Result<()> {
    let other = random_address();
    scene.anvil.fund(other).await?;
    scene.deployment.register(Node { wallet: other, signer: signer.address() }).await?;
    scene.core.change(|core| core.never_finish = true);
    let request = public(scene).await?;
    scene.row(request.id, "asked", |row| row.stage == "asked").await?;
    scene.deployment.chain.send(answer_of(scene, &request, other, signer)?).await?;
    scene.core.change(|core| core.never_finish = false);
    scene.settled(request.id, "already_answered").await?;
    assert_eq!(scene.deployment.accepted_by(request.id, signer.address()).await?, 1);
    Ok(())
}

/// An event under an id the contract never gave out.
async fn not_requested(scene: &Scene) -> Result<()> {
    let deployment = &scene.deployment;
    let ask = Ask::public(&[fhe::UINT64]);
    deployment.upload(std::slice::from_ref(&ask)).await?;
    let senders: Vec<_> = deployment.stores.iter().map(|store| store.tx_sender).collect();
    let tag = if deployment.variant.has_tagged_ids() { U256::ONE << 248 } else { U256::ZERO };
    let id = tag | U256::from(1_000_000);
    let materials = ask.materials(&senders);
    let log = if deployment.variant.has_extra_data() {
        raw(&G8::PublicDecryptionRequest {
            decryptionId: id,
            snsCtMaterials: materials,
            extraData: Bytes::new(),
        })
    } else {
        raw(&G7::PublicDecryptionRequest { decryptionId: id, snsCtMaterials: materials })
    };
    deployment.emit_raw(vec![log]).await?;
    if deployment.variant == Variant::G7 {
        // v0.7 does not look the id up: it hashes no handles, and recovers a stranger. Core and
        // registration are in order, as was checked here: nobody is told to register anything.
        scene.held(id, "contract_rejected").await?;
        return Ok(());
    }
    let row = scene.settled(id, "refused").await?;
    assert_eq!(row.refusal, "not_requested", "{row:?}");
    assert_eq!(row.stage, "answered", "said by the contract, not guessed before");
    // The second opinion takes half a second: believed at once, it would be a lagging node's word.
    let taken = scene.query(
        &format!("SELECT settled_at - answered_at FROM requests WHERE id = x'{id:064x}'"),
        |row| row.get::<_, i64>(0),
    )?;
    assert!(taken[0] >= 400, "settled {} ms after the answer", taken[0]);
    Ok(())
}

/// What a contract raises, why a request is held for it, and what that says: what our own checks do not let
/// a Core cause, or the test contract cannot get into.
fn raised(variant: Variant) -> Vec<(Bytes, &'static str, &'static str)> {
    let one = U256::ONE;
    let mut raised: Vec<(Bytes, &str, &str)> = vec![
        (Decryption::ECDSAInvalidSignature {}.abi_encode().into(), "invalid_answer", "malformed"),
        (
            Decryption::ECDSAInvalidSignatureLength { length: U256::from(64) }.abi_encode().into(),
            "invalid_answer",
            "64 bytes instead of 65",
        ),
        (
            Decryption::ECDSAInvalidSignatureS { s: B256::repeat_byte(0xfe) }.abi_encode().into(),
            "invalid_answer",
            "0xfefefe",
        ),
        (Bytes::new(), "contract_rejected", "without a reason"),
        (
            Error { reason: "out of \u{1b}[31mluck".into() }.abi_encode().into(),
            "contract_rejected",
            r"out of \u{1b}[31mluck",
        ),
        (Panic { code: U256::from(0x11) }.abi_encode().into(), "contract_rejected", "0x11"),
        (
            SomethingNew { argument: one }.abi_encode().into(),
            "contract_rejected",
            "unknown error 0x",
        ),
        (Bytes::from_static(&[0xd4, 0x8a, 0xf9]), "contract_rejected", "0xd48af9"),
    ];
    if variant.flag() <= Variant::V0_9_0.flag() {
        let error = Decryption::DecryptionNotDone { decryptionId: one };
        raised.push((error.abi_encode().into(), "contract_rejected", "not done"));
    }
    if variant == Variant::G10 {
        // Errors of contracts that came after: known by name, and the deployment is read again.
        let reason = "invalid_answer";
        let mismatch =
            DecryptionContextMismatch { decryptionId: one, requested: one, answered: U256::ZERO };
        let length = Decryption::InvalidExtraDataLength { length: one, expected: U256::from(33) };
        let version = Decryption::UnsupportedExtraDataVersion { version: 9 };
        let context = InvalidKmsContext { contextId: one };
        raised.push((mismatch.abi_encode().into(), reason, "for KMS context 0x0"));
        raised.push((length.abi_encode().into(), reason, "has 1 bytes"));
        raised.push((version.abi_encode().into(), reason, "of version 9"));
        raised.push((context.abi_encode().into(), "context_unknown", "is unknown to the contract"));
    }
    raised
}

/// Each request meets an error of its own, all at the same time.
async fn holds(variant: Variant) -> Result<()> {
    let mut scene = Scene::new(SceneOptions::of(variant)).await?;
    scene.start(program())?;
    let deployment = &scene.deployment;
    let raised = raised(variant);
    scene.core.change(|core| core.never_finish = true);
    let mut requests = Vec::new();
    for number in 0..raised.len() {
        let of_users = number % 2 == 1;
        requests.push(if of_users { user(&scene).await? } else { public(&scene).await? });
    }
    let ids: Vec<U256> = requests.iter().map(|request| request.id).collect();
    let data = raised.iter().map(|(data, ..)| data.clone());
    deployment.fail_each(&ids.iter().copied().zip(data).collect::<Vec<_>>()).await?;
    scene.core.change(|core| core.never_finish = false);
    for (id, (_, reason, words)) in ids.iter().zip(&raised) {
        let row = scene.held_saying(*id, reason, words).await?;
        assert_eq!(row.stage, "answered", "the Core's answer is kept");
    }
    deployment.fail_no_more(&ids).await?;
    scene.answered(&requests).await?;
    cheap(&scene).await?;
    assert_eq!(scene.stop().await?, Some(0));
    Ok(())
}

macro_rules! every_error {
    ($($name:ident: $variant:ident,)+) => {$(
        mod $name {
            use super::{Result, Variant};

            #[world::test]
            async fn every_error_of_the_registration() -> Result<()> {
                super::registration(Variant::$variant).await
            }

            /// Field failure T43.
            #[world::test]
            async fn every_error_that_holds() -> Result<()> {
                super::holds(Variant::$variant).await
            }

            #[world::test]
            async fn every_error_that_does_not_hold() -> Result<()> {
                super::no_hold(Variant::$variant).await
            }
        }
    )+};
}

every_error! {
    g7: G7,
    g8: G8,
    v0_9_0: V0_9_0,
    v0_9_7: V0_9_7,
    g10: G10,
}

/// With the operator's own gas limit nothing is estimated while that works: the error shows in the
/// receipt alone, and is asked for by name. It costs one transaction, not one per attempt.
///
/// Field failure T64.
#[world::test]
async fn an_error_in_a_mined_transaction_is_named() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::of(Variant::G10)).await?;
    scene.start_with(program(), &scene.config("gas_limit = 3000000"))?;
    let done =
        Decryption::KmsNodeAlreadySigned { decryptionId: U256::ONE, signer: random_address() };
    let named = Decryption::ECDSAInvalidSignatureLength { length: U256::from(64) };
    let raised: [(Bytes, &str, &str); 4] = [
        (named.abi_encode().into(), "invalid_answer", "64 bytes"),
        (Error { reason: "no luck".into() }.abi_encode().into(), "contract_rejected", "no luck"),
        (Bytes::new(), "contract_rejected", "without a reason"),
        (done.abi_encode().into(), "", "already_answered"),
    ];
    // Two that are held; at length all.
    let raised = raised.into_iter().enumerate();
    let raised = raised.filter(|(number, _)| at_length() || *number < 2);
    for (number, (_, (data, reason, words))) in raised.enumerate() {
        let well = public(&scene).await?;
        scene.answered(&[well]).await?;
        scene.deployment.fail_with(Some(data)).await?;
        let request = public(&scene).await?;
        if reason.is_empty() {
            scene.settled(request.id, words).await?;
        } else {
            let row = scene.held_saying(request.id, reason, words).await?;
            assert_eq!(row.stage, "answered", "its transaction is not on its way any more");
        }
        assert_eq!(scene.deployment.failed_transactions().await?.len(), number + 1);
        scene.deployment.fail_with(None).await?;
        if !reason.is_empty() {
            scene.answered(&[request]).await?;
        }
    }
    Ok(())
}

/// A pause may last for hours: it is waited for without sending.
#[world::test]
async fn a_pause_burns_no_gas_even_with_a_fixed_limit() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::of(Variant::G7)).await?;
    scene.start_with(program(), &scene.config("gas_limit = 3000000"))?;
    scene.deployment.pause(true).await?;
    let request = public(&scene).await?;
    scene.row(request.id, "tried", |row| row.last_error.contains("paused")).await?;
    // Three times the longest pause between two attempts.
    tokio::time::sleep(Duration::from_secs(3)).await;
    // The one that found out; none if the request is older than the start, when it is tried out first.
    let failed = scene.deployment.failed_transactions().await?.len();
    assert!(failed <= 1, "{failed}");
    scene.deployment.pause(false).await?;
    scene.answered(&[request]).await
}

/// The answer that reaches the threshold costs more than the one the gas was learned from.
///
/// Field failure T37.
#[world::test]
async fn an_answer_that_needs_more_gas_than_others_before_it_fits() -> Result<()> {
    const OTHERS: usize = 15;
    let mut scene = Scene::new(SceneOptions::of(Variant::G10)).await?;
    let deployment = &scene.deployment;
    let mut others = Vec::new();
    for _ in 0..OTHERS {
        let (wallet, signer) = (random_address(), random_key());
        scene.anvil.fund(wallet).await?;
        deployment.register(Node { wallet, signer: signer.address() }).await?;
        others.push((wallet, signer));
    }
    let threshold = U256::from(OTHERS + 1);
    let call =
        GatewayConfig::setThresholdsCall { publicDecryption: threshold, userDecryption: threshold };
    deployment.chain.send(Call::new(deployment.gateway_config, &call)).await?;
    scene.start(program())?;
    let first = public(&scene).await?;
    scene.answered(std::slice::from_ref(&first)).await?;

    scene.core.change(|core| core.never_finish = true);
    let request = public(&scene).await?;
    // What the connector's Core will say, so that its answer is the one that completes the set.
    let payload: Bytes = request.plaintexts().unwrap_or_default()[0].to_be_bytes::<32>().into();
    let domain = scene.deployment.domain();
    let digest = domain.public_digest(&request.handles, &payload, &request.extra_data);
    let mut calls = Vec::new();
    for (wallet, signer) in &others {
        let signature = sign(signer, digest)?;
        calls.push(scene.deployment.respond(*wallet, &request, &payload, &signature));
    }
    scene.deployment.chain.send_all(calls).await?;
    scene.core.change(|core| core.never_finish = false);
    let own = scene.core.signer_address();
    until("the last answer", PATIENCE, Duration::from_millis(50), async || {
        Ok((scene.deployment.accepted_by(request.id, own).await? == 1).then_some(()))
    })
    .await?;
    scene.settled(request.id, "accepted").await?;
    let done = Decryption::isDecryptionDoneCall { decryptionId: request.id };
    assert!(scene.deployment.chain.call(scene.deployment.decryption, &done).await?);
    assert_eq!(scene.deployment.failed_transactions().await?.len(), 0, "there was room for it");

    // And so does the next one of its kind.
    let again = public(&scene).await?;
    scene.answered(&[again]).await?;
    assert_eq!(scene.deployment.failed_transactions().await?.len(), 0);
    Ok(())
}

/// The operator's limit is kept, and its being too low is told, not tried over and over.
#[world::test]
async fn a_fixed_gas_limit_too_low_is_held_and_said() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::of(Variant::G10)).await?;
    scene.start_with(program(), &scene.config("gas_limit = 100000"))?;
    let request = public(&scene).await?;
    let row = scene.held_saying(request.id, "contract_rejected", "gas_limit").await?;
    assert!(row.detail.contains("100000"), "{row:?}");
    let burnt = scene.deployment.failed_transactions().await?.len();
    assert!(burnt <= 1, "{burnt} transactions ran out of gas");
    // Two more rounds of the held ones.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.deployment.failed_transactions().await?.len(), burnt);
    scene.held_saying(request.id, "contract_rejected", "gas_limit").await?;
    scene.stop().await?;
    scene.start(program())?;
    scene.answered(&[request]).await
}

/// A request whose block left the chain is unknown to the contract, and yet not refused: the node
/// that says so does not know the block either.
///
/// Field failure T34.
#[world::test]
async fn a_request_whose_block_left_the_chain_is_not_refused() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::of(Variant::G10)).await?;
    scene.start(program())?;
    let before = public(&scene).await?;
    scene.answered(std::slice::from_ref(&before)).await?;
    scene.core.change(|core| core.never_finish = true);
    let ask = Ask::public(&[fhe::UINT64]);
    let gone = scene.deployment.request(vec![ask.clone()]).await?.remove(0);
    scene.row(gone.id, "asked", |row| row.stage == "asked").await?;
    let depth = scene.deployment.chain.block_number().await? - gone.block + 1;
    scene.deployment.chain.reorg(depth).await?;
    scene.core.change(|core| core.never_finish = false);
    let unknown = |row: &world::rows::Row| row.last_error.contains("does not know");
    scene.row(gone.id, "tried", unknown).await?;
    let row = &scene.rows(gone.id)[0];
    assert_eq!(row.outcome, "", "{row:?}");
    // The same transaction again gets the same id: it is the same request.
    let again = scene.deployment.emit(vec![ask]).await?.remove(0);
    assert_eq!(again.id, gone.id);
    scene.answered(&[again]).await?;
    scene.settled(gone.id, "accepted").await?;
    Ok(())
}

#[test]
fn the_errors_raised_here_are_those_of_the_protocol() {
    let selectors = [
        (Decryption::DecryptionNotRequested::SELECTOR, "d48af942"),
        (Decryption::KmsNodeAlreadySigned::SELECTOR, "99ec48d9"),
        (Decryption::NotKmsTxSender::SELECTOR, "aee86323"),
        (Decryption::NotKmsSigner::SELECTOR, "2a7c6ef6"),
        (Decryption::KmsSignerDoesNotMatchTxSender::SELECTOR, "0d86f521"),
        (Decryption::EnforcedPause::SELECTOR, "d93c0665"),
        (DecryptionContextMismatch::SELECTOR, "abb5f486"),
        (Decryption::InvalidExtraDataLength::SELECTOR, "93548a66"),
        (Decryption::UnsupportedExtraDataVersion::SELECTOR, "2139cc2c"),
        (InvalidKmsContext::SELECTOR, "77ddbe81"),
        (Decryption::ECDSAInvalidSignature::SELECTOR, "f645eedf"),
        (Decryption::ECDSAInvalidSignatureLength::SELECTOR, "fce698f7"),
        (Decryption::ECDSAInvalidSignatureS::SELECTOR, "d78bce0c"),
        (Decryption::DecryptionNotDone::SELECTOR, "0bf01406"),
    ];
    for (selector, expected) in selectors {
        assert_eq!(alloy::primitives::hex::encode(selector), expected);
    }
}

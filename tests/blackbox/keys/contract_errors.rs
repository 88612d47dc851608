//! Every error an answer to a key operation can meet (gateway-abi 6.2, 6.3), raised by the contract: what becomes
//! of the request, and that it is answered once the cause is mended. Nothing is voted meanwhile.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol,
    sol_types::SolError,
};
use world::{
    Result,
    contracts::Variant,
    deployment::Node,
    fleet::name,
    journal::Entry,
    key_contracts::{KMSGeneration, OnEthereum},
    key_generation::KeyRequest,
    program, random_address,
    scene::SceneOptions,
};

use super::stage::{Stage, reason_of};

sol! {
    // What stands in no table.
    error Error(string reason);
    error SomethingNew(uint256 argument);
    // Of contracts on Ethereum, which ours there never meet.
    error DeserializingExtraDataFail();
    error UnsupportedExtraDataVersion(uint8 version);
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
enum Becomes {
    /// Held for this reason, with a detail that says this.
    Held(&'static str, &'static str),
    /// It is tried again; the last error says this.
    Tried(&'static str),
    /// It ends so, and nothing is sent.
    Settled(&'static str),
}
use Becomes::{Held, Settled, Tried};

/// What the contract raises at an answer for a CRS.
fn raised_for_a_crs() -> Vec<(Bytes, Becomes)> {
    let (somebody, id) = (Address::repeat_byte(7), U256::from(5));
    let mine = KMSGeneration::KmsAlreadySignedForCrsgen { crsId: id, kmsSigner: somebody };
    let mismatch =
        KMSGeneration::KmsSignerDoesNotMatchTxSender { signer: somebody, txSender: somebody };
    let length = KMSGeneration::ECDSAInvalidSignatureLength { length: U256::from(64) };
    let high = KMSGeneration::ECDSAInvalidSignatureS { s: B256::repeat_byte(0xfe) };
    vec![
        (mine.abi_encode().into(), Settled("already_answered")),
        (KMSGeneration::CrsgenNotRequested { crsId: id }.abi_encode().into(), Settled("refused")),
        // Registration is in order (it is not in `every_error_of_who_is_not_registered`): whoever says otherwise
        // has another registry, or other content.
        (KMSGeneration::NotKmsTxSender { txSender: somebody }.abi_encode().into(), Tried("0x0707")),
        (
            KMSGeneration::NotKmsSigner { signer: somebody }.abi_encode().into(),
            Held("contract_rejected", "other content"),
        ),
        (mismatch.abi_encode().into(), Held("contract_rejected", "other content")),
        (
            KMSGeneration::ECDSAInvalidSignature {}.abi_encode().into(),
            Held("invalid_answer", "malformed"),
        ),
        (length.abi_encode().into(), Held("invalid_answer", "64 bytes")),
        (high.abi_encode().into(), Held("invalid_answer", "0xfefe")),
        (Bytes::new(), Held("contract_rejected", "without a reason")),
        (
            Error { reason: "out of luck".into() }.abi_encode().into(),
            Held("contract_rejected", "out of luck"),
        ),
        (
            SomethingNew { argument: id }.abi_encode().into(),
            Held("contract_rejected", "unknown error"),
        ),
        (
            DeserializingExtraDataFail {}.abi_encode().into(),
            Held("contract_rejected", "extraData of its own request"),
        ),
        (
            UnsupportedExtraDataVersion { version: 9 }.abi_encode().into(),
            Held("invalid_answer", "version 9"),
        ),
        // Those of owners' calls and of views: no answer meets them.
        (
            KMSGeneration::CrsgenOngoing { crsId: id }.abi_encode().into(),
            Held("contract_rejected", "CrsgenOngoing(uint256)"),
        ),
        (
            OnEthereum::CrsAborted { crsId: id }.abi_encode().into(),
            Held("contract_rejected", "CrsAborted(uint256)"),
        ),
    ]
}

/// The same at an answer for a preprocessing, and for its key.
fn raised_for_a_key() -> [Vec<(Bytes, Becomes)>; 2] {
    let (somebody, id) = (Address::repeat_byte(7), U256::from(4));
    let prepared =
        KMSGeneration::KmsAlreadySignedForPrepKeygen { prepKeygenId: id, kmsSigner: somebody };
    let made = KMSGeneration::KmsAlreadySignedForKeygen { keyId: id, kmsSigner: somebody };
    [
        vec![
            (prepared.abi_encode().into(), Settled("already_answered")),
            (
                KMSGeneration::PrepKeygenNotRequested { prepKeygenId: id }.abi_encode().into(),
                Settled("refused"),
            ),
        ],
        vec![
            (made.abi_encode().into(), Settled("already_answered")),
            (
                KMSGeneration::KeygenNotRequested { keyId: id }.abi_encode().into(),
                Settled("refused"),
            ),
            (
                KMSGeneration::EmptyKeyDigests { keyId: id }.abi_encode().into(),
                Held("invalid_answer", "no key digests"),
            ),
            // Of contracts that came after.
            (
                OnEthereum::KeyManagementRequestPending {}.abi_encode().into(),
                Tried("takes no answer just now"),
            ),
            (
                OnEthereum::KeyAborted { keyId: id }.abi_encode().into(),
                Held("contract_rejected", "KeyAborted(uint256)"),
            ),
        ],
    ]
}

/// From the contract's view an error is as old as the request it is raised at: nodes are asked about its block,
/// too. `first`: the number of the first of these requests.
async fn raise(stage: &Stage, tag: u8, first: usize, raised: &[(Bytes, Becomes)]) -> Result<()> {
    let id = |number: usize| (U256::from(tag) << 248) | U256::from(number);
    let failures: Vec<(U256, Bytes)> =
        (first..).zip(raised).map(|(number, (data, _))| (id(number), data.clone())).collect();
    stage.keys.fail_each(&failures).await
}

/// Each request meets its error; then none any more.
async fn each_meets(stage: &Stage, requests: &[(KeyRequest, Becomes)]) -> Result<()> {
    for (request, becomes) in requests {
        match *becomes {
            Held(reason, words) => {
                let held =
                    |entry: &Entry| entry.id == request.id && reason_of(entry) == Some(reason);
                let entry = stage.row(&format!("{:#x} held {reason}", request.id), held).await?;
                let (_, detail) = entry.held.unwrap_or_default();
                assert!(detail.contains(words), "{detail}");
                assert_eq!(entry.stage, "answered", "the Core's answer is kept");
            }
            Tried(words) => {
                let tried = |entry: &Entry| {
                    let error = entry.last_error.as_deref().unwrap_or_default();
                    entry.id == request.id && error.contains(words)
                };
                let entry = stage.row(&format!("{:#x} tried: {words}", request.id), tried).await?;
                assert_eq!((entry.held, entry.stage.as_str()), (None, "answered"));
            }
            Settled(outcome) => drop(stage.settled(request.id, outcome).await?),
        }
        assert_eq!(stage.mine(request).await?, 0, "{request:?}");
    }
    let ids: Vec<U256> = requests.iter().map(|(request, _)| request.id).collect();
    stage.keys.fail_no_more(&ids).await?;
    for (request, becomes) in requests {
        if let Held(..) | Tried(_) = becomes {
            stage.answered(&[0], &[request]).await?;
            stage.settled(request.id, "accepted").await?;
        }
        let asked = stage.core(0).accepted_key(request.operation, request.id);
        assert_eq!(asked, 1, "asked once, however often it was held: {request:?}");
    }
    for (request, _) in requests.iter().filter(|(_, becomes)| matches!(becomes, Settled(_))) {
        assert_eq!(stage.mine(request).await?, 0, "it had ended: {request:?}");
    }
    Ok(())
}

/// Contracts of v0.9.7 take the next request while the last one is at work.
#[world::test]
async fn every_error_at_an_answer_for_a_crs() -> Result<()> {
    let stage = Stage::with_one(Variant::V0_9_7, "").await?;
    let raised = raised_for_a_crs();
    raise(&stage, 5, 1, &raised).await?;
    let mut requests = Vec::new();
    for (_, becomes) in raised {
        requests.push((stage.keys.crsgen().await?, becomes));
    }
    each_meets(&stage, &requests).await
}

#[world::test]
async fn every_error_at_an_answer_for_a_preprocessing_and_for_a_key() -> Result<()> {
    let stage = Stage::with_one(Variant::V0_9_7, "").await?;
    let [for_preprocessings, for_keys] = raised_for_a_key();
    let first_key = for_preprocessings.len() + 1;
    raise(&stage, 3, 1, &for_preprocessings).await?;
    raise(&stage, 4, first_key, &for_keys).await?;
    let mut requests = Vec::new();
    for (_, becomes) in for_preprocessings {
        requests.push((stage.keys.keygen().await?, becomes));
    }
    let mut preprocessings = Vec::new();
    for (_, becomes) in for_keys {
        let preprocessing = stage.keys.keygen().await?;
        requests.push((preprocessing.key(), becomes));
        preprocessings.push(preprocessing);
    }
    for preprocessing in &preprocessings {
        stage.others_vote(preprocessing).await?;
    }
    each_meets(&stage, &requests).await
}

/// A preprocessing and a CRS of a node whom the registry does not know, nor its Core.
#[world::test]
async fn every_error_of_who_is_not_registered() -> Result<()> {
    let (stage, requests) = unregistered().await?;
    let (wallet, signer) = (stage.fleet.wallet(0), stage.core(0).signer_address());
    are_held(&stage, &requests, "wallet_not_registered", wallet).await?;
    stage.fleet.deployment().register(Node { wallet, signer: random_address() }).await?;
    are_held(&stage, &requests, "signer_not_registered", signer).await?;
    register_rightly(&stage, &requests).await
}

/// The same of one who is registered then, and whose Core is that of another one.
#[world::test]
async fn every_error_of_a_wallet_and_a_core_of_two_nodes() -> Result<()> {
    let (stage, requests) = unregistered().await?;
    let (wallet, signer) = (stage.fleet.wallet(0), stage.core(0).signer_address());
    are_held(&stage, &requests, "wallet_not_registered", wallet).await?;
    let (other_wallet, other_signer) = (random_address(), random_address());
    for node in [Node { wallet, signer: other_signer }, Node { wallet: other_wallet, signer }] {
        stage.fleet.deployment().register(node).await?;
    }
    are_held(&stage, &requests, "wallet_core_mismatch", signer).await?;
    register_rightly(&stage, &requests).await
}

async fn unregistered() -> Result<(Stage, [KeyRequest; 2])> {
    let options = SceneOptions { registered: false, ..SceneOptions::of(Variant::V0_9_7) };
    let mut stage = Stage::set(options).await?;
    stage.fleet.write(0, "")?;
    stage.fleet.supervisor.start(program())?;
    stage.fleet.supervisor.until_running(&[name(0)]).await?;
    let requests = [stage.keys.keygen().await?, stage.keys.crsgen().await?];
    Ok((stage, requests))
}

/// Waits until both are held for `reason`, and `who` is told.
async fn are_held(
    stage: &Stage,
    requests: &[KeyRequest],
    reason: &str,
    who: Address,
) -> Result<()> {
    for request in requests {
        let detail = stage.held(request.id, reason).await?;
        assert!(detail.contains(&who.to_string()), "{detail}");
    }
    Ok(())
}

async fn register_rightly(stage: &Stage, requests: &[KeyRequest]) -> Result<()> {
    let (wallet, signer) = (stage.fleet.wallet(0), stage.core(0).signer_address());
    stage.fleet.deployment().register(Node { wallet, signer }).await?;
    let all: Vec<&KeyRequest> = requests.iter().collect();
    stage.answered(&[0], &all).await?;
    for request in requests {
        assert_eq!(stage.core(0).accepted_key(request.operation, request.id), 1, "asked once");
    }
    Ok(())
}

//! A contract is upgraded under a running instance, at work.

use world::{
    Error, Result,
    attestation::Layout,
    contracts::{Decryption, Variant},
    deployment::Deployment,
    host::{Host, HostOptions},
    program,
    request::{Ask, Issued},
    rpc::{Call, Receipt},
    scene::{Scene, SceneOptions},
};

use super::reached;

/// Requests of one generation: those that are granted, and those that are not.
struct Wave {
    granted: Vec<Ask>,
    refused: Vec<Ask>,
}

impl Wave {
    async fn of(variant: Variant, host: &Host) -> Result<Self> {
        let (granted, refused) = (Ask::mixed_of(variant, 4, 4), Ask::mixed_of(variant, 2, 4));
        host.grant(&granted).await?;
        Ok(Self { granted, refused })
    }

    fn all(&self) -> Vec<Ask> {
        self.granted.iter().chain(&self.refused).cloned().collect()
    }
}

/// The requests that these transactions made.
fn made(deployment: &Deployment, asks: &[Ask], receipts: &[Receipt]) -> Result<Vec<Issued>> {
    let mut logs: Vec<_> = receipts.iter().flat_map(|receipt| &receipt.logs).collect();
    logs.dedup_by_key(|log| (log.transaction_hash, log.topics[1]));
    if logs.len() != asks.len() {
        return Err(Error::other(format!("{} requests, {} events", asks.len(), logs.len())));
    }
    Ok(asks.iter().zip(logs).map(|(ask, log)| deployment.issued(ask.clone(), log)).collect())
}

/// Upgrades in a block with the requests `before` it and those `after` it.
async fn upgrade_between(
    deployment: &mut Deployment,
    variant: Variant,
    (before, after): (&[Ask], &[Ask]),
) -> Result<(Vec<Issued>, Vec<Issued>)> {
    deployment.upload(before).await?;
    let upgrade = deployment.upgrade_calls(variant, variant).await?;
    let mut calls = deployment.commits(before);
    let begin = calls.len();
    if deployment.variant.since(Variant::G12) {
        for ask in before {
            calls.push(deployment.request_call(ask)?);
        }
    } else {
        let requests = before.iter().map(|ask| deployment.any_request(ask)).collect();
        calls.push(Call::new(deployment.decryption, &Decryption::requestCall { requests }));
    }
    let end = calls.len();
    calls.extend(upgrade);
    let old = deployment.clone();
    (deployment.variant, deployment.layout) = (variant, Layout::of(variant));
    deployment.upload(after).await?;
    calls.extend(deployment.commits(after));
    let begin_after = calls.len();
    for ask in after {
        calls.push(deployment.request_call(ask)?);
    }
    let receipts = deployment.chain.send_all(calls).await?;
    let before = made(&old, before, &receipts[begin..end])?;
    Ok((before, made(deployment, after, &receipts[begin_after..])?))
}

/// The new code stands in the block that also has requests before and after it. Those after it are of a
/// contract that checks nothing, whatever the connector believed of it a moment ago.
#[world::test]
async fn one_instance_serves_a_contract_through_all_its_upgrades() -> Result<()> {
    let hosts = vec![HostOptions::of(Variant::Head)];
    let newest = SceneOptions::of(Variant::Head).core;
    let options = SceneOptions { hosts, core: newest, ..SceneOptions::of(Variant::G10) };
    let mut scene = Scene::new(options).await?;
    let host = scene.hosts[0].host.clone();
    scene.start(program())?;
    // Up to G10 the gateway has checked access: what the host chain says does not matter.
    let mut answered = scene.deployment.request(Ask::mixed(6, 6)).await?;
    scene.answered(&answered).await?;
    let mut refused: Vec<(Ask, Issued)> = Vec::new();
    for variant in [Variant::G13, Variant::G14, Variant::Head] {
        // What is not answered when the contract is upgraded is judged by the new one. The functions of
        // G10 are those of the test world alone: of its users nobody could say what they signed.
        let before = if scene.deployment.variant == Variant::G10 {
            let granted = Ask::mixed(6, 0);
            host.grant(&granted).await?;
            Wave { granted, refused: Vec::new() }
        } else {
            let mut wave = Wave::of(scene.deployment.variant, &host).await?;
            wave.refused.truncate(2);
            wave
        };
        let after = Wave::of(variant, &host).await?;
        let asks = (&before.all()[..], &after.all()[..]);
        let (old, new) = upgrade_between(&mut scene.deployment, variant, asks).await?;
        let more = Ask::mixed_of(variant, 3, 4);
        host.grant(&more).await?;
        answered.extend(scene.deployment.request(more).await?);
        for (wave, issued) in [(before, old), (after, new)] {
            let (granted, others) = issued.split_at(wave.granted.len());
            answered.extend_from_slice(granted);
            refused.extend(wave.refused.into_iter().zip(others.iter().cloned()));
        }
        scene.answered(&answered).await?;
        for (ask, request) in &refused {
            assert!(!reached(&scene.core, request), "{variant:?}: {ask:?}\n{}", scene.log());
        }
    }
    for (_, request) in &refused {
        scene.held(request.id, "access_denied_on_chain").await?;
        assert!(!reached(&scene.core, request));
    }
    let (asks, requests): (Vec<Ask>, Vec<Issued>) = refused.into_iter().unzip();
    // What is older than the attestations has been stored anew with one.
    scene.deployment.upload(&asks).await?;
    host.grant(&asks).await?;
    answered.extend(requests);
    scene.answered(&answered).await?;
    assert_eq!(scene.stop().await?, Some(0), "{}", scene.log());
    Ok(())
}

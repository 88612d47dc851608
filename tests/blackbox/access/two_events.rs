//! From v0.15-dev on a request is told twice in its transaction, under one id.

use world::{
    Error, Result,
    contracts::{Decryption, Variant},
    deployment::Deployment,
    host::HostOptions,
    program,
    request::{Ask, Issued, fhe},
    scene::{Scene, SceneOptions},
};

use super::reached;

/// Asks, and has the request told by these logs.
async fn told_as(
    deployment: &Deployment,
    ask: &Ask,
    logs: Vec<Decryption::RawLog>,
) -> Result<Issued> {
    let mut calls = deployment.commits(std::slice::from_ref(ask));
    calls.extend([deployment.tell_next_as(logs), deployment.request_call(ask)?]);
    let receipts = deployment.chain.send_all(calls).await?;
    let log = receipts.last().and_then(|receipt| receipt.logs.first());
    Ok(deployment.issued(ask.clone(), log.ok_or_else(|| Error::other("no event"))?))
}

/// Whichever comes first, they are one request; where they tell different things, none is asked.
#[world::test]
async fn two_events_are_one_request_unless_they_differ() -> Result<()> {
    let hosts = vec![HostOptions::of(Variant::Head)];
    let mut scene = Scene::new(SceneOptions { hosts, ..SceneOptions::of(Variant::Head) }).await?;
    scene.start(program())?;
    let (host, deployment) = (scene.hosts[0].host.clone(), scene.deployment.clone());
    let (mut answered, mut differ) = (Vec::new(), Vec::new());
    for ask in [Ask::public(&[fhe::UINT8]), Ask::user(&[fhe::UINT8]).unified()] {
        let other = Ask { ciphertexts: Ask::public(&[fhe::UINT8]).ciphertexts, ..ask.clone() };
        let asks = [ask.clone(), other.clone()];
        host.grant(&asks).await?;
        deployment.upload(&asks).await?;
        let id = deployment.next_id(ask.kind).await?;
        let [first, second] = deployment.told(&ask, id)?;
        answered.push(told_as(&deployment, &ask, vec![second, first]).await?);
        let id = deployment.next_id(ask.kind).await?;
        let ([first, _], [_, second]) = (deployment.told(&ask, id)?, deployment.told(&other, id)?);
        let mut issued = told_as(&deployment, &ask, vec![first, second]).await?;
        issued.digests = other.ciphertexts.iter().map(|one| one.digest).collect();
        differ.push(issued);
    }
    scene.answered(&answered).await?;
    for request in &differ {
        scene.held(request.id, "events_disagree").await?;
    }
    scene.kill();
    scene.start_again(program())?;
    for request in &differ {
        scene.held(request.id, "events_disagree").await?;
        assert!(!reached(&scene.core, request));
    }
    for request in &answered {
        assert_eq!((scene.core.accepted(request.id), scene.rows(request.id).len()), (1, 1));
    }
    Ok(())
}

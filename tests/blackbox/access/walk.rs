//! Requests of every kind, all the way, for each generation in which the connector checks access.

use alloy::primitives::{Bytes, U256};
use world::{
    Result,
    access::Path,
    attestation::Lie,
    contracts::Variant,
    host::{Host, HostOptions},
    host_contracts::Mood,
    program,
    request::{Ask, Ciphertext, Issued, fhe},
    rows::Row,
    scene::{Scene, SceneOptions},
};

use super::reached;

async fn scene(variant: Variant, buckets: usize) -> Result<Scene> {
    let hosts = vec![HostOptions::of(variant)];
    let mut scene =
        Scene::new(SceneOptions { hosts, buckets, ..SceneOptions::of(variant) }).await?;
    scene.start(program())?;
    Ok(scene)
}

/// Public requests and those of users, in every way and for every form of `extraData`: direct, delegated,
/// from G14 on unified, by smart accounts, and naming epochs.
async fn forty_asks(variant: Variant, host: &Host, context: U256) -> Result<Vec<Ask>> {
    let unified = variant.since(Variant::G14);
    let mut asks = Ask::mixed_of(variant, 16, 24);
    for (number, ask) in asks.iter_mut().enumerate() {
        let theirs = ask.access.owners.first() != Some(&ask.user);
        if ask.access.path == Path::Unified && !theirs && number % 3 == 0 {
            let mood = if number % 2 == 0 { Mood::OfOwner } else { Mood::BurnsSome(50_000) };
            let account = host.wallet(mood, ask.access.key.address()).await?;
            *ask = ask.clone().by_account(account);
        }
        *ask = match number / 8 % 4 {
            1 => ask.clone().in_context(context),
            2 if unified => ask.clone().in_epoch(context, host.in_force().await?.1),
            3 => ask.clone().extra_data(vec![0]),
            _ => continue,
        };
    }
    host.grant(&asks).await?;
    Ok(asks)
}

/// What a Core of G12 or later signs of a request's `extraData`.
fn signed(extra_data: &Bytes) -> Bytes {
    if *extra_data == [0][..] { Bytes::new() } else { extra_data.clone() }
}

/// Each was asked once, for what it names, and the answer on chain repeats that.
async fn each_in_its_context(scene: &Scene, requests: &[Issued]) -> Result<()> {
    let (asks, answers) = (scene.core.asks(), scene.deployment.answers().await?);
    for request in requests {
        let (id, extra) = (format!("{:064x}", request.id), &request.extra_data);
        let mine: Vec<_> = asks.iter().filter(|ask| ask.id == id).collect();
        let [ask] = mine.as_slice() else { panic!("{id} was asked {} times", mine.len()) };
        let word = |from: usize| extra.get(from..from + 32).map(alloy::hex::encode);
        assert_eq!((ask.context_id.clone(), ask.epoch_id.clone()), (word(1), word(33)), "{id}");
        assert_eq!(signed(extra), ask.extra_data, "{id}");
        let answer = answers.iter().find(|answer| answer.id == request.id);
        assert_eq!(answer.map(|answer| &answer.extra_data), Some(&signed(extra)), "{id}");
    }
    let others: Vec<_> = asks
        .iter()
        .filter(|ask| requests.iter().all(|request| format!("{:064x}", request.id) != ask.id))
        .collect();
    assert!(others.is_empty(), "{others:?}");
    Ok(())
}

async fn forty_mixed_requests(variant: Variant) -> Result<()> {
    let mut scene = scene(variant, 1).await?;
    let host = scene.hosts[0].host.clone();
    let asks = forty_asks(variant, &host, scene.deployment.context().await?).await?;
    // Whom a contract's owner has denied keeps what was granted, as at every other node.
    host.send(vec![host.deny(asks[1].user, true)]).await?;
    let requests = scene.deployment.request(asks).await?;
    scene.answered(&requests).await?;
    each_in_its_context(&scene, &requests).await?;
    assert_eq!(scene.deployment.failed_transactions().await?.len(), 0, "no gas was wasted");
    assert_eq!(scene.stop().await?, Some(0), "{}", scene.log());
    Ok(())
}

#[world::test]
async fn g12_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::G12).await
}

#[world::test]
async fn g13_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::G13).await
}

#[world::test]
async fn g14_answers_forty_mixed_requests() -> Result<()> {
    forty_mixed_requests(Variant::G14).await
}

/// One of three buckets lies, of each ciphertext another one in another way. Beside them stands a request
/// on whose ciphertext no two agree.
#[world::test]
async fn head_answers_forty_mixed_requests_whoever_of_three_lies() -> Result<()> {
    let mut scene = scene(Variant::Head, 3).await?;
    let host = scene.hosts[0].host.clone();

    let divided = Ask::user(&[fhe::UINT64]).unified();
    host.grant(std::slice::from_ref(&divided)).await?;
    let deployment = &scene.deployment;
    let lies =
        |bucket: usize, _: &Ciphertext| [None, Some(Lie::OtherKey), Some(Lie::Silent)][bucket];
    deployment.upload_lying(std::slice::from_ref(&divided), lies).await?;
    let undecided = deployment.emit(vec![divided.clone()]).await?;

    let asks = forty_asks(Variant::Head, &host, deployment.context().await?).await?;
    let lies = |bucket: usize, ciphertext: &Ciphertext| {
        let [which, how, ..] = ciphertext.handle.0;
        let lies = usize::from(which) % 3 == bucket;
        lies.then(|| Lie::ALL[usize::from(how) % Lie::ALL.len()])
    };
    deployment.upload_lying(&asks, lies).await?;
    let mut requests = deployment.emit(asks).await?;
    scene.answered(&requests).await?;
    each_in_its_context(&scene, &requests).await?;

    let told = |row: &Row| row.last_error.contains("1 of 3 coprocessors agree");
    scene.row(undecided[0].id, "no consensus", told).await?;
    assert!(!reached(&scene.core, &undecided[0]));
    scene.deployment.upload(&[divided]).await?;
    requests.extend(undecided);
    scene.answered(&requests).await?;
    each_in_its_context(&scene, &requests).await?;
    assert_eq!(scene.deployment.failed_transactions().await?.len(), 0, "no gas was wasted");
    assert_eq!(scene.stop().await?, Some(0), "{}", scene.log());
    Ok(())
}

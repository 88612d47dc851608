//! Bad input gets a clear answer: what contradicts the world ends the program, what somebody can
//! mend is waited for and said, what no one can answer is refused, and everything else goes on.

use std::time::Duration;

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolEvent,
};
use rustix::process::Signal;
use tonic::Code;
use world::{
    Result, connector,
    contracts::{
        Decryption, G8, G14, HandleEntry, HeadHandles, HeadUnified, RequestValiditySeconds,
        UserDecryptionRequestPayload, Variant, raw,
    },
    core_stub::{self, CoreOptions, CoreStub},
    deployment::{Deployment, Node, Store, Thresholds},
    faulty_bucket::{self, FaultyBucket},
    ministack::Bucket,
    process::Process,
    program, random_address, random_key,
    request::{Ask, Issued, default_key_id, fhe},
    rows::Row,
    rpc::Call,
    scene::{Scene, SceneOptions},
};

/// For an end that comes by itself.
const SOON: Duration = Duration::from_secs(30);

fn public() -> Ask {
    Ask::public(&[fhe::UINT64])
}

fn user() -> Ask {
    Ask::user(&[fhe::UINT64])
}

async fn request_one(scene: &Scene, ask: Ask) -> Result<Issued> {
    Ok(scene.deployment.request(vec![ask]).await?.remove(0))
}

fn alive(scene: &mut Scene) -> Result<()> {
    scene.connector.as_mut().map_or(Ok(()), Process::check)
}

/// The connector's exit code, once it ends by itself.
async fn exit_code(scene: &mut Scene) -> Result<Option<i32>> {
    let Some(connector) = &mut scene.connector else { return Ok(None) };
    Ok(connector.wait(SOON).await?.code())
}

// What contradicts the world.

#[world::test]
async fn another_chain_is_refused() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let config = scene.config("").replace("chain_id = 54321", "chain_id = 54322");
    scene.start_with(program(), &config)?;
    assert_eq!(exit_code(&mut scene).await?, Some(78), "{}", scene.log());
    let log = scene.log();
    assert!(log.contains("54321") && log.contains("54322"), "{log}");
    assert_eq!(scene.journal(), None, "nothing was read or written");
    Ok(())
}

#[world::test]
async fn another_signing_domain_is_refused() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    for wrong in ["decryption_domain_name = \"Decipherment\"", "decryption_domain_version = \"9\""]
    {
        scene.start_with(program(), &scene.config(wrong))?;
        assert_eq!(exit_code(&mut scene).await?, Some(78), "{}", scene.log());
    }
    let log = scene.log();
    for words in ["Decipherment", "\"9\"", "decryption_domain_name", "decryption_domain_version"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    Ok(())
}

#[world::test]
async fn a_second_process_on_one_journal_is_refused() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.start(program())?;
    let request = request_one(&scene, public()).await?;
    scene.answered(&[request]).await?;
    let mut command = connector();
    command
        .args(["start", "-n", "second", "-c"])
        .arg(scene.config_file())
        .env("KMS_CONNECTOR_STATE_DIR", scene.state_dir())
        .env_remove("RUST_LOG");
    let mut second = Process::spawn("second", scene.dir.path(), command)?;
    let code = second.wait(SOON).await?.code();
    let (output, first) = (second.output(), scene.connector.as_ref().map(Process::pid));
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains(&first.unwrap_or_default().to_string()), "names {first:?}: {output}");
    let request = request_one(&scene, user()).await?;
    scene.answered(&[request]).await?;
    assert_eq!(scene.stop().await?, Some(0));
    Ok(())
}

// What is waited for.

#[world::test]
async fn without_a_contract_it_waits_until_there_is_one() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let chain = scene.anvil.chain().clone();
    // Where the proxies of the next two contracts of this account will stand: code first, then its proxy.
    let nonce = chain.nonce(chain.admin()).await?;
    let (config, decryption) = (chain.admin().create(nonce + 1), chain.admin().create(nonce + 3));
    let node = Node { wallet: scene.wallet.address(), signer: random_address() };
    scene.deployment.decryption = decryption;
    scene.deployment.gateway_config = config;
    let signer = random_key();
    scene.core = CoreStub::start(CoreOptions {
        signer: signer.clone(),
        ..CoreOptions::new(scene.core.version(), scene.deployment.chain_id, decryption)
    })
    .await;
    scene.start(program())?;
    scene.logged("no code at decryption_address").await?;
    scene.logged(&decryption.to_string()).await?;
    alive(&mut scene)?;
    let node = Node { signer: signer.address(), ..node };
    let stores = scene.deployment.stores.clone();
    scene.deployment =
        Deployment::deploy(&chain, Variant::G10, &[node], &stores, Thresholds::ONE).await?;
    assert_eq!(scene.deployment.decryption, decryption, "deployed where it was waited for");
    let request = request_one(&scene, public()).await?;
    scene.answered(&[request]).await
}

#[world::test]
async fn without_a_registry_the_fallback_bucket_serves() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let registry = scene.deployment.gateway_config;
    let s3 = format!(
        "[s3_config]\nregion = \"us-east-1\"\nbucket = \"ct128-0\"\nendpoint = \"{}\"",
        scene.ministack.url()
    );
    let nobody = scene.config("").replace(&registry.to_string(), &random_address().to_string());
    assert!(!nobody.contains(&registry.to_string()));
    // Neither: it says so, keeps what comes, and asks nobody.
    scene.start_with(program(), &nobody)?;
    scene.logged("and no [s3_config]").await?;
    let requests = scene.deployment.request(vec![public(), user()]).await?;
    for request in &requests {
        let row = scene.row(request.id, "tried", |row| row.attempts > 0).await?;
        assert!(row.last_error.contains("no bucket"), "{row:?}");
    }
    assert_eq!(scene.core.asks(), []);
    assert_eq!(scene.stop().await?, Some(0));
    // The fallback alone.
    scene.start_with(program(), &format!("{nobody}{s3}"))?;
    scene.logged("ciphertexts come from [s3_config] alone").await?;
    scene.answered(&requests).await
}

#[world::test]
async fn without_funds_the_answer_waits_for_them() -> Result<()> {
    let options = SceneOptions { funded: false, ..SceneOptions::default() };
    let mut scene = Scene::new(options).await?;
    scene.start(program())?;
    scene.logged("the wallet has no funds").await?;
    let requests = scene.deployment.request(vec![public(), user()]).await?;
    for request in &requests {
        let row = scene.held(request.id, "no_funds").await?;
        assert!(row.detail.contains(&scene.wallet.address().to_string()), "{row:?}");
    }
    // Also one that arrives while the others wait.
    let late = request_one(&scene, public()).await?;
    scene.held(late.id, "no_funds").await?;
    // A stop does not wait for the funds: what was recorded is followed by the next run.
    assert_eq!(scene.stop().await?, Some(0));
    assert!(!scene.log().contains("the drain limit has passed"), "{}", scene.log());
    scene.start_again(program())?;
    scene.anvil.fund(scene.wallet.address()).await?;
    scene.answered(&requests).await?;
    scene.answered(&[late]).await?;
    for request in &requests {
        let row = scene.settled(request.id, "accepted").await?;
        assert_eq!(row.held, "");
    }
    Ok(())
}

/// Chain, Core and bucket are down at the start, and come up one after the other.
#[world::test]
async fn what_is_down_at_the_start_is_named_and_waited_for() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let request = request_one(&scene, public()).await?;
    scene.anvil.stop().await?;
    scene.ministack.stop().await?;
    scene.core.stop().await;
    scene.start(program())?;
    scene.logged("waiting for the gateway node").await?;
    alive(&mut scene)?;
    scene.anvil.start_again().await?;
    scene.logged("waiting for the KMS Core").await?;
    let row = scene.row(request.id, "tried", |row| row.attempts > 0).await?;
    assert!(row.last_error.contains("no bucket"), "{row:?}");
    scene.ministack.start_again().await?;
    let unanswered = |row: &Row| row.last_error.contains("KMS Core");
    scene.row(request.id, "tried with the Core", unanswered).await?;
    scene.core.restart().await;
    scene.answered(&[request]).await
}

/// In gwei.
const FEE_CAP: &str = "max_fee_per_gas_gwei = 20";
/// It falls by an eighth per block; from so high it takes a while, also on a busy machine.
const DEAR: u64 = 1_000_000;

async fn base_fee(scene: &Scene, gwei: u64) -> Result<()> {
    let wei = U256::from(gwei) * U256::from(1_000_000_000);
    let chain = scene.anvil.chain();
    let _null: serde_json::Value =
        chain.rpc("anvil_setNextBlockBaseFeePerGas", serde_json::json!([wei])).await?;
    chain.mine(1).await
}

#[world::test]
async fn a_chain_dearer_than_allowed_is_waited_for() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.start_with(program(), &scene.config(FEE_CAP))?;
    let first = request_one(&scene, public()).await?;
    scene.answered(std::slice::from_ref(&first)).await?;

    base_fee(&scene, DEAR).await?;
    let dear = request_one(&scene, public()).await?;
    let row = scene.held(dear.id, "fee_cap").await?;
    assert!(row.detail.contains("max_fee_per_gas_gwei"), "{row:?}");
    let late = request_one(&scene, user()).await?;
    scene.held(late.id, "fee_cap").await?;
    base_fee(&scene, 1).await?;
    scene.answered(&[dear, late]).await
}

#[world::test]
async fn what_was_too_dear_is_sent_after_a_restart_that_allows_more() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    base_fee(&scene, DEAR).await?;
    scene.start_with(program(), &scene.config(FEE_CAP))?;
    let dear = request_one(&scene, public()).await?;
    scene.held(dear.id, "fee_cap").await?;
    scene.kill();
    base_fee(&scene, 20_000).await?;
    assert_eq!(scene.rows(dear.id)[0].held, "fee_cap", "a restart finds it held");
    scene.start_with(program(), &scene.config("max_fee_per_gas_gwei = 100000"))?;
    scene.answered(&[dear]).await
}

// Requests that make no sense, or are not for us.

fn payload() -> UserDecryptionRequestPayload {
    UserDecryptionRequestPayload {
        userAddress: random_address(),
        publicKey: Bytes::from_static(&[1; 32]),
        allowedContracts: vec![random_address()],
        requestValidity: RequestValiditySeconds {
            startTimestamp: U256::ONE,
            durationSeconds: U256::from(3600),
        },
        extraData: Bytes::new(),
        signature: Bytes::from_static(&[2; 65]),
    }
}

/// Field failure T15.
#[world::test]
async fn malformed_events_hold_nothing_up() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.start(program())?;
    let deployment = &scene.deployment;
    let senders: Vec<Address> = deployment.stores.iter().map(|store| store.tx_sender).collect();

    let mut several_keys = Ask::public(&[fhe::UINT8, fhe::UINT8]).materials(&senders);
    several_keys[1].keyId = default_key_id() + U256::ONE;
    let several_keys = G8::PublicDecryptionRequest {
        decryptionId: U256::from(0xa001),
        snsCtMaterials: several_keys,
        extraData: Bytes::new(),
    };
    let topic0 = G8::UserDecryptionRequest::SIGNATURE_HASH;
    let id_topic = |id: u64| B256::from(U256::from(id));
    let garbage = [
        (vec![topic0, id_topic(0xb001)], Bytes::from(vec![0xff; 333])),
        (vec![topic0, id_topic(0xb002)], Bytes::new()),
        // An offset far beyond the data, and a length of all memory.
        (vec![topic0, id_topic(0xb003)], Bytes::from([[0xff; 32], [0x7f; 32]].concat())),
        (vec![topic0], several_keys.encode_log_data().data),
        (vec![topic0, id_topic(0xb004), id_topic(1)], Bytes::new()),
    ];
    let garbage = garbage.map(|(topics, data)| Decryption::RawLog { topics, data });
    let ask = |ask: Ask| async move { deployment.request(vec![ask]).await };
    let empty_public = ask(Ask::public(&[])).await?.remove(0);
    let empty_user = ask(Ask::user(&[])).await?.remove(0);
    deployment.emit_raw(vec![raw(&several_keys)]).await?;
    deployment.emit_raw(garbage.to_vec()).await?;
    let unknown = [84, 200, 255].map(|fhe_type| Ask::public(&[fhe::UINT8, fhe_type]));
    let unknown = deployment.request(unknown.to_vec()).await?;
    // All of it in one block with good ones, too.
    let good = deployment.request(Ask::mixed(3, 3)).await?;
    scene.answered(&good).await?;

    for id in [empty_public.id, empty_user.id, several_keys.decryptionId] {
        let row = scene.settled(id, "refused").await?;
        assert_eq!(row.refusal, "malformed", "{row:?}");
    }
    for request in &unknown {
        let row = scene.held(request.id, "unsupported_type").await?;
        assert!(row.detail.contains(&request.handles[1].to_string()), "{row:?}");
    }
    let skipped = scene.query("SELECT reason, length(topics), data FROM skipped_logs", |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
    })?;
    assert_eq!(skipped.len(), garbage.len(), "{skipped:?}");
    for log in &garbage {
        let kept = skipped.iter().any(|(reason, topics, data)| {
            let length = i64::try_from(32 * log.topics.len()).unwrap_or_default();
            !reason.is_empty() && *topics == length && log.data == *data
        });
        assert!(kept, "{log:?} is not among {skipped:?}");
    }
    assert_eq!(scene.core.asks().len(), good.len(), "the Core was asked for the good ones alone");
    assert_eq!(scene.stop().await?, Some(0));
    Ok(())
}

/// Field failure T14.
#[world::test]
async fn events_of_later_generations_are_kept() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.start(program())?;
    let deployment = &scene.deployment;
    let senders: Vec<Address> = deployment.stores.iter().map(|store| store.tx_sender).collect();
    let entry = HandleEntry {
        handle: B256::repeat_byte(5),
        contractAddress: random_address(),
        ownerAddress: random_address(),
    };
    let id = |id: u64| U256::from(id);
    let asked_twice = payload();
    let logs = vec![
        raw(&G14::UserDecryptionRequest {
            decryptionId: id(0xc001),
            snsCtMaterials: public().materials(&senders),
            handles: vec![entry.clone()],
            payload: payload(),
        }),
        raw(&HeadHandles::PublicDecryptionRequest {
            decryptionId: id(0xc002),
            ctHandles: vec![entry.handle],
            extraData: Bytes::new(),
        }),
        raw(&HeadHandles::UserDecryptionRequest {
            decryptionId: id(0xc003),
            ctHandles: vec![entry.handle],
            userAddress: random_address(),
            publicKey: Bytes::from_static(&[1; 32]),
            extraData: Bytes::new(),
        }),
        raw(&HeadUnified::UserDecryptionRequest {
            decryptionId: id(0xc004),
            handles: vec![entry.clone()],
            payload: payload(),
        }),
        // v0.15-dev announces a request twice in one transaction: it is one request.
        raw(&G14::UserDecryptionRequest {
            decryptionId: id(0xc005),
            snsCtMaterials: public().materials(&senders),
            handles: vec![entry.clone()],
            payload: asked_twice.clone(),
        }),
        raw(&HeadUnified::UserDecryptionRequest {
            decryptionId: id(0xc005),
            handles: vec![entry],
            payload: asked_twice,
        }),
    ];
    deployment.emit_raw(logs).await?;
    let good = deployment.request(vec![public(), user()]).await?;
    scene.answered(&good).await?;
    for number in 0xc001..=0xc005 {
        let row = scene.held(id(number), "unsupported_generation").await?;
        assert!(row.detail.contains("upgrade the connector"), "{row:?}");
        assert_eq!(scene.rows(id(number)).len(), 1);
    }
    assert_eq!(scene.core.asks().len(), good.len());
    Ok(())
}

/// Field failure T34.
#[world::test]
async fn from_g12_on_nobody_is_asked_without_the_host_chain() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::of(Variant::G12)).await?;
    scene.start(program())?;
    let requests = scene.deployment.request(vec![public(), user()]).await?;
    for request in &requests {
        let row = scene.held(request.id, "host_chain_not_configured").await?;
        assert!(row.detail.contains("[[host_chains]]"), "{row:?}");
    }
    // Held ones are looked at again, and still nobody is asked.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.core.asks(), []);
    // The proxy is set back: no contract has checked what was asked in between.
    scene.deployment.upgrade(Variant::G10).await?;
    let after = request_one(&scene, public()).await?;
    scene.answered(&[after]).await?;
    for request in &requests {
        scene.held(request.id, "host_chain_not_configured").await?;
    }
    assert_eq!(scene.core.asks().len(), 1);
    Ok(())
}

/// Field failure T59.
#[world::test]
async fn an_upgrade_to_g12_and_back_is_noticed_at_once() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::of(Variant::G10)).await?;
    scene.start(program())?;
    let before = request_one(&scene, public()).await?;
    scene.answered(&[before]).await?;
    for round in 1..=3 {
        let asked = scene.core.asks().len();
        // The request follows the upgrade in the same block: there access is not checked any more.
        let asks = vec![public(), public()];
        scene.deployment.upload(&asks).await?;
        let requests = upgrade_and_request(&mut scene, Variant::G12, asks).await?;
        for id in &requests {
            scene.held(*id, "host_chain_not_configured").await?;
        }
        assert_eq!(scene.core.asks().len(), asked, "round {round}: the Core was asked");
        // No contract has checked them, also when the old one is back.
        scene.deployment.upgrade(Variant::G10).await?;
        let after = request_one(&scene, public()).await?;
        scene.answered(&[after]).await?;
        for id in requests {
            scene.held(id, "host_chain_not_configured").await?;
        }
        assert_eq!(scene.core.asks().len(), asked + 1, "round {round}: the Core was asked");
    }
    Ok(())
}

/// Upgrades and requests in transactions of one block; answers the ids.
async fn upgrade_and_request(scene: &mut Scene, to: Variant, asks: Vec<Ask>) -> Result<Vec<U256>> {
    let deployment = &scene.deployment;
    let requests = asks.iter().map(|ask| deployment.any_request(ask));
    let call = Decryption::requestCall { requests: requests.collect() };
    let mut calls = deployment.upgrade_calls(to, to).await?;
    calls.push(Call::new(deployment.decryption, &call));
    let receipts = deployment.chain.send_all(calls).await?;
    let ids = receipts[2].logs.iter().map(|log| U256::from_be_bytes(log.topics[1].0)).collect();
    scene.deployment.variant = to;
    Ok(ids)
}

// Buckets.

/// Whether a request's row tells what is wrong.
type Told = Box<dyn Fn(&Row) -> bool>;

/// Each way for a bucket to be bad: alone it is told, and beside a good one it does no harm.
///
/// Field failure T22.
#[world::test]
async fn bad_buckets_are_told_and_passed_over() -> Result<()> {
    use faulty_bucket::Fault;

    const HUGE: u64 = 100 << 20;
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.start(program())?;
    let good = scene.deployment.stores[0].clone();
    let retried = |words: &'static str| move |row: &Row| row.last_error.contains(words);
    let too_large = |row: &Row| row.held == "ciphertext_too_large";
    let faults: Vec<(Fault, Told)> = vec![
        (Fault::Body { announced: HUGE, sent: HUGE }, Box::new(too_large)),
        (Fault::Unannounced { sent: HUGE }, Box::new(too_large)),
        (Fault::Body { announced: 512, sent: 100 }, Box::new(retried("127.0.0.1"))),
        (Fault::Redirect(good.bucket.url().to_owned()), Box::new(retried("redirect"))),
        (Fault::Status(403), Box::new(retried("access denied (403)"))),
        (Fault::Status(404), Box::new(retried("127.0.0.1"))),
        (Fault::Status(500), Box::new(retried("500"))),
    ];
    let mut alone = Vec::new();
    let mut coprocessors = Vec::new();
    let mut buckets = Vec::new();
    for (fault, told) in faults {
        let what = format!("{fault:?}");
        let bucket = FaultyBucket::start(fault).await?;
        let store = Store::new(Bucket::new(bucket.url())?);
        scene.deployment.set_bucket(store.tx_sender, &bucket.url()).await?;
        let ask = public();
        scene.deployment.upload(std::slice::from_ref(&ask)).await?;
        let mut only = scene.deployment.clone();
        only.stores = vec![store.clone()];
        let request = only.emit(vec![ask]).await?.remove(0);
        scene.row(request.id, &what, told).await?;
        alone.push(request);
        coprocessors.push(store.tx_sender);

        let ask = user();
        scene.deployment.upload(std::slice::from_ref(&ask)).await?;
        let mut both = scene.deployment.clone();
        both.stores = vec![store, good.clone()];
        let request = both.emit(vec![ask]).await?.remove(0);
        scene.answered(&[request]).await?;
        assert!(bucket.requests() > 0, "{what}: the bad bucket was never asked");
        buckets.push(bucket);
    }
    let asked = scene.core.asks().len();
    assert_eq!(asked, alone.len(), "the Core was asked only with the right bytes");
    // The buckets are mended, and the connector is told by a restart.
    for coprocessor in coprocessors {
        scene.deployment.set_bucket(coprocessor, good.bucket.url()).await?;
    }
    scene.stop().await?;
    scene.start_again(program())?;
    scene.answered(&alone).await
}

// The Core.

/// Each kind of nonsense is held with its reason, and answered once the Core is mended.
#[world::test]
async fn nonsense_from_the_core_is_held_and_not_sent() -> Result<()> {
    use core_stub::Fault;

    let options = SceneOptions { registered: false, ..SceneOptions::default() };
    let mut scene = Scene::new(options).await?;
    let (signer, stranger) = (random_key(), random_key());
    scene.core.set_signer(signer.clone());
    let node = Node { wallet: scene.wallet.address(), signer: signer.address() };
    scene.deployment.register(node).await?;
    scene.start(program())?;
    // Old Cores do not say which extraData they signed: that is no fault. First,
    // since what is held is tried again as soon as the Core makes sense.
    scene.core.change(|core| core.fault = Some(Fault::NoEcho));
    let silent = public().extra_data(vec![0, 1, 2]);
    let silent = request_one(&scene, silent).await?;
    scene.answered(&[silent]).await?;

    let faults = [
        Fault::NoSignature,
        Fault::ShortSignature,
        Fault::HighS,
        Fault::OtherRequest,
        Fault::TooFew,
        Fault::Garbage,
        Fault::Empty,
    ];
    let mut held = Vec::new();
    for fault in faults {
        scene.core.change(|core| core.fault = Some(fault));
        let requests = scene.deployment.request(vec![public(), user()]).await?;
        for request in &requests {
            let row = scene.held(request.id, "invalid_answer").await?;
            assert_eq!(row.stage, "asked", "{fault:?}");
        }
        held.extend(requests);
    }
    scene.core.set_signer(stranger.clone());
    scene.core.change(|core| core.fault = None);
    scene.core.forget();
    let requests = scene.deployment.request(vec![public(), user()]).await?;
    for request in &requests {
        let row = scene.held(request.id, "signer_mismatch").await?;
        for address in [signer.address(), stranger.address()] {
            assert!(row.detail.contains(&address.to_string()), "{address}: {row:?}");
        }
    }
    held.extend(requests);
    let sent = scene.anvil.chain().nonce(scene.wallet.address()).await?;
    assert_eq!(sent, 1, "no gas was spent on nonsense");
    scene.core.set_signer(signer);
    scene.core.forget();
    scene.answered(&held).await
}

/// The registry names another signer than the one the Core has: mended in the registry.
///
/// Field failure T59.
#[world::test]
async fn a_registration_mended_during_the_run_is_noticed() -> Result<()> {
    let options = SceneOptions { registered: false, ..SceneOptions::default() };
    let mut scene = Scene::new(options).await?;
    let wallet = scene.wallet.address();
    scene.deployment.register(Node { wallet, signer: random_address() }).await?;
    scene.start(program())?;
    let requests = scene.deployment.request(vec![public(), user()]).await?;
    for request in &requests {
        scene.held(request.id, "signer_mismatch").await?;
    }
    scene.deployment.register(Node { wallet, signer: scene.core.signer_address() }).await?;
    // A round or two of the held ones, not the lifetime of a cache.
    scene.answered_within(&requests, Duration::from_secs(20)).await
}

#[world::test]
async fn every_refusal_of_the_core_is_classified() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.start_with(program(), &scene.config("public_decryption_timeout_secs = 2"))?;
    let mut requests = Vec::new();
    for (code, reason) in [
        (Code::Internal, "core_failed"),
        (Code::InvalidArgument, "core_refused"),
        (Code::NotFound, "unknown_key"),
        (Code::Unimplemented, "core_refused"),
        (Code::PermissionDenied, "core_refused"),
        (Code::FailedPrecondition, "core_failed"),
    ] {
        scene.core.change(|core| core.ask_status = Some((code, "no, thanks")));
        let request = request_one(&scene, public()).await?;
        let row = scene.held(request.id, reason).await?;
        assert!(row.detail.contains("no, thanks"), "{row:?}");
        assert_eq!(row.stage, "arrived");
        requests.push(request);
    }
    scene.core.change(|core| core.ask_status = None);
    scene.answered(&requests).await?;

    let mut requests = Vec::new();
    for (code, reason) in [(Code::Internal, "core_failed"), (Code::InvalidArgument, "core_refused")]
    {
        scene.core.change(|core| core.poll_status = Some((code, "no, thanks")));
        let request = request_one(&scene, user()).await?;
        let row = scene.held(request.id, reason).await?;
        assert_eq!(row.stage, "asked");
        requests.push(request);
    }
    scene.core.change(|core| core.poll_status = None);
    scene.answered(&requests).await?;

    // Busy a few times: nobody has to act.
    scene.core.change(|core| core.busy = 3);
    let request = request_one(&scene, public()).await?;
    scene.answered(std::slice::from_ref(&request)).await?;
    let row = scene.settled(request.id, "accepted").await?;
    assert!(row.last_error.contains("busy"), "{row:?}");
    Ok(())
}

/// Field failure T30.
#[world::test]
async fn a_core_that_does_not_finish_is_told_and_polled_on() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    scene.core.change(|core| core.never_finish = true);
    scene.start_with(program(), &scene.config("public_decryption_timeout_secs = 2"))?;
    let slow = request_one(&scene, user()).await?;
    let silent = request_one(&scene, public()).await?;
    let row = scene.held(silent.id, "core_silent").await?;
    assert_eq!(row.stage, "asked");
    // The user decryption has its own, longer timeout; its one poll is held by the Core.
    assert_eq!(scene.rows(slow.id)[0].held, "");
    assert!(scene.core.polls(slow.id) <= 2, "{} polls", scene.core.polls(slow.id));
    scene.core.change(|core| core.never_finish = false);
    scene.answered(&[slow.clone(), silent.clone()]).await?;
    for request in [slow, silent] {
        assert_eq!(scene.core.accepted(request.id), 1, "polled again, not asked again");
    }
    let connector = scene.connector.as_ref().map(|connector| connector.signal(Signal::TERM));
    connector.unwrap_or(Ok(()))
}

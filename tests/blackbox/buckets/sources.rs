//! Room 2 on real servers, seen from the chain: which bucket's bytes reach the Core, and how long
//! a bad bucket can hold an answer up.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use world::{
    Error, Result, connector,
    deployment::{Deployment, Store},
    faulty_bucket::{Fault, FaultyBucket},
    free_port,
    gossip::{Gossip, Tale},
    ministack::COMPRESSED,
    process::Process,
    program,
    request::{Ask, fhe},
    scene::{Scene, SceneOptions},
};

/// How long one bucket may leave a call without headers.
const DEADLINE_OF_A_BUCKET: Duration = Duration::from_secs(5);
const MIB: usize = 1 << 20;

async fn scene(buckets: usize) -> Result<Scene> {
    Scene::new(SceneOptions { buckets, ..SceneOptions::default() }).await
}

/// The deployment as seen by someone who names only these coprocessors, in this order.
fn naming(scene: &Scene, stores: &[usize]) -> Deployment {
    let stores: Vec<Store> = stores.iter().map(|n| scene.deployment.stores[*n].clone()).collect();
    Deployment { stores, ..scene.deployment.clone() }
}

/// A variable-free connector with the scene's configuration.
fn clean_start(scene: &Scene) -> Command {
    let mut command = connector();
    command.env_clear().arg("start").arg("-c").arg(scene.config_file());
    command
}

fn write_config(scene: &Scene, more: &str) -> Result<()> {
    std::fs::write(scene.config_file(), scene.config(more))
        .map_err(|e| Error::Io("writing the configuration".into(), e))
}

fn one() -> Vec<Ask> {
    vec![Ask::public(&[fhe::UINT64, fhe::UINT8]), Ask::user(&[fhe::UINT64])]
}

/// Field failures T19, T25.
#[world::test]
async fn a_dead_and_a_corrupt_bucket_cost_no_more_than_one_deadline() -> Result<()> {
    // Hanging, refusing, corrupt, good.
    let mut scene = scene(4).await?;
    let hanging = FaultyBucket::start(Fault::Hang).await?;
    let stores = scene.deployment.stores.clone();
    scene.deployment.set_bucket(stores[0].tx_sender, &hanging.url()).await?;
    let refusing = format!("http://127.0.0.1:{}/ct128", free_port()?);
    scene.deployment.set_bucket(stores[1].tx_sender, &refusing).await?;
    scene.start(program())?;

    let control = naming(&scene, &[3]);
    let first = control.request(one()).await?;
    scene.answered(&first).await?; // everything is connected and warm
    let begun = Instant::now();
    let usual = control.request(one()).await?;
    scene.answered(&usual).await?;
    let usual = begun.elapsed();

    for dead in [0, 1] {
        let asks = one();
        let (bad, all) = (naming(&scene, &[2]), naming(&scene, &[dead, 2, 3]));
        control.upload(&asks).await?;
        for ciphertext in asks.iter().flat_map(|ask| &ask.ciphertexts) {
            let mut bytes = ciphertext.bytes.clone();
            bytes[100] ^= 1;
            bad.stores[0].bucket.put(ciphertext.digest, &bytes, None).await?;
        }
        let begun = Instant::now();
        let requests = all.emit(asks).await?;
        scene.answered(&requests).await?;
        let took = begun.elapsed();
        let allowed = usual * 3 + DEADLINE_OF_A_BUCKET;
        assert!(took < allowed, "{took:?}, usually {usual:?}, with dead bucket {dead}");
    }
    let tried = hanging.requests();
    assert!(tried > 0, "the dead bucket stands first and was asked");
    assert!(scene.log().contains("wrong bytes"), "the corrupt bucket is named in the log");

    // From now on the dead one is asked last: only when the good one is slow too.
    let requests = naming(&scene, &[0, 3]).request(Ask::mixed(10, 10)).await?;
    scene.answered(&requests).await?;
    let handles: u64 = requests.iter().map(|request| request.handles.len() as u64).sum();
    let more = hanging.requests() - tried;
    assert!(more < handles / 2, "{more} of {handles} handles still went to the dead bucket");
    assert_eq!(scene.stop().await?, Some(0));
    Ok(())
}

#[world::test]
async fn a_bucket_registered_late_is_found() -> Result<()> {
    let mut scene = scene(1).await?;
    let store = scene.deployment.stores[0].clone();
    scene.deployment.set_bucket(store.tx_sender, "").await?;
    scene.start(program())?;
    let requests = scene.deployment.request(one()).await?;
    scene.logged("no bucket URL is registered").await?;
    scene.deployment.set_bucket(store.tx_sender, store.bucket.url()).await?;
    scene.answered(&requests).await?;
    Ok(())
}

#[world::test]
async fn an_unregistered_coprocessor_is_skipped_if_they_are_verified() -> Result<()> {
    let mut scene = scene(2).await?;
    let (stranger, known) = (scene.deployment.stores[0].clone(), naming(&scene, &[1]));
    scene.deployment.unregister_coprocessor(stranger.tx_sender).await?;
    // The fallback has all the bytes, and is no way round the check.
    let more = format!(
        "verify_coprocessors = true\n[s3_config]\nbucket = \"ct128-0\"\nendpoint = \"{}\"\n",
        scene.ministack.url()
    );
    scene.start_with(program(), &scene.config(&more))?;
    let waiting = naming(&scene, &[0]).request(one()).await?;
    let both = scene.deployment.request(one()).await?;
    scene.answered(&both).await?;
    scene.logged("not a registered coprocessor").await?;
    // A later request of a known one overtakes it.
    scene.answered(&known.request(one()).await?).await?;
    for request in &waiting {
        assert!(scene.deployment.response(request.id).await?.is_empty(), "it waits");
    }
    assert_eq!(scene.core.accepted(waiting[0].id), 0, "the Core was not asked");

    // The list of coprocessors is believed for a minute: a new life reads it anew.
    scene.deployment.set_bucket(stranger.tx_sender, stranger.bucket.url()).await?;
    assert_eq!(scene.stop().await?, Some(0));
    scene.start_again(program())?;
    scene.answered(&waiting).await?;
    Ok(())
}

/// Field failure T26.
#[world::test]
async fn the_fallback_store_is_asked_signed_or_plain() -> Result<()> {
    let mut scene = scene(1).await?;
    let store = scene.deployment.stores[0].clone();
    scene.deployment.set_bucket(store.tx_sender, "").await?;
    let front = Gossip::start(Tale::Relay(scene.ministack.port())).await?;
    let more = format!(
        "[s3_config]\nregion = \"us-east-1\"\nbucket = \"ct128-0\"\n\
         endpoint = \"http://127.0.0.1:{}\"\n",
        front.port()
    );
    write_config(&scene, &more)?;

    scene.spawn(clean_start(&scene))?;
    scene.answered(&scene.deployment.request(one()).await?).await?;
    let plain = front.heads();
    assert!(!plain.is_empty());
    for head in &plain {
        assert!(head.starts_with("GET /ct128-0/"), "path-style: {head}");
        assert!(!head.to_lowercase().contains("authorization"), "{head}");
    }
    let said = "no AWS credentials for the fallback store";
    assert_eq!(scene.log().matches(said).count(), 1, "said once");
    assert_eq!(scene.stop().await?, Some(0));

    let mut command = clean_start(&scene);
    // What the store knows: it checks signatures.
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    scene.spawn(command)?;
    scene.answered(&scene.deployment.request(one()).await?).await?;
    let signed = front.heads().split_off(plain.len());
    assert!(!signed.is_empty());
    for head in &signed {
        assert!(head.starts_with("GET /ct128-0/"), "path-style: {head}");
        assert!(head.contains("X-Amz-Credential=test%2F"), "{head}");
        assert!(head.contains("%2Fus-east-1%2Fs3%2Faws4_request"), "{head}");
        assert!(head.contains("X-Amz-Signature="), "{head}");
    }
    assert!(!scene.log().contains("X-Amz-"), "a signed URL is a credential");
    Ok(())
}

/// As on the wire: the Core's numbers for the two formats.
const BIG_COMPRESSED: i32 = 2;
const BIG_EXPANDED: i32 = 3;

#[world::test]
async fn the_core_is_told_the_format_of_each_ciphertext() -> Result<()> {
    let mut scene = scene(1).await?;
    scene.start(program())?;
    let asks = vec![
        Ask::public(&[fhe::UINT64, fhe::BOOL]).format(Some(COMPRESSED)),
        Ask::user(&[fhe::UINT64]).format(Some("COMPRESSED_ON_GPU")),
        Ask::public(&[fhe::UINT64]).format(None),
        Ask::user(&[fhe::UINT64]).format(Some("uncompressed_on_cpu")),
    ];
    let requests = scene.deployment.request(asks).await?;
    scene.answered(&requests).await?;
    let asked = scene.core.asks();
    let formats = requests.iter().map(|request| {
        let ask = asked.iter().find(|ask| ask.handles == request.handles);
        ask.map(|ask| ask.formats.clone()).unwrap_or_default()
    });
    assert_eq!(
        formats.collect::<Vec<_>>(),
        [
            vec![BIG_COMPRESSED, BIG_COMPRESSED],
            vec![BIG_COMPRESSED],
            vec![BIG_EXPANDED],
            vec![BIG_EXPANDED]
        ]
    );
    Ok(())
}

#[world::test]
async fn ciphertexts_of_4_and_of_32_mib_arrive() -> Result<()> {
    let mut scene = scene(1).await?;
    scene.start(program())?;
    // 64 bits usually take 1 MiB: this one is larger than what was reserved for it.
    let asks = vec![
        Ask::public(&[fhe::UINT256, fhe::UINT256]).sized(4 * MIB),
        Ask::user(&[fhe::UINT256]).sized(4 * MIB),
        Ask::public(&[fhe::UINT64]).sized(32 * MIB),
    ];
    let requests = scene.deployment.request(asks).await?;
    scene.answered(&requests).await?;
    Ok(())
}

/// Field failure T23.
#[world::test]
async fn memory_is_bounded_by_the_budget() -> Result<()> {
    const COUNT: usize = 64;
    const SIZE: usize = 4 * MIB;
    let mut scene = scene(1).await?;
    scene.start_with(program(), &scene.config("ciphertext_memory_mib = 160"))?;
    scene.logged("instance running").await?;
    let before = peak_bytes(&scene)?;
    // One body under many handles: the connector does not know, and takes each by itself.
    let mut asks: Vec<Ask> = (0..COUNT).map(|_| Ask::public(&[fhe::UINT256])).collect();
    let body = Ask::public(&[fhe::UINT256]).sized(SIZE).ciphertexts.remove(0);
    for ask in &mut asks {
        ask.ciphertexts[0].bytes.clone_from(&body.bytes);
        ask.ciphertexts[0].digest = body.digest;
    }
    scene.deployment.upload(&asks[..1]).await?;
    let requests = scene.deployment.emit(asks).await?;
    scene.answered(&requests).await?;
    let grown = peak_bytes(&scene)?.saturating_sub(before);
    let all = COUNT * SIZE;
    assert!(grown < all * 3 / 4, "grew by {} MiB of {}", grown / MIB, all / MIB);
    Ok(())
}

/// The most memory the connector has had so far.
fn peak_bytes(scene: &Scene) -> Result<usize> {
    let pid = scene.connector.as_ref().map(Process::pid);
    let pid = pid.ok_or_else(|| Error::other("no connector"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|e| Error::Io("the process's status".into(), e))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB"))
        .and_then(|text| text.trim().parse::<usize>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| Error::other("no VmHWM"))
}

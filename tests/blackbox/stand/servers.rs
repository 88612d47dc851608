//! The servers of the test world do what tests rely on: they restart with their memory, break on
//! demand, and never outlive us.

use std::time::Duration;

use alloy::primitives::{Address, B256, Signature, U256, keccak256};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use world::{
    PATIENCE, Result,
    anvil::{Anvil, AnvilOptions},
    config_dir::ConfigDir,
    contracts::Variant,
    deployment::{Deployment, Store, Thresholds},
    faulty_bucket::{Fault, FaultyBucket},
    http_client,
    ministack::{COMPRESSED, Ministack},
    process::Process,
    procfs::{Usage, connections},
    proxy::{Proxy, Weather},
    random,
    request::{Ask, Kind},
    rpc::Chain,
    until,
};

#[tokio::test]
async fn a_restarted_chain_is_the_same_chain() {
    let dir = tempfile::tempdir().unwrap();
    let mut anvil = Anvil::start(dir.path(), AnvilOptions::default()).await.unwrap();
    let deployment =
        Deployment::deploy(anvil.chain(), Variant::G10, &[], &[], Thresholds::ONE).await.unwrap();
    let before = deployment.request_public(3).await.unwrap();
    let chain = anvil.chain().clone();
    let genesis = chain.block_hash(0).await.unwrap();
    let block = chain.block_hash(before[0].block).await.unwrap();
    assert!(block.is_some());

    anvil.stop().await.unwrap();
    assert!(chain.chain_id().await.is_err());
    anvil.start_again().await.unwrap();
    assert_eq!(chain.block_hash(0).await.unwrap(), genesis);
    assert_eq!(chain.block_hash(before[0].block).await.unwrap(), block);
    let topic = deployment.request_topic(Kind::Public);
    let logs = chain.logs(deployment.decryption, deployment.since_block, topic).await.unwrap();
    assert_eq!(logs.len(), 3);
    let after = deployment.request_public(1).await.unwrap();
    assert_eq!(after[0].id, before[2].id + U256::from(1));

    // Blocks come by themselves.
    let head = chain.block_number().await.unwrap();
    until("two blocks", PATIENCE, Duration::from_millis(50), async || {
        Ok((chain.block_number().await? >= head + 2).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_reorg_gives_an_id_to_another_request() {
    let dir = tempfile::tempdir().unwrap();
    let options = AnvilOptions { block_time: None, ..AnvilOptions::default() };
    let anvil = Anvil::start(dir.path(), options).await.unwrap();
    let deployment =
        Deployment::deploy(anvil.chain(), Variant::G10, &[], &[], Thresholds::ONE).await.unwrap();
    let head = anvil.chain().block_number().await.unwrap();
    let lost = deployment.request_public(1).await.unwrap().remove(0);
    let old_hash = anvil.chain().block_hash(lost.block).await.unwrap();
    let depth = anvil.chain().block_number().await.unwrap() - head;
    anvil.chain().reorg(depth).await.unwrap();
    assert_ne!(anvil.chain().block_hash(lost.block).await.unwrap(), old_hash);
    let again = deployment.request_public(1).await.unwrap().remove(0);
    assert_eq!(again.id, lost.id);
    assert_ne!(again.handles, lost.handles);
}

#[tokio::test]
async fn buckets_and_keys_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut ministack = Ministack::start(dir.path(), None).await.unwrap();
    let bucket = ministack.bucket("ct128").await.unwrap();
    let digest = bucket.put_ciphertext(b"hello world", Some(COMPRESSED)).await.unwrap();
    let lie = B256::from(random());
    bucket.put(lie, b"not what the digest says", None).await.unwrap();
    let key = ministack.create_key("alias/wallet").await.unwrap();

    ministack.restart().await.unwrap();
    ministack.bucket("ct128").await.unwrap();
    let client = http_client(PATIENCE).unwrap();
    let get = async |digest: B256| {
        client.get(format!("{}/{digest:x}", bucket.url())).send().await.unwrap()
    };
    let object = get(digest).await;
    assert_eq!(object.headers()["x-amz-meta-ct-format"], COMPRESSED);
    assert_eq!(keccak256(object.bytes().await.unwrap()), digest);
    let object = get(lie).await;
    assert!(object.headers().get("x-amz-meta-ct-format").is_none());
    assert_ne!(keccak256(object.bytes().await.unwrap()), lie);
    assert_eq!(get(B256::from(random())).await.status(), 404);
    bucket.delete(digest).await.unwrap();
    assert_eq!(get(digest).await.status(), 404);

    // The key signs digests, and the signature is its wallet's.
    let digest = keccak256("anything");
    let signed = ministack
        .kms(
            "Sign",
            &json!({
                "KeyId": key.alias, "Message": STANDARD.encode(digest), "MessageType": "DIGEST",
                "SigningAlgorithm": "ECDSA_SHA_256",
            }),
        )
        .await
        .unwrap();
    let der = STANDARD.decode(signed["Signature"].as_str().unwrap()).unwrap();
    let signature = k256::ecdsa::Signature::from_der(&der).unwrap();
    let signature = signature.normalize_s().unwrap_or(signature);
    let recovered = [false, true].map(|parity| {
        Signature::from_signature_and_parity(signature, parity)
            .recover_address_from_prehash(&digest)
            .ok()
    });
    assert!(recovered.contains(&Some(key.address)), "{recovered:?} {}", key.address);
}

#[tokio::test]
async fn requests_come_by_the_hundred() {
    let dir = tempfile::tempdir().unwrap();
    let anvil = Anvil::start(dir.path(), AnvilOptions::default()).await.unwrap();
    let ministack = Ministack::start(dir.path(), None).await.unwrap();
    let stores = [Store::new(ministack.bucket("ct128").await.unwrap())];
    let deployment = Deployment::deploy(anvil.chain(), Variant::G8, &[], &stores, Thresholds::ONE)
        .await
        .unwrap();
    let start = std::time::Instant::now();
    let asks = Ask::mixed(100, 100);
    deployment.upload(&asks).await.unwrap();
    let uploaded = start.elapsed();
    let requests = deployment.emit(asks).await.unwrap();
    println!("200 requests: uploads {uploaded:?}, all {:?}", start.elapsed());
    assert_eq!(requests.len(), 200);
    let users = requests.iter().filter(|request| request.kind == Kind::User).count();
    assert_eq!(users, 100);
    let ids: std::collections::HashSet<_> = requests.iter().map(|request| request.id).collect();
    assert_eq!(ids.len(), 200);

    let missing = deployment.wait_answered(ids, Duration::from_millis(50)).await.unwrap_err();
    assert!(missing.to_string().contains("200 of 200 missing"), "{missing}");
}

#[tokio::test]
async fn the_proxy_breaks_connections_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let anvil = Anvil::start(dir.path(), AnvilOptions::default()).await.unwrap();
    let proxy = Proxy::start(anvil.port()).await.unwrap();
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let chain = Chain::new(&url, Address::ZERO).unwrap();
    chain.chain_id().await.unwrap();

    proxy.set(Weather::Cut);
    assert!(chain.chain_id().await.is_err());
    proxy.set(Weather::Clear);
    chain.chain_id().await.unwrap();

    proxy.set(Weather::Silent);
    let silent: Result<Result<u64>, _> =
        tokio::time::timeout(Duration::from_millis(300), chain.chain_id()).await;
    assert!(silent.is_err());
    proxy.set(Weather::Clear);
    // What hung in the silence is closed; the next connection goes through.
    until("clear weather", PATIENCE, Duration::from_millis(20), async || {
        Ok(chain.chain_id().await.ok())
    })
    .await
    .unwrap();
    proxy.cut().await;
    until("after a cut", PATIENCE, Duration::from_millis(20), async || {
        Ok(chain.chain_id().await.ok())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_faulty_bucket_fails_as_told() {
    let get = async |fault: Fault| {
        let stops = matches!(fault, Fault::Stall | Fault::Hang);
        let waits = if stops { Duration::from_millis(500) } else { PATIENCE };
        let client = http_client(waits).unwrap();
        let bucket = FaultyBucket::start(fault).await.unwrap();
        let response = client.get(format!("{}/00", bucket.url())).send().await;
        let seen = match response {
            Ok(response) => {
                let status = response.status().as_u16();
                (Some(status), response.bytes().await.map(|body| body.len()).ok())
            }
            Err(_) => (None, None),
        };
        (seen, bucket.requests())
    };
    assert_eq!(get(Fault::Status(403)).await, ((Some(403), Some(0)), 1));
    assert_eq!(get(Fault::Body { announced: 5, sent: 5 }).await, ((Some(200), Some(5)), 1));
    assert_eq!(get(Fault::Body { announced: 9, sent: 5 }).await, ((Some(200), None), 1));
    assert_eq!(get(Fault::Unannounced { sent: 70_000 }).await, ((Some(200), Some(70_000)), 1));
    assert_eq!(get(Fault::Stall).await, ((Some(200), None), 1));
    assert_eq!(get(Fault::Hang).await, ((None, None), 1));
    let target = FaultyBucket::start(Fault::Status(200)).await.unwrap();
    get(Fault::Redirect(target.url())).await;
    assert_eq!(target.requests(), 1, "a client that follows redirects comes here");
}

#[tokio::test]
async fn a_server_ends_with_the_process_that_started_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("sh");
    // A server with a child of its own, which has to go too.
    command.args(["-c", "echo up; sleep 1000 & echo $!; wait"]);
    let mut server = Process::spawn("server", dir.path(), command).unwrap();
    let child = until("the child", PATIENCE, Duration::from_millis(10), async || {
        Ok(server.output().lines().nth(1).and_then(|line| line.parse::<u32>().ok()))
    })
    .await
    .unwrap();
    server.check().unwrap();
    server.abandon();
    let status = server.wait(PATIENCE).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    until("end of the child", PATIENCE, Duration::from_millis(10), async || {
        // A killed orphan stays a zombie until its new parent looks after it.
        let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        Ok((state.is_empty() || state.contains(") Z ")).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_dropped_server_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let anvil = Anvil::start(dir.path(), AnvilOptions::default()).await.unwrap();
    let chain = anvil.chain().clone();
    chain.chain_id().await.unwrap();
    drop(anvil);
    assert!(chain.chain_id().await.is_err());
}

#[tokio::test]
async fn the_kernel_tells_one_connection_from_another() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let open = || connections(std::process::id(), port).unwrap();
    assert_eq!(open().len(), 0);
    let first = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let one = open();
    assert_eq!((one.len(), open()), (1, one.clone()), "the same is the same");
    let second = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let two = open();
    assert_eq!(two.difference(&one).count(), 1);
    drop(first);
    assert_eq!(open(), two.difference(&one).copied().collect());
    drop(second);
    assert!(open().is_empty());

    let usage = Usage::of(std::process::id()).unwrap();
    assert!(usage.rss_kib > 0 && usage.threads > 0, "{usage:?}");
    assert!(usage.files > usage.sockets && usage.sockets > 0, "{usage:?}");
}

#[tokio::test]
async fn a_published_directory_is_swapped_in_one_step() {
    let dir = tempfile::tempdir().unwrap();
    let configs = ConfigDir::new(dir.path().join("config")).unwrap();
    let read = |name: &str| std::fs::read_to_string(configs.file(name)).ok();
    configs.publish(&[("a", "1"), ("b", "1")]).unwrap();
    assert_eq!((read("a").as_deref(), read("b").as_deref()), (Some("1"), Some("1")));
    let link = configs.file("a").read_link().unwrap();
    configs.publish(&[("a", "2"), ("c", "2")]).unwrap();
    assert_eq!(configs.file("a").read_link().unwrap(), link, "only what it leads to is another");
    assert_eq!(
        (read("a").as_deref(), read("b"), read("c").as_deref()),
        (Some("2"), None, Some("2"))
    );
    let shown = std::fs::read_dir(configs.path()).unwrap().flatten();
    assert_eq!(shown.count(), 4, "two files, the data and the link to it");
}

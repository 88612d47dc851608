//! A host chain through the library: one block, as many endpoints as must agree, and whatever their nodes
//! do. No answer is given by fewer, and none by the clock of a node.

use std::{sync::Arc, time::Duration};

use alloy::primitives::{Address, B256, U256};
use kms_connector::{
    chain::{
        provider::{ArbitrumProvider, ChainRole, endpoint::Endpoint},
        reader::NodeId,
    },
    contracts::{
        acl::{AclAnswer, AclQuestion, HostChain, PinnedAnswers},
        pinned_reads::{ChainEndpoint, HostChainError, PinnedOptions, PinnedReader},
        protocol_config::{ContextStatus, ProtocolConfig},
    },
    dice::Dice,
    net::tls::TlsRoots,
    telemetry::{heartbeat::Heartbeats, metrics::Metrics},
    time::clock::Clock,
};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use world::{
    Error, Result,
    contracts::Variant,
    deployment::{Node, Thresholds},
    faulty_rpc::{Arrays, FaultyRpc, Lie, Rule},
    host::{self, Host, HostOptions},
    http_client, program,
    proxy::Weather,
    random_address,
    request::{Ask, fhe},
    scene::{Scene, SceneOptions},
    until,
};

const POLL: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(30);
const HANDLE: B256 = B256::repeat_byte(0x11);
const USER: Address = Address::repeat_byte(0x22);

/// A host chain, nodes in front of it, and what asks them.
struct Ground {
    acl: HostChain<ArbitrumProvider>,
    contexts: ProtocolConfig<ArbitrumProvider>,
    nodes: Vec<FaultyRpc>,
    chain: host::HostChain,
    _running: JoinSet<()>,
    _dir: tempfile::TempDir,
}

/// One node per scheme.
async fn ground(schemes: &[&str], agreement: usize, max_age: Duration) -> Result<Ground> {
    let dir = tempfile::tempdir().map_err(|e| Error::Io("a folder".into(), e))?;
    let options = HostOptions::of(Variant::G14).block_time(Some(Duration::from_secs(1)));
    let node = Node { wallet: random_address(), signer: random_address() };
    let chain = host::HostChain::start(dir.path(), options, &[node], Thresholds::ONE).await?;
    let mut nodes = Vec::new();
    for _ in schemes {
        nodes.push(FaultyRpc::start(&chain.anvil.http_url()).await?);
    }
    let roots = TlsRoots::load(None).map_err(|e| Error::other(e.to_string()))?;
    let tls = Arc::new(roots.client_config());
    let mut endpoints = Vec::new();
    for (scheme, node) in schemes.iter().zip(&nodes) {
        let url = format!("{scheme}://{}/v1/secret-key", node.host());
        let url = url.parse().map_err(|_| Error::other("a URL"))?;
        let endpoint = Endpoint::new(url, tls.clone(), http_client(Duration::from_mins(1))?);
        endpoints.push(endpoint.with_role(ChainRole::Host));
    }
    let id = chain.host.chain_id;
    let (provider, connections) =
        ArbitrumProvider::new(id, endpoints, Metrics::default(), &Dice::default());
    let mut running = JoinSet::new();
    running.spawn(connections.run(Heartbeats::default(), CancellationToken::new()));
    let options = |agreement| PinnedOptions {
        chain_id: id,
        agreement,
        max_age,
        deadline: Duration::from_secs(10),
        calls: 8,
        clock: Clock::Wall,
    };
    let endpoints: Vec<_> =
        (0..nodes.len()).map(|node| ChainEndpoint::of(&provider, NodeId(node))).collect();
    let reads = PinnedReader::new(options(agreement), endpoints.clone());
    let acl = HostChain::new(reads, chain.host.acl, 100_000);
    let contexts =
        ProtocolConfig::new(PinnedReader::new(options(1), endpoints), chain.host.protocol_config);
    Ok(Ground { acl, contexts, nodes, chain, _running: running, _dir: dir })
}

const MINUTES: Duration = Duration::from_mins(2);

fn allowed() -> AclQuestion {
    AclQuestion::Allowed { handle: HANDLE, account: USER }
}

impl Ground {
    fn host(&self) -> &Host {
        &self.chain.host
    }

    async fn ask(&self) -> std::result::Result<PinnedAnswers, HostChainError> {
        self.acl.ask(&[allowed()]).await
    }

    /// Asks until the answer is so.
    async fn answers(&self, answer: AclAnswer) -> Result<PinnedAnswers> {
        until(&format!("{answer:?}"), SOON, POLL, async || {
            let told = self.ask().await.ok();
            Ok(told.filter(|told| told.answers == [answer.clone()]))
        })
        .await
    }

    /// Asks until the error has this code; what it says.
    async fn fails(&self, code: &str) -> Result<String> {
        until(code, SOON, POLL, async || {
            let error = self.ask().await.err().filter(|error| error.code() == code);
            Ok(error.map(|error| error.to_string()))
        })
        .await
    }

    async fn allow(&self, is_: bool) -> Result<()> {
        let call = self.host().allow(HANDLE, USER, is_);
        self.host().send(vec![call]).await.map(drop)
    }
}

#[world::test]
async fn grants_are_seen_at_one_block_and_remembered_only_when_final() -> Result<()> {
    for scheme in ["http", "ws"] {
        let ground = ground(&[scheme, scheme], 2, MINUTES).await?;
        let told = ground.answers(AclAnswer::No).await?;
        assert_eq!((told.hosts.len(), told.at_finalized.len()), (2, 1));
        ground.allow(true).await?;
        let told = ground.answers(AclAnswer::Yes).await?;
        assert_eq!(told.at_finalized, [Some(false)], "not final yet");
        until("a final grant", SOON, POLL, async || {
            let told = ground.ask().await.ok();
            Ok(told.filter(|told| told.at_finalized == [Some(true)]).map(drop))
        })
        .await?;
        // Each question is one message to each endpoint.
        let before: Vec<usize> = ground.nodes.iter().map(FaultyRpc::arrays).collect();
        ground.answers(AclAnswer::Yes).await?;
        for (node, before) in ground.nodes.iter().zip(before) {
            // A socket carries single calls side by side.
            assert_eq!(node.arrays(), before + usize::from(scheme == "http"), "{scheme}");
        }
        // What the contract is: known once it was looked at, and another one after an upgrade.
        ground.acl.look().await.map_err(|e| Error::other(e.to_string()))?;
        let known = ground.acl.identity().ok_or_else(|| Error::other("no identity"))?;
        assert_eq!(ground.ask().await.ok().and_then(|told| told.identity), Some(known));
        let mut host = ground.host().clone();
        host.upgrade_acl(Variant::Head).await?;
        until("the upgrade", SOON, POLL, async || {
            let _ = ground.ask().await;
            Ok(ground.acl.identity().is_none().then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[world::test]
async fn a_node_that_hangs_fails_or_stands_still_is_passed_over() -> Result<()> {
    let ground = ground(&["http", "http"], 1, Duration::from_secs(5)).await?;
    ground.allow(true).await?;
    ground.answers(AclAnswer::Yes).await?;
    let first = &ground.nodes[0];
    for trouble in [
        Rule::always("eth_call", Lie::error(-32000, "missing trie node 8b16 (path )")),
        Rule::always("eth_call", Lie::Status(429)),
        Rule::always("eth_call", Lie::Malformed),
        Rule::always("eth_call", Lie::Silence),
    ] {
        first.rule(trouble.clone());
        let begun = Instant::now();
        let told = ground.ask().await.map_err(|e| Error::other(format!("{trouble:?}: {e}")))?;
        assert!(begun.elapsed() < Duration::from_secs(5), "{trouble:?}: {:?}", begun.elapsed());
        assert_eq!(told.hosts, [ground.nodes[1].host()], "{trouble:?}");
        first.be_honest();
    }
    first.proxy.set(Weather::Silent);
    ground.answers(AclAnswer::Yes).await?;
    first.proxy.set(Weather::Clear);
    // It stands still: its grants are not those of the chain.
    let stands = ground.host().chain.block_number().await?;
    first.lie(|lies| lies.stands_at = Some(stands));
    ground.allow(false).await?;
    ground.answers(AclAnswer::No).await?;
    // Both do: that is no answer, however often it is asked.
    ground.nodes[1].lie(|lies| lies.stands_at = Some(stands));
    let told = ground.fails("host_chain_stale").await?;
    assert!(told.contains(&first.host()) && told.contains("more than 5 s"), "{told}");
    ground.nodes.iter().for_each(FaultyRpc::be_honest);
    ground.answers(AclAnswer::No).await?;
    Ok(())
}

#[world::test]
async fn where_two_must_agree_one_that_lies_or_is_away_decides_nothing() -> Result<()> {
    let ground = ground(&["http", "ws"], 2, MINUTES).await?;
    ground.answers(AclAnswer::No).await?;
    let yes = json!(B256::with_last_byte(1));
    ground.nodes[0].lie(|lies| lies.views = vec![("0x82027b6d", yes)]);
    let told = ground.fails("host_nodes_disagree").await?;
    for node in &ground.nodes {
        assert!(told.contains(&node.host()), "{told}");
    }
    assert!(!told.contains("secret-key"), "{told}");
    ground.nodes[0].be_honest();
    ground.answers(AclAnswer::No).await?;
    ground.nodes[1].proxy.set(Weather::Silent);
    let begun = Instant::now();
    let error = ground.ask().await.err().ok_or_else(|| Error::other("an answer of one"))?;
    assert_eq!(error.code(), "host_chain_unreachable", "{error}");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    ground.nodes[1].proxy.set(Weather::Clear);
    ground.answers(AclAnswer::No).await?;
    Ok(())
}

#[world::test]
async fn a_node_without_batches_or_block_hashes_is_asked_otherwise() -> Result<()> {
    let ground = ground(&["http"], 1, MINUTES).await?;
    ground.allow(true).await?;
    ground.answers(AclAnswer::Yes).await?;
    let node = &ground.nodes[0];
    node.lie(|lies| lies.arrays = Arrays::Refused(400));
    ground.answers(AclAnswer::Yes).await?;
    let arrays = node.arrays();
    ground.answers(AclAnswer::Yes).await?;
    assert_eq!(node.arrays(), arrays, "none is sent again");
    // It knows numbers alone.
    let what = "invalid argument 1: json: cannot unmarshal object into Go value of type string";
    node.rule(Rule::times(1, "eth_call", Lie::error(-32602, what)));
    assert_eq!(ground.ask().await.ok().map(|told| told.answers), Some(vec![AclAnswer::Yes]));
    let headers = node.calls("eth_getBlockByNumber");
    ground.answers(AclAnswer::Yes).await?;
    assert!(node.calls("eth_getBlockByNumber") >= headers + 2, "the hash is compared");
    Ok(())
}

#[world::test]
async fn a_chain_of_another_id_and_an_address_without_code_are_told() -> Result<()> {
    let ground = ground(&["http"], 1, MINUTES).await?;
    ground.answers(AclAnswer::No).await?;
    ground.nodes[0].lie(|lies| lies.chain_id = Some(5));
    ground.nodes[0].proxy.set(Weather::Cut);
    ground.fails("host_chain_unreachable").await?;
    // The connection itself has to notice as well.
    tokio::time::sleep(Duration::from_secs(3)).await;
    ground.nodes[0].proxy.set(Weather::Clear);
    let told = ground.fails("host_chain_other").await?;
    assert!(told.contains("serves chain id 5"), "{told}");
    ground.nodes[0].be_honest();
    ground.answers(AclAnswer::No).await?;
    let elsewhere = HostChain::new(ground.acl.reads().clone(), random_address(), 100_000);
    let error = elsewhere.ask(&[allowed()]).await.err();
    assert_eq!(error.map(|error| error.code()), Some("host_chain_no_contract"));
    Ok(())
}

#[world::test]
async fn a_context_counts_when_it_is_final_and_ends_when_it_is_destroyed() -> Result<()> {
    let ground = ground(&["http"], 1, MINUTES).await?;
    let host = ground.host();
    let status = async |context, epoch, expected: ContextStatus| {
        until(&format!("{expected:?}"), SOON, POLL, async || {
            let told = ground.contexts.context_and_epoch(context, epoch).await.ok();
            Ok(told.filter(|told| *told == expected).map(drop))
        })
        .await
    };
    let node = Node { wallet: random_address(), signer: random_address() };
    let first = host.new_context(&[node], Thresholds::ONE).await?;
    status(first.0, Some(first.1), ContextStatus::Valid).await?;
    status(first.0, Some(first.1 + U256::ONE), ContextStatus::EpochUnknown).await?;
    let second = host.define_context(&[node], Thresholds::ONE).await?;
    status(second, None, ContextStatus::Unknown).await?;
    status(second + U256::ONE, None, ContextStatus::Unknown).await?;
    let epoch = host.confirm_creation(second).await?;
    host.activate_epoch(epoch).await?;
    status(second, Some(epoch), ContextStatus::Valid).await?;
    host.destroy_context(first.0).await?;
    status(first.0, Some(first.1), ContextStatus::Destroyed).await?;
    status(second, None, ContextStatus::Valid).await?;
    Ok(())
}

/// Nothing that an instance needs is there: it runs, and says so.
#[world::test]
async fn a_dead_host_chain_blocks_no_start_and_no_request_that_needs_none() -> Result<()> {
    let hosts = vec![HostOptions::of(Variant::G14)];
    let mut scene = Scene::new(SceneOptions { hosts, ..SceneOptions::default() }).await?;
    let node = FaultyRpc::start(&scene.hosts[0].anvil.http_url()).await?;
    node.proxy.set(Weather::Silent);
    let config = scene.config("").replace(&scene.hosts[0].anvil.http_url(), &node.http_url());
    scene.start_with(program(), &config)?;
    let requests = scene.deployment.request(vec![Ask::public(&[fhe::UINT8])]).await?;
    scene.answered(&requests).await?;
    scene.logged("a host chain gives no answer").await?;
    node.proxy.set(Weather::Clear);
    scene.logged("the host chain answers again").await?;
    scene.stop().await?;
    Ok(())
}

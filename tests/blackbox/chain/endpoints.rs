//! The provider over several nodes, and over nodes that lie, seen through the library: which one is
//! read from, who gets a transaction, what an outage looks like.

mod other_chains;
mod odd_answers;
mod sending;

use std::{sync::Arc, time::Duration};

use alloy::primitives::{Address, B256, Bytes, keccak256};
use kms_connector::{
    chain::{
        provider::{ArbitrumProvider, endpoint::Endpoint},
        reader::{ChainReader, LogFilter, LogRange, NodeId},
        rpc_error::RpcError,
        sender::{Acceptance, TransactionSender},
    },
    dice::Dice,
    net::tls::TlsRoots,
    telemetry::{heartbeat::Heartbeats, metrics::Metrics},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use world::{
    Error, Result,
    anvil::{Anvil, AnvilOptions},
    faulty_rpc::{FaultyRpc, Lie, Rule},
    http_client,
    proxy::Weather,
    until,
};

fn filter(first: &[B256]) -> LogFilter<'_> {
    LogFilter { addresses: &[Address::ZERO], topic0: first, topic1: &[] }
}

const POLL: Duration = Duration::from_millis(20);
const SOON: Duration = Duration::from_secs(30);

/// A chain, nodes in front of it, and a provider of all of them.
struct Ground {
    provider: ArbitrumProvider,
    nodes: Vec<FaultyRpc>,
    anvil: Anvil,
    _running: JoinSet<()>,
    _dir: tempfile::TempDir,
}

/// One node per scheme.
async fn ground(schemes: &[&str]) -> Result<Ground> {
    let dir = tempfile::tempdir().map_err(|e| Error::Io("a folder".into(), e))?;
    let anvil = Anvil::start(dir.path(), AnvilOptions::default()).await?;
    let mut nodes = Vec::new();
    for _ in schemes {
        nodes.push(FaultyRpc::start(&anvil.http_url()).await?);
    }
    let roots = TlsRoots::load(None).map_err(|e| Error::other(e.to_string()))?;
    let tls = Arc::new(roots.client_config());
    let mut endpoints = Vec::new();
    for (scheme, node) in schemes.iter().zip(&nodes) {
        let url = format!("{scheme}://{}/v1/secret-key", node.host());
        let url = url.parse().map_err(|_| Error::other("a URL"))?;
        endpoints.push(Endpoint::new(url, tls.clone(), http_client(Duration::from_mins(1))?));
    }
    let (provider, connections) =
        ArbitrumProvider::new(anvil.chain_id(), endpoints, Metrics::default(), &Dice::default());
    let mut running = JoinSet::new();
    running.spawn(connections.run(Heartbeats::default(), CancellationToken::new()));
    Ok(Ground { provider, nodes, anvil, _running: running, _dir: dir })
}

impl Ground {
    async fn connected(&self) -> Result<()> {
        until("a connection to every node", SOON, POLL, async || {
            // After its head nothing is missing but the message of it.
            let told = |node: &FaultyRpc| node.calls("eth_getBlockByNumber") > 0;
            Ok(self.nodes.iter().all(told).then_some(()))
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        until("a head", SOON, POLL, async || {
            Ok((self.provider.heads().borrow().is_some()).then_some(()))
        })
        .await
    }

    /// The node that a read is asked of.
    async fn read_from(&self) -> Result<usize> {
        let before: Vec<usize> =
            self.nodes.iter().map(|node| node.calls("eth_getBalance")).collect();
        self.provider.balance(Address::ZERO).await.map_err(|e| Error::other(e.to_string()))?;
        let after = self.nodes.iter().map(|node| node.calls("eth_getBalance"));
        let asked = after.zip(&before).position(|(after, before)| after > *before);
        asked.ok_or_else(|| Error::other("nobody was asked"))
    }

    async fn reads_from(&self, node: usize) -> Result<()> {
        until(&format!("reading from {node}"), SOON, POLL, async || {
            Ok((self.read_from().await? == node).then_some(()))
        })
        .await
    }

    fn head(&self) -> u64 {
        self.provider.heads().borrow().map_or(0, |head| head.block.number)
    }
}

/// No node can decode it, and each says so: what is sent is the scripts' business.
fn transaction() -> (Bytes, B256) {
    let raw = Bytes::from_static(b"a transaction");
    let hash = keccak256(&raw);
    (raw, hash)
}

const SEND: &str = "eth_sendRawTransaction";

async fn send(ground: &Ground) -> Result<Acceptance, RpcError> {
    ground.provider.send(&transaction().0, false).await
}

#[world::test]
async fn reading_goes_to_the_next_node_within_a_call_and_hears_heads_from_it() -> Result<()> {
    for schemes in [["ws", "ws"], ["http", "ws"], ["ws", "http"]] {
        let ground = ground(&schemes).await?;
        ground.connected().await?;
        until("both nodes to be sound", SOON, POLL, async || {
            Ok((ground.provider.sound_nodes().len() == 2).then_some(()))
        })
        .await?;
        ground.reads_from(0).await?;
        let connection = ground.provider.heads().borrow().map(|head| head.connection);
        ground.nodes[0].proxy.set(Weather::Cut);
        // No call fails meanwhile.
        ground.reads_from(1).await?;
        let before = ground.head();
        until("heads of the other node", SOON, POLL, async || {
            Ok((ground.head() > before + 1).then_some(()))
        })
        .await?;
        let now = ground.provider.heads().borrow().map(|head| head.connection);
        assert_ne!(connection, now, "the last blocks are to be read again");
        assert!(ground.provider.connection_error().is_none());
    }
    Ok(())
}

/// A network that swallows packets: the call is answered by the other node within its deadline.
#[world::test]
async fn a_node_that_swallows_calls_costs_a_part_of_the_deadline() -> Result<()> {
    let ground = ground(&["ws", "ws"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    ground.nodes[0].proxy.set(Weather::Silent);
    for _ in 0..5 {
        ground.read_from().await?;
    }
    assert_eq!(ground.read_from().await?, 1);
    Ok(())
}

/// It answers everything else: the next call of that method goes to the other one at once.
#[world::test]
async fn a_node_that_hangs_at_one_method_costs_one_call() -> Result<()> {
    let ground = ground(&["ws", "ws"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    let code = async || ground.provider.code_size(Address::ZERO).await.is_ok();
    ground.nodes[0].rule(Rule::always("eth_getCode", Lie::Silence));
    assert!(code().await);
    for _ in 0..20 {
        assert!(code().await);
    }
    assert_eq!(ground.nodes[0].calls("eth_getCode"), 1);
    ground.reads_from(0).await
}

/// T55: hosts, never URLs.
#[world::test]
async fn t55_an_outage_names_all_hosts_and_no_key() -> Result<()> {
    let ground = ground(&["ws", "http"]).await?;
    ground.connected().await?;
    for node in &ground.nodes {
        node.proxy.set(Weather::Cut);
    }
    let trouble =
        until("trouble", SOON, POLL, async || Ok(ground.provider.connection_error())).await?;
    let text = trouble.to_string();
    for node in &ground.nodes {
        assert!(text.contains(&node.host()), "{text}");
    }
    assert!(!text.contains("secret-key"), "{text}");
    ground.nodes[1].proxy.set(Weather::Clear);
    ground.reads_from(1).await?;
    assert!(ground.provider.connection_error().is_none());
    Ok(())
}

/// A node whose head stands still while the other's goes on, and the one that goes on.
#[world::test]
async fn a_node_that_stands_still_is_not_read_from_for_long() -> Result<()> {
    let ground = ground(&["ws", "ws"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    let stands_at = ground.head();
    ground.nodes[0].lie(|lies| lies.stands_at = Some(stands_at));
    ground.reads_from(1).await?;
    until("heads", SOON, POLL, async || Ok((ground.head() > stands_at + 4).then_some(()))).await
}

/// T02, T03: a subscription that has gone silent over a living connection.
#[world::test]
async fn t02_t03_a_silent_subscription_is_replaced() -> Result<()> {
    let ground = ground(&["ws"]).await?;
    ground.connected().await?;
    ground.nodes[0].lie(|lies| lies.silent_subscriptions = true);
    let subscriptions = ground.nodes[0].calls("eth_subscribe");
    until("another subscription", SOON, POLL, async || {
        Ok((ground.nodes[0].calls("eth_subscribe") > subscriptions).then_some(()))
    })
    .await?;
    ground.nodes[0].be_honest();
    let before = ground.head();
    until("heads", SOON, POLL, async || Ok((ground.head() > before + 2).then_some(()))).await
}

/// Head polls that are refused for a moment take no connection down, of whichever node.
#[world::test]
async fn c1_a_head_poll_that_is_refused_for_now_is_no_disconnect() -> Result<()> {
    const HEAD: &str = "eth_getBlockByNumber";
    let ground = ground(&["http"]).await?;
    ground.connected().await?;
    let connection = || ground.provider.heads().borrow().map(|head| head.connection);
    let before = connection();
    for lie in [Lie::Status(429), Lie::Later(503, 0), Lie::error(-32005, "rate limit exceeded")] {
        ground.nodes[0].rule(Rule::times(1, HEAD, lie));
        let (calls, head) = (ground.nodes[0].calls(HEAD), ground.head());
        until("more polls and heads", SOON, POLL, async || {
            assert!(ground.provider.connection_error().is_none(), "it counts as gone");
            let more = ground.nodes[0].calls(HEAD) > calls + 3 && ground.head() > head;
            Ok(more.then_some(()))
        })
        .await?;
    }
    assert_eq!(connection(), before);
    Ok(())
}

/// Whoever says that it is asked too often is left alone for a while: others are asked meanwhile, and
/// where there are none it is asked again.
#[world::test]
async fn c1_a_node_that_is_asked_too_often_is_left_alone() -> Result<()> {
    const LOGS: &str = "eth_getLogs";
    let failed = |e: RpcError| Error::other(e.to_string());
    let range = LogRange::Numbers { from: 0, to: 1 };
    let ground = ground(&["http", "http"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    for lie in [
        Lie::error(-32005, "daily request count exceeded, request rate limited"),
        Lie::error(-32000, "rate limit exceeded"),
        Lie::Later(429, 1),
    ] {
        ground.reads_from(0).await?;
        ground.nodes[0].rule(Rule::always(LOGS, lie.clone()));
        let calls = ground.nodes[0].calls(LOGS);
        for _ in 0..20 {
            ground.provider.logs(filter(&[]), range).await.map_err(failed)?;
        }
        let asked = ground.nodes[0].calls(LOGS) - calls;
        assert!(asked <= 3, "{lie:?}: {asked}");
        ground.nodes[0].be_honest();
        ground.nodes[0].rule(Rule::times(2, LOGS, lie.clone()));
        let alone = ground.provider.for_node(NodeId(0));
        alone.logs(filter(&[]), range).await.map_err(failed)?;
        ground.nodes[0].be_honest();
    }
    Ok(())
}

/// A handshake that is refused with a time is not tried before.
#[world::test]
async fn c1_retry_after_is_kept_where_a_web_socket_is_refused() -> Result<()> {
    let ground = ground(&["ws"]).await?;
    ground.connected().await?;
    let node = &ground.nodes[0];
    node.lie(|lies| lies.no_upgrade = Some((429, 2)));
    let before = node.upgrades().len();
    node.proxy.set(Weather::Cut);
    node.proxy.set(Weather::Clear);
    until("two handshakes", SOON, POLL, async || {
        Ok((node.upgrades().len() >= before + 2).then_some(()))
    })
    .await?;
    let upgrades = node.upgrades();
    let between = upgrades[before + 1] - upgrades[before];
    assert!(between >= Duration::from_millis(1_900), "{between:?}");
    node.be_honest();
    ground.connected().await
}

/// A node that closes its socket again and again is not asked for one at once each time.
#[world::test]
async fn c1_a_socket_that_does_not_last_is_made_again_after_a_pause() -> Result<()> {
    let ground = ground(&["ws"]).await?;
    ground.connected().await?;
    let node = &ground.nodes[0];
    let before = node.upgrades().len();
    let _over = tokio::time::timeout(Duration::from_secs(4), async {
        loop {
            let made = node.upgrades().len();
            node.proxy.set(Weather::Cut);
            node.proxy.set(Weather::Clear);
            while node.upgrades().len() == made {
                tokio::time::sleep(POLL).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // Pauses of 50, 100, 200 and 400 ms at least, and then of half a second.
    let made = node.upgrades().len() - before;
    assert!((3..=12).contains(&made), "{made}");
    ground.connected().await
}

/// A node that offers no subscription over its WebSocket is asked for its head over the same one.
#[world::test]
async fn c2_a_node_without_subscriptions_is_polled_over_its_web_socket() -> Result<()> {
    let ground = ground(&["ws"]).await?;
    let node = &ground.nodes[0];
    for refusal in [Lie::method_not_found(), Lie::error(-32000, "notifications not supported")] {
        node.be_honest();
        node.rule(Rule::always("eth_subscribe", refusal));
        node.proxy.set(Weather::Cut);
        node.proxy.set(Weather::Clear);
        let (asked, head) = (node.calls("eth_subscribe"), ground.head());
        until("heads", SOON, POLL, async || {
            Ok((node.calls("eth_subscribe") > asked && ground.head() > head + 2).then_some(()))
        })
        .await?;
        let (asked, upgrades) = (node.calls("eth_subscribe"), node.upgrades().len());
        let head = ground.head();
        until("more heads", SOON, POLL, async || Ok((ground.head() > head + 2).then_some(())))
            .await?;
        assert_eq!((node.calls("eth_subscribe"), node.upgrades().len()), (asked, upgrades));
    }
    Ok(())
}

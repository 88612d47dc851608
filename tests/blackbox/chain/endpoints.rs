//! The provider over several nodes, and over nodes that lie, seen through the library: which one is
//! read from, who gets a transaction, what an outage looks like.

use std::{sync::Arc, time::Duration};

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use kms_connector::{
    chain::{
        provider::{ArbitrumProvider, endpoint::Endpoint},
        quirks,
        reader::{BlockId, ChainReader, LogFilter, LogRange, NodeId},
        rpc_error::RpcError,
        sender::{Acceptance, TransactionSender},
    },
    dice::Dice,
    domain::BlockRef,
    net::tls::TlsRoots,
    telemetry::{heartbeat::Heartbeats, metrics::Metrics},
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use world::{
    Error, Result,
    anvil::{Anvil, AnvilOptions},
    faulty_rpc::{Arrays, FaultyRpc, Lie, Rule},
    http_client,
    proxy::Weather,
    rpc::Call,
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

fn taken(hash: B256) -> Lie {
    Lie::Result(serde_json::json!(hash))
}

const SEND: &str = "eth_sendRawTransaction";

async fn send(ground: &Ground) -> Result<Acceptance, RpcError> {
    ground.provider.send(&transaction().0, false).await
}

fn refusal(sent: &Result<Acceptance, RpcError>) -> Option<quirks::PoolError> {
    match sent {
        Err(RpcError::Refused { code, message, .. }) => Some(quirks::pool_error(*code, message)),
        _ => None,
    }
}

#[world::test]
async fn reading_goes_to_the_next_node_within_a_call_and_hears_heads_from_it() -> Result<()> {
    for schemes in [["ws", "ws"], ["http", "ws"], ["ws", "http"]] {
        let ground = ground(&schemes).await?;
        ground.connected().await?;
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
    let begun = Instant::now();
    for _ in 0..20 {
        assert!(code().await);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
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

#[world::test]
async fn a_node_of_another_chain_is_left_out_and_all_of_them_are_refused() -> Result<()> {
    let ground = ground(&["ws", "ws"]).await?;
    ground.nodes[0].lie(|lies| lies.chain_id = Some(1));
    ground.nodes[0].proxy.cut().await;
    ground.reads_from(1).await?;
    assert_eq!(ground.nodes[0].calls("eth_getBalance"), 0);
    ground.nodes[1].lie(|lies| lies.chain_id = Some(1));
    ground.nodes[1].proxy.cut().await;
    until("a refusal", SOON, POLL, async || {
        let asked = ground.provider.chain_id().await;
        Ok(matches!(asked, Err(RpcError::WrongChain { found: 1, .. })).then_some(()))
    })
    .await
}

/// What a liar of another chain with the same id would have it do: take over, and blame the right node.
#[world::test]
async fn b1_a_node_of_another_chain_of_the_same_id_is_left_out() -> Result<()> {
    for schemes in [["ws", "ws"], ["http", "http"]] {
        let ground = ground(&schemes).await?;
        let liar = &ground.nodes[1];
        liar.lie(|lies| {
            lies.other_blocks = vec![(0, B256::repeat_byte(9))];
            lies.tells_head = Some(5_000_000);
        });
        ground.connected().await?;
        let genesis = ground.anvil.chain().block_hash(0).await?.unwrap_or_default();
        ground.provider.settle_genesis(genesis).await;
        assert!(ground.head() < 5_000_000);
        ground.reads_from(0).await?;
        until("the other one to be left out", SOON, POLL, async || {
            let up: Vec<bool> =
                ground.provider.endpoint_statuses().into_iter().map(|(_, up, _)| up).collect();
            Ok((up == [true, false]).then_some(()))
        })
        .await?;
        // It may answer for another chain tomorrow, or for ours.
        ground.nodes[0].proxy.set(Weather::Cut);
        until("nobody to be left", SOON, POLL, async || {
            Ok(ground.provider.sound_nodes().is_empty().then_some(()))
        })
        .await?;
        let trouble = ground.provider.connection_error().map(|error| error.to_string());
        assert!(trouble.is_some_and(|text| text.contains("block 0")));
        liar.be_honest();
        ground.reads_from(1).await?;
    }
    Ok(())
}

/// Its block 0 is the right one, and what was read is not there; or the head it tells of.
#[world::test]
async fn b1_a_node_that_contradicts_or_lacks_blocks_blames_nobody() -> Result<()> {
    let ground = ground(&["ws", "ws"]).await?;
    ground.connected().await?;
    let chain = ground.anvil.chain();
    let genesis = chain.block_hash(0).await?.unwrap_or_default();
    ground.provider.settle_genesis(genesis).await;
    chain.mine(80).await?;
    let block = async |number: u64| -> Result<BlockRef> {
        Ok(BlockRef { number, hash: chain.block_hash(number).await?.unwrap_or_default() })
    };
    let only_first = async |what: &str| {
        until(what, SOON, POLL, async || {
            Ok((ground.provider.sound_nodes() == [NodeId(0)]).then_some(()))
        })
        .await
    };
    let both = async |what: &str| {
        until(what, SOON, POLL, async || {
            Ok((ground.provider.sound_nodes().len() == 2).then_some(()))
        })
        .await
    };
    both("both").await?;
    // It is deep, and both have named it: whoever has another one is of another chain, also where it
    // is alone.
    ground.provider.resume_after(block(5).await?);
    ground.provider.note_read_up_to(block(70).await?).await;
    ground.nodes[1].lie(|lies| lies.other_blocks = vec![(5, B256::repeat_byte(9))]);
    ground.nodes[1].proxy.cut().await;
    only_first("the second one to contradict").await?;
    ground.nodes[0].proxy.set(Weather::Cut);
    let nobody = async || Ok(ground.provider.sound_nodes().is_empty().then_some(()));
    until("nobody to be left", SOON, POLL, nobody).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(ground.provider.sound_nodes(), []);
    let sends = ground.nodes[1].calls(SEND);
    let trouble = ground.provider.connection_error().map(|error| error.to_string());
    assert!(trouble.is_some_and(|text| text.contains("its block 5")));
    ground.nodes[0].proxy.set(Weather::Clear);
    only_first("the first one to be back").await?;
    let _ = send(&ground).await;
    assert_eq!(ground.nodes[1].calls(SEND), sends, "it would be as good there");
    ground.nodes[1].be_honest();
    both("it to agree").await?;
    ground.nodes[1].lie(|lies| lies.tells_head = Some(5_000_000));
    let begun = Instant::now();
    only_first("its claim to be looked at").await?;
    // Longer than it takes to be behind for good.
    while begun.elapsed() < Duration::from_secs(7) {
        assert_eq!(ground.read_from().await?, 0);
        assert!(ground.head() < 5_000_000);
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The node that is read from shows blocks of its own at the heights of the others: that is its word
/// alone, and the honest one keeps its say.
#[world::test]
async fn b1_a_block_that_one_node_told_puts_no_other_one_out() -> Result<()> {
    let ground = ground(&["ws", "ws"]).await?;
    let hash = B256::repeat_byte(9);
    ground.nodes[0].lie(|lies| lies.other_blocks = vec![(5, hash)]);
    ground.connected().await?;
    let chain = ground.anvil.chain();
    let genesis = chain.block_hash(0).await?.unwrap_or_default();
    ground.provider.settle_genesis(genesis).await;
    chain.mine(80).await?;
    ground.provider.resume_after(BlockRef { number: 5, hash });
    let block = |number, hash| BlockRef { number, hash };
    let later = chain.block_hash(70).await?.unwrap_or_default();
    ground.provider.note_read_up_to(block(70, later)).await;
    // Longer than it takes to be asked again.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        let sound = ground.provider.sound_nodes();
        assert!(sound.contains(&NodeId(1)), "{sound:?} after {:?}", begun.elapsed());
        tokio::time::sleep(POLL).await;
    }
    let _ = send(&ground).await;
    assert_eq!(ground.nodes[1].calls(SEND), 1);
    Ok(())
}

/// Whoever pruned its first blocks contradicts nothing, in whatever words it says so.
#[world::test]
async fn b1_a_node_without_block_0_is_read_from() -> Result<()> {
    let ground = ground(&["http", "ws"]).await?;
    let ways =
        [Lie::error(4444, "pruned history unavailable"), Lie::Result(serde_json::Value::Null)];
    for (node, way) in ground.nodes.iter().zip(ways) {
        node.lie(|lies| lies.without_block_0 = Some(way));
    }
    ground.connected().await?;
    let genesis = ground.anvil.chain().block_hash(0).await?.unwrap_or_default();
    ground.provider.settle_genesis(genesis).await;
    ground.reads_from(0).await?;
    assert_eq!(ground.provider.sound_nodes().len(), 2);
    // Not even where one that never answers for it is connected anew.
    ground.nodes[1].lie(|lies| lies.without_block_0 = Some(Lie::Silence));
    let connections = ground.nodes[1].calls("eth_chainId");
    ground.nodes[1].proxy.cut().await;
    until("the other one again", SOON, POLL, async || {
        let again = ground.nodes[1].calls("eth_chainId") > connections;
        Ok((again && ground.provider.sound_nodes().len() == 2).then_some(()))
    })
    .await?;
    ground.nodes[0].proxy.set(Weather::Cut);
    ground.reads_from(1).await
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

/// What a node says about itself is asked of the next one; what it says about the question is not.
#[world::test]
async fn trouble_of_the_node_is_not_an_answer() -> Result<()> {
    let ground = ground(&["http", "ws"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    let lies = [
        Lie::Status(429),
        Lie::Status(503),
        Lie::Malformed,
        Lie::method_not_found(),
        Lie::error(-32005, "rate limit exceeded"),
        Lie::error(-32603, "internal error"),
        Lie::Result(serde_json::json!("no number")),
    ];
    for lie in lies {
        // One that is asked too often is left alone for a moment.
        ground.reads_from(0).await?;
        ground.nodes[0].rule(Rule::times(1, "eth_getCode", lie.clone()));
        let asked = ground.provider.code_size(Address::ZERO).await;
        assert_eq!(asked.as_ref().ok(), Some(&0), "{lie:?}: {asked:?}");
    }
    ground.nodes[0].be_honest();
    ground.reads_from(0).await?;
    ground.reads_from(0).await?;
    let calls = ground.nodes[1].calls("eth_getCode");
    let reverted = Lie::Error {
        code: 3,
        message: "execution reverted".into(),
        data: Some(serde_json::json!("0x12345678")),
    };
    ground.nodes[0].rule(Rule::times(1, "eth_getCode", reverted));
    let asked = ground.provider.code_size(Address::ZERO).await;
    let data = asked.err().and_then(|error| error.revert_data());
    assert_eq!(data, Some(Bytes::from_static(&[0x12, 0x34, 0x56, 0x78])));
    assert_eq!(ground.nodes[1].calls("eth_getCode"), calls, "nobody else was asked");
    Ok(())
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
        let alone = ground.provider.for_node(kms_connector::chain::reader::NodeId(0));
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

#[world::test]
async fn a_malformed_frame_costs_a_connection_and_nothing_else() -> Result<()> {
    let ground = ground(&["ws", "ws"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    ground.nodes[0].rule(Rule::times(1, "eth_getBalance", Lie::Malformed));
    assert_eq!(ground.provider.balance(Address::ZERO).await.ok(), Some(U256::ZERO));
    ground.provider.balance(Address::ZERO).await.map_err(|e| Error::other(e.to_string()))?;
    Ok(())
}

// Odd answers.

impl Ground {
    /// Two transactions in one block.
    async fn mined(&self) -> Result<[B256; 2]> {
        let chain = self.anvil.chain();
        let call = || Call::encoded(chain.admin(), Bytes::new());
        let receipts = chain.send_all(vec![call(), call()]).await?;
        Ok([receipts[0].transaction_hash, receipts[1].transaction_hash])
    }

    /// Receipts and ranges are read.
    async fn reads_several(&self, hashes: &[B256]) -> Result<()> {
        let failed = |e: RpcError| Error::other(e.to_string());
        let receipts = self.provider.receipts(hashes).await.map_err(failed)?;
        assert!(receipts.iter().all(|receipt| receipt.as_ref().is_some_and(|it| it.success)));
        let range = self.provider.logs_between(filter(&[B256::ZERO]), 0, 1).await;
        let range = range.map_err(failed)?;
        assert_eq!(range.first_head.map(|head| head.block.number), Some(0));
        assert_eq!(range.last_head.map(|head| head.block.number), Some(1));
        Ok(())
    }
}

/// Alone, and of two that are the same; however the refusal is put.
#[world::test]
async fn a4_a_node_that_refuses_arrays_is_asked_call_by_call() -> Result<()> {
    let refusals =
        [Arrays::Refused(200), Arrays::Refused(400), Arrays::Status(405), Arrays::InPart];
    for (index, refusal) in refusals.into_iter().enumerate() {
        let schemes = ["http", "http"];
        let ground = ground(&schemes[..=(index % 2)]).await?;
        ground.connected().await?;
        let hashes = ground.mined().await?;
        for node in &ground.nodes {
            node.lie(|lies| lies.arrays = refusal);
        }
        for _ in 0..3 {
            ground.reads_several(&hashes).await?;
        }
        let tried: usize = ground.nodes.iter().map(FaultyRpc::arrays).sum();
        assert_eq!(tried, 1, "{refusal:?}: once is enough to find out");
    }
    let ground = ground(&["http"]).await?;
    ground.connected().await?;
    let hashes = ground.mined().await?;
    ground.reads_several(&hashes).await?;
    assert_eq!(ground.nodes[0].arrays(), 2, "who takes them gets them");
    // A node that is busy has said nothing about arrays.
    ground.nodes[0].lie(|lies| lies.arrays = Arrays::Status(429));
    assert!(ground.provider.receipts(&hashes).await.is_err());
    ground.nodes[0].be_honest();
    let arrays = ground.nodes[0].arrays();
    ground.reads_several(&hashes).await?;
    assert_eq!(ground.nodes[0].arrays(), arrays + 2);
    Ok(())
}

#[world::test]
async fn a5_receipts_without_what_is_not_needed_are_read() -> Result<()> {
    let fields = ["logsBloom", "logs", "type", "effectiveGasPrice", "cumulativeGasUsed", "gasUsed"];
    for scheme in ["ws", "http"] {
        let ground = ground(&[scheme]).await?;
        ground.connected().await?;
        let hashes = ground.mined().await?;
        for field in fields {
            ground.nodes[0].lie(|lies| lies.leaves_out.push(("eth_getTransactionReceipt", field)));
            ground.reads_several(&hashes).await?;
        }
    }
    Ok(())
}

/// Of a receipt that nobody can read nothing follows for those that came with it; another node is
/// asked for it.
#[world::test]
async fn a5_an_odd_receipt_takes_no_neighbour_along() -> Result<()> {
    const METHOD: &str = "eth_getTransactionReceipt";
    let ground = ground(&["http", "ws"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    let hashes = ground.mined().await?;
    ground.nodes[0].rule(Rule::times(1, METHOD, Lie::Result(serde_json::json!({ "odd": 1 }))));
    let receipts = ground.provider.receipts(&hashes).await;
    let receipts = receipts.map_err(|e| Error::other(e.to_string()))?;
    assert!(receipts.iter().all(Option::is_some), "{receipts:?}");
    assert_eq!(ground.nodes[1].calls(METHOD), 1, "only for the odd one");
    for node in &ground.nodes {
        node.rule(Rule::times(1, METHOD, Lie::Result(serde_json::json!({ "odd": 1 }))));
    }
    let receipts = ground.provider.receipts(&hashes).await;
    let receipts = receipts.map_err(|e| Error::other(e.to_string()))?;
    assert_eq!(receipts.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
    Ok(())
}

#[world::test]
async fn b4_an_answer_without_end_is_not_read_to_the_end() -> Result<()> {
    let ground = ground(&["http", "ws"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    for method in ["eth_getCode", "eth_getLogs"] {
        ground.nodes[0].rule(Rule::always(method, Lie::Flood));
    }
    let failed = |e: RpcError| Error::other(e.to_string());
    // Another one has a legal answer.
    assert_eq!(ground.provider.code_size(Address::ZERO).await.map_err(failed)?, 0);
    // What was on its way is not what was read.
    assert!(ground.nodes[0].flooded() < 48 << 20, "{}", ground.nodes[0].flooded());
    let alone = ground.provider.for_node(ground.provider.sound_nodes()[0]);
    let logs = alone.logs(filter(&[]), LogRange::Numbers { from: 0, to: 9 }).await;
    let error = logs.err().ok_or_else(|| Error::other("an answer"))?;
    assert!(error.range_refusal().is_some(), "{error}");
    assert!(ground.nodes[0].flooded() < 128 << 20, "{}", ground.nodes[0].flooded());

    // Over a WebSocket it costs the connection.
    ground.nodes[1].rule(Rule::times(1, "eth_getLogs", Lie::Flood));
    let other = ground.provider.for_node(NodeId(1));
    let range = LogRange::Numbers { from: 0, to: 9 };
    assert!(other.logs(filter(&[]), range).await.is_err());
    until("a new connection", SOON, POLL, async || Ok(other.logs(filter(&[]), range).await.ok()))
        .await?;
    Ok(())
}

// Sending.

/// Field failure T40.
#[world::test]
async fn a_transaction_goes_to_every_node_and_one_acceptance_is_enough() -> Result<()> {
    let ground = ground(&["ws", "http", "ws"]).await?;
    ground.connected().await?;
    let (_, hash) = transaction();
    // Whichever takes it, whatever the others say or do not say.
    for (taker, lie) in
        [(0, taken(hash)), (1, taken(hash)), (2, taken(hash)), (1, Lie::already_known())]
    {
        for (index, node) in ground.nodes.iter().enumerate() {
            node.be_honest();
            let other = if index % 2 == 0 { Lie::nonce_too_high() } else { Lie::Silence };
            let lie = if index == taker { lie.clone() } else { other };
            node.rule(Rule::always(SEND, lie));
        }
        let begun = Instant::now();
        let sent = send(&ground).await;
        assert_eq!(sent.as_ref().ok(), Some(&Acceptance::Accepted), "{taker}: {sent:?}");
        assert!(begun.elapsed() < Duration::from_secs(9), "nobody was waited for");
    }
    until("all nodes to have it four times", SOON, POLL, async || {
        Ok(ground.nodes.iter().all(|node| node.transactions().len() == 4).then_some(()))
    })
    .await
}

/// A refusal counts only if nobody may have taken it: else the bytes are out, and stay the only
/// ones of their nonce.
#[world::test]
async fn a_refusal_is_one_only_if_every_node_proves_it() -> Result<()> {
    let ground = ground(&["http", "http"]).await?;
    ground.connected().await?;
    ground.reads_from(0).await?;
    let reverts = || Lie::error(3, "execution reverted");
    for (first, second, expected) in [
        (reverts(), reverts(), Some(quirks::PoolError::Reverted)),
        (reverts(), Lie::Silence, None),
        (reverts(), Lie::Status(503), None),
        (Lie::Status(429), reverts(), None),
        (reverts(), Lie::error(-32000, "who knows"), Some(quirks::PoolError::Unknown)),
        (reverts(), Lie::nonce_too_low(), Some(quirks::PoolError::NonceTooLow)),
        (Lie::underpriced(), reverts(), Some(quirks::PoolError::Underpriced)),
        // A node that lags misses nonces that the other has: the word of the one read from.
        (reverts(), Lie::nonce_too_high(), Some(quirks::PoolError::Reverted)),
        (Lie::insufficient_funds(), reverts(), Some(quirks::PoolError::InsufficientFunds)),
    ] {
        for (node, lie) in ground.nodes.iter().zip([&first, &second]) {
            node.be_honest();
            node.rule(Rule::always(SEND, lie.clone()));
        }
        let sent = send(&ground).await;
        assert_eq!(refusal(&sent), expected, "{first:?}, {second:?}: {sent:?}");
        assert!(sent.is_err());
        if expected.is_none() {
            let unknown =
                matches!(sent, Err(RpcError::Unavailable { .. } | RpcError::RateLimited { .. }));
            assert!(unknown, "{sent:?}");
        }
    }
    Ok(())
}

/// A node says at once that it was mined, and nobody else has such a receipt.
#[world::test]
async fn b5_a_receipt_that_came_with_a_send_counts_if_another_node_has_it() -> Result<()> {
    const RECEIPT: &str = "eth_getTransactionReceipt";
    let ground = ground(&["ws", "http"]).await?;
    ground.connected().await?;
    let (raw, hash) = transaction();
    let receipt = |block: u8| {
        Lie::Result(serde_json::json!({
            "transactionHash": hash, "status": "0x1", "gasUsed": "0x5208",
            "blockNumber": "0x7", "blockHash": B256::repeat_byte(block),
        }))
    };
    let send = async || ground.provider.send(&raw, true).await;
    ground.nodes[0].rule(Rule::always(SEND, Lie::Silence));
    ground.nodes[1].rule(Rule::always(SEND, receipt(1)));
    assert_eq!(send().await.ok(), Some(Acceptance::Accepted), "forged");
    ground.nodes[0].rule(Rule::always(RECEIPT, receipt(2)));
    assert_eq!(send().await.ok(), Some(Acceptance::Accepted), "another block");
    ground.nodes[0].be_honest();
    ground.nodes[0].rule(Rule::always(SEND, Lie::Silence));
    ground.nodes[0].rule(Rule::always(RECEIPT, receipt(1)));
    assert!(matches!(send().await, Ok(Acceptance::Mined(_))));
    ground.nodes[0].proxy.set(Weather::Cut);
    until("the other one to be away", SOON, POLL, async || {
        Ok((ground.provider.sound_nodes().len() == 1).then_some(()))
    })
    .await?;
    assert!(matches!(send().await, Ok(Acceptance::Mined(_))), "there is nobody else");
    Ok(())
}

// One URL that is two nodes.

/// T16: headers and logs of a range come from the same node.
#[world::test]
async fn t16_ends_and_logs_of_a_range_are_of_one_node() -> Result<()> {
    for scheme in ["ws", "http"] {
        let ground = ground(&[scheme]).await?;
        ground.connected().await?;
        ground.anvil.chain().mine(100).await?;
        ground.nodes[0].lie(|lies| lies.second_node_lags = Some(60));
        let head = ground.anvil.chain().block_number().await?;
        let (mut known, mut unknown) = (0, 0);
        for _ in 0..10 {
            let range = ground.provider.logs_between(filter(&[B256::ZERO]), 1, head - 32);
            let range = range.await.map_err(|e| Error::other(e.to_string()))?;
            assert!(range.first_head.is_some());
            match range.last_head {
                Some(last) => {
                    assert_eq!(last.block.number, head - 32);
                    known += 1;
                }
                None => unknown += 1,
            }
        }
        assert!(known > 0 && unknown > 0, "{known} {unknown}");
    }
    Ok(())
}

#[world::test]
async fn the_lies_are_what_they_say() -> Result<()> {
    let ground = ground(&["ws"]).await?;
    ground.connected().await?;
    let (provider, node) = (&ground.provider, &ground.nodes[0]);
    let failed = |e: RpcError| Error::other(e.to_string());
    ground.anvil.chain().mine(10).await?;
    let hash = ground.anvil.chain().block_hash(8).await?.unwrap_or_default();
    node.lie(|lies| lies.stands_at = Some(5));
    assert_eq!(
        provider.header(BlockId::Latest).await.map_err(failed)?.map(|h| h.block.number),
        Some(5)
    );
    assert_eq!(provider.header(BlockId::Number(6)).await.map_err(failed)?, None);
    assert_eq!(provider.header(BlockId::Hash(hash)).await.map_err(failed)?, None);
    let range = LogRange::Numbers { from: 6, to: 9 };
    let logs = provider.logs(filter(&[B256::ZERO]), range).await.map_err(failed)?;
    assert!(logs.value.is_empty());
    node.lie(|lies| lies.finalized = Some(3));
    let finalized = provider.header(BlockId::Finalized).await.map_err(failed)?;
    assert_eq!(finalized.map(|head| head.block.number), Some(3));
    node.rule(Rule::always("eth_sendRawTransaction", Lie::SyncTimeout));
    // EIP-7966, code 4: it is in the pool, and no receipt came in time.
    send(&ground).await.map_err(failed)?;
    Ok(())
}

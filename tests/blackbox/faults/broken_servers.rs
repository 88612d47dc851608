//! One fault after the other, under a whole connector: relays that break the connection to a server,
//! and a chain node that lies. After each the connector gets on by itself; in the end every request
//! is answered once, and chain and journal agree.

use std::{fmt::Debug, time::Duration};

use world::{
    Error, Result, at_length,
    audit::Journal,
    faulty_rpc::{FaultyRpc, Lie, Lies, Logs, Rule},
    program,
    proxy::{Proxy, Weather},
    request::{Ask, Issued},
    scene::{Scene, SceneOptions},
};

/// Long enough to be noticed; where a deadline is longer, what was begun meets its end later.
fn lasts() -> Duration {
    Duration::from_millis(if at_length() { 2500 } else { 1200 })
}

const WEATHERS: [Weather; 6] = [
    Weather::Silent,
    Weather::Cut,
    Weather::HalfClosed,
    Weather::Slow(Duration::from_millis(400)),
    Weather::Dripping(Duration::from_millis(2)),
    Weather::Wrong,
];

/// Has a node tell a lie.
type Begin = fn(&mut Lies);

/// A scene in which everything the connector talks to is behind a relay.
struct Ground {
    scene: Scene,
    node: FaultyRpc,
    core: Proxy,
    store: Proxy,
    requests: Vec<Issued>,
}

impl Ground {
    /// With a connector that talks to its node by `scheme`.
    async fn new(scheme: &str) -> Result<Self> {
        let mut scene = Scene::new(SceneOptions::default()).await?;
        let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
        let core = Proxy::start(scene.core.port()).await?;
        let store = Proxy::start(scene.ministack.port()).await?;
        let bucket = &scene.deployment.stores[0];
        let behind = port_of(bucket.bucket.url(), scene.ministack.port(), store.port());
        scene.deployment.set_bucket(bucket.tx_sender, &behind).await?;
        let url = format!("{scheme}://{}", node.host());
        let config = scene.config("").replace(&scene.anvil.ws_url(), &url);
        let config = port_of(&config, scene.core.port(), core.port());
        scene.start_with(program(), &config)?;
        Ok(Self { scene, node, core, store, requests: Vec::new() })
    }

    async fn request(&mut self, each: usize) -> Result<()> {
        self.requests.extend(self.scene.deployment.request(Ask::mixed(each, each)).await?);
        Ok(())
    }

    /// Goes through the faults. After each of them a fresh request is answered.
    async fn endure<F: Debug>(
        &mut self,
        faults: &[F],
        begin: impl Fn(&Self, &F),
        end: impl Fn(&Self, &F),
    ) -> Result<()> {
        for fault in faults {
            let named = |error| Error::other(format!("{fault:?}: {error}"));
            self.request(2).await?;
            begin(self, fault);
            self.request(2).await?;
            tokio::time::sleep(lasts()).await;
            end(self, fault);
            let before = self.requests.len();
            self.request(1).await?;
            self.scene.answered(&self.requests[before..]).await.map_err(named)?;
        }
        self.scene.audit(&self.requests, Journal::Whole).await
    }

    /// What a node says of the chain.
    async fn endure_lies(&mut self, lies: &[(&str, Begin)]) -> Result<()> {
        let lies: Vec<_> = lies.iter().map(|(name, lie)| Named(name, lie)).collect();
        self.endure(
            &lies,
            |ground, lie| ground.node.lie(lie.1),
            |ground, _| {
                ground.node.be_honest();
            },
        )
        .await
    }

    /// What it answers to these methods.
    async fn endure_answers(&mut self, methods: &[&str], lies: &[Lie]) -> Result<()> {
        let begin = |ground: &Self, lie: &Lie| {
            for method in methods {
                ground.node.rule(Rule::always(method, lie.clone()));
            }
        };
        self.endure(lies, begin, |ground, _| ground.node.be_honest()).await
    }

    /// How many transactions were mined that brought no answer.
    async fn extra_transactions(&self) -> Result<u64> {
        let mined = self.scene.deployment.chain.nonce(self.scene.wallet.address()).await?;
        Ok(mined - self.requests.len() as u64)
    }
}

struct Named<'a, T>(&'a str, T);

impl<T> Debug for Named<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// `text` with another port of this machine.
fn port_of(text: &str, real: u16, relayed: u16) -> String {
    let real = format!("127.0.0.1:{real}");
    assert!(text.contains(&real), "{text}");
    text.replace(&real, &format!("127.0.0.1:{relayed}"))
}

// Relays.

/// T02, T03, T04: whatever becomes of the connection, reading and sending go on afterwards. What ends a
/// WebSocket, and what delays or spoils answers over HTTP; at length all over both.
#[world::test]
async fn t02_t03_t04_a_broken_web_socket_to_the_node_loses_nothing() -> Result<()> {
    weathered("ws", if at_length() { &WEATHERS } else { &WEATHERS[..3] }).await
}

#[world::test]
async fn a_broken_http_connection_to_the_node_loses_nothing() -> Result<()> {
    weathered("http", if at_length() { &WEATHERS } else { &WEATHERS[3..] }).await
}

async fn weathered(scheme: &str, weathers: &[Weather]) -> Result<()> {
    let mut ground = Ground::new(scheme).await?;
    let set = |ground: &Ground, weather: &Weather| ground.node.proxy.set(*weather);
    ground.endure(weathers, set, |ground, _| ground.node.proxy.set(Weather::Clear)).await
}

/// T27: a Core that cannot be reached refuses nothing. T30: nor is it asked anew for what it has.
#[world::test]
async fn t27_t30_a_broken_connection_to_the_core_loses_nothing() -> Result<()> {
    let mut ground = Ground::new("ws").await?;
    let set = |ground: &Ground, weather: &Weather| ground.core.set(*weather);
    ground.endure(&WEATHERS, set, |ground, _| ground.core.set(Weather::Clear)).await?;
    for request in &ground.requests {
        assert_eq!(ground.scene.core.accepted(request.id), 1, "{:#x}", request.id);
    }
    Ok(())
}

/// T18: no download hangs for ever. T19: what is not the ciphertext is not sent to the Core.
#[world::test]
async fn t18_t19_a_broken_connection_to_the_buckets_loses_nothing() -> Result<()> {
    let mut ground = Ground::new("ws").await?;
    let set = |ground: &Ground, weather: &Weather| ground.store.set(*weather);
    ground.endure(&WEATHERS, set, |ground, _| ground.store.set(Weather::Clear)).await
}

// A node that lies.

/// T16: logs that are missing in a block the node knows, blooms that leave them out, a head that
/// stands still, a second node behind the URL, logs twice and in the wrong order, a subscription
/// that goes silent.
#[world::test]
async fn t16_a_node_that_says_wrong_things_of_the_chain_hides_no_request() -> Result<()> {
    let mut ground = Ground::new("ws").await?;
    ground
        .endure_lies(&[
            ("missing logs", |lies| lies.logs = Logs::Missing),
            ("empty blooms", |lies| lies.empty_blooms = true),
            ("logs twice", |lies| lies.logs = Logs::Shuffled),
            ("second node", |lies| lies.second_node_lags = Some(8)),
            ("stale head", |lies| lies.stands_at = Some(30)),
            ("silent subscription", |lies| lies.silent_subscriptions = true),
        ])
        .await
}

/// T09: overload, an outage behind the URL, answers that are none: all of it passes.
#[world::test]
async fn t09_a_node_that_answers_nothing_useful_over_a_web_socket_loses_nothing() -> Result<()> {
    useless("ws", if at_length() { 0..7 } else { 3..7 }).await
}

#[world::test]
async fn t09_a_node_that_answers_nothing_useful_over_http_loses_nothing() -> Result<()> {
    useless("http", if at_length() { 0..7 } else { 0..3 }).await
}

async fn useless(scheme: &str, which: std::ops::Range<usize>) -> Result<()> {
    let lies = [
        Lie::Status(429),
        Lie::Status(503),
        Lie::Malformed,
        Lie::error(-32603, "internal error"),
        Lie::error(-32005, "rate limit exceeded"),
        Lie::method_not_found(),
        Lie::Late(Duration::from_millis(700)),
    ];
    Ground::new(scheme).await?.endure_answers(&["*"], &lies[which]).await
}

const SENDS: [&str; 2] = ["eth_sendRawTransaction", "eth_sendRawTransactionSync"];

/// T39, T43: refusals that pass. No answer is given up, no nonce is left out.
#[world::test]
async fn t39_t43_sends_that_are_refused_for_a_while_are_made_later() -> Result<()> {
    let mut ground = Ground::new("ws").await?;
    let lies = [
        Lie::nonce_too_low(),
        Lie::nonce_too_high(),
        Lie::already_known(),
        Lie::underpriced(),
        Lie::insufficient_funds(),
        Lie::sync_not_ready(),
        Lie::error(3, "execution reverted"),
        Lie::error(-32000, "who knows"),
    ];
    ground.endure_answers(&SENDS, &lies).await
}

/// T62: the node has the transaction, whatever it says; it is followed, and no other is made.
#[world::test]
async fn t62_sends_that_are_taken_and_refused_are_made_once() -> Result<()> {
    let mut ground = Ground::new("ws").await?;
    let lies = [
        Lie::SyncTimeout,
        Lie::nonce_too_low().after(),
        Lie::already_known().after(),
        Lie::underpriced().after(),
        Lie::error(-32000, "who knows").after(),
        Lie::Status(503).after(),
        Lie::Malformed.after(),
        Lie::Silence.after(),
    ];
    ground.endure_answers(&SENDS, &lies).await?;
    assert_eq!(ground.extra_transactions().await?, 0);
    Ok(())
}

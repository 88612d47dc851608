//! What breaks, one thing at a time.
//!
//! Drawn like cards: the deck holds every kind of fault, is shuffled, played to its end, and shuffled
//! again. So all of them happen, in an order that the seed decides.

use std::{fmt, path::Path, time::Duration};

use fastrand::Rng;
use tokio::time::sleep;
use world::{
    Result,
    faulty_rpc::{Lie, Lies, Logs, Rule},
    proxy::{Proxy, Weather},
};

use crate::{
    ground::{Ground, INSTANCES},
    load::{Keep, Load},
};

/// How deep the chain is reorganised.
const DEPTH: u64 = 3;

/// In front of what.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Node(usize),
    Core(usize),
    Store,
}

#[derive(Clone)]
pub enum Fault {
    /// kill -9 of the connector, and a start a moment later.
    Kill,
    /// A relay breaks its connections for a while.
    Weather(Place, Weather),
    /// The connections that are open now hang for ever.
    Freeze(Place),
    /// A node says wrong things of the chain for a while.
    Lies(usize, &'static str, Begin),
    /// A node gives this answer for a while: to this share of the calls of these methods.
    Answers(usize, &'static [&'static str], f64, Lie),
    /// A Core starts anew and remembers nothing.
    CoreRestart(usize),
    Reorganisation(Keep),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill => write!(f, "kill -9"),
            Self::Weather(place, weather) => write!(f, "{place:?}: {weather:?}"),
            Self::Freeze(place) => write!(f, "{place:?}: Frozen"),
            Self::Lies(node, name, _) => write!(f, "Node({node}): {name}"),
            Self::Answers(node, methods, share, lie) => {
                write!(f, "Node({node}): {:.0} % of {} get {lie:?}", share * 100.0, methods[0])
            }
            Self::CoreRestart(core) => write!(f, "Core({core}): restarted"),
            Self::Reorganisation(keep) => {
                write!(f, "reorganisation of depth {DEPTH}, {keep:?}")
            }
        }
    }
}

const ALL: &[&str] = &["*"];
const SENDS: &[&str] = &["eth_sendRawTransaction", "eth_sendRawTransactionSync"];
/// A head that stands at a block which is passed long before the first fault.
const STALE: u64 = 40;

/// Has a node tell a lie.
type Begin = fn(&mut Lies);

const LIES: [(&str, Begin); 7] = [
    ("stale head", |lies| lies.stands_at = Some(STALE)),
    ("two nodes of different height", |lies| lies.second_node_lags = Some(8)),
    ("missing logs", |lies| lies.logs = Logs::Missing),
    ("logs twice, in the wrong order", |lies| lies.logs = Logs::Shuffled),
    ("wrong blooms", |lies| lies.empty_blooms = true),
    ("silent subscriptions", |lies| lies.silent_subscriptions = true),
    ("wrong chain id", |lies| lies.chain_id = Some(1)),
];

fn answers() -> Vec<(&'static [&'static str], f64, Lie)> {
    let mut answers: Vec<(&'static [&'static str], f64, Lie)> = vec![
        (ALL, 1.0, Lie::Status(429)),
        (ALL, 1.0, Lie::Status(503)),
        (ALL, 1.0, Lie::error(-32603, "internal error")),
        (ALL, 1.0, Lie::error(-32005, "rate limit exceeded")),
        (ALL, 1.0, Lie::method_not_found()),
        (ALL, 0.05, Lie::Malformed),
        (ALL, 0.2, Lie::Silence),
    ];
    // Of a part of the sends, so that nonces go out of order.
    for lie in [
        Lie::nonce_too_low(),
        Lie::nonce_too_high(),
        Lie::already_known(),
        Lie::underpriced(),
        Lie::insufficient_funds(),
        Lie::sync_not_ready(),
        Lie::SyncTimeout,
        Lie::Silence.after(),
        Lie::error(-32000, "who knows").after(),
    ] {
        answers.push((SENDS, 0.5, lie));
    }
    answers
}

/// Which faults there are, and when.
pub struct Deck {
    rng: Rng,
    cards: Vec<Fault>,
    /// Only faults whose name holds the first, and none whose name holds the second.
    named: (Option<String>, Option<String>),
}

impl Deck {
    pub fn new(seed: u64, only: Option<&str>, without: Option<&str>) -> Self {
        let named = (only.map(str::to_lowercase), without.map(str::to_lowercase));
        Self { rng: Rng::with_seed(seed), cards: Vec::new(), named }
    }

    /// The next fault; `None` if there is none of that name. Without `kills` the process lives on.
    pub fn draw(&mut self, kills: bool) -> Option<Fault> {
        for _ in 0..2 {
            while let Some(fault) = self.cards.pop() {
                if kills || !matches!(fault, Fault::Kill) {
                    return Some(fault);
                }
            }
            self.shuffle();
        }
        None
    }

    fn shuffle(&mut self) {
        let rng = &mut self.rng;
        let weathers = [
            Weather::Silent,
            Weather::Cut,
            Weather::HalfClosed,
            Weather::Slow(Duration::from_millis(300)),
            Weather::Dripping(Duration::from_millis(1)),
            Weather::Wrong,
        ];
        let mut cards = vec![Fault::Freeze(Place::Node(rng.usize(..2)))];
        cards.push(Fault::Freeze(Place::Core(rng.usize(..INSTANCES))));
        for weather in weathers {
            cards.push(Fault::Weather(Place::Node(rng.usize(..2)), weather));
            cards.push(Fault::Weather(Place::Core(rng.usize(..INSTANCES)), weather));
            cards.push(Fault::Weather(Place::Store, weather));
        }
        cards.extend(LIES.map(|(name, lie)| Fault::Lies(rng.usize(..2), name, lie)));
        for (methods, share, lie) in answers() {
            cards.push(Fault::Answers(rng.usize(..2), methods, share, lie));
        }
        cards.push(Fault::CoreRestart(rng.usize(..INSTANCES)));
        for keep in [Keep::RequestsComeBack, Keep::RequestsComeBack, Keep::RequestsAreGone] {
            cards.push(Fault::Reorganisation(keep));
            cards.extend([Fault::Kill, Fault::Kill]);
        }
        let (only, without) = &self.named;
        cards.retain(|card| {
            let name = card.to_string().to_lowercase();
            only.as_ref().is_none_or(|text| name.contains(text))
                && without.as_ref().is_none_or(|text| !name.contains(text))
        });
        rng.shuffle(&mut cards);
        self.cards = cards;
    }

    /// For faults that last.
    fn a_while(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(1000..6000))
    }

    /// Has it happen, to its end. Says what can be told of it only then.
    pub async fn play(
        &mut self,
        fault: &Fault,
        ground: &mut Ground,
        load: &Load,
        program: &Path,
    ) -> Result<String> {
        let lasts = self.a_while();
        let mut told = format!("{:.1} s", lasts.as_secs_f64());
        match fault {
            Fault::Kill => {
                ground.supervisor.kill();
                let down = lasts / 3;
                sleep(down).await;
                ground.supervisor.start(program)?;
                told = format!("down for {:.1} s", down.as_secs_f64());
            }
            Fault::Weather(place, weather) => {
                proxy(ground, *place).set(*weather);
                sleep(lasts).await;
                proxy(ground, *place).set(Weather::Clear);
            }
            Fault::Freeze(place) => {
                proxy(ground, *place).freeze();
                told.clear();
            }
            Fault::Lies(node, _, lie) => {
                let node = &ground.nodes[*node];
                node.lie(lie);
                // What is learned once when a connection is made is learned now.
                node.proxy.cut().await;
                sleep(lasts).await;
                node.be_honest();
            }
            Fault::Answers(node, methods, share, lie) => {
                let node = &ground.nodes[*node];
                for method in *methods {
                    node.rule(Rule::share(*share, method, lie.clone()));
                }
                sleep(lasts).await;
                node.be_honest();
            }
            Fault::CoreRestart(core) => {
                ground.parties.list[*core].core.restart().await;
                told.clear();
            }
            Fault::Reorganisation(keep) => {
                let (requests, answers) = load.reorganise(DEPTH, *keep).await?;
                told = format!("{requests} requests and {answers} answers were in these blocks");
            }
        }
        Ok(told)
    }
}

fn proxy(ground: &Ground, place: Place) -> &Proxy {
    match place {
        Place::Node(node) => &ground.nodes[node].proxy,
        Place::Core(core) => &ground.cores[core],
        Place::Store => &ground.store,
    }
}

//! Chooses the node to read from. Pure: its input is what was observed of each node, and when.
//!
//! All reads go to one node as long as possible: nodes differ by a block or two, and answers of two
//! nodes may contradict each other. A node is **sound** if it is connected, is not behind, has reached
//! the **floor** (the highest head that was acted on) and answers calls.
//!
//! ```text
//! read from A --not sound--> the first sound one --A sound for a minute--> read from A
//! ```
//!
//! A node of another chain may have the same chain id. So every node is compared with the known chain
//! ([`Kin`]): it is of the same chain (it has a known block), unknown, or of another chain (it
//! contradicts block 0 or a block that two nodes named, or lacks blocks that it claims to have). If any
//! node is of the same chain, only heads of such nodes show that a node is behind, and only such nodes
//! are read from. A node of another chain is read from only if every connected node is: then the chain
//! itself was replaced, or the nodes that are gone were wrong.
//!
//! A node is behind by time, not by blocks: how long another node has known a block above its head. This
//! works with any block time, also on a chain that makes no blocks while nobody sends. But a node may
//! invent blocks that nobody else has. So no node counts as behind while it **goes on** (advances): it
//! delivers blocks, and the newest was made just before it arrived, by its own timestamp and this
//! machine's clock. The clock's error is measured while the node is level with another one; a clock that
//! makes a lagging node look recent costs time and nothing else.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// A node that is behind for longer is stale.
pub const STALE_AFTER: Duration = Duration::from_secs(5);
/// How long a node that repeatedly did not answer is not read from.
pub const SET_ASIDE_FOR: Duration = Duration::from_secs(30);
/// How long a node of higher preference must be sound before it is read from again.
pub const RETURN_AFTER: Duration = Duration::from_mins(1);
/// If no node reaches the floor for this long, the chain itself went back.
pub const FLOOR_PATIENCE: Duration = Duration::from_secs(3);
/// Number of heights whose first appearance is remembered.
const REMEMBERED: usize = 256;
/// An advancing node is level with the others if the next block has been known for less than this.
const LEVEL_WITHIN: Duration = Duration::from_secs(1);
/// How long the delay measured while a node was level is used: it bounds the error of the clock.
const LATE_COUNTS_FOR: Duration = Duration::from_mins(10);
/// Longest block interval that counts for advancing; [`STALE_AFTER`] is added.
const LONGEST_GAP: Duration = Duration::from_secs(10);
/// If every node contradicts the known chain for this long, the known chain is given up.
pub const KIN_PATIENCE: Duration = Duration::from_secs(3);
/// The same if only every connected node contradicts it, and a disconnected one may know better.
pub const GONE_PATIENCE: Duration = Duration::from_mins(1);

/// Whether a node is of the chain that is read, as far as checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kin {
    /// It has a known block.
    Ours,
    /// Nothing could be compared.
    #[default]
    Unknown,
    /// It contradicts a known block, or lacks a block that it claims to have.
    Another,
}

/// When a node's newest block arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub at: Instant,
    /// Age of the block at that time, by its timestamp and this machine's clock.
    pub age: Duration,
}

/// Observation of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Connected, with the right chain id.
    pub up: bool,
    pub head: Option<u64>,
    /// It left too many calls in a row unanswered.
    pub failing: bool,
    pub kin: Kin,
    /// `None`: no block has arrived, or blocks have no timestamp.
    pub arrived: Option<Arrived>,
}

/// Why reading switched to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    First,
    Lost,
    Behind,
    NoAnswers,
    AnotherChain,
    /// It has higher preference and has been sound for long enough.
    SoundAgain,
}

impl Why {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "the first one connected",
            Self::Lost => "the other one is not connected",
            Self::Behind => "the other one is behind",
            Self::NoAnswers => "the other one does not answer",
            Self::AnotherChain => "the other one contradicts what is known of the chain",
            Self::SoundAgain => "it is in order and stands before the other one",
        }
    }
}

/// The order of reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The node to read from, then the ones for failover. Empty: none.
    pub nodes: Vec<usize>,
    /// The advancing nodes, whether or not they have reached the floor.
    pub going_on: Vec<usize>,
    /// Set if the first node changed.
    pub switched: Option<Why>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    set_aside_until: Option<Instant>,
    sound_since: Option<Instant>,
    /// It was sound and ceased to be: it must be sound for [`RETURN_AFTER`] before it is read from
    /// again.
    failed: bool,
    arrived: Option<Arrived>,
    /// Time between its last two blocks.
    gap: Duration,
    /// How old a block was on arrival while the node was level with another one, and when.
    late: Option<(Duration, Instant)>,
}

/// State of the choice.
#[derive(Debug)]
pub struct Choice {
    standings: Vec<Standing>,
    /// Rising heights, and when each first appeared at any node.
    seen: VecDeque<(u64, Instant)>,
    floor: u64,
    below_floor_since: Option<Instant>,
    /// Since when every connected node is of another chain.
    another_since: Option<Instant>,
    reading: Option<usize>,
}

impl Choice {
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self {
            standings: vec![Standing::default(); nodes],
            seen: VecDeque::new(),
            floor: 0,
            below_floor_since: None,
            another_since: None,
            reading: None,
        }
    }

    /// A head of this height was acted on.
    pub fn acted_on(&mut self, height: u64) {
        self.floor = self.floor.max(height);
    }

    /// How long a block above this one has been known.
    #[must_use]
    pub fn behind(&self, head: u64, now: Instant) -> Duration {
        let newer = self.seen.iter().find(|(height, _)| *height > head);
        newer.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(*since))
    }

    /// Takes in an observation of all nodes, in order of preference, and chooses.
    pub fn look(&mut self, seen: &[Sight], now: Instant) -> Order {
        let sights = &self.by_kin(seen, now)[..];
        let ours = sights.iter().any(|sight| sight.up && sight.kin == Kin::Ours);
        let is_heard = |sight: &&Sight| sight.up && (sight.kin == Kin::Ours || !ours);
        let heard = sights.iter().filter(is_heard).filter_map(|sight| sight.head).max();
        self.remember(heard, now);
        let above_floor = self.is_above_floor(sights, now);
        for (index, sight) in sights.iter().enumerate() {
            if sight.failing {
                self.standings[index].set_aside_until = Some(now + SET_ASIDE_FOR);
            }
            self.follow(index, sights, now);
            let sound = is_heard(&sight) && self.is_sound(index, sight, now);
            let standing = &mut self.standings[index];
            standing.failed |= standing.sound_since.is_some() && !sound;
            standing.sound_since = sound.then(|| standing.sound_since.unwrap_or(now));
        }
        // Including nodes with nothing to compare: their word still counts.
        let goes_on = |index: &usize| {
            sights[*index].up && self.goes_on(*index, now) && !self.is_set_aside(*index, now)
        };
        let going_on: Vec<usize> = (0..sights.len()).filter(goes_on).collect();
        if !above_floor {
            return Order { going_on, ..Order::default() };
        }
        let sound = |index: &usize| self.standings[*index].sound_since.is_some();
        let usable = |index: &usize| {
            let sight = sights[*index];
            sight.up && sight.head.is_some_and(|head| head >= self.floor)
        };
        let mut nodes: Vec<usize> = (0..sights.len()).filter(sound).collect();
        if nodes.is_empty() {
            // A node that is behind or slow is better than none.
            nodes = (0..sights.len()).filter(usable).collect();
        }
        let first = self.first_of(&nodes, now);
        let before = self.reading;
        self.reading = first.or(before);
        let Some(first) = first else { return Order { going_on, ..Order::default() } };
        nodes.retain(|index| *index != first);
        nodes.insert(0, first);
        let switched = (before != Some(first)).then(|| match before {
            None => Why::First,
            Some(other) if seen[other].up && !sights[other].up => Why::AnotherChain,
            Some(other) if !sights[other].up => Why::Lost,
            Some(other) if self.is_set_aside(other, now) => Why::NoAnswers,
            Some(other) if self.standings[other].sound_since.is_none() => Why::Behind,
            Some(_) => Why::SoundAgain,
        });
        Order { nodes, going_on, switched }
    }

    /// Records a new block of a node, if there is one.
    fn follow(&mut self, index: usize, sights: &[Sight], now: Instant) {
        let Sight { head: Some(head), arrived: Some(arrived), .. } = sights[index] else { return };
        let mut others = sights.iter().enumerate().filter(|(other, _)| *other != index);
        let with_another = others.any(|(_, other)| other.up && other.head >= Some(head));
        let level = with_another && self.behind(head, now) < LEVEL_WITHIN;
        let standing = &mut self.standings[index];
        // The first block may be of any age: it existed before.
        if let Some(before) = standing.arrived.filter(|before| *before != arrived) {
            let gap = arrived.at.saturating_duration_since(before.at);
            standing.gap = gap.min(LONGEST_GAP);
        }
        if level && !standing.gap.is_zero() {
            standing.late = Some((arrived.age, now));
        }
        standing.arrived = Some(arrived);
    }

    /// Whether a node advances: blocks arrive, and they are recent.
    fn goes_on(&self, index: usize, now: Instant) -> bool {
        let Standing { arrived: Some(arrived), gap, late, .. } = self.standings[index] else {
            return false;
        };
        let since = |then| now.saturating_duration_since(then);
        let late = late.filter(|(_, at)| since(*at) < LATE_COUNTS_FOR);
        let late = late.map_or(Duration::ZERO, |(late, _)| late);
        arrived.age <= late + STALE_AFTER && since(arrived.at) < gap + STALE_AFTER
    }

    /// The node to read from: the present one, unless one of higher preference has been sound for long
    /// or is so for the first time.
    fn first_of(&self, nodes: &[usize], now: Instant) -> Option<usize> {
        let current = self.reading.filter(|reading| nodes.contains(reading));
        let Some(current) = current else { return nodes.first().copied() };
        let proved = |index: &usize| {
            let Standing { sound_since, failed, .. } = self.standings[*index];
            let long = |since| now.saturating_duration_since(since) >= RETURN_AFTER;
            sound_since.is_some_and(|since| !failed || long(since))
        };
        let mut earlier = nodes.iter().copied().take_while(|index| *index < current);
        earlier.find(proved).or(Some(current))
    }

    fn is_sound(&self, index: usize, sight: &Sight, now: Instant) -> bool {
        let Some(head) = sight.head.filter(|_| sight.up) else { return false };
        let behind = self.behind(head, now) >= STALE_AFTER && !self.goes_on(index, now);
        head >= self.floor && !behind && !self.is_set_aside(index, now)
    }

    fn is_set_aside(&self, index: usize, now: Instant) -> bool {
        self.standings[index].set_aside_until.is_some_and(|until| now < until)
    }

    /// Treats nodes of another chain as disconnected, unless all are: then the known chain is not this
    /// chain any more. Disconnected nodes are waited for, up to a limit. A single configured node is
    /// believed at once: no other could know better.
    fn by_kin(&mut self, seen: &[Sight], now: Instant) -> Vec<Sight> {
        let everyone = seen.iter().all(|sight| sight.up);
        let all = seen.iter().filter(|sight| sight.up).all(|sight| sight.kin == Kin::Another);
        let since = *self.another_since.get_or_insert(now);
        if !all || seen.iter().all(|sight| !sight.up) {
            self.another_since = None;
        }
        let patience = if everyone { KIN_PATIENCE } else { GONE_PATIENCE };
        let patient = now.saturating_duration_since(since) < patience;
        let believed = seen.len() == 1 || (all && !patient);
        let by_kin = seen.iter().map(|sight| match sight.kin {
            Kin::Ours | Kin::Unknown => *sight,
            Kin::Another if believed => Sight { kin: Kin::Unknown, ..*sight },
            Kin::Another => Sight { up: false, ..*sight },
        });
        by_kin.collect()
    }

    fn remember(&mut self, highest: Option<u64>, now: Instant) {
        let Some(highest) = highest else { return };
        // No node shows these any more.
        while self.seen.back().is_some_and(|(height, _)| *height > highest) {
            self.seen.pop_back();
        }
        if self.seen.back().is_none_or(|(height, _)| *height < highest) {
            self.seen.push_back((highest, now));
        }
        while self.seen.len() > REMEMBERED {
            self.seen.pop_front();
        }
    }

    /// Whether a node has reached the floor. A floor that none reaches for long is given up.
    fn is_above_floor(&mut self, sights: &[Sight], now: Instant) -> bool {
        let heads = sights.iter().filter(|sight| sight.up).filter_map(|sight| sight.head);
        let Some(highest) = heads.max() else {
            self.below_floor_since = None;
            return false;
        };
        if highest >= self.floor {
            self.below_floor_since = None;
            return true;
        }
        let since = *self.below_floor_since.get_or_insert(now);
        // A single configured node is believed at once: no other could know better.
        let given_up = sights.len() == 1 || now.saturating_duration_since(since) >= FLOOR_PATIENCE;
        if given_up {
            self.floor = highest;
            self.below_floor_since = None;
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(head: u64) -> Sight {
        Sight { up: true, head: Some(head), kin: Kin::Ours, ..Sight::default() }
    }

    const DOWN: Sight =
        Sight { up: false, head: Some(1), failing: false, kin: Kin::Unknown, arrived: None };

    fn another(head: u64) -> Sight {
        Sight { kin: Kin::Another, ..at(head) }
    }

    fn unknown(head: u64) -> Sight {
        Sight { kin: Kin::Unknown, ..at(head) }
    }

    /// A choice, and its start time.
    struct Watch(Choice, Instant);

    impl Watch {
        fn new(nodes: usize) -> Self {
            Self(Choice::new(nodes), Instant::now())
        }

        /// A node whose newest block of this age arrived at this second.
        fn going_on(&self, head: u64, seconds: u64, age: u64) -> Sight {
            let came = self.1 + Duration::from_secs(seconds);
            let arrived = Some(Arrived { at: came, age: Duration::from_secs(age) });
            Sight { arrived, ..at(head) }
        }

        fn look(&mut self, seconds: u64, sights: &[Sight]) -> Order {
            let order = self.0.look(sights, self.1 + Duration::from_secs(seconds));
            if let Some(first) = order.nodes.first() {
                self.0.acted_on(sights[*first].head.unwrap());
            }
            order
        }
    }

    fn order(nodes: &[usize], switched: Option<Why>) -> Order {
        Order { nodes: nodes.to_vec(), going_on: Vec::new(), switched }
    }

    #[test]
    fn reading_stays_where_it_is_and_comes_back_after_a_minute() {
        let mut watch = Watch::new(2);
        assert_eq!(watch.look(0, &[at(10), at(12)]), order(&[0, 1], Some(Why::First)));
        assert_eq!(watch.look(1, &[at(11), at(12)]), order(&[0, 1], None));
        assert_eq!(watch.look(2, &[DOWN, at(13)]), order(&[1], Some(Why::Lost)));
        assert_eq!(watch.look(3, &[at(13), at(13)]), order(&[1, 0], None));
        assert_eq!(watch.look(62, &[at(14), at(14)]), order(&[1, 0], None));
        assert_eq!(watch.look(63, &[at(15), at(15)]), order(&[0, 1], Some(Why::SoundAgain)));
    }

    /// Which node connects first is chance.
    #[test]
    fn the_first_one_is_read_from_as_soon_as_it_is_there() {
        let mut watch = Watch::new(2);
        assert_eq!(watch.look(0, &[DOWN, at(12)]), order(&[1], Some(Why::First)));
        assert_eq!(watch.look(1, &[at(12), at(12)]), order(&[0, 1], Some(Why::SoundAgain)));
    }

    /// The head watchdog: a node whose head stands still while others advance.
    #[test]
    fn a_head_that_stands_still_while_others_advance_is_stale() {
        let mut watch = Watch::new(2);
        watch.look(0, &[at(10), at(10)]);
        assert_eq!(watch.look(1, &[at(10), at(11)]).nodes, [0, 1]);
        assert_eq!(watch.look(5, &[at(10), at(14)]).nodes, [0, 1]);
        assert_eq!(watch.look(6, &[at(10), at(15)]), order(&[1], Some(Why::Behind)));
    }

    #[test]
    fn a_chain_that_stands_still_makes_nobody_stale() {
        let mut watch = Watch::new(2);
        watch.look(0, &[at(10), at(10)]);
        assert_eq!(watch.look(10_000, &[at(10), at(11)]), order(&[0, 1], None));
        assert_eq!(watch.look(10_001, &[at(11), at(11)]), order(&[0, 1], None));
    }

    #[test]
    fn nothing_is_read_from_behind_what_was_acted_on() {
        let mut watch = Watch::new(2);
        watch.look(0, &[at(20), at(18)]);
        assert_eq!(watch.look(1, &[DOWN, at(18)]), Order::default(), "it may catch up");
        assert_eq!(watch.look(2, &[DOWN, at(20)]), order(&[1], Some(Why::Lost)));
        // The chain went back: there is no other node.
        assert_eq!(watch.look(3, &[DOWN, at(15)]), Order::default());
        assert_eq!(watch.look(6, &[DOWN, at(15)]), order(&[1], None));
        let mut alone = Watch::new(1);
        alone.look(0, &[at(20)]);
        assert_eq!(alone.look(1, &[at(5)]), order(&[0], None));
    }

    #[test]
    fn a_node_that_answers_nothing_is_set_aside_for_a_while() {
        let mut watch = Watch::new(2);
        watch.look(0, &[at(1), at(1)]);
        let failing = Sight { failing: true, ..at(1) };
        assert_eq!(watch.look(1, &[failing, at(1)]), order(&[1], Some(Why::NoAnswers)));
        assert_eq!(watch.look(30, &[at(1), at(1)]), order(&[1], None));
        assert_eq!(watch.look(31, &[at(1), at(1)]), order(&[1, 0], None));
        assert_eq!(watch.look(91, &[at(1), at(1)]), order(&[0, 1], Some(Why::SoundAgain)));
        let both = [failing, failing];
        assert_eq!(watch.look(92, &both).nodes, [0, 1], "better than none");
    }

    #[test]
    fn b1_later_blocks_of_one_node_make_nobody_stale_who_goes_on() {
        let mut watch = Watch::new(2);
        for seconds in 0..100 {
            let honest = watch.going_on(10 + seconds, seconds, 1);
            let order = watch.look(seconds, &[honest, at(400 + seconds)]);
            assert_eq!((order.nodes[0], order.going_on), (0, vec![0]), "{seconds}");
        }
        // It does not advance.
        let still = watch.going_on(109, 99, 1);
        assert_eq!(watch.look(104, &[still, at(500)]).nodes[0], 0);
        let order = watch.look(105, &[still, at(500)]);
        assert_eq!((order.nodes, order.going_on), (vec![1], vec![]));
        // It advances, but far behind by its own timestamps.
        let mut watch = Watch::new(2);
        for seconds in 0..7 {
            let behind = watch.going_on(10 + seconds, seconds, 60);
            let order = watch.look(seconds, &[behind, at(400 + seconds)]);
            assert_eq!(order.nodes[0] == 0, seconds < 5, "{seconds}");
        }
    }

    /// It has pruned block 0, and has other blocks than the node that is read from.
    #[test]
    fn b1_who_goes_on_has_a_word_also_if_nothing_shows_that_it_is_ours() {
        let mut watch = Watch::new(2);
        let honest = Sight { kin: Kin::Unknown, ..watch.going_on(14, 0, 0) };
        let order = watch.look(0, &[at(14), honest]);
        assert_eq!((order.nodes, order.going_on), (vec![0], vec![1]));
        let stranger = Sight { kin: Kin::Another, ..honest };
        assert!(watch.look(1, &[at(14), stranger]).going_on.is_empty());
    }

    #[test]
    fn b1_who_goes_on_below_what_was_acted_on_has_a_word() {
        let mut watch = Watch::new(2);
        let honest = watch.going_on(14, 0, 0);
        let order = watch.look(0, &[at(20), honest]);
        assert_eq!(order.nodes, [0, 1]);
        let honest = watch.going_on(15, 1, 0);
        let order = watch.look(1, &[at(21), honest]);
        assert_eq!((order.nodes, order.going_on), (vec![0], vec![1]));
    }

    /// A clock that is wrong by a minute is noticed while the nodes are level.
    #[test]
    fn b1_a_clock_that_is_fast_takes_nobodys_word() {
        let mut watch = Watch::new(2);
        let fast = |watch: &mut Watch, seconds, other| {
            let honest = watch.going_on(10 + seconds, seconds, 60);
            watch.look(seconds, &[honest, at(other)]).nodes[0]
        };
        for seconds in 0..10 {
            assert_eq!(fast(&mut watch, seconds, 10 + seconds), 0);
        }
        for seconds in 10..600 {
            assert_eq!(fast(&mut watch, seconds, 1_000 + seconds), 0, "{seconds}");
        }
    }

    #[test]
    fn b1_a_node_of_another_chain_blames_nobody_and_is_not_read_from() {
        let mut watch = Watch::new(2);
        assert_eq!(watch.look(0, &[at(10), another(5_000_000)]), order(&[0], Some(Why::First)));
        for seconds in 1..100 {
            let sights = [at(10 + seconds), another(5_000_000 + seconds)];
            assert_eq!(watch.look(seconds, &sights), order(&[0], None));
        }
        assert_eq!(watch.0.behind(10, watch.1), Duration::ZERO);
        // The right one is away and is waited for.
        assert_eq!(watch.look(200, &[DOWN, another(5_000_200)]), Order::default());
        assert_eq!(watch.look(259, &[DOWN, another(5_010_000)]), Order::default());
        assert_eq!(watch.look(10_001, &[at(200), another(5_010_000)]).nodes, [0]);
        // This is noticed while it is read from.
        let mut watch = Watch::new(2);
        watch.look(0, &[DOWN, unknown(5_000_000)]);
        assert_eq!(watch.look(1, &[at(10), another(5_000_000)]), Order::default(), "the floor");
        let right = watch.look(4, &[at(10), another(5_000_000)]);
        assert_eq!(right, order(&[0], Some(Why::AnotherChain)));
    }

    /// Its block 0 differs, for example.
    #[test]
    fn b1_a_node_of_which_nothing_is_known_is_read_from_where_no_other_is() {
        let mut watch = Watch::new(2);
        assert_eq!(watch.look(0, &[at(10), unknown(50)]), order(&[0], Some(Why::First)));
        assert_eq!(watch.look(10, &[at(11), unknown(60)]).nodes, [0], "nor says it who is behind");
        assert_eq!(watch.look(11, &[DOWN, unknown(60)]), order(&[1], Some(Why::Lost)));
        let mut watch = Watch::new(2);
        assert_eq!(watch.look(0, &[unknown(10), unknown(11)]).nodes, [0, 1]);
        assert_eq!(watch.look(6, &[unknown(10), unknown(11)]).nodes, [1], "as if all were ours");
    }

    /// A test chain was created anew.
    #[test]
    fn b1_what_every_node_contradicts_is_given_up() {
        let mut watch = Watch::new(2);
        watch.look(0, &[at(100), at(100)]);
        assert_eq!(watch.look(1, &[another(5), another(5)]), Order::default());
        assert_eq!(watch.look(5, &[another(5), another(5)]), Order::default(), "the floor");
        assert_eq!(watch.look(9, &[another(6), another(6)]).nodes, [0, 1]);
        let mut alone = Watch::new(1);
        alone.look(0, &[at(100)]);
        assert_eq!(alone.look(1, &[another(5)]).nodes, [0]);
    }

    /// The other one is gone for good. It may have been wrong, or have gone with its fork.
    #[test]
    fn b1_what_every_connected_node_contradicts_is_given_up() {
        let mut watch = Watch::new(2);
        watch.look(0, &[at(100), at(100)]);
        for seconds in 1..61 {
            assert_eq!(watch.look(seconds, &[DOWN, another(150)]), Order::default(), "{seconds}");
        }
        assert_eq!(watch.look(61, &[DOWN, another(150)]), order(&[1], Some(Why::Lost)));
        // It was right after all.
        assert_eq!(watch.look(62, &[at(160), another(151)]).nodes, [0]);
        assert_eq!(watch.look(63, &[DOWN, another(170)]), Order::default());
    }

    proptest! {
        /// The choice always finds a connected node at the floor, starting with the first one.
        #[test]
        fn who_is_read_from_is_up_and_not_below_the_floor(
            steps in prop::collection::vec(
                (0u64..8, prop::collection::vec(
                    (any::<bool>(), 0u64..30, any::<bool>(), 0..8usize), 3)), 1..60)
        ) {
            let mut watch = Watch::new(3);
            let mut seconds = 0;
            for (pause, nodes) in steps {
                seconds += pause;
                let sights: Vec<Sight> = nodes
                    .into_iter()
                    .map(|(up, head, failing, kin)| {
                        let kin = match kin {
                            0 => Kin::Another,
                            1 => Kin::Unknown,
                            _ => Kin::Ours,
                        };
                        Sight { up, head: Some(head), failing, kin, arrived: None }
                    })
                    .collect();
                let floor = watch.0.floor;
                let order = watch.look(seconds, &sights);
                let kin = |sight: &Sight| sight.kin != Kin::Another;
                let usable = |sight: &Sight| sight.up && sight.head >= Some(floor) && kin(sight);
                let all_another = sights.iter().filter(|sight| sight.up).all(|one| !kin(one));
                if sights.iter().any(usable) {
                    prop_assert!(!order.nodes.is_empty());
                    prop_assert!(order.nodes.iter().all(|index| usable(&sights[*index])));
                }
                prop_assert!(all_another || order.nodes.iter().all(|index| kin(&sights[*index])));
                prop_assert!(order.nodes.iter().all(|index| sights[*index].up));
            }
        }
    }
}

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
//! ([`ChainMatch`]): it is of the same chain (it has a known block), unknown, or of another chain (it
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

mod block_arrival;

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

pub use self::block_arrival::BlockArrival;

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
/// If every node contradicts the known chain for this long, the known chain is given up.
pub const MISMATCH_PATIENCE: Duration = Duration::from_secs(3);
/// The same if only every connected node contradicts it, and a disconnected one may know better.
pub const ABSENCE_PATIENCE: Duration = Duration::from_mins(1);

/// Whether a node is of the chain that is read, as far as checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChainMatch {
    /// It has a known block.
    Same,
    /// Nothing could be compared.
    #[default]
    Unknown,
    /// It contradicts a known block, or lacks a block that it claims to have.
    Different,
}

/// Observation of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeObservation {
    /// Connected, with the right chain id.
    pub is_connected: bool,
    pub head: Option<u64>,
    /// It left too many calls in a row unanswered.
    pub is_failing: bool,
    pub chain_match: ChainMatch,
    /// `None`: no block has arrived, or blocks have no timestamp.
    pub last_block: Option<BlockArrival>,
}

/// Why reading switched to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchReason {
    First,
    Lost,
    Behind,
    NoAnswers,
    AnotherChain,
    /// It has higher preference and has been sound for long enough.
    SoundAgain,
}

impl SwitchReason {
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
pub struct ReadOrder {
    /// The node to read from, then the ones for failover. Empty: none.
    pub nodes: Vec<usize>,
    /// The advancing nodes, whether or not they have reached the floor.
    pub advancing: Vec<usize>,
    /// Set if the first node changed.
    pub switched: Option<SwitchReason>,
}

#[derive(Clone, Copy, Debug, Default)]
struct NodeRecord {
    set_aside_until: Option<Instant>,
    sound_since: Option<Instant>,
    /// It was sound and ceased to be: it must be sound for [`RETURN_AFTER`] before it is read from
    /// again.
    has_failed: bool,
    last_block: Option<BlockArrival>,
    /// Time between its last two blocks.
    gap: Duration,
    /// How old a block was on arrival while the node was level with another one, and when.
    late: Option<(Duration, Instant)>,
}

/// State of the choice.
#[derive(Debug)]
pub struct NodeSelector {
    records: Vec<NodeRecord>,
    /// Rising heights, and when each first appeared at any node.
    heights: VecDeque<(u64, Instant)>,
    floor: u64,
    below_floor_since: Option<Instant>,
    /// Since when every connected node is of another chain.
    mismatch_since: Option<Instant>,
    reading: Option<usize>,
}

impl NodeSelector {
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self {
            records: vec![NodeRecord::default(); nodes],
            heights: VecDeque::new(),
            floor: 0,
            below_floor_since: None,
            mismatch_since: None,
            reading: None,
        }
    }

    /// A head of this height was acted on.
    pub fn raise_floor(&mut self, height: u64) {
        self.floor = self.floor.max(height);
    }

    /// How long a block above this one has been known.
    #[must_use]
    pub fn lag_of(&self, head: u64, now: Instant) -> Duration {
        let newer = self.heights.iter().find(|(height, _)| *height > head);
        newer.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(*since))
    }

    /// Takes in an observation of all nodes, in order of preference, and chooses.
    pub fn select(&mut self, seen: &[NodeObservation], now: Instant) -> ReadOrder {
        let sights = &self.exclude_other_chains(seen, now)[..];
        let ours =
            sights.iter().any(|sight| sight.is_connected && sight.chain_match == ChainMatch::Same);
        let is_heard = |sight: &&NodeObservation| {
            sight.is_connected && (sight.chain_match == ChainMatch::Same || !ours)
        };
        let highest = sights.iter().filter(is_heard).filter_map(|sight| sight.head).max();
        self.record_height(highest, now);
        let above_floor = self.is_above_floor(sights, now);
        for (index, sight) in sights.iter().enumerate() {
            if sight.is_failing {
                self.records[index].set_aside_until = Some(now + SET_ASIDE_FOR);
            }
            self.record_arrival(index, sights, now);
            let sound = is_heard(&sight) && self.is_sound(index, sight, now);
            let standing = &mut self.records[index];
            standing.has_failed |= standing.sound_since.is_some() && !sound;
            standing.sound_since = sound.then(|| standing.sound_since.unwrap_or(now));
        }
        // Including nodes with nothing to compare: their word still counts.
        let goes_on = |index: &usize| {
            sights[*index].is_connected
                && self.is_advancing(*index, now)
                && !self.is_set_aside(*index, now)
        };
        let going_on: Vec<usize> = (0..sights.len()).filter(goes_on).collect();
        if !above_floor {
            return ReadOrder { advancing: going_on, ..ReadOrder::default() };
        }
        let sound = |index: &usize| self.records[*index].sound_since.is_some();
        let usable = |index: &usize| {
            let sight = sights[*index];
            sight.is_connected && sight.head.is_some_and(|head| head >= self.floor)
        };
        let mut nodes: Vec<usize> = (0..sights.len()).filter(sound).collect();
        if nodes.is_empty() {
            // A node that is behind or slow is better than none.
            nodes = (0..sights.len()).filter(usable).collect();
        }
        let first = self.preferred(&nodes, now);
        let before = self.reading;
        self.reading = first.or(before);
        let Some(first) = first else {
            return ReadOrder { advancing: going_on, ..ReadOrder::default() };
        };
        nodes.retain(|index| *index != first);
        nodes.insert(0, first);
        let switched = (before != Some(first)).then(|| match before {
            None => SwitchReason::First,
            Some(other) if seen[other].is_connected && !sights[other].is_connected => {
                SwitchReason::AnotherChain
            }
            Some(other) if !sights[other].is_connected => SwitchReason::Lost,
            Some(other) if self.is_set_aside(other, now) => SwitchReason::NoAnswers,
            Some(other) if self.records[other].sound_since.is_none() => SwitchReason::Behind,
            Some(_) => SwitchReason::SoundAgain,
        });
        ReadOrder { nodes, advancing: going_on, switched }
    }

    /// The node to read from: the present one, unless one of higher preference has been sound for long
    /// or is so for the first time.
    fn preferred(&self, nodes: &[usize], now: Instant) -> Option<usize> {
        let current = self.reading.filter(|reading| nodes.contains(reading));
        let Some(current) = current else { return nodes.first().copied() };
        let proved = |index: &usize| {
            let NodeRecord { sound_since, has_failed: failed, .. } = self.records[*index];
            let long = |since| now.saturating_duration_since(since) >= RETURN_AFTER;
            sound_since.is_some_and(|since| !failed || long(since))
        };
        let mut earlier = nodes.iter().copied().take_while(|index| *index < current);
        earlier.find(proved).or(Some(current))
    }

    fn is_sound(&self, index: usize, sight: &NodeObservation, now: Instant) -> bool {
        let Some(head) = sight.head.filter(|_| sight.is_connected) else { return false };
        let behind = self.lag_of(head, now) >= STALE_AFTER && !self.is_advancing(index, now);
        head >= self.floor && !behind && !self.is_set_aside(index, now)
    }

    fn is_set_aside(&self, index: usize, now: Instant) -> bool {
        self.records[index].set_aside_until.is_some_and(|until| now < until)
    }

    /// Treats nodes of another chain as disconnected, unless all are: then the known chain is not this
    /// chain any more. Disconnected nodes are waited for, up to a limit. A single configured node is
    /// believed at once: no other could know better.
    fn exclude_other_chains(
        &mut self,
        seen: &[NodeObservation],
        now: Instant,
    ) -> Vec<NodeObservation> {
        let everyone = seen.iter().all(|sight| sight.is_connected);
        let all = seen
            .iter()
            .filter(|sight| sight.is_connected)
            .all(|sight| sight.chain_match == ChainMatch::Different);
        let since = *self.mismatch_since.get_or_insert(now);
        if !all || seen.iter().all(|sight| !sight.is_connected) {
            self.mismatch_since = None;
        }
        let patience = if everyone { MISMATCH_PATIENCE } else { ABSENCE_PATIENCE };
        let patient = now.saturating_duration_since(since) < patience;
        let believed = seen.len() == 1 || (all && !patient);
        let by_kin = seen.iter().map(|sight| match sight.chain_match {
            ChainMatch::Same | ChainMatch::Unknown => *sight,
            ChainMatch::Different if believed => {
                NodeObservation { chain_match: ChainMatch::Unknown, ..*sight }
            }
            ChainMatch::Different => NodeObservation { is_connected: false, ..*sight },
        });
        by_kin.collect()
    }

    fn record_height(&mut self, highest: Option<u64>, now: Instant) {
        let Some(highest) = highest else { return };
        // No node shows these any more.
        while self.heights.back().is_some_and(|(height, _)| *height > highest) {
            self.heights.pop_back();
        }
        if self.heights.back().is_none_or(|(height, _)| *height < highest) {
            self.heights.push_back((highest, now));
        }
        while self.heights.len() > REMEMBERED {
            self.heights.pop_front();
        }
    }

    /// Whether a node has reached the floor. A floor that none reaches for long is given up.
    fn is_above_floor(&mut self, sights: &[NodeObservation], now: Instant) -> bool {
        let heads = sights.iter().filter(|sight| sight.is_connected).filter_map(|sight| sight.head);
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

    fn at(head: u64) -> NodeObservation {
        NodeObservation {
            is_connected: true,
            head: Some(head),
            chain_match: ChainMatch::Same,
            ..NodeObservation::default()
        }
    }

    const DOWN: NodeObservation = NodeObservation {
        is_connected: false,
        head: Some(1),
        is_failing: false,
        chain_match: ChainMatch::Unknown,
        last_block: None,
    };

    fn another(head: u64) -> NodeObservation {
        NodeObservation { chain_match: ChainMatch::Different, ..at(head) }
    }

    fn unknown(head: u64) -> NodeObservation {
        NodeObservation { chain_match: ChainMatch::Unknown, ..at(head) }
    }

    /// A choice, and its start time.
    struct Watch(NodeSelector, Instant);

    impl Watch {
        fn new(nodes: usize) -> Self {
            Self(NodeSelector::new(nodes), Instant::now())
        }

        /// A node whose newest block of this age arrived at this second.
        fn going_on(&self, head: u64, seconds: u64, age: u64) -> NodeObservation {
            let came = self.1 + Duration::from_secs(seconds);
            let arrived = Some(BlockArrival { at: came, age: Duration::from_secs(age) });
            NodeObservation { last_block: arrived, ..at(head) }
        }

        fn look(&mut self, seconds: u64, sights: &[NodeObservation]) -> ReadOrder {
            let order = self.0.select(sights, self.1 + Duration::from_secs(seconds));
            if let Some(first) = order.nodes.first() {
                self.0.raise_floor(sights[*first].head.unwrap());
            }
            order
        }
    }

    fn order(nodes: &[usize], switched: Option<SwitchReason>) -> ReadOrder {
        ReadOrder { nodes: nodes.to_vec(), advancing: Vec::new(), switched }
    }

    #[test]
    fn reading_stays_where_it_is_and_comes_back_after_a_minute() {
        let mut watch = Watch::new(2);
        assert_eq!(watch.look(0, &[at(10), at(12)]), order(&[0, 1], Some(SwitchReason::First)));
        assert_eq!(watch.look(1, &[at(11), at(12)]), order(&[0, 1], None));
        assert_eq!(watch.look(2, &[DOWN, at(13)]), order(&[1], Some(SwitchReason::Lost)));
        assert_eq!(watch.look(3, &[at(13), at(13)]), order(&[1, 0], None));
        assert_eq!(watch.look(62, &[at(14), at(14)]), order(&[1, 0], None));
        assert_eq!(
            watch.look(63, &[at(15), at(15)]),
            order(&[0, 1], Some(SwitchReason::SoundAgain))
        );
    }

    /// Which node connects first is chance.
    #[test]
    fn the_first_one_is_read_from_as_soon_as_it_is_there() {
        let mut watch = Watch::new(2);
        assert_eq!(watch.look(0, &[DOWN, at(12)]), order(&[1], Some(SwitchReason::First)));
        assert_eq!(
            watch.look(1, &[at(12), at(12)]),
            order(&[0, 1], Some(SwitchReason::SoundAgain))
        );
    }

    /// The head watchdog: a node whose head stands still while others advance.
    #[test]
    fn a_head_that_stands_still_while_others_advance_is_stale() {
        let mut watch = Watch::new(2);
        watch.look(0, &[at(10), at(10)]);
        assert_eq!(watch.look(1, &[at(10), at(11)]).nodes, [0, 1]);
        assert_eq!(watch.look(5, &[at(10), at(14)]).nodes, [0, 1]);
        assert_eq!(watch.look(6, &[at(10), at(15)]), order(&[1], Some(SwitchReason::Behind)));
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
        assert_eq!(watch.look(1, &[DOWN, at(18)]), ReadOrder::default(), "it may catch up");
        assert_eq!(watch.look(2, &[DOWN, at(20)]), order(&[1], Some(SwitchReason::Lost)));
        // The chain went back: there is no other node.
        assert_eq!(watch.look(3, &[DOWN, at(15)]), ReadOrder::default());
        assert_eq!(watch.look(6, &[DOWN, at(15)]), order(&[1], None));
        let mut alone = Watch::new(1);
        alone.look(0, &[at(20)]);
        assert_eq!(alone.look(1, &[at(5)]), order(&[0], None));
    }

    #[test]
    fn a_node_that_answers_nothing_is_set_aside_for_a_while() {
        let mut watch = Watch::new(2);
        watch.look(0, &[at(1), at(1)]);
        let failing = NodeObservation { is_failing: true, ..at(1) };
        assert_eq!(watch.look(1, &[failing, at(1)]), order(&[1], Some(SwitchReason::NoAnswers)));
        assert_eq!(watch.look(30, &[at(1), at(1)]), order(&[1], None));
        assert_eq!(watch.look(31, &[at(1), at(1)]), order(&[1, 0], None));
        assert_eq!(watch.look(91, &[at(1), at(1)]), order(&[0, 1], Some(SwitchReason::SoundAgain)));
        let both = [failing, failing];
        assert_eq!(watch.look(92, &both).nodes, [0, 1], "better than none");
    }

    #[test]
    fn b1_later_blocks_of_one_node_make_nobody_stale_who_goes_on() {
        let mut watch = Watch::new(2);
        for seconds in 0..100 {
            let honest = watch.going_on(10 + seconds, seconds, 1);
            let order = watch.look(seconds, &[honest, at(400 + seconds)]);
            assert_eq!((order.nodes[0], order.advancing), (0, vec![0]), "{seconds}");
        }
        // It does not advance.
        let still = watch.going_on(109, 99, 1);
        assert_eq!(watch.look(104, &[still, at(500)]).nodes[0], 0);
        let order = watch.look(105, &[still, at(500)]);
        assert_eq!((order.nodes, order.advancing), (vec![1], vec![]));
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
        let honest =
            NodeObservation { chain_match: ChainMatch::Unknown, ..watch.going_on(14, 0, 0) };
        let order = watch.look(0, &[at(14), honest]);
        assert_eq!((order.nodes, order.advancing), (vec![0], vec![1]));
        let stranger = NodeObservation { chain_match: ChainMatch::Different, ..honest };
        assert!(watch.look(1, &[at(14), stranger]).advancing.is_empty());
    }

    #[test]
    fn b1_who_goes_on_below_what_was_acted_on_has_a_word() {
        let mut watch = Watch::new(2);
        let honest = watch.going_on(14, 0, 0);
        let order = watch.look(0, &[at(20), honest]);
        assert_eq!(order.nodes, [0, 1]);
        let honest = watch.going_on(15, 1, 0);
        let order = watch.look(1, &[at(21), honest]);
        assert_eq!((order.nodes, order.advancing), (vec![0], vec![1]));
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
        assert_eq!(
            watch.look(0, &[at(10), another(5_000_000)]),
            order(&[0], Some(SwitchReason::First))
        );
        for seconds in 1..100 {
            let sights = [at(10 + seconds), another(5_000_000 + seconds)];
            assert_eq!(watch.look(seconds, &sights), order(&[0], None));
        }
        assert_eq!(watch.0.lag_of(10, watch.1), Duration::ZERO);
        // The right one is away and is waited for.
        assert_eq!(watch.look(200, &[DOWN, another(5_000_200)]), ReadOrder::default());
        assert_eq!(watch.look(259, &[DOWN, another(5_010_000)]), ReadOrder::default());
        assert_eq!(watch.look(10_001, &[at(200), another(5_010_000)]).nodes, [0]);
        // This is noticed while it is read from.
        let mut watch = Watch::new(2);
        watch.look(0, &[DOWN, unknown(5_000_000)]);
        assert_eq!(watch.look(1, &[at(10), another(5_000_000)]), ReadOrder::default(), "the floor");
        let right = watch.look(4, &[at(10), another(5_000_000)]);
        assert_eq!(right, order(&[0], Some(SwitchReason::AnotherChain)));
    }

    /// Its block 0 differs, for example.
    #[test]
    fn b1_a_node_of_which_nothing_is_known_is_read_from_where_no_other_is() {
        let mut watch = Watch::new(2);
        assert_eq!(watch.look(0, &[at(10), unknown(50)]), order(&[0], Some(SwitchReason::First)));
        assert_eq!(watch.look(10, &[at(11), unknown(60)]).nodes, [0], "nor says it who is behind");
        assert_eq!(watch.look(11, &[DOWN, unknown(60)]), order(&[1], Some(SwitchReason::Lost)));
        let mut watch = Watch::new(2);
        assert_eq!(watch.look(0, &[unknown(10), unknown(11)]).nodes, [0, 1]);
        assert_eq!(watch.look(6, &[unknown(10), unknown(11)]).nodes, [1], "as if all were ours");
    }

    /// A test chain was created anew.
    #[test]
    fn b1_what_every_node_contradicts_is_given_up() {
        let mut watch = Watch::new(2);
        watch.look(0, &[at(100), at(100)]);
        assert_eq!(watch.look(1, &[another(5), another(5)]), ReadOrder::default());
        assert_eq!(watch.look(5, &[another(5), another(5)]), ReadOrder::default(), "the floor");
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
            assert_eq!(
                watch.look(seconds, &[DOWN, another(150)]),
                ReadOrder::default(),
                "{seconds}"
            );
        }
        assert_eq!(watch.look(61, &[DOWN, another(150)]), order(&[1], Some(SwitchReason::Lost)));
        // It was right after all.
        assert_eq!(watch.look(62, &[at(160), another(151)]).nodes, [0]);
        assert_eq!(watch.look(63, &[DOWN, another(170)]), ReadOrder::default());
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
                let sights: Vec<NodeObservation> = nodes
                    .into_iter()
                    .map(|(is_connected, head, is_failing, kin)| {
                        let chain_match = match kin {
                            0 => ChainMatch::Different,
                            1 => ChainMatch::Unknown,
                            _ => ChainMatch::Same,
                        };
                        NodeObservation { is_connected, head: Some(head), is_failing, chain_match, last_block: None }
                    })
                    .collect();
                let floor = watch.0.floor;
                let order = watch.look(seconds, &sights);
                let kin = |sight: &NodeObservation| sight.chain_match != ChainMatch::Different;
                let usable = |sight: &NodeObservation| sight.is_connected && sight.head >= Some(floor) && kin(sight);
                let all_another = sights.iter().filter(|sight| sight.is_connected).all(|one| !kin(one));
                if sights.iter().any(usable) {
                    prop_assert!(!order.nodes.is_empty());
                    prop_assert!(order.nodes.iter().all(|index| usable(&sights[*index])));
                }
                prop_assert!(all_another || order.nodes.iter().all(|index| kin(&sights[*index])));
                prop_assert!(order.nodes.iter().all(|index| sights[*index].is_connected));
            }
        }
    }
}

//! Which of several nodes is read from. Pure: it is told what is seen of each, and when.
//!
//! Reads go to one node, and stay there: nodes differ by a block or two, and an answer from another
//! one may contradict the last. A node is **sound** if it is connected, is not behind, has reached
//! the **floor** (the highest head that was acted on) and answers what it is asked.
//!
//! ```text
//! read from A --not sound--> the first sound one --A sound for a minute--> read from A
//! ```
//!
//! A node is behind by time, not by blocks: somebody has known a block above its head for so long.
//! That fits any block time, and a chain that makes no blocks while nobody sends.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Behind for longer than this is stale.
pub const STALE_AFTER: Duration = Duration::from_secs(5);
/// Answered nothing, again and again: not read from for so long.
pub const SET_ASIDE_FOR: Duration = Duration::from_secs(30);
/// A node that stands earlier is read from again once it was sound for so long.
pub const RETURN_AFTER: Duration = Duration::from_mins(1);
/// No node reaches the floor for so long: the chain itself went back.
pub const FLOOR_PATIENCE: Duration = Duration::from_secs(3);
/// Heights remembered with the time they were first seen.
const REMEMBERED: usize = 256;

/// What is seen of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Connected, and of the right chain.
    pub up: bool,
    pub head: Option<u64>,
    /// Calls in a row that it did not answer are too many.
    pub failing: bool,
}

/// Why another node is read from than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    First,
    Lost,
    Behind,
    NoAnswers,
    /// It stands earlier, and has been sound for long enough.
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
            Self::SoundAgain => "it is in order and stands before the other one",
        }
    }
}

/// Where to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The node that is read from, then those a failed call may be asked of. Empty: none now.
    pub nodes: Vec<usize>,
    /// Set when the first one is another than before.
    pub switched: Option<Why>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    set_aside_until: Option<Instant>,
    sound_since: Option<Instant>,
    /// It was sound and ceased to be: it has to prove itself before it is read from again.
    failed: bool,
}

/// The memory behind the choice.
#[derive(Debug)]
pub struct Choice {
    standings: Vec<Standing>,
    /// Rising heights, and when somebody first showed each.
    seen: VecDeque<(u64, Instant)>,
    floor: u64,
    below_floor_since: Option<Instant>,
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
            reading: None,
        }
    }

    /// A head of this height goes to whoever acts on it.
    pub fn acted_on(&mut self, height: u64) {
        self.floor = self.floor.max(height);
    }

    /// For how long somebody has known a block above this one.
    #[must_use]
    pub fn behind(&self, head: u64, now: Instant) -> Duration {
        let newer = self.seen.iter().find(|(height, _)| *height > head);
        newer.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(*since))
    }

    /// Looks at all nodes, in their order, and chooses.
    pub fn look(&mut self, sights: &[Sight], now: Instant) -> Order {
        self.remember(sights, now);
        let above_floor = self.is_above_floor(sights, now);
        for (index, sight) in sights.iter().enumerate() {
            if sight.failing {
                self.standings[index].set_aside_until = Some(now + SET_ASIDE_FOR);
            }
            let sound = self.is_sound(index, sight, now);
            let standing = &mut self.standings[index];
            standing.failed |= standing.sound_since.is_some() && !sound;
            standing.sound_since = sound.then(|| standing.sound_since.unwrap_or(now));
        }
        if !above_floor {
            return Order::default();
        }
        let sound = |index: &usize| self.standings[*index].sound_since.is_some();
        let usable = |index: &usize| {
            let sight = sights[*index];
            sight.up && sight.head.is_some_and(|head| head >= self.floor)
        };
        let mut nodes: Vec<usize> = (0..sights.len()).filter(sound).collect();
        if nodes.is_empty() {
            // Better one that is behind or slow than none.
            nodes = (0..sights.len()).filter(usable).collect();
        }
        let first = self.first_of(&nodes, now);
        let before = self.reading;
        self.reading = first.or(before);
        let Some(first) = first else { return Order::default() };
        nodes.retain(|index| *index != first);
        nodes.insert(0, first);
        let switched = (before != Some(first)).then(|| match before {
            None => Why::First,
            Some(other) if !sights[other].up => Why::Lost,
            Some(other) if self.is_set_aside(other, now) => Why::NoAnswers,
            Some(other) if self.standings[other].sound_since.is_none() => Why::Behind,
            Some(_) => Why::SoundAgain,
        });
        Order { nodes, switched }
    }

    /// The node of these to read from: the one that is read from, unless an earlier one has been
    /// sound for long, or is so for the first time.
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
        head >= self.floor && self.behind(head, now) < STALE_AFTER && !self.is_set_aside(index, now)
    }

    fn is_set_aside(&self, index: usize, now: Instant) -> bool {
        self.standings[index].set_aside_until.is_some_and(|until| now < until)
    }

    fn remember(&mut self, sights: &[Sight], now: Instant) {
        let highest = sights.iter().filter(|sight| sight.up).filter_map(|sight| sight.head).max();
        let Some(highest) = highest else { return };
        // Nobody shows these any more.
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

    /// Whether some node has reached the floor. A floor that none reaches for long is given up.
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
        // The only node is believed at once: nobody else could know better.
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
        Sight { up: true, head: Some(head), failing: false }
    }

    const DOWN: Sight = Sight { up: false, head: Some(1), failing: false };

    /// Time in seconds from a begin.
    struct Watch(Choice, Instant);

    impl Watch {
        fn new(nodes: usize) -> Self {
            Self(Choice::new(nodes), Instant::now())
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
        Order { nodes: nodes.to_vec(), switched }
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

    /// Who connects first at the start is a matter of chance.
    #[test]
    fn the_first_one_is_read_from_as_soon_as_it_is_there() {
        let mut watch = Watch::new(2);
        assert_eq!(watch.look(0, &[DOWN, at(12)]), order(&[1], Some(Why::First)));
        assert_eq!(watch.look(1, &[at(12), at(12)]), order(&[0, 1], Some(Why::SoundAgain)));
    }

    /// The watchdog on heads: a node whose head stands still while others advance.
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
        // The chain went back: there is no other.
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

    proptest! {
        /// A node that is connected and at the floor is found; the first one always is.
        #[test]
        fn who_is_read_from_is_up_and_not_below_the_floor(
            steps in prop::collection::vec(
                (0u64..8, prop::collection::vec((any::<bool>(), 0u64..30, any::<bool>()), 3)), 1..60)
        ) {
            let mut watch = Watch::new(3);
            let mut seconds = 0;
            for (pause, nodes) in steps {
                seconds += pause;
                let sights: Vec<Sight> = nodes
                    .into_iter()
                    .map(|(up, head, failing)| Sight { up, head: Some(head), failing })
                    .collect();
                let floor = watch.0.floor;
                let order = watch.look(seconds, &sights);
                let usable = |sight: &Sight| sight.up && sight.head >= Some(floor);
                if sights.iter().any(usable) {
                    prop_assert!(!order.nodes.is_empty());
                    prop_assert!(order.nodes.iter().all(|index| usable(&sights[*index])));
                }
                prop_assert!(order.nodes.iter().all(|index| sights[*index].up));
            }
        }
    }
}

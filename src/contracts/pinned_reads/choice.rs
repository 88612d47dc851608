//! The block to read at. Pure.
//!
//! ```text
//! one endpoint is enough     the head of the first one that is not old
//! several must agree         the newest block that enough of them have;
//!                            while they do not agree there: the head of the next one that is not far below it
//! ```
//!
//! Of honest endpoints one may be a block behind. Then a lying one decides, at the newest block, whether there are
//! enough that have it; at the head of the one behind it does not. An older block is the answer of a chain whose
//! endpoints are not level, so it is at most [`BEHIND_BLOCKS`] or [`BEHIND_SECS`] older: none of them holds the
//! others back for longer.

use std::cmp::Reverse;

use crate::domain::BlockRef;

/// So many blocks an endpoint may be behind the newest block that enough of them have …
const BEHIND_BLOCKS: u64 = 1;
/// … or so many seconds, where blocks are quick.
const BEHIND_SECS: u64 = 15;

/// A block to read at, and the endpoints that have it, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub block: BlockRef,
    pub timestamp: u64,
    /// Whose head it is: its height and its time are the word of this endpoint alone.
    pub told_by: usize,
    pub endpoints: Vec<usize>,
}

/// The blocks to read at, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choices {
    pub best: Choice,
    /// While the endpoints do not agree. At most one for each endpoint, newest first.
    pub others: Vec<Choice>,
}

/// An endpoint and the block that it is at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub endpoint: usize,
    pub block: BlockRef,
    /// Unix seconds.
    pub timestamp: u64,
}

/// Why no block can be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoChoice {
    /// These endpoints have old blocks; the age of the newest that would be needed.
    Stale {
        endpoints: Vec<usize>,
        age_secs: u64,
    },
    TooFew,
}

/// Chooses. `sights` are in order of preference.
pub(super) fn choose(
    sights: &[Sight],
    agreement: usize,
    now: u64,
    max_age: u64,
) -> Result<Choices, NoChoice> {
    let age = |sight: &Sight| now.saturating_sub(sight.timestamp);
    let fresh: Vec<Sight> = sights.iter().copied().filter(|one| age(one) <= max_age).collect();
    let at = if agreement > 1 {
        let mut heights: Vec<u64> = fresh.iter().map(|one| one.block.number).collect();
        heights.sort_unstable();
        let height = heights.len().checked_sub(agreement).map(|index| heights[index]);
        fresh.iter().find(|one| Some(one.block.number) == height)
    } else {
        fresh.first()
    };
    let Some(best) = at.copied() else {
        if sights.len() < agreement {
            return Err(NoChoice::TooFew);
        }
        let mut ages: Vec<u64> = sights.iter().map(age).collect();
        ages.sort_unstable();
        let old = sights.iter().filter(|one| age(one) > max_age).map(|one| one.endpoint);
        return Err(NoChoice::Stale {
            endpoints: old.collect(),
            age_secs: ages.get(agreement.saturating_sub(1)).copied().unwrap_or_default(),
        });
    };
    let choice = |sight: Sight| {
        let Sight { endpoint: told_by, block, timestamp } = sight;
        let have = fresh.iter().filter(|one| one.block.number >= block.number);
        Choice { block, timestamp, told_by, endpoints: have.map(|one| one.endpoint).collect() }
    };
    let mut others: Vec<Sight> = Vec::new();
    if agreement > 1 {
        let is_near = |one: &Sight| {
            one.block.number.saturating_add(BEHIND_BLOCKS) >= best.block.number
                || age(one) <= age(&best).saturating_add(BEHIND_SECS)
        };
        let says = |one: &Sight| (one.block, one.timestamp);
        for one in fresh.iter().filter(|one| one.block.number <= best.block.number && is_near(one))
        {
            if says(one) != says(&best) && !others.iter().any(|known| says(known) == says(one)) {
                others.push(*one);
            }
        }
        // Those of one height stay in order of preference.
        others.sort_by_key(|one| Reverse(one.block.number));
    }
    Ok(Choices { best: choice(best), others: others.into_iter().map(choice).collect() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{B256, U256};

    fn block(number: u64) -> BlockRef {
        BlockRef { number, hash: B256::from(U256::from(number)) }
    }

    fn at(endpoint: usize, number: u64, timestamp: u64) -> Sight {
        Sight { endpoint, block: block(number), timestamp }
    }

    fn best(sights: &[Sight], agreement: usize, now: u64) -> Result<Choice, NoChoice> {
        choose(sights, agreement, now, 120).map(|choices| choices.best)
    }

    #[test]
    fn the_block_is_one_that_the_first_endpoints_have() {
        let sights = [at(0, 10, 100), at(2, 12, 102), at(1, 9, 99)];
        let chosen = |agreement| best(&sights, agreement, 103).unwrap();
        assert_eq!((chosen(1).block, chosen(1).endpoints), (block(10), vec![0, 2]));
        assert_eq!((chosen(2).block, chosen(2).timestamp), (block(10), 100));
        assert_eq!(chosen(2).endpoints, [0, 2]);
        assert_eq!((chosen(3).block, chosen(3).endpoints), (block(9), vec![0, 2, 1]));
        assert_eq!(best(&sights, 4, 103), Err(NoChoice::TooFew));
    }

    /// Two of three have a newer block than the one that is asked first: that is an old one, whoever tells it.
    #[test]
    fn no_endpoint_holds_the_others_back_where_several_must_agree() {
        let sights = [at(0, 5, 95), at(1, 9, 99), at(2, 9, 99)];
        let chosen = |agreement| best(&sights, agreement, 103).unwrap();
        assert_eq!((chosen(2).block, chosen(2).endpoints), (block(9), vec![1, 2]));
        // All must agree, or one is enough and an operator has chosen which is asked first.
        assert_eq!((chosen(3).block, chosen(3).told_by), (block(5), 0));
        assert_eq!((chosen(1).block, chosen(1).told_by), (block(5), 0));
        // Nor does one that tells more blocks than there are.
        let sights = [at(0, 90, 103), at(1, 9, 99), at(2, 8, 98)];
        assert_eq!(best(&sights, 2, 103).unwrap().block, block(9));
    }

    /// One that stands still is passed over as long as enough others are left.
    #[test]
    fn an_old_block_is_no_answer() {
        let sights = [at(0, 10, 100), at(1, 90, 900), at(2, 91, 905)];
        let chosen = |agreement| best(&sights, agreement, 910);
        assert_eq!(chosen(1).unwrap().block, block(90));
        assert_eq!(chosen(2).unwrap().endpoints, [1, 2]);
        assert_eq!(chosen(3), Err(NoChoice::Stale { endpoints: vec![0], age_secs: 810 }));
        let old = best(&sights, 1, 2_000);
        assert_eq!(old, Err(NoChoice::Stale { endpoints: vec![0, 1, 2], age_secs: 1_095 }));
        // A block of the future is new.
        assert_eq!(best(&sights, 1, 0).unwrap().block, block(10));
    }

    #[test]
    fn the_head_of_one_that_is_behind_comes_after_the_newest_block() {
        let others = |sights: &[Sight], agreement| -> Vec<(u64, Vec<usize>)> {
            let choices = choose(sights, agreement, 110, 120).unwrap();
            let others = choices.others.into_iter();
            others.map(|choice| (choice.block.number, choice.endpoints)).collect()
        };
        // Two honest ones, one of them a block behind, and one that says whatever it likes.
        let level = [at(0, 9, 100), at(1, 8, 88), at(2, 9, 100)];
        assert_eq!(others(&level, 2), [(8, vec![0, 1, 2])]);
        let ahead = [at(0, 9, 100), at(1, 8, 88), at(2, 1_009, 100)];
        assert_eq!(others(&ahead, 2), [(8, vec![0, 1, 2])]);
        // Its block of that height is another one: that of the first is the best, its own the next.
        let invented = BlockRef { hash: B256::repeat_byte(7), ..block(9) };
        let fork = [at(0, 9, 100), at(1, 8, 88), Sight { block: invented, ..at(2, 9, 100) }];
        assert_eq!(others(&fork, 2), [(9, vec![0, 2]), (8, vec![0, 1, 2])]);
        // Or the same block of another time.
        let time = [at(0, 9, 100), at(1, 8, 88), at(2, 9, 109)];
        assert_eq!(others(&time, 2), [(9, vec![0, 2]), (8, vec![0, 1, 2])]);
        // One endpoint is enough, or all must agree: there is no other block.
        assert_eq!(others(&level, 1), []);
        assert_eq!(others(&level, 3), []);
    }

    #[test]
    fn no_block_is_asked_that_is_far_below() {
        let others = |number, timestamp| {
            let sights = [at(0, 90, 100), at(1, number, timestamp), at(2, 90, 100)];
            choose(&sights, 2, 110, 120).unwrap().others.len()
        };
        assert_eq!(others(89, 20), 1, "one block is one block, however long it took");
        assert_eq!(others(30, 85), 1, "sixty quick blocks");
        assert_eq!(others(88, 84), 0);
        assert_eq!(others(30, 84), 0);
    }

    proptest! {
        /// Whatever they tell: every block is one that enough of them may have, none is old, and none comes
        /// twice.
        #[test]
        fn every_choice_may_be_agreed_on(
            told in prop::collection::vec((0..6u64, 0..2u8, 0..200u64), 0..9),
            agreement in 1..5usize,
        ) {
            let sights: Vec<Sight> = told
                .iter()
                .enumerate()
                .map(|(endpoint, (number, hash, timestamp))| Sight {
                    endpoint,
                    block: BlockRef { number: *number, hash: B256::repeat_byte(*hash) },
                    timestamp: *timestamp,
                })
                .collect();
            if let Ok(Choices { best, others }) = choose(&sights, agreement, 200, 120) {
                let mut known = Vec::new();
                let mut below = best.block.number;
                for choice in std::iter::once(best).chain(others) {
                    prop_assert!(choice.endpoints.len() >= agreement);
                    prop_assert!(choice.endpoints.contains(&choice.told_by));
                    prop_assert!(choice.timestamp >= 80 && choice.block.number <= below);
                    prop_assert!(!known.contains(&(choice.block, choice.timestamp)));
                    below = choice.block.number;
                    known.push((choice.block, choice.timestamp));
                }
                prop_assert!(known.len() <= sights.len());
            }
        }
    }
}

use proptest::prelude::*;

use super::{counter_ids::MAX_RUNS, *};

const C: Counter = Counter::Public;

/// First and last number and block of the missing ids.
fn missing(ids: &KnownIds, cursor: u64, now: Instant) -> Vec<(u64, u64, u64, u64)> {
    let told = ids.missing(cursor, now + HIDDEN_AFTER);
    told.iter().map(|one| (one.first, one.last, one.from, one.to)).collect()
}

fn with(seen: &[(u64, u64)], now: Instant) -> KnownIds {
    let mut ids = KnownIds::default();
    for (number, block) in seen {
        ids.record(C, *number, *block, now);
    }
    ids
}

#[test]
fn a0_a_hole_is_between_the_blocks_of_its_neighbours_until_it_is_filled() {
    let now = Instant::now();
    let mut ids = with(&[(10, 100), (11, 100), (15, 120), (16, 130)], now);
    assert_eq!(ids.missing(200, now), [], "a node may show logs late");
    assert_eq!(missing(&ids, 200, now), [(12, 14, 100, 120)]);
    ids.record(C, 13, 110, now);
    assert_eq!(missing(&ids, 200, now), [(12, 12, 100, 110), (14, 14, 110, 120)]);
    ids.record(C, 12, 105, now);
    ids.record(C, 14, 120, now);
    assert_eq!(missing(&ids, 200, now), []);
    let run = IdRange { counter: C, first: 10, last: 16, first_block: 100, last_block: 130 };
    assert_eq!(ids.runs().collect::<Vec<_>>(), [run]);
    // Ids before the first one are not missing.
    ids.record(C, 3, 50, now);
    assert_eq!(ids.runs().count(), 1);
}

/// The log that showed it was forged, or its block has left the chain.
#[test]
fn b5_an_id_whose_request_is_not_there_is_missing_until_it_is_shown() {
    let now = Instant::now();
    let id = |number| C.id(number);
    let mut ids = with(&[(1, 10), (2, 160), (3, 161), (4, 162), (5, 170)], now);
    ids.remove(id(3), 161, now);
    assert_eq!(missing(&ids, 200, now), [(3, 3, 160, 162)]);
    ids.remove(id(2), 160, now);
    ids.remove(id(4), 162, now);
    assert_eq!(missing(&ids, 200, now), [(2, 4, 10, 170)]);
    ids.record(C, 3, 100, now);
    ids.remove(id(3), 161, now);
    assert_eq!(missing(&ids, 200, now), [(2, 2, 10, 100), (4, 4, 100, 170)], "another one");
    // Nothing else proves the last one; the first one becomes the beginning.
    ids.remove(id(5), 170, now);
    assert_eq!(ids.last_known(), [(C, 3)]);
    ids.remove(id(1), 10, now);
    assert_eq!((ids.last_known(), missing(&ids, 200, now)), (vec![(C, 3)], vec![]));
    ids.remove(id(3), 100, now);
    assert_eq!(ids.runs().count(), 0);
    ids.remove(id(3), 100, now);
}

#[test]
fn a0_each_counter_has_holes_of_its_own() {
    let now = Instant::now();
    let mut ids = with(&[(1, 10), (3, 30)], now);
    ids.record(Counter::User, 1, 10, now);
    ids.record(Counter::User, 2, 20, now);
    assert_eq!(missing(&ids, 99, now), [(2, 2, 10, 30)]);
    assert_eq!(ids.last_known(), [(C, 3), (Counter::User, 2)]);
}

/// G8 to G9: the new counters begin with the first id seen; the old one is not in use any more.
#[test]
fn a0_an_upgraded_contract_counts_anew() {
    let now = Instant::now();
    let mut ids = KnownIds::default();
    for counter in Counter::ALL {
        ids.set_beginning(counter, 0, 5, now);
    }
    assert_eq!(ids.last_known().len(), 3, "nobody has asked for anything yet");
    ids.record(Counter::Common, 1, 10, now);
    assert_eq!(ids.last_known(), [(Counter::Common, 1)]);
    ids.record(Counter::Public, 7, 20, now);
    assert_eq!(ids.last_known(), [(Counter::Public, 7)]);
    assert_eq!(missing(&ids, 99, now), []);
}

#[test]
fn a0_what_was_hidden_at_the_first_start_is_missing() {
    let now = Instant::now();
    let mut ids = KnownIds::default();
    ids.set_beginning(C, 20, 100, now);
    ids.record(C, 23, 130, now);
    assert_eq!(missing(&ids, 200, now), [(21, 22, 100, 130)]);
    // Reported late, after the first one was seen.
    let mut late = with(&[(23, 130)], now);
    late.set_beginning(C, 20, 100, now);
    assert_eq!(missing(&late, 200, now), [(21, 22, 100, 130)]);
    let mut dense = with(&[(21, 130)], now);
    dense.set_beginning(C, 20, 100, now);
    assert_eq!(missing(&dense, 200, now), []);
    assert!(dense.is_known(C, 20) && dense.is_known(C, 3) && !dense.is_known(C, 22));
}

#[test]
fn a0_an_id_that_only_the_contract_knows_is_missing_once_its_block_was_read() {
    let now = Instant::now();
    let mut ids = with(&[(10, 100)], now);
    ids.record_existing(C, 12, 140, now);
    assert_eq!(missing(&ids, 139, now), [], "its block is not read yet");
    assert!(ids.due(139, now + HIDDEN_AFTER).is_empty());
    // From here on its time counts.
    let later = now + HIDDEN_AFTER;
    assert!(ids.due(140, later + HIDDEN_AFTER - Duration::from_secs(1)).is_empty());
    let due = ids.due(140, later + HIDDEN_AFTER);
    assert_eq!((due[0].0.first, due[0].0.last, due[0].1), (11, 12, true));
    assert_eq!((due[0].0.from, due[0].0.to, due[0].0.above), (100, 140, None));
    ids.record(C, 12, 120, later);
    assert_eq!(missing(&ids, 140, later), [(11, 11, 100, 120)], "and as long ago");
    ids.record(C, 11, 120, later);
    assert_eq!(missing(&ids, 140, later), []);
    // The contract contradicts what it said before.
    ids.record_existing(C, 13, 150, later);
    ids.set_end(C, 12, 149);
    assert_eq!(missing(&ids, 150, later).len(), 1);
    ids.set_end(C, 12, 150);
    assert_eq!(missing(&ids, 150, later), []);
}

#[test]
fn a0_a_tail_that_leaves_the_chain_is_no_hole() {
    let now = Instant::now();
    let mut ids = with(&[(10, 100), (11, 110), (12, 120), (13, 130)], now);
    ids.record_existing(C, 14, 130, now);
    ids.rewind_to(115);
    assert_eq!(missing(&ids, 115, now), []);
    assert_eq!(ids.last_known(), [(C, 11)]);
    // They come back in other blocks, one of them hidden.
    ids.record(C, 13, 127, now);
    assert_eq!(missing(&ids, 130, now), [(12, 12, 110, 127)]);
    ids.record(C, 12, 126, now);
    assert_eq!(missing(&ids, 130, now), []);
    // All of them are gone: the counter begins anew, and ids below may be hidden.
    ids.rewind_to(50);
    assert_eq!(ids.last_known(), []);
    ids.set_origin(5);
    assert!(ids.without_beginning().contains(&(C, None)));
    ids.record(C, 11, 60, now);
    assert!(ids.without_beginning().contains(&(C, Some((11, 60)))));
    ids.set_beginning(C, 8, 5, now);
    assert_eq!(missing(&ids, 130, now), [(9, 10, 5, 60)]);
    assert!(!ids.without_beginning().iter().any(|(counter, _)| *counter == C));
}

/// The reorganisation is the first event after a restart.
#[test]
fn a0_a_reorganisation_after_a_restart_takes_ids_with_it() {
    let now = Instant::now();
    let before = with(&[(10, 100), (11, 110), (12, 120), (13, 130)], now);
    let runs: Vec<IdRange> = before.runs().collect();
    let newest: Vec<_> = (9..14).map(|number| (C.id(number), number * 10)).collect();
    let mut ids = KnownIds::from_stored(&runs, now).with_blocks(&newest);
    ids.rewind_to(115);
    assert_eq!(ids.last_known(), [(C, 11)]);
    ids.record(C, 13, 127, now);
    assert_eq!(missing(&ids, 130, now), [(12, 12, 110, 127)]);
}

/// Only a bound is known for the block of the last remaining id, and the chain is rewound below it.
#[test]
fn a0_what_one_reorganisation_left_proves_nothing_after_a_deeper_one() {
    let now = Instant::now();
    let mut ids = KnownIds::default();
    ids.set_beginning(C, 0, 10, now);
    ids.record(C, 1, 30, now);
    ids.rewind_to(29);
    assert!(ids.counters[&C].is_complete(28));
    ids.rewind_to(20);
    assert!(!ids.counters[&C].is_complete(28), "a block of another chain");
    // Hidden in block 25.
    ids.record(C, 2, 27, now);
    assert_eq!(missing(&ids, 40, now), [(1, 1, 20, 27)]);
}

#[test]
fn a0_blocks_are_read_again_ever_more_seldom() {
    let now = Instant::now();
    let mut ids = with(&[(10, 100), (12, 120)], now);
    let mut readings = Vec::new();
    for second in 0..7200 {
        for (one, first) in ids.due(200, now + Duration::from_secs(second)) {
            assert_eq!((one.first, first), (11, readings.is_empty()));
            readings.push(second);
        }
    }
    assert_eq!(readings[..4], [10, 20, 40, 80]);
    let pauses: Vec<u64> = readings.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(pauses.iter().max(), Some(&600));
    assert!(readings.len() < 20, "{readings:?}");
}

#[test]
fn a0_what_the_contract_denies_is_forgotten() {
    let now = Instant::now();
    let mut ids = with(&[(10, 100), (1_000_000, 120)], now);
    assert_eq!(missing(&ids, 200, now), [(11, 999_999, 100, 120)]);
    ids.forget(C, 1_000_000);
    assert_eq!((missing(&ids, 200, now), ids.last_known()), (vec![], vec![(C, 10)]));
    ids.forget(C, 10);
    assert_eq!(ids.last_known(), [(C, 10)], "something is always known");
}

#[test]
fn a0_ids_prove_blocks_whole_that_lie_between_known_ones() {
    let now = Instant::now();
    let mut ids = with(&[(10, 100), (11, 110), (13, 130), (14, 140)], now);
    ids.set_beginning(Counter::User, 0, 90, now);
    let whole =
        |ids: &KnownIds| (95..150).filter(|block| ids.is_complete(*block)).collect::<Vec<_>>();
    assert_eq!(whole(&ids), [] as [u64; 0], "of the user requests nothing is known");
    ids.set_end(Counter::User, 0, 135);
    let expected: Vec<u64> = (101..110).chain(131..=135).collect();
    assert_eq!(whole(&ids), expected);
    ids.set_end(C, 14, 200);
    ids.set_end(Counter::User, 0, 200);
    let expected: Vec<u64> = (101..110).chain(131..150).collect();
    assert_eq!(whole(&ids), expected);
    ids.rewind_to(145);
    assert!(ids.is_complete(145) && !ids.is_complete(146));
    let mut common = KnownIds::default();
    common.record(Counter::Common, 1, 10, now);
    common.record(Counter::Common, 2, 20, now);
    assert!(common.is_complete(15) && !common.is_complete(20));
}

#[test]
fn a0_what_is_known_survives_a_restart() {
    let now = Instant::now();
    let mut ids = with(&[(10, 100), (12, 120)], now);
    assert_eq!(ids.take_changed().map(|runs| runs.len()), Some(2));
    assert_eq!(ids.take_changed(), None);
    let mut runs: Vec<IdRange> = ids.runs().collect();
    // Somebody has edited the file.
    runs.extend([
        IdRange { first: 9, last: 3, ..runs[0] },
        IdRange { first: 10, last: 11, ..runs[0] },
    ]);
    runs.reverse();
    let again = KnownIds::from_stored(&runs, now);
    assert_eq!(missing(&again, 200, now), [(11, 11, 100, 120)]);
    assert_eq!(again.last_known(), [(C, 12)]);
}

proptest! {
    /// However a chain grows and forks, and whatever is hidden and shown later: missing are exactly the ids
    /// that were never shown, up to the highest one shown.
    #[test]
    fn a0_what_is_missing_is_what_was_never_shown(
        steps in prop::collection::vec((0u64..4, any::<u8>(), 0u64..12, any::<bool>()), 1..60),
    ) {
        let now = Instant::now();
        let mut ids = KnownIds::default();
        ids.set_beginning(C, 0, 0, now);
        // For each block: the counter after it, and which of its ids were shown.
        let mut chain: Vec<(u64, Vec<(u64, bool)>)> = vec![(0, Vec::new())];
        for (new, shown, back, late) in steps {
            let height = chain.len() as u64 - 1;
            if back > 0 && back <= height && back < 4 {
                chain.truncate(chain.len() - usize::try_from(back).unwrap());
                ids.rewind_to(height - back);
            }
            let count = chain.last().unwrap().0;
            let block = chain.len() as u64;
            let events: Vec<(u64, bool)> =
                (0..new).map(|nth| (count + nth + 1, shown >> nth & 1 == 1)).collect();
            for (id, _) in events.iter().filter(|(_, shown)| *shown) {
                ids.record(C, *id, block, now);
            }
            chain.push((count + new, events));
            if late {
                // A block is read again and shows everything.
                let again = usize::try_from(back).unwrap() % chain.len();
                for (id, shown) in &mut chain[again].1 {
                    *shown = true;
                    ids.record(C, *id, again as u64, now);
                }
            }
            let all = chain.iter().flat_map(|(_, events)| events);
            let highest = all.clone().filter(|(_, shown)| *shown).map(|(id, _)| *id).max();
            let expected: Vec<u64> = all
                .filter(|(id, shown)| !*shown && Some(*id) < highest)
                .map(|(id, _)| *id)
                .collect();
            let told = ids.missing(u64::MAX, now + HIDDEN_AFTER);
            let found: Vec<u64> = told.iter().flat_map(|one| one.first..=one.last).collect();
            prop_assert_eq!(&found, &expected);
            for one in &told {
                let blocks = chain.iter().enumerate().filter(|(_, (_, events))| {
                    events.iter().any(|(id, _)| (one.first..=one.last).contains(id))
                });
                for (block, _) in blocks {
                    prop_assert!((one.from..=one.to).contains(&(block as u64)), "{:?}", one);
                }
            }
            for (block, (_, events)) in chain.iter().enumerate().skip(1) {
                let hidden = events.iter().any(|(_, shown)| !shown);
                prop_assert!(!ids.counters[&C].is_complete(block as u64) || !hidden);
            }
            let stored = KnownIds::from_stored(&ids.runs().collect::<Vec<_>>(), now);
            prop_assert_eq!(stored.missing(u64::MAX, now + HIDDEN_AFTER).len(), told.len());
        }
    }

    /// The state stays small and never reports a shown id as missing, unless it had to be cut.
    #[test]
    fn a0_books_stay_small(numbers in prop::collection::vec(1u64..100_000, 1..400)) {
        let now = Instant::now();
        let mut ids = KnownIds::default();
        for number in &numbers {
            ids.record(C, *number, *number / 10, now);
        }
        prop_assert!(ids.runs().count() <= MAX_RUNS);
        let mut last = 0;
        for run in ids.runs() {
            prop_assert!(run.first <= run.last && (last == 0 || run.first > last + 1));
            last = run.last;
        }
    }
}

//! Runs the seeds.

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use super::{plan::Plan, play};

/// Number of seeds in each test run.
const FEW: u64 = 200;

/// Results of many seeds.
#[derive(Debug, Default)]
struct SeedResults {
    wrong: Vec<(u64, Vec<String>)>,
    /// Number of stories in which each fault occurred.
    fired: BTreeMap<&'static str, u64>,
}

/// Each kind of wrong answer must occur in at least this many stories.
const ENOUGH: u64 = 3;
const FAULTS: [&str; 34] = [
    "array",
    "away",
    "index",
    "index of one of two",
    "range",
    "bloom",
    "base fee",
    "tip",
    "estimate",
    "count too high",
    "count too low",
    "tag",
    "receipt",
    "journal",
    "signing key",
    "out of gas",
    "upgrade",
    "attestation",
    "asked by grants",
    "grants left",
    "host stands still",
    "host is away",
    "host lies",
    "host arrays",
    "context",
    "context destroyed",
    "acl upgrade",
    "asked again",
    "asked by two chains",
    "upgrade left",
    "key operation",
    "abort",
    "core forgets a key",
    "core connects late",
];

/// Plays seeds on all cores; returns those that failed.
fn play_all(from: u64, count: u64, plan: fn(u64) -> Plan) -> Vec<(u64, Vec<String>)> {
    play_many(from, count, plan).wrong
}

fn play_many(from: u64, count: u64, plan: fn(u64) -> Plan) -> SeedResults {
    let next = AtomicU64::new(from);
    let mut all = SeedResults::default();
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let players: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut played = SeedResults::default();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= from + count {
                            return played;
                        }
                        let told = play(seed, &plan(seed));
                        if (seed - from) % 1000 == 999 {
                            eprintln!("{} seeds played", seed - from + 1);
                        }
                        if !told.violations.is_empty() {
                            eprintln!("seed {seed}: {:?}", told.violations);
                            played.wrong.push((seed, told.violations));
                        }
                        for fault in told.fired.keys() {
                            *played.fired.entry(fault).or_default() += 1;
                        }
                    }
                })
            })
            .collect();
        for player in players {
            let played = player.join().unwrap();
            all.wrong.extend(played.wrong);
            for (fault, stories) in played.fired {
                *all.fired.entry(fault).or_default() += stories;
            }
        }
    });
    all.wrong.sort();
    all
}

/// Field failure T12.
#[test]
fn two_hundred_seeds_are_clean() {
    let SeedResults { wrong, fired } = play_many(0, FEW, Plan::of);
    assert!(wrong.is_empty(), "see `scripts/simulate --seed N --trace`: {wrong:#?}");
    // A fault that never occurred proves nothing.
    let felt = |fault: &&str| fired.get(*fault).is_some_and(|stories| *stories >= ENOUGH);
    let unfelt: Vec<_> = FAULTS.iter().filter(|fault| !felt(fault)).collect();
    assert!(unfelt.is_empty(), "{unfelt:?} of {fired:#?}");
}

#[test]
fn a_seed_is_the_same_story_at_each_telling() {
    for seed in 0..5 {
        let (once, twice) = (play(seed, &Plan::of(seed)), play(seed, &Plan::of(seed)));
        let differs = once.trace.lines().zip(twice.trace.lines()).find(|(one, two)| one != two);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(once.trace, twice.trace, "seed {seed}");
    }
}

/// An accepted answer that a reorganisation drops for good is sent again, with the nonce that is free
/// then.
#[test]
fn answers_dropped_by_a_reorganisation_are_sent_again() {
    let wrong = play_all(0, 50, |seed| {
        let mut plan = Plan::of(seed);
        (plan.faults.reorganisation, plan.faults.unanswered) = (60, 500);
        plan
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A request that left the chain for good does not block another request with the same id.
#[test]
fn a_request_whose_id_was_another_ones_is_answered() {
    let wrong = play_all(0, 50, |seed| {
        let mut plan = Plan::of(seed);
        (plan.faults.reorganisation, plan.faults.namesake) = (60, 500);
        plan
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A Core that says of some ids both that they exist and that they do not is not asked without end.
#[test]
fn a7_a_core_that_deletes_what_it_was_asked_for_is_left_alone() {
    let wrong = play_all(0, 30, |seed| {
        let mut plan = Plan::of(seed);
        (plan.faults.core_deletes, plan.faults.core_restart, plan.faults.crash) = (200, 0, 0);
        plan
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// For `scripts/simulate`: `SIMULATE=<from>,<count>`, or `SIMULATE=<seed>` to see its trace.
#[test]
#[ignore = "run by scripts/simulate"]
#[expect(clippy::disallowed_methods, reason = "the script's way to say which seeds")]
fn seeds_asked_for() {
    let asked = std::env::var("SIMULATE").expect("SIMULATE names the seeds");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    if let Some((from, count)) = asked.split_once(',') {
        let SeedResults { wrong, fired } = play_many(number(from), number(count), Plan::of);
        eprintln!("stories in which it was felt: {fired:?}");
        assert!(wrong.is_empty(), "{} of {count} seeds went wrong", wrong.len());
    } else {
        let told = play(number(&asked), &Plan::of(number(&asked)));
        println!("{}", told.trace);
        assert!(told.violations.is_empty(), "{:#?}", told.violations);
    }
}

//! Which measurements there are.

use std::time::Duration;

use crate::{
    figures::whole,
    gated::Gate,
    ground::{BLOCK_TIME, Plan},
    row::WITHOUT_CHECK,
    runs::{Run, WARM_UP, Work},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// One instance, one ciphertext of 64 KiB, a Core that takes 50 ms, a real chain.
const USUAL: Plan = Plan {
    instances: 1,
    size: 64 * KIB,
    ciphertexts: 1,
    core: Some(Duration::from_millis(50)),
    in_memory: false,
    gate: None,
    settings: "",
};
/// Reading does not wait for walks.
const READS_ONLY: &str = "channel_size = 200000\nmax_requests_in_flight = 1";

/// Requests whose grants are known.
const KNOWN: usize = 64;

fn run(name: impl Into<String>, plan: Plan, work: Work) -> Run {
    Run { name: name.into(), plan, work }
}

/// Both programs in turn, in two minutes.
pub fn quick() -> Vec<(Run, bool)> {
    vec![
        (run("100/s", USUAL, Work::Steady { rate: 100.0, seconds: 15.0 }), true),
        (run("burst of 500", USUAL, Work::Burst(500)), true),
    ]
}

/// Everything; whether the reference is measured beside it.
pub fn all(seconds: f64) -> Vec<(Run, bool)> {
    let steady = |rate: f64| Work::Steady { rate, seconds };
    let mut runs = Vec::new();
    for rate in [10.0, 50.0, 100.0, 200.0, 400.0, 800.0] {
        runs.push((run(format!("{rate}/s"), USUAL, steady(rate)), true));
    }
    runs.push((run("burst of 500", USUAL, Work::Burst(500)), true));
    runs.push((run("burst of 2000", USUAL, Work::Burst(2000)), true));
    let thirteen = Plan { instances: 13, ..USUAL };
    runs.push((run("burst of 154 over 13 instances", thirteen, Work::Burst(154)), true));

    // As many answers a second, of one instance, of four and of sixteen.
    runs.push((run("160 answers/s of 1 instance", USUAL, steady(160.0)), false));
    let four = Plan { instances: 4, ..USUAL };
    runs.push((run("160 answers/s of 4 instances", four, steady(40.0)), false));
    let sixteen = Plan { instances: 16, ..USUAL };
    runs.push((run("160 answers/s of 16 instances", sixteen, steady(10.0)), false));

    let restart = Work::Found { count: 300, again: true };
    runs.push((run("300 found after a restart", USUAL, restart), false));
    let backlog = Work::Found { count: 10_000, again: false };
    runs.push((run("10,000 found at the start", USUAL, backlog), false));

    let of = |size, ciphertexts| Plan { size, ciphertexts, ..USUAL };
    runs.push((run("4 x 1 MiB, 10/s", of(MIB, 4), steady(10.0)), true));
    runs.push((run("4 MiB, 10/s", of(4 * MIB, 1), steady(10.0)), true));
    runs.push((run("32 MiB, 1/s", of(32 * MIB, 1), steady(1.0)), false));
    runs.push((run("64 of 32 MiB at once", of(32 * MIB, 1), Work::Burst(64)), false));

    for millis in [0, 1000] {
        let plan = Plan { core: Some(Duration::from_millis(millis)), ..USUAL };
        runs.push((run(format!("Core of {millis} ms, 100/s"), plan, steady(100.0)), true));
    }

    // Beside each other: access is checked by the gateway, by a host node 20 ms away, and not again.
    let rate = 100.0;
    let gated = |gate| Plan { gate: Some(gate), ..USUAL };
    runs.push((run(format!("{WITHOUT_CHECK}, 100/s"), USUAL, steady(rate)), false));
    let all = whole(rate * seconds) + 10 * WARM_UP;
    runs.push((run("access of G13, 100/s", gated(Gate::Fresh(all)), steady(rate)), false));
    let known = gated(Gate::Known(KNOWN));
    runs.push((run("access of G13, 100/s, known grants", known, steady(rate)), false));

    let memory = Plan { in_memory: true, ..USUAL };
    // 25 in each block, one after the other, and 200 in each block.
    let quick_blocks = Duration::from_millis(10);
    for (rate, blocks, name) in [
        (100.0, BLOCK_TIME, "in memory, 100/s"),
        (100.0, quick_blocks, "in memory, 100/s, one by one"),
        (800.0, BLOCK_TIME, "in memory, 800/s"),
    ] {
        runs.push((run(name, memory, Work::Added { rate, seconds, blocks }), true));
    }
    let ceiling = Work::Ceiling { unanswered: 600, seconds: 60.0 };
    runs.push((run("in memory, as many as it can", memory, ceiling), false));
    let mute = Plan { core: None, settings: READS_ONLY, ..memory };
    runs.push((run("in memory, catching up", mute, Work::CatchUp(100_000)), false));

    let idle = Work::Idle { seconds };
    runs.push((run("1 idle instance", USUAL, idle), false));
    runs.push((run("21 idle instances", Plan { instances: 21, ..USUAL }, idle), false));
    runs
}

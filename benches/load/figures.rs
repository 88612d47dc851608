//! From what was counted to what a row says.

use crate::{heads::Heads, row::Spread};

/// Median and 99th percentile.
pub fn spread(sorted: &[f64]) -> Option<Spread> {
    let last = sorted.len().checked_sub(1)?;
    let at = |percent: usize| sorted[(last * percent).div_ceil(100)];
    Some([at(50), at(99)])
}

/// Answers in a second, from the first request's block to the last answer's.
pub fn pace(heads: &Heads, (first, last): (u64, u64), answers: usize) -> Option<f64> {
    let seen = heads.seen();
    let took = seen.get(&last)?.saturating_duration_since(*seen.get(&first)?).as_secs_f64();
    Some(f64::from(small(answers)) / took)
}

/// For one of so many.
pub fn each(what: f64, count: usize) -> f64 {
    what / f64::from(small(count.max(1)))
}

pub fn small(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

pub fn mib(kib: u64) -> f64 {
    f64::from(small(kib)) / 1024.0
}

pub fn whole(number: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of requests, never less than none"
    )]
    let whole = number as usize;
    whole
}

//! The first transaction count of a lane: where its nonces begin.
//!
//! ```text
//! ask every sound node --they agree--> within what the journal knows: begin
//!                      │               far below what it knows to be mined: wait
//!                      │               beyond: ask again, seconds later, and begin at the lower one
//!                      └──they differ─> wait for a while; then the lowest that the journal does not
//!                                       contradict
//! ```
//!
//! A count beyond the journal is adopted however high it is: a new, rebuilt or restored journal knows
//! nothing, and an operator who restarts the instance after "wallet used elsewhere" confirms that it is
//! in order.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    LaneCommand, Recovered, ask_all,
    count::{SECOND_READING, Votes},
};
use crate::{
    chain::sender::TransactionSender,
    dice::Dice,
    domain::Address,
    telemetry::{
        heartbeat::Heartbeat,
        log_throttle::LogThrottle,
        metrics::{LaneGauges, Metrics},
    },
    time::backoff::Backoff,
};

/// A count this far below the mined nonces comes from a node that is not up to date: no reorganisation
/// is that deep.
const FAR_BELOW: u64 = 1024;
/// How long to wait for nodes that contradict each other.
const DISAGREE_FOR: Duration = Duration::from_secs(30);

/// What the journal knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct JournaledNonces {
    /// The nonce after the highest recorded one.
    next: u64,
    /// The nonce after the highest one known to be mined.
    mined: u64,
}

impl JournaledNonces {
    pub(super) fn of(recovered: &Recovered) -> Self {
        let after = |nonce: Option<u64>| nonce.map_or(0, |nonce| nonce.saturating_add(1));
        let open = recovered.open.iter().map(|one| one.nonce).max();
        let mined = after(recovered.mined.iter().map(|one| one.nonce).max());
        Self { next: after(recovered.highest.max(open)).max(mined), mined }
    }
}

/// Readings so far.
#[derive(Debug, Default)]
struct FirstCount {
    /// Since when a count beyond the journal is reported, and the lowest such count.
    beyond: Option<(Instant, u64)>,
    differ_since: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum FirstCountDecision {
    Begin(u64),
    /// Read again after [`SECOND_READING`].
    ReadAgain,
    /// Wait; a code for throttling, and the reason.
    Wait(&'static str, String),
}

impl FirstCount {
    fn weigh(&mut self, votes: &Votes, known: JournaledNonces, now: Instant) -> FirstCountDecision {
        if votes.agree() {
            self.differ_since = None;
        } else {
            let since = *self.differ_since.get_or_insert(now);
            if now.saturating_duration_since(since) < DISAGREE_FOR {
                self.beyond = None;
                let why = format!(
                    "the nodes contradict each other: {votes}; remove the wrong one from \
                     the configuration"
                );
                return FirstCountDecision::Wait("contradiction", why);
            }
        }
        let possible =
            votes.0.iter().map(|(_, count)| *count).filter(|count| *count >= known.mined);
        let count = possible.min().unwrap_or(votes.highest());
        if count.saturating_add(FAR_BELOW) < known.mined {
            let why = format!(
                "{votes}, and the journal has {} mined ones: that node is not up to date; if the \
                 chain was recreated, remove the journal",
                known.mined
            );
            return FirstCountDecision::Wait("not_up_to_date", why);
        }
        if count <= known.next {
            return FirstCountDecision::Begin(count);
        }
        let (since, lowest) = self.beyond.map_or((now, count), |(at, low)| (at, low.min(count)));
        self.beyond = Some((since, lowest));
        if now.saturating_duration_since(since) < SECOND_READING {
            return FirstCountDecision::ReadAgain;
        }
        FirstCountDecision::Begin(lowest)
    }
}

/// Asks until the count is decided. Reports waiting payloads to the metrics meanwhile.
pub(super) async fn read_first_count<P: TransactionSender>(
    provider: &P,
    wallet: Address,
    known: JournaledNonces,
    jobs: &mpsc::Receiver<LaneCommand>,
    (heart, metrics, dice): (&Heartbeat, &Metrics, &Dice),
) -> u64 {
    let mut pause = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let mut repeats = LogThrottle::default();
    let mut first = FirstCount::default();
    let mut waits_since = None;
    loop {
        heart.beat().await;
        let now = Instant::now();
        waits_since = (!jobs.is_empty()).then(|| *waits_since.get_or_insert(now));
        let still = waits_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        metrics.lane(LaneGauges { waiting: jobs.len(), still, ..LaneGauges::default() });
        let (code, why) = match ask_all::read_counts(provider, wallet).await {
            Ok(votes) => match first.weigh(&votes, known, Instant::now()) {
                FirstCountDecision::Begin(count) => {
                    if count > known.next && known.next > 0 {
                        warn!(
                            count,
                            known = known.next,
                            "the wallet has sent transactions that this journal does not know"
                        );
                    }
                    return count;
                }
                FirstCountDecision::ReadAgain => {
                    info!(%votes, known = known.next, "the transaction count is looked at again");
                    sleep(SECOND_READING).await;
                    continue;
                }
                FirstCountDecision::Wait(code, why) => (code, why),
            },
            Err(error) => (error.code(), error.to_string()),
        };
        if let Some(times) = repeats.should_log(code, Instant::now()) {
            warn!(why, times, "waiting for the wallet's transaction count");
        }
        sleep(pause.next_delay(dice.roll())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn votes(counts: &[u64]) -> Votes {
        Votes(counts.iter().enumerate().map(|(node, count)| (format!("{node}"), *count)).collect())
    }

    fn heard(readings: &[(u64, &[u64])], known: JournaledNonces) -> Vec<Option<u64>> {
        let begun = Instant::now();
        let mut first = FirstCount::default();
        let hear = |(seconds, counts): &(u64, &[u64])| match first.weigh(
            &votes(counts),
            known,
            begun + Duration::from_secs(*seconds),
        ) {
            FirstCountDecision::Begin(count) => Some(count),
            FirstCountDecision::ReadAgain | FirstCountDecision::Wait(..) => None,
        };
        readings.iter().map(hear).collect()
    }

    const NEW: JournaledNonces = JournaledNonces { next: 0, mined: 0 };
    const OLD: JournaledNonces = JournaledNonces { next: 5010, mined: 5000 };

    #[test]
    fn a9_what_the_journal_knows_is_believed_at_once() {
        assert_eq!(heard(&[(0, &[0])], NEW), [Some(0)]);
        assert_eq!(heard(&[(0, &[5010, 5010])], OLD), [Some(5010)]);
        assert_eq!(heard(&[(0, &[4000])], OLD), [Some(4000)], "a reorganisation");
    }

    #[test]
    fn a9_what_lies_beyond_is_read_twice_and_adopted_however_high() {
        let far = 1 << 40;
        assert_eq!(heard(&[(0, &[far]), (4, &[far]), (5, &[far])], NEW), [None, None, Some(far)]);
        assert_eq!(heard(&[(0, &[far]), (5, &[7])], NEW), [None, Some(7)], "it was not so");
        assert_eq!(heard(&[(0, &[6000]), (5, &[6002])], OLD), [None, Some(6000)]);
        assert_eq!(heard(&[(0, &[6000]), (5, &[5005])], OLD), [None, Some(5005)]);
    }

    #[test]
    fn a9_a_count_far_below_what_was_mined_is_waited_out() {
        assert_eq!(heard(&[(0, &[3]), (100, &[3]), (200, &[5000])], OLD), [None, None, Some(5000)]);
    }

    #[test]
    fn a9_nodes_that_differ_are_waited_for_and_the_possible_one_counts() {
        let differ: &[(u64, &[u64])] = &[(0, &[9, 5000]), (29, &[9, 5000]), (30, &[9, 5000])];
        assert_eq!(heard(differ, NEW), [None, None, None], "beyond: once more");
        let twice: &[(u64, &[u64])] = &[(0, &[9, 50]), (30, &[9, 50]), (35, &[9, 50])];
        assert_eq!(heard(twice, NEW), [None, None, Some(9)]);
        let known: &[(u64, &[u64])] = &[(0, &[9, 5000]), (30, &[9, 5000])];
        assert_eq!(heard(known, OLD), [None, Some(5000)], "9 is contradicted by the journal");
        assert_eq!(heard(&[(0, &[9, 5000]), (1, &[5000, 5000])], OLD), [None, Some(5000)]);
    }
}

//! How much is asked at a time. A request may need thousands of questions, and what they say, and what is told,
//! stays in memory while the nodes of a host chain take their time.
//!
//! A request that needs more than [`SMALL`] questions reserves them all at once, of each of its chains, before
//! they are even written down, and keeps them until its check has ended. First come, first served: no large
//! request starves, and ordinary ones never wait for it. The chains have a budget each, so one that does not
//! answer holds up nobody's questions to another.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::plan::{MAX_QUESTIONS, Needs};

/// Questions that wait for the answers of a chain at the same time, for large requests: as many as one may need.
const AT_ONCE: usize = MAX_QUESTIONS;
/// What needs no more than that never waits: `max_requests_in_flight` bounds how many there are.
const SMALL: usize = 64;
/// How long a request waits for its turn before it tries again.
const WITHIN: Duration = Duration::from_secs(15);

/// The budget of an instance, by chain. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct QuestionBudget(Arc<BTreeMap<u64, Arc<Semaphore>>>);

/// What a request has reserved; returned on drop.
#[derive(Debug, Default)]
pub(super) struct Reserved(#[expect(dead_code, reason = "held")] Vec<OwnedSemaphorePermit>);

/// Others' questions were in hand all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoTurn {
    pub waited: Duration,
}

/// Whether these questions are so many that they may have to wait.
pub(super) fn is_large(needs: &Needs) -> bool {
    needs.values().sum::<usize>() > SMALL
}

/// What to reserve of a chain. One request's questions fit, however many.
fn share(questions: usize) -> u32 {
    u32::try_from(questions.min(AT_ONCE)).unwrap_or(u32::MAX)
}

impl FromIterator<u64> for QuestionBudget {
    fn from_iter<I: IntoIterator<Item = u64>>(chains: I) -> Self {
        let each = chains.into_iter().map(|chain| (chain, Arc::new(Semaphore::new(AT_ONCE))));
        Self(Arc::new(each.collect()))
    }
}

impl QuestionBudget {
    /// Waits until the questions may be asked. Chains that are not configured are not asked.
    pub(super) async fn reserve(&self, needs: &Needs) -> Result<Reserved, NoTurn> {
        if !is_large(needs) {
            return Ok(Reserved::default());
        }
        let mut reserved = Vec::new();
        // In the order of the chains' ids: who has one and waits for the next never waits for who waits for it.
        let reserving = async {
            for (chain, questions) in needs {
                if let Some(budget) = self.0.get(chain) {
                    // It is never closed.
                    let taken = budget.clone().acquire_many_owned(share(*questions)).await;
                    reserved.extend(taken.ok());
                }
            }
        };
        match timeout(WITHIN, reserving).await {
            Ok(()) => Ok(Reserved(reserved)),
            Err(_) => Err(NoTurn { waited: WITHIN }),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    fn needs<const N: usize>(of: [(u64, usize); N]) -> Needs {
        of.into_iter().collect()
    }

    fn budget() -> QuestionBudget {
        [1, 2].into_iter().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_are_asked_within_the_budget_and_small_ones_at_once() {
        let budget = budget();
        let half = needs([(1, AT_ONCE / 2)]);
        let first = budget.reserve(&half).await.unwrap();
        let _second = budget.reserve(&half).await.unwrap();
        let begun = Instant::now();
        assert_eq!(
            budget.reserve(&needs([(1, SMALL + 1)])).await.unwrap_err(),
            NoTurn { waited: WITHIN }
        );
        assert_eq!(begun.elapsed(), WITHIN);
        assert!(budget.reserve(&needs([(1, SMALL)])).now_or_never().unwrap().is_ok());
        assert!(budget.reserve(&needs([(2, AT_ONCE)])).now_or_never().unwrap().is_ok());
        // What an attempt that gave up has reserved is free again.
        assert!(budget.reserve(&needs([(1, SMALL + 1), (2, AT_ONCE)])).await.is_err());
        assert!(budget.reserve(&needs([(2, AT_ONCE)])).now_or_never().unwrap().is_ok());
        drop(first);
        assert!(budget.reserve(&half).now_or_never().unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_needs_more_than_there_is_goes_alone() {
        let budget = budget();
        let all = budget.reserve(&needs([(1, AT_ONCE * 2)])).await.unwrap();
        assert!(budget.reserve(&needs([(1, SMALL + 1)])).await.is_err());
        drop(all);
        assert!(budget.reserve(&needs([(1, SMALL + 1)])).now_or_never().unwrap().is_ok());
        // A chain that nobody has configured is not waited for.
        let unknown = needs([(3, AT_ONCE)]);
        let all: Vec<_> = (0..9).map(|_| budget.reserve(&unknown).now_or_never()).collect();
        assert!(all.iter().all(|reserved| matches!(reserved, Some(Ok(_)))));
    }

    /// A large one comes to its turn though smaller ones come all the time.
    #[tokio::test(start_paused = true)]
    async fn who_comes_first_is_served_first() {
        let budget = budget();
        let (third, all) = (needs([(1, AT_ONCE / 3)]), needs([(1, AT_ONCE)]));
        let held = [budget.reserve(&third).await, budget.reserve(&third).await];
        let mut large = Box::pin(budget.reserve(&all));
        assert!((&mut large).now_or_never().is_none());
        let mut later = Box::pin(budget.reserve(&third));
        assert!((&mut later).now_or_never().is_none(), "it would fit, and came later");
        drop(held);
        let large = large.now_or_never().unwrap();
        assert!(large.is_ok() && (&mut later).now_or_never().is_none());
        drop(large);
        assert!(later.now_or_never().unwrap().is_ok());
    }

    /// Requests of several chains do not wait for each other in a circle.
    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_who_waits_for_it() {
        let budget = budget();
        let both = needs([(2, AT_ONCE), (1, AT_ONCE)]);
        let each = async {
            for _ in 0..20 {
                let reserved = budget.reserve(&both).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
                assert!(reserved.is_ok());
            }
        };
        let begun = Instant::now();
        tokio::join!(each, async {
            for _ in 0..20 {
                assert!(budget.reserve(&both).await.is_ok());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(begun.elapsed() < WITHIN);
    }
}

//! Randomness as an edge: pauses are spread with it, so that many waiters do not retry at the same moment.
//! Production uses a random seed. A simulation passes a fixed one and makes runs reproducible. Pure functions
//! take the number as an argument.

use std::sync::{Arc, Mutex, PoisonError};

use fastrand::Rng;

/// A random number generator. Clones share its state. The default is seeded randomly.
#[derive(Clone, Debug, Default)]
pub struct Dice(Arc<Mutex<Rng>>);

impl Dice {
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Rng::with_seed(seed))))
    }

    /// A number between 0 and 1.
    #[must_use]
    pub fn roll(&self) -> f64 {
        self.rolled(Rng::f64)
    }

    #[must_use]
    pub fn coin(&self) -> bool {
        self.rolled(Rng::bool)
    }

    fn rolled<T>(&self, roll: impl FnOnce(&mut Rng) -> T) -> T {
        roll(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

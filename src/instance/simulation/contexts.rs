//! KMS contexts of a simulated world, one after the other. The gateway knows a new one at once, the host
//! chain's `ProtocolConfig` too, where it counts once it is final. An old one may be destroyed.

use crate::domain::U256;

/// The id of a context.
pub(super) fn context(number: u64) -> U256 {
    (U256::from(7) << 248) | U256::from(number)
}

/// The id of its epoch.
pub(super) fn epoch(number: u64) -> U256 {
    (U256::from(8) << 248) | U256::from(number)
}

/// When a context began or ended: after which block of the gateway, and when on the host chain (Unix seconds).
pub(super) type Moment = (u64, u64);

#[derive(Clone, Copy, Debug)]
struct Context {
    begun: Moment,
    destroyed: Option<Moment>,
}

/// All contexts, by their number from 1 on.
#[derive(Debug)]
pub(super) struct Contexts(Vec<Context>);

impl Default for Contexts {
    fn default() -> Self {
        Self(vec![Context { begun: (0, 0), destroyed: None }])
    }
}

impl Contexts {
    /// The number of the newest.
    pub fn newest(&self) -> u64 {
        self.0.len() as u64
    }

    /// Replaces the current one.
    pub fn begin(&mut self, at: Moment) {
        self.0.push(Context { begun: at, destroyed: None });
    }

    /// Destroys the oldest that is left, if it is not the current one. Returns its number.
    pub fn destroy(&mut self, at: Moment) -> Option<u64> {
        let newest = self.0.len() - 1;
        let oldest = self.0[..newest].iter().position(|one| one.destroyed.is_none())?;
        self.0[oldest].destroyed = Some(at);
        Some(oldest as u64 + 1)
    }

    /// Whether there is one that could be destroyed.
    pub fn has_old(&self) -> bool {
        self.0[..self.0.len() - 1].iter().any(|one| one.destroyed.is_none())
    }

    /// The number of the one that is current after this block of the gateway.
    pub fn current(&self, block: u64) -> u64 {
        self.0.iter().filter(|one| one.begun.0 <= block).count() as u64
    }

    /// Those that the gateway knows after this block, and whether each is valid.
    pub fn on_gateway(&self, block: u64) -> impl Iterator<Item = (U256, bool)> {
        let known = (1..).zip(&self.0).filter(move |(_, one)| one.begun.0 <= block);
        known.map(move |(number, one)| {
            (context(number), one.destroyed.is_none_or(|(from, _)| block < from))
        })
    }

    /// The number of the newest that the host chain has defined by this time.
    pub fn counted(&self, time: u64) -> u64 {
        self.0.iter().filter(|one| one.begun.1 <= time).count() as u64
    }

    /// Whether it is in force on the host chain at this time.
    pub fn is_in_force(&self, id: U256, time: u64) -> bool {
        let found = (1..).zip(&self.0).find(|(number, _)| context(*number) == id);
        found.is_some_and(|(_, one)| {
            one.begun.1 <= time && one.destroyed.is_none_or(|(_, from)| time < from)
        })
    }

    /// Whether it is in force on the host chain with this epoch.
    pub fn has_epoch(&self, id: U256, of: U256, time: u64) -> bool {
        let number = (1..=self.newest()).find(|number| context(*number) == id);
        number.is_some_and(|number| epoch(number) == of) && self.is_in_force(id, time)
    }

    /// When it was destroyed on the host chain.
    pub fn destroyed_at(&self, id: U256) -> Option<u64> {
        let (_, found) = (1..).zip(&self.0).find(|(number, _)| context(*number) == id)?;
        found.destroyed.map(|(_, time)| time)
    }
}

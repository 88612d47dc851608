//! Requests whose block is not deep enough yet. Pure.
//!
//! They take no place among the walks: with a finality of minutes there are thousands. A restart
//! finds them in the journal.

use std::collections::BTreeMap;

use crate::{
    domain::{Kind, PerKind},
    flow::{depth::Line, intake::Intake},
};

/// More than so many are not taken in: what comes waits in its channel, and nothing is lost.
const MOST: usize = 20_000;

/// By block, then in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Unripe {
    waiting: PerKind<BTreeMap<(u64, u64), Intake>>,
    came: u64,
}

impl Unripe {
    pub(super) fn put(&mut self, intake: Intake) {
        self.came += 1;
        let place = (intake.request.block.number, self.came);
        self.waiting[intake.request.kind()].insert(place, intake);
    }

    /// Those that the line covers, the oldest block of each kind first.
    pub(super) fn take(&mut self, line: Line) -> Vec<Intake> {
        let mut ripe = Vec::new();
        for kind in Kind::ALL {
            let (Some(line), waiting) = (line.of(kind), &mut self.waiting[kind]) else { continue };
            while let Some(first) = waiting.first_entry().filter(|first| first.key().0 <= line) {
                ripe.push(first.remove());
            }
        }
        ripe
    }

    pub(super) fn is_full(&self) -> bool {
        Kind::ALL.map(|kind| self.waiting[kind].len()).iter().sum::<usize>() >= MOST
    }
}

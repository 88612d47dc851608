//! Measures since when the chain has had a block that is not read yet. Pure. Heads are sampled, so the
//! result is as precise as the samples are frequent.

use std::collections::VecDeque;

/// Heights remembered with the time they were first seen.
const REMEMBERED: usize = 512;

/// Heads above the cursor.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// Rising heights with the time of first sight (Unix ms).
    seen: VecDeque<(u64, u64)>,
}

impl Lag {
    /// Time (Unix ms) since which a block above the cursor has been known; `None` if there is none.
    pub(super) fn update(&mut self, cursor: u64, head: u64, now_ms: u64) -> Option<u64> {
        // Removed by a reorganisation.
        while self.seen.back().is_some_and(|(height, _)| *height > head) {
            self.seen.pop_back();
        }
        if self.seen.back().is_none_or(|(height, _)| *height < head) {
            self.seen.push_back((head, now_ms));
        }
        while self.seen.front().is_some_and(|(height, _)| *height <= cursor) {
            self.seen.pop_front();
        }
        if self.seen.len() > REMEMBERED {
            // The first entry is the answer, the last one the head.
            self.seen.remove(1);
        }
        self.seen.front().map(|(_, since)| *since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_block_that_is_not_read_tells_the_lag() {
        let mut lag = Lag::default();
        assert_eq!(lag.update(10, 10, 1), None);
        assert_eq!(lag.update(10, 12, 2), Some(2));
        assert_eq!(lag.update(11, 13, 3), Some(2), "12 is not read yet");
        assert_eq!(lag.update(12, 14, 4), Some(3));
        assert_eq!(lag.update(14, 14, 5), None);
        // A reorganisation removes block 20 before it was read.
        assert_eq!(lag.update(14, 20, 6), Some(6));
        assert_eq!(lag.update(14, 15, 7), Some(7));
    }

    #[test]
    fn it_remembers_a_bounded_number_of_heads() {
        let mut lag = Lag::default();
        for now in 0..10_000 {
            assert_eq!(lag.update(0, now + 1, now), Some(0));
        }
        assert!(lag.seen.len() <= REMEMBERED);
        assert_eq!(lag.update(10_000, 10_000, 10_000), None);
    }
}

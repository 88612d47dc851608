//! Time: the clock, back-off, and what is remembered for a time.

pub mod clock;
pub mod backoff;
pub mod recent_map;

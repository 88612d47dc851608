//! Whether a room still turns. A room beats its [`Heart`] each time it begins a turn of work and rests
//! it while it waits for something to do; one that is neither at rest nor beating hangs.

/// The hearts of one instance.
#[derive(Clone, Debug, Default)]
pub struct Hearts {}

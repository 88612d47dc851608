//! The journal on its disk, and after a crash.

mod disk;
mod crash;

//! The configuration directory: when to read it (`watch`), its content once two readings agree
//! (`snapshot`), and file work with a deadline (`bounded_io`).

mod bounded_io;
pub mod snapshot;
pub mod watch;

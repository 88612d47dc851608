//! What the configuration directory says: when to look (`watch`), what the files say once two readings
//! agree (`snapshot`), and file work with a deadline (`bounded_io`).

mod bounded_io;
pub mod snapshot;
pub mod watch;

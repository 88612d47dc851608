//! The files from inside.

mod crash;

//! Tests of the files from inside the module.

mod crash;

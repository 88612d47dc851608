//! The product seen from outside, on real servers.

mod wallet;

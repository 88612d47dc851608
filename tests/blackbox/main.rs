//! The product seen from outside, on real servers.

#![expect(clippy::unwrap_used, reason = "a test ends where its world is not as it needs it")]

mod ciphertexts;
mod ministack;
mod wallet;

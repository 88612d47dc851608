//! Broken servers, outages, bad input.

mod broken_servers;
mod outages;
mod bad_input;

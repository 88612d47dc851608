//! What an operator runs, reads and is told.

mod cli;
mod check;
mod requests;
mod health;
mod logs;
mod metrics;
mod night;
mod page;
mod surroundings;
mod traces;

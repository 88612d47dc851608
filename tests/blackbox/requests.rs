//! What becomes of a request: from the event to its one outcome.

mod walk;
mod finality;
mod observing;
mod contract_errors;
mod upgraded;
mod poisoned;
mod hostile_reading;

//! Secrets stay secret.

mod secrets;

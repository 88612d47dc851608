//! Many instances, their files, the service manager.

mod supervise;
mod reload;
mod random_changes;
mod ailments;
mod isolation;
mod fleet;
mod instance;
mod configurations;
mod systemd;
mod systemd_supervise;

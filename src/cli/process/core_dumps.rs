//! Disables core dumps: memory holds private keys, and a dump may stay on a disk for long. Done in
//! every mode, not only where a service's unit says so.
//!
//! A limit of 0 is not enough: where the kernel pipes dumps to a program (`|` in
//! `kernel.core_pattern`) it ignores the limit, see core(5). So the dump's content is disabled as
//! well. `PR_SET_DUMPABLE` would do both, but it also restricts `/proc/PID` to root, for example
//! for a monitor that counts open files.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, setrlimit};
use tracing::warn;

use super::limits;

/// The name in `/proc/self/limits`.
const LIMIT: &str = "Max core file size";
/// Selects the memory in a dump, one bit per kind: none.
const FILTER: &str = "/proc/self/coredump_filter";

/// Disables core dumps permanently. Warns if the system refuses (a sandbox) and they are not
/// disabled already.
pub(in crate::cli) fn forbid() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, none).map_err(io::Error::from);
    let limited = limited.or_else(|error| {
        let is_none = limits::of(LIMIT).is_some_and(|limit| limit.current == Some(0));
        if is_none { Ok(()) } else { Err(error) }
    });
    let emptied = match fs::write(FILTER, "0") {
        // A kernel built without core dumps has no such file.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    if let Err(error) = limited.and(emptied) {
        warn!(%error, "core dumps cannot be disabled: a crash may write private keys to a disk");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b12_core_dumps_are_forbidden() {
        forbid();
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        assert_eq!(limits::of(LIMIT), Some(none));
        let filter = fs::read_to_string(FILTER).unwrap();
        assert_eq!(filter.trim().trim_start_matches('0'), "", "{filter}");
    }
}

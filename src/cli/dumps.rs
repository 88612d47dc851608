//! No core dumps: memory holds private keys, and a dump may lie anywhere and for long. Under every way
//! of starting, not only where a service's unit says so.
//!
//! A limit of 0 is not the whole of it: where the kernel hands dumps to a program (`|` in
//! `kernel.core_pattern`) it asks for no limit, see core(5). So a dump is empty as well. That the process
//! is not dumpable at all (`PR_SET_DUMPABLE`) would do both, and take `/proc/PID` from everybody but root:
//! from whoever counts its open files as its own user.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, setrlimit};
use tracing::warn;

use super::limits;

/// As the kernel calls it.
const LIMIT: &str = "Max core file size";
/// Which memory a dump holds, a bit for each kind: none.
const FILTER: &str = "/proc/self/coredump_filter";

/// Forbids them from now on, for good. Where even that may not be said (a sandbox) and they are not
/// forbidden already, it is warned about.
pub(super) fn forbid() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, none).map_err(io::Error::from);
    let limited = limited.or_else(|error| {
        let is_none = limits::of(LIMIT).is_some_and(|limit| limit.current == Some(0));
        if is_none { Ok(()) } else { Err(error) }
    });
    let emptied = match fs::write(FILTER, "0") {
        // A kernel that makes no dumps has no such file.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    if let Err(error) = limited.and(emptied) {
        warn!(%error, "core dumps cannot be forbidden: a crash may write private keys to a disk");
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

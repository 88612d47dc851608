//! Raises the limit of open files (connections, journals, configurations). With too few, unrelated
//! operations would fail with misleading errors.

use rustix::process::{Resource, Rlimit, setrlimit};

use super::limits;

/// An idle instance uses about ten, a busy one some dozens.
const LEAST: u64 = 128;
/// The limit in our systemd units. A higher one only slows down child programs (a credential
/// process) that close every possible descriptor.
const MOST: u64 = 65_536;

/// The hard limit is too low, and only a privileged process may raise it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "at most {0} files may be open (ulimit -n), and a connector needs {LEAST}, with many instances some \
     thousands: raise the limit (LimitNOFILE= in a unit, --ulimit nofile= of docker)"
)]
pub(in crate::cli) struct TooFew(u64);

/// Raises the soft limit as far as is allowed and useful.
pub(in crate::cli) fn raise() -> Result<(), TooFew> {
    // Unknown: too low a limit will show later.
    let Some(limit) = limits::of("Max open files") else { return Ok(()) };
    let (now, wanted) = wanted(limit);
    let raised = Rlimit { current: Some(wanted), ..limit };
    let is_raised = wanted == now || setrlimit(Resource::Nofile, raised).is_ok();
    enough(if is_raised { wanted } else { now })
}

/// The current and the desired limit. The system's `None` is no limit.
fn wanted(limit: Rlimit) -> (u64, u64) {
    let now = limit.current.unwrap_or(u64::MAX);
    (now, now.max(MOST.min(limit.maximum.unwrap_or(u64::MAX))))
}

fn enough(limit: u64) -> Result<(), TooFew> {
    if limit < LEAST { Err(TooFew(limit)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d8_the_limit_is_raised_as_far_as_it_goes() {
        for (current, maximum, expected) in [
            (Some(1024), Some(524_288), (1024, MOST)),
            (Some(1024), None, (1024, MOST)),
            (Some(1024), Some(4096), (1024, 4096)),
            (Some(16), Some(16), (16, 16)),
            (Some(1_000_000), Some(1_000_000), (1_000_000, 1_000_000)),
            (None, None, (u64::MAX, u64::MAX)),
        ] {
            assert_eq!(wanted(Rlimit { current, maximum }), expected);
        }
        assert_eq!(enough(LEAST), Ok(()));
        assert!(enough(16).unwrap_err().to_string().contains("at most 16 files"));
    }
}

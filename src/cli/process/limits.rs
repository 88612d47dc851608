//! The resource limits of this process (open files, core dumps). Read from `/proc`, because a
//! sandbox may forbid `prlimit64`.

use std::fs;

use rustix::process::Rlimit;

/// The limit with this name in `/proc/self/limits`, if it is readable.
pub(super) fn of(name: &str) -> Option<Rlimit> {
    read(&fs::read_to_string("/proc/self/limits").ok()?, name)
}

fn read(limits: &str, name: &str) -> Option<Rlimit> {
    let mut words = limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
    let mut next = || match words.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some(Rlimit { current: next()?, maximum: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let text = "Limit          Soft Limit  Hard Limit  Units\nMax core file size  0  unlimited  \
                    bytes\nMax open files  1024  524288  files\n";
        let core = read(text, "Max core file size");
        assert_eq!(core, Some(Rlimit { current: Some(0), maximum: None }));
        let files = read(text, "Max open files");
        assert_eq!(files, Some(Rlimit { current: Some(1024), maximum: Some(524_288) }));
        assert_eq!(read(text, "Max nonsense"), None);
        assert_eq!(read("Max open files  what", "Max open files"), None);
        assert!(of("Max open files").is_some());
    }
}

//! Why this user may not connect to the control socket, and who may.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// What may be done with a path that a mode denies: the bit of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needed {
    /// Connecting is writing.
    Write,
    /// Entering a directory.
    Search,
}

/// Owner, group and mode of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileOwner {
    user: String,
    group: String,
    mode: u32,
}

/// Why connecting to the socket at `path` is denied, and what to do, as its owner, group and mode say.
pub(super) fn explain(path: &Path) -> String {
    let (what, needed) = denied_at(path);
    match FileOwner::of(&what) {
        Ok(owner) if what == path => told("the socket", &owner, needed),
        Ok(owner) => told(&format!("{}", what.display()), &owner, needed),
        Err(_) => "permission denied".to_owned(),
    }
}

/// The first directory on the way that may not be entered; else the socket itself.
fn denied_at(path: &Path) -> (PathBuf, Needed) {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut above: Vec<&Path> = absolute.ancestors().collect();
    above.reverse();
    let is_denied = |path: &Path| {
        fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    let closed = above.windows(2).find(|pair| is_denied(pair[1])).map(|pair| pair[0].to_owned());
    closed.map_or((path.to_owned(), Needed::Write), |directory| (directory, Needed::Search))
}

fn told(what: &str, FileOwner { user, group, mode }: &FileOwner, needed: Needed) -> String {
    let of_group = match needed {
        Needed::Write => 0o020,
        Needed::Search => 0o010,
    };
    let who = if user == "root" { "root".to_owned() } else { format!("user {user} or root") };
    let join = if mode & of_group == 0 {
        String::new()
    } else {
        format!(", or join group {group} and log in again")
    };
    format!(
        "permission denied: {what} is of user {user} and group {group} (mode {mode:03o}): become \
         {who}{join}"
    )
}

impl FileOwner {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        let name = |list: &str, id: u32| {
            let names = fs::read_to_string(list).unwrap_or_default();
            name_of(&names, id).map_or_else(|| id.to_string(), str::to_owned)
        };
        Ok(Self {
            user: name("/etc/passwd", found.uid()),
            group: name("/etc/group", found.gid()),
            mode: found.mode() & 0o777,
        })
    }
}

/// The name of an id in the text of passwd(5) or group(5). A directory service may know more.
fn name_of(names: &str, id: u32) -> Option<&str> {
    names.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn c10_the_owner_and_group_of_the_socket_itself_are_named() {
        let owner = |mode| FileOwner { user: "zama".into(), group: "operators".into(), mode };
        let text = told("the socket", &owner(0o660), Needed::Write);
        assert!(text.contains("user zama and group operators (mode 660)"), "{text}");
        assert!(text.contains("join group operators") && text.contains("become user zama"));
        // Its group may not do it either.
        let text = told("the socket", &owner(0o600), Needed::Write);
        assert!(!text.contains("join"), "{text}");
        let text = told("/run/x", &owner(0o710), Needed::Search);
        assert!(text.contains("/run/x is of user zama") && text.contains("join group"), "{text}");
        assert!(!told("/run/x", &owner(0o760), Needed::Search).contains("join"));
    }

    #[test]
    fn c10_ids_have_the_names_of_this_machine_or_are_shown_as_they_are() {
        let names = "root:x:0:0:root:/root:/bin/sh\n\n# a line\nzama:x:998:997::/:/bin/false\n";
        assert_eq!((name_of(names, 998), name_of(names, 997)), (Some("zama"), None));
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        fs::write(&socket, "").unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o660)).unwrap();
        std::os::unix::fs::chown(&socket, None, Some(4_000_000_001)).unwrap_or_default();
        let gid = fs::metadata(&socket).unwrap().gid();
        let known = fs::read_to_string("/etc/group").unwrap_or_default();
        let shown = name_of(&known, gid).map_or_else(|| gid.to_string(), str::to_owned);
        assert!(explain(&socket).contains(&format!("join group {shown} ")), "{}", explain(&socket));
    }
}

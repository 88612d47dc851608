//! What events mean, and when the watch is opened again. Real temporary directories.

use std::{fs, os::unix::fs::symlink};

use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RemoveKind, RenameMode};

use super::*;

#[test]
fn events_that_change_nothing_wake_nobody() {
    let directory = Path::new("/conf");
    let sign = |kind: EventKind, name: &str| {
        let path = if name.is_empty() { directory.to_owned() } else { directory.join(name) };
        EventMeaning::of(directory, Some(&Event::new(kind).add_path(path)))
    };
    let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    let meta = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
    let to = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    let create = EventKind::Create(CreateKind::Any);
    let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
    for (kind, name) in [
        (data, "a.toml"),
        (meta, "a.toml"),
        (closed, "a.toml"),
        (create, "a.toml"),
        (to, "a.toml"),
        (to, "..data"),
        (to, "current"),
        (EventKind::Remove(RemoveKind::File), "a.toml"),
        (meta, ""),
    ] {
        assert_eq!(sign(kind, name), EventMeaning::Change, "{kind:?} {name}");
    }
    for (kind, name) in [
        (EventKind::Access(AccessKind::Open(AccessMode::Any)), "a.toml"),
        (EventKind::Access(AccessKind::Close(AccessMode::Read)), "a.toml"),
        (data, "state.sqlite-wal"),
        (data, ".a.toml.swp"),
        (create, ".a.toml.swp"),
        (to, "a.toml~"),
    ] {
        assert_eq!(sign(kind, name), EventMeaning::Nothing, "{kind:?} {name}");
    }
    assert_eq!(sign(EventKind::Remove(RemoveKind::Folder), ""), EventMeaning::Loss);
    assert_eq!(sign(EventKind::Modify(ModifyKind::Name(RenameMode::From)), ""), EventMeaning::Loss);
    assert_eq!(EventMeaning::of(directory, None), EventMeaning::Loss);
    let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
    assert_eq!(EventMeaning::of(directory, Some(&overflow)), EventMeaning::Change);
}

#[test]
fn a_watch_is_opened_anew_where_another_directory_stands() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("conf");
    let eye = DirectoryWatch::new(&directory, Arc::new(Notify::new()));
    let id = || eye.state.lock().unwrap().watch.as_ref().map(|watch| watch.id);
    assert_eq!((eye.open(), id()), (WatchStatus::Missing, None));
    fs::create_dir(&directory).unwrap();
    assert_eq!(eye.open(), WatchStatus::Watching);
    let first = id();
    assert_eq!((eye.open(), id()), (WatchStatus::Watching, first));
    fs::rename(&directory, root.path().join("away")).unwrap();
    fs::create_dir(&directory).unwrap();
    assert_eq!(eye.open(), WatchStatus::Watching);
    assert_ne!(id(), first);
    fs::remove_dir(&directory).unwrap();
    assert_eq!((eye.open(), id()), (WatchStatus::Missing, None));
    // A link with another target, which no event reports.
    symlink("away", &directory).unwrap();
    assert_eq!((eye.open(), id()), (WatchStatus::Watching, first));
    fs::remove_file(&directory).unwrap();
    symlink(".", &directory).unwrap();
    assert_eq!(eye.open(), WatchStatus::Watching);
    assert_ne!(id(), first);
}

//! What befalls the rooms of an instance, as a test wants it: a panic, or a turn that never ends.
//!
//! No program can be told to fail. Whoever makes the hearts of an instance may hear their beats, and
//! what happens there happens in the room. Told by files, since the rooms may be in another process.

use std::{
    fs::{self, File},
    future::pending,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use kms_connector::telemetry::heartbeat::{BeatListener, Heartbeats};
use world::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ailment {
    Panic,
    Hang,
}

/// Ailments that wait for their room's next beat: a file for each.
#[derive(Clone, Debug)]
pub struct Ailments {
    dir: PathBuf,
}

impl Ailments {
    /// Those that are told of in `dir`.
    pub fn told_in(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|e| Error::Io("a folder for ailments".into(), e))?;
        Ok(Self { dir: dir.into() })
    }

    fn file(&self, room: &str, ailment: Ailment) -> PathBuf {
        self.dir.join(format!("{room}.{ailment:?}"))
    }

    /// The next beat of `room` is its last.
    pub fn sicken(&self, room: &str, ailment: Ailment) -> Result<()> {
        let made = File::create(self.file(room, ailment));
        made.map(drop).map_err(|e| Error::Io(format!("{room} is to {ailment:?}"), e))
    }

    /// Hearts of rooms that these ailments befall.
    pub fn hearts(&self, hangs_after: Duration) -> Heartbeats {
        Heartbeats::with_listener(Arc::new(self.clone()), hangs_after)
    }
}

impl BeatListener for Ailments {
    fn on_beat(&self, room: &'static str) -> BoxFuture<'_, ()> {
        // Of several hearts of one room, one finds the file.
        let befalls = |ailment| fs::remove_file(self.file(room, ailment)).is_ok();
        let (panics, hangs) = (befalls(Ailment::Panic), befalls(Ailment::Hang));
        Box::pin(async move {
            assert!(!panics, "a test wants it");
            if hangs {
                pending::<()>().await;
            }
        })
    }
}

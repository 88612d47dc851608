//! What the files and operators ask of an instance: the configuration to run, and whether it could be applied.

use tokio::time::Instant;

use crate::supervisor::slot::Target;

/// Why a new configuration did not replace the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::supervisor) struct Unapplied {
    /// The cause's stable name.
    pub code: &'static str,
    pub why: String,
    /// Not refused: a dependency does not answer, and the check is repeated automatically.
    pub waits: bool,
}

/// What the files and operators ask for.
#[derive(Debug, Default)]
pub(in crate::supervisor::slot) enum Intent {
    /// No file, none that was ever valid, or its wallet belongs to another instance.
    #[default]
    Nothing,
    /// `enabled = false`.
    Disabled,
    Run(Course),
    /// Stopped by an operator; a change of the configuration starts it again.
    Stopped(Course),
}

/// The configuration of the file, and whether it could be applied.
#[derive(Debug)]
pub(in crate::supervisor::slot) struct Course {
    /// The configuration of the file.
    pub(super) wanted: Target,
    pub(super) tried: Tried,
}

#[derive(Debug)]
pub(super) enum Tried {
    /// No objection is known.
    Fine,
    /// It could not be applied, and is tried again now.
    Again(Unapplied),
    /// It could not be applied, and the previous one runs in its place. Tried again at this time; `None`:
    /// only on request.
    Rejected { why: Unapplied, before: Target, again_at: Option<Instant> },
}

impl Course {
    pub(super) fn new(wanted: Target) -> Self {
        Self { wanted, tried: Tried::Fine }
    }

    pub(super) fn target(&self) -> &Target {
        match &self.tried {
            Tried::Rejected { before, .. } => before,
            Tried::Fine | Tried::Again(_) => &self.wanted,
        }
    }

    pub(super) fn unapplied(&self) -> Option<&Unapplied> {
        match &self.tried {
            Tried::Again(why) | Tried::Rejected { why, .. } => Some(why),
            Tried::Fine => None,
        }
    }

    /// Returns the reason if it is new.
    pub(super) fn reject(
        &mut self,
        why: Unapplied,
        before: Target,
        again_at: Option<Instant>,
    ) -> Option<Unapplied> {
        let news = (self.unapplied() != Some(&why)).then(|| why.clone());
        self.tried = Tried::Rejected { why, before, again_at };
        news
    }

    pub(super) fn try_again(&mut self) {
        if let Tried::Rejected { why, .. } = &self.tried {
            self.tried = Tried::Again(why.clone());
        }
    }
}

impl Intent {
    pub(super) fn course(&self) -> Option<&Course> {
        match self {
            Self::Run(course) | Self::Stopped(course) => Some(course),
            Self::Nothing | Self::Disabled => None,
        }
    }

    pub(super) fn course_mut(&mut self) -> Option<&mut Course> {
        match self {
            Self::Run(course) | Self::Stopped(course) => Some(course),
            Self::Nothing | Self::Disabled => None,
        }
    }
}

//! What the files and operators ask of an instance: the configuration to run, and whether it could be applied.

use tokio::time::Instant;

use crate::supervisor::managed::Target;

/// Why a new configuration did not replace the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::supervisor) struct ApplyFailure {
    /// The cause's stable name.
    pub code: &'static str,
    pub why: String,
    /// Not refused: a dependency does not answer, and the check is repeated automatically.
    pub is_waiting: bool,
}

/// What the files and operators ask for.
#[derive(Debug, Default)]
pub(in crate::supervisor::managed) enum Intent {
    /// No file, none that was ever valid, or its wallet belongs to another instance.
    #[default]
    Nothing,
    /// `enabled = false`.
    Disabled,
    Run(DesiredConfig),
    /// Stopped by an operator; a change of the configuration starts it again.
    Stopped(DesiredConfig),
}

/// The configuration of the file, and whether it could be applied.
#[derive(Debug)]
pub(in crate::supervisor::managed) struct DesiredConfig {
    /// The configuration of the file.
    pub(super) desired: Target,
    pub(super) status: ApplyStatus,
}

#[derive(Debug)]
pub(super) enum ApplyStatus {
    /// No objection is known.
    NoObjection,
    /// It could not be applied, and is tried again now.
    Retrying(ApplyFailure),
    /// It could not be applied, and the previous one runs in its place. Tried again at this time; `None`:
    /// only on request.
    Rejected { why: ApplyFailure, fallback: Target, retry_at: Option<Instant> },
}

impl DesiredConfig {
    pub(super) fn new(desired: Target) -> Self {
        Self { desired, status: ApplyStatus::NoObjection }
    }

    pub(super) fn target(&self) -> &Target {
        match &self.status {
            ApplyStatus::Rejected { fallback: before, .. } => before,
            ApplyStatus::NoObjection | ApplyStatus::Retrying(_) => &self.desired,
        }
    }

    pub(super) fn apply_failure(&self) -> Option<&ApplyFailure> {
        match &self.status {
            ApplyStatus::Retrying(why) | ApplyStatus::Rejected { why, .. } => Some(why),
            ApplyStatus::NoObjection => None,
        }
    }

    /// Returns the reason if it is new.
    pub(super) fn reject(
        &mut self,
        why: ApplyFailure,
        before: Target,
        retry_at: Option<Instant>,
    ) -> Option<ApplyFailure> {
        let news = (self.apply_failure() != Some(&why)).then(|| why.clone());
        self.status = ApplyStatus::Rejected { why, fallback: before, retry_at };
        news
    }

    pub(super) fn retry(&mut self) {
        if let ApplyStatus::Rejected { why, .. } = &self.status {
            self.status = ApplyStatus::Retrying(why.clone());
        }
    }
}

impl Intent {
    pub(super) fn config(&self) -> Option<&DesiredConfig> {
        match self {
            Self::Run(wanted) | Self::Stopped(wanted) => Some(wanted),
            Self::Nothing | Self::Disabled => None,
        }
    }

    pub(super) fn config_mut(&mut self) -> Option<&mut DesiredConfig> {
        match self {
            Self::Run(wanted) | Self::Stopped(wanted) => Some(wanted),
            Self::Nothing | Self::Disabled => None,
        }
    }
}

//! Output of the commands, and their exit status.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use super::text;
use crate::config::{Environment, Wallet};

/// The exit status of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Success,
    Failure,
    /// The command line is invalid.
    Usage,
    /// `EX_CONFIG` of sysexits.h: a restart does not help, fixing the configuration does.
    BadConfiguration,
}

impl ExitStatus {
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::BadConfiguration => 78,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(exit: ExitStatus) -> Self {
        Self::from(exit.code())
    }
}

/// Returns whether results may use colours.
pub(super) fn colours(environment: &Environment) -> bool {
    io::stdout().is_terminal() && environment.get("NO_COLOR").is_none()
}

/// Describes the signer, never its key.
pub(super) fn describe_wallet(wallet: Option<&Wallet>) -> String {
    match wallet {
        Some(Wallet::PrivateKey(key)) => format!("private key, address {}", key.address()),
        Some(Wallet::AwsKms { key_id, .. }) => format!("AWS KMS, key {key_id}"),
        None => "none: it only observes".to_owned(),
    }
}

/// Writes a result to stdout and returns `ending`. A reader that closes the pipe early (`list |
/// head -1`) is no failure.
pub(super) fn print(text: &str, ending: ExitStatus) -> ExitStatus {
    match write_stdout(text) {
        Ok(()) => ending,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ending,
        Err(error) => {
            print_error(format_args!("cannot write to stdout: {error}"));
            ExitStatus::Failure
        }
    }
}

pub(super) fn write_stdout(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes lines to stderr. A closed stream is ignored.
pub(super) fn print_error(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{}", text::printable(&text.to_string()));
}

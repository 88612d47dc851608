//! Why an instance cannot be built or failed: typed causes, turned into text where they are shown.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::task::JoinError;

use super::genesis::Undecided;
use crate::{
    chain::{rpc_error::RpcError, wallet::WalletError},
    contracts::pinned_reads::HostChainError,
    domain::{Address, LedgerError, SigningDomain, UntrustedText},
    flow::{
        ciphertexts::UnusableUrl,
        kms_core::{CoreError, EndpointError},
    },
    journal::{JournalError, OpenError, StoreError},
    net::tls::CaFileError,
};

/// Why the Core cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoreProblem {
    #[error("it says that it is not serving")]
    NotServing,
    #[error(transparent)]
    Unanswered(#[from] CoreError),
}

impl CoreProblem {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::NotServing => "not_serving",
            Self::Unanswered(error) => error.code(),
        }
    }
}

/// Why a dependency cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unready {
    #[error("{0}; correct chain_id or gateway_url")]
    WrongChain(#[source] RpcError),
    #[error("{0}; correct ethereum_chain_id or ethereum_url")]
    WrongEthereum(#[source] RpcError),
    #[error(transparent)]
    Gateway(RpcError),
    #[error(transparent)]
    Wallet(#[from] WalletError),
    #[error(
        "the contract at {} signs under {deployed}; the configuration says {configured}; correct {correct}",
        configured.verifying_contract
    )]
    OtherDomain {
        deployed: Box<SigningDomain>,
        configured: Box<SigningDomain>,
        /// The keys that may be wrong.
        correct: &'static str,
    },
    #[error("the contract at {address} calls itself {version}: correct {key}")]
    AnotherContract {
        address: Address,
        version: UntrustedText,
        /// The configuration key of its address.
        key: &'static str,
    },
    /// A running instance waits for its contract, but is not replaced by one that has none.
    #[error("there is no code at {address}: correct decryption_address, unless it comes yet")]
    NoContract { address: Address },
    /// Which chain of the id is meant cannot be decided from nodes and journals.
    #[error(transparent)]
    Undecided(#[from] Undecided),
    #[error(transparent)]
    Core(#[from] CoreProblem),
    /// A host chain contradicts the configuration. One that does not answer is waited for by the requests
    /// that need it.
    #[error("{}", of_host_chain(.0))]
    HostChain(#[source] Box<HostChainError>),
    #[error(
        "looking for journals in {}: {cause}; check the state directory (KMS_CONNECTOR_STATE_DIR or \
         --state-dir), its owner and its mode",
        dir.display()
    )]
    Directory {
        dir: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(
        "the file system of {} does not answer (a network mount that hangs?): fix it, the instance goes on \
         by itself",
        dir.display()
    )]
    DiskTimedOut { dir: PathBuf },
    #[error("the process is ending")]
    Ending,
}

impl Unready {
    /// Returns whether this is a contradiction, which only another configuration resolves.
    pub(super) fn is_contradiction(&self) -> bool {
        match self {
            Self::WrongChain(_)
            | Self::WrongEthereum(_)
            | Self::OtherDomain { .. }
            | Self::AnotherContract { .. } => true,
            Self::HostChain(error) => error.is_contradiction(),
            Self::Wallet(error) => matches!(
                error,
                WalletError::UnsuitableKey { .. }
                    | WalletError::NoRegion
                    | WalletError::InvalidPrivateKey
            ),
            Self::Gateway(_)
            | Self::NoContract { .. }
            | Self::Undecided(_)
            | Self::Core(_)
            | Self::Directory { .. }
            | Self::DiskTimedOut { .. }
            | Self::Ending => false,
        }
    }

    /// Stable code for logs and metrics.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::WrongChain(error) | Self::WrongEthereum(error) | Self::Gateway(error) => {
                error.code()
            }
            Self::Wallet(error) => error.code(),
            Self::Core(error) => error.code(),
            Self::HostChain(error) => error.code(),
            Self::OtherDomain { .. } => "signing_domain",
            Self::AnotherContract { .. } => "another_contract",
            Self::NoContract { .. } => "no_contract",
            Self::Undecided(why) => why.code(),
            Self::Directory { .. } => "state_directory",
            Self::DiskTimedOut { .. } => "disk_late",
            Self::Ending => "ending",
        }
    }
}

/// The error, with what to correct where it does not name that.
fn of_host_chain(error: &HostChainError) -> String {
    let HostChainError::WrongChain { .. } = error else { return error.to_string() };
    format!(
        "{error}; correct chain_id, url or fallback_urls of that [[host_chains]] entry, or the ethereum_* \
         keys"
    )
}

impl From<RpcError> for Unready {
    fn from(error: RpcError) -> Self {
        if let RpcError::WrongChain { .. } = error {
            return Self::WrongChain(error);
        }
        Self::Gateway(error)
    }
}

/// Why an instance cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A dependency contradicts the configuration.
    #[error(transparent)]
    Outside(#[from] Unready),
    #[error(transparent)]
    Roots(#[from] CaFileError),
    #[error(transparent)]
    Core(#[from] EndpointError),
    #[error("s3_config: {0}")]
    Fallback(#[from] UnusableUrl),
    /// The error without its URL, which may contain a key.
    #[error(transparent)]
    Http(reqwest::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("opening the journal: {0}")]
    Opening(#[from] JoinError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the process is ending")]
    Ending,
}

impl From<reqwest::Error> for BuildError {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error.without_url())
    }
}

impl BuildError {
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Outside(error) => error.code(),
            Self::Roots(_) => "ca_file",
            Self::Core(_) => "core_endpoint",
            Self::Fallback(_) => "fallback_url",
            Self::Http(_) => "http_client",
            Self::Open(error) => error.code(),
            Self::Journal(error) => error.code(),
            Self::Ledger(error) => error.code(),
            Self::Opening(_) => "journal_opening",
            Self::Ending => "ending",
        }
    }

    /// Returns whether retrying unchanged cannot help.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Outside(_) | Self::Roots(_) | Self::Core(_) | Self::Fallback(_) => true,
            Self::Open(error) => error.needs_rebuild(),
            Self::Http(_)
            | Self::Opening(_)
            | Self::Journal(_)
            | Self::Ledger(_)
            | Self::Ending => false,
        }
    }
}

/// What ended an instance that was not asked to stop.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The chain is not the journal's chain.
    #[error(transparent)]
    Chain(#[from] RpcError),
    /// The journal was found damaged.
    #[error(transparent)]
    Damaged(#[from] Arc<StoreError>),
    /// The damaged journal was set aside, or could not be.
    #[error(transparent)]
    SetAside(#[from] OpenError),
    #[error("it ended without being asked to")]
    Untold,
    #[error("it did not end and was dropped")]
    Dropped,
}

impl Failure {
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Build(error) => error.code(),
            Self::Journal(error) => error.code(),
            Self::Ledger(error) => error.code(),
            Self::Chain(error) => error.code(),
            Self::Damaged(error) => error.code(),
            Self::SetAside(error) => error.code(),
            Self::Untold => "untold",
            Self::Dropped => "dropped",
        }
    }
}

/// For a task that ends only when it is stopped.
impl From<std::convert::Infallible> for Failure {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// Why a configuration should not replace the running one.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("{}", of(on, cause))]
    Outside {
        on: String,
        #[source]
        cause: Unready,
    },
    #[error("no answer in {0:?}")]
    TimedOut(Duration),
    #[error("the check panicked")]
    Panicked,
}

impl PreflightError {
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Build(error) => error.code(),
            Self::Outside { cause, .. } => cause.code(),
            Self::TimedOut(_) => "check_late",
            Self::Panicked => "check_panicked",
        }
    }

    /// Returns whether it contradicts its environment. Otherwise it is unknown whether it could run.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Build(error) => error.is_refusal(),
            Self::Outside { cause, .. } => cause.is_contradiction(),
            Self::TimedOut(_) | Self::Panicked => false,
        }
    }
}

/// A contradiction names its dependency in its own text.
fn of(on: &str, cause: &Unready) -> String {
    if cause.is_contradiction() { cause.to_string() } else { format!("{on}: {cause}") }
}

/// Why no journal was rebuilt. The old one is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("{on}: {cause}{}", if cause.is_contradiction() { "" } else { UNCHANGED })]
    Outside {
        on: String,
        #[source]
        cause: Unready,
    },
    #[error("{on}: no answer in {limit:?}{UNCHANGED}")]
    TimedOut { on: String, limit: Duration },
    #[error("the chain has no block {from} yet, its last one is {head}{UNCHANGED}")]
    NoSuchBlock { from: u64, head: u64 },
    #[error("the configuration reads no chain {chain}{UNCHANGED}")]
    NoSuchChain { chain: u64 },
    #[error(transparent)]
    Journal(#[from] OpenError),
}

const UNCHANGED: &str = "; nothing was changed";

impl RebuildError {
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Build(error) => error.code(),
            Self::Outside { cause, .. } => cause.code(),
            Self::Journal(error) => error.code(),
            Self::TimedOut { .. } => "rebuild_late",
            Self::NoSuchBlock { .. } => "no_such_block",
            Self::NoSuchChain { .. } => "no_such_chain",
        }
    }

    /// Returns whether only another configuration helps.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Build(error) => error.is_refusal(),
            Self::Outside { cause, .. } => cause.is_contradiction(),
            Self::TimedOut { .. }
            | Self::NoSuchBlock { .. }
            | Self::NoSuchChain { .. }
            | Self::Journal(_) => false,
        }
    }
}

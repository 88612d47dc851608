//! Holds: why a request is set aside, and what an operator can do about each reason.

use std::fmt;

use super::stable_words::stable_words;

/// Why a request is set aside that only time or an operator can fix. Not terminal: retried slowly, and
/// at once after a restart or reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub reason: HoldReason,
    /// One sentence for the operator: what is wrong and what to do. Never a secret.
    pub detail: String,
}

impl Hold {
    pub fn new(reason: HoldReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.detail)
    }
}

stable_words! {
    /// Why a request is held. The names are stable: logs, metrics and the journal use them.
    pub enum HoldReason;

    /// The contract or the event is of a generation that this connector cannot serve.
    UnsupportedGeneration = "unsupported_generation",
    /// The nodes tell of an older contract than has stood there.
    ContractWentBack = "contract_went_back",
    /// An FHE type that this connector does not know.
    UnsupportedType = "unsupported_type",
    /// The Core signed with another key than the one registered for this node.
    SignerMismatch = "signer_mismatch",
    /// Its event is malformed, and not every gateway node has confirmed it.
    Unconfirmed = "unconfirmed",
    /// Two events of its transaction ask for different things under its id, or too many are shown to tell.
    EventsDisagree = "events_disagree",
    /// The Core's answer is invalid (empty signature, wrong id, undecodable).
    InvalidAnswer = "invalid_answer",
    /// The wallet is not a registered KMS transaction sender.
    WalletNotRegistered = "wallet_not_registered",
    /// The Core's signer is not registered with the contract.
    SignerNotRegistered = "signer_not_registered",
    /// The Core is not that of the wallet's KMS node, if the wallet has one.
    WalletCoreMismatch = "wallet_core_mismatch",
    /// The wallet cannot pay for gas.
    NoFunds = "no_funds",
    /// Another program sends from the wallet.
    WalletUsedElsewhere = "wallet_used_elsewhere",
    /// The chain's base fee is above `max_fee_per_gas_gwei`, or Ethereum's above
    /// `ethereum_max_fee_per_gas_gwei`.
    FeeCap = "fee_cap",
    /// The bucket refuses access.
    AccessDenied = "access_denied",
    /// A host chain does not grant the decryption.
    AccessDeniedOnChain = "access_denied_on_chain",
    /// The newest block that a host chain's nodes show is too old.
    HostChainStale = "host_chain_stale",
    /// No node of a host chain, or too few of them, give a usable answer.
    HostChainUnreachable = "host_chain_unreachable",
    /// Nodes of a host chain contradict each other.
    HostNodesDisagree = "host_nodes_disagree",
    /// The configuration lacks the host chain of a handle.
    HostChainNotConfigured = "host_chain_not_configured",
    /// The configuration lacks the chain where KMS contexts are checked.
    EthereumNotConfigured = "ethereum_not_configured",
    /// The KMS context that it names is not in force.
    ContextUnknown = "context_unknown",
    /// The epoch that it names is not in force.
    EpochUnknown = "epoch_unknown",
    /// The user's signature is not valid yet.
    NotYetValid = "not_yet_valid",
    /// No gateway node shows its transaction, which contains the user's signature.
    NoTransaction = "no_transaction",
    /// A ciphertext is larger than the protocol allows.
    CiphertextTooLarge = "ciphertext_too_large",
    /// Too few coprocessors attest the same about a ciphertext.
    NoAttestationConsensus = "no_attestation_consensus",
    /// The Core does not know the key.
    UnknownKey = "unknown_key",
    /// The Core does not know the KMS context, or the epoch, that the request names.
    CoreLacksContext = "core_lacks_context",
    /// The Core refuses the request.
    CoreRefused = "core_refused",
    /// The Core failed on the request.
    CoreFailed = "core_failed",
    /// The Core failed on the request and repeats that until it is restarted.
    CoreStuck = "core_stuck",
    /// The Core has aborted a key operation that the contract still wants.
    CoreAborted = "core_aborted",
    /// The Core reports that it has or accepts the request, and then that it does not know it.
    CoreForgets = "core_forgets",
    /// The Core accepted the request and gave no answer within the timeout.
    CoreSilent = "core_silent",
    /// The Core answers another request with the same id, which has left the chain.
    StaleAnswer = "stale_answer",
    /// It was answered, and the answer's block has left the chain.
    AnswerDropped = "answer_dropped",
    /// It had ended without an answer, and an operator asked for a retry.
    RetryAsked = "retry_asked",
    /// The request or answer exceeds a message size limit.
    MessageTooLarge = "message_too_large",
    /// The contract rejects the answer for another reason.
    ContractRejected = "contract_rejected",
    /// The contract that asks for key operations emitted an event that this version does not serve.
    UnsupportedEvent = "unsupported_event",
    /// The configuration lacks the contract that asks for key operations.
    KeyManagementNotConfigured = "key_management_not_configured",
    /// `key_management = "hold"`: an operator has to approve a key operation.
    OperatorApproval = "operator_approval",
    /// This node has not finished the preparation of the key.
    WaitsForPreparation = "waits_for_preparation",
    /// The Core was not told of the epoch's KMS context yet.
    WaitsForContext = "waits_for_context",
    /// What a KMS context is, or was made in it, cannot be proven.
    ContextUnproven = "context_unproven",
    /// No node has the state of the block whose keys are shared anew.
    ArchiveNodeNeeded = "archive_node_needed",
    /// The Core has an epoch and has lost its result.
    EpochResultLost = "epoch_result_lost",
    /// The Core does not know the preparation of the key.
    CoreLacksPreparation = "core_lacks_preparation",
    /// The Core is of another age than the contract that asks for a key.
    CoreVersion = "core_version",
    /// It is not known which kind of key the nodes make.
    KeyRepresentation = "key_representation",
    /// Another node has answered a key operation with another result.
    ResultDiffers = "result_differs",
    /// Its problem is transient but lasts, and other requests needed its permit.
    NoProgress = "no_progress",
    /// The walk of this request panicked three times.
    Panicked = "panicked",
}

impl HoldReason {
    /// The remedy for a reason by its name, which another version may have written.
    #[must_use]
    pub fn remedy_of(name: &str) -> &'static str {
        Self::from_name(name)
            .map_or("see `kms-connector explain` of the version that held it", Self::remedy)
    }

    /// The remedy in short: the reason's section in config/troubleshooting.md begins with this text and
    /// says more.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::UnsupportedGeneration | Self::UnsupportedType | Self::UnsupportedEvent => {
                "upgrade the connector"
            }
            Self::ContractWentBack => "name other gateway nodes; its detail says the rest",
            Self::KeyManagementNotConfigured => "set the addresses that its detail names",
            Self::OperatorApproval => "approve it: `kms-connector requests approve ID`",
            Self::WaitsForPreparation => {
                "nothing: it is tried again once the preparation is answered"
            }
            Self::WaitsForContext => "nothing: it is tried again once the Core knows the context",
            Self::ContextUnproven => {
                "compare what Ethereum's nodes show of that KMS context with the other operators"
            }
            Self::ArchiveNodeNeeded => {
                "name an Ethereum node that keeps old state in `ethereum_fallback_urls`"
            }
            Self::EpochResultLost => {
                "tell the other operators: only another epoch helps, which ProtocolConfig's owner opens"
            }
            Self::CoreLacksPreparation => {
                "look at the Core's log: a Core that was restarted has lost its preparations"
            }
            Self::CoreVersion => "run the Core that goes with these contracts",
            Self::CoreAborted => {
                "look at the Core's log for who aborted it; if the contract should, ask its owner"
            }
            Self::KeyRepresentation => {
                "agree on `key_representation` with the other operators, and set it"
            }
            Self::ResultDiffers => "compare the digests in its detail with the other operators",
            Self::SignerMismatch => "connect the right Core, or have its signer registered",
            Self::InvalidAnswer => "compare the versions of Core and contract",
            Self::WalletNotRegistered => "have the owner of GatewayConfig register the wallet",
            Self::SignerNotRegistered => {
                "have the owner of GatewayConfig register the Core's signer, or connect the right Core"
            }
            Self::WalletCoreMismatch => {
                "pair wallet and Core as registered; `check` says whether the wallet is"
            }
            Self::NoFunds => "fund the wallet",
            Self::WalletUsedElsewhere => {
                "stop the other sender of this wallet, then restart the instance"
            }
            Self::FeeCap => "wait until the fee falls, or raise the key that its detail names",
            Self::AccessDenied => {
                "follow its detail: it has the code of S3 or AWS KMS, and what to do about that"
            }
            Self::AccessDeniedOnChain => {
                "nothing: it is tried again until the chain grants it; its detail names the call and its \
                 answer"
            }
            Self::HostChainStale => {
                "look at the nodes of that host chain: they are behind, or the chain stands still"
            }
            Self::HostChainUnreachable => "look at the nodes of that host chain",
            Self::HostNodesDisagree => "find out which of the named nodes is wrong, and replace it",
            Self::HostChainNotConfigured => "add a `[[host_chains]]` entry for that chain",
            Self::EthereumNotConfigured => {
                "set `ethereum_url`, `ethereum_chain_id` and `protocol_config_address`"
            }
            Self::ContextUnknown | Self::EpochUnknown => {
                "nothing, if it is about to be activated; else check the addresses in the configuration"
            }
            Self::NotYetValid => "nothing: it is tried again",
            Self::NoTransaction => {
                "nothing: it is read again; if that lasts, ask the operators of the gateway nodes"
            }
            Self::CiphertextTooLarge => "ask the operator of the coprocessor that stored it",
            Self::NoAttestationConsensus => {
                "have the coprocessors that its detail names correct what they attest"
            }
            Self::UnknownKey => "connect the right Core, or wait until its key is generated",
            Self::CoreLacksContext => "tell the Core of the KMS context, or connect the right Core",
            Self::CoreRefused => "look at the Core's log; `check` says if no Core is there",
            Self::CoreFailed | Self::CoreSilent => "look at the Core's log",
            Self::CoreStuck => {
                "look at the Core's log for the cause and fix it, then restart the Core"
            }
            Self::CoreForgets => "restart the Core, or give each Core an address of its own",
            Self::Unconfirmed => {
                "nothing: it is read again; if nodes differ for long, ask their operators"
            }
            Self::EventsDisagree => {
                "nothing: it is looked at again; if it stays so, compare what the gateway nodes show of its \
                 transaction"
            }
            Self::StaleAnswer => {
                "restart the Core, or wait until later requests have pushed the id out"
            }
            Self::AnswerDropped => "nothing: it is sent again",
            Self::RetryAsked => "nothing: it is tried at once",
            Self::MessageTooLarge => {
                "raise the limit that its detail names; at the Core it is `grpc_max_message_size`"
            }
            Self::ContractRejected => "look at the contract's error in its detail",
            Self::NoProgress => "nothing: it is tried again; its detail names what it waits for",
            Self::Panicked => "report the log of this request",
        }
    }
}

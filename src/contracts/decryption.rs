//! ADAPTER: a contract that emits requests. Knows its events, response functions and versions; reads the
//! chain through a provider.
//!
//! That is the Decryption contract ([`RequestContract::new`]), the `KMSGeneration` contract beside it
//! ([`RequestContract::key_generation`]), and `ProtocolConfig` beside that one
//! ([`RequestContract::protocol_config`]): the requests of all are read, located, confirmed and answered in the same
//! way.

mod agreement;
mod deployments;
mod votes;
mod wallet_answers;
mod id_probe;
mod location;
mod request_transaction;
mod bound_context;
mod witness;

pub use self::{
    agreement::{Agreement, EndClaim},
    bound_context::CurrentContext,
    deployments::{DeploymentSupport, ToldSupport},
    id_probe::{IdProbe, IdStatus},
    location::{ORPHANED_AFTER, RequestLocation},
    votes::Votes,
    wallet_answers::{AnswerQuery, AnswerStatus},
    witness::WitnessVerdict,
};
use crate::{
    chain::{
        reader::{BlockId, ChainReader, EthCall, LogFilter, LogRange, NodeId},
        rpc_error::RpcError,
    },
    contracts::abi::{self, DecodeError, View},
    domain::{Address, Answer, B256, Bytes, Event, Kind, Request, RequestSource, SigningDomain},
};

/// Addresses of a deployment's two contracts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The chain that they are on.
    pub chain_id: u64,
    pub decryption: Address,
    pub gateway_config: Address,
}

/// The adapter of one contract that emits requests.
#[derive(Clone, Debug)]
pub struct RequestContract<P> {
    provider: P,
    addresses: Addresses,
    emitter: Emitter,
    topics: std::sync::Arc<[B256]>,
    witness_cache: witness::WitnessCache,
    uncontested: agreement::UncontestedClaims,
    deployment_doubt: deployments::DeploymentDoubt,
    generations: deployments::KnownGenerations,
}

/// The contract whose events and functions are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Emitter {
    Decryption,
    /// At this address, like the next one.
    KeyGeneration(Address),
    ProtocolConfig(Address),
}

impl Emitter {
    /// Whether this contract asks for such a thing. An event that nobody knows is of those that are read whole.
    fn asks_for(self, kind: Kind) -> bool {
        match self {
            Self::Decryption => !kind.is_key_operation(),
            Self::KeyGeneration(_) => kind.is_key_operation() && !kind.is_lifecycle(),
            Self::ProtocolConfig(_) => kind.is_lifecycle() || kind == Kind::UnsupportedEvent,
        }
    }
}

/// Why a view returned no value.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ViewError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Undecodable(#[from] abi::ViewDecodeError),
}

impl ViewError {
    /// Stable, for throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rpc(error) => error.code(),
            Self::Undecodable(error) => error.code(),
        }
    }

    /// Whether the contract itself answered: it has no such function, or refuses. Not an outage.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Rpc(error) => error.revert_data().is_some(),
            Self::Undecodable(_) => true,
        }
    }
}

/// Calls a view of the contract at `to`.
pub(super) async fn call_view<T, P: ChainReader>(
    provider: &P,
    to: Address,
    view: &View<T>,
) -> Result<T, ViewError> {
    call_view_at(provider, to, view, BlockId::Latest).await
}

/// The same as of this block.
async fn call_view_at<T, P: ChainReader>(
    provider: &P,
    to: Address,
    view: &View<T>,
    block: BlockId,
) -> Result<T, ViewError> {
    let call = EthCall::view(to, view.calldata());
    let returned = provider.call(&call, block).await?;
    Ok(view.decode(&returned)?)
}

impl<P: ChainReader> RequestContract<P> {
    pub fn new(provider: P, addresses: Addresses) -> Self {
        let (witness_cache, uncontested, deployment_doubt, generations) = Default::default();
        Self {
            provider,
            addresses,
            emitter: Emitter::Decryption,
            topics: abi::request_topics().into(),
            witness_cache,
            uncontested,
            deployment_doubt,
            generations,
        }
    }

    /// The adapter of the `KMSGeneration` contract at this address. Every event of it is read.
    #[must_use]
    pub fn key_generation(&self, at: Address) -> Self {
        let emitter = Emitter::KeyGeneration(at);
        Self { emitter, topics: [].into(), ..Self::new(self.provider.clone(), self.addresses) }
    }

    /// The adapter of the `ProtocolConfig` contract at this address. Every event of it is read.
    #[must_use]
    pub fn protocol_config(&self, at: Address) -> Self {
        Self { emitter: Emitter::ProtocolConfig(at), ..self.key_generation(at) }
    }

    pub fn provider(&self) -> &P {
        &self.provider
    }

    /// The same contract as seen by this node alone.
    #[must_use]
    pub fn for_node(&self, node: NodeId) -> Self {
        Self { provider: self.provider.for_node(node), ..self.clone() }
    }

    /// What names its requests.
    pub fn source(&self) -> RequestSource {
        let Addresses { chain_id, decryption: contract, .. } = self.addresses;
        RequestSource { chain_id, contract }
    }

    pub fn address(&self) -> Address {
        *self.emitting_address()
    }

    /// The contract's name, which is also that of its EIP-712 domain.
    pub fn name(&self) -> &'static str {
        match self.emitter {
            Emitter::Decryption => "Decryption",
            Emitter::KeyGeneration(_) => "KMSGeneration",
            Emitter::ProtocolConfig(_) => "ProtocolConfig",
        }
    }

    fn emitting_address(&self) -> &Address {
        match &self.emitter {
            Emitter::Decryption => &self.addresses.decryption,
            Emitter::KeyGeneration(at) | Emitter::ProtocolConfig(at) => at,
        }
    }

    /// Everything this adapter reads: all request events of all generations, and the proxy's upgrade.
    pub fn filter(&self) -> LogFilter<'_> {
        self.of(&self.topics, &[])
    }

    fn of<'t>(&'t self, first: &'t [B256], second: &'t [B256]) -> LogFilter<'t> {
        LogFilter {
            addresses: std::slice::from_ref(self.emitting_address()),
            topic0: first,
            topic1: second,
        }
    }

    /// Logs of a range that say that enough nodes have answered a request.
    pub async fn consensus_events(&self, from: u64, to: u64) -> Result<Vec<Event>, RpcError> {
        let range = LogRange::Numbers { from, to };
        let logs = self.provider.logs(self.of(&abi::CONSENSUS_TOPICS, &[]), range).await?;
        Ok(logs.value)
    }

    pub fn is_upgrade(&self, event: &Event) -> bool {
        event.topics.first() == Some(&abi::UPGRADED_TOPIC)
    }

    /// Whether the event is known and asks for nothing.
    pub fn is_notice(&self, event: &Event) -> bool {
        self.emitter != Emitter::Decryption && abi::is_notice(event)
    }

    /// An event of another contract is refused, whichever of them this is.
    pub fn decode(&self, event: &Event) -> Result<Request, DecodeError> {
        let request = abi::decode(self.source(), event)?;
        let is_ours = self.emitter.asks_for(request.kind());
        if is_ours { Ok(request) } else { Err(DecodeError::of_other_contract(event)) }
    }

    /// The calldata that delivers `answer`.
    pub fn response(&self, request: &Request, answer: &Answer) -> Bytes {
        abi::response_call(request, answer)
    }

    /// Whether there is a contract at the address.
    pub async fn is_deployed(&self) -> Result<bool, RpcError> {
        Ok(self.provider.code_size(self.address()).await? > 0)
    }

    /// The domain that the Core signs under, as the contract reports it. `None`: it does not.
    pub async fn signing_domain(&self) -> Result<Option<SigningDomain>, RpcError> {
        self.optional_view(self.address(), abi::signing_domain()).await
    }

    async fn optional_view<T>(&self, at: Address, of: View<T>) -> Result<Option<T>, RpcError> {
        self.optional_view_in(at, of, BlockId::Latest).await
    }

    async fn optional_view_in<T>(
        &self,
        contract: Address,
        of: View<T>,
        block: BlockId,
    ) -> Result<Option<T>, RpcError> {
        match call_view_at(&self.provider, contract, &of, block).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_answer() => Ok(None),
            Err(ViewError::Rpc(error)) => Err(error),
            Err(ViewError::Undecodable(_)) => Ok(None),
        }
    }
}

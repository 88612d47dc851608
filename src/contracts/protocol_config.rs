//! ADAPTER: the `ProtocolConfig` contract, which tells KMS contexts and epochs from G14 on.
//!
//! That a context or an epoch is in force counts once it is final; that it was destroyed counts at once.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    abi::{self, View, ViewDecodeError, ViewProblem, acl, protocol_config},
    pinned_reads::{HostChainError, HostChainState, PinnedReader, PinnedReplies, Reply},
};
use crate::{
    chain::reader::{ChainReader, EthCall, ReadAt, StateRead},
    domain::{Address, U256},
};

/// The top byte of context ids (gateway-abi 2); the rest is a counter from 1 on.
const CONTEXT_TAG: u8 = 7;
const TAG_SHIFT: usize = 248;
/// For messages.
const CONTRACT: &str = "ProtocolConfig";
const KEY: &str = "protocol_config_address";

/// What the contract says of a context, and of an epoch in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextStatus {
    /// In force, final, and not destroyed.
    Valid,
    /// Unknown, pending, or not final yet: time may help.
    Unknown,
    /// For ever.
    Destroyed,
    /// The context is valid; the epoch is unknown, pending, or not final yet.
    EpochUnknown,
    /// It was in force and is not any more, in a context that is.
    EpochDestroyed,
}

/// What the contract tells of a wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The current one. 0: the contract does not tell.
    pub context: U256,
    /// The signer of the wallet's node in it. `None`: the wallet is not in it.
    pub signer: Option<Address>,
}

/// The adapter. Clones share the bound on calls.
#[derive(Clone, Debug)]
pub struct ProtocolConfig<P> {
    reads: PinnedReader<P>,
    address: Address,
    state: Arc<Mutex<HostChainState>>,
}

/// The contract's answers. `None`: it has no such function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    valid: bool,
    valid_finally: bool,
    /// From v0.2.0 on.
    live: Option<bool>,
    /// From v0.2.0 on.
    counter: Option<U256>,
    /// `None`: no epoch was asked about, or the contract knows none.
    epoch: Option<EpochTold>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EpochTold {
    valid: bool,
    valid_finally: bool,
}

impl<P: ChainReader> ProtocolConfig<P> {
    #[must_use]
    pub fn new(reads: PinnedReader<P>, address: Address) -> Self {
        Self { reads, address, state: Arc::default() }
    }

    /// What was last seen of the chain.
    #[must_use]
    pub fn state(&self) -> HostChainState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the contract once: what it is, and whether the chain answers.
    pub async fn look(&self) -> Result<(), HostChainError> {
        let looked = self.look_unnoted().await;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match looked {
            Ok(seen) => *state = seen,
            Err(error) => {
                state.error = Some(error.clone());
                return Err(error);
            }
        }
        Ok(())
    }

    async fn look_unnoted(&self) -> Result<HostChainState, HostChainError> {
        let view = acl::version();
        let replies = self.reads.read(&[(self.call(&view), ReadAt::Pinned)]).await?;
        let version = self.pinned(&replies, 0, &view)?;
        Ok(HostChainState {
            version: version.map(Into::into),
            error: None,
            newest: Some((replies.block.number, replies.timestamp)),
        })
    }

    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    #[must_use]
    pub fn reads(&self) -> &PinnedReader<P> {
        &self.reads
    }

    /// The same contract, read as two of its endpoints agree ([`PinnedReader::of_two`]).
    #[must_use]
    pub fn of_two(&self) -> Option<Self> {
        Some(Self { reads: self.reads.of_two()?, ..self.clone() })
    }

    /// Whether this context, and this epoch in it, is in force.
    pub async fn context_and_epoch(
        &self,
        context: U256,
        epoch: Option<U256>,
    ) -> Result<ContextStatus, HostChainError> {
        let valid = protocol_config::is_valid_context(context);
        let live = protocol_config::is_live_context(context);
        let counter = protocol_config::context_id_counter();
        let mut reads = vec![
            (self.call(&valid), ReadAt::Pinned),
            (self.call(&valid), ReadAt::Finalized),
            (self.call(&live), ReadAt::Pinned),
            (self.call(&counter), ReadAt::Pinned),
        ];
        let epoch = epoch.map(|epoch| protocol_config::is_valid_epoch(context, epoch));
        if let Some(epoch) = &epoch {
            reads.push((self.call(epoch), ReadAt::Pinned));
            reads.push((self.call(epoch), ReadAt::Finalized));
        }
        let replies = self.reads.read(&reads).await?;
        let told = Told {
            valid: self.pinned(&replies, 0, &valid)?.unwrap_or(false),
            valid_finally: self.finalized(&replies, 1, &valid)?,
            live: self.pinned(&replies, 2, &live)?,
            counter: self.pinned(&replies, 3, &counter)?,
            epoch: match &epoch {
                None => None,
                Some(epoch) => match self.pinned(&replies, 4, epoch)? {
                    None => None,
                    Some(valid) => {
                        let valid_finally = self.finalized(&replies, 5, epoch)?;
                        Some(EpochTold { valid, valid_finally })
                    }
                },
            },
        };
        Ok(status(context, epoch.is_some(), told))
    }

    /// The signer of the KMS node with this wallet in a context, whatever the context's state. Empty: the wallet is
    /// none of its transaction senders, or the contract does not speak of it.
    pub async fn core_signers(
        &self,
        context: U256,
        wallet: Address,
    ) -> Result<Vec<Address>, HostChainError> {
        let view = abi::kms_node_for_context(context, wallet);
        let replies = self.reads.read(&[(self.call(&view), ReadAt::Pinned)]).await?;
        let node = self.pinned(&replies, 0, &view)?.flatten();
        Ok(node.map(|node| node.signer).into_iter().collect())
    }

    /// The current context, and whether this wallet is a transaction sender of it.
    pub async fn registered(&self, wallet: Address) -> Result<Registered, HostChainError> {
        let view = abi::current_kms_context_id();
        let replies = self.reads.read(&[(self.call(&view), ReadAt::Pinned)]).await?;
        let context = self.pinned(&replies, 0, &view)?.unwrap_or_default();
        let signer = self.core_signers(context, wallet).await?.first().copied();
        Ok(Registered { context, signer })
    }

    fn call<T>(&self, view: &View<T>) -> StateRead {
        StateRead::Call(EthCall::view(self.address, view.calldata()))
    }

    /// `None`: the contract has no such function.
    fn pinned<T>(
        &self,
        replies: &PinnedReplies,
        index: usize,
        view: &View<T>,
    ) -> Result<Option<T>, HostChainError> {
        let Some(Some(Reply::Returned(returned))) = replies.replies.get(index) else {
            return Ok(None);
        };
        view.decode(returned).map(Some).map_err(|source| self.problem(source))
    }

    /// Where the contract did not stand yet at that block, nothing was in force.
    fn finalized(
        &self,
        replies: &PinnedReplies,
        index: usize,
        view: &View<bool>,
    ) -> Result<bool, HostChainError> {
        match replies.replies.get(index) {
            Some(Some(Reply::Returned(returned))) if returned.is_empty() => Ok(false),
            Some(Some(Reply::Returned(returned))) => {
                view.decode(returned).map_err(|source| self.problem(source))
            }
            Some(Some(Reply::Reverted(_))) => Ok(false),
            Some(None) | None => Err(HostChainError::NoFinalizedBlock {
                chain_id: self.reads.options().chain_id,
                host: replies.hosts.join(", "),
            }),
        }
    }

    fn problem(&self, source: ViewDecodeError) -> HostChainError {
        let (chain_id, address) = (self.reads.options().chain_id, self.address);
        if source.problem == ViewProblem::Empty {
            return HostChainError::NoContract { chain_id, contract: CONTRACT, address, key: KEY };
        }
        HostChainError::Unreadable { chain_id, source }
    }
}

/// (f) A context is destroyed if it was defined once and is not live. Up to v0.1.0 (G13) the contract
/// tells neither, and a destroyed context is like an unknown one: held, and not refused. An epoch is
/// destroyed if it was in force at the final block and is not now: later than that nothing tells it
/// from an unknown one.
fn status(context: U256, asks_epoch: bool, told: Told) -> ContextStatus {
    let tag = U256::from(CONTEXT_TAG) << TAG_SHIFT;
    let was_defined = told.counter.is_some_and(|counter| context > tag && context <= counter);
    if was_defined && told.live == Some(false) {
        return ContextStatus::Destroyed;
    }
    if !(told.valid && told.valid_finally) {
        return ContextStatus::Unknown;
    }
    if !asks_epoch {
        return ContextStatus::Valid;
    }
    match told.epoch {
        Some(EpochTold { valid: true, valid_finally: true }) => ContextStatus::Valid,
        Some(EpochTold { valid: false, valid_finally: true }) => ContextStatus::EpochDestroyed,
        Some(EpochTold { valid_finally: false, .. }) | None => ContextStatus::EpochUnknown,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        chain::{
            fake_chain::{FakeChain, host::Told as Answer},
            reader::NodeId,
        },
        contracts::pinned_reads::{ChainEndpoint, PinnedOptions},
        domain::Bytes,
        time::clock::Clock,
    };

    fn id(number: u64) -> U256 {
        (U256::from(CONTEXT_TAG) << TAG_SHIFT) | U256::from(number)
    }

    /// A context of number 3 where 5 were defined.
    const IN_FORCE: Told =
        Told { valid: true, valid_finally: true, live: Some(true), counter: None, epoch: None };

    #[test]
    fn a_context_counts_when_final_and_ends_at_once() {
        let told = Told { counter: Some(id(5)), ..IN_FORCE };
        let of = |told| status(id(3), false, told);
        assert_eq!(of(told), ContextStatus::Valid);
        assert_eq!(of(Told { valid_finally: false, ..told }), ContextStatus::Unknown);
        // Live and not in force: pending, or older than the contract's upgrade.
        assert_eq!(of(Told { valid: false, ..told }), ContextStatus::Unknown);
        let destroyed = Told { valid: false, live: Some(false), ..told };
        assert_eq!(of(destroyed), ContextStatus::Destroyed);
        // Not defined yet, or no context's id at all.
        for other in [id(6), id(0), U256::ONE, U256::MAX] {
            let told = Told { valid_finally: false, ..destroyed };
            assert_eq!(status(other, false, told), ContextStatus::Unknown, "{other}");
        }
        // v0.1.0 tells neither.
        let old = Told { live: None, counter: None, valid: false, ..told };
        assert_eq!(of(old), ContextStatus::Unknown);
        assert_eq!(of(Told { valid: true, ..old }), ContextStatus::Valid);
    }

    #[test]
    fn an_epoch_is_judged_in_a_context_in_force() {
        let told = |valid, valid_finally| Told {
            counter: Some(id(5)),
            epoch: Some(EpochTold { valid, valid_finally }),
            ..IN_FORCE
        };
        let of = |told| status(id(3), true, told);
        assert_eq!(of(told(true, true)), ContextStatus::Valid);
        assert_eq!(of(told(true, false)), ContextStatus::EpochUnknown);
        assert_eq!(of(told(false, false)), ContextStatus::EpochUnknown);
        assert_eq!(of(told(false, true)), ContextStatus::EpochDestroyed);
        assert_eq!(of(Told { epoch: None, ..told(true, true) }), ContextStatus::EpochUnknown);
        let destroyed = Told { live: Some(false), valid: false, ..told(false, true) };
        assert_eq!(of(destroyed), ContextStatus::Destroyed);
    }

    const CONTRACT_AT: Address = Address::repeat_byte(0x9c);

    fn config(chain: &FakeChain) -> ProtocolConfig<FakeChain> {
        let options = PinnedOptions {
            chain_id: 1,
            agreement: 1,
            max_age: Duration::from_mins(2),
            deadline: Duration::from_secs(10),
            calls: 8,
            clock: Clock::Wall,
        };
        let endpoints = vec![ChainEndpoint::of(chain, NodeId(0))];
        ProtocolConfig::new(PinnedReader::new(options, endpoints), CONTRACT_AT)
    }

    #[tokio::test(start_paused = true)]
    async fn the_contract_is_read_at_two_blocks() {
        let chain = FakeChain::host(4, CONTRACT_AT, "ProtocolConfig v0.2.0");
        let (context, epoch) = (id(1), U256::from(8) << TAG_SHIFT | U256::ONE);
        let contracts = config(&chain);
        chain.answer(protocol_config::context_id_counter().calldata(), context);
        chain.answer(protocol_config::is_live_context(context).calldata(), true);
        let status = async |epoch| contracts.context_and_epoch(context, epoch).await;
        let error = status(None).await.unwrap_err();
        assert_eq!(error.code(), "host_chain_not_final", "{error}");
        chain.state().tagged = Some(2);
        assert_eq!(status(None).await.unwrap(), ContextStatus::Unknown);
        chain.answer(protocol_config::is_valid_context(context).calldata(), true);
        chain.answer(protocol_config::is_valid_epoch(context, epoch).calldata(), true);
        assert_eq!(status(None).await.unwrap(), ContextStatus::Unknown, "not final");
        chain.state().tagged = Some(4);
        assert_eq!(status(Some(epoch)).await.unwrap(), ContextStatus::Valid);
        assert_eq!(status(Some(epoch + U256::ONE)).await.unwrap(), ContextStatus::EpochUnknown);
        chain.mine_empty(1);
        chain.answer(protocol_config::is_valid_epoch(context, epoch).calldata(), false);
        assert_eq!(status(Some(epoch)).await.unwrap(), ContextStatus::EpochDestroyed);
        chain.answer(protocol_config::is_live_context(context).calldata(), false);
        chain.answer(protocol_config::is_valid_context(context).calldata(), false);
        assert_eq!(status(None).await.unwrap(), ContextStatus::Destroyed);
        // v0.1.0 has no such functions.
        let reverts = || Answer::Reverts(Bytes::new());
        for call in [
            protocol_config::is_live_context(context).calldata(),
            protocol_config::context_id_counter().calldata(),
            protocol_config::is_valid_epoch(context, epoch).calldata(),
        ] {
            chain.tell(CONTRACT_AT, call, reverts());
        }
        assert_eq!(status(None).await.unwrap(), ContextStatus::Unknown);
        chain.answer(protocol_config::is_valid_context(context).calldata(), true);
        assert_eq!(status(None).await.unwrap(), ContextStatus::Valid);
        assert_eq!(status(Some(epoch)).await.unwrap(), ContextStatus::EpochUnknown);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_without_code_is_told_with_its_key() {
        let chain = FakeChain::host(4, Address::repeat_byte(1), "ProtocolConfig v0.2.0");
        chain.state().tagged = Some(4);
        let error = config(&chain).context_and_epoch(id(1), None).await.unwrap_err();
        assert_eq!(error.code(), "host_chain_no_contract");
        assert!(error.to_string().contains("protocol_config_address"), "{error}");
    }
}

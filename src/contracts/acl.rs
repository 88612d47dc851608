//! ADAPTER: the ACL contracts of host chains: who may have a handle decrypted.
//!
//! All questions of a request to one chain are one message to each endpoint, pinned to one block
//! ([`pinned_reads`](super::pinned_reads)). Grants that cannot be taken back are asked at the finalized
//! block as well, in the same message: those may be remembered, as long as the contract stays what it
//! is ([`AclIdentity`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy::primitives::{keccak256, uint};
use tokio::time::Instant;
use tracing::info;

pub use super::pinned_reads::HostChainError;
use super::{
    abi::{ViewDecodeError, ViewProblem, acl},
    pinned_reads::{HostChainState, PinnedReader, PinnedReplies, Reply},
};
use crate::{
    chain::reader::{BlockId, ChainReader, EthCall, ReadAt, StateRead},
    domain::{Address, B256, BlockRef, Bytes, U256, UntrustedText},
};

/// EIP-1967: the slot where a proxy keeps the address of its implementation.
const IMPLEMENTATION_SLOT: U256 =
    uint!(0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc_U256);
/// An identity that was not confirmed for this long is not known any more.
const KNOWN_FOR: Duration = Duration::from_mins(1);
/// For messages.
const ACL: &str = "ACL";
const ACL_KEY: &str = "acl_address of [[host_chains]]";

/// A question to the contracts of a host chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AclQuestion {
    /// May anybody have the handle decrypted?
    AllowedForDecryption { handle: B256 },
    /// May the account use the handle?
    Allowed { handle: B256, account: Address },
    /// May the delegate have the delegator's handle decrypted, for this contract? Judged at the block's
    /// time.
    Delegated { delegator: Address, delegate: Address, contract: Address, handle: B256 },
    /// Before which time do signatures of the account have to begin to be void?
    InvalidatedBefore { account: Address },
    /// Does the smart account stand by the signature (ERC-1271)?
    ValidSignature { account: Address, digest: B256, signature: Bytes },
    /// Has the account code?
    CodeSize { account: Address },
}

/// The chain's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AclAnswer {
    Yes,
    No,
    /// Unix seconds.
    Time(U256),
    /// The contract was executed and gave no answer.
    Reverted,
}

/// Answers of a host chain, all at one block.
#[derive(Clone, Debug)]
pub struct PinnedAnswers {
    pub block: BlockRef,
    /// Of that block, in Unix seconds.
    pub timestamp: u64,
    /// The endpoints that gave them.
    pub hosts: Vec<String>,
    /// In the order of the questions.
    pub answers: Vec<AclAnswer>,
    /// The same at the block that the endpoints call finalized, for questions that may be cached.
    /// `None`: another question, or it is not known.
    pub at_finalized: Vec<Option<bool>>,
    /// What the contract was at that block, for the cache. `None`: not known, so nothing may be cached.
    pub identity: Option<AclIdentity>,
}

/// The chain and the code behind the ACL's address: a remembered grant is good only as long as this is
/// the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AclIdentity {
    pub chain_id: u64,
    /// Hash of block 0: a chain made anew is another one.
    pub genesis: B256,
    pub acl: Address,
    /// Hash of the proxy's implementation (zero without a proxy) and of the code at the address itself.
    pub implementation: B256,
}

/// What is known of the contract.
#[derive(Debug, Default)]
struct Known {
    contract: Option<KnownContract>,
    state: HostChainState,
}

/// The contract when it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KnownContract {
    identity: AclIdentity,
    implementation: Address,
    at: Instant,
}

/// One host chain. Clones share what is known and the bound on calls.
#[derive(Clone, Debug)]
pub struct HostChain<P> {
    reads: PinnedReader<P>,
    acl: Address,
    /// Of a smart account's judgement.
    erc1271_gas: u64,
    known: Arc<Mutex<Known>>,
}

impl AclQuestion {
    /// Whether a yes stays a yes as long as the contract is the same.
    fn is_lasting(&self) -> bool {
        matches!(self, Self::AllowedForDecryption { .. } | Self::Allowed { .. })
    }

    fn read(&self, acl_address: Address, gas: u64) -> StateRead {
        let call = |data| StateRead::Call(EthCall::view(acl_address, data));
        match self {
            Self::AllowedForDecryption { handle } => {
                call(acl::is_allowed_for_decryption(*handle).calldata())
            }
            Self::Allowed { handle, account } => {
                call(acl::is_allowed(*handle, *account).calldata())
            }
            Self::Delegated { delegator, delegate, contract, handle } => {
                call(acl::is_delegated(*delegator, *delegate, *contract, *handle).calldata())
            }
            Self::InvalidatedBefore { account } => {
                call(acl::signature_invalidated_before(*account).calldata())
            }
            Self::ValidSignature { account, digest, signature } => {
                let data = acl::is_valid_signature(*digest, signature.clone()).calldata();
                let call = EthCall { gas: Some(gas), ..EthCall::view(*account, data) };
                StateRead::Call(call)
            }
            Self::CodeSize { account } => StateRead::Code(*account),
        }
    }

    /// Decodes what came back. Nothing at all: there is no contract.
    fn answer(&self, reply: &Reply) -> Result<AclAnswer, ViewDecodeError> {
        let returned = match reply {
            Reply::Returned(returned) => returned,
            Reply::Reverted(_) => return Ok(AclAnswer::Reverted),
        };
        let yes_or_no = |said: bool| if said { AclAnswer::Yes } else { AclAnswer::No };
        match self {
            Self::AllowedForDecryption { handle } => {
                acl::is_allowed_for_decryption(*handle).decode(returned).map(yes_or_no)
            }
            Self::Allowed { handle, account } => {
                acl::is_allowed(*handle, *account).decode(returned).map(yes_or_no)
            }
            Self::Delegated { delegator, delegate, contract, handle } => {
                let view = acl::is_delegated(*delegator, *delegate, *contract, *handle);
                view.decode(returned).map(yes_or_no)
            }
            Self::InvalidatedBefore { account } => {
                acl::signature_invalidated_before(*account).decode(returned).map(AclAnswer::Time)
            }
            Self::ValidSignature { digest, signature, .. } => {
                let view = acl::is_valid_signature(*digest, signature.clone());
                // An account without code returns nothing, which is no yes.
                Ok(yes_or_no(view.decode(returned).unwrap_or(false)))
            }
            Self::CodeSize { .. } => Ok(yes_or_no(!returned.is_empty())),
        }
    }
}

impl<P: ChainReader> HostChain<P> {
    /// `erc1271_gas`: the most gas that a smart account may use for its judgement.
    #[must_use]
    pub fn new(reads: PinnedReader<P>, acl: Address, erc1271_gas: u64) -> Self {
        Self { reads, acl, erc1271_gas, known: Arc::default() }
    }

    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.reads.options().chain_id
    }

    /// The ACL contract.
    #[must_use]
    pub fn acl(&self) -> Address {
        self.acl
    }

    #[must_use]
    pub fn reads(&self) -> &PinnedReader<P> {
        &self.reads
    }

    /// The same chain, read as two of its endpoints agree ([`PinnedReader::of_two`]).
    #[must_use]
    pub fn of_two(&self) -> Option<Self> {
        Some(Self { reads: self.reads.of_two()?, ..self.clone() })
    }

    /// Asks all questions at one block. Fails as a whole: an answer that enough endpoints do not give
    /// is no answer. What concerns the chain and not these questions alone is noted for operators.
    pub async fn ask(&self, questions: &[AclQuestion]) -> Result<PinnedAnswers, HostChainError> {
        let asked = self.ask_unnoted(questions).await;
        let mut known = self.known();
        match &asked {
            Ok(answers) => {
                known.state.newest = Some((answers.block.number, answers.timestamp));
                known.state.error = None;
            }
            Err(error) if error.may_concern_questions() => {}
            Err(error) => known.state.error = Some(error.clone()),
        }
        asked
    }

    /// The same, for a second opinion: nothing is noted of the chain.
    pub async fn ask_unnoted(
        &self,
        questions: &[AclQuestion],
    ) -> Result<PinnedAnswers, HostChainError> {
        let read = |question: &AclQuestion| question.read(self.acl, self.erc1271_gas);
        let slot = StateRead::Slot { address: self.acl, slot: IMPLEMENTATION_SLOT };
        let mut reads = vec![(slot, ReadAt::Pinned), (self.version_read(), ReadAt::Pinned)];
        reads.extend(questions.iter().map(|question| (read(question), ReadAt::Pinned)));
        let lasting = questions.iter().filter(|question| question.is_lasting());
        reads.extend(lasting.map(|question| (read(question), ReadAt::Finalized)));

        let PinnedReplies { block, timestamp, hosts, replies } = self.reads.read(&reads).await?;
        let mut replies = replies.into_iter();
        let mut next = || replies.next().flatten();
        let (slot, version) = (next(), self.version(next().as_ref())?);
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            answers.push(self.answer(question, next().as_ref(), version.as_deref())?);
        }
        let at_finalized = questions.iter().map(|question| {
            let reply = question.is_lasting().then(&mut next).flatten()?;
            match question.answer(&reply) {
                Ok(AclAnswer::Yes) => Some(true),
                Ok(AclAnswer::No) => Some(false),
                Ok(_) | Err(_) => None,
            }
        });
        let at_finalized = at_finalized.collect();
        let identity = self.confirm(implementation(slot.as_ref()));
        self.note_version(version);
        Ok(PinnedAnswers { block, timestamp, hosts, answers, at_finalized, identity })
    }

    fn version_read(&self) -> StateRead {
        StateRead::Call(EthCall::view(self.acl, acl::version().calldata()))
    }

    /// The contract's version. `None`: it has no such function. An error: there is no contract.
    fn version(&self, reply: Option<&Reply>) -> Result<Option<String>, HostChainError> {
        let Some(Reply::Returned(returned)) = reply else { return Ok(None) };
        match acl::version().decode(returned) {
            Ok(version) => Ok(Some(version)),
            Err(ViewDecodeError { problem: ViewProblem::Empty, .. }) => Err(self.no_contract()),
            Err(_) => Ok(None),
        }
    }

    fn answer(
        &self,
        question: &AclQuestion,
        reply: Option<&Reply>,
        version: Option<&str>,
    ) -> Result<AclAnswer, HostChainError> {
        let Some(reply) = reply else {
            // Pinned replies are there if there are any.
            return Ok(AclAnswer::Reverted);
        };
        let is_old = || version.is_some_and(acl::is_before_invalidation);
        match (question, reply) {
            // Where nothing can be invalidated nothing has been.
            (AclQuestion::InvalidatedBefore { .. }, Reply::Reverted(_)) if is_old() => {
                Ok(AclAnswer::Time(U256::ZERO))
            }
            _ => question.answer(reply).map_err(|source| {
                if source.problem == ViewProblem::Empty {
                    return self.no_contract();
                }
                HostChainError::Unreadable { chain_id: self.chain_id(), source }
            }),
        }
    }

    fn no_contract(&self) -> HostChainError {
        let (chain_id, address) = (self.chain_id(), self.acl);
        HostChainError::NoContract { chain_id, contract: ACL, address, key: ACL_KEY }
    }

    /// What the contract is, if that was confirmed lately.
    #[must_use]
    pub fn identity(&self) -> Option<AclIdentity> {
        self.known().contract.filter(KnownContract::is_recent).map(|contract| contract.identity)
    }

    /// What was last seen of the chain.
    #[must_use]
    pub fn state(&self) -> HostChainState {
        self.known().state.clone()
    }

    /// Takes in the implementation that a read saw; returns the identity if it is the known one's.
    fn confirm(&self, implementation: Address) -> Option<AclIdentity> {
        let mut known = self.known();
        let contract = known.contract?;
        if contract.implementation != implementation {
            // Looked at again before anything is remembered.
            known.contract = None;
            return None;
        }
        Some(contract).filter(KnownContract::is_recent).map(|contract| contract.identity)
    }

    fn note_version(&self, version: Option<String>) {
        let chain = self.chain_id();
        let version: Option<UntrustedText> = version.map(Into::into);
        let mut known = self.known();
        if known.state.version == version {
            return;
        }
        let before = std::mem::replace(&mut known.state.version, version.clone());
        drop(known);
        match (before, version) {
            (None, Some(version)) => info!(chain, acl = %self.acl, %version, "ACL contract found"),
            (before, now) => info!(
                chain,
                acl = %self.acl,
                before = before.as_deref(),
                now = now.as_deref(),
                "the ACL contract was upgraded"
            ),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the contract once: what it is, and whether the chain answers. To be done from time to
    /// time, so that an upgrade is noticed without a question.
    pub async fn look(&self) -> Result<(), HostChainError> {
        let looked = self.look_unnoted().await;
        let mut known = self.known();
        match looked {
            Ok((contract, newest)) => {
                known.contract = contract;
                known.state.newest = Some(newest);
                known.state.error = None;
                Ok(())
            }
            Err(error) => {
                if matches!(error, HostChainError::NoContract { .. }) {
                    known.contract = None;
                }
                known.state.error = Some(error.clone());
                Err(error)
            }
        }
    }

    async fn look_unnoted(&self) -> Result<(Option<KnownContract>, (u64, u64)), HostChainError> {
        let reads = [
            (StateRead::Code(self.acl), ReadAt::Pinned),
            (StateRead::Slot { address: self.acl, slot: IMPLEMENTATION_SLOT }, ReadAt::Pinned),
            (self.version_read(), ReadAt::Pinned),
        ];
        let at = Instant::now();
        let PinnedReplies { block, timestamp, replies, .. } = self.reads.read(&reads).await?;
        let [code, slot, version] = &replies[..] else { return Err(self.no_contract()) };
        let code = match code {
            Some(Reply::Returned(code)) if !code.is_empty() => code,
            _ => return Err(self.no_contract()),
        };
        self.note_version(self.version(version.as_ref())?);
        let implementation = implementation(slot.as_ref());
        // Without block 0 the chain may be another one tomorrow, and nothing is remembered.
        let contract = self.genesis().await.map(|genesis| {
            let both = [implementation.into_word(), keccak256(code)].concat();
            let (chain_id, acl) = (self.chain_id(), self.acl);
            let identity = AclIdentity { chain_id, genesis, acl, implementation: keccak256(both) };
            KnownContract { identity, implementation, at }
        });
        Ok((contract, (block.number, timestamp)))
    }

    /// Block 0 by the first endpoint that tells it.
    async fn genesis(&self) -> Option<B256> {
        for endpoint in self.reads.endpoints().iter().filter(|endpoint| endpoint.is_sound()) {
            if let Ok(Some(head)) = endpoint.reader.header(BlockId::Number(0)).await {
                return Some(head.block.hash);
            }
        }
        None
    }
}

impl KnownContract {
    fn is_recent(&self) -> bool {
        self.at.elapsed() < KNOWN_FOR
    }
}

/// The implementation in a slot; zero without a proxy.
fn implementation(slot: Option<&Reply>) -> Address {
    match slot {
        Some(Reply::Returned(word)) if word.len() == 32 => Address::from_slice(&word[12..]),
        _ => Address::ZERO,
    }
}

/// All host chains of an instance, by chain id.
#[derive(Clone, Debug)]
pub struct HostChains<P>(Arc<BTreeMap<u64, HostChain<P>>>);

impl<P> Default for HostChains<P> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<P> FromIterator<(u64, HostChain<P>)> for HostChains<P> {
    fn from_iter<I: IntoIterator<Item = (u64, HostChain<P>)>>(chains: I) -> Self {
        Self(Arc::new(chains.into_iter().collect()))
    }
}

impl<P> HostChains<P> {
    #[must_use]
    pub fn get(&self, chain_id: u64) -> Option<&HostChain<P>> {
        self.0.get(&chain_id)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The chains' ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &HostChain<P>> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests;

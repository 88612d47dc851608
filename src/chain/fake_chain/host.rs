//! The chain in memory as a host chain: what its contracts answer, each from a block on. An ACL grants
//! nothing unless told.

use std::collections::HashMap;

use alloy::sol_types::SolValue;
use tokio::time::sleep;

use super::{FakeChain, FakeChainState, refused};
use crate::{
    chain::{
        reader::{BlockId, EthCall, ReadAt, StateRead, Transaction},
        rpc_error::RpcError,
    },
    domain::{Address, B256, BlockRef, Bytes, U256},
};

/// EIP-1967: where a proxy keeps its implementation.
const IMPLEMENTATION_SLOT: U256 = alloy::primitives::uint!(
    0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc_U256
);
/// `getVersion()`.
const VERSION: [u8; 4] = [0x0d, 0x8e, 0x6e, 0x2c];

/// A contract's answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Returns(Bytes),
    Reverts(Bytes),
}

/// What stands on the chain besides the contracts under test.
#[derive(Debug, Default)]
pub(crate) struct HostState {
    /// The ACL (or `ProtocolConfig`). Whatever it is not told to answer, it answers with a zero word.
    pub contract: Option<Address>,
    /// The contract's version, such as `ACL v0.5.0`. `None`: it has no such function.
    pub version: Option<&'static str>,
    /// The contract's implementation.
    pub implementation: Address,
    /// Answers by contract and call data, each from a block on, in rising order.
    told: HashMap<(Address, Bytes), Vec<(u64, Told)>>,
    /// Contracts besides.
    pub code: HashMap<Address, Bytes>,
    /// Transactions by hash.
    pub transactions: HashMap<B256, Transaction>,
}

impl FakeChain {
    /// A host chain up to `height` with a contract at this address.
    pub fn host(height: u64, contract: Address, version: &'static str) -> Self {
        let chain = Self::new(height);
        chain.state().host = HostState {
            contract: Some(contract),
            version: Some(version),
            implementation: Address::repeat_byte(0x1a),
            ..HostState::default()
        };
        chain
    }

    /// Blocks below this height were made at this time, in Unix seconds.
    pub fn age_blocks_below(&self, height: u64, timestamp: u64) {
        let mut node = self.state();
        for block in node.chain.iter_mut().take(usize::try_from(height).unwrap()) {
            block.head.timestamp = Some(timestamp);
        }
    }

    /// From the newest block on the contract answers this call so.
    pub fn tell(&self, contract: Address, call: Bytes, told: Told) {
        let from = self.height();
        self.state().host.told.entry((contract, call)).or_default().push((from, told));
    }

    /// The same for the host contract and a value.
    #[expect(clippy::needless_pass_by_value, reason = "values are written where they are told")]
    pub fn answer(&self, call: Bytes, value: impl SolValue) {
        let contract = self.state().host.contract.unwrap();
        self.tell(contract, call, Told::Returns(value.abi_encode().into()));
    }

    pub(super) async fn host_state(
        &self,
        block: BlockRef,
        reads: &[(StateRead, ReadAt)],
    ) -> Result<Vec<Result<Bytes, RpcError>>, RpcError> {
        let slow = self.state().faults[self.asked.0].slow_state;
        if !slow.is_zero() {
            sleep(slow).await;
        }
        let mut node = self.count_call("read_state")?;
        *node.calls.entry("reads").or_default() += reads.len();
        let read = |(read, at): &(StateRead, ReadAt)| {
            let id = match at {
                ReadAt::Pinned => BlockId::Hash(block.hash),
                ReadAt::Finalized => BlockId::Finalized,
            };
            let head = node.header_of(self.asked, id);
            let number = head.ok_or_else(|| refused("header not found", None))?.block.number;
            if node.no_state_below.is_some_and(|below| number < below) {
                return Err(refused("missing trie node 8b16 (path )", None));
            }
            node.read(self.asked.0, read, number)
        };
        Ok(reads.iter().map(read).collect())
    }
}

impl FakeChainState {
    /// From this block on a contract answers a call so.
    pub fn tell_from(&mut self, block: u64, call: (Address, Bytes), told: Told) {
        self.host.told.entry(call).or_default().push((block, told));
    }

    fn read(&self, by: usize, read: &StateRead, at: u64) -> Result<Bytes, RpcError> {
        let is_host = |address: &Address| self.host.contract == Some(*address);
        match read {
            StateRead::Code(address) => Ok(match self.host.code.get(address) {
                Some(code) => code.clone(),
                None if is_host(address) => Bytes::from_static(&[1]),
                None => Bytes::new(),
            }),
            StateRead::Slot { address, slot } => {
                let is_it = is_host(address) && *slot == IMPLEMENTATION_SLOT;
                let word = if is_it { self.host.implementation.into_word() } else { B256::ZERO };
                Ok(word.0.into())
            }
            StateRead::Call(call) => self.host_call(by, call, at),
        }
    }

    /// What it was told to answer to this call at this block.
    pub(super) fn told(&self, call: &EthCall, at: u64) -> Option<Result<Bytes, RpcError>> {
        let told = self.host.told.get(&(call.to, call.data.clone()))?;
        let (_, told) = told.iter().rev().find(|(from, _)| *from <= at)?;
        Some(match told {
            Told::Returns(data) => Ok(data.clone()),
            Told::Reverts(data) => Err(refused("execution reverted", Some(data.clone()))),
        })
    }

    fn host_call(&self, by: usize, call: &EthCall, at: u64) -> Result<Bytes, RpcError> {
        let lie = self.faults[by].views.iter().find(|(data, _)| *data == call.data);
        if let Some((_, told)) = lie {
            return Ok(told.clone());
        }
        match self.told(call, at) {
            Some(answer) => answer,
            None if self.host.contract != Some(call.to) => Ok(Bytes::new()),
            None if call.data.starts_with(&VERSION) => match self.host.version {
                Some(version) => Ok(version.to_owned().abi_encode().into()),
                None => Err(refused("execution reverted", Some(Bytes::new()))),
            },
            None => Ok(Bytes::from_static(&[0; 32])),
        }
    }
}

//! Whether the contract knows an id: asked by a response without content, which it refuses either for
//! the id or for the content (gateway-abi 4.3).
//!
//! | contract | first checks | asked |
//! |---|---|---|
//! | v0.7.x | sender, pause, signature | in vain: an unknown id is not checked |
//! | v0.8.0-1 to v0.11 | sender, then the id | as a registered sender |
//! | from v0.12 on | the id | as anybody |
//!
//! Which row applies is found by a test: for an id that no contract has reached, the contract must say
//! that it does not know it ([`RequestContract::id_probe`]).

use super::{RequestContract, ViewError, call_view};
use crate::{
    chain::{
        reader::{BlockId, ChainReader, EthCall},
        rpc_error::RpcError,
    },
    contracts::abi::{self, ContractError, Counter, ResponseForm, Subject},
    domain::{Address, Bytes, Kind, U256},
};

/// The contract's answer about an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdStatus {
    Requested,
    NotRequested,
    /// It refuses for a reason that it checks before the id, or that tells nothing.
    Undisclosed,
}

/// How to ask this contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdProbe {
    from: Option<Address>,
    /// Of the response function.
    form: ResponseForm,
}

impl IdStatus {
    fn of(answer: Result<Bytes, RpcError>, id: U256) -> Result<Self, RpcError> {
        let data = match answer {
            // No contract accepts such a call.
            Ok(_) => return Ok(Self::Undisclosed),
            Err(error) => match error.revert_data() {
                Some(data) => data,
                None => return Err(error),
            },
        };
        let told = ContractError::decode(&data).map(|error| error.origin());
        Ok(match told.filter(|(raised_for, _)| raised_for.is_of_decryptions()) {
            Some((_, Subject::Id(denied))) if denied == id => Self::NotRequested,
            Some((_, Subject::Done | Subject::Content | Subject::Signer(_))) => Self::Requested,
            Some((_, Subject::Id(_) | Subject::Wallet | Subject::State | Subject::Other))
            | None => Self::Undisclosed,
        })
    }
}

impl<P: ChainReader> RequestContract<P> {
    /// Finds out how to ask this contract for ids. `None`: it does not tell. `wallet`: a sender that may
    /// be registered.
    pub async fn id_probe(&self, wallet: Option<Address>) -> Result<Option<IdProbe>, RpcError> {
        let registry = self.addresses.gateway_config;
        let senders = match call_view(&self.provider, registry, &abi::kms_tx_senders()).await {
            Ok(senders) => senders,
            Err(error) if error.is_answer() => Vec::new(),
            Err(ViewError::Rpc(error)) => return Err(error),
            Err(ViewError::Undecodable(_)) => Vec::new(),
        };
        let known = wallet.filter(|wallet| senders.is_empty() || senders.contains(wallet));
        let from = known.or(senders.first().copied()).or(wallet);
        for form in [ResponseForm::WithExtraData, ResponseForm::Plain] {
            let question = IdProbe { from, form };
            if self.rejects_impossible_id(question, BlockId::Latest).await? {
                return Ok(Some(question));
            }
        }
        Ok(None)
    }

    /// Whether the answering node says that the contract does not know an impossible id.
    pub async fn rejects_impossible_id(
        &self,
        question: IdProbe,
        at: BlockId,
    ) -> Result<bool, RpcError> {
        let id = Counter::Public.id(abi::HIGHEST_COUNT);
        let status = self.probe_id(question, Kind::PublicDecryption, id, at).await?;
        Ok(status == IdStatus::NotRequested)
    }

    /// Whether the contract knows this id at that block.
    pub async fn id_status(
        &self,
        question: IdProbe,
        counter: Counter,
        number: u64,
        at: BlockId,
    ) -> Result<IdStatus, RpcError> {
        let mut all = IdStatus::NotRequested;
        // An id of the common counter belongs to one of the kinds; for the other one it is unknown.
        for kind in counter.kinds() {
            match self.probe_id(question, *kind, counter.id(number), at).await? {
                IdStatus::Requested => return Ok(IdStatus::Requested),
                IdStatus::NotRequested => {}
                IdStatus::Undisclosed => all = IdStatus::Undisclosed,
            }
        }
        Ok(all)
    }

    async fn probe_id(
        &self,
        IdProbe { from, form }: IdProbe,
        kind: Kind,
        id: U256,
        at: BlockId,
    ) -> Result<IdStatus, RpcError> {
        let data = abi::empty_response_call(kind, id, form);
        let call = EthCall { from, ..EthCall::view(self.address(), data) };
        IdStatus::of(self.provider.call(&call, at).await, id)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::hex;

    use super::*;

    fn refused(data: Option<Bytes>) -> Result<Bytes, RpcError> {
        let message = "execution reverted".into();
        Err(RpcError::Refused { host: "node".into(), code: 3, message, data })
    }

    /// The errors of gateway-abi 4.4 for an empty response, in the order of the checks.
    #[test]
    fn a0_what_a_contract_refuses_for_tells_whether_it_knows_the_id() {
        let id = U256::from(7);
        let word = |hex: &str| format!("{hex:0>64}");
        let topics = |data: &str| {
            let data = Bytes::from(hex::decode(data).unwrap());
            IdStatus::of(refused(Some(data)), id).unwrap()
        };
        assert_eq!(topics(&format!("d48af942{}", word("7"))), IdStatus::NotRequested);
        assert_eq!(topics(&format!("d48af942{}", word("8"))), IdStatus::Undisclosed, "another id");
        assert_eq!(topics(&format!("fce698f7{}", word("0"))), IdStatus::Requested);
        assert_eq!(topics("f645eedf"), IdStatus::Requested);
        assert_eq!(topics(&format!("2a7c6ef6{}", word("0"))), IdStatus::Requested);
        assert_eq!(topics(&format!("99ec48d9{}{}", word("7"), word("aa"))), IdStatus::Requested);
        assert_eq!(
            topics(&format!("aee86323{}", word("bb"))),
            IdStatus::Undisclosed,
            "looked at before"
        );
        assert_eq!(topics("d93c0665"), IdStatus::Undisclosed);
        assert_eq!(topics("deadbeef"), IdStatus::Undisclosed);
        assert_eq!(IdStatus::of(refused(Some(Bytes::new())), id).unwrap(), IdStatus::Undisclosed);
        assert_eq!(IdStatus::of(Ok(Bytes::new()), id).unwrap(), IdStatus::Undisclosed);
        let lost = RpcError::Unavailable { host: "node".into(), what: "lost".into() };
        assert!(IdStatus::of(Err(lost), id).is_err());
    }
}

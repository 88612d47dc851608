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
//! that it does not know it ([`DecryptionAdapter::question`]).

use super::{DecryptionAdapter, ViewError, view};
use crate::{
    domain::{Address, Bytes, Kind, U256},
    gateway::{
        abi::{self, ContractError, Counter, ResponseForm},
        provider::{At, Call, ChainReader, RpcError},
    },
};

/// The contract's answer about an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    Yes,
    No,
    /// It refuses for a reason that it checks before the id, or that tells nothing.
    Untold,
}

/// How to ask this contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    from: Option<Address>,
    /// Of the response function.
    form: ResponseForm,
}

impl Requested {
    fn of(answer: Result<Bytes, RpcError>, id: U256) -> Result<Self, RpcError> {
        let data = match answer {
            // No contract accepts such a call.
            Ok(_) => return Ok(Self::Untold),
            Err(error) => match error.revert_data() {
                Some(data) => data,
                None => return Err(error),
            },
        };
        Ok(match ContractError::decode(&data) {
            Some(ContractError::DecryptionNotRequested(denied)) if denied == id => Self::No,
            Some(
                ContractError::KmsNodeAlreadySigned { .. }
                | ContractError::NotKmsSigner(_)
                | ContractError::KmsSignerDoesNotMatchTxSender { .. }
                | ContractError::DecryptionContextMismatch { .. }
                | ContractError::InvalidExtraDataLength { .. }
                | ContractError::UnsupportedExtraDataVersion(_)
                | ContractError::InvalidKmsContext(_)
                | ContractError::ECDSAInvalidSignature
                | ContractError::ECDSAInvalidSignatureLength(_)
                | ContractError::ECDSAInvalidSignatureS(_),
            ) => Self::Yes,
            Some(
                ContractError::DecryptionNotRequested(_)
                | ContractError::NotKmsTxSender(_)
                | ContractError::EnforcedPause
                | ContractError::DecryptionNotDone(_)
                | ContractError::Error(_)
                | ContractError::Panic(_)
                | ContractError::Other { .. }
                | ContractError::UnknownData(_),
            )
            | None => Self::Untold,
        })
    }
}

impl<P: ChainReader> DecryptionAdapter<P> {
    /// Finds out how to ask this contract for ids. `None`: it does not tell. `wallet`: a sender that may
    /// be registered.
    pub async fn question(&self, wallet: Option<Address>) -> Result<Option<Question>, RpcError> {
        let registry = self.addresses.gateway_config;
        let senders = match view(&self.provider, registry, &abi::kms_tx_senders()).await {
            Ok(senders) => senders,
            Err(error) if error.is_answer() => Vec::new(),
            Err(ViewError::Rpc(error)) => return Err(error),
            Err(ViewError::Undecodable(_)) => Vec::new(),
        };
        let known = wallet.filter(|wallet| senders.is_empty() || senders.contains(wallet));
        let from = known.or(senders.first().copied()).or(wallet);
        for form in [ResponseForm::WithExtraData, ResponseForm::Plain] {
            let question = Question { from, form };
            if self.denies_the_impossible(question, At::Latest).await? {
                return Ok(Some(question));
            }
        }
        Ok(None)
    }

    /// Whether the answering node says that the contract does not know an impossible id.
    pub async fn denies_the_impossible(
        &self,
        question: Question,
        at: At,
    ) -> Result<bool, RpcError> {
        let id = Counter::Public.id(abi::HIGHEST_COUNT);
        let said = self.ask_as(question, Kind::PublicDecryption, id, at).await?;
        Ok(said == Requested::No)
    }

    /// Whether the contract knows this id at that block.
    pub async fn is_requested(
        &self,
        question: Question,
        counter: Counter,
        number: u64,
        at: At,
    ) -> Result<Requested, RpcError> {
        let mut all = Requested::No;
        // An id of the common counter belongs to one of the kinds; for the other one it is unknown.
        for kind in counter.kinds() {
            match self.ask_as(question, *kind, counter.id(number), at).await? {
                Requested::Yes => return Ok(Requested::Yes),
                Requested::No => {}
                Requested::Untold => all = Requested::Untold,
            }
        }
        Ok(all)
    }

    async fn ask_as(
        &self,
        Question { from, form }: Question,
        kind: Kind,
        id: U256,
        at: At,
    ) -> Result<Requested, RpcError> {
        let data = abi::empty_response(kind, id, form);
        let call = Call { from, to: self.address(), data };
        Requested::of(self.provider.call(&call, at).await, id)
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
        let told = |data: &str| {
            let data = Bytes::from(hex::decode(data).unwrap());
            Requested::of(refused(Some(data)), id).unwrap()
        };
        assert_eq!(told(&format!("d48af942{}", word("7"))), Requested::No);
        assert_eq!(told(&format!("d48af942{}", word("8"))), Requested::Untold, "another id");
        assert_eq!(told(&format!("fce698f7{}", word("0"))), Requested::Yes);
        assert_eq!(told("f645eedf"), Requested::Yes);
        assert_eq!(told(&format!("2a7c6ef6{}", word("0"))), Requested::Yes);
        assert_eq!(told(&format!("99ec48d9{}{}", word("7"), word("aa"))), Requested::Yes);
        assert_eq!(told(&format!("aee86323{}", word("bb"))), Requested::Untold, "looked at before");
        assert_eq!(told("d93c0665"), Requested::Untold);
        assert_eq!(told("deadbeef"), Requested::Untold);
        assert_eq!(Requested::of(refused(Some(Bytes::new())), id).unwrap(), Requested::Untold);
        assert_eq!(Requested::of(Ok(Bytes::new()), id).unwrap(), Requested::Untold);
        let lost = RpcError::Unavailable { host: "node".into(), what: "lost".into() };
        assert!(Requested::of(Err(lost), id).is_err());
    }
}

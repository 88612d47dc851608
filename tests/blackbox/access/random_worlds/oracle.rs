//! The oracle: everything that is wrong with a request, by the rules of the protocol (ciphertext-storage 10)
//! and by what the contracts themselves say, one plain `eth_call` per question. None of the product's code is
//! in it.

use std::collections::{BTreeMap, BTreeSet};

use alloy::{
    primitives::{Address, B256, Bytes, Signature},
    sol_types::SolCall,
};
use serde_json::json;
use world::{
    Error, Result,
    access::{Path, chain_of},
    host_contracts::{ACL, Wallet},
    request::{Ask, Kind},
    rpc::Chain,
    signing::Domain,
};

use super::ground::{ACCOUNT_GAS, Asked};

const DENIED: &str = "access_denied_on_chain";
/// `isValidSignature` answers this if it accepts (ERC-1271).
const MAGIC: [u8; 4] = [0x16, 0x26, 0xba, 0x7e];

/// What ends a request, the common ones first.
pub(super) const FINAL: [&str; 8] = [
    "signature_invalid",
    "validity_expired",
    "calldata_differs",
    "user_among_contracts",
    "signature_invalidated",
    "foreign_call",
    "handles_of_several_chains",
    "materials_differ",
];

/// The contracts at one block.
pub(super) struct Oracle<'w> {
    pub chain: &'w Chain,
    /// By chain id.
    pub acls: BTreeMap<u64, Address>,
    pub decryption: Address,
    pub gateway: Domain,
    /// Time of the block, in unix seconds.
    pub now: u64,
}

type Failures = BTreeSet<&'static str>;

impl Oracle<'_> {
    /// Whatever is wrong with it. Nothing: it may be decrypted.
    pub async fn failures(&self, asked: &Asked) -> Result<Failures> {
        let mut failures = Failures::new();
        match (asked.ask.kind, asked.ask.access.path) {
            (Kind::Public, _) => self.public(&asked.told, &mut failures).await?,
            (Kind::User, Path::Direct | Path::Delegated) => {
                self.legacy(asked, &mut failures).await?;
            }
            (Kind::User, Path::Unified) => self.unified(asked, &mut failures).await?,
        }
        Ok(failures)
    }

    async fn public(&self, told: &Ask, failures: &mut Failures) -> Result<()> {
        for handle in told.handles() {
            let Some(acl) = self.acls.get(&chain_of(handle)) else {
                failures.insert("host_chain_not_configured");
                continue;
            };
            if !self.view(*acl, &ACL::isAllowedForDecryptionCall { handle }).await? {
                failures.insert(DENIED);
            }
        }
        Ok(())
    }

    /// What the user signed stands in the calldata, and the event has to say the same.
    async fn legacy(&self, asked: &Asked, failures: &mut Failures) -> Result<()> {
        let (ask, told) = (&asked.ask, &asked.told);
        if asked.to != self.decryption {
            failures.insert("foreign_call");
        }
        let (allowed, access) = (ask.access.allowed(), &ask.access);
        let differs = asked.materials != ask.handles()
            || told.user != ask.user
            || told.public_key != ask.public_key
            || told.extra_data != ask.extra_data;
        // The contract takes no handle of a contract that the user has not signed for.
        if differs || !access.contracts.iter().all(|contract| allowed.contains(contract)) {
            failures.insert("calldata_differs");
        }
        let delegator = access.owners[0];
        let owner = if access.path == Path::Delegated { delegator } else { ask.user };
        if allowed.contains(&owner) {
            failures.insert("user_among_contracts");
        }
        if signer(ask, self.gateway)? != Some(ask.user) {
            failures.insert("signature_invalid");
        }
        if chains(&asked.materials).len() > 1 {
            failures.insert("handles_of_several_chains");
        }
        let Some(acl) = self.acl_of_all(&ask.handles(), failures) else { return Ok(()) };
        for (handle, contract) in ask.handles().into_iter().zip(&access.contracts) {
            let granted = if access.path == Path::Delegated {
                self.is_delegated(acl, (delegator, ask.user, *contract), handle).await?
            } else {
                self.is_allowed(acl, handle, ask.user).await?
                    && self.is_allowed(acl, handle, *contract).await?
            };
            if !granted {
                failures.insert(DENIED);
            }
        }
        Ok(())
    }

    /// The steps of the sheet, in their order.
    async fn unified(&self, asked: &Asked, failures: &mut Failures) -> Result<()> {
        let told = &asked.told;
        let (access, allowed) = (&told.access, told.access.allowed());
        if asked.materials != told.handles() {
            failures.insert("materials_differ");
        }
        if allowed.contains(&told.user) {
            failures.insert("user_among_contracts");
        }
        let Some(acl) = self.acl_of_all(&told.handles(), failures) else { return Ok(()) };
        if self.now < access.start {
            failures.insert("not_yet_valid");
        }
        if self.now > access.start + access.seconds {
            failures.insert("validity_expired");
        }
        if signer(told, self.gateway)? != Some(told.user) {
            let code: Bytes = self.chain.rpc("eth_getCode", json!([told.user, "latest"])).await?;
            if code.is_empty() {
                failures.insert("signature_invalid");
            } else if !self.accepts(told).await? {
                failures.insert(DENIED);
            }
        }
        if access.start < self.invalidated_before(acl, told.user).await? {
            failures.insert("signature_invalidated");
        }
        for entry in told.entries() {
            let (handle, owner) = (entry.handle, entry.ownerAddress);
            let granted = if owner == told.user {
                self.is_allowed(acl, handle, told.user).await?
            } else {
                let parties = (owner, told.user, entry.contractAddress);
                self.is_delegated(acl, parties, handle).await?
            };
            let mut for_some_contract = allowed.is_empty();
            for contract in &allowed {
                for_some_contract |= self.is_allowed(acl, handle, *contract).await?;
            }
            if !granted || !for_some_contract {
                failures.insert(DENIED);
            }
        }
        Ok(())
    }

    /// The ACL of the chain to which all these handles belong.
    fn acl_of_all(&self, handles: &[B256], failures: &mut Failures) -> Option<Address> {
        let chains = chains(handles);
        if chains.len() > 1 {
            failures.insert("handles_of_several_chains");
            return None;
        }
        let acl = chains.first().and_then(|chain| self.acls.get(chain)).copied();
        if acl.is_none() {
            failures.insert("host_chain_not_configured");
        }
        acl
    }

    async fn is_allowed(&self, acl: Address, handle: B256, account: Address) -> Result<bool> {
        self.view(acl, &ACL::isAllowedCall { handle, account }).await
    }

    async fn is_delegated(
        &self,
        acl: Address,
        (delegator, delegate, contract): (Address, Address, Address),
        handle: B256,
    ) -> Result<bool> {
        let call = ACL::isHandleDelegatedForUserDecryptionCall {
            delegator,
            delegate,
            contractAddress: contract,
            handle,
        };
        self.view(acl, &call).await
    }

    /// Before v0.5.0 nothing can be invalidated.
    async fn invalidated_before(&self, acl: Address, account: Address) -> Result<u64> {
        if self.view(acl, &ACL::getVersionCall {}).await? != "ACL v0.5.0" {
            return Ok(0);
        }
        let call = ACL::decryptionSignatureInvalidatedBeforeCall { account };
        Ok(self.view(acl, &call).await?.to())
    }

    /// Whether the smart account stands by the signature.
    async fn accepts(&self, told: &Ask) -> Result<bool> {
        let signature = told.signature(self.gateway)?;
        let call = Wallet::isValidSignatureCall { hash: told.user_digest(self.gateway), signature };
        let call = json!({
            "to": told.user, "data": Bytes::from(call.abi_encode()), "gas": format!("{ACCOUNT_GAS:#x}"),
        });
        let mut accepted = [0; 32];
        accepted[..4].copy_from_slice(&MAGIC);
        match self.chain.rpc::<Bytes>("eth_call", json!([call, "latest"])).await {
            Ok(answer) => Ok(answer.as_ref() == accepted),
            // It reverted, or had too little gas.
            Err(Error::Rpc { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn view<C: SolCall>(&self, to: Address, call: &C) -> Result<C::Return> {
        self.chain.call(to, call).await
    }
}

fn chains(handles: &[B256]) -> BTreeSet<u64> {
    handles.iter().map(|handle| chain_of(*handle)).collect()
}

/// Whose key signed what the request says.
fn signer(ask: &Ask, gateway: Domain) -> Result<Option<Address>> {
    let signature = ask.signature(gateway)?;
    let found = Signature::try_from(signature.as_ref()).ok();
    Ok(found.and_then(|one| one.recover_address_from_prehash(&ask.user_digest(gateway)).ok()))
}

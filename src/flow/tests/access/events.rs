//! Requests of every kind: their events, the calldata of their transactions, and what they need on the host
//! chain. Digests are alloy's.
#![expect(non_snake_case, reason = "arguments have the contract's names")]

use alloy::{
    primitives::keccak256,
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol,
    sol_types::{Eip712Domain, SolCall as _, SolEvent as _, SolStruct as _},
};

use super::*;
use crate::domain::BlockRef;

pub(super) const CHAIN: u64 = 31_337;
pub(super) const TOKEN: Address = Address::repeat_byte(0x70);
pub(super) const OTHER_CONTRACT: Address = Address::repeat_byte(0x71);
pub(super) const OWNER: Address = Address::repeat_byte(0x0e);
pub(super) const HANDLES: [u8; 2] = [1, 2];
const PUBLIC_KEY: &[u8] = b"the user's key";

/// What the host chain was told before a refusal.
type Prepare = fn(&FakeChain);

mod direct {
    super::sol! {
        struct UserDecryptRequestVerification {
            bytes publicKey;
            address[] contractAddresses;
            uint256 startTimestamp;
            uint256 durationDays;
            bytes extraData;
        }
        struct DelegatedUserDecryptRequestVerification {
            bytes publicKey;
            address[] contractAddresses;
            address delegatorAddress;
            uint256 startTimestamp;
            uint256 durationDays;
            bytes extraData;
        }
        event PublicDecryptionRequest(
            uint256 indexed decryptionId,
            (bytes32, uint256, bytes32, address[])[] snsCtMaterials,
            bytes extraData
        );
        event UserDecryptionRequest(
            uint256 indexed decryptionId,
            (bytes32, uint256, bytes32, address[])[] snsCtMaterials,
            address userAddress,
            bytes publicKey,
            bytes extraData
        );
        function userDecryptionRequest(
            (bytes32, address)[] ctHandleContractPairs,
            (uint256, uint256) requestValidity,
            (uint256, address[]) contractsInfo,
            address userAddress,
            bytes publicKey,
            bytes signature,
            bytes extraData
        ) external;
        function delegatedUserDecryptionRequest(
            (bytes32, address)[] ctHandleContractPairs,
            (uint256, uint256) requestValidity,
            (address, address) delegationAccounts,
            (uint256, address[]) contractsInfo,
            bytes publicKey,
            bytes signature,
            bytes extraData
        ) external;
    }
}

mod unified {
    super::sol! {
        struct UserDecryptRequestVerification {
            address userAddress;
            bytes publicKey;
            address[] allowedContracts;
            uint256 startTimestamp;
            uint256 durationSeconds;
            bytes extraData;
        }
        event UserDecryptionRequest(
            uint256 indexed decryptionId,
            (bytes32, uint256, bytes32, address[])[] snsCtMaterials,
            (bytes32, address, address)[] handles,
            (address, bytes, address[], (uint256, uint256), bytes, bytes) payload
        );
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Public,
    Direct,
    Delegated,
    Unified,
}

/// A request as its user made it, with what a liar may change of it.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    way: Way,
    /// Whose signature: a key's, or a smart account's.
    by_account: bool,
    user: Address,
    owners: [Address; 2],
    handles: [B256; 2],
    contracts: Vec<Address>,
    start: u64,
    extra_data: Vec<u8>,
    seconds: u64,
    /// In the event, where it is not the one that was signed.
    other_key: Option<&'static [u8]>,
    /// In the event's materials.
    other_material: Option<B256>,
    /// The contract that the transaction calls, where it is not the Decryption contract.
    pub calls: Option<Address>,
    /// In place of the user's signature.
    signature: Option<Bytes>,
}

fn key() -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[9; 32]).unwrap()
}

pub(super) fn user_address() -> Address {
    key().address()
}

pub(super) fn wallet_address() -> Address {
    Address::repeat_byte(0x3a)
}

pub(super) fn handle(number: u8) -> B256 {
    let mut handle = B256::ZERO;
    handle[0] = number;
    handle[22..30].copy_from_slice(&CHAIN.to_be_bytes());
    handle[30] = 2;
    handle
}

pub(super) fn domain() -> SigningDomain {
    SigningDomain {
        name: "Decryption".into(),
        version: "1".into(),
        chain_id: 1,
        verifying_contract: CONTRACT,
    }
}

impl Ask {
    fn new(way: Way) -> Self {
        Self {
            way,
            by_account: false,
            user: user_address(),
            owners: if way == Way::Delegated { [OWNER; 2] } else { [user_address(), OWNER] },
            handles: HANDLES.map(handle),
            contracts: vec![TOKEN, OTHER_CONTRACT],
            start: crate::time::clock::unix_millis() / 1_000 - 100,
            extra_data: Vec::new(),
            seconds: 100_000,
            other_key: None,
            other_material: None,
            calls: None,
            signature: None,
        }
    }

    pub(super) fn public() -> Self {
        Self::new(Way::Public)
    }

    pub(super) fn direct() -> Self {
        Self::new(Way::Direct)
    }

    pub(super) fn delegated() -> Self {
        Self::new(Way::Delegated)
    }

    /// The first handle is the user's own, the second was delegated to the user.
    pub(super) fn unified() -> Self {
        Self::new(Way::Unified)
    }

    fn of_account() -> Self {
        let account = wallet_address();
        Self { by_account: true, user: account, owners: [account; 2], ..Self::unified() }
    }

    pub(super) fn starting(self, start: u64) -> Self {
        Self { start, ..self }
    }

    pub(super) fn with_extra_data(self, extra_data: Vec<u8>) -> Self {
        Self { extra_data, ..self }
    }

    /// With so many more contracts, of which none is allowed anything.
    pub(super) fn with_more_contracts(mut self, count: u64) -> Self {
        let more = (0..count).map(|number| Address::from_word(U256::from(number + 1).into()));
        self.contracts.extend(more);
        self
    }

    /// By a transaction that calls another contract.
    pub(super) fn through(self, contract: Address) -> Self {
        Self { calls: Some(contract), ..self }
    }

    pub(super) fn each() -> [Self; 5] {
        [Self::public(), Self::direct(), Self::delegated(), Self::unified(), Self::of_account()]
    }

    /// Everything that the host chain must grant. What the first of the contracts is allowed is enough.
    pub(super) fn needs(&self) -> Vec<AclQuestion> {
        let user = self.user;
        let mut needs = Vec::new();
        for (handle, owner) in self.handles.into_iter().zip(self.owners) {
            let allowed = |account| AclQuestion::Allowed { handle, account };
            let contract = TOKEN;
            let delegated =
                AclQuestion::Delegated { delegator: owner, delegate: user, contract, handle };
            match self.way {
                Way::Public => needs.push(AclQuestion::AllowedForDecryption { handle }),
                Way::Direct => needs.extend([allowed(user), allowed(contract)]),
                Way::Delegated => needs.push(delegated),
                Way::Unified => {
                    needs.push(if owner == user { allowed(user) } else { delegated });
                    needs.push(allowed(contract));
                }
            }
        }
        if self.by_account {
            // Without code it would be refused for good.
            let (digest, signature) = (self.digest(), self.signature());
            needs.push(AclQuestion::ValidSignature { account: user, digest, signature });
        }
        needs
    }

    fn digest(&self) -> B256 {
        let domain = Eip712Domain::new(
            Some("Decryption".into()),
            Some("1".into()),
            Some(U256::from(CHAIN)),
            Some(CONTRACT),
            None,
        );
        let (publicKey, extraData) =
            (Bytes::from_static(PUBLIC_KEY), self.extra_data.clone().into());
        let (contractAddresses, startTimestamp) = (self.contracts.clone(), U256::from(self.start));
        let durationDays = U256::from(self.seconds);
        match self.way {
            Way::Public | Way::Direct => direct::UserDecryptRequestVerification {
                publicKey,
                contractAddresses,
                startTimestamp,
                durationDays,
                extraData,
            }
            .eip712_signing_hash(&domain),
            Way::Delegated => direct::DelegatedUserDecryptRequestVerification {
                publicKey,
                contractAddresses,
                delegatorAddress: OWNER,
                startTimestamp,
                durationDays,
                extraData,
            }
            .eip712_signing_hash(&domain),
            Way::Unified => unified::UserDecryptRequestVerification {
                userAddress: self.user,
                publicKey,
                allowedContracts: contractAddresses,
                startTimestamp,
                durationSeconds: durationDays,
                extraData,
            }
            .eip712_signing_hash(&domain),
        }
    }

    fn signature(&self) -> Bytes {
        let signed = || key().sign_hash_sync(&self.digest()).unwrap().as_bytes().into();
        self.signature.clone().unwrap_or_else(signed)
    }

    fn pairs(&self) -> Vec<(B256, Address)> {
        self.handles.iter().map(|handle| (*handle, TOKEN)).collect()
    }

    /// Of the request's transaction.
    pub(super) fn calldata(&self) -> Bytes {
        let requestValidity = (U256::from(self.start), U256::from(self.seconds));
        let contractsInfo = (U256::from(CHAIN), self.contracts.clone());
        let publicKey = Bytes::from_static(PUBLIC_KEY);
        let (signature, extraData) = (self.signature(), self.extra_data.clone().into());
        let ctHandleContractPairs = self.pairs();
        match self.way {
            Way::Public | Way::Unified => Bytes::new(),
            Way::Direct => direct::userDecryptionRequestCall {
                ctHandleContractPairs,
                requestValidity,
                contractsInfo,
                userAddress: self.user,
                publicKey,
                signature,
                extraData,
            }
            .abi_encode()
            .into(),
            Way::Delegated => direct::delegatedUserDecryptionRequestCall {
                ctHandleContractPairs,
                requestValidity,
                delegationAccounts: (OWNER, self.user),
                contractsInfo,
                publicKey,
                signature,
                extraData,
            }
            .abi_encode()
            .into(),
        }
    }

    pub(super) fn event(&self) -> Event {
        let mut handles = self.handles.to_vec();
        if let Some(other) = self.other_material {
            handles[1] = other;
        }
        let material = |handle| (handle, U256::ONE, keccak256(CIPHERTEXT), vec![Address::ZERO]);
        let snsCtMaterials: Vec<_> = handles.into_iter().map(material).collect();
        let kind = if self.way == Way::Public { 1 } else { 2 };
        let decryptionId = (U256::from(kind) << 248) | U256::ONE;
        let publicKey = Bytes::from_static(self.other_key.unwrap_or(PUBLIC_KEY));
        let extraData: Bytes = self.extra_data.clone().into();
        let log = match self.way {
            Way::Public => {
                direct::PublicDecryptionRequest { decryptionId, snsCtMaterials, extraData }
                    .encode_log_data()
            }
            Way::Direct | Way::Delegated => direct::UserDecryptionRequest {
                decryptionId,
                snsCtMaterials,
                userAddress: self.user,
                publicKey,
                extraData,
            }
            .encode_log_data(),
            Way::Unified => {
                let entries = self.handles.into_iter().zip(self.owners);
                let validity = (U256::from(self.start), U256::from(self.seconds));
                unified::UserDecryptionRequest {
                    decryptionId,
                    snsCtMaterials,
                    handles: entries.map(|(handle, owner)| (handle, TOKEN, owner)).collect(),
                    payload: (
                        self.user,
                        publicKey,
                        self.contracts.clone(),
                        validity,
                        extraData,
                        self.signature(),
                    ),
                }
                .encode_log_data()
            }
        };
        Event {
            block: BlockRef { number: 0, hash: B256::ZERO },
            transaction: B256::with_last_byte(0x77),
            log_index: 0,
            topics: log.topics().to_vec(),
            data: log.data,
        }
    }
}

/// What ends as refused, with the word for it.
pub(super) fn refusals() -> Vec<(&'static str, Ask, Prepare)> {
    let nothing: Prepare = |_| {};
    let (direct, delegated, unified) = (Ask::direct, Ask::delegated, Ask::unified);
    let with_user = |mut ask: Ask| {
        ask.contracts.push(ask.user);
        ask
    };
    let with_owner = |mut ask: Ask| {
        ask.contracts.push(OWNER);
        ask
    };
    let on_another_chain = |mut ask: Ask| {
        ask.handles[1][29] ^= 1;
        ask
    };
    let swapped: Option<&'static [u8]> = Some(b"the liar's key");
    let nobodys = || Some(Bytes::from(vec![7; 65]));
    let invalidated: Prepare = |host| {
        let call = acl::signature_invalidated_before(user_address()).calldata();
        host.answer(call, U256::MAX);
    };
    let mut refusals = vec![
        ("foreign_call", Ask { calls: Some(OTHER_CONTRACT), ..direct() }, nothing),
        ("foreign_call", Ask { calls: Some(OTHER_CONTRACT), ..delegated() }, nothing),
        ("user_among_contracts", with_user(direct()), nothing),
        ("user_among_contracts", with_owner(delegated()), nothing),
        ("user_among_contracts", with_user(unified()), nothing),
        ("validity_expired", Ask { seconds: 10, ..unified() }, nothing),
        ("signature_invalidated", unified(), invalidated),
        ("materials_differ", Ask { other_material: Some(handle(9)), ..unified() }, nothing),
        ("signature_invalid", Ask { signature: Some(Bytes::new()), ..unified() }, nothing),
        ("signature_invalid", Ask { other_key: swapped, ..unified() }, nothing),
    ];
    for ask in [direct(), delegated()] {
        refusals.push(("calldata_differs", Ask { other_key: swapped, ..ask.clone() }, nothing));
        let forged = Ask { other_material: Some(handle(9)), ..ask.clone() };
        refusals.push(("calldata_differs", forged, nothing));
        refusals.push(("signature_invalid", Ask { signature: nobodys(), ..ask.clone() }, nothing));
    }
    for ask in [direct(), delegated(), unified()] {
        let (several, odd) = (on_another_chain(ask.clone()), Ask { extra_data: vec![9], ..ask });
        refusals.push(("handles_of_several_chains", several, nothing));
        refusals.push(("extra_data_invalid", odd, nothing));
    }
    refusals
}

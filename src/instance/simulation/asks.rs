//! What people of a simulated world ask for: the transaction that asks, the events that a generation of the
//! contract emits for it, and what the host chain must grant before anybody may be told.
#![expect(non_snake_case, reason = "arguments have the contract's names")]

mod abi;

use alloy::{
    primitives::{LogData, keccak256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::{Eip712Domain, SolCall as _, SolEvent as _, SolStruct as _},
};
use fastrand::Rng;

use self::abi::{legacy, plain, plain_unified, unified};
use super::{
    contexts::{context, epoch},
    deployment::{COPROCESSORS, Coprocessor, DECRYPTION},
};
use crate::{
    contracts::abi::{Counter, Generation},
    domain::{Address, B256, Bytes, U256, handle_chain_id},
};

/// The key of all ciphertexts.
pub(super) const KEY_ID: U256 = U256::from_limbs([7, 0, 0, 0]);
/// The contract that the handles belong to, and another one that users sign for.
const CONTRACTS: [Address; 2] = [Address::repeat_byte(0x70), Address::repeat_byte(0x71)];
const DAY: u64 = 86_400;
/// How long signatures are valid.
const VALID_DAYS: u64 = 10;
/// The salt of a transaction's hash.
const TRANSACTION: u8 = 0xee;

/// The function that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Public,
    Direct,
    Delegated,
    Unified,
}

/// For what a request is refused from G12 on, whatever is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    ForeignCall,
    BadSignature,
    Expired,
    SeveralChains,
}

impl Flaw {
    /// The operator's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ForeignCall => "foreign_call",
            Self::BadSignature => "signature_invalid",
            Self::Expired => "validity_expired",
            Self::SeveralChains => "handles_of_several_chains",
        }
    }
}

/// A handle, and the digest of its ciphertext.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cipher {
    pub handle: B256,
    pub digest: B256,
}

/// One thing that is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grant {
    Everybody {
        handle: B256,
    },
    Account {
        handle: B256,
        account: Address,
    },
    Delegation {
        delegator: Address,
        delegate: Address,
        contract: Address,
        handle: B256,
    },
    /// The account stands by what it signed (ERC-1271).
    Signature {
        account: Address,
    },
}

/// One request as it was made. Its number comes with its block.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// Its transaction.
    pub transaction: B256,
    pub flaw: Option<Flaw>,
    pub ciphers: Vec<Cipher>,
    /// From when on the user's signature is valid, in Unix seconds.
    pub start: u64,
    /// The user is a contract that judges signatures itself (ERC-1271).
    pub is_account: bool,
    pub user: Address,
    way: Way,
    /// Has delegated to the user what is not the user's own.
    owner: Address,
    public_key: Bytes,
    extra_data: Bytes,
    signature: Bytes,
}

/// What an ask is made of besides its dice.
pub(super) struct Making {
    pub made: u64,
    /// The contract's at present.
    pub generation: Generation,
    /// Number of the KMS context that is current.
    pub context: u64,
    /// Unix seconds.
    pub now: u64,
    pub may_be_flawed: bool,
    pub ciphers: Vec<Cipher>,
}

impl Ask {
    pub fn new(making: Making, dice: &mut Rng) -> Self {
        let Making { made, generation, context, now, may_be_flawed, mut ciphers } = making;
        let ways = [Way::Public, Way::Public, Way::Direct, Way::Delegated, Way::Unified];
        let ways = if generation < Generation::G14 { &ways[..4] } else { &ways[..] };
        let mut hosts = ciphers.iter().map(|cipher| handle_chain_id(&cipher.handle));
        let first_host = hosts.next();
        let is_mixed = hosts.any(|host| Some(host) != first_host);
        // Only what everybody may know is of several chains.
        let way = if is_mixed { Way::Public } else { *dice.choice(ways).unwrap() };
        let may_be_flawed = may_be_flawed && generation >= Generation::G12;
        let is_flawed = may_be_flawed && dice.u8(..12) == 0;
        let flaw = if is_flawed { dice.choice(flaws(way)).copied() } else { None };
        if flaw == Some(Flaw::SeveralChains) {
            let first = ciphers[0];
            let mut other = first.handle;
            // Of the other host chain; or, where there is only one, of none.
            other.0[29] ^= 3;
            ciphers.push(Cipher { handle: other, ..first });
        }
        let salted = |salt: u8| salted(made, salt);
        let key = PrivateKeySigner::from_bytes(&salted(1)).unwrap();
        let is_account = way == Way::Unified && flaw.is_none() && dice.u8(..4) == 0;
        let start = match flaw {
            Some(Flaw::Expired) => now - 2 * VALID_DAYS * DAY,
            _ if way == Way::Unified && may_be_flawed && dice.u8(..4) == 0 => {
                now + dice.u64(1..=100)
            }
            _ => now - 100,
        };
        let mut ask = Self {
            transaction: salted(TRANSACTION),
            flaw,
            ciphers,
            start,
            is_account,
            user: if is_account { Address::from_word(salted(2)) } else { key.address() },
            way,
            owner: Address::from_word(salted(3)),
            public_key: salted(4).to_vec().into(),
            extra_data: extra_data(generation, (context, may_be_flawed), dice),
            signature: vec![7; 65].into(),
        };
        if flaw != Some(Flaw::BadSignature) {
            ask.signature = key.sign_hash_sync(&ask.digest()).unwrap().as_bytes().into();
        }
        ask
    }

    /// The same, asked once more in a transaction of its own.
    pub fn again(&self, made: u64) -> Self {
        Self { transaction: salted(made, TRANSACTION), ..self.clone() }
    }

    /// The oldest contract that takes it, and at which it ends as it should.
    pub fn least_generation(&self) -> Generation {
        let version = self.extra_data.first().copied().unwrap_or(0);
        if self.way == Way::Unified || version > 1 {
            Generation::G14
        } else if version > 0 || self.extra_data.is_empty() || self.flaw.is_some() {
            Generation::G12
        } else {
            Generation::UpToG10
        }
    }

    /// Whether its handles are of several chains.
    pub fn is_mixed(&self) -> bool {
        self.needs().len() > self.needs_of(handle_chain_id(&self.ciphers[0].handle)).len()
    }

    pub fn counter(&self) -> Counter {
        if self.way == Way::Public { Counter::Public } else { Counter::User }
    }

    pub fn handles(&self) -> Vec<B256> {
        self.ciphers.iter().map(|cipher| cipher.handle).collect()
    }

    /// From when and until when the user's signature is valid, where connectors judge that (Unix seconds).
    pub fn window(&self) -> Option<(u64, u64)> {
        (self.way == Way::Unified).then(|| (self.start, self.start + VALID_DAYS * DAY))
    }

    /// The KMS context that it names.
    pub fn context(&self) -> Option<U256> {
        named_context(&self.extra_data)
    }

    /// Whether this is what the Core was asked.
    pub fn is_asked_by(&self, handles: &[B256], public_key: Option<&[u8]>) -> bool {
        let own = (self.way != Way::Public).then_some(&self.public_key[..]);
        self.handles() == handles && own == public_key
    }

    /// Whose handle it is: the first one is the user's own.
    fn owner_of(&self, index: usize) -> Address {
        if index == 0 { self.user } else { self.owner }
    }

    /// Everything that the host chain must grant.
    pub fn needs(&self) -> Vec<Grant> {
        let mut needs = Vec::new();
        let [contract, _] = CONTRACTS;
        for (index, Cipher { handle, .. }) in self.ciphers.iter().copied().enumerate() {
            let allowed = |account| Grant::Account { handle, account };
            let delegated =
                |delegator| Grant::Delegation { delegator, delegate: self.user, contract, handle };
            match self.way {
                Way::Public => needs.push(Grant::Everybody { handle }),
                Way::Direct => needs.extend([allowed(self.user), allowed(contract)]),
                Way::Delegated => needs.push(delegated(self.owner)),
                Way::Unified => {
                    let owner = self.owner_of(index);
                    let own = owner == self.user;
                    needs.push(if own { allowed(owner) } else { delegated(owner) });
                    needs.push(allowed(contract));
                }
            }
        }
        if self.is_account {
            needs.push(Grant::Signature { account: self.user });
        }
        needs
    }

    /// What this host chain must grant.
    pub fn needs_of(&self, chain_id: u64) -> Vec<Grant> {
        let mut needs = self.needs();
        needs.retain(|need| {
            let of = match need {
                Grant::Everybody { handle }
                | Grant::Account { handle, .. }
                | Grant::Delegation { handle, .. } => handle,
                Grant::Signature { .. } => &self.ciphers[0].handle,
            };
            handle_chain_id(of) == chain_id
        });
        needs
    }

    /// The host chain of what a user asks for.
    fn host(&self) -> U256 {
        U256::from(handle_chain_id(&self.ciphers[0].handle))
    }

    /// What the user signs.
    fn digest(&self) -> B256 {
        let domain = Eip712Domain::new(
            Some("Decryption".into()),
            Some("1".into()),
            Some(self.host()),
            Some(DECRYPTION),
            None,
        );
        let (key, extra, contracts) =
            (self.public_key.clone(), self.extra_data.clone(), CONTRACTS.to_vec());
        let (start, days) = (U256::from(self.start), U256::from(VALID_DAYS));
        match self.way {
            Way::Public | Way::Direct => legacy::UserDecryptRequestVerification {
                publicKey: key,
                contractAddresses: contracts,
                startTimestamp: start,
                durationDays: days,
                extraData: extra,
            }
            .eip712_signing_hash(&domain),
            Way::Delegated => legacy::DelegatedUserDecryptRequestVerification {
                publicKey: key,
                contractAddresses: contracts,
                delegatorAddress: self.owner,
                startTimestamp: start,
                durationDays: days,
                extraData: extra,
            }
            .eip712_signing_hash(&domain),
            Way::Unified => unified::UserDecryptRequestVerification {
                userAddress: self.user,
                publicKey: key,
                allowedContracts: contracts,
                startTimestamp: start,
                durationSeconds: days * U256::from(DAY),
                extraData: extra,
            }
            .eip712_signing_hash(&domain),
        }
    }

    /// The contract that its transaction calls, and how. Only what a connector reads has its arguments.
    pub fn call(&self) -> (Address, Bytes) {
        let to = if self.flaw == Some(Flaw::ForeignCall) { CONTRACTS[1] } else { DECRYPTION };
        let pairs = self.ciphers.iter().map(|cipher| (cipher.handle, CONTRACTS[0])).collect();
        let validity = (U256::from(self.start), U256::from(VALID_DAYS));
        let contracts = (self.host(), CONTRACTS.to_vec());
        let (publicKey, signature, extraData) =
            (self.public_key.clone(), self.signature.clone(), self.extra_data.clone());
        let input = match self.way {
            Way::Public | Way::Unified => Vec::new(),
            Way::Direct => abi::userDecryptionRequestCall {
                ctHandleContractPairs: pairs,
                requestValidity: validity,
                contractsInfo: contracts,
                userAddress: self.user,
                publicKey,
                signature,
                extraData,
            }
            .abi_encode(),
            Way::Delegated => abi::delegatedUserDecryptionRequestCall {
                ctHandleContractPairs: pairs,
                requestValidity: validity,
                delegationAccounts: (self.owner, self.user),
                contractsInfo: contracts,
                publicKey,
                signature,
                extraData,
            }
            .abi_encode(),
        };
        (to, input.into())
    }

    /// The events of its transaction, in their order.
    pub fn logs(&self, decryptionId: U256, generation: Generation) -> Vec<LogData> {
        let material = |cipher: &Cipher| {
            (
                cipher.handle,
                KEY_ID,
                cipher.digest,
                COPROCESSORS.map(Coprocessor::tx_sender).to_vec(),
            )
        };
        let snsCtMaterials: Vec<_> = self.ciphers.iter().map(material).collect();
        let (extraData, ctHandles) = (self.extra_data.clone(), self.handles());
        let (userAddress, publicKey) = (self.user, self.public_key.clone());
        let is_head = generation >= Generation::Head;
        let entries = self.ciphers.iter().enumerate();
        let handles: Vec<_> = entries
            .map(|(index, cipher)| (cipher.handle, CONTRACTS[0], self.owner_of(index)))
            .collect();
        let payload = (
            self.user,
            publicKey.clone(),
            CONTRACTS.to_vec(),
            (U256::from(self.start), U256::from(VALID_DAYS * DAY)),
            extraData.clone(),
            self.signature.clone(),
        );
        let [first, second] = match self.way {
            Way::Public => [
                legacy::PublicDecryptionRequest {
                    decryptionId,
                    snsCtMaterials,
                    extraData: extraData.clone(),
                }
                .encode_log_data(),
                plain::PublicDecryptionRequest { decryptionId, ctHandles, extraData }
                    .encode_log_data(),
            ],
            Way::Direct | Way::Delegated => [
                legacy::UserDecryptionRequest {
                    decryptionId,
                    snsCtMaterials,
                    userAddress,
                    publicKey: publicKey.clone(),
                    extraData: extraData.clone(),
                }
                .encode_log_data(),
                plain::UserDecryptionRequest {
                    decryptionId,
                    ctHandles,
                    userAddress,
                    publicKey,
                    extraData,
                }
                .encode_log_data(),
            ],
            Way::Unified => [
                unified::UserDecryptionRequest {
                    decryptionId,
                    snsCtMaterials,
                    handles: handles.clone(),
                    payload: payload.clone(),
                }
                .encode_log_data(),
                plain_unified::UserDecryptionRequest { decryptionId, handles, payload }
                    .encode_log_data(),
            ],
        };
        if is_head { vec![first, second] } else { vec![first] }
    }
}

/// Something of the ask that was made as this one.
fn salted(made: u64, salt: u8) -> B256 {
    keccak256([&made.to_be_bytes()[..], &[salt]].concat())
}

/// The flaws that a request of this kind may have.
fn flaws(way: Way) -> &'static [Flaw] {
    match way {
        Way::Public => &[],
        Way::Direct | Way::Delegated => &[Flaw::ForeignCall, Flaw::SeveralChains],
        Way::Unified => &[Flaw::BadSignature, Flaw::Expired, Flaw::SeveralChains],
    }
}

/// The KMS context that this `extraData` names.
pub(super) fn named_context(extra_data: &[u8]) -> Option<U256> {
    matches!(extra_data, [1 | 2, ..]).then(|| U256::from_be_slice(&extra_data[1..33]))
}

/// `extraData` as this generation takes it: none, or a context and its epoch: the current one, or at times
/// (`may_be_old`) the one before.
fn extra_data(generation: Generation, (current, may_be_old): (u64, bool), dice: &mut Rng) -> Bytes {
    let versions = match generation {
        Generation::UpToG10 => 0..=0,
        Generation::G12 | Generation::G13 => 0..=2,
        Generation::G14 | Generation::Head => 0..=3,
    };
    let is_old = may_be_old && current > 1 && dice.u8(..4) == 0;
    let number = current - u64::from(is_old);
    let words = [context(number), epoch(number)].map(|id| id.to_be_bytes::<32>());
    match dice.u8(versions) {
        0 => vec![0].into(),
        1 => Bytes::new(),
        2 => [&[1][..], &words[0]].concat().into(),
        _ => [&[2][..], &words[0], &words[1]].concat().into(),
    }
}

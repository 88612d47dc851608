//! Who asks for a decryption and by what right: what connectors check from G12 on, when the gateway
//! does not. The calldata of such requests, and what their users sign.

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    signers::local::PrivateKeySigner,
    sol_types::{SolCall as _, SolValue as _},
};

use super::{
    Result,
    contracts::{
        ContractsInfo, CtHandleContractPair, Decryption, DelegationAccounts, G8, G14, HandleEntry,
        HeadHandles, HeadUnified, RequestValidity, RequestValiditySeconds,
        UserDecryptionRequestPayload, Variant, raw,
    },
    deployment::Deployment,
    random_address, random_key,
    request::{Ask, Kind},
    signing::{Domain, sign},
    unix_seconds,
};

/// The function of the contract a user request comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// For handles of the user's own.
    Direct,
    /// For handles of the first owner, who has delegated to the user.
    Delegated,
    /// From G14 on, for handles of anybody's.
    Unified,
}

/// What nobody looks at before G12, and of a public request never.
#[derive(Clone, Debug)]
pub struct Access {
    pub path: Path,
    /// Signs for the user: that is its address, unless the user is a smart account.
    pub key: PrivateKeySigner,
    /// The contract of each handle.
    pub contracts: Vec<Address>,
    /// Who has each handle: the user, or who has delegated to the user.
    pub owners: Vec<Address>,
    /// The contracts the user signs for; those of the handles if `None`.
    pub allowed: Option<Vec<Address>>,
    /// Unix seconds.
    pub start: u64,
    /// Legacy requests count whole days of it, at least one.
    pub seconds: u64,
    /// In place of what `key` signs.
    pub signature: Option<Bytes>,
}

/// A request's validity begins so long ago: no block of any chain is older than that by mistake.
const BEFORE: u64 = 60;
const DAY: u64 = 86_400;

impl Access {
    /// A user with a fresh key who has `handles` handles of one contract.
    pub fn direct(handles: usize) -> Self {
        let key = random_key();
        Self {
            path: Path::Direct,
            contracts: vec![random_address(); handles],
            owners: vec![key.address(); handles],
            key,
            allowed: None,
            start: unix_seconds() - BEFORE,
            seconds: DAY,
            signature: None,
        }
    }

    /// The contracts the user signs for.
    pub fn allowed(&self) -> Vec<Address> {
        self.allowed.clone().unwrap_or_else(|| {
            let mut each = self.contracts.clone();
            each.dedup();
            each
        })
    }

    fn days(&self) -> U256 {
        U256::from(self.seconds.div_ceil(DAY).max(1))
    }
}

impl Ask {
    /// As [`Ask::mixed`], where users ask in turn in each way that the variant has.
    pub fn mixed_of(variant: Variant, public: usize, user: usize) -> Vec<Self> {
        let ways = if variant.since(Variant::G14) {
            4
        } else if variant.since(Variant::G12) {
            2
        } else {
            1
        };
        let mut users = 0;
        let in_turn = |ask: Self| {
            if ask.kind == Kind::Public {
                return ask;
            }
            users += 1;
            match users % ways {
                1 => ask.delegated(),
                2 => ask.unified(),
                3 => ask.delegated().unified(),
                _ => ask,
            }
        };
        Self::mixed(public, user).into_iter().map(in_turn).collect()
    }

    /// For handles of somebody who has delegated to the user.
    #[must_use]
    pub fn delegated(mut self) -> Self {
        let delegator = random_address();
        self.access.path = Path::Delegated;
        self.access.owners.fill(delegator);
        self
    }

    /// By the request function of G14.
    #[must_use]
    pub fn unified(mut self) -> Self {
        self.access.path = Path::Unified;
        self
    }

    /// By a smart account, in a unified request. Its key still signs.
    #[must_use]
    pub fn by_account(mut self, account: Address) -> Self {
        let user = std::mem::replace(&mut self.user, account);
        for owner in &mut self.access.owners {
            if *owner == user {
                *owner = account;
            }
        }
        self.unified()
    }

    /// With handles of another host chain.
    #[must_use]
    pub fn on_chain(mut self, chain_id: u64) -> Self {
        for ciphertext in &mut self.ciphertexts {
            ciphertext.handle.0[22..30].copy_from_slice(&chain_id.to_be_bytes());
        }
        self
    }

    /// `extraData` that names a context.
    #[must_use]
    pub fn in_context(self, context: U256) -> Self {
        let mut bytes = vec![1];
        bytes.extend(context.to_be_bytes::<32>());
        self.extra_data(bytes)
    }

    /// `extraData` that names a context and an epoch.
    #[must_use]
    pub fn in_epoch(self, context: U256, epoch: U256) -> Self {
        let mut bytes = vec![2];
        bytes.extend(context.to_be_bytes::<32>());
        bytes.extend(epoch.to_be_bytes::<32>());
        self.extra_data(bytes)
    }

    /// The chain of the first handle; 0 where there is none.
    pub fn chain_id(&self) -> u64 {
        self.ciphertexts.first().map_or(0, |ciphertext| chain_of(ciphertext.handle))
    }

    pub fn handles(&self) -> Vec<B256> {
        self.ciphertexts.iter().map(|ciphertext| ciphertext.handle).collect()
    }

    /// The entries of a unified request.
    pub fn entries(&self) -> Vec<HandleEntry> {
        let access = &self.access;
        let each = self.handles().into_iter().zip(&access.contracts).zip(&access.owners);
        each.map(|((handle, contract), owner)| HandleEntry {
            handle,
            contractAddress: *contract,
            ownerAddress: *owner,
        })
        .collect()
    }

    /// The payload of a unified request.
    pub fn payload(&self, gateway: Domain) -> Result<UserDecryptionRequestPayload> {
        Ok(UserDecryptionRequestPayload {
            userAddress: self.user,
            publicKey: self.public_key.clone(),
            allowedContracts: self.access.allowed(),
            requestValidity: self.validity_in_seconds(),
            extraData: self.extra_data.clone(),
            signature: self.signature(gateway)?,
        })
    }

    fn validity_in_seconds(&self) -> RequestValiditySeconds {
        RequestValiditySeconds {
            startTimestamp: U256::from(self.access.start),
            durationSeconds: U256::from(self.access.seconds),
        }
    }

    /// What the user signs, or what stands in its place.
    pub fn signature(&self, gateway: Domain) -> Result<Bytes> {
        let access = &self.access;
        if let Some(signature) = &access.signature {
            return Ok(signature.clone());
        }
        sign(&access.key, self.user_digest(gateway))
    }

    /// The digest a user signs: under the chain of the handles and the gateway's contract.
    pub fn user_digest(&self, gateway: Domain) -> B256 {
        let access = &self.access;
        let start = U256::from(access.start);
        let allowed = keccak256(access.allowed().iter().fold(Vec::new(), |mut words, contract| {
            words.extend(contract.into_word());
            words
        }));
        let (key, extra) = (keccak256(&self.public_key), keccak256(&self.extra_data));
        let structure = match access.path {
            Path::Direct => (
                keccak256("UserDecryptRequestVerification(bytes publicKey,address[] contractAddresses,uint256 startTimestamp,uint256 durationDays,bytes extraData)"),
                key,
                allowed,
                start,
                access.days(),
                extra,
            )
                .abi_encode(),
            Path::Delegated => (
                keccak256("DelegatedUserDecryptRequestVerification(bytes publicKey,address[] contractAddresses,address delegatorAddress,uint256 startTimestamp,uint256 durationDays,bytes extraData)"),
                key,
                allowed,
                access.owners.first().copied().unwrap_or_default(),
                start,
                access.days(),
                extra,
            )
                .abi_encode(),
            Path::Unified => (
                keccak256("UserDecryptRequestVerification(address userAddress,bytes publicKey,address[] allowedContracts,uint256 startTimestamp,uint256 durationSeconds,bytes extraData)"),
                self.user,
                key,
                allowed,
                start,
                U256::from(access.seconds),
                extra,
            )
                .abi_encode(),
        };
        Domain { chain_id: self.chain_id(), ..gateway }.digest(&structure)
    }

    /// The calldata of the request, as a relayer sends it.
    pub fn calldata(&self, gateway: Domain) -> Result<Bytes> {
        if self.kind == Kind::Public {
            let handles = self.handles();
            let call = G8::publicDecryptionRequestCall::new((handles, self.extra_data.clone()));
            return Ok(call.abi_encode().into());
        }
        let access = &self.access;
        let (signature, key, extra) =
            (self.signature(gateway)?, self.public_key.clone(), self.extra_data.clone());
        if access.path == Path::Unified {
            let call = G14::userDecryptionRequestCall {
                handles: self.entries(),
                userAddress: self.user,
                publicKey: key,
                allowedContracts: access.allowed(),
                requestValidity: self.validity_in_seconds(),
                signature,
                extraData: extra,
            };
            return Ok(call.abi_encode().into());
        }
        let pairs = self.handles().into_iter().zip(&access.contracts);
        let pairs = pairs.map(|(handle, contract)| CtHandleContractPair {
            ctHandle: handle,
            contractAddress: *contract,
        });
        let validity = RequestValidity {
            startTimestamp: U256::from(access.start),
            durationDays: access.days(),
        };
        let contracts =
            ContractsInfo { chainId: U256::from(self.chain_id()), addresses: access.allowed() };
        let data = if access.path == Path::Direct {
            G8::userDecryptionRequestCall {
                ctHandleContractPairs: pairs.collect(),
                requestValidity: validity,
                contractsInfo: contracts,
                userAddress: self.user,
                publicKey: key,
                signature,
                extraData: extra,
            }
            .abi_encode()
        } else {
            G8::delegatedUserDecryptionRequestCall {
                ctHandleContractPairs: pairs.collect(),
                requestValidity: validity,
                delegationAccounts: DelegationAccounts {
                    delegatorAddress: access.owners.first().copied().unwrap_or_default(),
                    delegateAddress: self.user,
                },
                contractsInfo: contracts,
                publicKey: key,
                signature,
                extraData: extra,
            }
            .abi_encode()
        };
        Ok(data.into())
    }
}

impl Deployment {
    /// The logs of a request of this id, of HEAD: up to v0.14 there is the first of them only.
    pub fn told(&self, ask: &Ask, id: U256) -> Result<[Decryption::RawLog; 2]> {
        let (materials, handles) = (self.materials(ask), ask.handles());
        let (user, key, extra) = (ask.user, ask.public_key.clone(), ask.extra_data.clone());
        Ok(if ask.kind == Kind::Public {
            [
                raw(&G8::PublicDecryptionRequest {
                    decryptionId: id,
                    snsCtMaterials: materials,
                    extraData: extra.clone(),
                }),
                raw(&HeadHandles::PublicDecryptionRequest {
                    decryptionId: id,
                    ctHandles: handles,
                    extraData: extra,
                }),
            ]
        } else if ask.access.path == Path::Unified {
            let payload = ask.payload(self.domain())?;
            [
                raw(&G14::UserDecryptionRequest {
                    decryptionId: id,
                    snsCtMaterials: materials,
                    handles: ask.entries(),
                    payload: payload.clone(),
                }),
                raw(&HeadUnified::UserDecryptionRequest {
                    decryptionId: id,
                    handles: ask.entries(),
                    payload,
                }),
            ]
        } else {
            [
                raw(&G8::UserDecryptionRequest {
                    decryptionId: id,
                    snsCtMaterials: materials,
                    userAddress: user,
                    publicKey: key.clone(),
                    extraData: extra.clone(),
                }),
                raw(&HeadHandles::UserDecryptionRequest {
                    decryptionId: id,
                    ctHandles: handles,
                    userAddress: user,
                    publicKey: key,
                    extraData: extra,
                }),
            ]
        })
    }

    /// The id of the next request of a kind, where the top byte of an id tells its kind.
    pub async fn next_id(&self, kind: Kind) -> Result<U256> {
        let (tag, last) = match kind {
            Kind::Public => {
                (1, self.chain.call(self.decryption, &Decryption::publicCounterCall {}).await?)
            }
            Kind::User => {
                (2, self.chain.call(self.decryption, &Decryption::userCounterCall {}).await?)
            }
        };
        Ok((U256::from(tag) << 248) + last + U256::ONE)
    }
}

/// The host chain of a handle.
pub fn chain_of(handle: B256) -> u64 {
    let mut id = [0; 8];
    id.copy_from_slice(&handle[22..30]);
    u64::from_be_bytes(id)
}

//! Calldata of the request functions whose events do not carry what the user signed (gateway-abi 4.2):
//! the user decryption request and its delegated form, from v0.8.0-2 on.

use alloy::{sol, sol_types::SolCall};

use super::DECODER;
use crate::domain::{Address, B256, Bytes, U256};

sol! {
    // ctHandleContractPairs: (handle, contract); requestValidity: (startTimestamp, durationDays);
    // contractsInfo: (chainId, addresses); delegationAccounts: (delegator, delegate).
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

/// What a user asked for and signed, as the transaction carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyUserCall {
    /// The handles, each with the contract that it belongs to.
    pub pairs: Vec<(B256, Address)>,
    /// When the signature begins to be valid, in seconds since 1970.
    pub start: U256,
    pub duration_days: U256,
    /// The chain of the contracts.
    pub chain_id: U256,
    /// The contracts that the user signed for.
    pub contracts: Vec<Address>,
    /// The recipient of the shares, who signed; in a delegated request the delegate.
    pub user: Address,
    /// Whose rights a delegated request uses. `None`: the user's own.
    pub delegator: Option<Address>,
    pub public_key: Bytes,
    pub signature: Bytes,
    pub extra_data: Bytes,
}

impl LegacyUserCall {
    /// Decodes the input of a transaction. `None`: another function, or arguments that the contract would
    /// refuse to decode.
    #[must_use]
    pub fn decode(input: &[u8]) -> Option<Self> {
        let (selector, arguments) = input.split_first_chunk::<4>()?;
        match *selector {
            userDecryptionRequestCall::SELECTOR => {
                let call =
                    userDecryptionRequestCall::abi_decode_raw_with_config(arguments, DECODER);
                let call = call.ok()?;
                let ((start, duration_days), (chain_id, contracts)) =
                    (call.requestValidity, call.contractsInfo);
                Some(Self {
                    pairs: call.ctHandleContractPairs,
                    start,
                    duration_days,
                    chain_id,
                    contracts,
                    user: call.userAddress,
                    delegator: None,
                    public_key: call.publicKey,
                    signature: call.signature,
                    extra_data: call.extraData,
                })
            }
            delegatedUserDecryptionRequestCall::SELECTOR => {
                let call = delegatedUserDecryptionRequestCall::abi_decode_raw_with_config(
                    arguments, DECODER,
                );
                let call = call.ok()?;
                let ((start, duration_days), (chain_id, contracts)) =
                    (call.requestValidity, call.contractsInfo);
                let (delegator, delegate) = call.delegationAccounts;
                Some(Self {
                    pairs: call.ctHandleContractPairs,
                    start,
                    duration_days,
                    chain_id,
                    contracts,
                    user: delegate,
                    delegator: Some(delegator),
                    public_key: call.publicKey,
                    signature: call.signature,
                    extra_data: call.extraData,
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::hex;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn g2_the_selectors_are_those_of_the_table() {
        assert_eq!(userDecryptionRequestCall::SELECTOR, hex!("f1b57adb"));
        assert_eq!(delegatedUserDecryptionRequestCall::SELECTOR, hex!("9fad5a2f"));
    }

    /// Words written as hex, separated by white space; short ones are padded on the left.
    fn words(selector: &str, text: &str) -> Vec<u8> {
        let words = text.split_whitespace();
        let words = words.map(|word| hex::decode(format!("{word:0>64}")).unwrap());
        let selector = hex::decode(selector).unwrap();
        selector.into_iter().chain(words.flatten()).collect()
    }

    /// Both functions with the same arguments, word by word.
    #[test]
    fn g2_reads_a_call_word_by_word() {
        let pair = "1
            a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a100000000000030290500
            e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1";
        let info = "3029 40 1 e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1";
        let texts = "3 aabbcc0000000000000000000000000000000000000000000000000000000000
            2 5a5b000000000000000000000000000000000000000000000000000000000000
            1 0100000000000000000000000000000000000000000000000000000000000000";
        let user = "0505050505050505050505050505050505050505";
        let direct = format!("100 6a000000 7 160 {user} 1e0 220 260 {pair} {info} {texts}");
        let expected = LegacyUserCall {
            pairs: vec![(
                B256::from(hex!(
                    "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a100000000000030290500"
                )),
                Address::repeat_byte(0xe1),
            )],
            start: U256::from(0x6a00_0000),
            duration_days: U256::from(7),
            chain_id: U256::from(0x3029),
            contracts: vec![Address::repeat_byte(0xe1)],
            user: Address::repeat_byte(5),
            delegator: None,
            public_key: Bytes::from_static(&[0xaa, 0xbb, 0xcc]),
            signature: Bytes::from_static(&[0x5a, 0x5b]),
            extra_data: Bytes::from_static(&[1]),
        };
        let call = words("f1b57adb", &direct);
        assert_eq!(LegacyUserCall::decode(&call), Some(expected.clone()));

        let delegator = "0606060606060606060606060606060606060606";
        let delegated =
            format!("120 6a000000 7 {delegator} {user} 180 200 240 280 {pair} {info} {texts}");
        let delegator = Some(Address::repeat_byte(6));
        let call = words("9fad5a2f", &delegated);
        assert_eq!(
            LegacyUserCall::decode(&call),
            Some(LegacyUserCall { delegator, ..expected.clone() })
        );

        // The arguments of the other function, another function, and none.
        assert_eq!(LegacyUserCall::decode(&words("9fad5a2f", &direct)), None);
        assert_eq!(LegacyUserCall::decode(&words("b4de2c37", &direct)), None);
        assert_eq!(LegacyUserCall::decode(&[]), None);
        // The padding of the last text may be missing.
        for length in 0..call.len() - 31 {
            assert_eq!(LegacyUserCall::decode(&call[..length]), None, "{length} bytes");
        }
    }

    fn some_bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
    }

    fn some_address() -> impl Strategy<Value = Address> {
        any::<[u8; 20]>().prop_map(Address::from)
    }

    fn some_call() -> impl Strategy<Value = LegacyUserCall> {
        let word = || any::<[u8; 32]>().prop_map(U256::from_be_bytes::<32>);
        let pair = (any::<[u8; 32]>().prop_map(B256::from), some_address());
        let parts = (
            prop::collection::vec(pair, 0..6),
            (word(), word(), word()),
            prop::collection::vec(some_address(), 0..6),
            (some_address(), prop::option::of(some_address())),
            (some_bytes(), some_bytes(), some_bytes()),
        );
        parts.prop_map(
            |(pairs, (start, duration_days, chain_id), contracts, (user, delegator), of)| {
                let (public_key, signature, extra_data) = of;
                LegacyUserCall {
                    pairs,
                    start,
                    duration_days,
                    chain_id,
                    contracts,
                    user,
                    delegator,
                    public_key,
                    signature,
                    extra_data,
                }
            },
        )
    }

    fn encode(call: LegacyUserCall) -> Vec<u8> {
        let validity = (call.start, call.duration_days);
        let contracts = (call.chain_id, call.contracts);
        match call.delegator {
            None => userDecryptionRequestCall {
                ctHandleContractPairs: call.pairs,
                requestValidity: validity,
                contractsInfo: contracts,
                userAddress: call.user,
                publicKey: call.public_key,
                signature: call.signature,
                extraData: call.extra_data,
            }
            .abi_encode(),
            Some(delegator) => delegatedUserDecryptionRequestCall {
                ctHandleContractPairs: call.pairs,
                requestValidity: validity,
                delegationAccounts: (delegator, call.user),
                contractsInfo: contracts,
                publicKey: call.public_key,
                signature: call.signature,
                extraData: call.extra_data,
            }
            .abi_encode(),
        }
    }

    proptest! {
        #[test]
        fn g2_what_alloy_encodes_is_read_back(call in some_call(), trailing in some_bytes()) {
            let mut input = encode(call.clone());
            prop_assert_eq!(LegacyUserCall::decode(&input), Some(call.clone()));
            input.extend_from_slice(&trailing);
            prop_assert_eq!(LegacyUserCall::decode(&input), Some(call));
        }

        /// Valid calldata with a few changed bytes, cut or under the other selector.
        #[test]
        fn g2_damage_never_panics(
            call in some_call(),
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            end in any::<prop::sample::Index>(),
        ) {
            let mut input = encode(call);
            for (at, value) in hits {
                let at = at.index(input.len());
                input[at] = value;
            }
            prop_assert_eq!(LegacyUserCall::decode(&input), LegacyUserCall::decode(&input));
            input.truncate(end.index(input.len() + 1));
            if let Some(call) = LegacyUserCall::decode(&input) {
                // Every pair needs bytes in the calldata.
                prop_assert!(call.pairs.len() * 64 <= input.len());
            }
        }
    }
}

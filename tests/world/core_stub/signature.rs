//! The signatures of a Core: EIP-712 by the protocol's constants (gateway-abi 10).

use alloy::{
    primitives::{Address, B256, U256, b256, keccak256},
    signers::SignerSync as _,
};
use bytes::Bytes;

use super::{
    Fault,
    state::{Entry, Shared},
};

const DOMAIN_TYPEHASH: B256 =
    b256!("0x8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f");
/// Without and with `extraData`.
pub(super) const PUBLIC_TYPEHASHES: [B256; 2] = [
    b256!("0x0fadf98b8136b99fb0131ba0fcbca3082d7d632509fad62cf0d18ebdf9670cc1"),
    b256!("0x89bac15e5ba205584832145601e359431e80fb9fb331ba5a22058132d525c794"),
];
pub(super) const USER_TYPEHASHES: [B256; 2] = [
    b256!("0x66b7de8ddbdfcd47d72af09b73afd147c55ee65b08d2da318d957728ceb27b65"),
    b256!("0x2c4b1a55fe4090104eb889f0e48d4cf11c7cc4b95cf47117b9f0008cbcc10f5f"),
];
pub(super) const PREP_KEYGEN_TYPEHASHES: [B256; 2] = [
    b256!("0x5f9676496d7809c84f94f0ba86890bd661594fa715e72e57cc327238eb3c5265"),
    b256!("0x76e9aa7d78d48bc6c0bcdce52b7c722f8bce936a97a619baae97af05193c9c66"),
];
pub(super) const KEYGEN_TYPEHASHES: [B256; 2] = [
    b256!("0xa291f9864173cc77db6137c9f5a1d097994dd8ef4d71725f0b12dd94a85dbfb0"),
    b256!("0xbd14835bb4ae13c78ecb88ded2c3370325f39e6006eb94ff45e95f98e4c85a2a"),
];
pub(super) const CRSGEN_TYPEHASHES: [B256; 2] = [
    b256!("0x3778e83715e573b1c60ad238000d5a03bf815d401f31c1de9e6756135b9e5c6a"),
    b256!("0xa264b318e95080300a3f06a6656a8e7fe24f9903f0e6bcca307efbe39c4c4e09"),
];
pub(super) const KEY_DIGEST_TYPEHASH: B256 =
    b256!("0xddd108772e6a3899feb04d148ae915cbe3eb5ebd202688080399e9921ac3616b");
/// The order of secp256k1.
const ORDER: U256 = U256::from_limbs([
    0xbfd2_5e8c_d036_4141,
    0xbaae_dce6_af48_a03b,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
]);

impl Shared {
    /// The EIP-712 signature over the structure of this version, of a decryption.
    pub(super) fn sign(
        &self,
        types: [B256; 2],
        members: &[B256],
        entry: &Entry,
        fault: Option<Fault>,
    ) -> Bytes {
        let with_extra_data = self.options.version.signs_extra_data();
        let extra_data = with_extra_data.then_some(&entry.extra_data);
        let domain = ("Decryption", self.options.chain_id, self.options.decryption);
        self.sign_structure(domain, types, members, extra_data, fault)
    }

    /// The same over any structure that ends with `extraData`, or has none, under a domain: its name,
    /// chain and contract.
    pub(super) fn sign_structure(
        &self,
        (name, chain_id, contract): (&str, u64, Address),
        types: [B256; 2],
        members: &[B256],
        extra_data: Option<&Bytes>,
        fault: Option<Fault>,
    ) -> Bytes {
        let mut structure = types[usize::from(extra_data.is_some())].to_vec();
        for member in members {
            structure.extend_from_slice(member.as_slice());
        }
        if let Some(extra_data) = extra_data {
            structure.extend_from_slice(keccak256(extra_data).as_slice());
        }
        let mut domain = DOMAIN_TYPEHASH.to_vec();
        domain.extend_from_slice(keccak256(name).as_slice());
        domain.extend_from_slice(keccak256("1").as_slice());
        domain.extend_from_slice(&U256::from(chain_id).to_be_bytes::<32>());
        domain.extend_from_slice(&[0; 12]);
        domain.extend_from_slice(contract.as_slice());
        let mut message = vec![0x19, 0x01];
        message.extend_from_slice(keccak256(domain).as_slice());
        message.extend_from_slice(keccak256(structure).as_slice());
        let signer = self.state().signer.clone();
        let signature = signer.sign_hash_sync(&keccak256(message)).expect("a local key signs");
        let mut bytes = signature.as_bytes().to_vec();
        match fault {
            Some(Fault::NoSignature) => bytes.clear(),
            Some(Fault::ShortSignature) => bytes.truncate(64),
            Some(Fault::HighS) => {
                bytes[32..64].copy_from_slice(&(ORDER - signature.s()).to_be_bytes::<32>());
                bytes[64] = if bytes[64] == 27 { 28 } else { 27 };
            }
            _ => {}
        }
        bytes.into()
    }
}

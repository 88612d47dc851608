//! Which kind of key is made, and whether the contracts take an answer about it. Pure.
//!
//! ```text
//! contracts     key_representation  kind of key
//! --------------------------------------------------------------------------------------
//! up to G12     any                 nothing is said: the Cores of that time make uncompressed ones
//! G13, G14      auto, uncompressed  uncompressed
//!               compressed          held: these contracts know no compressed keys
//! HEAD          auto                held: the operators have to agree on one
//!               named               that one
//! not known     auto, compressed    held until it is known
//!               uncompressed        uncompressed
//! any           any                 of a key: what was recorded with its preparation, if that is known
//! ```
//!
//! An answer is sent only about the kind that the Core was told to make, and only to contracts that know it: the
//! others refuse it without saying why.

use crate::{
    contracts::abi::Generation,
    domain::{Hold, HoldReason, KeyOperation, KeyRepresentation},
    flow::RepresentationChoice,
};

fn missing<T>(detail: String) -> Result<T, Hold> {
    Err(Hold::new(HoldReason::KeyRepresentation, detail))
}

/// The kind of key that the Core is told to make; `None`: it is told of none. `recorded`: with the preparation
/// of this key. `gateway`: the generation of the gateway's contracts, if that is known.
pub(in crate::flow) fn chosen(
    operation: &KeyOperation,
    choice: RepresentationChoice,
    gateway: Option<Generation>,
    recorded: Option<KeyRepresentation>,
) -> Result<Option<KeyRepresentation>, Hold> {
    use KeyRepresentation::{Compressed, Uncompressed};

    if operation.extra_data().is_none() {
        return Ok(None);
    }
    match (recorded, choice, gateway) {
        (Some(recorded), ..) => Ok(Some(recorded)),
        (None, RepresentationChoice::Named(Uncompressed), _)
        | (
            None,
            RepresentationChoice::Auto,
            Some(Generation::UpToG10 | Generation::G12 | Generation::G13 | Generation::G14),
        ) => Ok(Some(Uncompressed)),
        (None, RepresentationChoice::Named(Compressed), Some(Generation::Head)) => {
            Ok(Some(Compressed))
        }
        (None, RepresentationChoice::Named(Compressed), Some(earlier)) => missing(format!(
            "key_representation = \"compressed\", and contracts of {earlier} know no compressed keys: they \
             would take no answer"
        )),
        (None, RepresentationChoice::Auto, Some(Generation::Head)) => missing(
            "the contracts are those of v0.15-dev, which take uncompressed and compressed keys: all nodes \
             have to make the same; agree with the other operators, and set key_representation"
                .to_owned(),
        ),
        (None, RepresentationChoice::Auto | RepresentationChoice::Named(Compressed), None) => missing(
            "the version of the gateway's contracts is not known, which tells what kinds of keys there \
             are: it is tried again"
                .to_owned(),
        ),
    }
}

/// Whether an answer about keys of this kind (`made`) is sent. `told`: which kind the Core was told to make, if that is
/// known. `gateway`: the generation of the gateway's contracts, which those of Ethereum do not tell.
pub(in crate::flow) fn answer(
    made: KeyRepresentation,
    told: Option<KeyRepresentation>,
    gateway: Option<Generation>,
) -> Result<(), Hold> {
    if let Some(told) = told.filter(|told| *told != made) {
        let (told, made) = (told.as_str(), made.as_str());
        let detail = format!(
            "the KMS Core was told to make a key of the kind {told} and has made one of the kind {made}: the other \
             nodes' differ, so nothing is sent; look at the Core's version and log"
        );
        return Err(Hold::new(HoldReason::InvalidAnswer, detail));
    }
    match (made, gateway) {
        (KeyRepresentation::Uncompressed, _)
        | (KeyRepresentation::Compressed, Some(Generation::Head)) => Ok(()),
        (KeyRepresentation::Compressed, Some(earlier)) => missing(format!(
            "the KMS Core has a compressed key, and contracts of {earlier} know none: they would refuse its digests \
             without saying why, so nothing is sent"
        )),
        (KeyRepresentation::Compressed, None) => missing(
            "the KMS Core has a compressed key, and the version of the gateway's contracts is not known, which tells \
             whether they know such keys: it is tried again"
                .to_owned(),
        ),
    }
}

/// What it means that the contract refuses an answer about keys of this kind without saying why. `None`: nothing that
/// has to do with the kind.
pub(in crate::flow) fn refused_silently(made: KeyRepresentation) -> Option<Hold> {
    let detail = "the contract refuses the digests of a compressed key without saying why, as those up to v0.14 do, which \
                  know no compressed keys: the gateway's contracts are of v0.15-dev, those on Ethereum seem to be of \
                  v0.14 still; it is tried again";
    let is_it = made == KeyRepresentation::Compressed;
    is_it.then(|| Hold::new(HoldReason::KeyRepresentation, detail))
}

#[cfg(test)]
mod tests {
    use KeyRepresentation::{Compressed, Uncompressed};

    use super::*;
    use crate::domain::{Bytes, COMPRESSED_KEY_SET, U256};

    fn keygen(extra_data: Option<&'static [u8]>) -> KeyOperation {
        let extra_data = extra_data.map(Bytes::from_static);
        KeyOperation::Keygen { preparation: U256::ONE, extra_data }
    }

    /// The table of the file's head, row by row.
    #[test]
    fn the_kind_of_key_is_what_the_operators_agreed_on() {
        use RepresentationChoice::{Auto, Named};
        let held = Err(HoldReason::KeyRepresentation);
        let of = |operation: &KeyOperation, choice, gateway, recorded| {
            chosen(operation, choice, gateway, recorded).map_err(|hold| hold.reason)
        };
        let host = keygen(Some(&[1]));
        let early = [Generation::G12, Generation::G13, Generation::G14].map(Some);
        let every = early.into_iter().chain([Some(Generation::Head), None]);
        for gateway in every.clone() {
            for choice in [Auto, Named(Uncompressed), Named(Compressed)] {
                assert_eq!(of(&keygen(None), choice, gateway, Some(Compressed)), Ok(None));
                for recorded in KeyRepresentation::ALL {
                    let found = of(&host, choice, gateway, Some(recorded));
                    assert_eq!(found, Ok(Some(recorded)), "{choice:?} {gateway:?}");
                }
            }
            let named = of(&host, Named(Uncompressed), gateway, None);
            assert_eq!(named, Ok(Some(Uncompressed)), "{gateway:?}");
        }
        for gateway in early {
            assert_eq!(of(&host, Auto, gateway, None), Ok(Some(Uncompressed)), "{gateway:?}");
            assert_eq!(of(&host, Named(Compressed), gateway, None), held, "{gateway:?}");
        }
        assert_eq!(of(&host, Auto, Some(Generation::Head), None), held);
        let named = of(&host, Named(Compressed), Some(Generation::Head), None);
        assert_eq!(named, Ok(Some(Compressed)));
        assert_eq!(of(&host, Auto, None, None), held);
        assert_eq!(of(&host, Named(Compressed), None, None), held);
    }

    /// Key type 3 reverts without data at contracts up to G14.
    #[test]
    fn a_compressed_key_goes_to_contracts_that_know_it_alone() {
        let of = |made, told, gateway| answer(made, told, gateway).map_err(|hold| hold.reason);
        let unknown = Err(HoldReason::KeyRepresentation);
        for gateway in [Generation::G12, Generation::G13, Generation::G14].map(Some) {
            assert_eq!(of(Compressed, Some(Compressed), gateway), unknown, "{gateway:?}");
            assert_eq!(of(Compressed, None, gateway), unknown, "{gateway:?}");
            assert_eq!(of(Uncompressed, None, gateway), Ok(()), "{gateway:?}");
        }
        let newest = Some(Generation::Head);
        assert_eq!(of(Compressed, Some(Compressed), newest), Ok(()));
        assert_eq!(of(Compressed, None, None), unknown);
        // The Core makes something else than it was told to.
        let wrong = Err(HoldReason::InvalidAnswer);
        assert_eq!(of(Compressed, Some(Uncompressed), newest), wrong);
        assert_eq!(of(Uncompressed, Some(Compressed), newest), wrong);
        assert_eq!(refused_silently(Uncompressed), None);
        let silent = refused_silently(Compressed).unwrap();
        assert_eq!(silent.reason, HoldReason::KeyRepresentation);
        let types = |types: &[u8]| KeyRepresentation::of_types(types.iter().copied());
        assert_eq!(types(&[0, 1]), Uncompressed);
        assert_eq!(types(&[1, COMPRESSED_KEY_SET]), Compressed);
    }
}

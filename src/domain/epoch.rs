//! What the nodes of a network have made together, which every epoch of a KMS context shares anew.

use super::{Bytes, KeyParameters, U256};

/// Everything that the nodes had made at a block, in the order in which the chain lists it: all nodes have to
/// share it anew in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochMaterial {
    pub keys: Vec<CompletedKey>,
    pub crs_list: Vec<CompletedCrs>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedKey {
    pub id: U256,
    pub preparation: U256,
    pub parameters: KeyParameters,
    /// By the contract's `KeyType`, in its order.
    pub digests: Vec<(u8, Bytes)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedCrs {
    pub id: U256,
    pub digest: Bytes,
}

/// A node's result of an epoch: the same keys, signed anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochResult {
    pub keys: Vec<SharedKey>,
    pub crs_list: Vec<SharedCrs>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedKey {
    pub id: U256,
    pub preparation: U256,
    /// By the contract's `KeyType`, in the order in which they were signed.
    pub digests: Vec<(u8, Bytes)>,
    pub signature: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedCrs {
    pub id: U256,
    pub max_bits: U256,
    pub digest: Bytes,
    pub signature: Bytes,
}

impl EpochResult {
    /// What is not of this material, or not in its order. `None`: all is.
    #[must_use]
    pub fn differs_from(&self, material: &EpochMaterial) -> Option<String> {
        let ids = |ids: &mut dyn Iterator<Item = U256>| {
            let ids: Vec<String> = ids.map(|id| format!("{id:#066x}")).collect();
            if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
        };
        let lists = [
            (
                "keys",
                ids(&mut self.keys.iter().map(|key| key.id)),
                ids(&mut material.keys.iter().map(|key| key.id)),
            ),
            (
                "preparations",
                ids(&mut self.keys.iter().map(|key| key.preparation)),
                ids(&mut material.keys.iter().map(|key| key.preparation)),
            ),
            (
                "CRSs",
                ids(&mut self.crs_list.iter().map(|crs| crs.id)),
                ids(&mut material.crs_list.iter().map(|crs| crs.id)),
            ),
        ];
        let (what, ours, chain) = lists.into_iter().find(|(_, ours, chain)| ours != chain)?;
        Some(format!("the {what} of the Core's result are {ours}; the chain has {chain}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(keys: &[(u64, u64)], crs_list: &[u64]) -> EpochResult {
        let key = |&(id, preparation): &(u64, u64)| SharedKey {
            id: U256::from(id),
            preparation: U256::from(preparation),
            digests: Vec::new(),
            signature: Bytes::new(),
        };
        let crs = |&id: &u64| SharedCrs {
            id: U256::from(id),
            max_bits: U256::from(2048),
            digest: Bytes::new(),
            signature: Bytes::new(),
        };
        EpochResult {
            keys: keys.iter().map(key).collect(),
            crs_list: crs_list.iter().map(crs).collect(),
        }
    }

    fn material() -> EpochMaterial {
        let key = |id: u64, preparation: u64| CompletedKey {
            id: U256::from(id),
            preparation: U256::from(preparation),
            parameters: KeyParameters::Test,
            digests: Vec::new(),
        };
        let crs = CompletedCrs { id: U256::from(9), digest: Bytes::new() };
        EpochMaterial { keys: vec![key(1, 11), key(2, 12)], crs_list: vec![crs] }
    }

    #[test]
    fn a_result_is_of_the_chains_material_in_its_order() {
        assert_eq!(result(&[(1, 11), (2, 12)], &[9]).differs_from(&material()), None);
        for (keys, crs_list, named) in [
            (&[(2, 12), (1, 11)][..], &[9][..], "the keys"),
            (&[(1, 11)], &[9], "the keys"),
            (&[(1, 12), (2, 11)], &[9], "the preparations"),
            (&[(1, 11), (2, 12)], &[], "the CRSs"),
            (&[(1, 11), (2, 12)], &[9, 9], "the CRSs"),
            (&[], &[9], "none"),
        ] {
            let told = result(keys, crs_list).differs_from(&material()).expect("it differs");
            assert!(told.contains(named), "{told}");
        }
    }
}

//! What the registered coprocessors agree on about one ciphertext (protocol: ciphertext-storage 5). Pure.
//!
//! ```text
//! attestations ─> signers that are registered ─> groups of equal material ─> the largest, if large enough
//! ```
//!
//! A signer counts once in a group, whatever bucket its attestation came from: the signature proves who
//! attested, not the bucket. One that signs two materials counts in both groups, as at the other nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
};

use super::attestation::{Attestation, AttestationError, AttestedMaterial};
use crate::domain::Address;

/// A registered coprocessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coprocessor {
    pub tx_sender: Address,
    /// Signs its attestations.
    pub signer: Address,
    /// The base URL of its bucket, as on chain. It may be empty.
    pub url: String,
}

/// All registered coprocessors, as they were at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coprocessors {
    pub members: Vec<Coprocessor>,
    /// So many signers must agree. `None`: the contract has zero, or more than anyone can count.
    pub threshold: Option<NonZeroUsize>,
}

/// Those who attest the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    signers: BTreeSet<Address>,
    /// The buckets whose attestations these are, by their numbers, in the order in which they answered.
    pub buckets: Vec<usize>,
}

impl Group {
    pub fn signers(&self) -> usize {
        self.signers.len()
    }
}

/// What was attested so far about one handle.
#[derive(Debug)]
pub(super) struct Poll<'r> {
    coprocessors: &'r Coprocessors,
    groups: BTreeMap<AttestedMaterial, Group>,
}

impl<'r> Poll<'r> {
    pub fn new(coprocessors: &'r Coprocessors) -> Self {
        Self { coprocessors, groups: BTreeMap::new() }
    }

    /// Counts an attestation, if its signer is registered. `bucket`: the number of the bucket that it came
    /// from.
    pub fn count(
        &mut self,
        bucket: usize,
        attestation: Attestation,
    ) -> Result<(), AttestationError> {
        let Attestation { material, signer } = attestation;
        if !self.coprocessors.members.iter().any(|member| member.signer == signer) {
            return Err(AttestationError::UnregisteredSigner { signer });
        }
        let group = self.groups.entry(material).or_default();
        group.signers.insert(signer);
        group.buckets.push(bucket);
        Ok(())
    }

    /// The largest group; of equal ones that with the smallest material, as at the other nodes.
    pub fn largest(&self) -> Option<(&AttestedMaterial, &Group)> {
        // `max_by_key` returns the last of equal elements.
        self.groups.iter().rev().max_by_key(|(_, group)| group.signers())
    }

    /// The largest group, if it is large enough.
    pub fn winner(&self) -> Option<(&AttestedMaterial, &Group)> {
        let threshold = self.coprocessors.threshold?;
        self.largest().filter(|(_, group)| group.signers() >= threshold.get())
    }

    /// The buckets outside the largest group, and in what they differ from it.
    pub fn outvoted(&self) -> Vec<(usize, AttestationError)> {
        let Some((most, _)) = self.largest() else { return Vec::new() };
        let mut outvoted = Vec::new();
        for (material, group) in &self.groups {
            let Some(differs) = material.difference(most) else { continue };
            let error = AttestationError::Outvoted { differs };
            outvoted.extend(group.buckets.iter().map(|bucket| (*bucket, error.clone())));
        }
        outvoted
    }
}

#[cfg(test)]
mod tests;

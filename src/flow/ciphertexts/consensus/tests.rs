//! Who wins, and who was outvoted.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{
    domain::{B256, U256},
    flow::ciphertexts::attestation::{Difference, Serialisation},
};

fn signer(number: usize) -> Address {
    Address::with_last_byte(u8::try_from(number).unwrap() + 1)
}

/// This many coprocessors, of which so many must agree.
fn coprocessors(count: usize, threshold: usize) -> Coprocessors {
    let member = |number| Coprocessor {
        tx_sender: Address::repeat_byte(9),
        signer: signer(number),
        url: String::new(),
    };
    let threshold = NonZeroUsize::new(threshold);
    Coprocessors { members: (0..count).map(member).collect(), threshold }
}

/// One of several materials.
fn material(number: u8) -> AttestedMaterial {
    AttestedMaterial {
        key_id: U256::from(7),
        ciphertext_digest: B256::repeat_byte(1),
        sns_ciphertext_digest: B256::with_last_byte(number),
        serialisation: Serialisation::CompressedOnCpu,
    }
}

fn attestation(who: usize, what: u8) -> Attestation {
    Attestation { material: material(what), signer: signer(who) }
}

/// Bucket `n` has the `n`th attestation.
fn poll<'r>(of: &'r Coprocessors, said: &[(usize, u8)]) -> Poll<'r> {
    let mut poll = Poll::new(of);
    for (bucket, (who, what)) in said.iter().enumerate() {
        let _ = poll.count(bucket, attestation(*who, *what));
    }
    poll
}

/// The winning material and its buckets.
fn winner(of: &Coprocessors, said: &[(usize, u8)]) -> Option<(AttestedMaterial, Vec<usize>)> {
    poll(of, said).winner().map(|(material, group)| (*material, group.buckets.clone()))
}

#[test]
fn g1_enough_registered_signers_must_attest_the_same() {
    let five = coprocessors(5, 3);
    for (said, wins) in [
        (&[][..], None),
        (&[(0, 1), (1, 1)][..], None),
        (&[(0, 1), (1, 1), (2, 1)], Some((1, vec![0, 1, 2]))),
        (&[(0, 1), (1, 2), (2, 1), (3, 2), (4, 1)], Some((1, vec![0, 2, 4]))),
        (&[(0, 1), (1, 2), (2, 3), (3, 1), (4, 2)], None),
        // One signer counts once, from however many buckets its attestation comes: all of them have it.
        (&[(0, 1), (0, 1), (0, 1)], None),
        (&[(0, 1), (0, 1), (1, 1), (2, 1)], Some((1, vec![0, 1, 2, 3]))),
        // Strangers do not count.
        (&[(7, 1), (8, 1), (9, 1)], None),
        (&[(7, 2), (8, 2), (9, 2), (0, 1), (1, 1), (2, 1)], Some((1, vec![3, 4, 5]))),
        // Who signs two materials counts for both.
        (&[(0, 1), (0, 2), (1, 2), (2, 2)], Some((2, vec![1, 2, 3]))),
    ] {
        let wins = wins.map(|(what, buckets)| (material(what), buckets));
        assert_eq!(winner(&five, said), wins, "{said:?}");
    }
    // A threshold that two groups reach: the larger, then the smaller material.
    let two = coprocessors(5, 2);
    assert_eq!(winner(&two, &[(0, 2), (1, 2), (2, 1), (3, 1)]).unwrap().0, material(1));
    assert_eq!(winner(&two, &[(0, 2), (1, 2), (2, 1), (3, 1), (4, 2)]).unwrap().0, material(2));
    // An impossible threshold: nobody wins.
    for impossible in [coprocessors(5, 0), coprocessors(5, 6)] {
        assert_eq!(winner(&impossible, &[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]), None);
    }
}

#[test]
fn g1_who_is_outvoted_is_told_in_what() {
    let five = coprocessors(5, 3);
    let mut poll = poll(&five, &[(0, 1), (1, 1), (2, 1)]);
    let mut other = attestation(3, 1);
    other.material.serialisation = Serialisation::UncompressedOnGpu;
    poll.count(3, other).unwrap();
    poll.count(4, attestation(4, 9)).unwrap();
    let stranger = poll.count(5, attestation(7, 1)).unwrap_err();
    assert_eq!(stranger, AttestationError::UnregisteredSigner { signer: signer(7) });
    let mut outvoted = poll.outvoted();
    outvoted.sort_by_key(|(bucket, _)| *bucket);
    let differs = |differs| AttestationError::Outvoted { differs };
    let expected =
        [(3, differs(Difference::Format)), (4, differs(Difference::SnsCiphertextDigest))];
    assert_eq!(outvoted, expected);
    assert_eq!(Poll::new(&five).outvoted(), []);
}

proptest! {
    /// Against a count done in another way, in every order of answers.
    #[test]
    fn g1_the_winner_is_what_a_plain_count_says(
        count in 1..8_usize,
        threshold in 0..10_usize,
        said in prop::collection::vec((0..10_usize, 0..4_u8), 0..14),
        rotation in 0..14_usize,
    ) {
        let of = coprocessors(count, threshold);
        let mut signers: HashMap<u8, Vec<usize>> = HashMap::new();
        for (who, what) in said.iter().filter(|(who, _)| *who < count) {
            let group = signers.entry(*what).or_default();
            if !group.contains(who) {
                group.push(*who);
            }
        }
        let best = signers.iter().map(|(what, who)| (who.len(), std::cmp::Reverse(*what))).max();
        let expected = best.filter(|(size, _)| threshold > 0 && *size >= threshold);
        let expected = expected.map(|(_, what)| material(what.0));
        let mut turned = said.clone();
        turned.rotate_left(rotation % said.len().max(1));
        for said in [&said, &turned] {
            let poll = poll(&of, said);
            prop_assert_eq!(poll.winner().map(|(material, _)| *material), expected);
            // Every counted bucket is either with the largest group or outvoted.
            let with = poll.largest().map_or(0, |(_, group)| group.buckets.len());
            let counted = said.iter().filter(|(who, _)| *who < count).count();
            prop_assert_eq!(with + poll.outvoted().len(), counted);
        }
    }
}

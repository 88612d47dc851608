//! Limits the memory for ciphertexts.
//!
//! A request reserves memory for all its ciphertexts at once, before it fetches the first: two requests that
//! each hold half of what they need would wait for each other for ever. The semaphore is first come, first
//! served, so small requests do not starve a large one.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::fhe_bits;

/// The largest ciphertext that the protocol allows, in bytes (protocol: ciphertext-storage 7).
pub const LARGEST_CIPHERTEXT: u64 = 69_206_016;

/// The smallest `ciphertext_memory_mib` that serves every legal request: 2048 bits, which as 1024 Bools take
/// one block each, twice.
pub const SMALLEST_MEMORY_MIB: u32 = 140;

/// One packed block of an uncompressed ciphertext, in bytes.
const BLOCK: u64 = 65_552;

/// The size of an uncompressed ciphertext of this FHE type in bytes, with a margin for its header. `None`: a
/// type that this connector does not know.
pub(super) fn expected_bytes(fhe_type: u8) -> Option<u64> {
    // Two 2-bit blocks are packed into one.
    let bits = fhe_bits(fhe_type)?;
    let body = bits.div_ceil(4) * BLOCK;
    Some(body + body / 64 + 4096)
}

/// The memory of one instance; one permit per KiB.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    permits: Arc<Semaphore>,
    total_kib: u32,
}

/// Shows how much memory is reserved.
#[derive(Clone, Debug)]
pub struct MemoryUse {
    permits: Arc<Semaphore>,
    total_kib: u32,
}

impl MemoryUse {
    /// In bytes.
    #[must_use]
    pub fn held(&self) -> u64 {
        let free = self.permits.available_permits() as u64;
        u64::from(self.total_kib).saturating_sub(free) * 1024
    }

    /// In bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        u64::from(self.total_kib) * 1024
    }
}

/// Memory reserved for one request's ciphertexts. Dropping it releases the memory, so it must be dropped
/// after the bytes.
#[derive(Debug)]
pub struct Reservation {
    permit: Arc<OwnedSemaphorePermit>,
    copies: usize,
}

impl Reservation {
    /// The reserved memory in KiB.
    #[must_use]
    pub fn kib(&self) -> usize {
        self.permit.num_permits()
    }

    /// Keeps the memory reserved for work that cannot be cancelled.
    pub(super) fn guard(&self) -> MemoryGuard {
        Arc::clone(&self.permit)
    }

    /// How many bodies of one ciphertext fit at the same time.
    pub(super) fn copies(&self) -> usize {
        self.copies
    }
}

/// A clone of a reservation: the memory is released when the last one is dropped.
pub(super) type MemoryGuard = Arc<OwnedSemaphorePermit>;

/// What to reserve for some bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReservationPlan {
    kib: u32,
    copies: usize,
}

/// Reserves twice the size of the bodies: while fetching, a second bucket may be read beside a slow first
/// one; later the encoded request to the Core is a copy. Bodies that fit only once get the whole budget,
/// because they could never get twice their size. `None`: they do not fit at all.
fn plan_reservation(total_kib: u32, bodies: &[u64]) -> Option<ReservationPlan> {
    let kib = bodies.iter().map(|bytes| bytes.div_ceil(1024)).fold(0_u64, u64::saturating_add);
    let total = u64::from(total_kib);
    if kib > total {
        return None;
    }
    let wanted = kib.saturating_mul(2);
    Some(ReservationPlan {
        kib: u32::try_from(wanted.min(total)).unwrap_or(total_kib),
        copies: if wanted <= total { 2 } else { 1 },
    })
}

impl MemoryBudget {
    pub(super) fn new(mib: u32) -> Self {
        // Saturates at 4 TiB, because permits are counted in 32 bits.
        let total_kib = mib.saturating_mul(1024);
        Self { permits: Arc::new(Semaphore::new(total_kib as usize)), total_kib }
    }

    pub(super) fn usage(&self) -> MemoryUse {
        MemoryUse { permits: self.permits.clone(), total_kib: self.total_kib }
    }

    pub(super) fn fits(&self, bodies: &[u64]) -> bool {
        plan_reservation(self.total_kib, bodies).is_some()
    }

    pub(super) fn total_mib(&self) -> u32 {
        self.total_kib / 1024
    }

    pub(super) fn reserved_kib(&self) -> usize {
        (self.total_kib as usize).saturating_sub(self.permits.available_permits())
    }

    /// Waits until memory for these bodies (bytes each) is free. `None`: they never fit.
    pub(super) async fn reserve(&self, bodies: &[u64]) -> Option<Reservation> {
        let plan = plan_reservation(self.total_kib, bodies)?;
        // The semaphore is never closed.
        let permit = Arc::clone(&self.permits).acquire_many_owned(plan.kib).await.ok()?;
        Some(Reservation { permit: Arc::new(permit), copies: plan.copies })
    }
}

/// The new shares after some bodies turned out larger: for each, the largest announced size with which all
/// still fit. `None`: they do not even fit with the smallest ones.
pub(super) fn grow_shares(
    shares: &[u64],
    larger: &[(usize, Vec<u64>)],
    fits: impl Fn(&[u64]) -> bool,
) -> Option<Vec<u64>> {
    let mut grown = shares.to_vec();
    for (index, sizes) in larger {
        // First the smallest announced size for each, so that one bucket's false size does not take another
        // ciphertext's memory.
        *grown.get_mut(*index)? = sizes.iter().copied().min()?;
    }
    if !fits(&grown) {
        return None;
    }
    for (index, sizes) in larger {
        let mut sizes = sizes.clone();
        sizes.sort_unstable();
        for size in sizes.into_iter().rev() {
            let before = grown[*index];
            grown[*index] = size;
            if fits(&grown) {
                break;
            }
            grown[*index] = before;
        }
    }
    Some(grown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALLEST_KIB: u32 = SMALLEST_MEMORY_MIB * 1024;

    /// Field failure T23.
    #[test]
    fn every_legal_request_fits_twice_into_the_smallest_budget() {
        // 2048 bits in all; on chain a Bool counts as two.
        for (fhe_type, bits) in
            [(0, 2), (2, 8), (3, 16), (4, 32), (5, 64), (6, 128), (7, 160), (8, 256), (11, 2048)]
        {
            let bodies = vec![expected_bytes(fhe_type).unwrap(); 2048 / bits];
            assert_eq!(
                plan_reservation(SMALLEST_KIB, &bodies).unwrap().copies,
                2,
                "type {fhe_type}"
            );
        }
    }

    #[test]
    fn sizes_follow_the_parameters() {
        assert!((65_552..70_000 + 4096).contains(&expected_bytes(0).unwrap()));
        assert!(expected_bytes(5).unwrap() >= 16 * 65_552);
        assert!(expected_bytes(11).unwrap() >= 512 * 65_552);
        assert!(expected_bytes(11).unwrap() < LARGEST_CIPHERTEXT);
        assert_eq!(expected_bytes(14), None);
        assert_eq!(expected_bytes(255), None);
    }

    #[tokio::test]
    async fn a_reservation_returns_when_dropped_and_is_served_in_order() {
        let memory = MemoryBudget::new(1);
        let first = memory.reserve(&[300 * 1024]).await.unwrap();
        assert_eq!((first.kib(), memory.reserved_kib()), (600, 600));
        let mut large = Box::pin(memory.reserve(&[512 * 1024]));
        let mut small = Box::pin(memory.reserve(&[1]));
        assert!(futures_util::poll!(&mut large).is_pending());
        assert!(futures_util::poll!(&mut small).is_pending(), "small ones do not overtake");
        drop(first);
        let large = large.await.unwrap();
        assert_eq!((large.kib(), large.copies()), (1024, 2));
        drop(large);
        assert_eq!(small.await.unwrap().kib(), 2);
        assert_eq!(memory.reserved_kib(), 0);
        assert!(memory.reserve(&[1025 * 1024]).await.is_none());
    }

    #[test]
    fn a_boast_does_not_displace_what_fits() {
        let fits = |bodies: &[u64]| bodies.iter().sum::<u64>() <= 100;
        assert_eq!(grow_shares(&[10, 10], &[(0, vec![20, 500])], fits), Some(vec![20, 10]));
        assert_eq!(grow_shares(&[10, 10], &[(0, vec![20, 50])], fits), Some(vec![50, 10]));
        assert_eq!(
            grow_shares(&[10, 10], &[(0, vec![20, 95]), (1, vec![30])], fits),
            Some(vec![20, 30])
        );
        assert_eq!(grow_shares(&[10, 10], &[(0, vec![500])], fits), None);
    }

    proptest! {
        #[test]
        fn a_plan_never_asks_for_more_than_there_is(
            total in 1_u32..200_000,
            bodies in prop::collection::vec(0_u64..=LARGEST_CIPHERTEXT, 0..64),
        ) {
            let sum: u64 = bodies.iter().map(|bytes| bytes.div_ceil(1024)).sum();
            match plan_reservation(total, &bodies) {
                None => prop_assert!(sum > u64::from(total)),
                Some(plan) => {
                    prop_assert!(plan.kib <= total);
                    prop_assert!(u64::from(plan.kib) >= sum * plan.copies as u64);
                }
            }
        }
    }
}

//! What makes two events one request: everything that is asked for, whichever overload says it.
//!
//! Not the ciphertext materials: from v0.15-dev on the same request is told with and without them. Who
//! compares what two nodes show of a request compares those too.

use alloy::primitives::Keccak256;

use crate::domain::{
    Address, B256, Event, EventShape, HandleEntry, KeyOperation, Material, Operation, Request,
    RequestTerms, U256, UnifiedTerms,
};

/// The hash of what the request `id` asks for.
///
/// Every list and text goes in behind its length and every choice behind its number, so that no two
/// contents give the same bytes.
pub(super) fn content(id: U256, shape: EventShape, operation: &Operation) -> B256 {
    let mut hash = ContentHash(Keccak256::new());
    hash.text(b"kms-connector request");
    hash.word(id.into());
    let (kind, handles, extra_data) = match operation {
        Operation::PublicDecryption(public) => (1, &public.handles, &public.extra_data),
        Operation::UserDecryption(user) => (2, &user.handles, &user.extra_data),
        Operation::Key(operation) => {
            hash.key_operation(operation);
            return hash.0.finalize();
        }
    };
    hash.choice(kind);
    hash.list(handles, |hash, handle| hash.word(*handle));
    hash.choice(shape.has_extra_data().into());
    hash.text(extra_data);
    if let Operation::UserDecryption(user) = operation {
        hash.address(user.user);
        hash.text(&user.public_key);
        match &user.terms {
            RequestTerms::Legacy => hash.choice(1),
            RequestTerms::Unified(terms) => {
                hash.choice(2);
                hash.terms(terms);
            }
        }
    }
    hash.0.finalize()
}

struct ContentHash(Keccak256);

impl ContentHash {
    fn choice(&mut self, number: u8) {
        self.0.update([number]);
    }

    fn word(&mut self, word: B256) {
        self.0.update(word);
    }

    fn address(&mut self, address: Address) {
        self.0.update(address);
    }

    fn length(&mut self, length: usize) {
        self.0.update((length as u64).to_be_bytes());
    }

    fn text(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.update(bytes);
    }

    fn list<T>(&mut self, items: &[T], mut put: impl FnMut(&mut Self, &T)) {
        self.length(items.len());
        for item in items {
            put(self, item);
        }
    }

    fn key_operation(&mut self, operation: &KeyOperation) {
        match operation {
            KeyOperation::PrepKeygen { parameters, .. } => {
                self.choice(3);
                self.choice(parameters.number());
            }
            KeyOperation::Keygen { preparation, .. } => {
                self.choice(4);
                self.word((*preparation).into());
            }
            KeyOperation::Crsgen { max_bits, parameters, .. } => {
                self.choice(5);
                self.word((*max_bits).into());
                self.choice(parameters.number());
            }
            KeyOperation::AbortKeygen { preparation: aborted }
            | KeyOperation::AbortCrsgen { crs: aborted } => {
                self.choice(6);
                self.word((*aborted).into());
            }
            KeyOperation::PrssInit => self.choice(7),
            KeyOperation::KeyReshare { preparation, key, parameters } => {
                self.choice(8);
                self.word((*preparation).into());
                self.word((*key).into());
                self.choice(parameters.number());
            }
            KeyOperation::NewKmsContext { previous, info_hash, context: _ } => {
                self.choice(9);
                self.word((*previous).into());
                self.word(*info_hash);
            }
            KeyOperation::NewKmsEpoch {
                context,
                previous_context,
                previous_epoch,
                material_block,
                extra_data: _,
            } => {
                self.choice(10);
                for word in [context, previous_context, previous_epoch, material_block] {
                    self.word((*word).into());
                }
            }
            KeyOperation::ContextDestroyed { context: destroyed }
            | KeyOperation::EpochDestroyed { epoch: destroyed } => {
                self.choice(11);
                self.word((*destroyed).into());
            }
            // Their ids are the hash of everything they say.
            KeyOperation::RecordedEvent { .. } => self.choice(12),
            KeyOperation::UnsupportedEvent { .. } => self.choice(0),
        }
        // Journals have requests of G9 to G12, which end here.
        if let Some(extra_data) = operation.extra_data() {
            self.text(extra_data);
        }
    }

    fn terms(&mut self, terms: &UnifiedTerms) {
        let UnifiedTerms { entries, allowed_contracts, start, duration_secs, signature } = terms;
        self.list(entries, |hash, &HandleEntry { handle, contract, owner }| {
            hash.word(handle);
            hash.address(contract);
            hash.address(owner);
        });
        self.list(allowed_contracts, |hash, contract| hash.address(*contract));
        self.word((*start).into());
        self.word((*duration_secs).into());
        self.text(signature);
    }
}

/// The hash of what an event says of its ciphertexts: what two nodes may show differently of one request.
#[must_use]
pub fn materials_hash(request: &Request) -> B256 {
    let Some(materials) = request.materials() else { return B256::ZERO };
    let mut hash = ContentHash(Keccak256::new());
    hash.text(b"kms-connector materials");
    hash.list(materials, |hash, material| {
        let Material { handle, key_id, digest, coprocessors } = material;
        hash.word(*handle);
        hash.word((*key_id).into());
        hash.word(*digest);
        hash.list(coprocessors, |hash, coprocessor| hash.address(*coprocessor));
    });
    hash.0.finalize()
}

/// The content that journals before version 10 of their tables gave to a request: the hash of its event's topics and data.
#[must_use]
pub fn early_content(event: &Event) -> Option<B256> {
    let &[topic0, topic1] = event.topics.as_slice() else { return None };
    let mut hash = Keccak256::new();
    hash.update(topic0);
    hash.update(topic1);
    hash.update(&event.data);
    Some(hash.finalize())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Bytes, PublicDecryption, UserDecryption};

    fn user(terms: RequestTerms) -> UserDecryption {
        UserDecryption {
            handles: vec![B256::repeat_byte(1), B256::repeat_byte(2)],
            materials: None,
            user: Address::repeat_byte(3),
            public_key: Bytes::from_static(&[4, 5]),
            extra_data: Bytes::from_static(&[6]),
            terms,
        }
    }

    fn terms() -> UnifiedTerms {
        let entry = HandleEntry {
            handle: B256::repeat_byte(1),
            contract: Address::repeat_byte(7),
            owner: Address::repeat_byte(8),
        };
        UnifiedTerms {
            entries: vec![entry, entry],
            allowed_contracts: vec![Address::repeat_byte(9)],
            start: U256::from(10),
            duration_secs: U256::from(11),
            signature: Bytes::from_static(&[12]),
        }
    }

    /// Everything that is asked for counts, wherever it stands.
    #[test]
    fn g7_another_word_is_another_request() {
        type Change = fn(&mut UserDecryption, &mut UnifiedTerms);
        let changes: [Change; 16] = [
            |_, _| {},
            |user, _| user.handles.swap(0, 1),
            |user, _| user.handles.truncate(1),
            |user, _| user.user = Address::ZERO,
            |user, _| user.public_key = Bytes::from_static(&[4]),
            |user, _| user.extra_data = Bytes::from_static(&[6, 0]),
            // Bytes that move from one text to the next.
            |user, _| {
                user.extra_data = Bytes::new();
                user.public_key = Bytes::from_static(&[6, 4, 5]);
            },
            |_, terms| terms.entries.truncate(1),
            |_, terms| terms.entries[0].contract = Address::ZERO,
            |_, terms| terms.entries[1].owner = Address::ZERO,
            |_, terms| terms.entries[1].handle = B256::ZERO,
            |_, terms| terms.allowed_contracts.clear(),
            |_, terms| terms.allowed_contracts.push(Address::repeat_byte(9)),
            |_, terms| terms.start = U256::from(11),
            |_, terms| terms.duration_secs = U256::from(10),
            |_, terms| terms.signature = Bytes::from_static(&[12, 0]),
        ];
        let mut contents: Vec<B256> = changes
            .into_iter()
            .map(|change| {
                let (mut user, mut terms) = (user(RequestTerms::Legacy), terms());
                change(&mut user, &mut terms);
                user.terms = RequestTerms::Unified(terms);
                content(U256::ONE, EventShape::G14, &Operation::UserDecryption(user))
            })
            .collect();
        let legacy = Operation::UserDecryption(user(RequestTerms::Legacy));
        let public = Operation::PublicDecryption(PublicDecryption {
            handles: vec![B256::repeat_byte(1), B256::repeat_byte(2)],
            materials: None,
            extra_data: Bytes::from_static(&[6]),
        });
        contents.push(content(U256::ONE, EventShape::G9, &legacy));
        contents.push(content(U256::from(2), EventShape::G9, &legacy));
        contents.push(content(U256::ONE, EventShape::G9, &public));
        // The answer's form differs.
        contents.push(content(U256::ONE, EventShape::G7, &public));
        let count = contents.len();
        contents.sort_unstable();
        contents.dedup();
        assert_eq!(contents.len(), count);
    }

    #[test]
    fn extra_data_makes_another_key_operation() {
        let of = |extra_data: Option<&'static [u8]>| {
            let (preparation, extra_data) = (U256::ONE, extra_data.map(Bytes::from_static));
            let operation = Operation::Key(KeyOperation::Keygen { preparation, extra_data });
            content(U256::ONE, EventShape::G9, &operation)
        };
        let all = [None, Some(&[][..]), Some(&[1]), Some(&[1, 0])].map(of);
        assert!((1..all.len()).all(|one| !all[..one].contains(&all[one])), "{all:?}");
        // As journals have it.
        let stored = "0x35bad326648db3923c8de2f159004475ef5970d627e433bd45b7285aab07408b";
        assert_eq!(all[0].to_string(), stored);
    }

    proptest! {
        /// The overloads of one request are one; what they say of the ciphertexts is another question.
        #[test]
        fn g7_materials_make_no_other_request(
            digests in prop::collection::vec(any::<[u8; 32]>(), 1..5),
            coprocessors in prop::collection::vec(any::<[u8; 20]>(), 0..3),
            key in any::<u64>(),
        ) {
            let handles: Vec<_> = digests.iter().map(B256::from).collect();
            let materials = digests.iter().rev().map(|digest| Material {
                handle: B256::from(digest),
                key_id: U256::from(key),
                digest: B256::from(digest),
                coprocessors: coprocessors.iter().map(Address::from).collect(),
            });
            let of = |shape, materials| {
                let extra_data = Bytes::from_static(&[0]);
                let public = PublicDecryption { handles: handles.clone(), materials, extra_data };
                content(U256::from(key), shape, &Operation::PublicDecryption(public))
            };
            prop_assert_eq!(
                of(EventShape::G9, Some(materials.collect())),
                of(EventShape::Head, None)
            );
        }
    }
}

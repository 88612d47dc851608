//! Request ids: the contract counts them without gaps (gateway-abi 2). Up to G8 one counter for both
//! kinds; from G9 on one counter per kind, with the kind's tag in the top byte.

use super::ResponseForm;
use crate::domain::{Bytes, Event, Kind, SignedResult, U256};

/// One counter of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Up to G8.
    Common,
    Public,
    User,
}

/// Higher than any contract has counted. A greater number is not an id.
pub const HIGHEST_COUNT: u64 = (1 << 53) - 1;

impl Counter {
    pub const ALL: [Self; 3] = [Self::Common, Self::Public, Self::User];

    /// The counter of an id and its number there. `None`: no counter gives such an id.
    #[must_use]
    pub fn of(id: U256) -> Option<(Self, u64)> {
        let tag = id >> TAG_SHIFT;
        let counter = Self::ALL.into_iter().find(|counter| U256::from(counter.tag()) == tag)?;
        let number = u64::try_from(id - (tag << TAG_SHIFT)).ok()?;
        (1..=HIGHEST_COUNT).contains(&number).then_some((counter, number))
    }

    /// The id with this number.
    #[must_use]
    pub fn id(self, number: u64) -> U256 {
        (U256::from(self.tag()) << TAG_SHIFT) | U256::from(number)
    }

    /// The top byte of the counter's ids.
    #[must_use]
    pub fn tag(self) -> u8 {
        match self {
            Self::Common => 0,
            Self::Public => 1,
            Self::User => 2,
        }
    }

    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|counter| counter.tag() == tag)
    }

    /// Stable name, for logs and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Common => "common",
            Self::Public => Kind::PublicDecryption.as_str(),
            Self::User => Kind::UserDecryption.as_str(),
        }
    }

    /// The kinds of request that its ids may belong to.
    #[must_use]
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Common => &[Kind::PublicDecryption, Kind::UserDecryption],
            Self::Public => &[Kind::PublicDecryption],
            Self::User => &[Kind::UserDecryption],
        }
    }
}

const TAG_SHIFT: usize = 248;

/// The id in the log of a request, whether or not its data decodes. `None`: not a request, or without an
/// id.
#[must_use]
pub fn request_event_id(event: &Event) -> Option<U256> {
    super::kind_of_topic(*event.topics.first()?)?;
    Some(U256::from_be_bytes(event.topics.get(1)?.0))
}

/// A response call without content, as a probe: a contract that knows the id refuses the missing
/// content, one that does not refuses the id (from v0.8.0-1 on; gateway-abi 4.3).
#[must_use]
pub fn empty_response_call(kind: Kind, id: U256, form: ResponseForm) -> Bytes {
    form.call(kind, id, &SignedResult::default())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::BlockRef;

    #[test]
    fn ids_are_numbers_of_their_counter() {
        for (id, of) in [
            (U256::from(7), Some((Counter::Common, 7))),
            ((U256::from(1) << 248) | U256::from(7), Some((Counter::Public, 7))),
            ((U256::from(2) << 248) | U256::from(7), Some((Counter::User, 7))),
            (U256::from(3) << 248, None),
            (U256::ZERO, None),
            (U256::from(1) << 248, None),
            (U256::from(1) << 200, None),
            (U256::from(HIGHEST_COUNT) + U256::from(1), None),
            (U256::MAX, None),
        ] {
            assert_eq!(Counter::of(id), of, "{id:#x}");
        }
    }

    #[test]
    fn a_log_that_cannot_be_read_has_an_id_all_the_same() {
        let event = |topics| Event {
            block: BlockRef { number: 1, hash: B256::ZERO },
            transaction: B256::ZERO,
            log_index: 0,
            topics,
            data: Bytes::new(),
        };
        let request = super::super::request_topics()[0];
        let id = B256::from(U256::from(7));
        assert_eq!(request_event_id(&event(vec![request, id, id])), Some(U256::from(7)));
        assert_eq!(request_event_id(&event(vec![request])), None);
        assert_eq!(request_event_id(&event(vec![super::super::UPGRADED_TOPIC, id])), None);
        assert_eq!(request_event_id(&event(vec![])), None);
    }

    proptest! {
        #[test]
        fn there_and_back(tag in 0..3u8, number in 1..=HIGHEST_COUNT) {
            let counter = Counter::from_tag(tag).unwrap();
            prop_assert_eq!(Counter::of(counter.id(number)), Some((counter, number)));
        }
    }
}

//! Ids of requests are counters of the contract, without a gap (gateway-abi 2): common to both kinds up
//! to G8; from G9 on one for each kind, with the kind's tag in the top byte.

use super::{Generation, g7, g8};
use crate::domain::{Answer, Bytes, Event, Kind, U256};

/// One counter of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Up to G8.
    Common,
    Public,
    User,
}

/// No contract has counted so far. What is beyond it is no id of a contract.
pub const HIGHEST_COUNT: u64 = (1 << 53) - 1;

impl Counter {
    pub const ALL: [Self; 3] = [Self::Common, Self::Public, Self::User];

    /// The id's counter and its number there. `None`: no counter gives such an id.
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

    /// The id's top byte.
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

    /// The name in logs and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Common => "common",
            Self::Public => Kind::PublicDecryption.as_str(),
            Self::User => Kind::UserDecryption.as_str(),
        }
    }

    /// What its ids may ask for.
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

/// The id in a log of a request, readable or not; `None`: it is of something else, or has no id.
#[must_use]
pub fn requested_id(event: &Event) -> Option<U256> {
    super::kind_of_topic(*event.topics.first()?)?;
    Some(U256::from_be_bytes(event.topics.get(1)?.0))
}

/// A response call with nothing in it: a contract that knows the id refuses it for what is missing,
/// one that does not for that (from v0.8.0-1 on; gateway-abi 4.3).
#[must_use]
pub fn empty_response(kind: Kind, id: U256, generation: Generation) -> Bytes {
    let empty = Answer { payload: Bytes::new(), signature: Bytes::new(), extra_data: Bytes::new() };
    if generation.has_extra_data() {
        g8::response_call(kind, id, &empty)
    } else {
        g7::response_call(kind, id, &empty)
    }
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
        assert_eq!(requested_id(&event(vec![request, id, id])), Some(U256::from(7)));
        assert_eq!(requested_id(&event(vec![request])), None);
        assert_eq!(requested_id(&event(vec![super::super::UPGRADED_TOPIC, id])), None);
        assert_eq!(requested_id(&event(vec![])), None);
    }

    proptest! {
        #[test]
        fn there_and_back(tag in 0..3u8, number in 1..=HIGHEST_COUNT) {
            let counter = Counter::from_tag(tag).unwrap();
            prop_assert_eq!(Counter::of(counter.id(number)), Some((counter, number)));
        }
    }
}

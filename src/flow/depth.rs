//! How deep the block of a request has to be before the Core is asked. Pure.
//!
//! Requests are journaled when they are seen; what waits here waits for its block only. The chain is
//! looked at again when the wait is over: the block may have left it meanwhile.

use crate::{domain::Kind, gateway::provider::At};

/// Which of the node's tags a block has to be at or below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    Latest,
    Safe,
    Finalized,
}

/// What is asked of a block: of the tag, and of the blocks on top of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    pub finality: Finality,
    pub public_decryption: u64,
    pub user_decryption: u64,
}

impl Depth {
    /// Nothing is asked.
    pub const NONE: Self =
        Self { finality: Finality::Latest, public_decryption: 0, user_decryption: 0 };

    /// The tag, where there is one to ask the node for.
    #[must_use]
    pub fn tag(self) -> Option<At> {
        match self.finality {
            Finality::Latest => None,
            Finality::Safe => Some(At::Safe),
            Finality::Finalized => Some(At::Finalized),
        }
    }

    /// The line under a head, where the node's tag stands at block `tagged`. A tag the node does not
    /// tell holds everything back.
    #[must_use]
    pub fn line(self, head: u64, tagged: Option<u64>) -> Line {
        if self == Self::NONE {
            return Line::OPEN;
        }
        let ceiling = if self.tag().is_some() { tagged } else { Some(u64::MAX) };
        let under = |confirmations| Some(head.checked_sub(confirmations)?.min(ceiling?));
        Line {
            public_decryption: under(self.public_decryption),
            user_decryption: under(self.user_decryption),
        }
    }
}

/// The highest block whose requests may be walked, by their kind. `None`: none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub public_decryption: Option<u64>,
    pub user_decryption: Option<u64>,
}

impl Line {
    /// Nobody waits.
    pub const OPEN: Self =
        Self { public_decryption: Some(u64::MAX), user_decryption: Some(u64::MAX) };
    /// Everybody waits.
    pub const SHUT: Self = Self { public_decryption: None, user_decryption: None };

    #[must_use]
    pub fn of(self, kind: Kind) -> Option<u64> {
        match kind {
            Kind::PublicDecryption => self.public_decryption,
            Kind::UserDecryption => self.user_decryption,
        }
    }

    #[must_use]
    pub fn covers(self, kind: Kind, block: u64) -> bool {
        self.of(kind).is_some_and(|line| block <= line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_deep_enough_with_so_many_on_top() {
        let depth = Depth { public_decryption: 3, user_decryption: 1, ..Depth::NONE };
        let line = depth.line(10, None);
        assert!(line.covers(Kind::PublicDecryption, 7) && !line.covers(Kind::PublicDecryption, 8));
        assert!(line.covers(Kind::UserDecryption, 9) && !line.covers(Kind::UserDecryption, 10));
        assert_eq!(depth.line(2, None).of(Kind::PublicDecryption), None);
        assert_eq!(Depth::NONE.line(0, None), Line::OPEN);
    }

    #[test]
    fn tag_and_confirmations_both_count() {
        let depth = Depth { finality: Finality::Safe, user_decryption: 5, ..Depth::NONE };
        assert_eq!(depth.line(100, None), Line::SHUT, "a tag that is not told");
        let line = depth.line(100, Some(97));
        assert_eq!((line.public_decryption, line.user_decryption), (Some(97), Some(95)));
    }
}

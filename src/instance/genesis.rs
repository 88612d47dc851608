//! Decides which chain of a chain id is meant: the one that the journal knows, as long as a node has
//! it. A recreated test chain is another chain and gets another journal. One node alone cannot prove
//! that while other nodes, which may know the old chain, are away.

use crate::{chain::provider::GenesisStatus, domain::B256, journal};

/// Why the chain is undecided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    #[error("no node reports the chain's block 0")]
    Untold,
    /// First start: no node returns its genesis block.
    #[error("it knows no genesis block yet")]
    NoGenesis,
    #[error("{hosts} has not answered yet")]
    Untried { hosts: String },
    #[error(
        "the nodes are of different chains: {each}; correct gateway_url and gateway_fallback_urls"
    )]
    Apart { each: String },
    #[error(
        "each node is of another chain than the journal, and of another than the others: {each}; correct \
         gateway_url and gateway_fallback_urls"
    )]
    AllApart { each: String },
    #[error(
        "block 0 of {hosts} is {genesis}, which is not the chain of the journal; {away} may know \
         better. If the chain was recreated, remove that one"
    )]
    Another { hosts: String, genesis: B256, away: String },
}

impl Undecided {
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Untold => "genesis_untold",
            Self::NoGenesis => "no_genesis",
            Self::Untried { .. } => "genesis_untried",
            Self::Apart { .. } | Self::AllApart { .. } => "different_chains",
            Self::Another { .. } => "another_chain",
        }
    }
}

/// `journals`: the journals' chains, the most recently written first. `told`: each node's host and its
/// answer.
pub(super) fn decide(
    journals: &[journal::JournalChain],
    told: &[(&str, GenesisStatus)],
) -> Result<B256, Undecided> {
    let hash_of = |beginning: &GenesisStatus| match beginning {
        GenesisStatus::Hash(genesis) => Some(*genesis),
        GenesisStatus::NotAsked
        | GenesisStatus::Disconnected
        | GenesisStatus::WrongChainId
        | GenesisStatus::Undisclosed => None,
    };
    let all: Vec<B256> = told.iter().filter_map(|(_, told)| hash_of(told)).collect();
    let hosts = |which: &dyn Fn(&GenesisStatus) -> bool| {
        let hosts = told.iter().filter(|(_, told)| which(told)).map(|(host, _)| *host);
        hosts.collect::<Vec<_>>().join(", ")
    };
    let (away, untried) = (
        hosts(&|told| matches!(told, GenesisStatus::Disconnected | GenesisStatus::NotAsked)),
        hosts(&|told| *told == GenesisStatus::NotAsked),
    );
    let untold = told.iter().any(|(_, told)| *told == GenesisStatus::Undisclosed);
    // A chain known to a journal and to a node: the most recent one, unless no node can have it.
    let candidates = if away.is_empty() { journals } else { &journals[..journals.len().min(1)] };
    let common =
        candidates.iter().find_map(|journal| all.iter().find(|told| journal.has_genesis(**told)));
    if let Some(common) = common {
        return Ok(*common);
    }
    let are_apart = all.iter().any(|told| all.first() != Some(told));
    if let Some(newest) = journals.first() {
        return match (all.first(), newest.genesis) {
            // A node without block 0 contradicts nothing.
            (_, Some(genesis)) if untold => Ok(genesis),
            (None, _) => Err(Undecided::Untold),
            (Some(_), _) if are_apart => Err(Undecided::AllApart { each: describe_each(told) }),
            (Some(first), _) if away.is_empty() => Ok(*first),
            (Some(first), _) => {
                let hosts = hosts(&|told| matches!(told, GenesisStatus::Hash(_)));
                Err(Undecided::Another { hosts, genesis: *first, away })
            }
        };
    }
    match all.first() {
        Some(_) if are_apart => Err(Undecided::Apart { each: describe_each(told) }),
        Some(first) if untried.is_empty() => Ok(*first),
        Some(_) => Err(Undecided::Untried { hosts: untried }),
        None => Err(Undecided::NoGenesis),
    }
}

/// What each node says, for messages.
fn describe_each(told: &[(&str, GenesisStatus)]) -> String {
    let each = told.iter().filter_map(|(host, told)| match told {
        GenesisStatus::Hash(genesis) => Some(format!("block 0 of {host} is {genesis}")),
        GenesisStatus::NotAsked
        | GenesisStatus::Disconnected
        | GenesisStatus::WrongChainId
        | GenesisStatus::Undisclosed => None,
    });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{journal::Identity, machine::Machine};

    const ONE: B256 = B256::repeat_byte(1);
    const TWO: B256 = B256::repeat_byte(2);

    /// Journals of these chains, the most recently written first.
    fn known(chains: &[B256]) -> Vec<journal::JournalChain> {
        let dir = tempfile::tempdir().unwrap();
        let (wallet, contract) = Default::default();
        let known = |genesis: &B256| {
            let identity = Identity { chain_id: 7, genesis: *genesis, wallet };
            drop(
                journal::open_as(&Machine::default(), dir.path(), identity, contract, "one", None)
                    .unwrap(),
            );
            let found = journal::journal_chains(dir.path(), 7, wallet, "one").unwrap();
            found.into_iter().find(|found| found.has_genesis(*genesis)).unwrap()
        };
        chains.iter().map(known).collect()
    }

    fn decided(known: &[journal::JournalChain], told: &[GenesisStatus]) -> Option<B256> {
        let hosts = ["a", "b", "c"];
        let told: Vec<_> = hosts.into_iter().zip(told.iter().copied()).collect();
        decide(known, &told).ok()
    }

    #[test]
    fn b1_no_node_says_alone_that_the_chain_is_another_one() {
        use GenesisStatus::{Disconnected, Hash, NotAsked, Undisclosed, WrongChainId};
        let one = known(&[ONE]);
        assert_eq!(decided(&one, &[Hash(ONE), Hash(TWO)]), Some(ONE));
        assert_eq!(decided(&one, &[NotAsked, Hash(ONE)]), Some(ONE));
        // Only the lying node is connected.
        assert_eq!(decided(&one, &[Disconnected, Hash(TWO)]), None);
        assert_eq!(decided(&one, &[NotAsked, Hash(TWO)]), None);
        assert_eq!(
            decided(&one, &[Undisclosed, Hash(TWO)]),
            Some(ONE),
            "who has none contradicts nothing"
        );
        assert_eq!(decided(&one, &[Undisclosed]), Some(ONE));
        assert_eq!(decided(&one, &[Hash(B256::repeat_byte(3)), Hash(TWO)]), None);
        // All nodes, or the only one, agree: the chain was recreated.
        assert_eq!(decided(&one, &[Hash(TWO), Hash(TWO)]), Some(TWO));
        assert_eq!(decided(&one, &[Hash(TWO)]), Some(TWO));
        assert_eq!(decided(&one, &[WrongChainId, Hash(TWO)]), Some(TWO));
        // Recreated before: the most recent chain counts, unless every node says otherwise.
        let both = known(&[TWO, ONE]);
        assert_eq!(decided(&both, &[Hash(ONE), Hash(TWO)]), Some(TWO));
        assert_eq!(decided(&both, &[Hash(ONE), Disconnected]), None);
        assert_eq!(decided(&both, &[Hash(ONE), WrongChainId]), Some(ONE));
    }

    #[test]
    fn b1_at_the_first_start_the_nodes_agree_and_each_was_tried() {
        use GenesisStatus::{Disconnected, Hash, NotAsked, Undisclosed};
        assert_eq!(decided(&[], &[Hash(ONE), Hash(ONE)]), Some(ONE));
        assert_eq!(decided(&[], &[Hash(ONE), Hash(TWO)]), None);
        assert_eq!(decided(&[], &[Hash(ONE), NotAsked]), None);
        assert_eq!(decided(&[], &[Disconnected, Hash(ONE)]), Some(ONE));
        assert_eq!(decided(&[], &[Undisclosed, Hash(ONE)]), Some(ONE));
        assert_eq!(decided(&[], &[Undisclosed]), None);
    }
}

//! Which chain of an id is meant: the one that the journal knows, as long as a node has it. A chain that
//! was made anew (a test chain) is another one, and gets another journal; but no node says so alone
//! while others, which may know better, are away.

use crate::{domain::B256, gateway::provider::Beginning, journal};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Is(B256),
    /// For what, and why.
    Wait(String),
}

/// `known`: what the journals know, the one that was written last first. `told`: host, and what each
/// node says.
pub(super) fn decide(known: &[journal::Beginning], told: &[(&str, Beginning)]) -> Decision {
    let said = |beginning: &Beginning| match beginning {
        Beginning::Is(genesis) => Some(*genesis),
        Beginning::Untried | Beginning::Away | Beginning::OfAnotherId | Beginning::Untold => None,
    };
    let all: Vec<B256> = told.iter().filter_map(|(_, told)| said(told)).collect();
    let hosts = |which: &dyn Fn(&Beginning) -> bool| {
        let hosts = told.iter().filter(|(_, told)| which(told)).map(|(host, _)| *host);
        hosts.collect::<Vec<_>>().join(", ")
    };
    let (away, untried) = (
        hosts(&|told| matches!(told, Beginning::Away | Beginning::Untried)),
        hosts(&|told| *told == Beginning::Untried),
    );
    let untold = told.iter().any(|(_, told)| *told == Beginning::Untold);
    // One that a journal knows, and a node too: the last one, unless no node can have that.
    let known_here = if away.is_empty() { known } else { &known[..known.len().min(1)] };
    let common = known_here.iter().find_map(|known| all.iter().find(|told| known.is_of(**told)));
    if let Some(common) = common {
        return Decision::Is(*common);
    }
    if let Some(newest) = known.first() {
        return match (all.first(), newest.genesis) {
            // Who has no block 0 contradicts nothing.
            (_, Some(genesis)) if untold => Decision::Is(genesis),
            (None, _) => Decision::Wait("no node tells the chain's block 0".to_owned()),
            (Some(first), _) if all.iter().any(|told| told != first) => Decision::Wait(format!(
                "each node is of another chain than the journal, and of another than the others: \
                 {}; correct gateway_url and gateway_fallback_urls",
                each(told)
            )),
            (Some(first), _) if away.is_empty() => Decision::Is(*first),
            (Some(first), _) => Decision::Wait(format!(
                "block 0 of {} is {first}, which is not the chain of the journal; {away} may know \
                 better. If the chain was made anew, take that one out",
                hosts(&|told| matches!(told, Beginning::Is(_)))
            )),
        };
    }
    match all.first() {
        Some(first) if all.iter().any(|told| told != first) => Decision::Wait(format!(
            "the nodes are of different chains: {}; correct gateway_url and gateway_fallback_urls",
            each(told)
        )),
        Some(first) if untried.is_empty() => Decision::Is(*first),
        Some(_) => Decision::Wait(format!("{untried} was not heard yet")),
        None => Decision::Wait("it knows no genesis block yet".to_owned()),
    }
}

/// What each node says.
fn each(told: &[(&str, Beginning)]) -> String {
    let said = told.iter().filter_map(|(host, told)| match told {
        Beginning::Is(genesis) => Some(format!("block 0 of {host} is {genesis}")),
        Beginning::Untried | Beginning::Away | Beginning::OfAnotherId | Beginning::Untold => None,
    });
    said.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{journal::Identity, machine::Machine};

    const ONE: B256 = B256::repeat_byte(1);
    const TWO: B256 = B256::repeat_byte(2);

    /// Journals of these chains, the one that was written last first.
    fn known(chains: &[B256]) -> Vec<journal::Beginning> {
        let dir = tempfile::tempdir().unwrap();
        let (wallet, contract) = Default::default();
        let known = |genesis: &B256| {
            let identity = Identity { chain_id: 7, genesis: *genesis, wallet };
            drop(
                journal::open_as(&Machine::default(), dir.path(), identity, contract, "one", None)
                    .unwrap(),
            );
            let found = journal::beginnings(dir.path(), 7, wallet, "one").unwrap();
            found.into_iter().find(|found| found.is_of(*genesis)).unwrap()
        };
        chains.iter().map(known).collect()
    }

    fn decided(known: &[journal::Beginning], told: &[Beginning]) -> Option<B256> {
        let hosts = ["a", "b", "c"];
        let told: Vec<_> = hosts.into_iter().zip(told.iter().copied()).collect();
        match decide(known, &told) {
            Decision::Is(genesis) => Some(genesis),
            Decision::Wait(_) => None,
        }
    }

    #[test]
    fn b1_no_node_says_alone_that_the_chain_is_another_one() {
        use Beginning::{Away, Is, OfAnotherId, Untold, Untried};
        let one = known(&[ONE]);
        assert_eq!(decided(&one, &[Is(ONE), Is(TWO)]), Some(ONE));
        assert_eq!(decided(&one, &[Untried, Is(ONE)]), Some(ONE));
        // Only the liar is there.
        assert_eq!(decided(&one, &[Away, Is(TWO)]), None);
        assert_eq!(decided(&one, &[Untried, Is(TWO)]), None);
        assert_eq!(
            decided(&one, &[Untold, Is(TWO)]),
            Some(ONE),
            "who has none contradicts nothing"
        );
        assert_eq!(decided(&one, &[Untold]), Some(ONE));
        assert_eq!(decided(&one, &[Is(B256::repeat_byte(3)), Is(TWO)]), None);
        // All of them, or the only one: it was made anew.
        assert_eq!(decided(&one, &[Is(TWO), Is(TWO)]), Some(TWO));
        assert_eq!(decided(&one, &[Is(TWO)]), Some(TWO));
        assert_eq!(decided(&one, &[OfAnotherId, Is(TWO)]), Some(TWO));
        // Made anew before: the last one counts, unless every node says otherwise.
        let both = known(&[TWO, ONE]);
        assert_eq!(decided(&both, &[Is(ONE), Is(TWO)]), Some(TWO));
        assert_eq!(decided(&both, &[Is(ONE), Away]), None);
        assert_eq!(decided(&both, &[Is(ONE), OfAnotherId]), Some(ONE));
    }

    #[test]
    fn b1_at_the_first_start_the_nodes_agree_and_each_was_tried() {
        use Beginning::{Away, Is, Untold, Untried};
        assert_eq!(decided(&[], &[Is(ONE), Is(ONE)]), Some(ONE));
        assert_eq!(decided(&[], &[Is(ONE), Is(TWO)]), None);
        assert_eq!(decided(&[], &[Is(ONE), Untried]), None);
        assert_eq!(decided(&[], &[Away, Is(ONE)]), Some(ONE));
        assert_eq!(decided(&[], &[Untold, Is(ONE)]), Some(ONE));
        assert_eq!(decided(&[], &[Untold]), None);
    }
}

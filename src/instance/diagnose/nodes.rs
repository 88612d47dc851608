//! Probes each gateway node, and compares the clocks.

use futures_util::future::join_all;

use super::{
    DEADLINE, Finding,
    buckets::ServerDate,
    node_reads::{self, DiagnosedNode},
    proxy_remedy,
};
use crate::{
    chain::{
        provider::{ArbitrumProvider, GenesisStatus},
        rpc_error::RpcError,
    },
    config::Finality,
    time::clock,
};

const SUBJECT: &str = "gateway node";
/// Sound nodes of one chain are closer than this many blocks.
const BEHIND_WARNING_BLOCKS: u64 = 20;
/// A live chain produces blocks more often than this.
const OLD_SECS: u64 = 60;
/// A finality tag is never this far behind on a live chain.
const LATE_TAG_SECS: u64 = 3_600;
/// Synchronised clocks are closer than this.
const SKEW_SECS: u64 = 10;
/// AWS refuses signatures that are more than 15 minutes off.
const LARGE_SKEW_SECS: u64 = 300;

/// Number and time (Unix seconds) of a node's newest block.
type NewestBlock = Result<(u64, u64), RpcError>;

/// What one node says.
struct NodeAnswer<'a> {
    /// Scheme, host and port.
    shown: &'a str,
    /// Host and port of the proxy on the way to it.
    proxy: Option<&'a str>,
    tip: NewestBlock,
}

/// Combined result of the nodes.
pub(super) struct NodesOverview {
    pub findings: Vec<Finding>,
    /// Index of the node with the highest block.
    pub best: Option<usize>,
    /// A node answers, but serves another chain.
    pub elsewhere: bool,
    /// Number and time (Unix seconds) of the newest block.
    pub newest: Option<(u64, u64)>,
}

pub(super) async fn diagnose_nodes(nodes: &[DiagnosedNode]) -> NodesOverview {
    let mut tips = join_all(nodes.iter().map(ask)).await;
    let beginnings = nodes.iter().map(|node| node.provider.genesis_statuses().pop());
    let beginnings: Vec<_> = beginnings.map(|told| told.map(|(_, told)| told)).collect();
    reject_other_chains(&mut tips, &beginnings);
    let refusals = join_all(nodes.iter().zip(&tips).map(|(node, tip)| async move {
        // A node that does not answer at all is reported below.
        let asking = node.provider.batch_refusal();
        tip.as_ref().ok()?;
        tokio::time::timeout(DEADLINE, asking).await.ok()?.ok()?
    }));
    let refusals = refusals.await;
    let answering: Vec<(&DiagnosedNode, u64)> = nodes
        .iter()
        .zip(&tips)
        .filter_map(|(node, tip)| Some((node, tip.as_ref().ok()?.0)))
        .collect();
    let read = node_reads::diagnose_reads(&answering).await;
    let shown = nodes.iter().map(|node| node.shown.as_str());
    let answers = nodes.iter().zip(tips).map(|(node, tip)| NodeAnswer {
        shown: &node.shown,
        proxy: node.proxy.as_deref(),
        tip,
    });
    let mut seen = judge(answers.collect(), clock::unix_millis());
    let refusals = shown.zip(refusals).filter_map(|(shown, error)| Some((shown, error?)));
    seen.findings.extend(refusals.map(|(shown, error)| of_refusal(shown, &error)));
    seen.findings.extend(read);
    seen
}

/// Nodes of one chain id may serve different chains: the first node that knows its block 0 decides.
fn reject_other_chains(tips: &mut [NewestBlock], beginnings: &[Option<GenesisStatus>]) {
    let genesis_of = |told: &Option<GenesisStatus>| match told {
        Some(GenesisStatus::Hash(genesis)) => Some(*genesis),
        Some(_) | None => None,
    };
    let Some(expected) = beginnings.iter().find_map(genesis_of) else { return };
    for (tip, told) in tips.iter_mut().zip(beginnings) {
        if let Some(found) = genesis_of(told).filter(|found| *found != expected) {
            let host = "the node".to_owned();
            *tip = Err(RpcError::WrongGenesis { host, expected, found });
        }
    }
}

fn of_refusal(shown: &str, error: &RpcError) -> Finding {
    Finding::warn(
        SUBJECT,
        format!("{shown} refuses several calls in one message: {error}"),
        "nothing: each call is made by itself, which is slower; allow JSON-RPC batches if you can",
    )
}

async fn ask(node: &DiagnosedNode) -> NewestBlock {
    let asking = async {
        node.provider.first_attempt().await?;
        node.provider.newest_position().await
    };
    tokio::time::timeout(DEADLINE, asking).await.unwrap_or_else(|_| {
        Err(RpcError::Unavailable {
            host: node.provider.hosts().to_owned(),
            what: format!("no answer within {} s", DEADLINE.as_secs()).into(),
        })
    })
}

fn judge(answers: Vec<NodeAnswer<'_>>, now_ms: u64) -> NodesOverview {
    let tips = answers.iter().enumerate();
    let best = tips
        .filter_map(|(index, answer)| Some((index, answer.tip.as_ref().ok()?.0)))
        .max_by_key(|(index, number)| (*number, std::cmp::Reverse(*index)));
    let newest = best.and_then(|(index, _)| answers[index].tip.as_ref().ok().copied());
    let elsewhere = answers.iter().any(|answer| {
        matches!(answer.tip, Err(RpcError::WrongChain { .. } | RpcError::WrongGenesis { .. }))
    });
    let findings = answers.into_iter().map(|NodeAnswer { shown, proxy, tip }| match tip {
        Ok((number, time)) => {
            let behind = newest.map_or(0, |(newest, _)| newest.saturating_sub(number));
            of_tip(shown, number, now_ms / 1_000, time, behind)
        }
        Err(error @ (RpcError::WrongChain { .. } | RpcError::WrongGenesis { .. })) => {
            Finding::fail(
                SUBJECT,
                format!("{shown}: {error}"),
                "correct chain_id, gateway_url or gateway_fallback_urls",
            )
        }
        Err(error) => {
            let of_proxy = proxy.filter(|_| matches!(error, RpcError::Unavailable { .. }));
            let found = format!("{shown}: {error}");
            match (best, of_proxy.map(proxy_remedy)) {
                (Some(_), Some(remedy)) => Finding::warn(
                    SUBJECT,
                    found,
                    format!(
                        "other nodes are used meanwhile: \
                                                           {remedy}"
                    ),
                ),
                (Some(_), None) => Finding::warn(
                    SUBJECT,
                    found,
                    "other nodes are used meanwhile: check this one, or remove it",
                ),
                (None, Some(remedy)) => Finding::fail(SUBJECT, found, remedy),
                (None, None) => Finding::fail(
                    SUBJECT,
                    found,
                    "check the node; correct gateway_url if it is wrong",
                ),
            }
        }
    });
    let findings = findings.collect();
    NodesOverview { findings, best: best.map(|(index, _)| index), elsewhere, newest }
}

fn of_tip(shown: &str, number: u64, now: u64, time: u64, behind: u64) -> Finding {
    let age = now.saturating_sub(time);
    let found = format!("{shown}: the chain is the right one, block {number} is {age} s old");
    if behind > BEHIND_WARNING_BLOCKS {
        let found = format!("{found}, {behind} blocks behind another node");
        return Finding::warn(SUBJECT, found, "the node is stale: check it, or remove it");
    }
    if age > OLD_SECS {
        let remedy = "the node is stale, nothing happens on the chain, or the clock of this \
                      machine is wrong: compare with another node";
        return Finding::warn(SUBJECT, found, remedy);
    }
    Finding::ok(SUBJECT, found)
}

/// Checks the finality tag that requests wait for; `None` means that they wait for no tag.
pub(super) async fn diagnose_tag(
    provider: &ArbitrumProvider,
    finality: Finality,
    newest: Option<(u64, u64)>,
) -> Option<Finding> {
    let tag = match finality {
        Finality::Latest => return None,
        Finality::Safe => "safe",
        Finality::Finalized => "finalized",
    };
    let told = match provider.tagged_block_time(tag).await {
        Ok(told) => told,
        Err(RpcError::Refused { .. }) => None,
        Err(error) => {
            return Some(Finding::warn(FINALITY, error.to_string(), "try again"));
        }
    };
    Some(of_tag(tag, told, newest?))
}

const FINALITY: &str = "finality";

fn of_tag(tag: &str, told: Option<(u64, u64)>, (head, now): (u64, u64)) -> Finding {
    let Some((number, time)) = told else {
        let found = format!("the node does not report the tag {tag}: requests wait");
        let remedy = "use another node in gateway_url, or use confirmations instead";
        return Finding::warn(FINALITY, found, remedy);
    };
    let late = now.saturating_sub(time);
    let found = format!("{tag} is at block {number}, {late} s before block {head}");
    if late > LATE_TAG_SECS {
        let remedy = "requests of later blocks wait: compare with a block explorer, and check the \
                      node if it shows a later block";
        return Finding::warn(FINALITY, found, remedy);
    }
    Finding::ok(FINALITY, found)
}

/// Compares this machine's clock with the buckets' clocks, or else with the newest block's time, which
/// cannot be in the future.
pub(super) fn diagnose_clock(newest: Option<(u64, u64)>, dates: &[ServerDate]) -> Finding {
    const SUBJECT: &str = "clock";
    let (now, mut worst) = (clock::unix_millis() / 1_000, None::<(u64, String)>);
    for ServerDate { host, date, at_ms } in dates {
        let skew = date.abs_diff(at_ms / 1_000);
        if worst.as_ref().is_none_or(|(known, _)| skew > *known) {
            worst = Some((skew, format!("{skew} s off that of {host}")));
        }
    }
    if let Some((number, time)) = newest {
        let ahead = time.saturating_sub(now);
        if ahead > SKEW_SECS || worst.is_none() {
            let found = match ahead {
                0..=SKEW_SECS => format!("not behind block {number}"),
                _ => format!("{ahead} s behind block {number}"),
            };
            worst = Some((ahead, found));
        }
    }
    let remedy = "set the clock of this machine (NTP): AWS refuses signatures of a wrong time, and \
                  times in logs mislead";
    match worst {
        None => Finding::ok(SUBJECT, "nothing to compare it with"),
        Some((0..=SKEW_SECS, found)) => Finding::ok(SUBJECT, found),
        Some((skew, found)) if skew <= LARGE_SKEW_SECS => Finding::warn(SUBJECT, found, remedy),
        Some((_, found)) => Finding::fail(SUBJECT, found, remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::diagnose::Severity;

    const NOW_MS: u64 = 1_700_000_000_000;
    const NOW: u64 = NOW_MS / 1_000;

    fn down() -> RpcError {
        RpcError::Unavailable { host: "h".to_owned(), what: "refused".into() }
    }

    fn judged(tips: Vec<NewestBlock>, proxy: Option<&str>) -> NodesOverview {
        let answers = tips.into_iter().map(|tip| NodeAnswer { shown: "ws://h", proxy, tip });
        judge(answers.collect(), NOW_MS)
    }

    fn verdicts(answers: Vec<NewestBlock>) -> Vec<Severity> {
        let seen = judged(answers, None);
        seen.findings.iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn a_node_that_is_down_is_as_bad_as_there_are_others() {
        assert_eq!(verdicts(vec![Err(down())]), [Severity::Fail]);
        assert_eq!(verdicts(vec![Err(down()), Ok((9, NOW))]), [Severity::Warn, Severity::Ok]);
        let wrong = || RpcError::WrongChain { host: "h".to_owned(), expected: 1, found: 2 };
        assert_eq!(verdicts(vec![Ok((9, NOW)), Err(wrong())]), [Severity::Ok, Severity::Fail]);
        let elsewhere = |tip: NewestBlock| judged(vec![tip], None).elsewhere;
        assert!(elsewhere(Err(wrong())) && !elsewhere(Err(down())) && !elsewhere(Ok((9, NOW))));
    }

    #[test]
    fn c5_behind_a_proxy_the_proxy_is_to_be_looked_at_first() {
        let remedies = |tips: Vec<NewestBlock>| {
            let findings = judged(tips, Some("proxy.example:3128")).findings;
            findings.into_iter().map(|finding| finding.remedy).collect::<Vec<_>>()
        };
        for remedy in
            [&remedies(vec![Err(down())])[0], &remedies(vec![Err(down()), Ok((9, NOW))])[0]]
        {
            assert!(remedy.contains("the proxy proxy.example:3128"), "{remedy}");
        }
        // The node itself answered.
        let wrong = RpcError::WrongChain { host: "h".to_owned(), expected: 1, found: 2 };
        assert!(!remedies(vec![Err(wrong)])[0].contains("proxy"));
    }

    #[test]
    fn a_node_that_stands_still_is_told() {
        assert_eq!(verdicts(vec![Ok((9, NOW - 61))]), [Severity::Warn]);
        assert_eq!(verdicts(vec![Ok((9, NOW + 61))]), [Severity::Ok]);
        assert_eq!(verdicts(vec![Ok((9, NOW)), Ok((30, NOW))]), [Severity::Warn, Severity::Ok]);
        assert_eq!(verdicts(vec![Ok((10, NOW)), Ok((30, NOW))]), [Severity::Ok, Severity::Ok]);
    }

    #[test]
    fn a8_a_tag_far_behind_or_not_told_is_told() {
        let verdict = |told| of_tag("finalized", told, (100, NOW)).verdict;
        assert_eq!(verdict(Some((90, NOW - 1_500))), Severity::Ok);
        assert_eq!(verdict(Some((90, NOW - 3_601))), Severity::Warn);
        assert_eq!(verdict(None), Severity::Warn);
        assert_eq!(verdict(Some((u64::MAX, u64::MAX))), Severity::Ok, "no arithmetic of it wraps");
    }

    #[test]
    fn b1_a_node_of_another_chain_of_the_same_id_is_told() {
        let is = |byte| Some(GenesisStatus::Hash(crate::domain::B256::repeat_byte(byte)));
        let mut tips = vec![Ok((9, NOW)), Ok((5_000_000, NOW)), Ok((9, NOW))];
        reject_other_chains(&mut tips, &[is(1), is(2), Some(GenesisStatus::Undisclosed)]);
        assert_eq!(verdicts(tips), [Severity::Ok, Severity::Fail, Severity::Ok]);
    }

    #[test]
    fn a4_who_refuses_arrays_is_told_with_its_words() {
        let error = RpcError::Refused {
            host: "h".to_owned(),
            code: -32600,
            message: "batch requests are disabled".into(),
            data: None,
        };
        let finding = of_refusal("http://h", &error);
        assert_eq!(finding.verdict, Severity::Warn);
        assert!(finding.found.contains("batch requests are disabled"), "{}", finding.found);
    }

    #[test]
    fn clocks_are_compared() {
        let now = clock::unix_millis() / 1_000;
        let date = |date| ServerDate { host: "h".to_owned(), date, at_ms: now * 1_000 };
        assert_eq!(diagnose_clock(None, &[]).verdict, Severity::Ok);
        assert_eq!(diagnose_clock(Some((1, now - 900)), &[date(now)]).verdict, Severity::Ok);
        assert_eq!(diagnose_clock(None, &[date(now), date(now - 60)]).verdict, Severity::Warn);
        assert_eq!(diagnose_clock(None, &[date(now + 3_600)]).verdict, Severity::Fail);
        assert_eq!(diagnose_clock(Some((1, now + 60)), &[]).verdict, Severity::Warn);
    }
}

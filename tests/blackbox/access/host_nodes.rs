//! The nodes of host chains in trouble, each chain in another, in front of one instance: nothing is lost,
//! nothing is let through unchecked, and the cause is named wherever an operator looks.

use std::time::Duration;

use serde_json::Value;
use world::{
    Error, Result,
    contracts::Variant,
    deployment::Thresholds,
    faulty_rpc::{Arrays, FaultyRpc, Lie, Rule},
    fleet::{Fleet, name},
    host::HostOptions,
    program,
    proxy::Weather,
    request::{Ask, Issued, fhe},
    scene::{PATIENCE, SceneOptions},
    until,
};

use super::reached;

const POLL: Duration = Duration::from_millis(200);

/// A chain, what befalls its only node, and why its requests are held. `None`: they are answered.
struct Trouble {
    chain_id: u64,
    begin: fn(&FaultyRpc, head: u64),
    held: Option<&'static str>,
}

const TROUBLES: [Trouble; 6] = [
    Trouble {
        chain_id: 81,
        begin: |node, _| node.proxy.set(Weather::Silent),
        held: Some("host_chain_unreachable"),
    },
    Trouble {
        chain_id: 82,
        begin: |node, head| node.lie(|lies| lies.stands_at = Some(head)),
        held: Some("host_chain_stale"),
    },
    Trouble {
        chain_id: 83,
        begin: |node, _| node.lie(|lies| lies.arrays = Arrays::Refused(400)),
        held: None,
    },
    Trouble {
        chain_id: 84,
        begin: |node, _| node.rule(Rule::always("*", Lie::Status(429))),
        held: Some("host_chain_unreachable"),
    },
    Trouble {
        chain_id: 85,
        begin: |node, _| {
            node.lie(|lies| lies.chain_id = Some(5));
            node.proxy.set(Weather::Cut);
        },
        held: Some("host_chain_unreachable"),
    },
    Trouble {
        chain_id: 86,
        begin: |node, _| {
            let pruned =
                Lie::error(-32000, "missing trie node 8b16 (path ) state is not available");
            node.rule(Rule::always("eth_call", pruned));
        },
        held: Some("host_chain_unreachable"),
    },
];

impl Trouble {
    /// The node as it is without it.
    fn end(&self, node: &FaultyRpc) {
        node.be_honest();
        node.lie(|lies| lies.chain_id = Some(self.chain_id));
        node.proxy.set(Weather::Clear);
    }
}

/// A request of each kind for each chain, granted.
async fn request(fleet: &Fleet) -> Result<Vec<Issued>> {
    let asks: Vec<Ask> = TROUBLES
        .iter()
        .flat_map(|one| {
            let public = Ask::public(&[fhe::UINT8]).on_chain(one.chain_id);
            [public, Ask::user(&[fhe::UINT8]).delegated().on_chain(one.chain_id)]
        })
        .collect();
    let host = &fleet.parties.hosts[0].host;
    host.send(asks.iter().flat_map(|ask| host.grants(ask, true)).collect()).await?;
    fleet.request(asks).await
}

#[world::test]
async fn a_host_chain_in_trouble_keeps_its_requests_and_no_others() -> Result<()> {
    let hosts = vec![HostOptions::of(Variant::G13)];
    let options = SceneOptions { hosts, ..SceneOptions::of(Variant::G13) };
    let mut fleet = Fleet::with(&options, 1, Thresholds::ONE).await?;
    let first = &fleet.parties.hosts[0];
    let (url, acl, chain) = (first.anvil.http_url(), first.host.acl, first.host.chain.clone());
    let (mut nodes, mut config) = (Vec::new(), vec![fleet.config(0, "")]);
    for trouble in &TROUBLES {
        let node = FaultyRpc::start(&url).await?;
        trouble.end(&node);
        let (id, url) = (trouble.chain_id, node.http_url());
        config.push(format!(
            "[[host_chains]]\nchain_id = {id}\nurl = \"{url}\"\nacl_address = \"{acl}\"\n\
             max_age_secs = 5\n"
        ));
        nodes.push(node);
    }
    fleet.supervisor.configs.write(&name(0), &config.concat())?;
    fleet.supervisor.start(program())?;
    fleet.supervisor.until_running(&[name(0)]).await?;
    let mut answered = request(&fleet).await?;
    fleet.answered_by(&[0], &answered).await?;

    let stands = chain.block_number().await?;
    for (trouble, node) in TROUBLES.iter().zip(&nodes) {
        (trouble.begin)(node, stands);
    }
    // The connection that was cut is noticed, and the node identified again.
    tokio::time::sleep(Duration::from_secs(4)).await;
    nodes[4].proxy.set(Weather::Clear);
    let issued = request(&fleet).await?;
    let each = || TROUBLES.iter().zip(issued.chunks(2));
    for (trouble, issued) in each() {
        let Some(reason) = trouble.held else {
            fleet.answered_by(&[0], issued).await?;
            continue;
        };
        for request in issued {
            let what = format!("{} of chain {}", reason, trouble.chain_id);
            let is_held = until(&what, PATIENCE, POLL, async || {
                let entries = fleet.entries(0)?;
                let entry = entries.into_iter().find(|entry| entry.id == request.id);
                let held = entry.and_then(|entry| entry.held);
                Ok(held.filter(|(held, _)| held == reason).map(|(_, detail)| detail))
            });
            let detail = is_held.await.map_err(|error| {
                Error::other(format!("{error}\n{}", world::scene::tail(&fleet.supervisor.log())))
            })?;
            assert!(detail.contains(&trouble.chain_id.to_string()), "{detail}");
        }
    }
    is_told_everywhere(&fleet).await?;
    let core = &fleet.parties.list[0].core;
    for (trouble, issued) in each() {
        for request in issued {
            assert_eq!(reached(core, request), trouble.held.is_none(), "{}", trouble.chain_id);
        }
    }

    for (trouble, node) in TROUBLES.iter().zip(&nodes) {
        trouble.end(node);
    }
    answered.extend(issued);
    fleet.audit(&[0], &answered).await?;
    for request in &answered {
        assert_eq!(core.accepted(request.id), 1, "{:#x}", request.id);
    }
    fleet.unbroken()
}

/// The page's data, the text of `status` and the metric name each chain in trouble, and no other.
async fn is_told_everywhere(fleet: &Fleet) -> Result<()> {
    let page: Value = fleet.supervisor.get("/status").await?.json().await?;
    let chains = page["instances"][0]["gauges"]["host_chains"].as_array().cloned();
    let chains = chains.unwrap_or_default();
    let metrics = fleet.supervisor.get("/metrics").await?.text().await?;
    let mut command = fleet.supervisor.client(program(), &["status", &name(0)]);
    let output = command.output().map_err(|e| Error::Io("status".into(), e))?;
    let status = String::from_utf8_lossy(&output.stdout).into_owned();
    for trouble in &TROUBLES {
        let (id, in_trouble) = (trouble.chain_id, trouble.held.is_some());
        let chain = chains.iter().find(|chain| chain["chain_id"] == id);
        let chain = chain.ok_or_else(|| Error::other(format!("no chain {id} in {page}")))?;
        assert_eq!(chain["problem"].is_string(), in_trouble, "{chain}");
        let series = format!("chain=\"{id}\"");
        let series = metrics.lines().find(|line| {
            line.starts_with("kms_connector_host_chain_reachable") && line.contains(&series)
        });
        let reachable = series.map(|line| line.ends_with(" 1"));
        assert_eq!(reachable, Some(!in_trouble), "{id}: {metrics}");
        if let Some(problem) = chain["problem"].as_str() {
            let words = problem.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
            assert!(status.contains(&words), "{words:?} is not in:\n{status}");
        }
    }
    Ok(())
}

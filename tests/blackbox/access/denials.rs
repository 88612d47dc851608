//! Everything that must not be decrypted, side by side in front of one instance: nothing of it reaches the
//! Core, each is held or refused by its name, and what time can change is answered as soon as it changed.

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256};
use serde_json::{Value, json};
use world::{
    Error, Result,
    access::Path,
    contracts::{Decryption, G14, Variant, raw},
    deployment::{Deployment, Node, Thresholds, create},
    faulty_rpc::FaultyRpc,
    host::{Host, HostChain, HostOptions},
    host_contracts::{Mood, Wallet, wallet_code},
    program, random_address, random_key,
    request::{Ask, Ciphertext, HOST_CHAIN, Issued, fhe},
    rpc::Call,
    scene::{PATIENCE, Scene, SceneOptions},
    signing::sign,
    unix_seconds, until,
};

use super::reached;

/// The host chain whose two nodes must agree.
const TWO_NODES: u64 = 77;
/// The host chain whose node stands still.
const STANDS: u64 = 78;
/// A host chain that is reorganised.
const REORGANISED: u64 = 79;
/// A host chain that nobody configured.
const NOBODYS: u64 = 4_242;

/// What becomes of a request that must not be decrypted now.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Held for this reason, until it is granted.
    Held(&'static str),
    /// Held for this reason, and nothing that happens here changes it.
    Kept(&'static str),
    /// Refused with this word.
    Refused(&'static str),
}
use End::{Held, Kept, Refused};

/// One of them.
struct Case {
    name: &'static str,
    ask: Ask,
    end: End,
    /// What the host chain grants before it is asked.
    given: Vec<Call>,
    /// The event is that of another request.
    told: Option<Ask>,
    /// The materials of the event, in place of those of its handles.
    materials: Option<Vec<Ciphertext>>,
    way: Way,
}

/// How it comes to the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Asked,
    /// In the call of another contract.
    ByContract,
    /// Not at all: there is an event, and no request.
    Forged,
}

impl Case {
    fn new(name: &'static str, ask: Ask, end: End) -> Self {
        Self { name, ask, end, given: Vec::new(), told: None, materials: None, way: Way::Asked }
    }

    fn given(mut self, calls: Vec<Call>) -> Self {
        self.given = calls;
        self
    }

    /// Everything is granted.
    fn granted(self, host: &Host) -> Self {
        let calls = host.grants(&self.ask, true);
        self.given(calls)
    }

    /// Everything but what these calls grant.
    fn all_but(self, host: &Host, missing: &[Call]) -> Self {
        let is_missing = |call: &Call| missing.iter().any(|one| one.data == call.data);
        let all = host.grants(&self.ask, true);
        let given: Vec<Call> = all.iter().filter(|call| !is_missing(call)).cloned().collect();
        assert_eq!(given.len() + missing.len(), all.len(), "{}", self.name);
        self.given(given)
    }

    fn told(mut self, as_: impl FnOnce(Ask) -> Ask) -> Self {
        self.told = Some(as_(self.ask.clone()));
        self
    }

    fn by(mut self, way: Way) -> Self {
        self.way = way;
        self
    }
}

const DENIED: End = Held("access_denied_on_chain");
const KEPT: End = Kept("access_denied_on_chain");
const ONE: [u8; 1] = [fhe::UINT8];
const TWO: [u8; 2] = [fhe::UINT8, fhe::UINT64];

/// Says that a handle is of another chain.
fn on_chain(ciphertext: &mut Ciphertext, chain_id: u64) {
    ciphertext.handle.0[22..30].copy_from_slice(&chain_id.to_be_bytes());
}

/// Nobody is allowed what they ask for.
fn not_allowed(host: &Host) -> Vec<Case> {
    let mut cases = vec![Case::new("public, not allowed", Ask::public(&ONE), DENIED)];
    let ask = Ask::public(&TWO);
    let last = host.allow_for_decryption(ask.handles()[1], true);
    cases.push(Case::new("public, one of two", ask, DENIED).all_but(host, &[last]));
    let mut both = Ask::public(&TWO);
    on_chain(&mut both.ciphertexts[1], REORGANISED);
    let given = vec![host.allow_for_decryption(both.handles()[0], true)];
    cases.push(Case::new("public, one of two chains", both, KEPT).given(given));
    for way in [|ask: Ask| ask, Ask::unified] {
        let ask = way(Ask::user(&TWO));
        let missing = [host.allow(ask.handles()[1], ask.user, true)];
        cases.push(Case::new("the user is not", ask, DENIED).all_but(host, &missing));
        let ask = way(Ask::user(&TWO));
        let missing = [host.allow(ask.handles()[1], ask.access.contracts[1], true)];
        cases.push(Case::new("the contract is not", ask, DENIED).all_but(host, &missing));
    }
    cases
}

/// The delegation is not one for this. `now`: the time of the latest block.
fn delegations(host: &Host, now: u64) -> Vec<Case> {
    type Instead = fn(&Host, [Address; 3], u64) -> Option<Call>;
    let each: [(&'static str, Instead); 4] = [
        ("not delegated", |_, _, _| None),
        ("expired one block ago", |host, [owner, user, contract], now| {
            Some(host.delegate(owner, user, contract, now))
        }),
        ("to another contract", |host, [owner, user, _], _| {
            Some(host.delegate(owner, user, random_address(), u64::MAX))
        }),
        ("to somebody else", |host, [owner, _, contract], _| {
            Some(host.delegate(owner, random_address(), contract, u64::MAX))
        }),
    ];
    let mut cases = Vec::new();
    for (name, instead) in each {
        for way in [|ask: Ask| ask, Ask::unified] {
            let ask = way(Ask::user(&ONE).delegated());
            let parties = [ask.access.owners[0], ask.user, ask.access.contracts[0]];
            let [owner, user, contract] = parties;
            let whole = [host.delegate(owner, user, contract, u64::MAX)];
            let mut case = Case::new(name, ask, DENIED).all_but(host, &whole);
            case.given.extend(instead(host, parties, now));
            cases.push(case);
        }
    }
    cases
}

/// Everything is granted, and nobody has signed for it, or not for now.
fn signatures(host: &Host, deployment: &Deployment) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let (direct, delegated) = (Ask::user(&ONE), Ask::user(&ONE).delegated());
    let (unified, other) = (Ask::user(&ONE).unified(), Ask::user(&ONE).delegated().unified());
    for mut ask in [direct, delegated, unified, other] {
        let digest = ask.user_digest(deployment.domain());
        ask.access.signature = Some(sign(&random_key(), digest)?);
        cases.push(Case::new("signed by another", ask, Refused("signature_invalid")));
    }
    let mut ask = Ask::user(&ONE).unified();
    ask.access.signature = Some(Bytes::new());
    cases.push(Case::new("not signed", ask, Refused("signature_invalid")));

    let mut ask = Ask::user(&ONE).unified();
    (ask.access.start, ask.access.seconds) = (unix_seconds() - 1_000, 10);
    cases.push(Case::new("expired", ask, Refused("validity_expired")));
    let mut ask = Ask::user(&ONE).unified();
    ask.access.start = unix_seconds() + EARLY;
    cases.push(Case::new("early", ask, Held("not_yet_valid")));

    for ask in [Ask::user(&ONE), Ask::user(&ONE).unified()] {
        let mut ask = ask;
        let user = ask.user;
        ask.access.allowed = Some(vec![ask.access.contracts[0], user]);
        cases.push(Case::new("the user is a contract", ask, Refused("user_among_contracts")));
    }
    let mut ask = Ask::user(&ONE).delegated();
    ask.access.allowed = Some(vec![ask.access.contracts[0], ask.access.owners[0]]);
    cases.push(Case::new("the owner is a contract", ask, Refused("user_among_contracts")));
    for case in &mut cases {
        case.given = host.grants(&case.ask, true);
    }
    let ask = Ask::user(&ONE).unified();
    let invalidated = host.invalidate_before(ask.user, ask.access.start + 1);
    let mut case = Case::new("invalidated", ask, Refused("signature_invalidated")).granted(host);
    case.given.push(invalidated);
    cases.push(case);

    Ok(cases)
}

/// Smart accounts that do not say that this is their signature.
async fn accounts(host: &Host) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for mood in [
        Mood::Refuses,
        Mood::Reverts,
        Mood::BurnsGas,
        Mood::BurnsSome(150_000),
        Mood::AnswersShort,
        Mood::AnswersDirt,
    ] {
        let ask = Ask::user(&ONE);
        let account = host.wallet(mood, ask.access.key.address()).await?;
        let ask = ask.by_account(account);
        cases.push(Case::new(SMART_ACCOUNT, ask, DENIED).granted(host));
    }
    Ok(cases)
}

const SMART_ACCOUNT: &str = "a smart account says no";
/// A request whose validity begins so late is held.
const EARLY: u64 = 300;

/// The event is not of what was asked, or signed. All is granted.
fn lies(host: &Host, deployment: &Deployment) -> Result<Vec<Case>> {
    const CALLDATA: End = Refused("calldata_differs");
    let swapped = |ask: Ask| Ask { public_key: vec![7; 800].into(), ..ask };
    let user = || Ask::user(&ONE);
    let stolen = || Ask::public(&ONE).ciphertexts;
    let mut cases = vec![
        Case::new("another key", user(), CALLDATA).told(swapped),
        Case::new("another key, delegated", user().delegated(), CALLDATA).told(swapped),
        Case::new("another user", user(), CALLDATA)
            .told(|ask| Ask { user: random_address(), ..ask }),
        Case::new("other ciphertexts", user(), CALLDATA)
            .told(|ask| Ask { ciphertexts: stolen(), ..ask }),
        Case::new("other extraData", user(), CALLDATA).told(|ask| ask.extra_data(vec![0])),
        Case::new("called by a contract", user(), Refused("foreign_call")).by(Way::ByContract),
        Case::new("forged", user(), CALLDATA).by(Way::Forged),
    ];
    // What is in a unified event is signed: with another key that is no signature of the user's.
    let unified = user().unified();
    let signature = unified.signature(deployment.domain())?;
    let signed = Case::new("another key, unified", unified, Refused("signature_invalid"));
    cases.push(signed.told(|ask| {
        let mut ask = swapped(ask);
        ask.access.signature = Some(signature);
        ask
    }));
    for (kept, added) in [(0, Vec::new()), (1, Vec::new()), (1, stolen())] {
        let ask = Ask::user(&TWO).unified();
        let materials = [&ask.ciphertexts[..kept], &added].concat();
        let mut case = Case::new("other materials, unified", ask, Refused("materials_differ"));
        case.materials = Some(materials);
        cases.push(case);
    }
    for way in [|ask: Ask| ask, Ask::unified] {
        let mut ask = way(Ask::user(&TWO));
        on_chain(&mut ask.ciphertexts[1], TWO_NODES);
        cases.push(Case::new("of two chains", ask, Refused("handles_of_several_chains")));
    }
    // Of a public request the event is all there is: the chain does not grant what it was not asked for.
    let public = Case::new("public, other ciphertexts", Ask::public(&ONE), KEPT);
    cases.push(public.told(|ask| Ask { ciphertexts: stolen(), ..ask }));
    for case in &mut cases {
        case.given = host.grants(&case.ask, true);
    }
    Ok(cases)
}

/// KMS contexts: at the gateway all three are valid and the last is the current one.
struct Contexts {
    destroyed: U256,
    in_force: U256,
    pending: U256,
}

impl Contexts {
    async fn of(scene: &Scene) -> Result<Self> {
        let (deployment, host) = (&scene.deployment, &scene.hosts[0].host);
        let nodes = &[node(scene)][..];
        let destroyed = deployment.context().await?;
        let in_force = deployment.new_context(nodes, Thresholds::ONE).await?;
        assert_eq!(host.new_context(nodes, Thresholds::ONE).await?.0, in_force);
        host.destroy_context(destroyed).await?;
        let pending = deployment.new_context(nodes, Thresholds::ONE).await?;
        assert_eq!(host.define_context(nodes, Thresholds::ONE).await?, pending);
        Ok(Self { destroyed, in_force, pending })
    }

    fn cases(&self, host: &Host) -> Vec<Case> {
        let ask = || Ask::user(&ONE);
        [
            ("destroyed", ask().in_context(self.destroyed), Refused("context_destroyed")),
            ("pending", ask().unified().in_context(self.pending), Held("context_unknown")),
            ("no epoch", ask().in_epoch(self.in_force, U256::from(77)), Kept("epoch_unknown")),
        ]
        .map(|(name, ask, end)| Case::new(name, ask, end).granted(host))
        .into()
    }
}

fn node(scene: &Scene) -> Node {
    Node { wallet: scene.wallet.address(), signer: scene.core.signer_address() }
}

/// Host chains in trouble. The nodes of two are that of the first chain, under other names.
struct Others {
    two: [FaultyRpc; 2],
    standing: FaultyRpc,
    reorganised: FaultyRpc,
    chain: HostChain,
}

impl Others {
    async fn start(scene: &Scene) -> Result<Self> {
        let first = &scene.hosts[0];
        let options = HostOptions::of(Variant::G14).chain_id(REORGANISED).block_time(None);
        let chain = HostChain::start(scene.dir.path(), options, &[], Thresholds::ONE).await?;
        let url = first.anvil.http_url();
        let node = async |chain_id| {
            let node = FaultyRpc::start(&url).await?;
            node.lie(|lies| lies.chain_id = Some(chain_id));
            Ok::<_, Error>(node)
        };
        Ok(Self {
            two: [node(TWO_NODES).await?, node(TWO_NODES).await?],
            standing: node(STANDS).await?,
            reorganised: FaultyRpc::start(&chain.anvil.http_url()).await?,
            chain,
        })
    }

    fn config(&self, first: &Host) -> String {
        let entry = |chain_id, node: &FaultyRpc, acl, more: String| {
            let url = node.http_url();
            format!(
                "[[host_chains]]\nchain_id = {chain_id}\nurl = \"{url}\"\nacl_address = \"{acl}\"\n\
                 {more}\n"
            )
        };
        let [one, other] = &self.two;
        let agreement = format!("fallback_urls = [\"{}\"]\nagreement = 2", other.http_url());
        [
            entry(TWO_NODES, one, first.acl, agreement),
            entry(STANDS, &self.standing, first.acl, "max_age_secs = 5".into()),
            entry(REORGANISED, &self.reorganised, self.chain.host.acl, String::new()),
        ]
        .concat()
    }

    /// One node of two says yes to everything; another one has seen a grant and not that it was taken back.
    async fn cases(&self, first: &Host) -> Result<Vec<Case>> {
        let yes = json!(B256::with_last_byte(1));
        self.two[0].lie(|lies| lies.views = vec![("0xc0d02943", yes.clone()), ("0x82027b6d", yes)]);
        let stale = Ask::public(&ONE).on_chain(STANDS);
        first.send(first.grants(&stale, true)).await?;
        let stands = first.chain.block_number().await?;
        self.standing.lie(|lies| lies.stands_at = Some(stands));
        first.send(first.grants(&stale, false)).await?;
        let (public, user) = (Ask::public(&ONE), Ask::user(&ONE).unified());
        Ok(vec![
            Case::new("a node lies", public.on_chain(TWO_NODES), Held("host_nodes_disagree")),
            Case::new("a node lies", user.on_chain(TWO_NODES), Held("host_nodes_disagree")),
            Case::new("a node stands still", stale, Held("host_chain_stale")),
            Case::new("a chain of nobody's", Ask::public(&ONE).on_chain(NOBODYS), NOT_CONFIGURED),
        ])
    }

    fn heal(&self) {
        self.two[0].lie(|lies| lies.views.clear());
        self.standing.lie(|lies| lies.stands_at = None);
    }
}

const NOT_CONFIGURED: End = Kept("host_chain_not_configured");

impl Case {
    /// The event, where it is not the one that was asked for.
    fn log(&self, deployment: &Deployment, id: U256) -> Result<Option<Decryption::RawLog>> {
        let Some(materials) = &self.materials else {
            let [log, _] = match &self.told {
                Some(told) => deployment.told(told, id)?,
                None if self.way == Way::Forged => deployment.told(&self.ask, id)?,
                None => return Ok(None),
            };
            return Ok(Some(log));
        };
        assert_eq!(self.ask.access.path, Path::Unified, "{}", self.name);
        let other = Ask { ciphertexts: materials.clone(), ..self.ask.clone() };
        Ok(Some(raw(&G14::UserDecryptionRequest {
            decryptionId: id,
            snsCtMaterials: deployment.materials(&other),
            handles: self.ask.entries(),
            payload: self.ask.payload(deployment.domain())?,
        })))
    }

    /// Every ciphertext that could leak.
    fn asks(&self) -> impl Iterator<Item = Ask> {
        let materials = self.materials.clone().unwrap_or_default();
        let other = Ask { ciphertexts: materials, ..self.ask.clone() };
        [self.ask.clone(), other].into_iter().chain(self.told.clone())
    }

    /// Asks for it. `relay`: a contract that calls others.
    async fn issue(&self, deployment: &Deployment, relay: Address) -> Result<Issued> {
        let mut id = deployment.next_id(self.ask.kind).await?;
        if self.way == Way::Forged {
            id += U256::from(1_000_000);
        }
        let log = self.log(deployment, id)?;
        let mut calls = deployment.commits(std::slice::from_ref(&self.ask));
        match (log, self.way) {
            (Some(log), Way::Forged) => {
                let call = Decryption::emitRawCall { logs: vec![log] };
                calls.push(Call::new(deployment.decryption, &call));
            }
            (log, way) => {
                calls.extend(log.map(|log| deployment.tell_next_as(vec![log])));
                let mut request = deployment.request_call(&self.ask)?;
                if way == Way::ByContract {
                    let to = deployment.decryption;
                    let call = Wallet::executeCall { to, data: request.data.clone() };
                    request = Call { gas: request.gas, ..Call::new(relay, &call) };
                }
                calls.push(request);
            }
        }
        let receipts = deployment.chain.send_all(calls).await?;
        let log = receipts.last().and_then(|receipt| receipt.logs.first());
        let log = log.ok_or_else(|| Error::other(format!("{}: no event", self.name)))?;
        let mut issued = deployment.issued(self.ask.clone(), log);
        assert_eq!(issued.id, id, "{}", self.name);
        // Nothing of what the event says may leak either.
        issued.digests =
            self.asks().flat_map(|ask| ask.ciphertexts).map(|one| one.digest).collect();
        Ok(issued)
    }
}

/// The time of the latest block.
async fn now(host: &Host) -> Result<u64> {
    let block: Value = host.chain.rpc("eth_getBlockByNumber", json!(["latest", false])).await?;
    let time = block["timestamp"].as_str().and_then(|time| time.strip_prefix("0x"));
    time.and_then(|time| u64::from_str_radix(time, 16).ok()).ok_or_else(|| Error::other("no time"))
}

/// The requests whose end is of this kind, as they will be answered.
fn with_end(cases: &[(Case, Issued)], is: impl Fn(End) -> bool) -> Vec<Issued> {
    let own = |(case, issued): &(Case, Issued)| Issued {
        digests: case.ask.ciphertexts.iter().map(|one| one.digest).collect(),
        ..issued.clone()
    };
    cases.iter().filter(|(case, _)| is(case.end)).map(own).collect()
}

/// Each of them is held or refused by its name.
async fn each_ends(scene: &Scene, made: &[(Case, Issued)]) -> Result<()> {
    let mut wrong = Vec::new();
    for (case, issued) in made {
        match case.end {
            Held(reason) | Kept(reason) => {
                let held = scene.held(issued.id, reason).await;
                wrong.extend(held.err().map(|error| format!("{}: {error}", case.name)));
            }
            Refused(word) => {
                let row = scene.settled(issued.id, "refused").await?;
                let is = row.refusal.contains(word);
                wrong.extend((!is).then(|| format!("{}: {row:?}", case.name)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[world::test]
async fn nothing_reaches_the_core_that_is_not_granted() -> Result<()> {
    let hosts = vec![HostOptions::of(Variant::G14)];
    let mut scene = Scene::new(SceneOptions { hosts, ..SceneOptions::of(Variant::G14) }).await?;
    let host = scene.hosts[0].host.clone();
    let others = Others::start(&scene).await?;
    let config = format!("{}{}", scene.config(""), others.config(&host));
    let contexts = Contexts::of(&scene).await?;
    let deployment = scene.deployment.clone();
    let relay = create(&deployment.chain, wallet_code(Mood::Accepts, random_address())?).await?;

    let mut cases = not_allowed(&host);
    cases.extend(delegations(&host, now(&host).await?));
    cases.extend(signatures(&host, &deployment)?);
    cases.extend(accounts(&host).await?);
    cases.extend(lies(&host, &deployment)?);
    cases.extend(contexts.cases(&host));
    cases.extend(others.cases(&host).await?);
    host.send(cases.iter().flat_map(|case| case.given.clone()).collect()).await?;
    let asks: Vec<Ask> = cases.iter().flat_map(Case::asks).collect();
    deployment.upload(&asks).await?;
    // In the context that is the current one until the end.
    let early = Ask::public(&ONE);
    deployment.upload(std::slice::from_ref(&early)).await?;

    // A grant that leaves the chain, while the ciphertext is missing.
    let chain = &others.chain.host;
    let moved = Ask::public(&ONE).on_chain(REORGANISED);
    chain.send(chain.grants(&moved, true)).await?;
    assert!(chain.grants_all(&moved).await?);
    scene.start_with(program(), &config)?;
    let mut issued = deployment.emit(vec![moved.clone(), early]).await?;
    let (changed, moved_issued) = (issued.remove(1), issued.remove(0));
    let seen = others.reorganised.calls("eth_call");
    until("a pass", PATIENCE, Duration::from_millis(50), async || {
        Ok((others.reorganised.calls("eth_call") > seen).then_some(()))
    })
    .await?;
    chain.chain.reorg(2).await?;
    assert!(!chain.grants_all(&moved).await?);

    // What stands still is older now than it may be.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut made = Vec::new();
    for case in cases {
        let issued = case.issue(&deployment, relay).await?;
        made.push((case, issued));
    }
    // Beside all of them others are answered, and each once.
    let granted = Ask::mixed_of(Variant::G14, 2, 4);
    host.grant(&granted).await?;
    let mut answered = deployment.request(granted).await?;
    scene.answered(&answered).await?;
    // No pass is as old as that.
    tokio::time::sleep(Duration::from_secs(4)).await;
    deployment.upload(std::slice::from_ref(&moved)).await?;
    made.push((Case::new("a grant that left the chain", moved, DENIED), moved_issued));

    each_ends(&scene, &made).await?;
    // A denial says what was asked of whom.
    let (case, denied) = &made[0];
    let detail = scene.held(denied.id, "access_denied_on_chain").await?.detail;
    for word in [HOST_CHAIN.to_string(), host.acl.to_string(), case.ask.handles()[0].to_string()] {
        assert!(detail.contains(&word), "{word}: {detail}");
    }
    for (case, issued) in &made {
        assert!(!reached(&scene.core, issued), "{}: {}", case.name, scene.log());
    }

    // Time changes what it can.
    others.heal();
    let epoch = host.confirm_creation(contexts.pending).await?;
    host.activate_epoch(epoch).await?;
    let _: Value = host.chain.rpc("evm_increaseTime", json!([EARLY])).await?;
    for (case, _) in &made {
        let Held(_) = case.end else { continue };
        let of = if case.ask.chain_id() == REORGANISED { chain } else { &host };
        of.send(of.grants(&case.ask, true)).await?;
        if case.name == SMART_ACCOUNT {
            host.set_mood(case.ask.user, Mood::OfOwner).await?;
        }
    }
    answered.extend(with_end(&made, |end| matches!(end, Held(_))));
    scene.answered(&answered).await?;
    for request in &answered {
        assert_eq!(scene.core.accepted(request.id), 1, "{:#x}", request.id);
    }
    for (case, issued) in &made {
        match case.end {
            Held(_) => continue,
            Kept(reason) => drop(scene.held(issued.id, reason).await?),
            Refused(_) => drop(scene.settled(issued.id, "refused").await?),
        }
        assert!(!reached(&scene.core, issued), "{}", case.name);
    }
    // The contract takes no answer to it any more, so nobody asks for one.
    scene.held(changed.id, "access_denied_on_chain").await?;
    deployment.new_context(&[node(&scene)], Thresholds::ONE).await?;
    let row = scene.settled(changed.id, "refused").await?;
    assert!(row.refusal.contains("context_changed"), "{row:?}");
    assert!(!reached(&scene.core, &changed));
    assert_eq!(scene.deployment.failed_transactions().await?.len(), 0, "no gas was wasted");
    assert_eq!(scene.stop().await?, Some(0), "{}", scene.log());
    Ok(())
}

//! The status page in a real browser: what an operator sees of a running process, and that it cannot
//! be missed when something is wrong.

use std::path::Path;

use alloy::{hex, primitives::U256};
use world::{
    Error, Result,
    browser::Browser,
    fleet::{Fleet, name},
    http_client, program,
    request::Ask,
    scene::PATIENCE,
};

/// A name that a careless page would run.
const HOSTILE: &str = "<img src=x onerror=document.title=1>";
/// The key in the URL of a node.
const CANARY: &str = "CANARY0key";
/// As many more instances, so that there are some fifty.
const MORE: usize = 47;

/// Pictures for somebody to look at: `target/tmp/page-….png`.
async fn keep_picture(browser: &Browser, name: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"));
    let picture = browser.picture().await?;
    std::fs::write(&path, picture).map_err(|e| Error::Io(path.display().to_string(), e))
}

/// The address of the page, as `status` tells it.
async fn address(fleet: &Fleet) -> Result<String> {
    let listen = fleet.supervisor.status().await?.listen;
    listen.map(|at| format!("http://{at}/")).ok_or_else(|| Error::other("no listener"))
}

/// The number in a column of an instance's row, as a script.
fn cell(name: &str, label: &str) -> String {
    format!(
        "const row = [...document.querySelectorAll('#instances tr')]
             .find((row) => row.querySelector('summary').textContent === {name:?});
         const cell = row && [...row.cells].find((cell) => cell.dataset.label === {label:?});
         const shown = cell ? Number(cell.textContent) : NaN;"
    )
}

const FITS: &str = "const root = document.documentElement;
    const wide = [...document.querySelectorAll('body *')]
        .filter((one) => one.getBoundingClientRect().right > root.clientWidth + 1);
    return root.scrollWidth <= root.clientWidth && wide.length === 0;";

/// Neither what is parked nor what runs lets a key out.
async fn shows_no_secret(fleet: &Fleet, url: &str) -> Result<()> {
    let client = http_client(PATIENCE)?;
    let keys: Vec<String> =
        fleet.parties.list.iter().map(|party| hex::encode(party.wallet.to_bytes())).collect();
    for path in ["", "status", "history", "errors"] {
        let shown = client.get(format!("{url}{path}")).send().await?.text().await?;
        assert!(shown.len() > 10, "/{path}: {shown}");
        let secret = keys.iter().map(String::as_str).chain([CANARY]).find(|it| shown.contains(it));
        assert_eq!(secret, None, "/{path}: {shown}");
    }
    Ok(())
}

/// One that runs and holds a request is not taken for one where all is well, until it is.
async fn shows_what_is_held(fleet: &Fleet, browser: &Browser, well: &str) -> Result<()> {
    let (wallet, chain) = (fleet.wallet(0), &fleet.deployment().chain);
    let before = chain.balance(wallet).await?;
    chain.set_balance(wallet, U256::ZERO).await?;
    let requests = fleet.request(Ask::mixed(1, 0)).await?;
    let look = format!(
        "const verdict = document.getElementById('verdict');
         const trouble = [...document.querySelectorAll('.trouble.wait')]
             .map((one) => one.innerText).find((text) => text.includes({name:?}));
         return document.title.startsWith('look: ' + {name:?}) && verdict.className === 'wait'
             && verdict.textContent.includes({name:?}) && Boolean(trouble)
             && trouble.includes('1 no_funds') && trouble.includes('fund the wallet');",
        name = name(0)
    );
    browser.until("a request that is held", PATIENCE, &look).await?;
    keep_picture(browser, "held").await?;
    chain.set_balance(wallet, before).await?;
    fleet.answered_by(&[0, 1], &requests).await?;
    browser.until("a page on which all is well again", PATIENCE, well).await
}

#[world::test]
async fn the_page_follows_and_shows_what_is_down() -> Result<()> {
    let mut fleet = Fleet::running(2, program()).await?;
    let url = address(&fleet).await?;
    let browser = Browser::start().await?;
    browser.open(&url).await?;
    let well = "return document.title.startsWith('ok: 2 instances')
        && document.getElementById('verdict').textContent.startsWith('All is well');";
    browser.until("a page on which all is well", PATIENCE, well).await?;
    // What is loaded stays loaded: everything below is seen without another visit.
    browser.run("window.visited = 1; return true").await?;

    // It follows what is answered.
    let answered = cell(&name(0), "answered, 1 h");
    let before = browser.run(&format!("{answered} return shown")).await?;
    assert_eq!(before, 0, "nothing was asked yet");
    let requests = fleet.request(Ask::mixed(6, 6)).await?;
    fleet.answered_by(&[0, 1], &requests).await?;
    browser.until("the answers", PATIENCE, &format!("{answered} return shown === 12")).await?;
    let drawn = "const lines = document.querySelectorAll('#latency path.b');
        return lines.length === 1 && lines[0].getAttribute('d').length > 5;";
    browser.until("a latency plot", PATIENCE, drawn).await?;
    keep_picture(&browser, "well").await?;
    shows_what_is_held(&fleet, &browser, well).await?;

    // One that contradicts the chain is parked, and cannot be missed: in the title, at the top in
    // words, and with what to do.
    let node = fleet.parties.anvil.ws_url();
    let with_key = format!("{node}/?key={CANARY}");
    let wrong = fleet.config(1, "").replace("chain_id = ", "chain_id = 1");
    let wrong = wrong.replace(&node, &with_key);
    assert!(wrong.contains(CANARY));
    fleet.supervisor.configs.remove(&name(1))?;
    fleet.supervisor.configs.write(HOSTILE, &wrong)?;
    let down = format!(
        "const verdict = document.getElementById('verdict'), name = {HOSTILE:?};
         const box = verdict.getBoundingClientRect();
         const trouble = [...document.querySelectorAll('.trouble.bad')]
             .map((one) => one.innerText).find((text) => text.includes(name));
         return document.title.startsWith('DOWN: ' + name + ' parked')
             && verdict.className === 'bad' && verdict.textContent.includes(name + ' parked')
             && box.top >= 0 && box.bottom < innerHeight && box.height > 30
             && Boolean(trouble) && trouble.includes('chain id') && trouble.includes('what to do')
             && trouble.includes('kms-connector restart');"
    );
    browser.until("a parked instance", PATIENCE, &down).await?;
    assert_eq!(browser.run("return document.querySelectorAll('main img').length").await?, 0);
    let logged = "return document.getElementById('errors').innerText.includes('instance parked')";
    browser.until("its error among the last ones", PATIENCE, logged).await?;
    keep_picture(&browser, "parked").await?;
    shows_no_secret(&fleet, &url).await?;

    // Some fifty instances, on a phone, in the dark: those in trouble first, and no sideways scrolling.
    for number in 0..MORE {
        fleet.supervisor.configs.write(&format!("more-{number:02}"), "enabled = false\n")?;
    }
    let many = format!(
        "const rows = [...document.querySelectorAll('#instances tr')];
         return rows.length === {} && rows[0].querySelector('summary').textContent === {HOSTILE:?};",
        MORE + 2
    );
    browser.until("all instances", PATIENCE, &many).await?;
    browser.darken().await?;
    for (width, height) in [(360, 740), (1280, 900)] {
        browser.resize(width, height, width < 1_000).await?;
        browser.until("a page that fits", PATIENCE, FITS).await?;
        keep_picture(&browser, &format!("dark-{width}")).await?;
    }
    let took =
        "const begun = performance.now(); return look().then(() => performance.now() - begun)";
    println!("{} instances are asked for and shown in {} ms", MORE + 2, browser.run(took).await?);

    // It says so when there is nobody any more.
    assert_eq!(browser.run("return window.visited").await?, 1);
    let console = browser.console().await?;
    assert_eq!(console, Vec::<String>::new(), "the console has nothing to complain about");
    let requested = browser.requested().await?;
    let elsewhere: Vec<_> = requested
        .iter()
        .filter(|asked| !asked.starts_with(&url) && !asked.starts_with("data:"))
        .collect();
    assert!(elsewhere.is_empty() && requested.len() > 10, "asked elsewhere: {elsewhere:?}");
    fleet.supervisor.kill();
    let lost = "const lost = document.getElementById('lost');
        return !lost.hidden && lost.textContent.includes('No news')
            && document.title.startsWith('NO NEWS');";
    browser.until("a word about the silence", PATIENCE, lost).await?;
    keep_picture(&browser, "lost").await?;

    // And goes on with the next process.
    let listen = url.trim_start_matches("http://").trim_end_matches('/');
    let mut command = fleet.supervisor.command(program());
    command.env("KMS_CONNECTOR_LISTEN", listen);
    fleet.supervisor.spawn(command)?;
    let back = format!(
        "return document.getElementById('lost').hidden && window.visited === 1
        && document.title.startsWith('DOWN: ') && {} > 0;",
        "histories.size"
    );
    browser.until("the next process", PATIENCE, &back).await
}

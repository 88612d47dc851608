//! The oracle of tests that break things: what chain and journal must agree on in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::primitives::{Address, U256};

use super::{
    Error, PATIENCE, Result,
    deployment::Deployment,
    journal::{self, Entry},
    request::Issued,
    rpc::Chain,
    scene::Scene,
    until,
};

/// Whether the journal was left as the connector wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// As written: it knows every transaction of the wallet.
    Whole,
    /// What it had promised was taken away: the wallet may have sent what it does not know.
    Cut,
}

/// A count or number out of the journal; it holds no negative ones.
pub fn number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| u64::try_from(number).expect("never negative"))
}

/// One wallet's journal, to be held against the chain.
#[derive(Clone, Copy, Debug)]
pub struct Books<'a> {
    pub deployment: &'a Deployment,
    pub wallet: Address,
    pub file: &'a Path,
}

impl Books<'_> {
    /// Holds chain against journal, once `requests` are answered: each is stored once and settled,
    /// the cursor has passed it, and no nonce of the wallet is open or was left out. The journal
    /// knows no other requests.
    pub async fn audit(&self, requests: &[Issued], journal: Journal) -> Result<()> {
        let rows = self.settled_rows(requests.len()).await?;
        compare(requests, &rows)?;
        self.cursor_passed(requests).await?;
        self.nonces_are_whole(&self.deployment.chain, journal).await
    }

    /// The same of key operations of a chain, by their ids: each is stored once and was answered, and the wallet has no
    /// nonce that the journal does not know.
    pub async fn audit_keys(&self, chain: &Chain, ids: &[U256]) -> Result<()> {
        let rows = self.settled_rows(ids.len()).await?;
        let mut stored = each_once(&rows)?;
        for id in ids {
            let row = stored.remove(id);
            row.ok_or_else(|| Error::other(format!("{id:#x} is not stored")))?;
        }
        nothing_else(&stored)?;
        self.nonces_are_whole(chain, Journal::Whole).await
    }

    /// The last step of the last request reaches the disk a moment after its receipt.
    async fn settled_rows(&self, count: usize) -> Result<Vec<Entry>> {
        let mut last = Vec::new();
        let waited = until("settled requests", PATIENCE, Duration::from_millis(100), async || {
            // A connector that was just started may not have made its tables yet.
            last = journal::entries(self.file).unwrap_or_default();
            let settled = last.iter().filter(|row| row.outcome.is_some()).count();
            Ok((settled >= count && settled == last.len()).then_some(()))
        });
        let waited = waited.await;
        waited.map_err(|error| {
            let open = last.iter().filter(|row| row.outcome.is_none());
            let open: Vec<_> = open.map(|row| format!("{:#x} {}", row.id, row.stage)).collect();
            Error::other(format!("{error}: {} of {count} stored, open {open:?}", last.len()))
        })?;
        Ok(last)
    }

    /// The journal's cursor, once it has one.
    pub fn cursor(&self) -> Result<Option<u64>> {
        Ok(journal::query(self.file, "SELECT number FROM cursors", |row| number(row, 0))?.pop())
    }

    /// The ids of the requests that stand in one of these stages and are not settled.
    pub fn unsettled_in(&self, stages: &[&str]) -> Result<Vec<U256>> {
        let rows = journal::entries(self.file)?.into_iter();
        let open = rows.filter(|r| r.outcome.is_none() && stages.contains(&r.stage.as_str()));
        Ok(open.map(|row| row.id).collect())
    }

    /// Where another node told of a request, its own may show the block later.
    async fn cursor_passed(&self, requests: &[Issued]) -> Result<()> {
        let last = requests.iter().map(|request| request.block).max();
        let what = format!("the cursor at the last request's block {last:?}");
        until(&what, PATIENCE, Duration::from_millis(100), async || {
            Ok((self.cursor()? >= last).then_some(()))
        })
        .await
    }

    /// Every nonce the journal took is mined; unless it was cut, it knows every mined one.
    async fn nonces_are_whole(&self, chain: &Chain, journal: Journal) -> Result<()> {
        let sql = "SELECT nonce, mined_block_number IS NOT NULL FROM transactions";
        until("mined nonces", PATIENCE, Duration::from_millis(100), async || {
            let count = chain.nonce(self.wallet).await?;
            let known: Vec<(u64, bool)> =
                journal::query(self.file, sql, |row| Ok((number(row, 0)?, row.get(1)?)))?;
            let taken: BTreeSet<u64> = known.iter().map(|(nonce, _)| *nonce).collect();
            let mined: BTreeSet<u64> =
                known.iter().filter(|(_, mined)| *mined).map(|(nonce, _)| *nonce).collect();
            let whole = match journal {
                Journal::Whole => taken == mined && mined.iter().copied().eq(0..count),
                Journal::Cut => taken.last().is_none_or(|last| *last < count),
            };
            Ok(whole.then_some(()))
        })
        .await
    }
}

/// The rows by their ids, each of which was answered.
fn each_once(rows: &[Entry]) -> Result<BTreeMap<U256, &Entry>> {
    let mut stored: BTreeMap<U256, &Entry> = BTreeMap::new();
    for row in rows {
        if stored.insert(row.id, row).is_some() {
            return Err(Error::other(format!("{:#x} is stored twice", row.id)));
        }
        let outcome = row.outcome.as_deref().unwrap_or_default();
        if !["accepted", "already_answered"].contains(&outcome) {
            return Err(Error::other(format!("{:#x} ended as {outcome:?}", row.id)));
        }
    }
    Ok(stored)
}

fn nothing_else(left: &BTreeMap<U256, &Entry>) -> Result<()> {
    match left.first_key_value() {
        None => Ok(()),
        Some((id, _)) => Err(Error::other(format!("{id:#x} is stored and was not asked for"))),
    }
}

fn compare(requests: &[Issued], rows: &[Entry]) -> Result<()> {
    let mut stored = each_once(rows)?;
    for request in requests {
        let row = stored
            .remove(&request.id)
            .ok_or_else(|| Error::other(format!("{:#x} is not stored", request.id)))?;
        if (row.block, row.event_transaction) != (request.block, request.transaction) {
            return Err(Error::other(format!("{row:?} is not the event of {request:?}")));
        }
    }
    nothing_else(&stored)
}

/// An error with the lines of `log` that tell of an instance that ended untold or a task that panicked:
/// one that is built again inside the process shows nowhere else.
pub fn unbroken(log: &str) -> Result<()> {
    let not_as_told = |line: &&str| line.contains("instance ended") && !line.contains(" INFO ");
    let ended = log.lines().filter(not_as_told);
    let panicked = log.lines().filter(|line| line.contains("panicked"));
    let broken: Vec<&str> = ended.chain(panicked).collect();
    if broken.is_empty() { Ok(()) } else { Err(Error::other(broken.join("\n"))) }
}

impl Scene {
    /// An error if the connector has ended by itself, or is not running.
    pub fn alive(&mut self) -> Result<()> {
        self.connector.as_mut().ok_or_else(|| Error::other("no connector"))?.check()
    }

    /// Waits until `requests` are answered, each once and rightly, and holds chain against journal
    /// ([`Books::audit`]).
    pub async fn audit(&mut self, requests: &[Issued], journal: Journal) -> Result<()> {
        self.answered(requests).await?;
        let file = self.stored()?;
        self.books(&file).audit(requests, journal).await?;
        self.alive()?;
        unbroken(&self.log())
    }

    fn books<'a>(&'a self, file: &'a Path) -> Books<'a> {
        Books { deployment: &self.deployment, wallet: self.wallet.address(), file }
    }

    fn stored(&self) -> Result<PathBuf> {
        self.journal().ok_or_else(|| Error::other("no journal yet"))
    }

    /// The ids of the requests that stand in one of these stages and are not settled.
    pub fn unsettled_in(&self, stages: &[&str]) -> Result<Vec<U256>> {
        self.books(&self.stored()?).unsettled_in(stages)
    }

    /// The journal's cursor, once it has one.
    pub fn cursor(&self) -> Result<Option<u64>> {
        self.books(&self.stored()?).cursor()
    }
}

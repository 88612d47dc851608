//! Rounds of random changes to a directory of configurations: in the end of each, the last good
//! contents of the valid files are what runs, and who was not meant did not notice.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use world::{
    Error, Result, at_length,
    fleet::Fleet,
    program,
    request::Ask,
    status::{InstanceStatus, Status},
    supervised::{find, running},
};

use super::reload::sha256sum;

const PARTIES: usize = 5;

/// What a file is, and what should run by it.
#[derive(Clone, Debug)]
struct File {
    /// Whose configuration it is.
    party: usize,
    /// It is a link, which is not written through.
    link: bool,
    /// What stands in it is wrong.
    broken: bool,
    /// The last good content, if there was one.
    good: Option<Good>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Good {
    text: String,
    hash: String,
}

/// The directory, and what should become of it.
struct Model<'a> {
    fleet: &'a Fleet,
    rng: Rng,
    files: BTreeMap<String, File>,
    /// Makes every content another.
    counter: u32,
}

impl Model<'_> {
    fn text(&mut self, party: usize) -> String {
        self.counter += 1;
        self.fleet.config(party, &format!("max_requests_in_flight = {}", 500 + self.counter))
    }

    fn pause(&mut self, millis: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(millis))
    }

    /// Writes the file in one of the ways files are written.
    async fn put(&mut self, name: &str, text: &str) -> Result<()> {
        let configs = &self.fleet.supervisor.configs;
        let file = self.files.get(name);
        // In place would change what the link leads to, outside of the directory.
        let (exists, link) = (file.is_some(), file.is_some_and(|file| file.link));
        let way = self.rng.u8(0..5);
        let pause = self.pause(20..200);
        let linked = match way {
            1 if !link => configs.overwrite(name, text).map(|()| false),
            2 if !link => {
                let pieces = self.rng.usize(2..12);
                configs.write_slowly(name, text, pieces, pause).await.map(|()| false)
            }
            3 if exists => configs.edit(name, text, pause).await.map(|()| false),
            4 => configs.link(name, text).map(|()| true),
            _ => configs.write(name, text).map(|()| false),
        }?;
        if let Some(file) = self.files.get_mut(name) {
            file.link = linked;
        } else {
            let party = usize::MAX;
            self.files.insert(name.into(), File { party, link: linked, broken: true, good: None });
        }
        Ok(())
    }

    async fn put_good(&mut self, name: &str, party: usize) -> Result<()> {
        let text = self.text(party);
        self.put(name, &text).await?;
        let hash = sha256sum(&self.fleet.supervisor.configs.file(name))?;
        let file = self.files.get_mut(name).ok_or_else(|| Error::other(name))?;
        (file.party, file.broken, file.good) = (party, false, Some(Good { text, hash }));
        Ok(())
    }

    fn pick(&mut self, wanted: impl Fn(&File) -> bool) -> Option<String> {
        let names: Vec<String> = self
            .files
            .iter()
            .filter(|(_, file)| wanted(file))
            .map(|(name, _)| name.clone())
            .collect();
        self.rng.choice(names)
    }

    /// One change. Answers the names it meant; none if there was nothing to change that way.
    async fn change(&mut self, meant: &[String]) -> Result<Vec<String>> {
        let free = |name: &String| !meant.contains(name);
        match self.rng.u8(0..8) {
            // A new file.
            0 | 1 => {
                let taken: Vec<usize> = self.files.values().map(|file| file.party).collect();
                let parties = (0..PARTIES).filter(|party| !taken.contains(party));
                let Some(party) = self.rng.choice(parties.collect::<Vec<_>>()) else {
                    return Ok(Vec::new());
                };
                let name = format!("file-{}", self.counter);
                self.put_good(&name, party).await?;
                Ok(vec![name])
            }
            // Other content, also where the old was wrong.
            2 | 3 => {
                let Some(name) = self.pick(|_| true).filter(free) else { return Ok(Vec::new()) };
                let party = self.files[&name].party;
                self.put_good(&name, party).await?;
                Ok(vec![name])
            }
            // Content that is wrong.
            4 => {
                let Some(name) = self.pick(|_| true).filter(free) else { return Ok(Vec::new()) };
                let text = self.fleet.config(self.files[&name].party, "no_such_key = 1");
                let wrong = [text.as_str(), "", "chain_id = ", "\u{0}\u{1}"];
                let wrong = wrong[self.rng.usize(0..wrong.len())].to_owned();
                self.put(&name, &wrong).await?;
                self.files.get_mut(&name).ok_or_else(|| Error::other(&name))?.broken = true;
                Ok(vec![name])
            }
            // Another name.
            5 => {
                let Some(name) = self.pick(|file| !file.broken).filter(free) else {
                    return Ok(Vec::new());
                };
                self.counter += 1;
                let other = format!("renamed-{}", self.counter);
                self.fleet.supervisor.configs.rename(&name, &other)?;
                let file = self.files.remove(&name).ok_or_else(|| Error::other(&name))?;
                self.files.insert(other.clone(), file);
                Ok(vec![name, other])
            }
            // Gone.
            6 => {
                let Some(name) = self.pick(|_| true).filter(free) else { return Ok(Vec::new()) };
                self.fleet.supervisor.configs.remove(&name)?;
                self.files.remove(&name);
                Ok(vec![name])
            }
            // The whole directory, for a moment or for longer: no file is meant by that.
            _ => {
                let pause = self.pause(10..3000);
                self.fleet.supervisor.configs.vanish(pause).await?;
                Ok(Vec::new())
            }
        }
    }

    /// What is not as the files say.
    fn wrong(&self, status: &Status) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, file) in &self.files {
            let shown = find(status, name);
            match (&file.good, shown) {
                (Some(good), Some(one)) => {
                    let hash = one.config_hash.as_deref().unwrap_or_default();
                    let right = !hash.is_empty() && good.hash.starts_with(hash);
                    if !is_settled(one) || !right || one.reload_failed.is_some() != file.broken {
                        wrong.push(format!("{name}: {one:?}"));
                    }
                }
                (Some(_), None) => wrong.push(format!("{name} is missing")),
                (None, _) => {}
            }
        }
        for name in running(status) {
            if self.files.get(name).is_none_or(|file| file.good.is_none()) {
                wrong.push(format!("{name} runs"));
            }
        }
        wrong
    }
}

fn is_settled(one: &InstanceStatus) -> bool {
    one.state == "running" && !one.changing
}

#[world::test]
async fn what_runs_is_what_the_files_say() -> Result<()> {
    let given = std::env::var_os("RELOAD_SEED").and_then(|seed| seed.to_str()?.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("RELOAD_SEED={seed}");
    let mut fleet = Fleet::new(PARTIES).await?;
    fleet.supervisor.start(program())?;
    let mut requests = Vec::new();
    let files = BTreeMap::new();
    let mut model = Model { fleet: &fleet, rng: Rng::with_seed(seed), files, counter: 0 };
    for party in 0..3 {
        model.put_good(&format!("file-{party}"), party).await?;
    }
    model.counter = 10;
    let mut before =
        fleet.supervisor.until("the start", |status| model.wrong(status).is_empty()).await?;
    let rounds = if at_length() { 30 } else { 4 };
    for round in 0..rounds {
        let connections: BTreeMap<usize, _> = model
            .files
            .values()
            .filter(|file| file.good.is_some())
            .map(|file| Ok((file.party, fleet.core_connections(file.party)?)))
            .collect::<Result<_>>()?;
        let mut meant = Vec::new();
        for _ in 0..model.rng.usize(1..4) {
            let names = model.change(&meant).await?;
            println!("round {round}: {names:?}");
            meant.extend(names);
            tokio::time::sleep(model.pause(0..700)).await;
        }
        let what = format!("round {round} applied: {:?}", model.files);
        let after = fleet.supervisor.until(&what, |status| model.wrong(status).is_empty()).await?;
        for (name, file) in model.files.iter().filter(|(name, _)| !meant.contains(name)) {
            let (Some(then), Some(now)) = (find(&before, name), find(&after, name)) else {
                continue;
            };
            let same = (then.generation, then.since_ms) == (now.generation, now.since_ms);
            assert!(same, "round {round}: {name} was not meant\n{then:?}\n{now:?}");
            let now = fleet.core_connections(file.party)?;
            assert_eq!(connections[&file.party], now, "round {round}: {name}");
        }
        requests.extend(fleet.request(Ask::mixed(1, 1)).await?);
        let parties: Vec<usize> =
            model.files.values().filter(|f| f.good.is_some()).map(|f| f.party).collect();
        fleet.answered_by(&parties, &requests).await?;
        before = after;
    }
    drop(model);
    fleet.unbroken()
}

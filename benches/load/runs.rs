//! The measurements: what is asked of a program, and what is looked at meanwhile.

use std::{path::Path, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use world::{Error, Result};

use crate::{
    figures::{each, mib, pace, small, spread, whole},
    gated::Gate,
    ground::{Ground, Plan},
    heads::Heads,
    host::Asked,
    metrics,
    program::{Program, Running},
    row::Row,
    tally::Tally,
};

/// Requests before anything is counted: connections are made, gas is learned.
pub const WARM_UP: usize = 20;
/// By then the host chain's contract was looked at: what it grants can be known from then on.
const CONTRACT_KNOWN: Duration = Duration::from_secs(3);
const WITHIN: Duration = Duration::from_mins(3);
/// How old what `/metrics` tells may be.
const TOLD_WITHIN: Duration = Duration::from_millis(1200);
/// How often requests are emitted at a steady rate.
const TURN: Duration = Duration::from_millis(125);
/// Blocks of the node in memory when it is to be no limit.
const QUICK_BLOCKS: Duration = Duration::from_millis(50);
const ROOMS: [&str; 6] =
    ["arrivals", "access", "ciphertexts", "kms_core_ask", "kms_core_answer", "submission"];

/// What comes.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// So many requests a second, for so many seconds.
    Steady { rate: f64, seconds: f64 },
    /// So many at once.
    Burst(usize),
    /// So many are on chain when it starts. `again`: it ran before.
    Found { count: usize, again: bool },
    /// In memory: what the program itself adds.
    Added { rate: f64, seconds: f64, blocks: Duration },
    /// In memory: as many as it can, with so many unanswered.
    Ceiling { unanswered: usize, seconds: f64 },
    /// In memory: so many are on chain when it starts, and the Core has no answers.
    CatchUp(usize),
    /// Nothing.
    Idle { seconds: f64 },
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Run {
    pub name: String,
    pub plan: Plan,
    pub work: Work,
}

/// What was so far.
struct Look {
    cpu: Duration,
    metrics: String,
    gets: u64,
    polls: usize,
    written: u64,
    asked: Option<Asked>,
}

impl Look {
    async fn at(ground: &Ground, running: &Running) -> Result<Self> {
        let ((gets, polls), usage) = (ground.counts(), running.usage()?);
        let asked = ground.asked();
        // What happened just now is told a moment later.
        sleep(TOLD_WITHIN).await;
        let metrics = running.metrics().await?;
        Ok(Self { cpu: usage.cpu, metrics, gets, polls, written: usage.written, asked })
    }
}

/// Where a run on chain began.
struct Before {
    heads: Heads,
    head: u64,
    look: Look,
}

impl Run {
    /// Measures `program`, with everything in `dir`.
    pub async fn measure(&self, program: &Program, dir: &Path) -> Result<Row> {
        let mut ground = Ground::start(dir, self.plan).await?;
        let mut running = Running::new(program, dir, &ground)?;
        let mut row =
            Row { name: self.name.clone(), program: program.word().into(), ..Row::default() };
        let measured = match self.work {
            Work::Steady { rate, seconds } => {
                self.steady(&ground, &mut running, &mut row, rate, seconds).await
            }
            Work::Burst(count) => self.burst(&ground, &mut running, &mut row, count).await,
            Work::Found { count, again } => {
                self.found(&ground, &mut running, &mut row, count, again).await
            }
            Work::Added { rate, seconds, blocks } => {
                self.added(&mut ground, &mut running, &mut row, (rate, seconds), blocks).await
            }
            Work::Ceiling { unanswered, seconds } => {
                self.ceiling(&mut ground, &mut running, &mut row, unanswered, seconds).await
            }
            Work::CatchUp(count) => self.catch_up(&ground, &mut running, &mut row, count).await,
            Work::Idle { seconds } => self.idle(&mut running, &mut row, seconds).await,
        };
        if let Err(error) = measured {
            row.note = format!("failed: {error}");
        }
        if let Err(error) = running.check() {
            row.note = format!("failed: {error}");
        }
        // What it is worth is measured; how it ends matters elsewhere.
        let _ended = running.stop().await;
        Ok(row)
    }

    /// Started, and every connection used.
    async fn warm(&self, ground: &Ground, running: &mut Running) -> Result<()> {
        let head = ground.deployment.chain.block_number().await?;
        running.spawn()?;
        running.ready(self.plan.instances).await?;
        if self.plan.gate.is_some() {
            sleep(CONTRACT_KNOWN).await;
        }
        let count = self.plan.gate.map_or(0, Gate::warm_up).max(WARM_UP);
        ground.emit(&ground.asks(count)).await?;
        Tally::new(&ground.deployment, head + 1).complete(count, self.plan.instances, WITHIN).await
    }

    async fn steady(
        &self,
        ground: &Ground,
        running: &mut Running,
        row: &mut Row,
        rate: f64,
        seconds: f64,
    ) -> Result<()> {
        let before = self.begin(ground, running).await?;
        let mut turn = interval(TURN);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (begun, mut emitted) = (Instant::now(), 0);
        while begun.elapsed().as_secs_f64() < seconds {
            turn.tick().await;
            let due = whole(rate * begun.elapsed().as_secs_f64().min(seconds)).max(1);
            ground.emit(&ground.asks(due.saturating_sub(emitted))).await?;
            emitted = due.max(emitted);
        }
        self.end(ground, running, row, &before, emitted).await
    }

    async fn burst(
        &self,
        ground: &Ground,
        running: &mut Running,
        row: &mut Row,
        count: usize,
    ) -> Result<()> {
        let asks = ground.asks(count);
        let before = self.begin(ground, running).await?;
        ground.emit(&asks).await?;
        self.end(ground, running, row, &before, count).await
    }

    /// Warm, and looked at: what comes now counts.
    async fn begin(&self, ground: &Ground, running: &mut Running) -> Result<Before> {
        self.warm(ground, running).await?;
        let heads = Heads::follow(&ground.anvil.ws_url()).await?;
        let head = ground.deployment.chain.block_number().await?;
        Ok(Before { heads, head, look: Look::at(ground, running).await? })
    }

    /// Waits for the answers to so many requests since then, and counts.
    async fn end(
        &self,
        ground: &Ground,
        running: &Running,
        row: &mut Row,
        before: &Before,
        count: usize,
    ) -> Result<()> {
        let Before { heads, head, look } = before;
        row.of = count * self.plan.instances;
        let mut tally = Tally::new(&ground.deployment, head + 1);
        let complete = tally.complete(count, self.plan.instances, WITHIN).await;
        self.count(ground, running, row, look, tally.answers()).await?;
        row.doubles(tally.doubles());
        row.latency_ms = spread(&tally.latencies(&heads.seen()));
        row.per_second = tally.ends().and_then(|ends| pace(heads, ends, tally.answers()));
        complete
    }

    async fn found(
        &self,
        ground: &Ground,
        running: &mut Running,
        row: &mut Row,
        count: usize,
        again: bool,
    ) -> Result<()> {
        if again {
            self.warm(ground, running).await?;
            running.stop().await?;
        }
        let head = ground.deployment.chain.block_number().await?;
        let heads = Heads::follow(&ground.anvil.ws_url()).await?;
        let mut tally = Tally::new(&ground.deployment, head + 1);
        ground.emit(&ground.asks(count)).await?;
        tally.complete(count, 0, WITHIN).await?;
        let begun = Instant::now();
        running.spawn()?;
        row.of = count * self.plan.instances;
        let complete = tally.complete(count, self.plan.instances, WITHIN).await;
        row.answers = tally.answers();
        row.doubles(tally.doubles());
        let usage = running.usage()?;
        row.cpu_ms = Some(each(usage.cpu.as_secs_f64() * 1000.0, row.answers));
        row.peak_mib = Some(mib(usage.peak_kib));
        let seen = heads.seen();
        if let Some(last) = tally.ends().and_then(|(_, last)| seen.get(&last)) {
            let took = last.saturating_duration_since(begun).as_secs_f64();
            row.per_second = Some(each(1.0, 1) * f64::from(small(row.answers)) / took);
            row.note(&format!(
                "{took:.2} s from the start of the process to the last answer's block"
            ));
        }
        complete
    }

    async fn added(
        &self,
        ground: &mut Ground,
        running: &mut Running,
        row: &mut Row,
        (rate, seconds): (f64, f64),
        blocks: Duration,
    ) -> Result<()> {
        self.start_in_memory(ground, running, blocks).await?;
        let (before, calls) = (Look::at(ground, running).await?, node(ground)?.calls());
        let (_, warm) = node(ground)?.counts();
        let mut turn = interval(blocks.min(TURN));
        let (begun, mut emitted) = (Instant::now(), 0);
        while begun.elapsed().as_secs_f64() < seconds {
            turn.tick().await;
            let due = whole(rate * begun.elapsed().as_secs_f64());
            node(ground)?.emit(ground.asks(due - emitted));
            emitted = due;
        }
        row.of = emitted;
        let complete = answered(ground, warm + emitted).await;
        let (_, all) = node(ground)?.counts();
        self.count(ground, running, row, &before, all - warm).await?;
        row.doubles(node(ground)?.doubles());
        let now = node(ground)?.calls();
        row.rpc_by_method = now
            .into_iter()
            .map(|(method, count)| (method.clone(), count - calls.get(&method).unwrap_or(&0)))
            .collect();
        let (told, came) = (node(ground)?.told(), node(ground)?.answered());
        let core = ground.parties[0].core.times();
        let (mut asks, mut sends, mut both) = (Vec::new(), Vec::new(), Vec::new());
        for (id, told) in told.iter().filter(|(_, told)| **told > begun) {
            let (Some(came), Some((asked, Some(answered)))) = (came.get(id), core.get(id)) else {
                continue;
            };
            let ask = asked.saturating_duration_since(*told).as_secs_f64() * 1000.0;
            let send = came.saturating_duration_since(*answered).as_secs_f64() * 1000.0;
            asks.push(ask);
            sends.push(send);
            both.push(ask + send);
        }
        for (what, mut all) in
            [("head to ask", asks), ("answer to broadcast", sends), ("both", both)]
        {
            all.sort_unstable_by(f64::total_cmp);
            if let Some(spread) = spread(&all) {
                row.added_ms.insert(what.into(), spread);
            }
        }
        complete
    }

    async fn ceiling(
        &self,
        ground: &mut Ground,
        running: &mut Running,
        row: &mut Row,
        unanswered: usize,
        seconds: f64,
    ) -> Result<()> {
        self.start_in_memory(ground, running, QUICK_BLOCKS).await?;
        let before = Look::at(ground, running).await?;
        let (_, warm) = node(ground)?.counts();
        let (begun, mut emitted) = (Instant::now(), warm);
        let mut turn = interval(QUICK_BLOCKS / 2);
        // Its processor time for an answer in the first and in the last third: the journal grows.
        let mut thirds = vec![(before.cpu, warm)];
        while begun.elapsed().as_secs_f64() < seconds {
            turn.tick().await;
            let (_, answered) = node(ground)?.counts();
            let wanted = (answered + unanswered).saturating_sub(emitted);
            node(ground)?.emit(ground.asks(wanted));
            emitted += wanted;
            let third = seconds / 3.0 * f64::from(small(thirds.len()));
            if begun.elapsed().as_secs_f64() >= third {
                thirds.push((running.usage()?.cpu, answered));
            }
        }
        let (took, (_, all)) = (begun.elapsed().as_secs_f64(), node(ground)?.counts());
        row.per_second = Some(f64::from(small(all - warm)) / took);
        row.of = emitted - warm;
        let complete = answered(ground, emitted).await;
        let (_, all) = node(ground)?.counts();
        self.count(ground, running, row, &before, all - warm).await?;
        row.doubles(node(ground)?.doubles());
        thirds.push((running.usage()?.cpu, all));
        let of = |pair: &[(Duration, usize)]| {
            let cpu = pair[1].0.saturating_sub(pair[0].0).as_secs_f64() * 1000.0;
            each(cpu, pair[1].1.saturating_sub(pair[0].1))
        };
        let parts: Vec<String> =
            thirds.windows(2).map(|pair| format!("{:.2}", of(pair))).take(3).collect();
        row.note(&format!("CPU ms for an answer, by thirds of the time: {}", parts.join(", ")));
        complete
    }

    async fn catch_up(
        &self,
        ground: &Ground,
        running: &mut Running,
        row: &mut Row,
        count: usize,
    ) -> Result<()> {
        const IN_EACH: usize = 20;
        node(ground)?.prepare(ground.asks(count), IN_EACH);
        running.spawn()?;
        let (mut first, until) = (None, Instant::now() + WITHIN);
        row.of = count;
        loop {
            sleep(Duration::from_millis(20)).await;
            // Not listening yet, at first.
            let text = running.metrics().await.unwrap_or_default();
            let arrived = metrics::sum(&text, "kms_connector_requests_arrived_total", "");
            if arrived > 0.0 && first.is_none() {
                first = Some((Instant::now(), arrived, running.usage()?.cpu));
            }
            let Some((since, before, cpu)) = first else {
                if Instant::now() > until {
                    return Err(Error::other("nothing arrives"));
                }
                continue;
            };
            row.answers = whole(arrived);
            if row.answers >= count {
                let usage = running.usage()?;
                row.per_second = Some((arrived - before) / since.elapsed().as_secs_f64());
                let cpu = usage.cpu.saturating_sub(cpu).as_secs_f64() * 1000.0;
                row.cpu_ms = Some(cpu / (arrived - before));
                row.peak_mib = Some(mib(usage.peak_kib));
                row.note("requests read, decoded and journaled; nothing of them is answered");
                return Ok(());
            }
            if Instant::now() > until {
                return Err(Error::other("not all arrived"));
            }
        }
    }

    async fn idle(&self, running: &mut Running, row: &mut Row, seconds: f64) -> Result<()> {
        running.spawn()?;
        running.ready(self.plan.instances).await?;
        sleep(Duration::from_secs_f64(seconds / 2.0)).await;
        let (before, since) = (running.usage()?, Instant::now());
        sleep(Duration::from_secs_f64(seconds / 2.0)).await;
        let after = running.usage()?;
        row.peak_mib = Some(mib(after.peak_kib));
        let cpu =
            after.cpu.saturating_sub(before.cpu).as_secs_f64() / since.elapsed().as_secs_f64();
        row.note(&format!(
            "resident {:.1} MiB, {:.2} % of one processor",
            mib(after.rss_kib),
            cpu * 100.0
        ));
        Ok(())
    }

    async fn start_in_memory(
        &self,
        ground: &mut Ground,
        running: &mut Running,
        block_time: Duration,
    ) -> Result<()> {
        let chain = ground.node.as_mut().ok_or_else(|| Error::other("no node in memory"))?;
        chain.run(block_time);
        running.spawn()?;
        running.ready(self.plan.instances).await?;
        let asks = ground.asks(WARM_UP);
        node(ground)?.emit(asks);
        answered(ground, WARM_UP).await
    }

    /// What it took since `before`.
    async fn count(
        &self,
        ground: &Ground,
        running: &Running,
        row: &mut Row,
        before: &Look,
        answers: usize,
    ) -> Result<()> {
        let (after, usage) = (Look::at(ground, running).await?, running.usage()?);
        row.answers = answers;
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1000.0;
        row.cpu_ms = Some(each(cpu, answers));
        row.peak_mib = Some(mib(usage.peak_kib));
        row.gets = Some(each(f64::from(small(after.gets - before.gets)), answers));
        row.polls = Some(each(f64::from(small(after.polls - before.polls)), answers));
        let written = f64::from(small((after.written - before.written) >> 10));
        row.written_kib = Some(each(written, answers));
        if let (Some(before), Some(now)) = (before.asked, after.asked) {
            row.asked(now.since(before));
        }
        if after.metrics.is_empty() {
            return Ok(());
        }
        let grown = |family: &str| {
            metrics::sum(&after.metrics, family, "") - metrics::sum(&before.metrics, family, "")
        };
        row.rpc_calls = Some(each(grown("kms_connector_rpc_calls_total"), answers));
        row.commits =
            Some(each(grown("kms_connector_journal_commit_duration_seconds_count"), answers));
        for room in ROOMS {
            let (family, label) =
                ("kms_connector_room_duration_seconds", format!("room=\"{room}\""));
            let spread = metrics::quantiles(&before.metrics, &after.metrics, family, &label);
            if let Some(spread) = spread {
                row.rooms_ms.insert(room.into(), spread);
            }
        }
        Ok(())
    }
}

impl Row {
    fn note(&mut self, what: &str) {
        if !self.note.is_empty() {
            self.note.push_str("; ");
        }
        self.note.push_str(what);
    }

    /// Of the host chain, for the answers that came.
    fn asked(&mut self, asked: Asked) {
        let Asked { first, again, alone, other } = asked;
        self.host_batches = Some(each(f64::from(small(first)), self.answers));
        self.host_again = Some(each(f64::from(small(again)), self.answers));
        self.note(&format!(
            "host chain: {first} batches for {} answers, {again} for repeated checks, {alone} questions \
             alone, {other} other messages",
            self.answers
        ));
    }

    fn doubles(&mut self, doubles: usize) {
        if doubles > 0 {
            self.note(&format!("{doubles} answers twice"));
        }
    }
}

fn node(ground: &Ground) -> Result<&crate::node::MemoryNode> {
    ground.node.as_ref().ok_or_else(|| Error::other("no node in memory"))
}

/// Waits until the node in memory has so many answers.
async fn answered(ground: &Ground, count: usize) -> Result<()> {
    let until = Instant::now() + WITHIN;
    loop {
        let (told, answered) = node(ground)?.counts();
        if told >= count && answered >= count {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Error::other(format!("{answered} of {count} answers")));
        }
        sleep(QUICK_BLOCKS).await;
    }
}

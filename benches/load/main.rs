//! How fast a connector is and what it costs, measured the same way every time: a release build as a
//! process of its own, default settings, against a real chain (or, for its own ceiling, a node in
//! memory), buckets over HTTP and stubs of the KMS Core. The reference (`benches/responder`) has the
//! rooms and nothing else: its figures say what the machine and the chain allow.
//!
//! `scripts/bench` builds what is needed and runs it. Figures of two sittings are compared as ratios:
//! machines differ and are noisy.

mod figures;
mod gated;
mod ground;
mod heads;
mod host;
mod list;
mod metrics;
mod node;
mod program;
mod row;
mod runs;
mod store;
mod tally;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use world::{Error, Result, folders::Run, run::run};

use program::Program;
use row::Sitting;

#[derive(Parser)]
#[command(name = "bench", about = "How fast the connector is, and what it costs")]
struct Cli {
    /// The connector's program.
    #[arg(long, value_name = "FILE")]
    connector: PathBuf,
    /// The reference's program: measured beside the connector where it can be.
    #[arg(long, value_name = "FILE")]
    responder: Option<PathBuf>,
    /// Two minutes: both programs in turn, a steady rate and a burst.
    #[arg(long)]
    quick: bool,
    /// Only runs with this text in their name.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Seconds of a steady run.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Where the figures go, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// An earlier JSON: prints the ratios to it.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// The folder that gets a folder for every sitting.
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.bench"))]
    dir: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    run("bench", async |interrupts| {
        interrupts.or(bench(&cli)).await?;
        Ok(ExitCode::SUCCESS)
    })
    .await
}

async fn bench(cli: &Cli) -> Result<()> {
    let old: Option<Sitting> = match &cli.compare {
        Some(file) => Some(serde_json::from_str(&read(file)?)?),
        None => None,
    };
    let folder = Run::begin(&cli.dir)?;
    let connector = Program::Connector(cli.connector.clone());
    let reference = cli.responder.clone().map(Program::Responder);
    let mut sitting = Sitting { machine: row::machine(), rows: Vec::new() };
    println!("machine      {}\nfolder       {}\n", sitting.machine, folder.dir.display());
    let runs = if cli.quick { list::quick() } else { list::all(cli.seconds) };
    for (run, with_reference) in runs {
        if cli.only.as_ref().is_some_and(|text| !run.name.contains(text.as_str())) {
            continue;
        }
        // In turn, so that both have the same minute of the machine.
        let reference = reference.as_ref().filter(|_| with_reference);
        for program in reference.into_iter().chain([&connector]) {
            let dir = folder.dir.join(sitting.rows.len().to_string());
            let row = run.measure(program, &dir).await?;
            println!("{}", row::line(&row));
            for remark in row::remarks(&row) {
                println!("  {remark}");
            }
            sitting.rows.push(row);
            let json = serde_json::to_string_pretty(&sitting)?;
            write(&folder.dir.join("figures.json"), &json)?;
            if let Some(file) = &cli.json {
                write(file, &json)?;
            }
        }
    }
    println!("\n{}", row::table(&sitting.rows));
    for line in row::costs_of_access(&sitting.rows) {
        println!("{line}");
    }
    if reference.is_some() {
        println!("\nThe connector against the reference (1.00: the same)\n\n{}", against(&sitting));
    }
    if let Some(old) = old {
        println!("\nThis sitting against the earlier one\n\n{}", row::compared(&old, &sitting));
    }
    Ok(())
}

/// The connector's rows against the reference's.
fn against(sitting: &Sitting) -> String {
    let of = |word: &str| -> Sitting {
        let rows = sitting.rows.iter().filter(|row| row.program == word);
        let rows = rows.map(|row| row::Row { program: String::new(), ..row.clone() }).collect();
        Sitting { machine: String::new(), rows }
    };
    row::compared(&of("reference"), &of("connector"))
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|e| Error::Io(file.display().to_string(), e))
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|e| Error::Io(file.display().to_string(), e))
}

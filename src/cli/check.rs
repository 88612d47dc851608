//! `check`: examines a configuration and everything it depends on, one line per finding.

use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::{
    output::{ExitStatus, print},
    paths,
    permissions::{self, Exposure, Viewer},
    target::ConfigTarget,
    text::{Colour, painted, printable},
    verdict::ConfigDirCheck,
};
use crate::{
    config::{self, Config, Environment, LoadMode, Loaded, Problem, Problems, Warning},
    instance::{
        self,
        diagnose::{Diagnosis, Finding, Severity, diagnose},
    },
    supervisor::{
        claims::Collision,
        config_dir::snapshot::{self, ConfigFiles},
    },
};

/// Instances examined at the same time.
const CONCURRENCY: usize = 4;
const CONFIGURATION: &str = "configuration";
const SURROUNDINGS: &str = "surroundings";

/// Directories and environment of the command.
#[derive(Debug)]
pub(super) struct CheckContext {
    pub(super) config_dir: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) environment: Environment,
}

/// The format of the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutputOptions {
    pub(super) json: bool,
    pub(super) colours: bool,
}

/// The findings about one instance.
#[derive(Debug, Serialize)]
struct InstanceFindings {
    instance: String,
    findings: Vec<Finding>,
    #[serde(skip)]
    bad: bool,
    #[serde(skip)]
    wallet: Option<(u64, crate::domain::Address)>,
}

impl InstanceFindings {
    fn bad(instance: impl Into<String>, findings: Vec<Finding>) -> Self {
        Self { instance: instance.into(), findings, bad: true, wallet: None }
    }
}

/// Examines and prints. `which`: `None` for all in the directory, together, as `supervise` reads them.
/// Exit code 78 if a configuration is invalid, 1 if something does not work.
pub(super) async fn check(
    which: Option<ConfigTarget>,
    places: CheckContext,
    form: OutputOptions,
) -> ExitStatus {
    let (files, state_dir) =
        (config_files(which.as_ref(), &places.config_dir), places.state_dir.clone());
    let mut reports = match which {
        None => all(&places).await,
        Some(target) => vec![single(&target, &places).await],
    };
    let odd = permissions::find_exposures(&files, &state_dir, Viewer::Command);
    if !odd.is_empty() {
        let of = |Exposure { path, why, remedy }| {
            Finding::warn(SURROUNDINGS, format!("{} {why}", path.display()), remedy)
        };
        let findings = odd.into_iter().map(of).collect();
        reports.push(InstanceFindings { instance: "-".into(), findings, bad: false, wallet: None });
    }
    let text = if form.json { as_json(&reports) } else { as_text(&reports, form.colours) };
    print(&text, exit_status(&reports))
}

/// The files of the selection, as far as they are known before they are read.
fn config_files(which: Option<&ConfigTarget>, config_dir: &Path) -> ConfigFiles {
    let one = |file| ConfigFiles::One { file, name: None };
    match which {
        None => ConfigFiles::Directory(config_dir.to_owned()),
        Some(ConfigTarget::Instance(name)) => one(Some(config_dir.join(format!("{name}.toml")))),
        Some(ConfigTarget::File(file)) => {
            one(file.as_ref().and_then(|file| paths::find_file(file, config_dir).ok()))
        }
    }
}

fn exit_status(reports: &[InstanceFindings]) -> ExitStatus {
    let fails = |report: &InstanceFindings| {
        report.findings.iter().any(|finding| finding.verdict == Severity::Fail)
    };
    if reports.iter().any(|report| report.bad) {
        ExitStatus::BadConfiguration
    } else if reports.iter().any(fails) {
        ExitStatus::Failure
    } else {
        ExitStatus::Success
    }
}

async fn single(target: &ConfigTarget, places: &CheckContext) -> InstanceFindings {
    let mut report = report_of(target, places).await;
    if let ConfigTarget::File(None) = target
        && let Some(note) = paths::note_environment_alone(&places.config_dir)
    {
        let remedy = "`kms-connector check --all` checks those, `--instance NAME` one of them";
        report.findings.insert(0, Finding::warn(CONFIGURATION, note, remedy));
    }
    report
}

async fn report_of(target: &ConfigTarget, places: &CheckContext) -> InstanceFindings {
    match target.find(&places.config_dir) {
        Ok((file, mode)) => {
            let stem = file.as_deref().and_then(Path::file_stem);
            let shown = stem.map_or("-".into(), |stem| stem.to_string_lossy().into_owned());
            one(file, mode, shown, places).await
        }
        Err(problems) => {
            let name = match target {
                ConfigTarget::Instance(name) => name,
                ConfigTarget::File(_) => "-",
            };
            InstanceFindings::bad(name, problem_findings(&problems))
        }
    }
}

async fn one(
    file: Option<PathBuf>,
    mode: LoadMode,
    shown: String,
    places: &CheckContext,
) -> InstanceFindings {
    match paths::load_as(file.clone(), places.environment.clone(), mode) {
        Ok(Loaded { config, mut warnings }) => {
            let CheckContext { config_dir, environment, .. } = places;
            warnings.extend(paths::unmatched_variables(file.as_deref(), config_dir, environment));
            let name = config::instance_name(mode, None, file.as_deref(), &config);
            let known = Known { warnings: &warnings, ..Known::default() };
            diagnose_config(name, &config, known, &places.state_dir).await
        }
        Err(problems) => InstanceFindings::bad(shown, problem_findings(&problems)),
    }
}

async fn diagnose_config(
    instance: String,
    config: &Config,
    known: Known<'_>,
    state_dir: &Path,
) -> InstanceFindings {
    let mut findings = file_findings(known);
    if !config.enabled {
        findings.push(disabled_finding());
    }
    let own = config.observes().then(|| instance::observe_dir(state_dir, &instance));
    let state_dir = own.as_deref().unwrap_or(state_dir);
    let Diagnosis { findings: found, wallet } = Box::pin(diagnose(config, state_dir)).await;
    findings.extend(found);
    InstanceFindings { instance, findings, bad: known.conflict.is_some(), wallet }
}

/// What is known of a valid file before anything is asked.
#[derive(Clone, Copy, Debug, Default)]
struct Known<'a> {
    warnings: &'a [Warning],
    /// Another instance has its wallet or Core: a supervisor refuses it.
    conflict: Option<&'a Collision>,
    /// Another instance of the same deployment has its Core, too.
    shared_core: Option<&'a Collision>,
}

/// The findings about the file itself; "in order" if there is no other.
fn file_findings(known: Known<'_>) -> Vec<Finding> {
    let mut findings = warning_findings(known.warnings);
    if let Some(Collision { why, remedy, .. }) = known.shared_core {
        findings.insert(0, Finding::warn(CONFIGURATION, why, *remedy));
    }
    if let Some(Collision { why, remedy, .. }) = known.conflict {
        findings.insert(0, Finding::fail(CONFIGURATION, why, *remedy));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CONFIGURATION, "in order"));
    }
    findings
}

/// A configuration that a supervisor does not run. The operator may have copied an example.
fn disabled_report(instance: &str, warnings: &[Warning]) -> InstanceFindings {
    let findings = std::iter::once(disabled_finding()).chain(warning_findings(warnings)).collect();
    InstanceFindings { instance: instance.to_owned(), findings, bad: false, wallet: None }
}

fn disabled_finding() -> Finding {
    let found = "enabled = false: a supervisor does not run it";
    Finding::warn(CONFIGURATION, found, "if it should run: remove that line from its file")
}

/// The text of a warning contains its remedy.
fn warning_findings(warnings: &[Warning]) -> Vec<Finding> {
    let of = |warning: &Warning| Finding::warn(CONFIGURATION, warning.to_string(), "");
    warnings.iter().map(of).collect()
}

fn problem_findings(problems: &Problems) -> Vec<Finding> {
    let of = |problem: &Problem| {
        let Problem { place, key, found, allowed, advice } = problem;
        let key = key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
        let found = format!("{place}: {key}found {found}; allowed: {allowed}");
        let remedy = if advice.is_empty() { "correct it" } else { advice };
        Finding::fail(CONFIGURATION, found, remedy)
    };
    problems.as_slice().iter().map(of).collect()
}

async fn all(places: &CheckContext) -> Vec<InstanceFindings> {
    let CheckContext { config_dir, state_dir, environment } = places;
    let ConfigDirCheck { snapshot: look, settled, conflicts, shared_cores } =
        ConfigDirCheck::load(config_dir, environment, state_dir);
    if let Some(problem) = look.problem {
        let problems = problem.to_problems(config_dir);
        return vec![InstanceFindings::bad("-", problem_findings(&problems))];
    }
    let mut reports = Vec::new();
    if let Err(problems) = config::check_environment(environment) {
        reports.push(InstanceFindings::bad("-", problem_findings(&problems)));
    }
    let mut odd = settled.unused_variables(environment);
    odd.extend(snapshot::misnamed_entries(config_dir));
    if !odd.is_empty() {
        let findings = warning_findings(&odd);
        reports.push(InstanceFindings { instance: "-".into(), findings, bad: false, wallet: None });
    }
    if look.files.is_empty() {
        let found = format!("there is no configuration in {}", config_dir.display());
        let finding = Finding::warn(CONFIGURATION, found, "add one there, or set --config-dir");
        let findings = vec![finding];
        reports.push(InstanceFindings { instance: "-".into(), findings, bad: false, wallet: None });
    }
    let looks = look.files.iter().map(|(name, file)| {
        let (conflict, shared_core) = (conflicts.get(name), shared_cores.get(name));
        async move {
            match file {
                Err(problems) if problems.is_disabled() => {
                    disabled_report(name, &problems.as_warnings().collect::<Vec<_>>())
                }
                Err(problems) => InstanceFindings::bad(name, problem_findings(problems)),
                Ok(wanted) if !wanted.config.enabled => disabled_report(name, &wanted.warnings),
                Ok(wanted) => {
                    let known = Known { warnings: &wanted.warnings, conflict, shared_core };
                    diagnose_config(name.clone(), &wanted.config, known, state_dir).await
                }
            }
        }
    });
    // Collected first: otherwise the stream would have to name the closure's lifetime.
    let looks: Vec<_> = looks.collect();
    let found: Vec<InstanceFindings> = stream::iter(looks).buffered(CONCURRENCY).collect().await;
    reports.extend(found);
    report_shared_wallets(&mut reports);
    reports
}

/// Two names of one key in AWS KMS can only be detected by the wallet's address.
fn report_shared_wallets(reports: &mut [InstanceFindings]) {
    for later in 1..reports.len() {
        let (before, rest) = reports.split_at_mut(later);
        let report = &mut rest[0];
        // If one of the two is invalid, its findings already name the other.
        let same = before.iter().find(|other| {
            report.wallet.is_some() && other.wallet == report.wallet && !other.bad && !report.bad
        });
        if let (Some(other), Some((chain_id, wallet))) = (same, report.wallet) {
            let found =
                format!("wallet {wallet} on chain {chain_id} is that of {} too", other.instance);
            let remedy = "a wallet has one owner: give one of them another wallet";
            report.findings.insert(0, Finding::fail(CONFIGURATION, found, remedy));
        }
    }
}

fn as_json(reports: &[InstanceFindings]) -> String {
    let ok = exit_status(reports) == ExitStatus::Success;
    let whole = serde_json::json!({ "ok": ok, "instances": reports });
    whole.to_string() + "\n"
}

fn as_text(reports: &[InstanceFindings], colours: bool) -> String {
    let mut text = String::new();
    for report in reports {
        if !text.is_empty() {
            text.push('\n');
        }
        text += &printable(&report.instance);
        text.push('\n');
        let rows: Vec<[String; 3]> = report.findings.iter().map(row).collect();
        text += &painted(&rows, |row, column| {
            (colours && column == 0).then(|| colour(report.findings[row].verdict))
        });
    }
    text
}

/// Verdict, subject, and finding with remedy, on one line.
fn row(finding: &Finding) -> [String; 3] {
    let one_line = |text: &str| printable(text).split_whitespace().collect::<Vec<_>>().join(" ");
    let mut said = one_line(&finding.found);
    if !finding.remedy.is_empty() {
        said += "; to do: ";
        said += &one_line(&finding.remedy);
    }
    [word(finding.verdict).to_owned(), finding.subject.to_owned(), said]
}

fn word(verdict: Severity) -> &'static str {
    match verdict {
        Severity::Ok => "ok",
        Severity::Warn => "warn",
        Severity::Fail => "fail",
    }
}

fn colour(verdict: Severity) -> Colour {
    match verdict {
        Severity::Ok => Colour::Green,
        Severity::Warn => Colour::Yellow,
        Severity::Fail => Colour::Red,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Address;

    fn report(instance: &str, wallet: u8) -> InstanceFindings {
        let wallet = Some((1, Address::repeat_byte(wallet)));
        InstanceFindings { instance: instance.to_owned(), findings: Vec::new(), bad: false, wallet }
    }

    #[test]
    fn one_wallet_under_two_names_is_told_once() {
        let mut reports = [report("a", 1), report("b", 2), report("c", 1)];
        report_shared_wallets(&mut reports);
        assert_eq!(reports.each_ref().map(|report| report.findings.len()), [0, 0, 1]);
        assert!(reports[2].findings[0].found.contains("that of a too"), "{reports:?}");
        assert_eq!(exit_status(&reports), ExitStatus::Failure);
    }

    #[test]
    fn a_file_that_collides_is_told_once_with_what_to_do() {
        let why = "its wallet is that of b".to_owned();
        let collision = Collision { other: "b".to_owned(), why, remedy: "another one" };
        let only = |known: Known<'_>| {
            let found = file_findings(known);
            let [finding] = &found[..] else { panic!("{found:?}") };
            (finding.verdict, finding.remedy.clone())
        };
        let another = "another one".to_owned();
        let conflict = Known { conflict: Some(&collision), ..Known::default() };
        assert_eq!(only(conflict), (Severity::Fail, another.clone()));
        let shared_core = Known { shared_core: Some(&collision), ..Known::default() };
        assert_eq!(only(shared_core), (Severity::Warn, another));
        assert_eq!(only(Known::default()).0, Severity::Ok);
    }

    /// The environment alone lacks a wallet, which says nothing of the instances that are configured.
    #[tokio::test]
    async fn who_names_nothing_beside_files_is_told_what_is_checked() {
        let (configs, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let places = CheckContext {
            config_dir: configs.path().to_owned(),
            state_dir: state.path().to_owned(),
            environment: Environment::default(),
        };
        let found = async || single(&ConfigTarget::File(None), &places).await.findings;
        assert_eq!(found().await.len(), 1);
        std::fs::write(configs.path().join("node-1.toml"), "").unwrap();
        let told = found().await;
        let Finding { verdict, found, remedy, .. } = &told[0];
        assert_eq!((told.len(), *verdict), (2, Severity::Warn));
        assert!(found.contains("node-1") && remedy.contains("check --all"), "{told:?}");
    }

    #[test]
    fn d3_of_two_with_one_wallet_only_who_does_not_have_it_is_at_fault() {
        let mut reports = [report("0b", 1), report("b", 1)];
        reports[0].bad = true;
        report_shared_wallets(&mut reports);
        assert!(reports[1].findings.is_empty(), "{reports:?}");
    }

    #[test]
    fn a_finding_is_one_line_and_steers_no_terminal() {
        let mut reports = [report("a", 1)];
        let found = "two\nlines \u{1b}[2J";
        reports[0].findings.push(Finding::warn("bucket", found, "look"));
        let text = as_text(&reports, false);
        assert_eq!(text, "a\nwarn  bucket  two lines \\u{1b}[2J; to do: look\n");
        assert!(as_text(&reports, true).contains("\u{1b}[33mwarn\u{1b}[0m"));
        assert_eq!(exit_status(&reports), ExitStatus::Success);
        reports[0].findings.push(Finding::fail("bucket", "x", "y"));
        assert_eq!(exit_status(&reports), ExitStatus::Failure);
        reports[0].bad = true;
        assert_eq!(exit_status(&reports), ExitStatus::BadConfiguration);
    }
}

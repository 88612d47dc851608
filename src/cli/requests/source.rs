//! The sources of answers about requests: a running instance, or the journal of a stopped one.

use std::{path::PathBuf, time::Duration};

use crate::{
    admin::{
        requests::{Inquiry, InquiryAnswer, Part, ask_joined},
        status::InstanceState,
    },
    cli::paths,
    instance::{self, observe_dir, second_keeper},
    journal::{FindError, ReadOnly},
    supervisor::{
        config_dir::snapshot::{BoundedIo, FileTask},
        control::{self, AskError, Request, Response, SocketCandidates},
    },
};

/// A little longer than the supervisor's own deadline.
const DEADLINE: Duration = Duration::from_secs(70);
/// For the instance's state in the heading.
const STATE_DEADLINE: Duration = Duration::from_secs(5);

/// The instance, and where to ask about it.
#[derive(Debug)]
pub(in crate::cli) struct RequestsTarget {
    pub(in crate::cli) name: String,
    /// `None`: not named.
    pub(in crate::cli) state_dir: Option<PathBuf>,
    pub(in crate::cli) candidates: SocketCandidates,
}

/// The source: chosen by the first question, and used until the end.
pub(super) struct AnswerSource {
    whose: RequestsTarget,
    /// The journals of an instance that does not run, and why they are read.
    pub(super) journal: Option<(StoppedJournals, String)>,
}

impl AnswerSource {
    pub(super) fn of(whose: RequestsTarget) -> Self {
        Self { whose, journal: None }
    }

    pub(super) async fn ask(&mut self, inquiry: Inquiry) -> Result<InquiryAnswer, String> {
        if self.journal.is_none() {
            match ask_running(&self.whose, &inquiry).await {
                Ok(LiveAnswer::Told(told)) => return Ok(told),
                Ok(LiveAnswer::Absent { short, why, .. }) => {
                    self.journal = Some((self.find(&why).await?, short));
                }
                Err(why) => return Err(why),
            }
        }
        match &self.journal {
            Some((StoppedJournals { gateway, second: None }, _)) => {
                instance::answer_stopped(gateway, &inquiry).await
            }
            Some((StoppedJournals { gateway, second: Some(second) }, _)) => {
                let ask = |part, inquiry| async move {
                    let journal = if part == Part::Gateway { gateway } else { second };
                    instance::answer_stopped(journal, &inquiry).await
                };
                ask_joined(inquiry, second.chain_id(), ask).await
            }
            None => Err("no answer".to_owned()),
        }
    }

    async fn state(&self) -> Option<String> {
        let RequestsTarget { name, candidates, .. } = &self.whose;
        match control::ask(candidates, &Request::Status, STATE_DEADLINE).await {
            Ok(Response::Status { status }) => {
                let instance = status.instances.iter().find(|instance| instance.name == *name)?;
                Some(instance.state.word().to_owned())
            }
            Ok(_) | Err(_) => None,
        }
    }

    pub(super) async fn find(&self, why: &str) -> Result<StoppedJournals, String> {
        let RequestsTarget { name, state_dir, candidates } = &self.whose;
        let state_dir = paths::resolve_state_dir(state_dir.clone(), candidates).await;
        let (dirs, name) = ([state_dir.clone(), observe_dir(&state_dir, name)], name.clone());
        let finding = BoundedIo::default().run_one(FileTask::Inspect, &state_dir, move |_| {
            let gateway = ReadOnly::find(&dirs, &name).map_err(|error| error.to_string())?;
            let second = match ReadOnly::find(&dirs, &second_keeper(&name)) {
                Ok(second) => Some(second),
                Err(FindError::None { .. }) => None,
                Err(error) => return Err(error.to_string()),
            };
            Ok(StoppedJournals { gateway, second })
        });
        // The user may have mistyped the name, so that error comes first.
        finding
            .unwrap_or_else(|late| Err(format!("{}: {late}", state_dir.display())))
            .map_err(|error| format!("{why}\n({error})"))
    }

    /// The state of the instance as in `status`, or the journal that was read.
    pub(super) async fn describe(&self) -> String {
        match &self.journal {
            None => self.state().await.unwrap_or_else(|| "running".to_owned()),
            Some((StoppedJournals { gateway, second }, why)) => {
                let gateway = gateway.path().display();
                let second = second.as_ref().map(|second| second.path().display());
                let and = second.map_or(String::new(), |second| format!(" and {second}"));
                format!("does not answer ({why}); read from {gateway}{and}")
            }
        }
    }
}

/// The journals of an instance that does not run.
pub(super) struct StoppedJournals {
    gateway: ReadOnly,
    /// Of its second chain, if it has one.
    second: Option<ReadOnly>,
}

/// The result of asking a running instance.
pub(super) enum LiveAnswer {
    Told(InquiryAnswer),
    /// No running instance answers.
    Absent {
        short: String,
        why: String,
        /// The instance's state, if a supervisor has it.
        state: Option<InstanceState>,
    },
}

pub(super) async fn ask_running(
    whose: &RequestsTarget,
    inquiry: &Inquiry,
) -> Result<LiveAnswer, String> {
    let request = Request::Requests { name: whose.name.clone(), inquiry: inquiry.clone() };
    match control::ask(&whose.candidates, &request, DEADLINE).await {
        Ok(Response::Told { told }) => Ok(LiveAnswer::Told(*told)),
        Ok(Response::Absent { why, state }) => {
            Ok(LiveAnswer::Absent { short: why.clone(), why, state })
        }
        Ok(Response::Refused { why } | Response::Silent { why }) => Err(why),
        Ok(Response::Status { .. } | Response::Done { .. }) => Err(UNEXPECTED_ANSWER.to_owned()),
        // No supervisor answers, or this user may not ask it: the journal's file may still be
        // readable.
        Err(AskError::NotFound(miss)) => {
            let short = "no supervisor answers".to_owned();
            Ok(LiveAnswer::Absent { short, why: miss.to_string(), state: None })
        }
        Err(error) => Err(error.to_string()),
    }
}

pub(super) const UNEXPECTED_ANSWER: &str = "the supervisor gave an unexpected answer";

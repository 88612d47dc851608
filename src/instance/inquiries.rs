//! Answers an operator's questions about the requests of both chains of an instance: hands each to the stacks
//! that know, and joins their answers.
//!
//! While the second chain's stack waits for something outside, its journal's file is read instead.

use std::{path::PathBuf, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

use super::operator_requests::read_stored;
use crate::{
    admin::requests::{Inbox, Inquiry, InquiryAnswer, Part, PendingInquiry, ask_joined},
    journal::{FindError, ReadOnly},
};

/// Questions that wait, and those that are answered at the same time.
const AT_ONCE: usize = 8;
/// How long a part may take. A little less than the supervisor waits.
const DEADLINE: Duration = Duration::from_mins(1);

/// The journal of the second chain, for when no stack has it open.
#[derive(Clone, Debug)]
pub(super) struct StoredRequests {
    pub(super) state_dir: PathBuf,
    pub(super) keeper: String,
}

type Published = watch::Receiver<Option<Inbox>>;

/// Publishes an inbox for both, once the gateway's stack has one, and answers what comes in, for ever.
/// `chain_id`: of the second chain.
pub(super) async fn join(
    (mut gateway, second): (Published, Published),
    stored: StoredRequests,
    chain_id: u64,
    publish: watch::Sender<Option<Inbox>>,
) {
    if gateway.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let (inbox, mut inquiries) = mpsc::channel(AT_ONCE);
    publish.send_replace(Some(inbox));
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = answering.join_next() => {}
            asked = inquiries.recv(), if answering.len() < AT_ONCE => {
                let Some(PendingInquiry { inquiry, reply }) = asked else { return };
                let (gateway, second) = (gateway.borrow().clone(), second.borrow().clone());
                let stored = stored.clone();
                answering.spawn(async move {
                    let ask = |part, inquiry| {
                        let (gateway, second) = (gateway.clone(), second.clone());
                        let stored = stored.clone();
                        async move {
                            match (part, second) {
                                (Part::Gateway, _) => ask_stack(gateway, inquiry).await,
                                (Part::Second, Some(second)) => {
                                    ask_stack(Some(second), inquiry).await
                                }
                                (Part::Second, None) => stored.ask(inquiry).await,
                            }
                        }
                    };
                    let told = ask_joined(inquiry, chain_id, ask).await;
                    // The asker may be gone by now.
                    let _ = reply.send(told);
                });
            }
        }
    }
}

/// Asks a stack through its inbox.
async fn ask_stack(inbox: Option<Inbox>, inquiry: Inquiry) -> Result<InquiryAnswer, String> {
    const GONE: &str = "this part of the instance is being built again: ask again in a moment";
    let inbox = inbox.ok_or_else(|| GONE.to_owned())?;
    let (reply, answer) = oneshot::channel();
    let asking = async {
        inbox.send(PendingInquiry { inquiry, reply }).await.map_err(|_| GONE.to_owned())?;
        answer.await.map_err(|_| GONE.to_owned())?
    };
    let late = |_| Err(format!("no answer within {DEADLINE:?}"));
    timeout(DEADLINE, asking).await.unwrap_or_else(late)
}

impl StoredRequests {
    /// Reads the journal's file. There is none before the chain was reached first.
    async fn ask(self, inquiry: Inquiry) -> Result<InquiryAnswer, String> {
        if inquiry.is_action() {
            return Err("it is not read at the moment: see its state, and ask again".to_owned());
        }
        let Self { state_dir, keeper } = self;
        let reading =
            spawn_blocking(move || match (ReadOnly::find(&[state_dir], &keeper), &inquiry) {
                (Ok(journal), _) => read_stored(&journal, &inquiry),
                (Err(FindError::None { .. }), Inquiry::List { .. }) => {
                    Ok(InquiryAnswer::Lines { requests: Vec::new(), next: None })
                }
                (Err(FindError::None { .. }), Inquiry::Export { .. }) => {
                    Ok(InquiryAnswer::Exported { requests: Vec::new(), next: None })
                }
                (Err(error), _) => Err(error.to_string()),
            });
        reading.await.unwrap_or_else(|_| Err("the process is ending".to_owned()))
    }
}

//! Questions that the journal alone answers: lists, exports, one request.

use crate::{
    admin::requests::{
        Accepted, Approved, EventPlace, ExportedAnswer, ExportedRequest, Inquiry, InquiryAnswer,
        InquiryFilter, RequestDetail, TransactionSummary,
    },
    contracts::abi,
    domain::{Bytes, DisplayId, Outcome, U256},
    instance::request_overview::{overview, overview_of_summary},
    journal::{
        self, JournaledTransaction, Position, Queries, Query, RequestPage, RequestRecord,
        StoreError,
    },
};

/// Requests per page of a list.
const LIST_PAGE: u32 = 500;
/// Requests per page of an export: each may have hundreds of kilobytes.
const EXPORT_PAGE: u32 = 16;
/// Bytes of events and answers per page of an export; hex doubles them.
pub(super) const EXPORT_PAGE_BYTES: usize = 8 << 20;

/// Answers from the journal alone.
pub(super) fn read(look: &Queries<'_>, inquiry: &Inquiry) -> Result<InquiryAnswer, String> {
    let failed = |error: StoreError| format!("the journal cannot be read: {error}");
    match inquiry {
        Inquiry::List { which, after } => {
            let page = listing(*which, *after, LIST_PAGE);
            let found = look.ask(|slot| Query::Summaries(page, slot)).map_err(failed)?;
            let next = next_page(found.last().map(|last| last.position), found.len(), page);
            Ok(InquiryAnswer::Lines {
                requests: found.iter().map(overview_of_summary).collect(),
                next,
            })
        }
        Inquiry::Export { which, after } => {
            let page = listing(*which, *after, EXPORT_PAGE);
            let mut found = look.ask(|slot| Query::Records(page, slot)).map_err(failed)?;
            let read = found.len();
            found.truncate(count_fitting(&found));
            let last = found.last().map(|last| last.position);
            let deployment = deployment(look).map_err(failed)?;
            let next = if found.len() < read {
                last.map(Position::number)
            } else {
                next_page(last, read, page)
            };
            let stories = found.into_iter().map(|record| {
                let sent = look.ask(|slot| Query::TransactionsOf(record.key, slot))?;
                let story = detail(&record, &sent, deployment.as_deref());
                Ok(export(story, record))
            });
            let requests = stories.collect::<Result<_, StoreError>>().map_err(failed)?;
            Ok(InquiryAnswer::Exported { requests, next })
        }
        Inquiry::Show { id } => {
            let id = parse_id(id)?;
            let found =
                require_found(look.ask(|slot| Query::WithId(id, slot)).map_err(failed)?, id)?;
            let deployment = deployment(look).map_err(failed)?;
            let stories = found.iter().map(|record| {
                let sent = look.ask(|slot| Query::TransactionsOf(record.key, slot))?;
                Ok(detail(record, &sent, deployment.as_deref()))
            });
            let requests = stories.collect::<Result<_, StoreError>>().map_err(failed)?;
            Ok(InquiryAnswer::Stories { requests })
        }
        Inquiry::Retry { .. } | Inquiry::Approve { .. } | Inquiry::Backfill { .. } => {
            Err("that needs a running instance".to_owned())
        }
    }
}

/// The deployment that was noted last.
fn deployment(look: &Queries<'_>) -> Result<Option<String>, StoreError> {
    Ok(look.ask(Query::Deployment)?.map(|(deployment, _)| deployment))
}

fn listing(which: InquiryFilter, after: Option<i64>, limit: u32) -> RequestPage {
    let which = match which {
        InquiryFilter::Unfinished => journal::RequestFilter::Unfinished,
        InquiryFilter::Held => journal::RequestFilter::Held,
        InquiryFilter::Ended { since_ms } => journal::RequestFilter::Ended { since_ms },
        InquiryFilter::All => journal::RequestFilter::All,
    };
    RequestPage { filter: which, after: after.map(Position::from_number), limit }
}

/// How many records fit into one answer: at least one.
pub(super) fn count_fitting(found: &[RequestRecord]) -> usize {
    let sizes = found.iter().map(|record| {
        let answer = record.answer.as_ref();
        record.event.data.len() + answer.map_or(0, |answer| answer.signed().payload.len())
    });
    let so_far = sizes.scan(0, |bytes, size| {
        *bytes += size;
        Some(*bytes)
    });
    so_far.take_while(|bytes| *bytes <= EXPORT_PAGE_BYTES).count().max(1)
}

/// Where the next page begins after a full one.
fn next_page(last: Option<Position>, found: usize, page: RequestPage) -> Option<i64> {
    let full = u32::try_from(found).is_ok_and(|found| found >= page.limit);
    last.filter(|_| full).map(Position::number)
}

/// Parses a request id as operators write it.
pub(super) fn parse_id(id: &str) -> Result<U256, String> {
    id.parse().map(|DisplayId(id)| id)
}

pub(super) fn require_found(
    found: Vec<RequestRecord>,
    id: U256,
) -> Result<Vec<RequestRecord>, String> {
    if found.is_empty() {
        return Err(format!(
            "there is no request {}: it never arrived here, or it was settled longer ago than \
             journal_retention_days; if it should be here, `kms-connector backfill` reads its block \
             again",
            DisplayId(id)
        ));
    }
    Ok(found)
}

pub(super) fn detail(
    record: &RequestRecord,
    transactions: &[JournaledTransaction],
    deployment: Option<&str>,
) -> RequestDetail {
    let RequestRecord { key, kind, event, progress, .. } = record;
    let (id, content) = (key.to_string(), key.content.to_string());
    let accepted = match &progress.outcome {
        Some(Outcome::Accepted { transaction, block }) => {
            Some(Accepted { transaction: transaction.to_string(), block: block.number })
        }
        Some(
            Outcome::AlreadyAnswered
            | Outcome::Expired
            | Outcome::Orphaned
            | Outcome::Refused(_)
            | Outcome::Observed
            | Outcome::Aborted
            | Outcome::NoAnswerDue
            | Outcome::Recorded,
        )
        | None => None,
    };
    let transactions = transactions.iter().map(|known| TransactionSummary {
        hash: known.transaction.hash.to_string(),
        nonce: known.transaction.nonce,
        signed_at_ms: known.signed_at_ms,
        mined_in_block: known.mined.map(|block| block.number),
        given_up: known.given_up.clone(),
    });
    RequestDetail {
        overview: overview(id, content, kind.as_str(), event.block.number, progress),
        generation: abi::decode(key.source, event)
            .ok()
            .map(|request| request.shape.as_str().to_owned()),
        deployment: deployment.filter(|_| progress.outcome.is_none()).map(str::to_owned),
        event: EventPlace {
            block: event.block.number,
            block_hash: event.block.hash.to_string(),
            transaction: event.transaction.to_string(),
            log_index: event.log_index,
        },
        kms_core: progress.asked_core.as_ref().map(ToString::to_string),
        approved: record
            .approval
            .as_ref()
            .map(|approval| Approved { by: approval.by.clone(), at_ms: approval.at_ms }),
        access: record
            .access
            .iter()
            .flat_map(|access| access.record.lines().map(str::to_owned))
            .collect(),
        worked_ms: progress.worked_ms,
        accepted,
        transactions: transactions.collect(),
    }
}

fn export(story: RequestDetail, record: RequestRecord) -> ExportedRequest {
    let hex = |bytes: &Bytes| bytes.to_string();
    ExportedRequest {
        detail: story,
        topics: record.event.topics.iter().map(ToString::to_string).collect(),
        data: hex(&record.event.data),
        answer: record.answer.map(|answer| ExportedAnswer {
            payload: hex(&answer.signed().payload),
            signature: hex(&answer.signed().signature),
            extra_data: hex(&answer.signed().extra_data),
        }),
    }
}

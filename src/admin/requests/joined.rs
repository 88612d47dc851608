//! An instance with a second chain has a journal for each of the two. What an operator asks goes to the part
//! that knows, and the answers are joined here: pages of the gateway's requests come first.

use super::{Inquiry, InquiryAnswer, RequestOverview};

/// A part of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Gateway,
    Second,
}

/// Where a page begins: in which part, and after which position of it. Positions of the second part are
/// negative from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageStart {
    part: Part,
    after: Option<i64>,
}

impl PageStart {
    /// The first page of the second part.
    const SECOND: Self = Self { part: Part::Second, after: None };

    fn of(mark: Option<i64>) -> Self {
        match mark {
            Some(-1) => Self::SECOND,
            // Positions are not negative, so that this does not overflow.
            Some(mark @ ..-1) => Self { part: Part::Second, after: Some(-(mark + 2)) },
            after => Self { part: Part::Gateway, after },
        }
    }

    fn mark(self) -> Option<i64> {
        match (self.part, self.after) {
            (Part::Gateway, after) => after,
            (Part::Second, None) => Some(-1),
            (Part::Second, Some(after)) => Some(-after - 2),
        }
    }
}

/// Asks the parts that an inquiry is for and joins what they tell. `chain_id`: of the second chain.
pub async fn ask_joined<F>(
    inquiry: Inquiry,
    chain_id: u64,
    ask: impl Fn(Part, Inquiry) -> F,
) -> Result<InquiryAnswer, String>
where
    F: Future<Output = Result<InquiryAnswer, String>>,
{
    match inquiry {
        Inquiry::List { which, after } => {
            let start = PageStart::of(after);
            let own = Inquiry::List { which, after: start.after };
            ask(start.part, own).await.map(|told| continued(start.part, chain_id, told))
        }
        Inquiry::Export { which, after } => {
            let start = PageStart::of(after);
            let own = Inquiry::Export { which, after: start.after };
            ask(start.part, own).await.map(|told| continued(start.part, chain_id, told))
        }
        Inquiry::Backfill { chain: Some(chain), .. } if chain == chain_id => {
            ask(Part::Second, inquiry).await
        }
        Inquiry::Backfill { .. } => ask(Part::Gateway, inquiry).await,
        Inquiry::Show { .. } | Inquiry::Retry { .. } | Inquiry::Approve { .. } => {
            let first = ask(Part::Gateway, inquiry.clone()).await;
            let second = ask(Part::Second, inquiry).await.map(|told| marked(chain_id, told));
            both(first, second)
        }
    }
}

/// A page, with the mark of the one after it.
fn continued(part: Part, chain_id: u64, told: InquiryAnswer) -> InquiryAnswer {
    let mut told = if part == Part::Second { marked(chain_id, told) } else { told };
    if let InquiryAnswer::Lines { next, .. } | InquiryAnswer::Exported { next, .. } = &mut told {
        *next = match (part, *next) {
            (Part::Gateway, None) => PageStart::SECOND.mark(),
            (Part::Second, None) => None,
            (part, after) => PageStart { part, after }.mark(),
        };
    }
    told
}

/// Says of each request which chain it is from.
fn marked(chain_id: u64, mut told: InquiryAnswer) -> InquiryAnswer {
    let mark = |overview: &mut RequestOverview| overview.chain = Some(chain_id);
    match &mut told {
        InquiryAnswer::Lines { requests, .. } => requests.iter_mut().for_each(mark),
        InquiryAnswer::Stories { requests } => {
            requests.iter_mut().map(|story| &mut story.overview).for_each(mark);
        }
        InquiryAnswer::Exported { requests, .. } => {
            requests.iter_mut().map(|one| &mut one.detail.overview).for_each(mark);
        }
        InquiryAnswer::Retried { .. } | InquiryAnswer::Backfilled(_) => {}
    }
    told
}

/// An id is known to one part as a rule. Both tell why not, if none knows it.
fn both(
    first: Result<InquiryAnswer, String>,
    second: Result<InquiryAnswer, String>,
) -> Result<InquiryAnswer, String> {
    match (first, second) {
        (
            Ok(InquiryAnswer::Stories { mut requests }),
            Ok(InquiryAnswer::Stories { requests: more }),
        ) => {
            requests.extend(more);
            Ok(InquiryAnswer::Stories { requests })
        }
        (
            Ok(InquiryAnswer::Retried { mut requests }),
            Ok(InquiryAnswer::Retried { requests: more }),
        ) => {
            requests.extend(more);
            Ok(InquiryAnswer::Retried { requests })
        }
        (Ok(told), _) | (Err(_), Ok(told)) => Ok(told),
        (Err(first), Err(second)) if first == second => Err(first),
        (Err(first), Err(second)) => Err(format!("{first}; on the second chain: {second}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::admin::requests::{InquiryFilter, Retried, RetryVerdict};

    /// Two parts of three pages each, and how they were asked.
    #[tokio::test]
    async fn all_pages_of_both_are_listed_once_each() {
        let asked = Mutex::new(Vec::new());
        let ask = |part, inquiry| {
            let Inquiry::List { after, .. } = inquiry else { panic!("{inquiry:?}") };
            asked.lock().unwrap().push((part, after));
            let next = after.map_or(Some(0), |after| (after < 7).then_some(after + 7));
            async move { Ok(InquiryAnswer::Lines { requests: Vec::new(), next }) }
        };
        let mut after = None;
        loop {
            let inquiry = Inquiry::List { which: InquiryFilter::All, after };
            let told = ask_joined(inquiry, 1, ask).await.unwrap();
            let InquiryAnswer::Lines { next, .. } = told else { panic!("{told:?}") };
            after = next;
            if after.is_none() {
                break;
            }
        }
        let pages = [None, Some(0), Some(7)];
        let each = |part| pages.map(|after| (part, after));
        assert_eq!(*asked.lock().unwrap(), [each(Part::Gateway), each(Part::Second)].concat());
    }

    #[test]
    fn a_mark_of_a_page_is_read_as_it_was_made() {
        for part in [Part::Gateway, Part::Second] {
            for after in [None, Some(0), Some(1), Some(i64::MAX - 2)] {
                let start = PageStart { part, after };
                assert_eq!(PageStart::of(start.mark()), start);
            }
        }
    }

    fn retried(id: &str) -> InquiryAnswer {
        let (id, content) = (id.to_owned(), String::new());
        let one = Retried { id, content, verdict: RetryVerdict::Tried, text: String::new() };
        InquiryAnswer::Retried { requests: vec![one] }
    }

    #[tokio::test]
    async fn an_id_is_looked_for_on_both_chains_and_blocks_on_the_one_that_is_named() {
        let asked = Mutex::new(Vec::new());
        let knows = |known: Part| {
            let asked = &asked;
            move |part, _| {
                asked.lock().unwrap().push(part);
                async move { if part == known { Ok(retried("7")) } else { Err("not known".to_owned()) } }
            }
        };
        let retry = || Inquiry::Retry { id: "7".to_owned() };
        for known in [Part::Gateway, Part::Second] {
            assert_eq!(ask_joined(retry(), 1, knows(known)).await, Ok(retried("7")));
        }
        let nobody = |_, _| async { Err("not known".to_owned()) };
        assert_eq!(ask_joined(retry(), 1, nobody).await, Err("not known".to_owned()));
        asked.lock().unwrap().clear();
        for chain in [None, Some(1), Some(2)] {
            let blocks = Inquiry::Backfill { from: 1, to: None, chain };
            let _ = ask_joined(blocks, 1, knows(Part::Gateway)).await;
        }
        assert_eq!(*asked.lock().unwrap(), [Part::Gateway, Part::Second, Part::Gateway]);
    }
}

//! Random commands against a journal and against a few maps: after a restart both have the same
//! contents.

use proptest::{collection::vec, option, prelude::*};

use super::*;

#[derive(Clone, Debug)]
enum Call {
    Arrive(Vec<(u64, u8)>, Option<u64>),
    Note(u64, u8, Step),
    Sign(u64, u64, Option<u64>),
    Mine(u64, u64, u64),
    Restart,
}

/// The expected state of a request.
#[derive(Clone, Debug, PartialEq)]
struct Expected {
    order: usize,
    stage: Stage,
    held: Option<Hold>,
    attempts: u32,
    last_error: Option<String>,
    transaction: Option<B256>,
    outcome: Option<Outcome>,
}

#[derive(Debug, Default)]
struct Model {
    requests: BTreeMap<RequestKey, Expected>,
    transactions: BTreeMap<B256, (usize, SignedTransaction, Option<BlockRef>)>,
    cursor: Option<BlockRef>,
}

impl Model {
    fn note(&mut self, key: RequestKey, step: Step) {
        let Some(row) = self.requests.get_mut(&key).filter(|row| row.outcome.is_none()) else {
            return;
        };
        let answer = match &row.stage {
            Stage::Arrived | Stage::Asked => None,
            Stage::Answered(answer) | Stage::Submitted(answer) => Some(answer.clone()),
        };
        match (step, answer) {
            (Step::Asked { .. }, answer) => {
                row.held = None;
                if answer.is_none() {
                    row.stage = Stage::Asked;
                }
            }
            (Step::Forgotten, None) => row.stage = Stage::Arrived,
            // Work shows in `request_state` only, and a step whose answer is missing is illegal.
            (Step::Forgotten, Some(_))
            | (Step::WorkTime(_) | Step::AccessChecked(_), _)
            | (Step::Submitted { .. } | Step::Returned { .. }, None) => {}
            (Step::Answered(answer), _) => {
                row.held = None;
                row.stage = Stage::Answered(answer);
            }
            (Step::Submitted { transaction }, Some(answer)) => {
                row.held = None;
                row.transaction = Some(transaction);
                row.stage = Stage::Submitted(answer);
            }
            (Step::Returned { why }, Some(answer)) => {
                row.last_error = Some(why);
                row.stage = Stage::Answered(answer);
            }
            (Step::Failed { why }, _) => {
                row.attempts += 1;
                row.last_error = Some(why);
            }
            (Step::Held(hold), _) => row.held = Some(hold),
            (Step::Settled(outcome), _) => {
                row.held = None;
                row.outcome = Some(outcome);
            }
        }
    }

    fn open_transactions(&self) -> Vec<SignedTransaction> {
        let mined = |nonce| {
            self.transactions.values().any(|(_, one, mined)| one.nonce == nonce && mined.is_some())
        };
        let mut open: Vec<_> =
            self.transactions.values().filter(|one| !mined(one.1.nonce)).collect();
        open.sort_by_key(|(order, one, _)| (one.nonce, *order));
        open.into_iter().map(|(_, one, _)| one.clone()).collect()
    }
}

fn request_key(id: u64, content: u8) -> RequestKey {
    RequestKey { source: SOURCE, id: U256::from(id), content: B256::repeat_byte(content) }
}

fn step(id: u64) -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        (0..9u64).prop_map(|n| Outcome::Accepted { transaction: hash(n), block: block(n) }),
        Just(Outcome::AlreadyAnswered),
        Just(Outcome::Expired),
        Just(Outcome::Orphaned),
        Just(Outcome::Refused(Refusal::NotRequested)),
        "[a-zé]{0,9}".prop_map(|what| Outcome::Refused(Refusal::Malformed(what))),
    ];
    let reason = proptest::sample::select(HoldReason::ALL);
    prop_oneof![
        3 => Just(asked()),
        2 => Just(Step::Forgotten),
        4 => "[a-z]{0,20}".prop_map(move |text| Step::Answered(answer(id, &text))),
        4 => (0..9u64).prop_map(|n| Step::Submitted { transaction: hash(n) }),
        2 => "[a-z]{1,9}".prop_map(|why| Step::Returned { why }),
        2 => "[a-z]{1,9}".prop_map(|why| Step::Failed { why }),
        3 => (reason, "[a-z]{1,9}").prop_map(|(reason, text)| Step::Held(Hold::new(reason, text))),
        1 => (0..9u64).prop_map(|ms| Step::WorkTime(std::time::Duration::from_millis(ms))),
        1 => Just(Step::AccessChecked(AccessNote::default())),
        1 => outcome.prop_map(Step::Settled),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let arrivals = vec((0..5u64, 0..2u8), 0..4);
    prop_oneof![
        3 => (arrivals, option::of(0..100u64)).prop_map(|(keys, to)| Call::Arrive(keys, to)),
        8 => (0..5u64, 0..2u8).prop_flat_map(|(id, content)| {
            step(id).prop_map(move |step| Call::Note(id, content, step))
        }),
        2 => (0..4u64, 0..3u64, option::of(0..5u64)).prop_map(|(n, v, id)| Call::Sign(n, v, id)),
        1 => (0..4u64, 0..3u64, 0..100u64).prop_map(|(n, v, number)| Call::Mine(n, v, number)),
        1 => Just(Call::Restart),
    ]
}

async fn play(calls: Vec<Call>) {
    let dir = TempDir::new().unwrap();
    let mut journal = Running::open(dir.path());
    let mut model = Model::default();
    for call in calls {
        match call {
            Call::Arrive(keys, cursor) => {
                let mut new = Vec::new();
                let arrivals: Vec<_> = keys
                    .iter()
                    .map(|(id, content)| Arrival {
                        key: request_key(*id, *content),
                        ..arrival(*id)
                    })
                    .collect();
                for (index, one) in arrivals.iter().enumerate() {
                    let order = model.requests.len();
                    // An orphan that is read again is open again, unless its id is another one's.
                    let is_taken = model.requests.iter().any(|(key, other)| {
                        let is_namesake = key.id == one.key.id && *key != one.key;
                        is_namesake && matches!(other.outcome, Some(Outcome::Accepted { .. }))
                    });
                    if let Some(known) = model.requests.get_mut(&one.key)
                        && known.outcome == Some(Outcome::Orphaned)
                        && !is_taken
                    {
                        known.outcome = None;
                    }
                    model.requests.entry(one.key).or_insert_with(|| {
                        new.push(index);
                        Expected {
                            order,
                            stage: Stage::Arrived,
                            held: None,
                            attempts: 0,
                            last_error: None,
                            transaction: None,
                            outcome: None,
                        }
                    });
                }
                let cursor = cursor.map(block);
                model.cursor = cursor.or(model.cursor);
                let batch = Batch { arrivals, cursor, ..Batch::default() };
                assert_eq!(journal.store_batch(batch).await.unwrap().new, new);
            }
            Call::Note(id, content, step) => {
                let key = request_key(id, content);
                model.note(key, step.clone());
                journal.note(key, step).await.unwrap();
            }
            Call::Sign(nonce, variant, id) => {
                let one = signed(nonce, variant, id.map(|id| request_key(id, 0)));
                let order = model.transactions.len();
                model.transactions.entry(one.hash).or_insert((order, one.clone(), None));
                journal.record_signed(vec![one]).await.unwrap();
            }
            Call::Mine(nonce, variant, number) => {
                let id = signed(nonce, variant, None).id();
                if let Some((_, _, mined)) = model.transactions.get_mut(&id.hash) {
                    *mined = Some(block(number));
                }
                journal.record_mined(id, block(number)).await.unwrap();
            }
            Call::Restart => {
                journal.close().await.unwrap();
                journal = Running::open(dir.path());
            }
        }
    }
    journal.close().await.unwrap();
    compare(&Running::open(dir.path()), &model).await;
}

async fn compare(journal: &Running, model: &Model) {
    assert_eq!(journal.ask(Query::Cursor).await.unwrap(), model.cursor);
    for (key, expected) in &model.requests {
        let record = journal.request(*key).await.unwrap().unwrap();
        let progress = record.progress;
        let found = Expected {
            order: expected.order,
            stage: progress.stage.with_answer(record.answer),
            held: progress.held.map(|held| held.hold),
            attempts: progress.attempts,
            last_error: progress.last_error,
            transaction: progress.transaction,
            outcome: progress.outcome,
        };
        assert_eq!(&found, expected, "{key:?}");
    }
    let mut unfinished: Vec<_> =
        model.requests.iter().filter(|(_, row)| row.outcome.is_none()).collect();
    unfinished.sort_by_key(|(_, row)| row.order);
    for which in [RequestFilter::Unfinished, RequestFilter::Held] {
        let found = records(journal, which).await;
        let found: Vec<_> = found.iter().map(|one| (one.key, one.stage())).collect();
        let expected: Vec<_> = unfinished
            .iter()
            .filter(|(_, row)| which == RequestFilter::Unfinished || row.held.is_some())
            .map(|(key, row)| (**key, row.stage.clone()))
            .collect();
        assert_eq!(found, expected, "{which:?}");
    }
    assert_eq!(journal.ask(Query::OpenTransactions).await.unwrap(), model.open_transactions());
    let highest = model.transactions.values().map(|(_, one, _)| one.nonce).max();
    assert_eq!(journal.ask(Query::HighestNonce).await.unwrap(), highest);
    let counts = journal.ask(Query::Counts).await.unwrap();
    assert_eq!(counts.unfinished.values().sum::<u64>(), unfinished.len() as u64);
    let settled = model.requests.len() - unfinished.len();
    assert_eq!(counts.settled.values().sum::<u64>(), settled as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Field failure T07.
    #[test]
    fn a_journal_says_what_the_maps_say(calls in vec(call(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(play(calls));
    }
}

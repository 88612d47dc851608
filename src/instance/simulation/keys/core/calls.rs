//! What the Core is asked for and told, what it makes, and whether it was right to ask it.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Response, Status};

use super::{
    super::{
        contract::{What, request_extra_data, signed_digest, truth},
        events::{digest_of_crs, digests_of_key},
        short,
    },
    Work,
};
use crate::{
    domain::{Bytes, SigningDomain, U256},
    flow::kms_core::proto::kms::v1,
    instance::simulation::world::{Life, WorldState},
};

/// How long it takes to make something: hours outside.
const MAKES_WITHIN: Duration = Duration::from_mins(1);
/// The same where other nodes make something else: long enough that their votes are known then.
const SLOW: Duration = Duration::from_mins(5);

/// By then an abort that the Core was told of is in the journal, over the deaths between.
const ABORT_KNOWN: Duration = Duration::from_mins(3);

/// What the Core is asked to make.
pub(in crate::instance::simulation) struct Order {
    pub id: Option<v1::RequestId>,
    pub what: What,
    pub domain: Option<v1::Eip712DomainMsg>,
    pub extra_data: bytes::Bytes,
    pub config: Option<v1::KeySetConfig>,
}

fn number(id: Option<&v1::RequestId>) -> U256 {
    let text = id.map_or("", |id| id.request_id.as_str());
    U256::from_str_radix(text, 16).expect("ids are in hex")
}

/// The number in an id that a message may lack.
pub(in crate::instance::simulation) fn id_of(id: Option<&v1::RequestId>) -> U256 {
    number(id)
}

impl WorldState {
    /// Judges what the Core is asked to make. Returns a word for the trace if it is wrong.
    fn judge_order(&mut self, id: U256, order: &Order) -> &'static str {
        let Some(rules) = self.plan.keys.rules else {
            return self.ordered_wrongly(id, "where no contract asks for keys");
        };
        let extra = Bytes::from(order.extra_data.clone());
        let is_asked = self.key_chain().ever_asked(id).iter().any(|asked| {
            asked.what == order.what
                && request_extra_data(&asked.request).unwrap_or_default() == extra
        });
        if !is_asked {
            return self.ordered_wrongly(id, "which nobody asked for");
        }
        let SigningDomain { name, chain_id, verifying_contract, .. } = rules.domain();
        let is_domain = order.domain.as_ref().is_some_and(|said| {
            said.name == name
                && U256::from_be_slice(&said.chain_id) == U256::from(chain_id)
                && said.verifying_contract == verifying_contract.to_string()
        });
        if !is_domain {
            return self.ordered_wrongly(id, "under another domain");
        }
        let makes_key = matches!(order.what, What::Preparation | What::Key { .. });
        let numbers = order.config.as_ref().and_then(|config| config.standard_keyset_config);
        let is_right_kind = if rules.is_ethereum && makes_key {
            numbers.is_some_and(|config| config.compressed_key_config == 1)
        } else {
            order.config.is_none()
        };
        if !is_right_kind {
            return self.ordered_wrongly(id, "as another kind of key");
        }
        let undone = if let What::Key { preparation } = order.what { preparation } else { id };
        if self.core.keys.told.get(&undone).is_some_and(|at| at.elapsed() >= ABORT_KNOWN) {
            return self.ordered_wrongly(id, "long after it was aborted");
        }
        // One that this node never heard of may be at the Core all the same: the Core says so.
        if let What::Key { preparation } = order.what
            && !self.lost
            && self.core.keys.ordered.contains(&preparation)
            && !self.core.keys.handed_out.contains(&preparation)
        {
            return self.ordered_wrongly(id, "before its preparation was done");
        }
        ""
    }

    fn ordered_wrongly(&mut self, id: U256, why: &str) -> &'static str {
        self.violations.push(format!("the Core was asked for {:#x}, {why}", short(id)));
        "VIOLATION: "
    }

    fn take_order(&mut self, order: Order) -> Result<v1::Empty, Status> {
        let id = number(order.id.as_ref());
        let busy = self.plan.faults.core_busy;
        if self.fault(busy) {
            return Err(Status::resource_exhausted("too many requests in progress"));
        }
        if self.core.keys.knows(id) {
            return Err(Status::already_exists("known"));
        }
        if let What::Key { preparation } = order.what
            && !self.core.keys.knows(preparation)
        {
            return Err(Status::not_found("no such preprocessing"));
        }
        let most = if self.plan.keys.rules.is_some_and(|rules| rules.diverging > 0) {
            SLOW
        } else {
            MAKES_WITHIN
        };
        let ready = Instant::now() + most.mul_f64(self.dice.f64());
        let Order { what, extra_data, .. } = order;
        let work = Work { what, ready, extra_data: extra_data.into(), is_aborted: false };
        self.core.keys.works.insert(id, work);
        self.core.keys.ordered.insert(id);
        self.record_fault("key operation");
        Ok(v1::Empty {})
    }

    fn look_up(&mut self, id: U256) -> Result<Work, Status> {
        let (busy, restarts) = (self.plan.faults.core_busy, self.plan.keys.restarts);
        if self.fault(busy) {
            return Err(Status::resource_exhausted("slow down"));
        }
        let found = self.core.keys.works.get(&id).cloned();
        if found.as_ref().is_some_and(|work| work.is_aborted) {
            return Err(Status::aborted("aborted"));
        }
        let Some(work) = found else { return Err(Status::not_found("no such request")) };
        if work.ready > Instant::now() {
            return Err(Status::unavailable("not yet"));
        }
        // Most is made after the storm.
        if !self.key_progress.core_restarted && self.dice.u64(..1000) < restarts {
            self.key_progress.core_restarted = true;
            self.record_fault("core forgets a key");
            self.core.restart();
            return Err(Status::unavailable("restarting"));
        }
        if work.what == What::Preparation {
            self.core.keys.handed_out.insert(id);
        }
        Ok(work)
    }
}

/// The Core is asked to make something.
pub(in crate::instance::simulation) fn ask(
    life: &Life,
    order: Order,
) -> Result<Response<v1::Empty>, Status> {
    let (id, what) = (number(order.id.as_ref()), order.what);
    let (wrong, said) = {
        let mut state = life.world.state();
        (state.judge_order(id, &order), state.take_order(order))
    };
    let note =
        said.as_ref().map_or_else(|status| format!("{:?}", status.code()), |_| "taken".into());
    life.world.say(format_args!("{wrong}core: {what:?} {:#x}: {note}", short(id)));
    said.map(Response::new)
}

/// The Core is told something.
pub(in crate::instance::simulation) fn tell(
    life: &Life,
    id: U256,
    what: &str,
) -> Result<Response<v1::Empty>, Status> {
    let said = {
        let mut state = life.world.state();
        let busy = state.plan.faults.core_busy;
        if state.fault(busy) {
            Err(Status::failed_precondition("another operation runs"))
        } else {
            state.core.keys.told.entry(id).or_insert_with(Instant::now);
            Ok(v1::Empty {})
        }
    };
    let note =
        said.as_ref().map_or_else(|status| format!("{:?}", status.code()), |_| "done".into());
    life.world.say(format_args!("core: {what} {:#x}: {note}", short(id)));
    said.map(Response::new)
}

/// The Core is told that something is not wanted any more. One of before v0.13.20 has no such call.
pub(in crate::instance::simulation) fn abort(
    life: &Life,
    id: &v1::RequestId,
    what: &str,
) -> Result<Response<v1::Empty>, Status> {
    if life.world.state().plan.keys.rules.is_none_or(|rules| !rules.is_ethereum) {
        return Err(Status::unimplemented("no such call"));
    }
    let Ok(number) = U256::from_str_radix(&id.request_id, 16) else {
        return Err(Status::invalid_argument("that is no id"));
    };
    tell(life, number, what)?;
    let mut state = life.world.state();
    let mut found = false;
    for (id, work) in &mut state.core.keys.works {
        if *id == number || work.what == (What::Key { preparation: number }) {
            (work.is_aborted, found) = (true, true);
        }
    }
    state.record_fault("abort");
    if found { Ok(Response::new(v1::Empty {})) } else { Err(Status::not_found("nothing to abort")) }
}

/// What was made, and the signature.
pub(in crate::instance::simulation) struct Made {
    pub what: What,
    pub id: U256,
    pub signature: bytes::Bytes,
}

/// The Core is asked for a result.
pub(in crate::instance::simulation) fn result(
    life: &Life,
    id: &v1::RequestId,
) -> Result<Made, Status> {
    let id = number(Some(id));
    let made = {
        let mut state = life.world.state();
        let found = state.look_up(id);
        found.map(|work| {
            let rules = state.plan.keys.rules.expect("it is asked for keys");
            let extra = rules.is_ethereum.then_some(&work.extra_data[..]);
            let payload = truth(id, work.what);
            let digest = signed_digest(&rules.domain(), id, work.what, &payload, extra);
            Made { what: work.what, id, signature: state.core.sign(digest) }
        })
    };
    let note =
        made.as_ref().map_or_else(|status| format!("{:?}", status.code()), |_| "made".into());
    life.world.say(format_args!("core: poll {:#x}: {note}", short(id)));
    made
}

/// The digests of a key as the Core names them.
pub(in crate::instance::simulation) fn key_digests(id: U256) -> Vec<v1::KeyDigest> {
    let named = digests_of_key(id).into_iter().zip(["ServerKey", "PublicKey"]);
    named
        .map(|((_, digest), name)| v1::KeyDigest { key_type: name.to_owned(), digest: digest.0 })
        .collect()
}

/// The digest of a CRS.
pub(in crate::instance::simulation) fn crs_digest(id: U256, max_bits: u32) -> bytes::Bytes {
    digest_of_crs(id, max_bits).0
}

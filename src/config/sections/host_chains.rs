//! Host chains: `[[host_chains]]`, and the Ethereum keys: the chain that has `ProtocolConfig`, and from G13 on
//! `KMSGeneration`.

use std::{collections::BTreeMap, time::Duration};

use super::super::{
    Ethereum, Finality, HostChain, Place, Problem, SecretString, SecretUrl, StartingBlock,
    keys::{HostChainKey, Key, nearest},
    values::{Member, TableValue, Value, show, show_name},
};
use super::{
    CheckedValue, Checker, MAX_CHAIN_ID, MAX_CONFIRMATIONS, NODE_SCHEMES, ProblemNoted, judged,
    judged::{Fault, MAX_FALLBACK_URLS},
    set,
};

/// Each has connections that are kept open.
const MAX_HOST_CHAINS: usize = 32;
/// Endpoints of one chain.
const MAX_URLS: u64 = MAX_FALLBACK_URLS as u64 + 1;
const DAY_SECS: u64 = 86_400;

impl Checker<'_> {
    /// Every `[[host_chains]]` entry, in the order given.
    pub(super) fn host_chains(&mut self) -> Result<Vec<HostChain>, ProblemNoted> {
        let key = Key::HostChains;
        let Some(given) = self.raw.get(key).cloned() else { return Ok(Vec::new()) };
        let tables = match given.value {
            Value::Tables(tables) => tables,
            Value::Texts(texts) if texts.is_empty() => return Ok(Vec::new()),
            value @ (Value::Text(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Texts(_)
            | Value::Other(_)) => {
                let fault = Fault::new(
                    show(&value, &[]),
                    "a list of tables",
                    "Write [[host_chains]], in double brackets, and its keys below; in a variable, JSON: \
                     [{\"chain_id\": 1, \"url\": \"wss://node.example\", \"acl_address\": \"0x...\"}]",
                );
                return Err(self.note_fault(key, fault));
            }
        };
        if tables.len() > MAX_HOST_CHAINS {
            let found = format!("{} chains", tables.len());
            let allowed = format!("at most {MAX_HOST_CHAINS} chains");
            return Err(self.note_fault(key, Fault::new(found, allowed, "")));
        }
        let mut checked = Vec::new();
        let mut by_id: BTreeMap<u64, usize> = BTreeMap::new();
        let mut is_good = true;
        for (index, table) in tables.iter().enumerate() {
            let mut entry = Entry { check: self, place: &given.place, index, table };
            let chain = entry.chain();
            is_good &= chain.is_ok();
            let Some(chain_id) = entry.chain_id() else { continue };
            if let Some(first) = by_id.get(&chain_id) {
                let fault = Fault::new(
                    format!("chain {chain_id}, which host_chains[{first}] is"),
                    "each chain once",
                    "Name more nodes of one chain in its fallback_urls",
                );
                entry.note(HostChainKey::ChainId, fault);
                is_good = false;
            }
            by_id.entry(chain_id).or_insert(index);
            checked.extend(chain);
        }
        if is_good { Ok(checked) } else { Err(ProblemNoted) }
    }

    /// The chain of `ProtocolConfig` and `KMSGeneration`. `None`: no key of it is given that has no default.
    pub(super) fn ethereum(&mut self) -> CheckedValue<Ethereum> {
        let reading = self.ethereum_reading();
        let chain = [Key::EthereumUrl, Key::EthereumChainId];
        let all = [chain[0], chain[1], Key::ProtocolConfigAddress, Key::EthereumFallbackUrls];
        let given: Vec<Key> =
            all.into_iter().filter(|key| self.raw.given(*key).is_some()).collect();
        if given.is_empty() {
            return reading.map(|_| None);
        }
        // The chain is there for one of its two contracts, at least.
        let has_contract = self.raw.given(Key::KmsGenerationAddress).is_some();
        let contract = (!has_contract).then_some(Key::ProtocolConfigAddress);
        let mut is_whole = true;
        for key in chain.into_iter().chain(contract).filter(|key| !given.contains(key)) {
            let advice = format!("{} is given, and needs it", given[0]);
            self.note_missing(key, "this key too", &advice);
            is_whole = false;
        }
        let url = self.url(Key::EthereumUrl, &NODE_SCHEMES);
        let fallback_urls = self.urls(Key::EthereumFallbackUrls, &NODE_SCHEMES);
        let chain_id = self.number(Key::EthereumChainId, 1..=MAX_CHAIN_ID, "");
        let protocol_config_address = self.address(Key::ProtocolConfigAddress);
        let fallback_urls = fallback_urls?.unwrap_or_default();
        let protocol_config_address = protocol_config_address?;
        let (Some(url), Some(chain_id), true) = (url?, chain_id?, is_whole) else {
            return Err(ProblemNoted); // the missing key was noted above
        };
        self.different_urls((Key::EthereumUrl, &url), Key::EthereumFallbackUrls, &fallback_urls)?;
        let EthereumReading { starting_block, finality, confirmations, max_fee_per_gas } = reading?;
        Ok(Some(Ethereum {
            url,
            fallback_urls,
            chain_id,
            protocol_config_address,
            starting_block,
            finality,
            confirmations,
            max_fee_per_gas,
        }))
    }

    /// How key operations are read and answered there. Each key has a default.
    fn ethereum_reading(&mut self) -> Result<EthereumReading, ProblemNoted> {
        let starting_block = self.starting_block(Key::EthereumStartingBlock);
        let finality = self.finality(Key::EthereumFinality);
        let confirmations =
            self.number(Key::EthereumConfirmations, 0..=MAX_CONFIRMATIONS, "blocks");
        let max_fee_per_gas = self.max_fee_per_gas(Key::EthereumMaxFeePerGasGwei);
        Ok(EthereumReading {
            starting_block: set(starting_block)?,
            finality: set(finality)?,
            confirmations: set(confirmations)?,
            max_fee_per_gas: set(max_fee_per_gas)?,
        })
    }
}

/// The keys of Ethereum that have defaults.
struct EthereumReading {
    starting_block: StartingBlock,
    finality: Finality,
    confirmations: u64,
    max_fee_per_gas: u128,
}

/// One table of `[[host_chains]]`.
struct Entry<'e, 'c> {
    check: &'e mut Checker<'c>,
    /// Of the whole key.
    place: &'e Place,
    index: usize,
    table: &'e TableValue,
}

impl<'e> Entry<'e, '_> {
    /// The chain, or its problems, each noted.
    fn chain(&mut self) -> Result<HostChain, ProblemNoted> {
        let known = self.refuse_unknown();
        let chain_id = self.checked(HostChainKey::ChainId, judge_chain_id);
        let url = self.checked(HostChainKey::Url, |value| judged::url(value, &NODE_SCHEMES));
        let fallback_urls = self.fallback_urls();
        let acl_address = self.checked(HostChainKey::AclAddress, judged::address);
        let agreement = self.checked(HostChainKey::Agreement, |value| {
            judged::number(value, 1..=MAX_URLS, "endpoints")
        });
        let max_age = self.checked(HostChainKey::MaxAgeSecs, |value| {
            judged::number(value, 1..=DAY_SECS, "seconds")
        });

        let agreement = usize::try_from(agreement?).unwrap_or(usize::MAX);
        let max_age = Duration::from_secs(max_age?);
        let (url, fallback_urls) = (url?, fallback_urls?);
        self.different_urls(&url, &fallback_urls)?;
        self.enough_urls(agreement, 1 + fallback_urls.len())?;
        known?;
        let (chain_id, acl_address) = (chain_id?, acl_address?);
        Ok(HostChain { chain_id, url, fallback_urls, acl_address, agreement, max_age })
    }

    /// The chain's id, if it is a valid one.
    fn chain_id(&self) -> Option<u64> {
        judge_chain_id(&self.value(HostChainKey::ChainId)?).ok()
    }

    fn fallback_urls(&mut self) -> Result<Vec<SecretUrl>, ProblemNoted> {
        let key = HostChainKey::FallbackUrls;
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        judged::urls(&value, &NODE_SCHEMES).map_err(|faults| {
            for fault in faults {
                self.note(key, fault);
            }
            ProblemNoted
        })
    }

    fn different_urls(&mut self, url: &SecretUrl, more: &[SecretUrl]) -> Result<(), ProblemNoted> {
        judged::repeated_url((HostChainKey::Url.name(), url), more)
            .map_or(Ok(()), |fault| Err(self.note(HostChainKey::FallbackUrls, fault)))
    }

    fn enough_urls(&mut self, agreement: usize, urls: usize) -> Result<(), ProblemNoted> {
        if agreement <= urls {
            return Ok(());
        }
        let fault = Fault::new(
            format!("{agreement} endpoints that must agree, of {urls}"),
            "at most as many as there are URLs",
            "Name more nodes in fallback_urls, or lower agreement",
        );
        Err(self.note(HostChainKey::Agreement, fault))
    }

    fn refuse_unknown(&mut self) -> Result<(), ProblemNoted> {
        let mut is_good = true;
        let members = &self.table.members;
        for (index, member) in members.iter().enumerate() {
            let fault = if HostChainKey::from_name(&member.name).is_none() {
                unknown(&member.name)
            } else if members[..index].iter().any(|other| other.name == member.name) {
                Fault::new("the key given twice", "every key once", "Keep one of the two")
            } else {
                continue;
            };
            is_good = false;
            self.push(&show_name(&member.name), member.line, fault);
        }
        if is_good { Ok(()) } else { Err(ProblemNoted) }
    }

    fn member(&self, key: HostChainKey) -> Option<&'e Member> {
        self.table.members.iter().find(|member| member.name == key.name())
    }

    /// The given value, else the default.
    fn value(&self, key: HostChainKey) -> Option<Value> {
        let given = self.member(key).map(|member| member.value.clone());
        let default = || Some(Value::Text(SecretString::new(key.default()?.to_owned())));
        given.or_else(default)
    }

    /// The meaning of a required value, or of one that has a default.
    fn checked<T>(
        &mut self,
        key: HostChainKey,
        judge: impl FnOnce(&Value) -> Result<T, Fault>,
    ) -> Result<T, ProblemNoted> {
        let judged = match self.value(key) {
            Some(value) => judge(&value),
            None => Err(Fault::new("nothing", "this key in each host chain", "Add it")),
        };
        judged.map_err(|fault| self.note(key, fault))
    }

    fn note(&mut self, key: HostChainKey, fault: Fault) -> ProblemNoted {
        let line = self.member(key).and_then(|member| member.line);
        self.push(key.name(), line, fault)
    }

    fn push(&mut self, name: &str, line: Option<usize>, fault: Fault) -> ProblemNoted {
        let place = match self.place {
            Place::File { path, line: whole, .. } => Place::File {
                path: path.clone(),
                line: line.or(self.table.line).or(*whole),
                column: None,
            },
            other @ (Place::Configuration | Place::Variable(_)) => other.clone(),
        };
        let Fault { found, allowed, advice } = fault;
        let key = Some(format!("host_chains[{}].{name}", self.index));
        self.check.raw.problems.push(Problem { place, key, found, allowed, advice });
        ProblemNoted
    }
}

fn judge_chain_id(value: &Value) -> Result<u64, Fault> {
    judged::number(value, 1..=MAX_CHAIN_ID, "")
}

fn unknown(name: &str) -> Fault {
    let advice = if Key::from_name(name).is_some() {
        "It stands below [[host_chains]], where TOML makes it a part of that chain: move it above the \
         first [table]"
            .to_owned()
    } else {
        let near = nearest(name, HostChainKey::ALL.iter().map(ToString::to_string));
        near.map_or_else(
            || "config/README.md lists a host chain's keys; remove this one".to_owned(),
            |near| format!("Did you mean {near}?"),
        )
    };
    Fault::new("an unknown key", "the keys of [[host_chains]]", &advice)
}

//! Claims: how a partition of a shared source goes from one chain to another.
//!
//! Who reads a partition next puts a claim into the chain that holds it, behind that chain's newest entry. From there on
//! the chain's own writer cannot seal without having seen the claim: if it has staged nothing of the partition since its
//! last seal (it had handed the partition over), it goes on without it; otherwise it is a zombie and stops. The claim
//! fixes where the new holder begins. What nobody has read yet is claimed from the chain [`chain::ORIGIN`].

use super::ArchiveError;
use super::audit;
use super::chain::{self, Act, Entry, FORMAT, Given, Keys, ORIGIN, StateRef};
use super::seal;
use super::store::Store;
use crate::limits;
use crate::record::receipt::PartitionPosition;
use std::collections::BTreeMap;

/// A partition, by source and name.
pub(crate) type Name = (String, String);

/// Who holds a partition, and from where it is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) chain: String,
    pub(crate) epoch: u64,
    pub(crate) at: Option<PartitionPosition>,
    /// What was kept of it there.
    pub(crate) state: Option<StateRef>,
}

/// Who claims.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claimant<'c> {
    pub(crate) pipeline: &'c str,
    pub(crate) chain: &'c str,
    pub(crate) writer: &'c str,
    /// Whether entries carry the hash of the one before.
    pub(crate) audit: bool,
}

/// The holder of every partition, by the newest entries of all chains. The largest epoch tells; within it a chain that holds
/// the partition has sealed some of it since it was given.
pub(crate) fn holders(heads: &[Entry]) -> BTreeMap<Name, Holder> {
    let mut holders: BTreeMap<Name, Holder> = BTreeMap::new();
    let mut offer = |name: Name, holder: Holder, sealed: bool| {
        let known = holders.get(&name).map(|known| known.epoch);
        if known.is_none_or(|epoch| holder.epoch > epoch || (holder.epoch == epoch && sealed)) {
            holders.insert(name, holder);
        }
    };
    for entry in heads {
        for given in &entry.given {
            let name = (given.source.clone(), given.partition.clone());
            let (at, state) = (given.at.clone(), given.state.clone());
            offer(name, Holder { chain: given.to.clone(), epoch: given.epoch, at, state }, false);
        }
    }
    for entry in heads {
        for held in &entry.holds {
            let name = (held.at.source.clone(), held.at.partition.clone());
            let (at, state) = (Some(held.at.clone()), held.state.clone());
            offer(name, Holder { chain: entry.chain.clone(), epoch: held.epoch, at, state }, true);
        }
    }
    holders
}

/// The chains, but for `own`, whose newest seals may have said something of `wanted` that `own` has not repeated: those that they were claimed
/// from and, where one of them has sealed nothing of it, those before. The oldest first.
pub(crate) fn predecessors(heads: &[Entry], own: &str, wanted: &[Name]) -> Vec<String> {
    let mut chains: Vec<String> = Vec::new();
    for (source, partition) in wanted {
        let is_it = |given: &&Given| given.source == *source && given.partition == *partition;
        let mut given: Vec<(&Given, &str)> =
            heads.iter().flat_map(|head| head.given.iter().filter(is_it).map(|given| (given, &*head.chain))).collect();
        given.sort_by_key(|(given, _)| std::cmp::Reverse(given.epoch));
        let Some((newest, _)) = given.first().copied() else { continue };
        let mut held = heads.iter().filter(|head| head.chain == own).flat_map(|head| &head.holds);
        let repeated = held.any(|held| {
            (&held.at.source, &held.at.partition) == (source, partition) && newest.at.as_ref() != Some(&held.at)
        });
        if repeated {
            continue;
        }
        let mut line: Vec<&str> = Vec::new();
        for (given, chain) in given {
            // One that was given away where it had come from has said nothing of it.
            if given.at != newest.at {
                break;
            }
            line.push(chain);
        }
        for chain in line.into_iter().rev() {
            if chain != own && chain != ORIGIN && !chains.iter().any(|known| known == chain) {
                chains.push(chain.to_owned());
            }
        }
    }
    chains
}

/// Makes `wanted` this chain's own, wherever they are, and returns all that it holds of them.
pub(crate) fn claim(
    store: &dyn Store,
    keys: &Keys,
    claimant: Claimant<'_>,
    wanted: &[Name],
) -> Result<BTreeMap<Name, Holder>, ArchiveError> {
    // Each round that fails lost to another writer's entry, so somebody gets on.
    for _ in 0..limits::CLAIM_ROUNDS {
        let heads = chain::heads(store, keys)?;
        let known = holders(&heads);
        let mut foreign: BTreeMap<&str, Vec<&Name>> = BTreeMap::new();
        for name in wanted {
            let chain = known.get(name).map_or(ORIGIN, |holder| holder.chain.as_str());
            if chain != claimant.chain {
                foreign.entry(chain).or_default().push(name);
            }
        }
        if foreign.is_empty() {
            return Ok(known.into_iter().filter(|(name, _)| wanted.contains(name)).collect());
        }
        for (chain, names) in foreign {
            let head = heads.iter().find(|head| head.chain == chain);
            take(store, keys, claimant, (chain, head), &names, &known)?;
        }
    }
    Err(ArchiveError::Contended { pipeline: claimant.pipeline.to_owned(), chain: claimant.chain.to_owned() })
}

/// Puts one claim behind `head`. That another entry is there by now shows in the next round.
fn take(
    store: &dyn Store,
    keys: &Keys,
    claimant: Claimant<'_>,
    (chain, head): (&str, Option<&Entry>),
    names: &[&Name],
    known: &BTreeMap<Name, Holder>,
) -> Result<(), ArchiveError> {
    if let Some(head) = head {
        // Its writer may have died with files sealed and not placed, and only the newest seal is looked at.
        seal::place_again(store, keys, head)?;
    }
    let is_claimed = |source: &str, partition: &str| names.iter().any(|name| name.0 == source && name.1 == partition);
    let mut given: Vec<Given> = head.map_or_else(Vec::new, |head| head.given.clone());
    given.retain(|given| !is_claimed(&given.source, &given.partition));
    for name in names {
        let holder = known.get(name);
        given.push(Given {
            source: name.0.clone(),
            partition: name.1.clone(),
            at: holder.and_then(|holder| holder.at.clone()),
            state: holder.and_then(|holder| holder.state.clone()),
            epoch: holder.map_or(1, |holder| holder.epoch + 1),
            to: claimant.chain.to_owned(),
        });
    }
    let holds = head.map_or_else(Vec::new, |head| head.holds.clone());
    let entry = Entry {
        format: FORMAT,
        pipeline: claimant.pipeline.to_owned(),
        chain: chain.to_owned(),
        number: head.map_or(1, |head| head.number + 1),
        writer: claimant.writer.to_owned(),
        holds: holds.into_iter().filter(|held| !is_claimed(&held.at.source, &held.at.partition)).collect(),
        given,
        before: audit::link(claimant.audit, head.and_then(|head| head.sha256.clone())),
        act: Act::Claim { by: claimant.chain.to_owned() },
        sha256: None,
    };
    chain::append(store, keys, &entry).map(drop)
}

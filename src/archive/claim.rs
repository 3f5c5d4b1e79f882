//! Claims: how a partition of a shared source goes from one chain to another.
//!
//! Who reads a partition next puts a claim into the chain that holds it, behind that chain's newest entry. From there on
//! the chain's own writer cannot seal without having seen the claim: if it has staged nothing of the partition since its
//! last seal (it had handed the partition over), it goes on without it; otherwise it is a zombie and stops. The claim
//! fixes where the new holder begins. What nobody has read yet is claimed from the chain [`chain::ORIGIN`].

use super::ArchiveError;
use super::audit;
use super::chain::{self, Act, Entry, FORMAT, Given, Keys, ORIGIN};
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
            offer(name, Holder { chain: given.to.clone(), epoch: given.epoch, at: given.at.clone() }, false);
        }
    }
    for entry in heads {
        for held in &entry.holds {
            let name = (held.at.source.clone(), held.at.partition.clone());
            let holder = Holder { chain: entry.chain.clone(), epoch: held.epoch, at: Some(held.at.clone()) };
            offer(name, holder, true);
        }
    }
    holders
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

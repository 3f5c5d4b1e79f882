//! How an archive's writer seals what is staged.

use super::chain::{self, Act, Entry, FORMAT, Seal, StateRef, Stretch};
use super::claim::Name;
use super::delta::Ledger;
use super::partition::file_name;
use super::plan::{Identified, PartState, Sealed, Sealing};
use super::table::Kind;
use super::writer::{Archive, Holding};
use super::{ArchiveError, audit, fold, seal};
use crate::record::receipt::{Checkpoint, LogCommits, PartitionPosition, Receipt};
use crate::time::EventTime;
use parquet::file::metadata::KeyValue;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

impl Archive {
    /// Makes all that is staged durable and visible, and `sealing.checkpoint` the positions up to which it goes. Nothing is
    /// written when nothing is staged and neither positions nor state have changed.
    ///
    /// # Errors
    /// When a file cannot be written, synced or placed, or another writer has sealed or claimed meanwhile. Whether the seal
    /// was committed is found out by opening the archive again.
    pub fn seal(&mut self, sealing: &Sealing) -> Result<Receipt, ArchiveError> {
        let still = self.moves(sealing).is_empty() && !self.forgets(&sealing.checkpoint);
        let idle = self.staging.rows() == 0 && still && sealing.state == self.state && sealing.parts.is_empty();
        if !self.broken && idle {
            let checkpoint = self.checkpoint();
            let logged = self.logged();
            return Ok(Receipt {
                checkpoint,
                rows: 0,
                files: 0,
                bytes: 0,
                tables: Vec::new(),
                type_clashes: 0,
                logged,
            });
        }
        self.guarded(|archive| {
            archive.check_held(sealing).inspect_err(|_| archive.staging.discard())?;
            let mut entry = archive.prepare(sealing).inspect_err(|_| archive.staging.discard())?;
            archive.commit_with(&mut entry, &sealing.parts)?;
            seal::place(archive.place.store.as_ref(), &entry)?;
            archive.list(&entry, sealing.at)?;
            Ok(archive.advance(entry, &sealing.state))
        })
    }

    /// The positions by which each partition has moved since the last seal, and identities that have changed.
    fn moves(&self, sealing: &Sealing) -> Vec<Stretch> {
        let mut changes: HashMap<(&str, &str), Vec<&Identified>> = HashMap::new();
        for change in &sealing.identified {
            changes.entry((&change.source, &change.partition)).or_default().push(change);
        }
        let stretch = |now: &PartitionPosition| {
            let name = (now.source.clone(), now.partition.clone());
            let known = self.held.get(&name).and_then(|holding| holding.at.as_ref());
            let its = changes.get(&(now.source.as_str(), now.partition.as_str())).map_or(&[][..], Vec::as_slice);
            let known = known.filter(|known| now.identity == identity_now(known, its));
            // Of a shared one the archive knows better: what the flow says may be older than a claim.
            let moved = match known {
                Some(known) if self.shared.contains(&now.source) => now.position > known.position,
                Some(known) => now.position != known.position || now.identity != known.identity,
                None => !self.shared.contains(&now.source) || self.held.contains_key(&name),
            };
            let was = known.map(|known| &known.identity).filter(|was| **was != now.identity);
            moved.then(|| Stretch {
                source: now.source.clone(),
                partition: now.partition.clone(),
                identity: now.identity.clone(),
                was: was.cloned(),
                start: known.map(|known| known.position),
                end: now.position,
            })
        };
        sealing.checkpoint.partitions.iter().filter_map(stretch).collect()
    }

    /// Whether the flow has forgotten a partition of a source that nobody shares.
    fn forgets(&self, checkpoint: &Checkpoint) -> bool {
        let known = names(&checkpoint.partitions);
        let mut own = self.held.keys().filter(|name| !self.shared.contains(&name.0));
        own.any(|name| !known.contains(&(name.0.as_str(), name.1.as_str())))
    }

    /// Shared partitions of which something was read since the last seal, or whose states have changed, have to be this chain's.
    fn check_held(&self, sealing: &Sealing) -> Result<(), ArchiveError> {
        for now in sealing.checkpoint.partitions.iter().filter(|now| self.shared.contains(&now.source)) {
            let name = (now.source.clone(), now.partition.clone());
            if self.held.contains_key(&name) {
                continue;
            }
            let (by, left_at) = self.lost.get(&name).map_or(("no other chain", None), |(by, at)| (by, Some(*at)));
            let changed = sealing.parts.iter().any(|part| (&part.source, &part.partition) == (&name.0, &name.1));
            if changed || left_at.is_none_or(|left_at| now.position > left_at) {
                let path = PathBuf::from(self.place.store.show(&self.place.keys.chain(&self.chain)));
                let (source_name, partition) = name;
                return Err(ArchiveError::Taken { path, source_name, partition, by: by.to_owned() });
            }
        }
        Ok(())
    }

    /// Puts the entry at the end of the chain, behind claims that have come meanwhile. When this returns without an error, its
    /// rows are in the archive whatever happens.
    #[cfg(test)]
    pub(crate) fn commit(&mut self, entry: &mut Entry) -> Result<(), ArchiveError> {
        self.commit_with(entry, &[])
    }

    /// As `commit`, of an entry that has these states of partitions.
    fn commit_with(&mut self, entry: &mut Entry, parts: &[PartState]) -> Result<(), ArchiveError> {
        while let Some(there) = chain::append(self.place.store.as_ref(), &self.place.keys, entry)? {
            self.give_way(entry, there, parts)?;
        }
        self.check_not_folded(entry)?;
        self.newest = Some(audit::sha256(&chain::text(entry)));
        Ok(())
    }

    /// A writer that was held for so long that its successor has folded away the place where its entry belongs finds that place
    /// free, but for the entry before it. What it has put there counts for nobody, and goes with the next fold.
    fn check_not_folded(&self, entry: &Entry) -> Result<(), ArchiveError> {
        let (store, keys) = (self.place.store.as_ref(), &self.place.keys);
        let follows = match entry.number {
            1 => fold::last_summary(store, keys, &entry.chain)? == 0,
            number => store.size(&keys.entry(&entry.chain, number - 1))?.is_some(),
        };
        if follows {
            return Ok(());
        }
        let owner = chain::newest(store, keys, &entry.chain)?.map(|newest| newest.writer).unwrap_or_default();
        Err(ArchiveError::Conflict { path: PathBuf::from(store.show(&keys.entry(&entry.chain, entry.number))), owner })
    }

    /// Another entry is where `entry` should be: goes behind it when it is a claim that can be granted.
    fn give_way(&mut self, entry: &mut Entry, there: Entry, parts: &[PartState]) -> Result<(), ArchiveError> {
        let spans = if let Act::Seal(seal) = &entry.act { seal.spans.as_slice() } else { &[] };
        let changed = spans.iter().map(|span| (&*span.source, &*span.partition));
        let changed: Vec<_> = changed.chain(parts.iter().map(|part| (&*part.source, &*part.partition))).collect();
        self.grant(there, &changed)?;
        let is_gone = |held: &chain::Held| {
            let is_it = |given: &chain::Given| given.source == held.at.source && given.partition == held.at.partition;
            self.given.iter().any(|given| is_it(given) && given.epoch > held.epoch)
        };
        entry.holds.retain(|held| !is_gone(held));
        entry.given.clone_from(&self.given);
        entry.number = self.number;
        entry.before = audit::link(self.audit, self.newest.clone());
        Ok(())
    }

    /// Takes note of claims that others have put behind the newest entry that this writer knows. Only where nothing is staged:
    /// what is staged may be of partitions that are no longer its own, and then the next seal has to find that out.
    pub(super) fn catch_up(&mut self) -> Result<(), ArchiveError> {
        if self.staging.rows() > 0 {
            return Ok(());
        }
        while let Some(there) = chain::entry(self.place.store.as_ref(), &self.place.keys, &self.chain, self.number)? {
            self.grant(there, &[])?;
        }
        Ok(())
    }

    /// Gives away what `there`, the entry at this writer's next number, claims; partitions in `sealing` are about to be sealed.
    fn grant(&mut self, there: Entry, sealing: &[(&str, &str)]) -> Result<(), ArchiveError> {
        let path = PathBuf::from(self.place.store.show(&self.place.keys.entry(&there.chain, there.number)));
        if matches!(there.act, Act::Seal(_)) {
            return Err(ArchiveError::Conflict { path, owner: there.writer });
        }
        self.given.clear();
        for given in there.given {
            let name = (given.source.clone(), given.partition.clone());
            // The claim repeats older ones, and what they took may have been claimed back since.
            if self.held.get(&name).is_some_and(|holding| holding.epoch >= given.epoch) {
                continue;
            }
            if sealing.contains(&(name.0.as_str(), name.1.as_str())) {
                return Err(ArchiveError::Taken { path, source_name: name.0, partition: name.1, by: given.to });
            }
            if let Some(Holding { at, .. }) = self.held.remove(&name) {
                self.lost.insert(name, (given.to.clone(), at.map_or(0, |at| at.position)));
            }
            self.given.push(given);
        }
        self.number = there.number + 1;
        self.newest = there.sha256;
        Ok(())
    }

    /// Ends the staged files, durably, and says what shall be sealed.
    pub(crate) fn prepare(&mut self, sealing: &Sealing) -> Result<Entry, ArchiveError> {
        let spans = self.moves(sealing);
        let ranges = serde_json::to_string(&spans).expect("positions are JSON");
        let mut footer = vec![KeyValue::new("headrig.position_range".to_owned(), ranges)];
        let watermark = sealing.watermark;
        footer.extend(watermark.map(|w| KeyValue::new("headrig.watermark".to_owned(), w.to_string())));
        let mut files = self.staging.finish_all(&footer)?;
        files.iter_mut().for_each(|file| file.sealed_us = sealing.at.map(EventTime::micros));
        if self.audit {
            for file in &mut files {
                file.sha256 = Some(audit::sha256_of_local(&self.staging.local(file))?);
            }
        }
        let (store, keys) = (self.place.store.as_ref(), &self.place.keys);
        for (key, text) in self.staging.described() {
            if !self.described.contains(key) {
                // One that is there already says the same.
                store.put_if_absent(key, text)?;
                self.described.insert(key.clone());
            }
        }
        let staged: Vec<_> = files.iter().map(|file| (self.staging.local(file), file.staged.clone())).collect();
        store.upload(&staged)?;
        let name = format!("{:012}-{}", self.number, file_name(&self.writer));
        let state = seal::put_state(store, &keys.state(&self.chain), &name, &sealing.state)?;
        let mut parts = BTreeMap::new();
        for (number, part) in sealing.parts.iter().enumerate() {
            let at = seal::put_state(store, &keys.state(&self.chain), &format!("{name}-{number}"), &part.bytes)?;
            parts.insert((part.source.clone(), part.partition.clone()), at);
        }
        let (records, filtered) = (sealing.records, sealing.filtered);
        let watermark_us = watermark.map(EventTime::micros);
        Ok(Entry {
            format: FORMAT,
            pipeline: self.pipeline.clone(),
            chain: self.chain.clone(),
            number: self.number,
            writer: self.writer.clone(),
            holds: self.holds(&sealing.checkpoint, &spans, parts),
            given: self.given.clone(),
            before: audit::link(self.audit, self.newest.clone()),
            sha256: None,
            act: Act::Seal(Seal { watermark_us, spans, records, filtered, files, kept: self.kept.clone(), state }),
        })
    }

    /// What the chain holds behind these moves.
    fn holds(
        &self,
        checkpoint: &Checkpoint,
        spans: &[Stretch],
        mut parts: BTreeMap<Name, Option<StateRef>>,
    ) -> Vec<chain::Held> {
        let mut held = self.held.clone();
        // What the flow has forgotten of a source that nobody shares is forgotten here, too.
        let known = names(&checkpoint.partitions);
        held.retain(|name, _| self.shared.contains(&name.0) || known.contains(&(name.0.as_str(), name.1.as_str())));
        let moved: HashSet<(&str, &str)> = spans.iter().map(|s| (s.source.as_str(), s.partition.as_str())).collect();
        for now in &checkpoint.partitions {
            if moved.contains(&(now.source.as_str(), now.partition.as_str())) {
                let name = (now.source.clone(), now.partition.clone());
                let state = parts.remove(&name).flatten();
                let holding = held.entry(name).or_insert(Holding { at: None, epoch: 0, state: None });
                (holding.at, holding.state) = (Some(now.clone()), state);
            }
        }
        for (name, state) in parts {
            held.entry(name).and_modify(|holding| holding.state = state);
        }
        let entry = |Holding { at, epoch, state }| Some(chain::Held { at: at?, epoch, state });
        held.into_values().filter_map(entry).collect()
    }

    /// Begins the next seal.
    fn advance(&mut self, entry: Entry, state: &[u8]) -> Receipt {
        let Act::Seal(seal) = entry.act else { unreachable!("only seals are prepared") };
        let of = |kind| {
            let mut total = Sealed { kind, rows: 0, files: 0, bytes: 0 };
            for file in seal.files.iter().filter(|f| f.kind == kind) {
                total.rows += file.rows;
                total.files += 1;
                total.bytes += file.bytes;
            }
            (total.files > 0).then_some(total)
        };
        self.sealed = Kind::ALL.into_iter().filter_map(of).collect();
        let type_clashes = self.staging.misfits();
        self.number = entry.number + 1;
        self.staging.next(self.number);
        self.held.retain(|name, _| self.shared.contains(&name.0));
        let mut old = Vec::new();
        for chain::Held { at, epoch, state } in entry.holds {
            let name = (at.source.clone(), at.partition.clone());
            let known = self.held.insert(name, Holding { at: Some(at), epoch, state: state.clone() });
            old.extend(known.and_then(|known| known.state).filter(|known| Some(known) != state.as_ref()));
        }
        state.clone_into(&mut self.state);
        old.extend(std::mem::replace(&mut self.state_at, seal.state));
        self.tidy(entry.number, &old);
        Receipt {
            checkpoint: self.checkpoint(),
            rows: self.sealed.iter().map(|s| s.rows).sum(),
            files: self.sealed.iter().map(|s| s.files).sum(),
            bytes: self.sealed.iter().map(|s| s.bytes).sum(),
            tables: self.sealed.iter().map(|s| (s.kind.as_str(), s.rows, s.files)).collect(),
            type_clashes,
            logged: self.logged(),
        }
    }

    /// Names a seal's files in the Delta logs beside them.
    fn list(&mut self, entry: &Entry, at: Option<EventTime>) -> Result<(), ArchiveError> {
        let (place, at) = (&self.place, at.unwrap_or(self.started));
        let Some(ledger) = &mut self.ledger else { return Ok(()) };
        ledger.seal(place.store.as_ref(), &place.keys, entry, at.micros().div_euclid(1_000))
    }

    fn logged(&mut self) -> LogCommits {
        self.ledger.as_mut().map(Ledger::take_commits).unwrap_or_default()
    }

    /// Removes what the seal has made useless. Nothing stands on it, so what cannot be removed stays for the next time.
    fn tidy(&mut self, number: u64, old: &[StateRef]) {
        let (store, keys) = (self.place.store.as_ref(), &self.place.keys);
        let remove = |old: &StateRef| match old {
            StateRef::Object { path, .. } => store.remove(path),
            StateRef::Inline(_) => Ok(()),
        };
        let tidied = old.iter().try_for_each(remove);
        let tidied = tidied.and_then(|()| fold::fold_when_due(store, keys, &self.chain, number));
        let swept = tidied.and_then(|()| match self.swept {
            true => Ok(0),
            false => seal::sweep(store, keys, &self.chain, (self.staging.tag(), number)),
        });
        self.swept |= swept.is_ok();
        if let Ok(objects @ 1..) = swept {
            tracing::info!(objects, chain = self.chain, "removed what dead writers had staged and not sealed");
        }
        if let Err(error) = swept {
            tracing::warn!(%error, "cannot tidy the archive up behind a seal; it is tried again later");
        }
    }
}

/// Thousands of followed files are looked up in it at each seal.
fn names(partitions: &[PartitionPosition]) -> HashSet<(&str, &str)> {
    partitions.iter().map(|known| (known.source.as_str(), known.partition.as_str())).collect()
}

/// The identity that a partition has behind these changes of its own.
fn identity_now<'i>(known: &'i PartitionPosition, changes: &[&'i Identified]) -> &'i str {
    changes.iter().fold(
        known.identity.as_str(),
        |identity, change| if change.before == identity { &change.after } else { identity },
    )
}

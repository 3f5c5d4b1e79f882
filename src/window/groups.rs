//! The groups that have open state: key bytes ↔ a small number that panes use.

use ahash::RandomState;
use hashbrown::HashTable;

#[derive(Debug)]
struct Entry {
    key: Box<[u8]>,
    /// Panes that hold state of this group; at 0 the number is free again.
    panes: u32,
}

/// Numbers for groups, at most `cap` at a time.
#[derive(Debug)]
pub(super) struct Groups {
    table: HashTable<u32>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    hasher: RandomState,
    cap: usize,
    /// Panes that hold state, summed up over all groups.
    held: usize,
}

impl Groups {
    pub(super) fn new(cap: usize) -> Self {
        // The seed is random: nobody can send keys that all fall into one bucket, and no result depends on it.
        Self {
            table: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            hasher: RandomState::new(),
            cap,
            held: 0,
        }
    }

    /// The number of a group that has one.
    pub(super) fn find(&self, key: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.table.find(hash, |number| &*self.entries[*number as usize].key == key).copied()
    }

    /// Most groups.
    pub(super) fn cap(&self) -> usize {
        self.cap
    }

    /// One more than the largest number.
    pub(super) fn numbers(&self) -> usize {
        self.entries.len()
    }

    /// How many states there are: one for each group and each pane that holds it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// The group's number; a new one for a new group, `None` when there are `cap` others.
    pub(super) fn number(&mut self, key: &[u8]) -> Option<u32> {
        let Self { table, entries, free, hasher, cap, .. } = self;
        let hash = hasher.hash_one(key);
        if let Some(number) = table.find(hash, |number| &*entries[*number as usize].key == key) {
            return Some(*number);
        }
        if table.len() >= *cap {
            return None;
        }
        let entry = Entry { key: key.into(), panes: 0 };
        let number = match free.pop() {
            Some(number) => {
                entries[number as usize] = entry;
                number
            }
            None => {
                entries.push(entry);
                u32::try_from(entries.len() - 1).expect("the cap is far below 2^32")
            }
        };
        table.insert_unique(hash, number, |number| hasher.hash_one(&*entries[*number as usize].key));
        Some(number)
    }

    pub(super) fn key(&self, number: u32) -> &[u8] {
        &self.entries[number as usize].key
    }

    /// One more pane holds state of the group.
    pub(super) fn hold(&mut self, number: u32) {
        self.entries[number as usize].panes += 1;
        self.held += 1;
    }

    /// One pane less holds state of the group.
    pub(super) fn release(&mut self, number: u32) {
        let entry = &mut self.entries[number as usize];
        entry.panes -= 1;
        self.held -= 1;
        if entry.panes == 0 {
            let hash = self.hasher.hash_one(&*entry.key);
            if let Ok(occupied) = self.table.find_entry(hash, |other| *other == number) {
                occupied.remove();
            }
            entry.key = Box::default();
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again_and_capped() {
        let mut groups = Groups::new(2);
        let (a, b) = (groups.number(b"a").unwrap(), groups.number(b"b").unwrap());
        groups.hold(a);
        groups.hold(b);
        groups.hold(b);
        assert_eq!(groups.held(), 3);
        assert_eq!((groups.number(b"a"), groups.find(b"a"), groups.find(b"c")), (Some(a), Some(a), None));
        assert_eq!(groups.number(b"c"), None);
        groups.release(b);
        assert_eq!(groups.number(b"c"), None);
        groups.release(b);
        assert_eq!(groups.number(b"c"), Some(b));
        assert_eq!(groups.key(b), b"c");
    }
}

//! What a daemon that gathers windows for others remembers between two seals: which records are in what it has gathered, and the
//! messages that are sealed and not published yet. Pure.
//!
//! What was gathered since the last seal is part of the next one, as messages in its state; they are published behind it, in
//! order. So a message is sent at least once, whatever dies, and a seal that failed says nothing. What a start finds in its state, or in
//! that of a daemon whose partitions it takes over, is published (again) before anything newer: for each source partition the stretches
//! come in order, whoever reads it. Who merges drops what it knows.

use crate::limits;
use crate::record::frame::{Frame, FrameError};
use crate::record::partial::{Input, Message, Partials};
use crate::record::raw::PartitionId;
use crate::record::state::{SavedPart, read, write};
use crate::source::PartitionName;
use crate::time::EventTime;
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;

/// The messages of an outbox, in front of a flow's state.
const OUTBOX: Frame = Frame { magic: b"hrob", version: 1, most: limits::STATE_BYTES };

/// A source partition that is this daemon's.
#[derive(Debug)]
struct Held {
    name: PartitionName,
    /// Where the stretch begins that was not handed out yet.
    start: Option<u64>,
    end: Option<u64>,
    largest: Option<EventTime>,
    idle: bool,
    /// Whether the silence was not told yet.
    untold: bool,
    /// It went to another daemon; forgotten when what was read of it is handed out.
    ended: bool,
}

/// Which records are in what was gathered.
#[derive(Debug)]
pub(super) struct Gathering {
    /// Partitions of the topic.
    partitions: NonZeroU32,
    held: BTreeMap<PartitionId, Held>,
}

impl Gathering {
    pub(super) fn new(partitions: NonZeroU32) -> Self {
        Self { partitions, held: BTreeMap::new() }
    }

    /// Partitions of the topic.
    pub(super) fn partitions(&self) -> NonZeroU32 {
        self.partitions
    }

    /// The source partition is this daemon's from `start` on; `None`: from its beginning.
    pub(super) fn begin(&mut self, partition: PartitionId, name: &PartitionName, start: Option<u64>) {
        let name = name.clone();
        let held = Held { name, start, end: start, largest: None, idle: false, untold: false, ended: false };
        self.held.insert(partition, held);
    }

    /// Records were gathered up to the one that starts at `end`.
    ///
    /// # Panics
    /// When the partition has not begun.
    pub(super) fn read(&mut self, partition: PartitionId, end: u64, newest: Option<EventTime>) {
        let held = self.held.get_mut(&partition).expect("a partition is claimed before it is read");
        held.end = Some(end);
        held.largest = held.largest.max(newest);
        (held.idle, held.untold) = (false, false);
    }

    /// Nobody should wait for the partition. Nothing when it is another daemon's: that one knows.
    pub(super) fn idle(&mut self, partition: PartitionId) {
        if let Some(held) = self.held.get_mut(&partition) {
            held.untold |= !held.idle;
            held.idle = true;
        }
    }

    /// The partition goes to another daemon, or has ended.
    pub(super) fn end(&mut self, partition: PartitionId) {
        if let Some(held) = self.held.get_mut(&partition) {
            held.ended = true;
            // Silence is for the next one to tell.
            (held.idle, held.untold) = (false, false);
        }
    }

    /// Whether there is something to tell that no record brings: a seal is due.
    pub(super) fn wants_seal(&self) -> bool {
        self.held.values().any(|held| held.untold)
    }

    /// The messages for all that was gathered since the last call, which is `parts`, by partition of the topic. None where there is
    /// nothing to tell.
    ///
    /// # Errors
    /// When the states of one group don't fit into a message.
    pub(super) fn hand_out(&mut self, parts: Vec<Vec<SavedPart>>) -> Result<Vec<Message>, FrameError> {
        let told = self.held.values().filter(|held| held.start != held.end || held.untold);
        let inputs: Vec<Input> = told.map(Held::input).collect();
        let moved = inputs.iter().any(|input| input.stretch().is_some());
        for held in self.held.values_mut() {
            (held.start, held.largest, held.untold) = (held.end, None, false);
        }
        self.held.retain(|_, held| !held.ended);
        let mut messages = Vec::new();
        if inputs.is_empty() {
            return Ok(messages);
        }
        for (partition, parts) in (0..).zip(parts) {
            let chunks = if moved { cut(parts) } else { vec![Vec::new()] };
            let count = chunks.len() as u32;
            for (chunk, windows) in (0..).zip(chunks) {
                let bytes = Partials { inputs: inputs.clone(), chunk, chunks: count, windows }.encode()?;
                messages.push(Message { partition, bytes });
            }
        }
        Ok(messages)
    }
}

impl Held {
    fn input(&self) -> Input {
        Input {
            source: self.name.source.to_string(),
            partition: self.name.partition.clone(),
            start: self.start,
            end: self.end,
            largest: self.largest.map(EventTime::micros),
            idle: self.idle,
        }
    }
}

/// Parts in messages of up to [`limits::PARTIAL_BYTES`], each of which names every definition: who merges has to know that it
/// was gathered.
fn cut(parts: Vec<SavedPart>) -> Vec<Vec<SavedPart>> {
    let mut names: Vec<SavedPart> = Vec::new();
    for part in &parts {
        if !names.iter().any(|known| known.name == part.name) {
            names.push(SavedPart { body: Vec::new(), ..part.clone() });
        }
    }
    let mut chunks = vec![names.clone()];
    let mut room = limits::PARTIAL_BYTES;
    for part in parts {
        if part.body.len() > room && room < limits::PARTIAL_BYTES {
            chunks.push(names.clone());
            room = limits::PARTIAL_BYTES;
        }
        room = room.saturating_sub(part.body.len());
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(part);
        }
    }
    chunks
}

/// The messages of one seal, or of another daemon's outbox.
#[derive(Debug)]
struct Waiting {
    messages: Vec<Message>,
    /// Number of the entry: counts up from 0.
    number: u64,
    sealed: bool,
    sent: bool,
}

/// Messages that are sealed, or about to be, and not known to be published.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Waiting>,
    next: u64,
}

impl Outbox {
    /// Takes the outbox out of what [`Self::in_front_of`] gave, and returns what is behind it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn split(state: &[u8]) -> Result<(Vec<Message>, &[u8]), FrameError> {
        if !state.starts_with(OUTBOX.magic) {
            return Ok((Vec::new(), state));
        }
        let cut_off = FrameError::Damaged("it is cut off");
        let Some((length, rest)) = state[OUTBOX.magic.len()..].split_at_checked(8) else { return Err(cut_off) };
        let length = u64::from_le_bytes(length.try_into().expect("these are eight bytes"));
        let parts = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
        let Some((outbox, rest)) = parts else { return Err(cut_off) };
        Ok((read(&OUTBOX.unpack(outbox)?)?, rest))
    }

    /// All that waits, in front of a flow's state.
    ///
    /// # Errors
    /// When it is too large.
    pub(super) fn in_front_of(&self, flow: &[u8]) -> Result<Vec<u8>, FrameError> {
        let messages: Vec<&Message> = self.waiting.iter().flat_map(|waiting| &waiting.messages).collect();
        let outbox = OUTBOX.pack(&write(&messages))?;
        Ok([OUTBOX.magic, (outbox.len() as u64).to_le_bytes().as_slice(), outbox.as_slice(), flow].concat())
    }

    /// Adds messages that are in a seal already, of an earlier run or another daemon.
    pub(super) fn take_over(&mut self, messages: Vec<Message>) {
        self.push(messages, true);
    }

    /// Adds the messages of a seal that is about to be made.
    pub(super) fn add(&mut self, messages: Vec<Message>) {
        self.push(messages, false);
    }

    fn push(&mut self, messages: Vec<Message>, sealed: bool) {
        if !messages.is_empty() {
            self.waiting.push_back(Waiting { messages, number: self.next, sealed, sent: false });
            self.next += 1;
        }
    }

    /// Names all that there is now, for when the seal is done that it is in.
    pub(super) fn ticket(&self) -> u64 {
        self.next
    }

    /// A seal is done with all that was there when `ticket` was given.
    pub(super) fn sealed(&mut self, ticket: u64) {
        self.waiting.iter_mut().filter(|waiting| waiting.number < ticket).for_each(|waiting| waiting.sealed = true);
    }

    /// What is to be published next, with the number by which [`Self::published`] forgets it.
    pub(super) fn next_due(&mut self) -> Option<(u64, Vec<Message>)> {
        let next = self.waiting.iter_mut().take_while(|waiting| waiting.sealed).find(|waiting| !waiting.sent)?;
        next.sent = true;
        Some((next.number, next.messages.clone()))
    }

    /// Brokers have taken all up to this number.
    pub(super) fn published(&mut self, number: u64) {
        while self.waiting.front().is_some_and(|waiting| waiting.number <= number) {
            self.waiting.pop_front();
        }
    }

    /// Whether nothing waits that is sealed.
    pub(super) fn is_written(&self) -> bool {
        self.waiting.iter().all(|waiting| !waiting.sealed)
    }

    /// Bytes of all that waits.
    pub(super) fn bytes(&self) -> usize {
        self.waiting.iter().flat_map(|waiting| &waiting.messages).map(|message| message.bytes.len()).sum()
    }
}

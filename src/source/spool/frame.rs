//! How a record lies in a segment: a head of 36 bytes, then the record. Little endian. Pure.
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | a mark, to find heads behind a damaged place |
//! | 4 | length of the record |
//! | 8 | its number |
//! | 4 | how many numbers before it everything was durable when it was appended |
//! | 8 | when it came, in µs since 1970 |
//! | 8 | XXH64 of the head up to here and the record |

use crate::limits::RECORD_BYTES;
use crate::time::EventTime;
use std::hash::Hasher;
use twox_hash::XxHash64;

pub(super) const MARK: [u8; 4] = *b"hSp1";
pub(super) const HEAD: usize = 36;
const CHECKED: usize = 28;

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) number: u64,
    /// Everything below this number was durable when the record was appended.
    pub(super) durable: u64,
    pub(super) arrival: EventTime,
    check: u64,
}

/// Appends a record to `out`.
pub(super) fn write(out: &mut Vec<u8>, number: u64, durable: u64, arrival: EventTime, record: &[u8]) {
    let start = out.len();
    let length = u32::try_from(record.len()).expect("records are far shorter");
    let behind = u32::try_from(number - durable).expect("a group is far shorter");
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&behind.to_le_bytes());
    out.extend_from_slice(&arrival.micros().to_le_bytes());
    let check = check(&out[start..], record);
    out.extend_from_slice(&check.to_le_bytes());
    out.extend_from_slice(record);
}

fn check(head: &[u8], record: &[u8]) -> u64 {
    let mut hasher = XxHash64::with_seed(0);
    hasher.write(head);
    hasher.write(record);
    hasher.finish()
}

/// Reads a head; `None` where none stands.
pub(super) fn head(bytes: &[u8; HEAD]) -> Option<Head> {
    let four = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let eight = |at: usize| u64::from(four(at)) | u64::from(four(at + 4)) << 32;
    // One byte more than a record may have is kept of one that is too long.
    let length = four(4) as usize;
    if bytes[..4] != MARK || length > RECORD_BYTES + 1 {
        return None;
    }
    let number = eight(8);
    let durable = number.checked_sub(u64::from(four(16)))?;
    let arrival = EventTime::from_micros(eight(20).cast_signed());
    Some(Head { length, number, durable, arrival, check: eight(28) })
}

/// Whether head and record are what was written.
pub(super) fn is_whole(head: &Head, bytes: &[u8; HEAD], record: &[u8]) -> bool {
    head.length == record.len() && head.check == check(&bytes[..CHECKED], record)
}

/// The record at the start of `bytes`, when it is all there and sound.
pub(super) fn first(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let (start, rest) = bytes.split_first_chunk::<HEAD>()?;
    let head = head(start)?;
    let record = rest.get(..head.length)?;
    is_whole(&head, start, record).then_some((head, record))
}

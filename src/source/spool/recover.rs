//! What is in a spool's folder when it is opened: finds the segments, reads every record once and cuts a torn tail.

use super::frame::{self, HEAD, Head, MARK};
use super::{Segment, SpoolError, sync_folder, writer};
use memchr::memmem;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::Path;

pub(super) struct Recovered {
    pub(super) files: VecDeque<Segment>,
    /// The number behind the last record; 0 in an empty folder.
    pub(super) next: u64,
    pub(super) cut_bytes: u64,
}

/// # Errors
/// When accepted records are damaged or missing, or a file cannot be read.
pub(super) fn recover(folder: &Path) -> Result<Recovered, SpoolError> {
    let mut found = list(folder)?;
    let (mut files, mut next, mut cut_bytes) = (VecDeque::new(), 0, 0);
    let count = found.len();
    for (index, segment) in found.iter_mut().enumerate() {
        if index > 0 && segment.first != next {
            return Err(SpoolError::Missing { folder: folder.to_owned(), first: next });
        }
        next = segment.first;
        let is_last = index + 1 == count;
        let Some(good) = scan(&segment.path, &mut next, is_last)? else {
            // Made when the power went; nothing was ever written there.
            fs::remove_file(&segment.path).map_err(SpoolError::file("remove", &segment.path))?;
            cut_bytes += segment.bytes;
            sync_folder(folder)?;
            let (_, anew) = writer::create(folder, segment.first)?;
            files.push_back(anew);
            continue;
        };
        if good < segment.bytes {
            cut_bytes += segment.bytes - good;
            let cut = OpenOptions::new().write(true).open(&segment.path);
            cut.and_then(|file| file.set_len(good).and_then(|()| file.sync_all()))
                .map_err(SpoolError::file("cut", &segment.path))?;
            segment.bytes = good;
        }
        files.push_back(segment.clone());
    }
    Ok(Recovered { files, next, cut_bytes })
}

fn list(folder: &Path) -> Result<Vec<Segment>, SpoolError> {
    let failed = SpoolError::file("list", folder);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(&failed)? {
        let path = entry.map_err(&failed)?.path();
        let is_segment = path.extension().is_some_and(|extension| extension == "spool");
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
        if let (true, Ok(first)) = (is_segment, stem.parse()) {
            let bytes = fs::metadata(&path).map_err(SpoolError::file("read", &path))?.len();
            found.push(Segment { first, path, bytes });
        }
    }
    found.sort_by_key(|segment| segment.first);
    Ok(found)
}

/// Reads the records of a segment; `next` goes from the first number to the one behind the last. Returns how many bytes are
/// sound; `None` where not even the file's own head is.
fn scan(path: &Path, next: &mut u64, is_last: bool) -> Result<Option<u64>, SpoolError> {
    let mut bytes = Vec::new();
    // A segment is a bounded file of our own: a few dozen megabytes at most.
    #[expect(clippy::disallowed_methods, reason = "the file's size is bounded by the writer")]
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes).map(drop))
        .map_err(SpoolError::file("read", path))?;
    let corrupt = |offset: usize, what| SpoolError::Corrupt { path: path.to_owned(), offset: offset as u64, what };
    if !bytes.starts_with(&writer::file_head(*next)) {
        let vouched = find_vouching(&bytes, *next).is_some();
        return if is_last && !vouched {
            Ok(None)
        } else {
            Err(corrupt(0, "its first bytes are not those of a spool"))
        };
    }
    let mut at = writer::FILE_HEAD;
    while let Some((head, _)) = frame::first(&bytes[at..]).filter(|(head, _)| head.number == *next) {
        at += HEAD + head.length;
        *next += 1;
    }
    let rest = &bytes[at..];
    if !rest.is_empty() && (!is_last || find_vouching(rest, *next).is_some()) {
        return Err(corrupt(at, "the record there is damaged"));
    }
    Ok(Some(at as u64))
}

/// A sound record in `bytes` that was appended when record number `broken` was durable.
fn find_vouching(bytes: &[u8], broken: u64) -> Option<Head> {
    let heads = memmem::find_iter(bytes, &MARK).filter_map(|at| frame::first(&bytes[at..]));
    heads.map(|(head, _)| head).find(|head| head.durable > broken)
}

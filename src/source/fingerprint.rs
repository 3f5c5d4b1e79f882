//! Tells a file from another one of the same name: `v1:LENGTH:HASH` of its first bytes.
//!
//! A log file only grows at its end, so its head stays what it was when it was first seen. The head is at most
//! [`HEAD_BYTES`] long and shorter when the file was; the length says how much to compare later.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a head: enough for the first lines' time stamps and ids.
const HEAD_BYTES: usize = 1_024;

/// The identity of `file` as it is now.
///
/// # Errors
/// When it cannot be read.
pub(super) fn of(file: &File) -> io::Result<String> {
    let head = head(file, HEAD_BYTES)?;
    Ok(format!("v1:{}:{}", head.len(), hash(&head)))
}

/// Whether `file` begins as it did when `identity` was taken. No for an identity of another form.
///
/// # Errors
/// When it cannot be read.
pub(super) fn matches(file: &File, identity: &str) -> io::Result<bool> {
    let Some((length, expected)) = identity.strip_prefix("v1:").and_then(|rest| rest.split_once(':')) else {
        return Ok(false);
    };
    let Some(length) = length.parse().ok().filter(|length| *length <= HEAD_BYTES) else {
        return Ok(false);
    };
    let head = head(file, length)?;
    Ok(head.len() == length && hash(&head) == expected)
}

/// The first bytes, `length` of them or as many as there are. Doesn't move the file's read position.
fn head(file: &File, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// 16 hexadecimal digits of SHA-256.
fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_that_grew_is_the_same_and_another_one_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one\n").unwrap();
        let short = of(&file).unwrap();
        assert!(short.starts_with("v1:4:") && short.len() == 5 + 16);
        file.write_all(&[b'x'; 4_000]).unwrap();
        assert!(matches(&file, &short).unwrap());
        let long = of(&file).unwrap();
        assert!(long.starts_with("v1:1024:") && matches(&file, &long).unwrap());
        let mut other = tempfile::tempfile().unwrap();
        other.write_all(b"two\n").unwrap();
        for identity in [&short, &long, "", "v1:9999999:00", "v1:x:00", "v2:4:00"] {
            assert!(!matches(&other, identity).unwrap(), "{identity}");
        }
    }
}

//! Which of several daemons this one is: its name in the chains of an archive that is shared.
//!
//! The name lies in the data folder, so that a daemon that is started again goes on with its own chain and need not wait
//! for anybody. Daemons that run side by side over one data folder take the first name that is free.

use crate::limits;
use crate::time::EventTime;
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Why there is no name.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    #[error("cannot keep this daemon's name in {}: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("cannot find a free name in {}: {} daemons run there", path.display(), limits::INSTANCES)]
    Full { path: PathBuf },
}

/// A name, and the lock that keeps others from taking it.
#[derive(Debug)]
pub struct Instance {
    pub name: String,
    _lock: File,
}

impl Instance {
    /// Takes the first name that no running daemon has; makes one where there is none yet.
    ///
    /// # Errors
    /// When the data folder cannot be written, or all its names are taken.
    pub fn take(data_dir: &Path, pipeline: &str, started: EventTime) -> Result<Self, InstanceError> {
        take(data_dir, pipeline, started.micros())
    }
}

fn take(data_dir: &Path, pipeline: &str, started_us: i64) -> Result<Instance, InstanceError> {
    let folder = data_dir.join("instances");
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause| InstanceError::Io { path, cause }
    };
    std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    let encoded: String = pipeline.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    for number in 0..limits::INSTANCES {
        let path = folder.join(format!("{encoded}-{number}"));
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(failed(&path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => continue,
            Err(error) => return Err(failed(&path)(error.into())),
        }
        let mut name = String::new();
        file.read_to_string(&mut name).map_err(failed(&path))?;
        if !is_name(&name) {
            name = new_name(&path, started_us);
            // A name that a crash cut short belongs to nobody yet: it is used only when it is durable.
            let written = file.set_len(0).and_then(|()| io::Seek::rewind(&mut file));
            let written = written.and_then(|()| file.write_all(name.as_bytes())).and_then(|()| file.sync_all());
            written.and_then(|()| File::open(&folder)?.sync_all()).map_err(failed(&path))?;
        }
        return Ok(Instance { name, _lock: file });
    }
    Err(InstanceError::Full { path: folder })
}

fn is_name(name: &str) -> bool {
    name.len() == 18 && name.starts_with("d-") && name[2..].bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// From what no two daemons have in common: the boot, the process, the time and the path.
fn new_name(path: &Path, started_us: i64) -> String {
    let mut digest = Sha256::new();
    for source in ["/proc/sys/kernel/random/uuid", "/proc/sys/kernel/random/boot_id", "/etc/machine-id"] {
        digest.update(std::fs::read(source).unwrap_or_default());
    }
    digest.update(std::process::id().to_le_bytes());
    digest.update(started_us.to_le_bytes());
    digest.update(path.as_os_str().as_encoded_bytes());
    let hex: String = digest.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("d-{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_and_are_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let take = || take(folder.path(), "p/1", 7).unwrap();
        let (first, second) = (take(), take());
        assert_ne!(first.name, second.name);
        let name = first.name.clone();
        drop(first);
        assert_eq!(take().name, name, "started again");
        std::fs::write(folder.path().join("instances/p_1-0"), "d-cut").unwrap();
        assert!(is_name(&take().name));
    }
}

//! Reading pipeline files from disk.

use super::report;
use crate::config::{self, Plan};
use crate::limits;
use crate::place::Problem;
use anyhow::Context;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A pipeline file as it was read.
#[derive(Debug, Clone)]
pub(super) struct PipelineFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl PipelineFile {
    /// # Errors
    /// When the file cannot be read or is larger than any pipeline.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = read_text(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path: path.to_owned(), text })
    }

    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Validates the text. Besides it only the environment and the user's schema files are looked at.
    pub(super) fn plan(&self) -> Result<Plan, Vec<Problem>> {
        config::load(&self.name(), &self.text, &|name| std::env::var(name).ok(), &|path| read_text(Path::new(path)))
    }
}

/// The text of a pipeline, schema or script file, which is no larger than any.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = fs::File::open(path)?;
    let read = file.take(limits::CONFIG_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > limits::CONFIG_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {} bytes", limits::CONFIG_BYTES)));
    }
    Ok(text)
}

/// All files' plans, or `None` after every problem of every file has been printed.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn plans(files: &[PipelineFile]) -> Option<Vec<Plan>> {
    let mut plans = Vec::new();
    let mut sound = true;
    for file in files {
        match file.plan() {
            Ok(plan) => {
                if !plan.notes.is_empty() {
                    report::line(config::render::warnings(&file.name(), &plan.notes).trim_end());
                }
                plans.push(plan);
            }
            Err(problems) => {
                sound = false;
                report::line(config::render::text(&file.name(), &problems).trim_end());
            }
        }
    }
    sound.then_some(plans)
}

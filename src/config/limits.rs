//! `limits:`, checked.

use super::plan::Limits;
use super::raw;
use crate::limits::{DECODE_THREADS, LEAST_MEMORY_BYTES, MEMORY_BYTES};
use crate::place::Problem;
use crate::units::ByteSize;

/// What is written, with its defaults. A value out of its range is noted, and the default stands for it.
pub(super) fn limits(raw: &raw::Limits, problems: &mut Vec<Problem>) -> Limits {
    let memory = raw.memory.as_ref().filter(|memory| {
        let least = ByteSize(LEAST_MEMORY_BYTES);
        if memory.value < least {
            let problem = memory.problem(format!("cannot run a pipeline in {} of memory", memory.value));
            problems.push(problem.hint("give it 16MB or more, as in `limits: { memory: 128MB }`"));
        }
        memory.value >= least
    });
    let threads = raw.threads.as_ref().filter(|threads| {
        let fits = threads.value.get() <= DECODE_THREADS;
        if !fits {
            let problem = threads.problem(format!("cannot decode with {} threads", threads.value));
            problems
                .push(problem.hint(format!("use at most {DECODE_THREADS}; without the key, each processor has one")));
        }
        fits
    });
    Limits {
        memory_bytes: memory.map_or(MEMORY_BYTES, |memory| memory.value.0),
        threads: threads.map(|threads| threads.value),
    }
}

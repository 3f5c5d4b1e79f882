//! Rounds of the differential run: lines are learned, then mutated and decoded by both decoders.
//!
//! Shared by the test and the long run. A round depends on the seed and its number alone: what was found is found again.

use super::differential::{Around, Pair, is_flawless, read_input, shrink};
use super::lines::{Draw, mutate, record};
use headrig::decode::{Envelope, Plan};

/// Records in a batch, batches in a round, lines that they are mutations of.
const RECORDS: usize = 48;
const BATCHES: usize = 32;
const LINES: usize = 12;

/// What was seen.
#[derive(Debug, Default)]
pub struct Tally {
    /// Records that both decoders got.
    pub cases: u64,
    /// Those of them that were mutated.
    pub mutated: u64,
    pub hits: u64,
    pub learned: u64,
    pub rounds: u64,
}

/// The corpus' inputs, by file name.
pub fn inputs() -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decode");
    let files = std::fs::read_dir(folder).expect("the corpus is there");
    let mut inputs: Vec<_> = files
        .map(|file| {
            let file = file.expect("the corpus can be listed");
            let name = file.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(file.path()).expect("the corpus can be read"))
        })
        .collect();
    inputs.sort();
    inputs
}

/// The corpus' records, with the number of the plan that each was written for.
pub fn corpus() -> Vec<(usize, Vec<u8>)> {
    let parts = inputs().into_iter().filter_map(|(_, input)| read_input(&input));
    parts.flat_map(|(plan, _, records)| records.into_iter().map(move |record| (plan, record))).collect()
}

/// The lines of a round: some of the corpus, some made up, most of them such as can be learned from.
fn lines(draw: &mut Draw<'_>, plan: &Plan, corpus: &[&Vec<u8>]) -> Vec<Vec<u8>> {
    let mut known: Vec<Vec<u8>> = Vec::new();
    let mut tries = 0;
    while known.len() < LINES {
        let line = match draw.below(2) {
            0 if !corpus.is_empty() => corpus[draw.below(corpus.len())].clone(),
            _ => record(draw, plan.envelope == Envelope::Fly),
        };
        tries += 1;
        if tries > 10 * LINES || draw.below(4) == 3 || is_flawless(plan, &line) {
            known.push(line);
        }
    }
    known
}

/// One round: a plan, two decoders, some lines; each is learned from, then batches of them and of their mutations follow.
///
/// # Errors
/// How the decoders differ, with the least records that show it.
pub fn round(plans: &[Plan], corpus: &[(usize, Vec<u8>)], seed: u64, tally: &mut Tally) -> Result<(), String> {
    let mut draw = Draw::seeded(seed.wrapping_mul(0x1_0000_0001).wrapping_add(tally.rounds << 20));
    let plan = &plans[draw.below(plans.len())];
    let around = Around::number(draw.below(30) as u64);
    let fitting: Vec<&Vec<u8>> = corpus
        .iter()
        .filter(|(number, record)| plans[*number].envelope == plan.envelope && record.len() < 4_096)
        .map(|(_, record)| record)
        .collect();
    let known = lines(&mut draw, plan, &fitting);
    let mut pair = Pair::new(plan);
    let mut history = Vec::new();
    // Once to be learned, once to hit.
    let mut batch = [known.clone(), known.clone()].concat();
    for _ in 0..=BATCHES {
        match pair.decode(&batch, around) {
            Ok(done) => {
                tally.hits += done.hits;
                tally.learned += done.learned;
            }
            Err(difference) => {
                history.append(&mut batch);
                let least = shrink(plan, around, history);
                let least: Vec<String> = least.iter().map(|record| record.escape_ascii().to_string()).collect();
                let at = format!("seed {seed}, round {}", tally.rounds);
                return Err(format!("{at}: {difference}\n{plan:?}\n{around:?}\n{}", least.join("\n")));
            }
        }
        tally.cases += batch.len() as u64;
        history.append(&mut batch);
        for _ in 0..RECORDS {
            let line = &known[draw.below(known.len())];
            // A third is as it was, so that hits go on.
            batch.push(match draw.below(3) {
                0 => line.clone(),
                _ => {
                    tally.mutated += 1;
                    let other = draw.below(known.len());
                    mutate(&mut draw, line, &known[other])
                }
            });
        }
    }
    tally.rounds += 1;
    Ok(())
}

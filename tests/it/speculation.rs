//! The speculating decoder returns what the strict one returns, whatever the records are and whatever it has learned.
//!
//! What is compared and how lines are made stands in `fuzz/`, where the long run and the fuzz target use it, too.

#[path = "../../fuzz/differential.rs"]
mod differential;
#[path = "../../fuzz/lines.rs"]
mod lines;
#[path = "../../fuzz/rounds.rs"]
mod rounds;

use differential::{Around, Pair, difference, plans, read_input, twice};
use headrig::decode::{Decoder, Envelope, Plan, Speculation};
use headrig::limits;
use lines::{Draw, mutate, record};
use proptest::prelude::*;
use rounds::{Tally, corpus, inputs, round};
use std::sync::LazyLock;

static PLANS: LazyLock<Vec<Plan>> = LazyLock::new(plans);

/// The plan for JSON without an envelope, with the made-up schema.
const BARE: usize = 3;

#[test]
fn the_corpus_makes_no_difference() {
    let inputs = inputs();
    assert!(inputs.len() >= 30, "fuzz/corpus/decode has {} inputs, not what was checked in", inputs.len());
    let mut hits = 0;
    for (name, input) in &inputs {
        let (plan, around, records) = read_input(input).unwrap_or_else(|| panic!("{name} is too short"));
        let done = twice(&PLANS[plan], &records, around).unwrap_or_else(|found| panic!("{name}: {found}"));
        hits += done.hits;
    }
    assert!(hits > 150, "only {hits} records of the corpus had a layout that was learned");
}

#[test]
fn mutations_of_learned_lines_make_no_difference() {
    let corpus = corpus();
    let mut tally = Tally::default();
    while tally.cases < 150_000 {
        if let Err(found) = round(&PLANS, &corpus, 20_261_121, &mut tally) {
            panic!("{found}");
        }
    }
    assert!(tally.hits * 8 > tally.cases, "too few records had a learned layout: {tally:?}");
    assert!(tally.learned > tally.rounds * 8, "{tally:?}");
}

/// Records of a layout differ in their values, up to 24 ways lead on from a place; more than fit into the tree are made.
#[test]
fn forgetting_makes_no_difference() {
    let mut pair = Pair::new(&PLANS[BARE]);
    let mut total = Speculation::default();
    for lesson in 0..900 {
        let (first, second) = (lesson % 20, lesson / 20 % 20);
        let mut line = format!("{{\"a{first}\":1,\"b{second}\":{lesson}");
        for value in 0..30 {
            line.push_str(&format!(",\"k{lesson}_{value}\":{value}"));
        }
        line.push('}');
        // Learned, and used often enough to pay for the next lesson; a mutation of it at last.
        let mut records = vec![line.clone().into_bytes(); 20];
        records.push(line.replace(":7,", ":\"x\",").into_bytes());
        records.push(line.replace(":7,", ":07,").into_bytes());
        let done = pair.decode(&records, Around::number(0)).unwrap();
        total.hits += done.hits;
        total.learned += done.learned;
        total.forgotten += done.forgotten;
    }
    assert!(total.forgotten >= 2, "{total:?}");
    assert!(total.learned * 31 > 2 * limits::LAYOUT_EDGES as u64, "{total:?}");
    assert!(total.hits > total.learned * 15, "{total:?}");
}

#[test]
fn more_branches_than_fit_make_no_difference() {
    let mut pair = Pair::new(&PLANS[BARE]);
    let lines = |n: usize| format!("{{\"status\":{n},\"key{}\":\"v{n}\"}}", n % 60).into_bytes();
    let records: Vec<Vec<u8>> = (0..600).map(lines).collect();
    let done = pair.decode(&records, Around::number(0)).unwrap();
    assert_eq!(done.learned, limits::LAYOUT_BRANCHES as u64);
    assert!(done.hits > 100 && done.misses > 100, "{done:?}");
}

/// The comparison itself can fail: what two plans make of a record differs.
#[test]
fn differences_are_seen() {
    let decode = |plan: usize, record: &[u8]| {
        let raw = differential::batch(&[record.to_vec()], Around::number(0));
        Decoder::strict(&PLANS[plan]).decode(&raw)
    };
    let found = |one: &[u8], other: &[u8]| difference(&decode(BARE, one), &decode(BARE, other)).unwrap_or_default();
    assert_eq!(found(b"{\"status\":1}", b"{\"status\": 1}"), "");
    assert!(found(b"{\"status\":1}", b"{\"status\":2}").starts_with("row 0, column status"));
    assert!(found(b"{\"latency_ms\":0.0}", b"{\"latency_ms\":-0.0}").starts_with("row 0, column ratio"));
    assert!(found(b"{\"status\":1}", b"{\"status\":\"x\"}").starts_with("counts"));
    assert!(found(b"{\"status\":1}", b"{\"status\":1").starts_with("dead letters"));
    assert!(found(b"[]", b"[1,").starts_with("dead letters"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any lines, each followed by mutations of itself once it was learned. The bytes are choices (`fuzz/lines.rs`), so that
    /// proptest shrinks the lines.
    #[test]
    fn lines_make_no_difference(
        choices in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..6),
        changes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 0..12),
        plan in 0usize..26,
        around in 0u64..30,
    ) {
        let plan = &PLANS[plan];
        let enveloped = plan.envelope == Envelope::Fly;
        let lines: Vec<Vec<u8>> = choices.iter().map(|bytes| record(&mut Draw::bytes(bytes), enveloped)).collect();
        let mut records = lines.clone();
        for (number, bytes) in changes.iter().enumerate() {
            let (line, other) = (&lines[number % lines.len()], &lines[(number + 1) % lines.len()]);
            records.push(line.clone());
            records.push(mutate(&mut Draw::bytes(bytes), line, other));
        }
        let done = twice(plan, &records, Around::number(around));
        prop_assert!(done.is_ok(), "{:?}", done);
    }

    /// What is no line at all.
    #[test]
    fn bytes_make_no_difference(
        records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8), plan in 0usize..26
    ) {
        let done = twice(&PLANS[plan], &records, Around::number(1));
        prop_assert!(done.is_ok(), "{:?}", done);
    }
}

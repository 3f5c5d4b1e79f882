//! The fuzz target: whatever the records are, both decoders return the same, before and after they were learned from.

#![no_main]

#[path = "../differential.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod differential;

use headrig::decode::Plan;
use std::sync::LazyLock;

static PLANS: LazyLock<Vec<Plan>> = LazyLock::new(differential::plans);

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((plan, around, records)) = differential::read_input(input) else { return };
    if let Err(difference) = differential::twice(&PLANS[plan], &records, around) {
        panic!("{difference}");
    }
});

//! What is merged, message by message: what is known already, what is missing, who is waited for; and the outbox.

use super::flow::Flow;
use super::gathering::{Gathering, Outbox};
use super::merged::{Definitions, Merged, Name};
use super::simulation::{PIPELINE, SECOND, START, World, input as input_lines, load, name};
use crate::config::Plan;
use crate::record::partial::{Input, Message, Partials};
use crate::record::raw::PartitionId;
use crate::record::sample::{WindowRows, columns};
use crate::time::EventTime;
use arrow::array::AsArray;
use std::num::NonZeroU32;

fn plans() -> [Plan; 2] {
    let kafka = r#"in: { type: kafka, brokers: "h:1", topics: [t], group: g }"#;
    let text = PIPELINE.replace("in: { type: stdin }", kafka) + "repartition: { partitions: 1 }\n";
    load(&text).into_runs().try_into().unwrap()
}

fn gather() -> Plan {
    let [gather, _] = plans();
    gather
}

fn definitions(inputs: usize) -> Definitions {
    let [_, merge] = plans();
    let inputs: Vec<Name> = (0..inputs).map(|input| super::merged::input_name(&name(input))).collect();
    Definitions { pipeline: "sim".to_owned(), windows: merge.windows, alerts: merge.alerts, inputs }
}

/// A stretch of one partition, of which the newest record is so many seconds old.
fn input(partition: usize, start: Option<u64>, end: u64, second: i64) -> Input {
    let (source, name) = super::merged::input_name(&name(partition));
    let largest = Some(START + second * SECOND);
    Input { source, partition: name, start, end: Some(end), largest, idle: false }
}

fn message(definitions: &Definitions, inputs: Vec<Input>) -> Partials {
    // Named, and without groups: only how far time has come is looked at here.
    let mut windows = crate::window::Windows::new(definitions.windows.clone());
    let windows = windows.take_gathered(NonZeroU32::MIN, 1 << 20).remove(0);
    Partials { inputs, chunk: 0, chunks: 1, windows }
}

fn second(merged: &Merged) -> Option<i64> {
    merged.now().map(|now| (now - EventTime::from_micros(START)).micros() / SECOND)
}

#[test]
fn what_was_merged_is_dropped_and_what_is_missing_is_told() {
    let all = definitions(2);
    let mut merged = Merged::new(&all);
    let first = message(&all, vec![input(0, None, 10, 100), input(1, Some(5), 7, 50)]);
    let outcome = merged.merge(&first).unwrap();
    assert_eq!(outcome.missing, [super::merged::input_name(&name(1))], "what was before 5?");
    assert!(!outcome.repeated && merged.merge(&first).unwrap().repeated);
    let next = message(&all, vec![input(0, Some(10), 12, 110)]);
    assert!(!merged.merge(&next).unwrap().repeated);
    // In another process, too.
    let (mut merged, windows, _) = Merged::restore(&all, &merged.save().unwrap()).unwrap();
    assert_eq!(windows.kept.len(), 2);
    assert!(merged.merge(&first).unwrap().repeated && merged.merge(&next).unwrap().repeated);
    let gap = merged.merge(&message(&all, vec![input(0, Some(20), 21, 120)])).unwrap();
    assert_eq!(gap.missing, [super::merged::input_name(&name(0))]);
    for torn in [
        vec![input(0, Some(10), 22, 130)],
        vec![input(0, None, 22, 130)],
        vec![input(0, Some(10), 12, 110), input(1, Some(7), 8, 60)],
    ] {
        let before = merged.save().unwrap();
        assert!(merged.merge(&message(&all, torn)).is_err(), "half of it is known");
        assert_eq!(merged.save().unwrap(), before, "and nothing has changed");
    }
}

#[test]
fn windows_wait_for_every_partition_and_silence_holds_behind_its_position_only() {
    let all = definitions(3);
    let mut merged = Merged::new(&all);
    let mut take = |inputs: Vec<Input>| {
        merged.merge(&message(&all, inputs)).unwrap();
        second(&merged)
    };
    let idle = |partition, end: Option<u64>| {
        let largest = None;
        Input { start: end, end, largest, idle: true, ..input(partition, None, 1, 0) }
    };
    assert_eq!(take(vec![input(0, None, 10, 100)]), None);
    assert_eq!(take(vec![input(1, None, 10, 50)]), None, "of 2 nothing is known");
    let silent = Partials { windows: Vec::new(), ..message(&all, vec![idle(2, None)]) };
    assert!(Partials::decode(&silent.encode().unwrap()).is_ok());
    assert_eq!(take(vec![idle(2, None)]), Some(50));
    assert_eq!(take(vec![input(2, None, 3, 20), input(0, Some(10), 11, 200)]), Some(50), "it goes never back");
    assert_eq!(take(vec![idle(2, None)]), Some(50), "that was before its records");
    assert_eq!(take(vec![input(1, Some(10), 11, 90)]), Some(50), "2 is at 20");
    assert_eq!(take(vec![idle(2, Some(3))]), Some(90));
    // Of two in one message the one that comes back holds the clock, whichever is named first.
    assert_eq!(take(vec![input(1, Some(11), 12, 300), input(2, Some(3), 4, 95)]), Some(95));
    assert_eq!(take(vec![idle(0, Some(11)), input(2, Some(4), 5, 400)]), Some(300));
}

#[test]
fn a_source_that_is_gone_is_not_waited_for_and_stays_known() {
    let mut all = definitions(2);
    let mut merged = Merged::new(&all);
    let first = message(&all, vec![input(0, None, 10, 100), input(1, None, 7, 50)]);
    merged.merge(&first).unwrap();
    let of_another = |input: Input| Input { source: "in2".to_owned(), ..input };
    all.inputs.iter_mut().for_each(|(source, _)| "in2".clone_into(source));
    let (mut merged, ..) = Merged::restore(&all, &merged.save().unwrap()).unwrap();
    let next = [input(0, None, 3, 300), input(1, None, 4, 200)].map(of_another).to_vec();
    merged.merge(&message(&all, next)).unwrap();
    assert_eq!(second(&merged), Some(200));
    assert!(merged.merge(&first).unwrap().repeated);
}

#[test]
fn messages_of_one_seal_count_when_all_are_there_and_in_order() {
    let all = definitions(1);
    let mut merged = Merged::new(&all);
    let chunk = |chunk| Partials { chunk, chunks: 3, ..message(&all, vec![input(0, None, 10, 100)]) };
    assert!(merged.merge(&chunk(1)).unwrap().repeated, "too early: it comes again");
    for (number, done) in [(0, None), (0, None), (1, None), (0, None), (2, Some(100)), (2, Some(100))] {
        merged.merge(&chunk(number)).unwrap();
        assert_eq!(second(&merged), done, "{number}");
        merged = Merged::restore(&all, &merged.save().unwrap()).unwrap().0;
    }
}

#[test]
fn a_seal_says_of_which_records_it_is_and_silence_once() {
    let mut gathering = Gathering::new(NonZeroU32::new(2).unwrap());
    let none = || vec![Vec::new(); 2];
    let told = |messages: Vec<Message>| -> Vec<(u32, Vec<Input>)> {
        messages.iter().map(|message| (message.partition, Partials::decode(&message.bytes).unwrap().inputs)).collect()
    };
    gathering.begin(PartitionId(0), &name(0), None);
    gathering.begin(PartitionId(1), &name(1), Some(40));
    assert!(gathering.hand_out(none()).unwrap().is_empty(), "nothing to tell");
    gathering.read(PartitionId(1), 44, Some(EventTime::from_micros(START)));
    gathering.read(PartitionId(1), 45, None);
    let messages = told(gathering.hand_out(none()).unwrap());
    assert_eq!(messages, [0, 1].map(|partition| (partition, vec![input(1, Some(40), 45, 0)])));
    gathering.idle(PartitionId(0));
    gathering.idle(PartitionId(7));
    assert!(gathering.wants_seal());
    let messages = told(gathering.hand_out(none()).unwrap());
    assert!(messages.iter().all(|(_, inputs)| inputs.len() == 1 && inputs[0].idle && inputs[0].end.is_none()));
    gathering.idle(PartitionId(0));
    assert!(!gathering.wants_seal() && gathering.hand_out(none()).unwrap().is_empty());
    // What was read of one that goes to another daemon is told, and then it is forgotten.
    gathering.read(PartitionId(1), 50, None);
    gathering.end(PartitionId(1));
    assert_eq!(told(gathering.hand_out(none()).unwrap())[0].1[0].stretch(), Some((Some(45), 50)));
    gathering.idle(PartitionId(1));
    assert!(!gathering.wants_seal());
}

#[test]
fn messages_leave_the_outbox_behind_their_seal_in_order_and_stay_until_they_are_written() {
    let message = |byte| vec![Message { partition: 0, bytes: vec![byte] }];
    let mut outbox = Outbox::default();
    outbox.add(message(1));
    let first = outbox.ticket();
    assert!(outbox.next_due().is_none() && outbox.is_written(), "it is in no seal");
    // Of another daemon, and behind what is not sealed yet.
    outbox.take_over(message(2));
    outbox.add(message(3));
    assert!(outbox.next_due().is_none());
    outbox.sealed(first);
    assert_eq!(outbox.next_due(), Some((0, message(1))));
    assert_eq!(outbox.next_due(), Some((1, message(2))));
    assert!(outbox.next_due().is_none());
    outbox.published(0);
    let kept = outbox.in_front_of(b"flow").unwrap();
    let (messages, flow) = Outbox::split(&kept).unwrap();
    assert_eq!((messages, flow), ([message(2), message(3)].concat(), &b"flow"[..]));
    for end in 4..kept.len() - 4 {
        assert!(Outbox::split(&kept[..end]).is_err(), "cut at {end}");
    }
    assert_eq!(Outbox::split(b"hrst").unwrap(), (Vec::new(), &b"hrst"[..]), "without one");
    outbox.published(1);
    outbox.sealed(outbox.ticket());
    assert_eq!((outbox.bytes(), outbox.next_due()), (1, Some((2, message(3)))));
    outbox.published(2);
    assert_eq!(outbox.bytes(), 0);
}

#[test]
fn rows_that_miss_something_are_provisional() {
    let all = definitions(1);
    let world = World::new(input_lines(3));
    for (from, start, missing) in [(0, None, false), (5, Some(5), true)] {
        let mut flow = Flow::new(&mut gather());
        flow.open(PartitionId(0), &name(0));
        let newest = flow.batch(&world.batch(0, from, 12)).newest.unwrap();
        let second = (newest.micros() - START) / SECOND;
        let windows = flow.take_gathered(NonZeroU32::MIN).remove(0);
        let mut merged = Merged::new(&all);
        let partials = Partials { windows, ..message(&all, vec![input(0, start, from + 12, second)]) };
        assert_eq!(merged.merge(&partials).unwrap().missing.len(), usize::from(missing));
        while merged.finish_next().is_some() {}
        let rows: Vec<WindowRows> = merged.drain();
        assert!(!rows.is_empty());
        for window in rows.iter().filter(|window| window.start <= newest) {
            let provisional = window.rows.column_by_name(columns::PROVISIONAL).unwrap().as_boolean();
            assert!(provisional.iter().all(|row| row == Some(missing)), "{window:?}");
        }
    }
}

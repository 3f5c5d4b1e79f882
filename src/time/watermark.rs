//! How far the event time of a stream has come.
//!
//! Each source partition has come as far as its largest event time. The stream has come as far as the one that
//! lags most among the partitions that still deliver; partitions that ended or fell idle don't count. The
//! result never goes back. A window's watermark is this clock less the window's own `lateness` (the model is
//! Akidau et al., "The Dataflow Model", VLDB 2015, with Flink's bounded out-of-orderness per partition).

use super::EventTime;
use super::least::Least;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    Active,
    Idle,
    Ended,
}

#[derive(Debug, Clone)]
struct Progress {
    largest: Option<EventTime>,
    activity: Activity,
}

/// How far a partition has come that has not ended, for whoever keeps it beyond this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its largest event time, `None` before its first record.
    pub largest: Option<EventTime>,
    /// Whether nobody waits for it, as it has been silent for long.
    pub idle: bool,
}

/// The event-time clock of one pipeline, over the partitions of all its sources.
#[derive(Debug, Clone, Default)]
pub struct StreamClock {
    partitions: Vec<Progress>,
    /// The largest event time of partitions that ended before this clock was resumed.
    ended_before: Option<EventTime>,
    current: Option<EventTime>,
    /// Numbers of partitions that were forgotten.
    free: Vec<usize>,
    least: Least,
}

impl StreamClock {
    /// A clock that goes on at `reading`. `ended` is what [`Self::ended`] of its predecessor was; the partitions that
    /// had not ended are for the caller to [`rejoin`](Self::rejoin).
    pub fn resume(reading: Option<EventTime>, ended: Option<EventTime>) -> Self {
        Self { ended_before: ended, current: reading, ..Self::default() }
    }

    /// Adds a partition that has come so far already, and returns its number. The reading stays.
    pub fn rejoin(&mut self, standing: Standing) -> usize {
        let activity = if standing.idle { Activity::Idle } else { Activity::Active };
        self.partitions.push(Progress { largest: standing.largest, activity });
        self.partitions.len() - 1
    }

    /// How far a partition has come; `None` when it has ended.
    pub fn standing(&self, partition: usize) -> Option<Standing> {
        let Progress { largest, activity } = &self.partitions[partition];
        (*activity != Activity::Ended).then_some(Standing { largest: *largest, idle: *activity == Activity::Idle })
    }

    /// The largest event time of all partitions that have ended. It is all that has to be known of them: it counts when
    /// nobody is waited for.
    pub fn ended(&self) -> Option<EventTime> {
        let ended = self.partitions.iter().filter(|progress| progress.activity == Activity::Ended);
        ended.filter_map(|progress| progress.largest).max().max(self.ended_before)
    }

    /// The newest event time that was ever taken in; at least the reading.
    pub fn newest(&self) -> Option<EventTime> {
        let largest = self.partitions.iter().filter_map(|progress| progress.largest).max();
        largest.max(self.ended_before).max(self.current)
    }

    /// Says that `partition`, which has not ended, may deliver again: it is waited for from now on.
    pub fn set_active(&mut self, partition: usize) {
        self.partitions[partition].activity = Activity::Active;
    }

    /// Adds a partition and returns its number. It holds the clock back until its first record, idleness or end.
    pub fn register(&mut self) -> usize {
        self.partitions.push(Progress { largest: None, activity: Activity::Active });
        self.partitions.len() - 1
    }

    /// Adds a partition that nobody waits for before its first record.
    pub fn register_idle(&mut self) -> usize {
        let progress = Progress { largest: None, activity: Activity::Idle };
        match self.free.pop() {
            Some(number) => {
                self.partitions[number] = progress;
                number
            }
            None => {
                self.partitions.push(progress);
                self.partitions.len() - 1
            }
        }
    }

    /// Other partitions stand for this one: it isn't waited for, and the reading stays until they deliver.
    pub fn hand_over(&mut self, partition: usize) {
        self.partitions[partition].activity = Activity::Idle;
    }

    /// Ends a partition, whose number may be given to another one.
    pub fn forget(&mut self, partition: usize) {
        self.ended_before = self.ended_before.max(self.partitions[partition].largest);
        self.partitions[partition].largest = None;
        self.set_ended(partition);
        self.free.push(partition);
    }

    /// As [`Self::observe`], for records of several partitions; in a time that hardly depends on how many there are.
    pub fn observe_each(
        &mut self,
        records: impl IntoIterator<Item = (usize, EventTime)>,
        mut each: impl FnMut(Option<EventTime>),
    ) {
        let Self { partitions, least, current, .. } = self;
        least.fill(partitions.iter().map(|progress| match progress {
            Progress { activity: Activity::Active, largest } => Some(*largest),
            _ => None,
        }));
        for (number, stamp) in records {
            let progress = &mut partitions[number];
            if progress.activity != Activity::Active || progress.largest < Some(stamp) {
                progress.activity = Activity::Active;
                progress.largest = progress.largest.max(Some(stamp));
                least.set(number, progress.largest);
            }
            // There is a least one, as this one counts; it may be one that is silent yet.
            *current = (*current).max(least.least().flatten());
            each(*current);
        }
    }

    /// The clock's reading; `None` until every active partition has delivered something.
    pub fn now(&self) -> Option<EventTime> {
        self.current
    }

    /// Takes the event times of the next records of `partition`, in order, and calls `each` with the clock's
    /// reading after each of them.
    pub fn observe(
        &mut self,
        partition: usize,
        stamps: impl IntoIterator<Item = EventTime>,
        mut each: impl FnMut(Option<EventTime>),
    ) {
        self.partitions[partition].activity = Activity::Active;
        let others = self.least_of_others(partition);
        let mut largest = self.partitions[partition].largest;
        for stamp in stamps {
            largest = largest.max(Some(stamp));
            let reading = match others {
                Others::None => largest,
                Others::Silent => None,
                Others::Least(least) => largest.map(|own| own.min(least)),
            };
            self.current = self.current.max(reading);
            each(self.current);
        }
        self.partitions[partition].largest = largest;
    }

    /// Says that `partition` has been silent for so long that nobody should wait for it.
    pub fn set_idle(&mut self, partition: usize) {
        if self.partitions[partition].activity == Activity::Active {
            self.partitions[partition].activity = Activity::Idle;
            self.recompute();
        }
    }

    /// Says that `partition` will deliver nothing more.
    pub fn set_ended(&mut self, partition: usize) {
        self.partitions[partition].activity = Activity::Ended;
        self.recompute();
    }

    fn recompute(&mut self) {
        let reading = match self.least_of_others(usize::MAX) {
            // Nobody is waited for, so nobody holds the clock back; in whatever order they fell silent.
            Others::None => self.newest(),
            Others::Silent => None,
            Others::Least(least) => Some(least),
        };
        self.current = self.current.max(reading);
    }

    fn least_of_others(&self, partition: usize) -> Others {
        let mut least = Others::None;
        for (number, progress) in self.partitions.iter().enumerate() {
            if number == partition || progress.activity != Activity::Active {
                continue;
            }
            least = match (least, progress.largest) {
                (_, None) => return Others::Silent,
                (Others::Least(a), Some(b)) => Others::Least(a.min(b)),
                (_, Some(b)) => Others::Least(b),
            };
        }
        least
    }
}

#[derive(Clone, Copy)]
enum Others {
    /// No other partition is active.
    None,
    /// An active one has delivered nothing yet.
    Silent,
    Least(EventTime),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> EventTime {
        EventTime::from_micros(second * 1_000_000)
    }

    fn feed(clock: &mut StreamClock, partition: usize, seconds: &[i64]) -> Vec<Option<EventTime>> {
        let mut readings = Vec::new();
        clock.observe(partition, seconds.iter().map(|s| at(*s)), |reading| readings.push(reading));
        readings
    }

    #[test]
    fn one_partition_reads_its_running_maximum() {
        let mut clock = StreamClock::default();
        let p = clock.register();
        assert_eq!(feed(&mut clock, p, &[5, 3, 9, 7]), [Some(at(5)), Some(at(5)), Some(at(9)), Some(at(9))]);
    }

    #[test]
    fn a_silent_partition_holds_the_clock_until_it_ends_or_idles() {
        let mut clock = StreamClock::default();
        let (a, b) = (clock.register(), clock.register());
        assert_eq!(feed(&mut clock, a, &[10]), [None]);
        clock.set_idle(b);
        assert_eq!(clock.now(), Some(at(10)));
        assert_eq!(feed(&mut clock, b, &[4]), [Some(at(10))], "it never goes back");
        assert_eq!(feed(&mut clock, a, &[20]), [Some(at(10))], "a returning partition is waited for again");
        clock.set_ended(b);
        assert_eq!(clock.now(), Some(at(20)));
    }

    #[test]
    fn when_all_are_silent_the_furthest_counts() {
        for order in [[0, 1], [1, 0]] {
            let mut clock = StreamClock::default();
            clock.register();
            clock.register();
            feed(&mut clock, 0, &[100]);
            feed(&mut clock, 1, &[50]);
            assert_eq!(clock.now(), Some(at(50)));
            clock.set_idle(order[0]);
            clock.set_idle(order[1]);
            assert_eq!(clock.now(), Some(at(100)), "{order:?}");
        }
    }

    #[test]
    fn a_resumed_clock_waits_for_whom_it_waited_for() {
        let mut clock = StreamClock::default();
        let (a, b, c) = (clock.register(), clock.register(), clock.register());
        feed(&mut clock, c, &[300]);
        clock.set_ended(c);
        feed(&mut clock, a, &[100]);
        feed(&mut clock, b, &[50]);
        assert_eq!((clock.now(), clock.ended(), clock.newest()), (Some(at(50)), Some(at(300)), Some(at(300))));
        assert_eq!(clock.standing(c), None);

        let mut resumed = StreamClock::resume(clock.now(), clock.ended());
        let numbers = [b, a].map(|number| resumed.rejoin(clock.standing(number).unwrap()));
        assert_eq!(feed(&mut resumed, numbers[1], &[200]), [Some(at(50))], "b holds it back");
        resumed.set_ended(numbers[0]);
        assert_eq!(resumed.now(), Some(at(200)));
        resumed.set_idle(numbers[1]);
        assert_eq!(resumed.now(), Some(at(300)), "what ended long ago counts as it did");
        assert_eq!(resumed.standing(numbers[1]), Some(Standing { largest: Some(at(200)), idle: true }));
    }

    #[test]
    fn a_resumed_clock_never_goes_back() {
        let mut clock = StreamClock::resume(Some(at(70)), None);
        let new = clock.register();
        assert_eq!(feed(&mut clock, new, &[10, 71]), [Some(at(70)), Some(at(71))]);
    }

    #[test]
    fn records_of_several_partitions_are_observed_one_by_one() {
        let stream = [(0, 10), (1, 8), (0, 50), (2, 3), (1, 60), (2, 55), (0, 1), (0, 90), (1, 91), (2, 92)];
        let mut one_by_one = StreamClock::default();
        let mut together = StreamClock::default();
        for clock in [&mut one_by_one, &mut together] {
            (0..3).for_each(|_| {
                clock.register_idle();
            });
        }
        let expected: Vec<_> = stream.iter().flat_map(|(at, s)| feed(&mut one_by_one, *at, &[*s])).collect();
        for cut in [3, stream.len()] {
            let mut found = Vec::new();
            let mut clock = together.clone();
            for part in [&stream[..cut], &stream[cut..]] {
                clock.observe_each(part.iter().map(|(number, s)| (*number, at(*s))), |now| found.push(now));
            }
            assert_eq!(found, expected);
        }
        assert_eq!(expected[3], Some(at(10)), "who is new and behind doesn't set it back");
        assert_eq!(expected.last(), Some(&Some(at(90))));
    }

    #[test]
    fn a_partition_that_was_forgotten_leaves_its_number_and_its_time() {
        let mut clock = StreamClock::default();
        let (a, b) = (clock.register_idle(), clock.register_idle());
        feed(&mut clock, a, &[100]);
        feed(&mut clock, b, &[50]);
        clock.forget(a);
        assert_eq!((clock.register_idle(), clock.ended()), (a, Some(at(100))));
        assert_eq!(feed(&mut clock, a, &[60]), [Some(at(100))]);
        clock.set_idle(a);
        clock.set_idle(b);
        assert_eq!(clock.now(), Some(at(100)));
    }

    #[test]
    fn who_hands_over_moves_nothing() {
        let mut clock = StreamClock::default();
        let (idle, silent) = (clock.register(), clock.register());
        feed(&mut clock, idle, &[100]);
        clock.set_idle(idle);
        assert_eq!(clock.now(), None);
        clock.hand_over(silent);
        let producer = clock.register_idle();
        clock.observe_each([(producer, at(60))], |now| assert_eq!(now, Some(at(60))));
    }

    #[test]
    fn the_slowest_partition_counts() {
        let mut clock = StreamClock::default();
        let (a, b) = (clock.register(), clock.register());
        feed(&mut clock, a, &[100]);
        assert_eq!(feed(&mut clock, b, &[50, 120]), [Some(at(50)), Some(at(100))]);
    }

    proptest! {
        /// Whatever comes in whatever order, the reading never goes back; and where nobody falls silent, it ends where the slowest
        /// partition does, in whatever order they were read.
        #[test]
        fn the_reading_never_goes_back_and_no_order_changes_where_it_ends(
            steps in proptest::collection::vec((0usize..3, 0i64..1_000, 0u8..12), 1..60),
            seed in any::<u64>(),
        ) {
            let mut clock = StreamClock::default();
            (0..3).for_each(|_| { clock.register(); });
            let mut before = None;
            for (partition, second, act) in &steps {
                match act {
                    0 => clock.set_idle(*partition),
                    1 if clock.standing(*partition).is_some() => clock.set_ended(*partition),
                    _ => {
                        let mut last = before;
                        clock.observe(*partition, [at(*second)], |reading| last = reading);
                        prop_assert!(last >= before);
                    }
                }
                prop_assert!(clock.now() >= before);
                before = clock.now();
            }

            let mut shuffled: Vec<(usize, i64)> = steps.iter().map(|(p, s, _)| (*p, *s)).chain((0..3).map(|p| (p, 0))).collect();
            let expected = (0..3).map(|p| shuffled.iter().filter(|s| s.0 == p).map(|s| s.1).max()).min().flatten();
            for round in 0..4u64 {
                shuffled.sort_by_key(|step| (step.0 as u64 + 1).wrapping_mul(step.1 as u64 + 7).wrapping_mul(seed | 1).rotate_left(round as u32 * 13));
                let mut clock = StreamClock::default();
                (0..3).for_each(|_| { clock.register(); });
                shuffled.iter().for_each(|(partition, second)| clock.observe(*partition, [at(*second)], |_| {}));
                prop_assert_eq!(clock.now(), expected.map(at));
            }
        }
    }
}

//! Time zones by their IANA names, and the days in them.
//!
//! The rules are compiled in: a machine without a zone database knows the same zones, and gives the same results.

use super::{EventTime, Span};
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// Days are counted from this one, a Monday: so seven of them are a week as calendars have it.
const MONDAY: Date = date(1970, 1, 5);

/// What a day of a calendar counts in [`Calendar::count`], in µs: 24 hours, however long it is.
pub const DAY: Span = Span::from_secs(86_400);

/// All names, for "did you mean".
pub fn names() -> Vec<String> {
    jiff::tz::db().available().map(|zone| zone.as_str().to_owned()).collect()
}

/// The zone of that name; `None` when there is none.
pub fn find(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok()
}

/// The days of a time zone, from the year -9000 to 9000; beyond, days of 24 hours.
///
/// A day is what lies between the first instant of its date and the first instant of the next one. So days follow each other even where
/// clocks are set back over midnight and a date is met twice; a date that a zone has left out is a day of no length.
#[derive(Debug, Clone)]
pub struct Calendar {
    zone: TimeZone,
    first: Day,
    last: Day,
}

/// One day: times from `start` to before `end` (µs) are of the day that [`Calendar::count`] gives as `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    pub start: i64,
    pub end: i64,
    /// Days since Monday, 1970-01-05, in µs of 24-hour days.
    pub count: i64,
}

impl Calendar {
    pub fn new(zone: TimeZone) -> Self {
        let nowhere = Day { start: 0, end: 0, count: 0 };
        let mut calendar = Self { zone, first: nowhere, last: nowhere };
        (calendar.first, calendar.last) = (calendar.of_date(date(-9000, 1, 1)), calendar.of_date(date(9000, 1, 1)));
        calendar
    }

    /// The day that holds `time`.
    pub fn day(&self, time: EventTime) -> Day {
        let micros = time.micros();
        let beyond = |edge: Day| {
            let days = (micros - edge.start).div_euclid(DAY.micros()) * DAY.micros();
            let start = edge.start + days;
            Day { start, end: start + DAY.micros(), count: edge.count + days }
        };
        if micros >= self.last.start {
            return beyond(self.last);
        }
        if micros < self.first.start {
            return beyond(self.first);
        }
        let stamp = Timestamp::from_microsecond(micros).expect("the edges are within the library's range");
        let mut day = self.of_date(self.zone.to_datetime(stamp).date());
        // A date that is met twice, or not at all.
        while micros < day.start {
            day = self.of_date(to_date(day.count).saturating_sub(1.day()));
        }
        while micros >= day.end {
            day = self.of_date(to_date(day.count).saturating_add(1.day()));
        }
        day
    }

    /// The first instant of the day with this `count`, in µs.
    pub fn start(&self, count: i64) -> i64 {
        if count >= self.last.count {
            return self.last.start + (count - self.last.count);
        }
        if count < self.first.count {
            return self.first.start + (count - self.first.count);
        }
        self.instant(to_date(count))
    }

    fn of_date(&self, date: Date) -> Day {
        let (start, end) = (self.instant(date), self.instant(date.saturating_add(1.day())));
        Day { start, end, count: count(date) }
    }

    /// The first instant of `date`; of the next one where the zone has left it out.
    fn instant(&self, date: Date) -> i64 {
        let midnight = date.to_zoned(self.zone.clone()).expect("the date is within the library's range");
        // Where clocks are set forward over midnight, the day begins when it first is that date.
        let first = if midnight.date() == date { midnight.start_of_day().unwrap_or(midnight) } else { midnight };
        first.timestamp().as_microsecond()
    }
}

fn count(date: Date) -> i64 {
    let days = date.since(MONDAY).map_or(0, |span| i64::from(span.get_days()));
    days * DAY.micros()
}

fn to_date(count: i64) -> Date {
    let days = count.div_euclid(DAY.micros());
    MONDAY.saturating_add(days.days())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn calendar(zone: &str) -> Calendar {
        Calendar::new(find(zone).unwrap())
    }

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    fn check(zone: &str, time: &str, start: &str, hours: f64) {
        let day = calendar(zone).day(EventTime::from_micros(at(time)));
        let shown = (EventTime::from_micros(day.start).to_string(), (day.end - day.start) as f64 / 3.6e9);
        assert_eq!(shown, (start.to_owned(), hours), "{zone} {time}");
        assert_eq!(calendar(zone).start(day.count), day.start);
    }

    #[test]
    fn days_are_those_of_the_zone() {
        check("Asia/Tokyo", "2026-05-06T14:59:59Z", "2026-05-05T15:00:00Z", 24.0);
        check("Asia/Tokyo", "2026-05-06T15:00:00Z", "2026-05-06T15:00:00Z", 24.0);
        check("UTC", "1969-12-31T23:59:59.999999Z", "1969-12-31T00:00:00Z", 24.0);
        for (zone, time, start, hours) in [
            ("Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", 23.0),
            ("Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", 25.0),
            ("America/New_York", "2026-03-08T12:00:00Z", "2026-03-08T05:00:00Z", 23.0),
            ("America/New_York", "2026-11-01T12:00:00Z", "2026-11-01T04:00:00Z", 25.0),
            // Clocks go forward at midnight: the day begins at one o'clock.
            ("America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", 23.0),
            // A date that is met twice: clocks went back from 00:01 to 23:01 of the day before.
            ("America/St_Johns", "2010-11-07T03:00:00Z", "2010-11-07T02:30:00Z", 25.0),
            // There was no 30th of December: it has the instant at which the 31st begins.
            ("Pacific/Apia", "2011-12-30T10:30:00Z", "2011-12-30T10:00:00Z", 24.0),
        ] {
            check(zone, time, start, hours);
        }
    }

    #[test]
    fn seven_days_are_a_week_from_monday() {
        let day = calendar("Asia/Tokyo").day(EventTime::from_micros(at("2026-05-03T15:00:00Z")));
        assert_eq!(day.count % (7 * DAY.micros()), 0, "Monday, the 4th of May in Tokyo");
    }

    proptest! {
        #[test]
        fn days_follow_each_other(
            zone in prop::sample::select(vec!["Europe/Berlin", "America/St_Johns", "Pacific/Apia", "America/Toronto", "Asia/Tokyo"]),
            time in prop_oneof![-4_000_000_000_000_000i64..4_000_000_000_000_000, -(1i64 << 61)..(1 << 61)],
        ) {
            let calendar = calendar(zone);
            let day = calendar.day(EventTime::from_micros(time));
            prop_assert!(day.start <= time && time < day.end);
            prop_assert_eq!(calendar.start(day.count), day.start);
            let next = calendar.day(EventTime::from_micros(day.end));
            prop_assert_eq!(next.start, day.end);
            prop_assert!(next.count > day.count && next.count - day.count <= 2 * DAY.micros());
            prop_assert_eq!(calendar.start(day.count + DAY.micros()), day.end);
        }
    }
}

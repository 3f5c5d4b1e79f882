//! `decode:` checked: formats and zone resolved.

use super::{Config, Envelope, Format, TimeFormat, TimeFormats};
use crate::limits;
use crate::place::{Located, Problem, did_you_mean};
use crate::record::schema::Schema;
use crate::time::zone;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use std::sync::Arc;

/// How a pipeline decodes.
#[derive(Debug, Clone)]
pub struct Plan {
    pub envelope: Envelope,
    pub format: Format,
    pub schema: Arc<Schema>,
    pub times: TimeFormats,
    /// For each column of the schema, whether anybody reads it; the others come out as nulls. Columns that are never
    /// null are always needed.
    pub needed: Vec<bool>,
}

impl Plan {
    /// A plan that needs all columns.
    pub fn new(envelope: Envelope, format: Format, schema: Arc<Schema>, times: TimeFormats) -> Self {
        let needed = vec![true; schema.columns.len()];
        Self { envelope, format, schema, times, needed }
    }
}

impl Config {
    /// Each time format and zone that is not known, and a `max_future` that is too long; needs no schema.
    pub fn check(&self) -> Vec<Problem> {
        let formats = self.time_formats.iter().filter_map(|text| time_format(text).err());
        let zone = self.zone.as_ref().and_then(|name| time_zone(name).err());
        let future = self.max_future.as_ref().filter(|span| span.value > limits::WINDOW_SPAN);
        let future = future.map(|span| {
            let problem = span.problem(format!("cannot use times that are {} ahead", span.value));
            problem.hint(format!("at most {}", limits::WINDOW_SPAN))
        });
        formats.chain(zone).chain(future).collect()
    }

    /// Resolves the time formats and the zone.
    ///
    /// # Errors
    /// What [`Self::check`] finds.
    pub fn build(&self, schema: Arc<Schema>) -> Result<Plan, Vec<Problem>> {
        let problems = self.check();
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut formats: Vec<TimeFormat> = self.time_formats.iter().filter_map(|text| time_format(text).ok()).collect();
        if formats.is_empty() {
            formats = vec![TimeFormat::Rfc3339, TimeFormat::Epoch];
        }
        let zone = self.zone.as_ref().and_then(|name| time_zone(name).ok()).unwrap_or(TimeZone::UTC);
        let max_future = self.max_future.as_ref().map_or(limits::MAX_FUTURE, |span| span.value);
        let times = TimeFormats::new(formats, zone).with_max_future(max_future);
        Ok(Plan::new(self.envelope, self.format, schema, times))
    }
}

fn time_zone(name: &Located<String>) -> Result<TimeZone, Problem> {
    zone::find(&name.value).ok_or_else(|| unknown_zone(name))
}

fn time_format(text: &Located<String>) -> Result<TimeFormat, Problem> {
    match text.value.as_str() {
        "rfc3339" => Ok(TimeFormat::Rfc3339),
        "epoch" => Ok(TimeFormat::Epoch),
        pattern if pattern.contains('%') => {
            // Formatting a full time runs through every directive of the pattern.
            let sample = TimeZone::UTC.to_datetime(jiff::Timestamp::UNIX_EPOCH).to_zoned(TimeZone::UTC);
            let tried =
                sample.map_err(|e| e.to_string()).and_then(|s| strtime::format(pattern, &s).map_err(|e| e.to_string()));
            match tried {
                Ok(_) => Ok(TimeFormat::Pattern(pattern.to_owned())),
                Err(error) => Err(text
                    .problem(format!("cannot use {pattern:?} as a time pattern: {error}"))
                    .hint("strptime directives, as in \"%Y-%m-%d %H:%M:%S\"")),
            }
        }
        other => {
            let hint = match did_you_mean(other, ["rfc3339", "epoch"]) {
                Some(close) => format!("did you mean `{close}`?"),
                None => "expected rfc3339, epoch or a strptime pattern, as in \"%Y-%m-%d %H:%M:%S\"".to_owned(),
            };
            Err(text.problem(format!("cannot use {other:?} as a time format")).hint(hint))
        }
    }
}

fn unknown_zone(name: &Located<String>) -> Problem {
    let known = zone::names();
    let hint = match did_you_mean(&name.value, known.iter().map(String::as_str)) {
        Some(close) => format!("did you mean `{close}`?"),
        None => "an IANA time zone, as in Asia/Tokyo".to_owned(),
    };
    name.problem(format!("cannot find time zone {:?}", name.value)).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::schema::{BUILT_IN, Column};

    fn check(formats: &[&str], zone: Option<&str>, expected: Result<(), (&str, &str)>) {
        let column = |(name, kind): &(&str, _)| Column::new(*name, *kind);
        let config = Config {
            envelope: Envelope::None,
            format: Format::Auto,
            schema: Located::nowhere("access".into()),
            time_formats: formats.iter().map(|f| Located::nowhere((*f).to_owned())).collect(),
            zone: zone.map(|z| Located::nowhere(z.to_owned())),
            max_future: None,
        };
        let built = config.build(Arc::new(Schema::new("t", 1, BUILT_IN.iter().map(column).collect())));
        match (built, expected) {
            (Ok(_), Ok(())) => {}
            (Err(problems), Err((message, hint))) => {
                assert!(problems[0].message.starts_with(message), "{}", problems[0].message);
                assert!(problems[0].hint.as_deref().unwrap_or("").contains(hint), "{:?}", problems[0].hint);
            }
            (built, expected) => panic!("{formats:?} {zone:?}: {built:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn formats_and_zones_are_checked() {
        check(&[], None, Ok(()));
        check(&["rfc3339", "epoch", "%Y-%m-%d %H:%M:%S"], Some("Asia/Tokyo"), Ok(()));
        check(&["rfc3393"], None, Err(("cannot use \"rfc3393\" as a time format", "did you mean `rfc3339`?")));
        check(&["%Y-%!"], None, Err(("cannot use \"%Y-%!\" as a time pattern", "strptime")));
        check(&[], Some("Asia/Tokio"), Err(("cannot find time zone \"Asia/Tokio\"", "did you mean `Asia/Tokyo`?")));
    }
}

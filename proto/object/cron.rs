//! Schedules of CronJobs: five fields, or `@daily` and the like (cron(5) as robfig/cron reads it). Pure.

use std::str::FromStr;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// Which minutes, hours, days, months and weekdays, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// A field that is `*` leaves the choice of days to the other one.
    any_day: bool,
    any_weekday: bool,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Malformed {
    #[error("expected exactly 5 fields, found {found}: [{}]", .fields.join(" "))]
    Fields { found: usize, fields: Vec<String> },
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("cannot use TZ or CRON_TZ in schedule, use timeZone field instead")]
    Zone,
    #[error("failed to parse {0:?}: it is not a number, a name or a range within its bounds")]
    Field(String),
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A schedule like `0 0 30 2 *` never comes; the search for it ends here.
const DAYS_MAX: u32 = 5 * 366;

// === impl Schedule ===

impl FromStr for Schedule {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.contains("TZ=") {
            return Err(Malformed::Zone);
        }
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => return Err(Malformed::Descriptor(other.into())),
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(Malformed::Fields { found: fields.len(), fields: fields.into_iter().map(String::from).collect() });
        };
        let weekdays = field(weekday, 0, 7, &WEEKDAYS, 0)?;
        Ok(Self {
            minutes: field(minute, 0, 59, &[], 0)?,
            hours: field(hour, 0, 23, &[], 0)?,
            days: field(day, 1, 31, &[], 0)?,
            months: field(month, 1, 12, &MONTHS, 1)?,
            // Sunday is 0 and 7.
            weekdays: (weekdays | (weekdays >> 7)) & 0x7f,
            any_day: day.starts_with(['*', '?']),
            any_weekday: weekday.starts_with(['*', '?']),
        })
    }
}

impl Schedule {
    /// The first time after an instant, in a time zone.
    pub fn next_after(&self, instant: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let local = zone.to_datetime(instant);
        let mut date = local.date();
        let mut from = (local.hour(), local.minute() + 1);
        for _ in 0..DAYS_MAX {
            if self.has_day(date)
                && let Some(found) = self.first_of_day(date, from, instant, zone)
            {
                return Some(found);
            }
            date = date.checked_add(1.day()).ok()?;
            from = (0, 0);
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let day = self.days & (1 << date.day()) != 0;
        let weekday = self.weekdays & (1 << date.weekday().to_sunday_zero_offset()) != 0;
        // Where both are restricted either will do.
        let fits = if self.any_day || self.any_weekday { day && weekday } else { day || weekday };
        self.months & (1 << date.month()) != 0 && fits
    }

    fn first_of_day(&self, date: Date, from: (i8, i8), after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        for hour in (from.0..24).filter(|h| self.hours & (1 << h) != 0) {
            let first = if hour == from.0 { from.1 } else { 0 };
            for minute in (first..60).filter(|m| self.minutes & (1 << m) != 0) {
                let at = DateTime::from_parts(date, jiff::civil::time(hour, minute, 0, 0));
                // A time that a change of clocks leaves out comes right after the gap; one that comes twice, once.
                if let Some(found) = zone.to_timestamp(at).ok().filter(|found| *found > after) {
                    return Some(found);
                }
            }
        }
        None
    }
}

/// `*`, `*/15`, `1-5`, `1-10/2`, `mon,wed`: as bits.
fn field(text: &str, min: u32, max: u32, names: &[&str], first_name: u32) -> Result<u64, Malformed> {
    let malformed = || Malformed::Field(text.into());
    let number = |word: &str| -> Option<u32> {
        let by_name =
            names.iter().position(|n| n.eq_ignore_ascii_case(word)).and_then(|at| u32::try_from(at).ok()).map(|at| at + first_name);
        by_name.or_else(|| word.parse().ok()).filter(|n| (min..=max).contains(n))
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<usize>().ok().filter(|s| *s > 0).ok_or_else(malformed)?),
            None => (part, 1),
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (min, if max == 7 { 6 } else { max }),
            Some((low, high)) => (number(low).ok_or_else(malformed)?, number(high).ok_or_else(malformed)?),
            None => {
                let one = number(range).ok_or_else(malformed)?;
                (one, if part.contains('/') { max } else { one })
            }
        };
        if low > high {
            return Err(malformed());
        }
        (low..=high).step_by(step).for_each(|n| bits |= 1 << n);
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, after: &str, expected: &str) {
        let parsed: Schedule = schedule.parse().expect("a schedule");
        let next = parsed.next_after(after.parse().expect("an instant"), &TimeZone::UTC);
        assert_eq!(next.map(|t| t.to_string()).unwrap_or_default(), expected, "{schedule}");
    }

    #[test]
    fn finds_the_next_time() {
        check("* * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z");
        check("*/15 * * * *", "2026-01-01T00:45:00Z", "2026-01-01T01:00:00Z");
        check("0 9-17/4 * * mon-fri", "2026-01-02T17:00:00Z", "2026-01-05T09:00:00Z");
        check("@daily", "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z");
        check("0 0 13 * fri", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        check("0 0 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z");
        check("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z");
        check("0 0 30 2 *", "2026-01-01T00:00:00Z", "");
        check("5,10 3 * jan *", "2026-01-01T03:05:00Z", "2026-01-01T03:10:00Z");
    }

    #[test]
    fn refuses_what_is_no_schedule() {
        for bad in ["", "* * * *", "60 * * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "@sometimes", "TZ=UTC * * * * *", "x * * * *"] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad}");
        }
    }
}

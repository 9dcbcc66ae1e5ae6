//! Series: when their instances begin. Daily and weekly rules with interval, count, end and days of the week, which is
//! what the emulator's series are made of; another rule is refused when the series is made.

use super::when;

const DAY: i64 = 86_400_000;
/// Instances of one series that are ever shown: two years of a daily one.
const INSTANCES_MAX: usize = 730;
const DAYS: [&str; 7] = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];

/// A rule, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    weekly: bool,
    interval: i64,
    count: Option<usize>,
    until: Option<i64>,
    /// Days of the week, Monday 0; empty for the day of the first.
    days: Vec<i64>,
}

impl Rule {
    /// Reads `RRULE:FREQ=WEEKLY;…`.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut rule = Self { weekly: false, interval: 1, count: None, until: None, days: Vec::new() };
        let mut known = false;
        for part in text.strip_prefix("RRULE:")?.split(';') {
            let (name, value) = part.split_once('=')?;
            match name {
                "FREQ" => {
                    rule.weekly = value == "WEEKLY";
                    known = rule.weekly || value == "DAILY";
                }
                "INTERVAL" => rule.interval = value.parse().ok().filter(|number| (1..=366).contains(number))?,
                "COUNT" => rule.count = Some(value.parse().ok().filter(|number| *number > 0)?),
                "UNTIL" => rule.until = Some(when::read_compact(value)?),
                "BYDAY" => {
                    let day =
                        |name: &str| DAYS.iter().position(|day| *day == name).and_then(|at| i64::try_from(at).ok());
                    rule.days = value.split(',').map(day).collect::<Option<_>>()?;
                }
                "WKST" => {}
                _ => return None,
            }
        }
        (known && (rule.weekly || rule.days.is_empty())).then_some(rule)
    }

    /// Gives the beginnings of the instances of a series that begins at `first`.
    pub(crate) fn instances(&self, first: i64) -> Vec<i64> {
        let most = self.count.unwrap_or(INSTANCES_MAX).min(INSTANCES_MAX);
        let until = self.until.unwrap_or(i64::MAX);
        let mut out = Vec::new();
        let week = first - when::weekday(first) * DAY;
        let days = if self.days.is_empty() { vec![when::weekday(first)] } else { self.days.clone() };
        for step in 0..INSTANCES_MAX {
            let step = i64::try_from(step).unwrap_or(i64::MAX).saturating_mul(self.interval);
            let starts: Vec<i64> = if self.weekly {
                DAYS.iter()
                    .zip(0..)
                    .filter(|(_, day)| days.contains(day))
                    .map(|(_, day)| week + (step * 7 + day) * DAY)
                    .collect()
            } else {
                vec![first + step * DAY]
            };
            for start in starts.into_iter().filter(|start| *start >= first) {
                if start > until || out.len() >= most {
                    return out;
                }
                out.push(start);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: &str, expected: &[&str]) {
        let first = when::read("2026-01-01T10:00:00Z").unwrap();
        let starts = Rule::read(rule).unwrap().instances(first);
        let starts: Vec<String> = starts.into_iter().map(when::date).collect();
        assert_eq!(starts, expected, "{rule}");
    }

    #[test]
    fn a_rule_gives_its_instances() {
        check("RRULE:FREQ=DAILY;COUNT=3", &["2026-01-01", "2026-01-02", "2026-01-03"]);
        check("RRULE:FREQ=DAILY;INTERVAL=2;UNTIL=20260105T100000Z", &["2026-01-01", "2026-01-03", "2026-01-05"]);
        check("RRULE:FREQ=WEEKLY;COUNT=2", &["2026-01-01", "2026-01-08"]);
        check("RRULE:FREQ=WEEKLY;BYDAY=TU,TH;COUNT=3", &["2026-01-01", "2026-01-06", "2026-01-08"]);
        check("RRULE:FREQ=WEEKLY;INTERVAL=2;COUNT=2;WKST=MO", &["2026-01-01", "2026-01-15"]);
        assert_eq!(Rule::read("RRULE:FREQ=DAILY").unwrap().instances(0).len(), INSTANCES_MAX);
        for bad in
            ["", "RRULE:", "RRULE:FREQ=SECONDLY", "RRULE:FREQ=DAILY;COUNT=0", "RRULE:FREQ=WEEKLY;BYDAY=XX", "EXDATE:1"]
        {
            assert_eq!(Rule::read(bad), None, "{bad}");
        }
    }
}

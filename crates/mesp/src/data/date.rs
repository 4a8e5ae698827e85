//! A moment, and `strftime` for the templates that print the day.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Days since 1970-01-01.
    days: i64,
    /// Seconds of the day.
    seconds: i64,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Date {
    /// So many seconds after the beginning of 1970.
    pub fn from_unix(seconds: i64) -> Self {
        Self { days: seconds.div_euclid(86_400), seconds: seconds.rem_euclid(86_400) }
    }

    /// The moment it is, or the one that `SOURCE_DATE_EPOCH` gives, for results that can be made again.
    pub fn today() -> Self {
        let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse().ok());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        Self::from_unix(given.unwrap_or_else(now))
    }

    /// Year, month and day, by the proleptic Gregorian calendar. Counted in years that begin in March, a leap
    /// day is a year's last.
    fn civil(self) -> (i64, usize, i64) {
        let day = self.days + 719_468;
        let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        (era * 400 + year + i64::from(month <= 2), month as usize, day)
    }

    /// The day as ISO 8601 writes it.
    #[cfg(feature = "parquet")]
    pub(super) fn iso_day(self) -> String {
        let (year, month, day) = self.civil();
        format!("{year:04}-{month:02}-{day:02}")
    }

    /// Day and time as ISO 8601 writes them, to the second.
    #[cfg(feature = "parquet")]
    pub(super) fn iso(self) -> String {
        let (hour, minute, second) = (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60);
        format!("{}T{hour:02}:{minute:02}:{second:02}", self.iso_day())
    }

    /// Python's `strftime`, in the C locale.
    pub(super) fn strftime(self, format: &str) -> Result<String, String> {
        let (year, month, day) = self.civil();
        let weekday = (self.days + 4).rem_euclid(7) as usize;
        let of_year = self.days - Self::first_of(year) + 1;
        let (hour, minute, second) = (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60);
        let twelve = (hour + 11) % 12 + 1;
        let mut out = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut code = rest.next();
            let bare = code == Some('-');
            if bare {
                code = rest.next();
            }
            let number = |n: i64, width: usize| if bare { n.to_string() } else { format!("{n:0width$}") };
            let text = match code {
                Some('d') => number(day, 2),
                Some('e') => format!("{day:>2}"),
                Some('m') => number(month as i64, 2),
                Some('Y') => year.to_string(),
                Some('y') => number(year.rem_euclid(100), 2),
                Some('B') => MONTHS[month - 1].to_owned(),
                Some('b' | 'h') => MONTHS[month - 1][..3].to_owned(),
                Some('A') => DAYS[weekday].to_owned(),
                Some('a') => DAYS[weekday][..3].to_owned(),
                Some('j') => number(of_year, 3),
                Some('H') => number(hour, 2),
                Some('I') => number(twelve, 2),
                Some('M') => number(minute, 2),
                Some('S') => number(second, 2),
                Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
                Some('F') => format!("{year}-{month:02}-{day:02}"),
                Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
                Some('D') => format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
                Some('%') => "%".to_owned(),
                other => {
                    let code = other.map_or_else(|| "%".to_owned(), |c| format!("%{c}"));
                    return Err(format!("strftime_now: {code} is not supported"));
                }
            };
            out.push_str(&text);
        }
        Ok(out)
    }

    /// The day on which a year begins.
    fn first_of(year: i64) -> i64 {
        let before = year - 1;
        before * 365 + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400) - 719_162
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected texts: Python's `datetime`.
    #[test]
    fn dates_are_written_as_in_python() {
        let all = "%Y-%m-%d %B %b %A %a %j %H %I %M %S %p %-d %y %F %T %D %%";
        for (seconds, expected) in [
            (0, "1970-01-01 January Jan Thursday Thu 001 00 12 00 00 AM 1 70 1970-01-01 00:00:00 01/01/70 %"),
            (
                1_709_211_845,
                "2024-02-29 February Feb Thursday Thu 060 13 01 04 05 PM 29 24 2024-02-29 13:04:05 02/29/24 %",
            ),
            (
                4_102_444_799,
                "2099-12-31 December Dec Thursday Thu 365 23 11 59 59 PM 31 99 2099-12-31 23:59:59 12/31/99 %",
            ),
        ] {
            assert_eq!(Date::from_unix(seconds).strftime(all).unwrap(), expected);
        }
        assert!(Date::from_unix(0).strftime("%Q").is_err());
        assert!(Date::from_unix(0).strftime("%").is_err());
    }
}

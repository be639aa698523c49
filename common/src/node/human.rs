//! Figures and tables for people. Pure.

use std::fmt;
use std::str::FromStr;

/// A duration as people write it: `90s`, `15m`, `24h`, `7d`. A bare number could be any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanDuration(u64);

/// A text that is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadDuration;

impl fmt::Display for BadDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration is a number and s, m, h or d, such as 24h")
    }
}

impl std::error::Error for BadDuration {}

impl HumanDuration {
    /// So many hours.
    pub const fn hours(hours: u64) -> HumanDuration {
        HumanDuration(hours * 3_600)
    }

    /// Its seconds, at least one.
    pub const fn seconds(self) -> u64 {
        self.0
    }
}

impl FromStr for HumanDuration {
    type Err = BadDuration;

    fn from_str(text: &str) -> Result<HumanDuration, BadDuration> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match &text[digits.len()..] {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(BadDuration),
        };
        let number: u64 = digits.parse().map_err(|_| BadDuration)?;
        number.checked_mul(unit).filter(|&seconds| seconds > 0).map(HumanDuration).ok_or(BadDuration)
    }
}

/// A number of bytes: `999 B`, `1.5 KiB`, `230 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1_024.0;
    let mut unit = 0;
    // 1023.95 would be printed as 1024.0.
    while value >= 1_023.95 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    if value < 99.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// A duration in its largest whole unit: `0 s`, `59 s`, `2 m`, `3 h`, `12 d`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} m", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The same of a time that is left: rounded up, as what is good for 24 hours is so for 23 of them and some more.
pub fn time_left(seconds: u64) -> String {
    match (seconds.div_ceil(60), seconds.div_ceil(3_600)) {
        _ if seconds < 60 => format!("{seconds} s"),
        (minutes @ ..60, _) => format!("{minutes} m"),
        (_, hours @ ..48) => format!("{hours} h"),
        _ => format!("{} d", seconds.div_ceil(86_400)),
    }
}

/// A number of things: `1 member`, `2 members`.
pub fn counted<N: fmt::Display + PartialEq + From<u8>>(count: N, what: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// A time of day, of Unix seconds, as RFC 3339 writes it: `2026-11-26T16:30:00Z`.
pub fn utc(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Days are counted in years that begin in March, so that a leap day is the last one: eras of 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A round trip: `0.42 ms`, `31 ms`.
pub fn millis(millis: f64) -> String {
    if millis < 9.995 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}

/// Rows below a header, in columns as wide as their widest cell; two spaces between them.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    };
    line(header);
    rows.iter().for_each(|row| line(row.each_ref().map(String::as_str)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_that_of_rfc_3339() {
        // date -u -d @N +%FT%TZ
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn bytes_have_two_or_three_digits() {
        for (count, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            (102_400, "100 KiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn durations_and_round_trips_are_short() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (60, "1 m"), (3_599, "59 m"), (3_600, "1 h"), (172_800, "2 d")]
        {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!([0.418, 9.99, 9.996, 31.4].map(millis), ["0.42 ms", "9.99 ms", "10 ms", "31 ms"]);
    }

    #[test]
    fn a_time_that_is_left_is_rounded_up_and_one_thing_is_one() {
        for (seconds, text) in [
            (59, "59 s"),
            (60, "1 m"),
            (61, "2 m"),
            (3_599, "1 h"),
            (86_399, "24 h"),
            (86_400, "24 h"),
            (172_799, "2 d"),
            (604_799, "7 d"),
        ] {
            assert_eq!(time_left(seconds), text);
        }
        assert_eq!([0_usize, 1, 2].map(|count| counted(count, "hub")), ["0 hubs", "1 hub", "2 hubs"]);
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(text.parse().map(HumanDuration::seconds), Ok(seconds), "{text}");
        }
        for bad in [
            "",
            "1",
            "h",
            "0s",
            "-1h",
            "1.5h",
            "1w",
            "1 h",
            "1hh",
            "99999999999999999999",
            "213503982334602d",
        ] {
            assert_eq!(bad.parse::<HumanDuration>(), Err(BadDuration), "{bad}");
        }
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "10.0.0.2"], ["longer", "-"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["NAME", "IP"], &rows), "NAME    IP\na       10.0.0.2\nlonger  -\n");
    }
}

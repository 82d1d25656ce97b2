//! Points in time as people write them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::duration;

/// Seconds since 1970-01-01 UTC of `2026-11-25`, `2026-11-25T14:30:00Z`, `1795471163` or, for so long ago, `2h`.
///
/// # Errors
/// The text is no such time.
pub(in crate::commands) fn seconds(text: &str) -> Result<u32, String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    seconds_at(text, u32::try_from(now).unwrap_or(u32::MAX))
}

fn seconds_at(text: &str, now: u32) -> Result<u32, String> {
    let wrong = || {
        format!(
            "`{text}` is no time: write 2026-11-25, 2026-11-25T14:30:00Z (UTC), seconds since 1970, or a span such as 2h for so long ago"
        )
    };
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| wrong());
    }
    if let Ok(span) = duration::seconds(text) {
        return Ok(now.saturating_sub(span));
    }
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time.strip_suffix('Z').unwrap_or(time)),
        None => (text, "00:00:00"),
    };
    let numbers = |text: &str, by: char, widths: &[usize]| -> Option<Vec<i64>> {
        let parts: Vec<&str> = text.split(by).collect();
        let fits = parts.len() == widths.len()
            && parts.iter().zip(widths).all(|(part, width)| {
                part.len() == *width && part.bytes().all(|byte| byte.is_ascii_digit())
            });
        fits.then(|| parts.iter().filter_map(|part| part.parse().ok()).collect())
    };
    let date = numbers(date, '-', &[4, 2, 2]).ok_or_else(wrong)?;
    let time = numbers(time, ':', &[2, 2, 2])
        .or_else(|| numbers(time, ':', &[2, 2]))
        .ok_or_else(wrong)?;
    let &[year, month, day] = date.as_slice() else {
        return Err(wrong());
    };
    let (hour, minute, second) = match time.as_slice() {
        [hour, minute, second] => (*hour, *minute, *second),
        [hour, minute] => (*hour, *minute, 0),
        _ => return Err(wrong()),
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return Err(wrong()),
    };
    if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return Err(wrong());
    }
    // Years that begin in March, so that a leap day is the last of its year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 719_469;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    u32::try_from(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, wanted) in [
            ("1795471163", 1_795_471_163),
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400),
            ("2024-02-29T23:59:59Z", 1_709_251_199),
            ("2026-11-23 21:59:23", 1_795_471_163),
            ("2026-11-23T21:59", 1_795_471_140),
            ("2h", 1_795_471_163 - 7200),
        ] {
            assert_eq!(seconds_at(text, 1_795_471_163), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "x",
            "2026-13-01",
            "2026-02-29",
            "26-1-1",
            "2026-11-23T25:00",
            "2026-11-23T21:59:23+01",
            "1960-01-01",
        ] {
            assert!(seconds_at(text, 0).is_err(), "{text}");
        }
    }
}

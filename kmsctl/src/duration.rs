//! Spans of time as people write them.

/// Seconds of `90m`, `8h`, `1h30m`, `2d`, `1w`.
///
/// # Errors
/// The text is no such span, or one of no time.
pub(crate) fn seconds(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no span of time: write for example 90m, 8h, 1h30m or 2d");
    let mut total = 0_u32;
    let mut number = String::new();
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            'w' => 7 * 24 * 60 * 60,
            _ => return Err(wrong()),
        };
        let count: u32 = number.parse().map_err(|_| wrong())?;
        number.clear();
        total = count
            .checked_mul(unit)
            .and_then(|span| total.checked_add(span))
            .ok_or_else(|| format!("`{text}` is too long"))?;
    }
    if !number.is_empty() || total == 0 {
        return Err(wrong());
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, wanted) in [
            ("30s", 30),
            ("90m", 5_400),
            ("8h", 28_800),
            ("1h30m", 5_400),
            ("2d", 172_800),
            ("1w", 604_800),
        ] {
            assert_eq!(seconds(text), Ok(wanted), "{text}");
        }
        for bad in [
            "",
            "8",
            "h",
            "0h",
            "-1h",
            "1y",
            "8 h",
            "99999999w",
            "4294967296s",
        ] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}

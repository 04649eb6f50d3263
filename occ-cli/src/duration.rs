//! Lengths of time on the command line and in the output.

use jiff::Timestamp;

/// Returns the milliseconds of `10`, `10s`, `1m30s`, `500ms`, `2h`, `1d`.
pub(crate) fn parse_ms(text: &str) -> Result<u64, String> {
    let fail = || format!("'{text}' is not a length of time such as 10s, 1m30s or 500ms");
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let seconds: u64 = text.parse().map_err(|_| fail())?;
        return positive(seconds.checked_mul(1000).ok_or_else(fail)?);
    }
    let mut total: u64 = 0;
    let mut rest = text;
    // Units only become smaller, so that `30s1m` is not taken for something meant.
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| fail())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(fail()),
        };
        if unit >= last {
            return Err(fail());
        }
        last = unit;
        rest = &rest[letters..];
        let part = number.checked_mul(unit).ok_or_else(fail)?;
        total = total.checked_add(part).ok_or_else(fail)?;
    }
    positive(total)
}

/// Returns the moment that a text names: itself (RFC 3339), or a time before now.
pub(crate) fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let fail = || format!("'{text}' is neither a time such as 2h or 7d, nor a moment (RFC 3339)");
    let ms = parse_ms(text).map_err(|_| fail())?;
    let ms = i64::try_from(ms).map_err(|_| fail())?;
    Timestamp::now().checked_sub(jiff::SignedDuration::from_millis(ms)).map_err(|_| fail())
}

fn positive(ms: u64) -> Result<u64, String> {
    if ms == 0 { Err("the time must be longer than zero".to_owned()) } else { Ok(ms) }
}

/// Returns the seconds from `then` to `now`, not below 0: clocks are set back.
pub(crate) fn seconds_between(then: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.as_second().saturating_sub(then.as_second())).unwrap_or(0)
}

/// Returns a length in its two largest units: `3d 4h`, `2h 10m`, `41s`.
pub(crate) fn two_units(seconds: u64) -> String {
    let (d, h, m, s) = split(seconds);
    let text = |big: u64, b: &str, small: u64, u: &str| {
        if small == 0 { format!("{big}{b}") } else { format!("{big}{b} {small}{u}") }
    };
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => text(m, "m", s, "s"),
        (0, _, _) => text(h, "h", m, "m"),
        _ => text(d, "d", h, "h"),
    }
}

/// Returns a length in its largest unit: `3d`, `2h`, `41s`.
pub(crate) fn one_unit(seconds: u64) -> String {
    match split(seconds) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, _) => format!("{m}m"),
        (0, h, _, _) => format!("{h}h"),
        (d, _, _, _) => format!("{d}d"),
    }
}

/// Returns milliseconds in words for a sentence: `10s`, `1m 30s`, `1.5s`, `500ms`.
pub(crate) fn of_ms(ms: u64) -> String {
    if ms < 1000 {
        format!("{ms}ms")
    } else if !ms.is_multiple_of(1000) && ms < 60_000 {
        #[expect(clippy::cast_precision_loss, reason = "below a minute")]
        let seconds = ms as f64 / 1000.0;
        format!("{seconds}s")
    } else {
        two_units(ms / 1000)
    }
}

fn split(seconds: u64) -> (u64, u64, u64, u64) {
    (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read() {
        for (text, ms) in [
            ("10", 10_000),
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("2h", 7_200_000),
            ("1s500ms", 1500),
        ] {
            assert_eq!(parse_ms(text).unwrap(), ms, "{text}");
        }
        for bad in [
            "",
            "s",
            "10x",
            "-1",
            "1.5s",
            "0",
            "0s",
            "30s1m",
            "1s1s",
            "10 s",
            "99999999999999999999",
            "1m30",
            "é",
        ] {
            assert!(parse_ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_are_shown() {
        assert_eq!(two_units(41), "41s");
        assert_eq!(two_units(7800), "2h 10m");
        assert_eq!(two_units(3 * 86_400 + 4 * 3600 + 59), "3d 4h");
        assert_eq!(two_units(60), "1m");
        assert_eq!(one_unit(7800), "2h");
        assert_eq!(of_ms(10_000), "10s");
        assert_eq!(of_ms(1500), "1.5s");
        assert_eq!(of_ms(90_000), "1m 30s");
    }
}

//! When a certificate is good, in words.

use jiff::Timestamp;
use russh::keys::Certificate;

/// Returns why a certificate is not good at a moment, in seconds since 1970: it has expired or is not valid yet.
pub(super) fn fault(certificate: &Certificate, now: u64) -> Option<String> {
    if certificate.valid_before() <= now {
        Some(format!("expired on {}", moment(certificate.valid_before())))
    } else if now < certificate.valid_after() {
        Some(format!("is not valid before {}", moment(certificate.valid_after())))
    } else {
        None
    }
}

/// Returns a moment that people can compare with a clock. One past the year 9999 is never.
fn moment(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    time.map_or_else(|| "never".to_owned(), |at| at.strftime("%F %H:%M UTC").to_string())
}

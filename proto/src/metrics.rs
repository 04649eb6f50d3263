//! The numbers of `GET /metrics`: Prometheus' text format (0.0.4), as far as the daemon writes it, and what histograms tell.

use std::collections::BTreeMap;

/// A line that is none of the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no line of Prometheus' text format: {0:?}")]
pub struct BadLine(pub String);

/// A number with its name and its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The number.
    pub value: f64,
}

impl Sample {
    /// Returns a label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// Returns the number as a count.
    pub fn count(&self) -> u64 {
        // A cast of what is too large or negative is the nearest that there is.
        self.value as u64
    }
}

/// Reads a text; comments are passed over.
///
/// # Errors
/// When a line is none of the format.
pub fn parse(text: &str) -> Result<Vec<Sample>, BadLine> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.filter(|line| !line.starts_with('#')).map(sample).collect()
}

/// Reads the line of a sample.
///
/// # Errors
/// When it is none.
pub fn sample(line: &str) -> Result<Sample, BadLine> {
    read(line).ok_or_else(|| BadLine(line.to_owned()))
}

fn read(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, value) = rest.split_once("=\"")?;
            let (value, after) = quoted(value)?;
            labels.insert(label.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.split_ascii_whitespace().next()?;
    // `+Inf`, `-Inf` and `NaN` are what Rust reads as well.
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

/// Reads a label's value up to its closing quotation mark. Returns it with what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            c => value.push(c),
        }
    }
    None
}

/// A histogram: how many are at most as large as each bound. Those of several can be put into one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets(Vec<(f64, f64)>);

impl Buckets {
    /// Adds a `_bucket`: so many were at most `bound`.
    pub fn add(&mut self, bound: f64, count: f64) {
        match self.0.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
            Some((_, known)) => *known += count,
            None => {
                self.0.push((bound, count));
                self.0.sort_by(|a, b| a.0.total_cmp(&b.0));
            }
        }
    }

    /// Returns how many there are in all.
    pub fn count(&self) -> u64 {
        self.0.last().map_or(0, |(_, count)| *count as u64)
    }

    /// Returns about what the given part of them does not pass, as Prometheus' `histogram_quantile` does: evenly spread
    /// between two bounds, and what is above all bounds is at the last.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let (_, all) = self.0.last().filter(|(_, all)| *all > 0.0)?;
        let rank = part * all;
        let at = self.0.iter().position(|(_, count)| *count >= rank)?;
        let (below, before) = match at.checked_sub(1) {
            Some(before) => self.0[before],
            None => (0.0, 0.0),
        };
        let (bound, count) = self.0[at];
        if bound.is_infinite() {
            return Some(below);
        }
        let share = if count > before { (rank - before) / (count - before) } else { 1.0 };
        Some(below + (bound - below) * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_label_holds_is_read_as_it_was() {
        let line = r#"a_total{host="via:x",odd="a\"b\\c\nd,}="} 3"#;
        let sample = sample(line).unwrap();
        assert_eq!((sample.name.as_str(), sample.count()), ("a_total", 3));
        assert_eq!(sample.label("host"), Some("via:x"));
        assert_eq!(sample.label("odd"), Some("a\"b\\c\nd,}="));
    }

    #[test]
    fn comments_are_passed_over_and_nonsense_is_not() {
        let text = "# HELP a A.\n# TYPE a gauge\na 1.5\n\nb{le=\"+Inf\"} 2 1700000000\nc +Inf\n";
        let samples = parse(text).unwrap();
        let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
        assert_eq!(values, [1.5, 2.0, f64::INFINITY]);
        for line in ["a", "a{", "a{b} 1", "a{b=\"c} 1", "a{b=\"c\"", "a x", "a{b=\"c\"} "] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let mut buckets = Buckets::default();
        assert_eq!(buckets.quantile(0.5), None);
        for (bound, count) in [(f64::INFINITY, 10.0), (0.1, 2.0), (1.0, 8.0)] {
            buckets.add(bound, count);
        }
        assert_eq!(buckets.count(), 10);
        let near = |part: f64, value: f64| (buckets.quantile(part).unwrap() - value).abs() < 1e-9;
        assert!(near(0.1, 0.05) && near(0.5, 0.55) && near(0.8, 1.0) && near(0.99, 1.0));
        // Another host's.
        buckets.add(0.1, 10.0);
        buckets.add(1.0, 10.0);
        buckets.add(f64::INFINITY, 10.0);
        assert_eq!(buckets.count(), 20);
        assert!((buckets.quantile(0.5).unwrap() - 0.1 * 10.0 / 12.0).abs() < 1e-9);
    }
}

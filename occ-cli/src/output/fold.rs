//! What many hosts said, with what is equal shown once.

use occ_proto::HostName;

/// How many hosts are named in a row.
const NAMES: usize = 12;
/// Up to so many characters, an output of one line is a cell of a table, beside the hosts.
const CELL: usize = 60;
/// From so many hosts on, those that said what most said need no names.
const MOST: usize = 4;

/// One of a program's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// How a host's part ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Well.
    Ok,
    /// The command failed, in so few words: `exit 3`.
    Exit(String),
    /// It was not run, or nobody knows how it ended.
    Failed(String),
}

/// What a host said.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) host: HostName,
    /// Whole lines, in the order in which they came.
    pub(crate) lines: Vec<(Stream, Vec<u8>)>,
    /// Nothing as long as it goes on.
    pub(crate) ending: Option<Ending>,
}

/// Hosts of which the same is to be shown.
struct Alike<'a> {
    first: &'a Told,
    text: String,
    hosts: Vec<&'a str>,
}

impl Alike<'_> {
    fn ending(&self) -> &Ending {
        self.first.ending.as_ref().unwrap_or(&Ending::Ok)
    }

    /// Returns what stands before the hosts; nothing for an output that needs lines of its own.
    fn cell(&self) -> Option<&str> {
        let text = self.text.strip_suffix('\n').unwrap_or(&self.text);
        match (text, self.ending()) {
            (_, Ending::Failed(_)) if text.is_empty() => Some("failed"),
            ("", Ending::Exit(_)) => Some("failed"),
            ("", Ending::Ok) => Some("(no output)"),
            (line, _) if !line.contains('\n') && line.chars().count() <= CELL => Some(line),
            _ => None,
        }
    }

    /// Returns `2 hosts: eu-03 eu-22 (exit 3)`, the number `width` wide.
    fn hosts(&self, all: usize, width: usize) -> String {
        let count = self.hosts.len();
        let noun = if count == 1 { "host" } else { "hosts" };
        let why = match self.ending() {
            Ending::Ok if count >= MOST && count * 2 > all => {
                return format!("{count:>width$} hosts");
            }
            Ending::Ok => String::new(),
            Ending::Exit(why) | Ending::Failed(why) => format!(" ({why})"),
        };
        let names = names(&self.hosts, " ");
        // In a column of numbers the names line up, too.
        let noun = if width > 0 { format!("{noun:<5}") } else { noun.to_owned() };
        format!("{count:>width$} {noun}: {names}{why}")
    }
}

/// Returns names with something between them, and how many more there are.
pub(crate) fn names(all: &[impl AsRef<str>], between: &str) -> String {
    let mut text: Vec<&str> = all.iter().take(NAMES).map(AsRef::as_ref).collect();
    let more = all.len().saturating_sub(NAMES);
    let more = if more > 0 { format!("and {more} more") } else { String::new() };
    text.extend((!more.is_empty()).then_some(more.as_str()));
    text.join(between)
}

/// Returns what the hosts said: the output that most have first, what went wrong last, where it is read first.
pub(crate) fn folded(all: &[Told]) -> String {
    let mut alike: Vec<Alike<'_>> = Vec::new();
    for told in all {
        let same = alike
            .iter_mut()
            .find(|group| group.first.ending == told.ending && group.first.lines == told.lines);
        match same {
            Some(group) => group.hosts.push(told.host.as_str()),
            None => {
                let bytes: Vec<u8> =
                    told.lines.iter().flat_map(|(_, line)| line.iter().copied()).collect();
                let text = String::from_utf8_lossy(&bytes).into_owned();
                alike.push(Alike { first: told, text, hosts: vec![told.host.as_str()] });
            }
        }
    }
    let rank = |group: &Alike<'_>| match group.ending() {
        Ending::Ok => 0,
        Ending::Exit(_) => 1,
        Ending::Failed(_) => 2,
    };
    alike.sort_by_key(|group| (rank(group), std::cmp::Reverse(group.hosts.len())));
    let cells = alike.iter().filter_map(Alike::cell).map(|cell| cell.chars().count());
    let width = cells.max().unwrap_or(0);
    let digits = all.len().to_string().len().max(3);
    let mut text = String::new();
    for group in &alike {
        match group.cell() {
            Some(cell) => {
                let hosts = group.hosts(all.len(), digits);
                text.push_str(&format!("{cell:<width$}    {hosts}\n"));
            }
            None => {
                let hosts = group.hosts(all.len(), 0);
                // What follows is theirs.
                let colon = if hosts.contains(": ") { "" } else { ":" };
                text.push_str(&format!("{hosts}{colon}\n"));
                for line in group.text.lines() {
                    text.push_str(&format!("  {line}\n"));
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(host: &str, text: &str, ending: Ending) -> Told {
        let lines = text.split_inclusive('\n').map(|line| (Stream::Out, line.into())).collect();
        Told { host: HostName::new(host).unwrap(), lines, ending: Some(ending) }
    }

    #[test]
    fn what_is_equal_is_shown_once() {
        let mut all: Vec<Told> = (1..=60)
            .filter(|number| ![3, 17, 22].contains(number))
            .map(|number| told(&format!("eu-{number:02}"), "6.1.0-25-amd64\n", Ending::Ok))
            .collect();
        for host in ["eu-03", "eu-22"] {
            all.insert(0, told(host, "6.1.0-18-amd64\n", Ending::Ok));
        }
        all.insert(0, told("eu-17", "", Ending::Failed("every key refused".into())));
        assert_eq!(
            folded(&all),
            "\
6.1.0-25-amd64     57 hosts
6.1.0-18-amd64      2 hosts: eu-22 eu-03
failed              1 host : eu-17 (every key refused)
"
        );
    }

    #[test]
    fn what_differs_in_anything_is_not_equal() {
        let mut all = vec![
            told("a", "x\n", Ending::Ok),
            told("b", "x\n", Ending::Exit("exit 3".into())),
            told("c", "x\ny\n", Ending::Ok),
            told("d", "", Ending::Ok),
            told("e", "", Ending::Exit("exit 1".into())),
            told("f", "", Ending::Exit("exit 1".into())),
            told("g", "x\n", Ending::Ok),
        ];
        all[6].lines[0].0 = Stream::Err;
        assert_eq!(
            folded(&all),
            "\
x                1 host : a
1 host: c
  x
  y
(no output)      1 host : d
x                1 host : g
failed           2 hosts: e f (exit 1)
x                1 host : b (exit 3)
"
        );
    }

    #[test]
    fn long_outputs_have_lines_of_their_own_and_many_names_are_counted() {
        let long = format!("{}\n", "x".repeat(CELL + 1));
        let mut all: Vec<Told> =
            (10..40).map(|n| told(&format!("h{n}"), &long, Ending::Ok)).collect();
        let down = || Ending::Failed("Connection refused".into());
        all.extend((10..30).map(|n| told(&format!("down{n}"), "", down())));
        let text = folded(&all);
        assert!(
            text.starts_with(&format!("30 hosts:\n  {long}failed     20 hosts: down10")),
            "{text}"
        );
        assert!(text.ends_with("down20 down21 and 8 more (Connection refused)\n"), "{text}");
    }

    #[test]
    fn few_hosts_are_named_also_where_all_are_equal() {
        let all = [told("a", "up\n", Ending::Ok), told("b", "up\n", Ending::Ok)];
        assert_eq!(folded(&all), "up      2 hosts: a b\n");
        // What was said before it failed is not lost.
        let all = [told("a", "half\n", Ending::Failed("the link broke".into()))];
        assert_eq!(folded(&all), "half      1 host : a (the link broke)\n");
    }
}

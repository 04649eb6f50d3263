//! The syntax of ssh's options `-L`, `-R` and `-D` (ssh(1)).

use super::{Direction, Endpoint};

/// The longest path of a Unix socket that Linux takes, in bytes (unix(7)); others take a little less.
const LONGEST_PATH: usize = 107;
/// The longest name of a host (RFC 1035, section 2.3.4).
const LONGEST_HOST: usize = 255;

/// A forward that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Which way it leads.
    pub direction: Direction,
    /// What is listened on.
    pub listen: Endpoint,
    /// Where it leads; absent for SOCKS.
    pub to: Option<Endpoint>,
}

/// Why a text is no forward, as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSpec(String);

impl InvalidSpec {
    pub(super) fn one() -> Self {
        Self("A forward is one of -L, -R and -D (in the API: local, remote, dynamic).".to_owned())
    }
}

/// One part of what colons separate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    Word(&'a str),
    Path(&'a str),
}

impl Spec {
    /// Reads what ssh takes after `-L`, `-R` or `-D`. `public` is ssh's `-g`.
    ///
    /// # Errors
    /// When it is malformed, or would be public and was not asked to be.
    pub fn parse(direction: Direction, text: &str, public: bool) -> Result<Self, InvalidSpec> {
        let wrong = |why: &str| InvalidSpec(format!("{} {text}: {why}.", direction.option()));
        let parts = parts(text).ok_or_else(|| wrong("the brackets do not close"))?;
        let usage = || {
            wrong(match direction {
                Direction::Local => {
                    "it must be [ADDRESS:]PORT:HOST:PORT, or with the path of a socket for either side"
                }
                Direction::Remote => {
                    "it must be [ADDRESS:]PORT:HOST:PORT, or with the path of a socket for either side, or [ADDRESS:]PORT for SOCKS"
                }
                Direction::Dynamic => "it must be [ADDRESS:]PORT",
            })
        };
        let endpoint = |host: &str, port: &str| {
            let port = port.parse().map_err(|_| wrong(&format!("{port:?} is no port")))?;
            Ok(Endpoint::Tcp { host: host.to_owned(), port })
        };
        let everywhere = if public { "*" } else { "localhost" };
        let (listen, to) = match (direction, parts.as_slice()) {
            (Direction::Dynamic | Direction::Remote, [Part::Word(port)]) => {
                (endpoint(everywhere, port)?, None)
            }
            (Direction::Dynamic | Direction::Remote, [Part::Word(host), Part::Word(port)]) => {
                (endpoint(any(host), port)?, None)
            }
            (Direction::Dynamic, _) => return Err(usage()),
            (_, [listen @ .., Part::Path(to)]) if !listen.is_empty() => {
                (listener(listen, everywhere, endpoint).ok_or_else(usage)??, Some(unix(to)))
            }
            (_, [listen @ .., Part::Word(host), Part::Word(port)]) if !listen.is_empty() => {
                let to = endpoint(host, port)?;
                (listener(listen, everywhere, endpoint).ok_or_else(usage)??, Some(to))
            }
            _ => return Err(usage()),
        };
        if let Some(Endpoint::Tcp { port: 0, .. }) = to {
            return Err(wrong("the port that it leads to cannot be 0"));
        }
        for place in [Some(&listen), to.as_ref()].into_iter().flatten() {
            check(place).map_err(|why| wrong(&why))?;
        }
        if matches!(&to, Some(Endpoint::Tcp { host, .. }) if host == "*") {
            return Err(wrong("it must lead to one address"));
        }
        if listen.is_public() && !public {
            return Err(wrong(&format!(
                "{listen} can be reached from other machines, which takes -g (in the API: public)"
            )));
        }
        Ok(Self { direction, listen, to })
    }
}

/// Returns what is listened on; nothing when so many parts mean nothing.
fn listener(
    parts: &[Part<'_>],
    everywhere: &str,
    endpoint: impl Fn(&str, &str) -> Result<Endpoint, InvalidSpec>,
) -> Option<Result<Endpoint, InvalidSpec>> {
    match parts {
        [Part::Word(port)] => Some(endpoint(everywhere, port)),
        [Part::Word(host), Part::Word(port)] => Some(endpoint(any(host), port)),
        [Part::Path(path)] => Some(Ok(unix(path))),
        _ => None,
    }
}

fn unix(path: &str) -> Endpoint {
    Endpoint::Unix { path: path.to_owned() }
}

/// An empty address is all of them (ssh(1)).
fn any(host: &str) -> &str {
    if host.is_empty() { "*" } else { host }
}

/// Splits at the colons outside of brackets. A part that begins with a slash is a path.
fn parts(text: &str) -> Option<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let after;
        if let Some(inner) = rest.strip_prefix('[') {
            let (address, behind) = inner.split_once(']')?;
            parts.push(Part::Word(address));
            if !behind.is_empty() && !behind.starts_with(':') {
                return None;
            }
            after = behind.strip_prefix(':');
        } else {
            let (part, behind) = match rest.split_once(':') {
                Some((part, behind)) => (part, Some(behind)),
                None => (rest, None),
            };
            parts.push(if part.starts_with('/') { Part::Path(part) } else { Part::Word(part) });
            after = behind;
        }
        match after {
            Some(behind) => rest = behind,
            None => return Some(parts),
        }
    }
}

/// Reads an endpoint alone.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, InvalidSpec> {
    let wrong = || InvalidSpec(format!("{text:?} is neither HOST:PORT nor an absolute path."));
    let found = match parts(text).as_deref() {
        Some([Part::Path(path)]) => unix(path),
        Some([Part::Word(host), Part::Word(port)]) => {
            Endpoint::Tcp { host: (*host).to_owned(), port: port.parse().map_err(|_| wrong())? }
        }
        _ => return Err(wrong()),
    };
    check(&found).map_err(|_| wrong())?;
    Ok(found)
}

/// What would be understood otherwise elsewhere, or not at all.
fn check(endpoint: &Endpoint) -> Result<(), String> {
    let (text, longest, what) = match endpoint {
        Endpoint::Tcp { host, .. } => (host, LONGEST_HOST, "name of a host"),
        Endpoint::Unix { path } => (path, LONGEST_PATH, "path of a socket"),
    };
    if text.is_empty() {
        return Err("the host that it leads to is missing".to_owned());
    }
    if text.len() > longest {
        return Err(format!("the {what} is longer than {longest} bytes"));
    }
    let strange = match endpoint {
        Endpoint::Tcp { host, .. } => {
            host.contains(|c: char| c.is_whitespace() || c.is_control() || "[]/".contains(c))
        }
        // A colon would be taken for the end of the path when it is read again.
        Endpoint::Unix { path } => path.contains(|c: char| c.is_control() || c == ':'),
    };
    if strange {
        return Err(format!("{text:?} is no {what}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn local(text: &str) -> (String, Option<String>) {
        let spec = Spec::parse(Direction::Local, text, true).unwrap();
        (spec.listen.to_string(), spec.to.map(|to| to.to_string()))
    }

    fn refused(direction: Direction, text: &str) -> String {
        Spec::parse(direction, text, false).unwrap_err().to_string()
    }

    #[test]
    fn what_ssh_takes_is_taken() {
        for (text, listen, to) in [
            ("127.0.0.1:8080:localhost:80", "127.0.0.1:8080", "localhost:80"),
            ("8080:localhost:80", "*:8080", "localhost:80"),
            (":8080:localhost:80", "*:8080", "localhost:80"),
            ("*:8080:localhost:80", "*:8080", "localhost:80"),
            ("[::1]:8080:[2001:db8::1]:80", "[::1]:8080", "[2001:db8::1]:80"),
            ("8080:[::1]:80", "*:8080", "[::1]:80"),
            ("localhost:8080:/run/app.sock", "localhost:8080", "/run/app.sock"),
            ("8080:/run/app.sock", "*:8080", "/run/app.sock"),
            ("/tmp/db.sock:localhost:5432", "/tmp/db.sock", "localhost:5432"),
            ("/tmp/db.sock:/run/db.sock", "/tmp/db.sock", "/run/db.sock"),
            ("0:db.internal:5432", "*:0", "db.internal:5432"),
        ] {
            assert_eq!(local(text), (listen.to_owned(), Some(to.to_owned())), "{text}");
        }
    }

    #[test]
    fn it_is_for_this_machine_alone_unless_asked_otherwise() {
        let spec = Spec::parse(Direction::Local, "8080:localhost:80", false).unwrap();
        assert_eq!(spec.listen.to_string(), "localhost:8080");
        let spec = Spec::parse(Direction::Dynamic, "1080", false).unwrap();
        assert_eq!((spec.listen.to_string(), spec.to), ("localhost:1080".to_owned(), None));
        let spec = Spec::parse(Direction::Remote, "1080", false).unwrap();
        assert_eq!((spec.listen.to_string(), spec.to), ("localhost:1080".to_owned(), None));
        assert!(refused(Direction::Remote, ":1080").contains("takes -g"));
        for text in [":8080:a:80", "*:8080:a:80", "0.0.0.0:80:a:80", "[::]:80:a:80", "eth:80:a:80"]
        {
            assert!(refused(Direction::Local, text).contains("takes -g"), "{text}");
        }
        for text in ["127.0.0.2:80:a:80", "[::1]:80:a:80", "localhost:80:a:80"] {
            assert!(Spec::parse(Direction::Remote, text, false).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused_in_a_sentence() {
        for text in [
            "",
            "8080",
            "8080:80",
            "a:b",
            "8080:localhost:x",
            "70000:localhost:80",
            "8080::80",
            "8080:localhost:0",
            "[::1:8080:a:80",
            "[::1]x:8080:a:80",
            "1:2:3:4:5",
            "/a:/b:/c",
            "8080:*:80",
            "8080:a b:80",
            "/:",
            "8080:a\n:80",
            "-1:a:80",
            "8080:localhost:80:",
        ] {
            let said = refused(Direction::Local, text);
            assert!(said.starts_with("-L ") && said.ends_with('.'), "{text}: {said}");
        }
        for text in ["", "a:b:c", "/tmp/socks", "1080:a:80"] {
            assert!(refused(Direction::Dynamic, text).starts_with("-D "), "{text}");
        }
        let long = format!("8080:/{}", "a".repeat(200));
        assert!(refused(Direction::Local, &long).contains("longer than 107"));
    }

    proptest! {
        #[test]
        fn reading_never_fails_otherwise_and_what_is_shown_is_read_again(text in ".{0,60}") {
            for direction in [Direction::Local, Direction::Remote, Direction::Dynamic] {
                if let Ok(spec) = Spec::parse(direction, &text, true) {
                    for place in [Some(spec.listen), spec.to].into_iter().flatten() {
                        let shown = place.to_string();
                        prop_assert_eq!(shown.parse::<Endpoint>().unwrap(), place);
                    }
                }
            }
        }

        #[test]
        fn forwards_are_read_as_they_are_written(
            host in "[a-z][a-z0-9.-]{0,20}|[0-9a-f]{1,4}::[0-9a-f]{1,4}",
            port in 1..=u16::MAX,
            path in "/[a-zA-Z0-9 ._-]{1,30}",
        ) {
            let tcp = Endpoint::Tcp { host, port };
            let unix = Endpoint::Unix { path };
            for (listen, to) in [(&tcp, &unix), (&unix, &tcp), (&tcp, &tcp), (&unix, &unix)] {
                let text = format!("{listen}:{to}");
                let spec = Spec::parse(Direction::Local, &text, true).unwrap();
                prop_assert_eq!((&spec.listen, spec.to.as_ref()), (listen, Some(to)));
            }
        }
    }
}

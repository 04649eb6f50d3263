//! The addresses on this very machine that a program prints, such as `http://localhost:5173/`: on a host, they are the host's.

use std::collections::VecDeque;

/// How much is kept to be read on: the longest address, and an escape sequence in it.
const KEPT: usize = 512;
/// The addresses that are the machine's own, as they stand in a URL, and where each leads.
const LOOPBACK: [(&str, &str); 5] = [
    ("localhost", "localhost"),
    ("127.0.0.1", "127.0.0.1"),
    ("0.0.0.0", "127.0.0.1"),
    ("[::1]", "::1"),
    ("[::]", "::1"),
];

/// An address of a program's own host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalUrl {
    /// As it was printed.
    pub(crate) url: String,
    /// What listens there: an address of loopback.
    pub(crate) address: &'static str,
    /// Its port.
    pub(crate) port: u16,
}

impl LocalUrl {
    /// Returns the same at a port of another machine's loopback.
    pub(crate) fn at(&self, port: u16) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or_default();
        let path = rest.find('/').map_or("/", |at| &rest[at..]);
        format!("{scheme}://localhost:{port}{path}")
    }
}

/// Reads output as it comes.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    text: VecDeque<u8>,
    escape: Escape,
}

/// Where in an escape sequence (ECMA-48) the reader is. Programs colour the port.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Begun,
    Csi,
}

impl Scanner {
    /// Returns the addresses that are complete by now, in their order.
    pub(crate) fn push(&mut self, output: &[u8]) -> Vec<LocalUrl> {
        let mut found = Vec::new();
        for byte in output {
            self.escape = match (self.escape, byte) {
                (Escape::None, 0x1b) => Escape::Begun,
                (Escape::None, _) => {
                    if ends_url(*byte) {
                        found.extend(self.take());
                    } else {
                        if self.text.len() == KEPT {
                            self.text.pop_front();
                        }
                        self.text.push_back(*byte);
                    }
                    Escape::None
                }
                (Escape::Begun, b'[') => Escape::Csi,
                (Escape::Csi, 0x20..=0x3f) => Escape::Csi,
                (Escape::Begun | Escape::Csi, _) => Escape::None,
            };
        }
        found
    }

    /// Reads the word that has ended.
    fn take(&mut self) -> Option<LocalUrl> {
        let word: Vec<u8> = std::mem::take(&mut self.text).into();
        let word = String::from_utf8(word).ok()?;
        let begin = word.find("http://").into_iter().chain(word.find("https://")).min()?;
        let url = word[begin..].trim_end_matches(['.', ',', ';', ':', ')', ']', '}']);
        let (_, rest) = url.split_once("://")?;
        let (name, address) = LOOPBACK.iter().find(|(name, _)| rest.starts_with(name))?;
        let rest = rest[name.len()..].strip_prefix(':')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let port = rest[..digits].parse().ok().filter(|port| *port > 0)?;
        matches!(rest.as_bytes().get(digits), None | Some(b'/' | b'?' | b'#')).then(|| LocalUrl {
            url: url.to_owned(),
            address,
            port,
        })
    }
}

/// What stands in no URL, and what people put around one.
fn ends_url(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f || b"\"'<>`|\\^{}".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(output: &[u8]) -> Vec<(String, &'static str, u16)> {
        let whole = Scanner::default().push(output);
        // However it is cut.
        let mut bytes = Scanner::default();
        let piecewise: Vec<_> = output.iter().flat_map(|byte| bytes.push(&[*byte])).collect();
        assert_eq!(whole, piecewise);
        whole.into_iter().map(|url| (url.url, url.address, url.port)).collect()
    }

    #[test]
    fn addresses_of_loopback_are_found() {
        let of = |text: &str, address, port| vec![(text.to_owned(), address, port)];
        for (output, expected) in [
            ("on http://localhost:3000\n", of("http://localhost:3000", "localhost", 3000)),
            ("http://127.0.0.1:80/a?b=c.\r\n", of("http://127.0.0.1:80/a?b=c", "127.0.0.1", 80)),
            ("(see https://0.0.0.0:8443/) ", of("https://0.0.0.0:8443/", "127.0.0.1", 8443)),
            ("url=\"http://[::]:1/x\"", of("http://[::]:1/x", "::1", 1)),
            ("http://[::1]:65535 ", of("http://[::1]:65535", "::1", 65535)),
            (
                "\x1b[32mLocal\x1b[0m: \x1b[36mhttp://localhost:\x1b[1m5173\x1b[22m/\x1b[39m\n",
                of("http://localhost:5173/", "localhost", 5173),
            ),
        ] {
            assert_eq!(found(output.as_bytes()), expected, "{output}");
        }
        let url = LocalUrl { url: "https://0.0.0.0:1/a".into(), address: "127.0.0.1", port: 1 };
        assert_eq!(url.at(2), "https://localhost:2/a");
        let url = LocalUrl { url: "http://[::1]:1".into(), address: "::1", port: 1 };
        assert_eq!(url.at(2), "http://localhost:2/");
    }

    #[test]
    fn other_addresses_are_not() {
        for output in [
            "http://example.com:3000\n",
            "http://localhost\n",
            "http://localhost:0\n",
            "http://localhost:70000\n",
            "http://localhost:80x\n",
            "http://localhost.example.com:80\n",
            "http://127.0.0.1.example.com:80\n",
            "ftp://localhost:80\n",
            // Not complete.
            "http://localhost:300",
        ] {
            assert_eq!(found(output.as_bytes()), [], "{output}");
        }
        let mut long = vec![b'a'; 100_000];
        long.extend(b"http://localhost:3000\n");
        assert_eq!(found(&long).len(), 1);
    }
}

//! What reads text that others write, one function each, for the fuzz targets in `fuzz/` and for the property
//! tests below: nothing may make it panic, and what it accepts must be what it promises.

use occ_proto::name::{Destination, check_jump_hosts};
use occ_proto::{Address, HostName, Secret, UserName};

use crate::ssh::{given_key, known_hosts, ssh_config};

/// A known_hosts file of any content. What stands behind it is still found.
pub fn known_hosts(content: &[u8]) {
    known_hosts::fuzz(content);
}

/// Any output of `ssh -G`.
pub fn ssh_config(output: &[u8]) {
    ssh_config::fuzz(output);
}

/// Any text where a host, a user or a way to one is expected.
pub fn host_strings(text: &str) {
    let is_safe = |text: &str| !text.starts_with('-') && !text.chars().any(char::is_control);
    let accepted = [
        HostName::new(text).ok().map(|name| name.to_string()),
        Address::new(text).ok().map(|address| address.to_string()),
        UserName::new(text).ok().map(|user| user.to_string()),
    ];
    for name in accepted.iter().flatten() {
        assert!(name == text && is_safe(name), "{text:?} became {name:?}");
    }
    if let Ok(to) = text.parse::<Destination>() {
        assert!(is_safe(to.address.as_str()), "{text:?}");
        assert!(to.user.is_none_or(|user| is_safe(user.as_str())), "{text:?}");
    }
    if check_jump_hosts(text).is_ok() {
        assert!(is_safe(text), "{text:?}");
    }
}

/// Any value of `OCC_SSH_KEY`.
pub fn given_key(text: &str) {
    // Whether it is one does not matter here.
    let _ = given_key::parse(&Secret::new(text.to_owned()));
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Returns a strategy for text of these words, with anything in between.
    fn of_words(words: &'static [&'static str]) -> impl Strategy<Value = String> {
        let word = prop_oneof![
            8 => proptest::sample::select(words).prop_map(str::to_owned),
            1 => "\\PC{0,8}",
            1 => any::<char>().prop_map(|c| c.to_string()),
        ];
        vec(word, 0..24).prop_map(|words| words.concat())
    }

    const KNOWN_HOSTS: &[&str] = &[
        "h",
        "*",
        "?",
        "!",
        ",",
        " ",
        "\t",
        "\n",
        "\r\n",
        "#",
        "@revoked",
        "@cert-authority",
        "|1|",
        "[h]:22",
        "ssh-ed25519",
        "AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB",
        "AAAA",
        "=",
        "\0",
    ];
    const SSH_CONFIG: &[&str] = &[
        "host h\n",
        "hostname ",
        "user ",
        "port ",
        "identityfile ",
        "proxyjump ",
        "proxycommand ",
        "userknownhostsfile ",
        "stricthostkeychecking ",
        "ciphers ",
        "none",
        "~/",
        "%h",
        "%d",
        "%%",
        "${HOME}",
        "${",
        "22",
        "99999999999",
        "-oProxyCommand=x",
        "a,b",
        " /",
        "\n",
        "\r",
        "\0",
        "yes",
    ];
    const HOSTS: &[&str] = &[
        "-",
        "a",
        "h.example",
        "@",
        ":",
        "22",
        "[",
        "]",
        "::1",
        "%",
        "via:",
        "+",
        ",",
        "ssh://",
        "/",
        " ",
        "\n",
        "\u{1b}",
        "\u{202e}",
        "$(id)",
        "`",
        ";",
        "..",
        "local",
        "none",
        "ü",
        "0",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn known_hosts(text in of_words(KNOWN_HOSTS), bytes in vec(any::<u8>(), 0..200)) {
            super::known_hosts(text.as_bytes());
            super::known_hosts(&bytes);
        }

        #[test]
        fn ssh_config(text in of_words(SSH_CONFIG), bytes in vec(any::<u8>(), 0..200)) {
            super::ssh_config(text.as_bytes());
            super::ssh_config(&bytes);
        }

        #[test]
        fn host_strings(text in of_words(HOSTS), any in "\\PC{0,40}") {
            super::host_strings(&text);
            super::host_strings(&any);
        }
    }
}

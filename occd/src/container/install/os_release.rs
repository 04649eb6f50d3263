//! What a system says of itself in /etc/os-release (os-release(5)).

use occ_proto::docker_setup::Family;
use occ_proto::text::sanitize;

/// Systems whose /usr is not to be written to: a package manager that would install something there fails.
const IMAGES: [&str; 8] =
    ["coreos", "silverblue", "kinoite", "sericea", "onyx", "iot", "opensuse-microos", "sle-micro"];

/// The fields that decide how Docker is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OsRelease {
    pub(super) id: String,
    like: Vec<String>,
    version: String,
    variant: String,
    pretty: String,
}

impl OsRelease {
    /// Reads the file. What is malformed is left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut os = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
            let value = unquoted(value);
            match key {
                "ID" => os.id = value.to_ascii_lowercase(),
                "ID_LIKE" => {
                    os.like = value.split_whitespace().map(str::to_ascii_lowercase).collect();
                }
                "VERSION_ID" => os.version = value,
                "VARIANT_ID" => os.variant = value.to_ascii_lowercase(),
                "PRETTY_NAME" => os.pretty = sanitize(&value),
                _ => {}
            }
        }
        os
    }

    /// Returns what it calls itself.
    pub(super) fn name(&self) -> String {
        match (self.pretty.is_empty(), self.id.is_empty()) {
            (false, _) => self.pretty.clone(),
            (true, false) => sanitize(&self.id),
            (true, true) => "a system without a name".to_owned(),
        }
    }

    /// Returns the family: by its own name, else by the names of those that it is like, the closest first.
    pub(super) fn family(&self) -> Family {
        let names = std::iter::once(&self.id).chain(&self.like);
        let mut known = names.map(|name| family(name)).filter(|one| *one != Family::Unknown);
        known.next().unwrap_or(Family::Unknown)
    }

    /// Returns whether it is one of those, or like them.
    pub(super) fn is(&self, name: &str) -> bool {
        self.id == name || self.like.iter().any(|like| like == name)
    }

    /// Returns the first number of its version.
    pub(super) fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }

    /// Returns whether its packages are part of an image.
    pub(super) fn is_image(&self) -> bool {
        IMAGES.contains(&self.variant.as_str()) || IMAGES.contains(&self.id.as_str())
    }
}

fn family(name: &str) -> Family {
    match name {
        "debian" | "ubuntu" | "raspbian" | "devuan" | "kali" | "linuxmint" | "pop" => {
            Family::Debian
        }
        "fedora" | "rhel" | "centos" | "rocky" | "almalinux" | "ol" | "amzn" => Family::Rhel,
        "alpine" => Family::Alpine,
        "arch" | "archarm" | "manjaro" | "endeavouros" => Family::Arch,
        "suse" | "sles" | "sled" => Family::Suse,
        name if name.starts_with("opensuse") => Family::Suse,
        _ => Family::Unknown,
    }
}

/// Takes the quotes away, as a shell would.
fn unquoted(value: &str) -> String {
    let value = value.trim();
    let quoted = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    if let Some(inner) = quoted('\'') {
        return inner.to_owned();
    }
    let Some(inner) = quoted('"') else { return value.to_owned() };
    let mut text = String::new();
    let mut escaped = false;
    for c in inner.chars() {
        escaped = c == '\\' && !escaped;
        if !escaped {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes_are_a_shells() {
        let os = OsRelease::parse(
            "# a comment\nID=\"Void\"\nPRETTY_NAME='V \"1\"'\nVERSION_ID=\"7.9\"\nNAME=\"a\\\"b\"\nbroken\n",
        );
        assert_eq!((os.id.as_str(), os.name().as_str(), os.major()), ("void", "V \"1\"", Some(7)));
        assert_eq!(unquoted("\"a\\\\b\\$c\\\"\""), "a\\b$c\"");
        assert_eq!(OsRelease::parse("").name(), "a system without a name");
    }

    #[test]
    fn what_is_like_another_is_of_its_family() {
        let of = |text| OsRelease::parse(text).family();
        assert_eq!(of("ID=elementary\nID_LIKE=\"ubuntu debian\"\n"), Family::Debian);
        assert_eq!(of("ID=eurolinux\nID_LIKE=\"rhel fedora centos\"\n"), Family::Rhel);
        assert_eq!(of("ID=nixos\n"), Family::Unknown);
        assert_eq!(of(""), Family::Unknown);
    }
}

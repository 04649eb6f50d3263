//! Programs that change nothing: what runs where a policy says `read_only`.

use super::program::{Layer, base, is_systems};

/// Whatever their arguments are. Programs that can write a file, run another or set something (sort -o, less, file -C,
/// date -s, hostname NAME) are not among them.
const ALWAYS: &[&str] = &[
    "basename",
    "cat",
    "cksum",
    "cmp",
    "comm",
    "cut",
    "df",
    "diff",
    "dirname",
    "du",
    "echo",
    "egrep",
    "expr",
    "false",
    "fgrep",
    "free",
    "getconf",
    "getent",
    "grep",
    "groups",
    "head",
    "hexdump",
    "id",
    "lsblk",
    "lscpu",
    "ls",
    "md5sum",
    "nl",
    "nproc",
    "od",
    "pgrep",
    "pidof",
    "printenv",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "seq",
    "sha1sum",
    "sha224sum",
    "sha256sum",
    "sha384sum",
    "sha512sum",
    "sleep",
    "stat",
    "strings",
    "sum",
    "tac",
    "tail",
    "test",
    "tr",
    "true",
    "tty",
    "uname",
    "uptime",
    "wc",
    "whereis",
    "which",
    "who",
    "whoami",
    "yes",
];

/// As long as none of these options is there.
const UNLESS: &[(&str, &[&str])] = &[
    (
        "find",
        &[
            "-exec", "-execdir", "-ok", "-okdir", "-delete", "-fprint", "-fprint0", "-fprintf",
            "-fls",
        ],
    ),
    ("rg", &["--pre", "--hostname-bin"]),
    ("jq", &[]),
    ("env", &[]),
    ("nice", &[]),
    ("timeout", &[]),
];

/// Returns whether a program changes nothing.
pub(super) fn is_reading(layer: Layer<'_>) -> bool {
    let Some((program, args)) = layer.split_first() else { return false };
    let name = base(program);
    if !is_systems(program) {
        return false;
    }
    if ALWAYS.iter().any(|known| known.as_bytes() == name) {
        return true;
    }
    let Some((_, options)) = UNLESS.iter().find(|(known, _)| known.as_bytes() == name) else {
        return false;
    };
    !args.iter().any(|arg| options.iter().any(|option| arg.starts_with(option.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_write_is_not_reading() {
        let reads = |line: &str| {
            let argv: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            is_reading(&argv)
        };
        for line in ["ls -l", "/bin/cat x", "find . -name x", "rg -n x", "grep -r x ."] {
            assert!(reads(line), "{line}");
        }
        for line in [
            "rm x",
            "tee x",
            "sort -o x y",
            "find . -delete",
            "find . -fprint x",
            "rg --pre=sh x",
            "date -s now",
            "./cat x",
            "/srv/ls",
            "git log",
            "sh -c ls",
        ] {
            assert!(!reads(line), "{line}");
        }
    }
}

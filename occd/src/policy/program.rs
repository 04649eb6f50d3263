//! What a command line would run, as far as it shows.
//!
//! `sudo env X=1 /bin/rm -r a` is three programs, each of which rules are asked about. What does not show (a line
//! for a shell, a program's text, options that are not known here) is *hidden*: it could be anything.

/// A program and its arguments.
pub(super) type Layer<'a> = &'a [&'a [u8]];

/// The programs of a command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Programs<'a> {
    /// From the outside to the inside.
    pub(super) layers: Vec<Layer<'a>>,
    /// Others may be run that do not show.
    pub(super) hidden: Hidden,
}

/// Whether everything shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hidden {
    /// It does.
    No,
    /// The innermost program is one that runs others, such as a shell.
    Inside,
    /// Not even the program is certain.
    Anything,
}

/// A program that runs the one that its arguments name.
struct Wrapper {
    name: &'static str,
    /// Letters of options that stand alone.
    flags: &'static [u8],
    /// Letters of options that take a value.
    values: &'static [u8],
    /// Arguments before the program.
    before: usize,
    /// Variables may stand before the program.
    variables: bool,
}

const fn wrapper(name: &'static str, flags: &'static [u8], values: &'static [u8]) -> Wrapper {
    Wrapper { name, flags, values, before: 0, variables: false }
}

/// Their options are those of coreutils, util-linux, sudo, busybox, moreutils and the programs' own.
const WRAPPERS: &[Wrapper] = &[
    Wrapper { variables: true, ..wrapper("env", b"i0v", b"uC") },
    Wrapper { variables: true, ..wrapper("sudo", b"AbEHnPSkKB", b"ughpCDRTUrt") },
    wrapper("doas", b"n", b"uC"),
    wrapper("nice", b"", b"n"),
    wrapper("ionice", b"t", b"cn"),
    wrapper("nohup", b"", b""),
    wrapper("setsid", b"cfw", b""),
    wrapper("stdbuf", b"", b"ioe"),
    wrapper("time", b"apqvV", b"fo"),
    Wrapper { before: 1, ..wrapper("timeout", b"vf", b"ks") },
    Wrapper { before: 1, ..wrapper("taskset", b"a", b"") },
    Wrapper { before: 1, ..wrapper("chrt", b"abfioR", b"TPD") },
    wrapper("command", b"p", b""),
    wrapper("chronic", b"ve", b""),
    wrapper("dumb-init", b"cv", b"r"),
    wrapper("eatmydata", b"", b""),
    wrapper("tini", b"gsvw", b"ep"),
    wrapper("busybox", b"", b""),
    wrapper("toybox", b"", b""),
];

/// Programs that run what is written in their arguments, their input or a file, whatever these are.
const SHELLS: &[&str] = &[
    "sh",
    "bash",
    "dash",
    "ash",
    "zsh",
    "ksh",
    "mksh",
    "rbash",
    "fish",
    "csh",
    "tcsh",
    "nu",
    "pwsh",
    "elvish",
    "xonsh",
    "tclsh",
    "wish",
    "su",
    "runuser",
    "sg",
    "newgrp",
    "capsh",
    "gosu",
    "su-exec",
    "run0",
    "machinectl",
    "xargs",
    "parallel",
    "watch",
    "watchexec",
    "entr",
    "hyperfine",
    "nix-shell",
    "faketime",
    "cpulimit",
    "script",
    "expect",
    "tmux",
    "screen",
    "awk",
    "gawk",
    "mawk",
    "nawk",
    "nsenter",
    "unshare",
    "chroot",
    "systemd-run",
    "at",
    "batch",
    "crontab",
    "flock",
    "strace",
    "gdb",
    "pkexec",
    "dtach",
    "setpriv",
    "prlimit",
    "setarch",
    "linux32",
    "linux64",
    "i386",
    "x86_64",
    "personality",
    "numactl",
    "cgexec",
    "firejail",
    "bwrap",
    "proot",
    "fakeroot",
    "xvfb-run",
    "dbus-run-session",
    "ssh-agent",
    "coreutils",
    "rlwrap",
    "unbuffer",
    "ltrace",
    "perf",
    "valgrind",
    "daemonize",
    "start-stop-daemon",
    "runcon",
    "run-parts",
    "softlimit",
    "chpst",
    "catchsegv",
    "eval",
    "exec",
];

/// Programs that do so when they have one of these options, or no argument at all.
const INTERPRETERS: &[(&str, &[&str])] = &[
    ("python", &["-c", "-m"]),
    ("pypy", &["-c", "-m"]),
    ("perl", &["-e", "-E"]),
    ("ruby", &["-e"]),
    ("node", &["-e", "-p", "--eval", "--print"]),
    ("bun", &["-e", "--eval"]),
    ("deno", &["eval", "repl"]),
    ("php", &["-r"]),
    ("lua", &["-e"]),
    ("luajit", &["-e"]),
    ("julia", &["-e", "-E", "--eval", "--print"]),
    ("Rscript", &["-e"]),
    ("guile", &["-c"]),
];

/// Options of find(1) that run programs.
const FIND: &[&str] = &["-exec", "-execdir", "-ok", "-okdir"];

/// Variables that choose what a program runs or loads; a `*` ends a beginning.
const LOADED: &[&str] = &[
    "PATH",
    "LD_*",
    "DYLD_*",
    "GIT_*",
    "PAGER",
    "EDITOR",
    "VISUAL",
    "SHELL",
    "ENV",
    "BASH_*",
    "IFS",
    "PERL*",
    "PYTHON*",
    "RUBY*",
    "NODE_*",
    "LESSOPEN",
    "LESSCLOSE",
    "MANPAGER",
    "BROWSER",
    "RSYNC_*",
    "SUDO_*",
    "GCONV_PATH",
    "MAKEFLAGS",
    "CC",
    "CXX",
    "HOME",
    "XDG_*",
    "TAR_OPTIONS",
    "ZDOTDIR",
    "PROMPT_COMMAND",
    "SSH_*",
    "DOCKER_*",
];

/// Variables that choose nothing of the kind.
const HARMLESS: &[&str] =
    &["LANG", "LANGUAGE", "LC_*", "TERM", "COLORTERM", "TZ", "COLUMNS", "LINES", "NO_COLOR", "CI"];

fn is_among(name: &str, list: &[&str]) -> bool {
    list.iter().any(|known| match known.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => *known == name,
    })
}

/// Returns whether a variable may make another program of a command; where little is allowed, each does of which
/// nothing is known.
pub(super) fn is_loaded(name: &str, strictly: bool) -> bool {
    if strictly { !is_among(name, HARMLESS) } else { is_among(name, LOADED) }
}

/// Returns a program's name without its directory.
pub(super) fn base(program: &[u8]) -> &[u8] {
    program.rsplit(|byte| *byte == b'/').next().unwrap_or(program)
}

/// Returns whether a program is the system's: found by PATH, or in a directory of the system's.
pub(super) fn is_systems(program: &[u8]) -> bool {
    let dirs =
        ["/bin/", "/usr/bin/", "/usr/local/bin/", "/sbin/", "/usr/sbin/", "/usr/local/sbin/"];
    let in_dir =
        |dir: &&str| program.strip_prefix(dir.as_bytes()).is_some_and(|name| !name.contains(&b'/'));
    !program.contains(&b'/') || dirs.iter().any(in_dir)
}

/// Returns what a command line would run.
pub(super) fn programs<'a>(argv: Layer<'a>, strictly: bool) -> Programs<'a> {
    let mut programs = Programs { layers: Vec::new(), hidden: Hidden::No };
    let mut rest = argv;
    while let Some((program, args)) = rest.split_first() {
        programs.layers.push(rest);
        let name = base(program);
        let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.name.as_bytes() == name) else {
            if runs_others(name, args) {
                programs.hidden = programs.hidden.max(Hidden::Inside);
            }
            return programs;
        };
        let (inner, is_clear) = wrapper.inner(args, strictly);
        if !is_clear {
            programs.hidden = Hidden::Anything;
        }
        rest = inner;
    }
    programs
}

impl Hidden {
    fn max(self, other: Self) -> Self {
        match (self, other) {
            (Self::Anything, _) | (_, Self::Anything) => Self::Anything,
            (Self::No, Self::No) => Self::No,
            _ => Self::Inside,
        }
    }
}

impl Wrapper {
    /// Returns the program inside, and whether it is certain to be that one.
    fn inner<'a>(&self, mut args: Layer<'a>, strictly: bool) -> (Layer<'a>, bool) {
        let mut is_clear = true;
        while let Some((first, rest)) = args.split_first() {
            let Some(option) = first.strip_prefix(b"-").filter(|option| !option.is_empty()) else {
                break;
            };
            args = rest;
            if option == b"-" {
                break;
            }
            // As in getopt(3): flags, then perhaps one option with its value behind it or in the next argument.
            let is_number = option.iter().all(u8::is_ascii_digit);
            let valued = option.iter().position(|letter| self.values.contains(letter));
            let flags = &option[..valued.unwrap_or(option.len())];
            let known = is_number || flags.iter().all(|letter| self.flags.contains(letter));
            is_clear &= known;
            if known && valued == Some(option.len() - 1) {
                args = args.get(1..).unwrap_or_default();
            }
        }
        args = args.get(self.before..).unwrap_or_default();
        while let Some((first, rest)) = args.split_first()
            && self.variables
            && let Some(at) = first.iter().position(|byte| *byte == b'=')
        {
            let name = std::str::from_utf8(&first[..at]).unwrap_or("PATH");
            is_clear &= !is_loaded(name, strictly);
            args = rest;
        }
        // `env -` is as `env -i`.
        if self.name == "env" && args.first() == Some(&&b"-"[..]) {
            args = &args[1..];
        }
        (args, is_clear)
    }
}

fn runs_others(name: &[u8], args: Layer<'_>) -> bool {
    // The loader of programs runs the one it is given.
    let loader = [&b"ld-linux"[..], b"ld-musl", b"ld.so"].iter().any(|ld| name.starts_with(ld));
    // python3.11 is python, and guile-3.0 is guile.
    let is_version = |byte: &u8| byte.is_ascii_digit() || b".-".contains(byte);
    let end = name.iter().rposition(|byte| !is_version(byte));
    let plain = &name[..end.map_or(0, |at| at + 1)];
    if loader || SHELLS.iter().any(|shell| [name, plain].contains(&shell.as_bytes())) {
        return true;
    }
    let has = |options: &[&str]| {
        args.iter().any(|arg| {
            options.iter().any(|option| match option.strip_prefix("--") {
                Some(_) => arg.starts_with(option.as_bytes()),
                // What an option runs may stand behind it without a space, or other letters before it.
                None if option.len() == 2 => {
                    arg.starts_with(b"-")
                        && !arg.starts_with(b"--")
                        && arg.contains(&option.as_bytes()[1])
                }
                None => *arg == option.as_bytes(),
            })
        })
    };
    if name == b"find" {
        return has(FIND);
    }
    INTERPRETERS
        .iter()
        .find(|(known, _)| known.as_bytes() == plain)
        .is_some_and(|(_, options)| args.is_empty() || has(options) || args.contains(&&b"-"[..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(line: &str) -> (Vec<String>, Hidden) {
        let argv: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let programs = programs(&argv, false);
        let names = programs.layers.iter().map(|layer| String::from_utf8_lossy(layer[0]).into());
        (names.collect(), programs.hidden)
    }

    #[test]
    fn what_wraps_a_program_shows_it() {
        for (line, names) in [
            ("rm -rf /", vec!["rm"]),
            ("/bin/rm x", vec!["/bin/rm"]),
            ("env X=1 rm x", vec!["env", "rm"]),
            ("env -i -u HOME rm", vec!["env", "rm"]),
            ("env -uHOME rm", vec!["env", "rm"]),
            ("env - rm", vec!["env", "rm"]),
            ("sudo rm x", vec!["sudo", "rm"]),
            ("sudo -nu root -- rm x", vec!["sudo", "rm"]),
            ("sudo -u root env A=b nice -n 5 rm x", vec!["sudo", "env", "nice", "rm"]),
            ("nice -5 rm", vec!["nice", "rm"]),
            ("timeout -k 5 10 rm x", vec!["timeout", "rm"]),
            ("busybox rm x", vec!["busybox", "rm"]),
            ("nohup setsid rm", vec!["nohup", "setsid", "rm"]),
            ("tini -s -p KILL -- dumb-init -r 15:3 rm", vec!["tini", "dumb-init", "rm"]),
            ("eatmydata chronic -ve rm", vec!["eatmydata", "chronic", "rm"]),
            ("find . -name x", vec!["find"]),
            ("python3 tool.py", vec!["python3"]),
            ("git status", vec!["git"]),
        ] {
            let names: Vec<String> = names.into_iter().map(Into::into).collect();
            assert_eq!(seen(line), (names, Hidden::No), "{line}");
        }
    }

    #[test]
    fn what_does_not_show_is_hidden() {
        for line in [
            "sh -c rm",
            "/bin/bash script",
            "busybox sh -c x",
            "sudo sh",
            "xargs rm",
            "find . -exec rm {} ;",
            "python3.11 -c x",
            "python3 -Bc x",
            "python",
            "perl -ne x",
            "node --eval=x",
            "awk x",
            "su root",
            "newgrp users",
            "bash5.2 script",
            "guile-3.0 -c x",
        ] {
            assert_eq!(seen(line).1, Hidden::Inside, "{line}");
        }
        for line in [
            "env PATH=/tmp ls",
            "env LD_PRELOAD=x ls",
            "env -S rm",
            "env --split-string=rm ls",
            "sudo -i",
            "sudo -s rm",
            "sudo --user=root rm",
            "nice --adjustment=1 rm",
        ] {
            assert_eq!(seen(line).1, Hidden::Anything, "{line}");
        }
    }

    #[test]
    fn where_little_is_allowed_a_variable_has_to_be_known() {
        assert!(!is_loaded("RAILS_ENV", false));
        assert!(is_loaded("RAILS_ENV", true));
        for name in ["LANG", "LC_ALL", "TERM"] {
            assert!(!is_loaded(name, true), "{name}");
        }
        for name in ["PATH", "LD_PRELOAD", "GIT_SSH_COMMAND"] {
            assert!(is_loaded(name, false), "{name}");
        }
    }

    #[test]
    fn a_program_of_the_systems_is_found_by_path_or_in_its_directories() {
        for own in [&b"git"[..], b"/usr/bin/git", b"/bin/ls"] {
            assert!(is_systems(own));
        }
        for other in [&b"./git"[..], b"/srv/app/git", b"/usr/bin/../../tmp/git", b"bin/git"] {
            assert!(!is_systems(other));
        }
    }

    proptest! {
        /// However it is wrapped, rm is one of the programs, or what there is does not show.
        #[test]
        fn a_wrapped_program_is_seen(wraps in prop::collection::vec(0_usize..12, 0..5)) {
            let all = [
                "env", "env A=1", "sudo", "sudo -u x", "nice -n 3", "nohup", "timeout 5", "busybox",
                "sh -c", "tini -s -p KILL --", "sg users -c", "faketime 0",
            ];
            let mut line: String = wraps.iter().map(|at| format!("{} ", all[*at])).collect();
            line.push_str("rm x");
            let (names, hidden) = seen(&line);
            prop_assert!(hidden != Hidden::No || names.contains(&"rm".to_owned()), "{}", line);
        }
    }
}

//! Handing an argument list through a remote login shell, unchanged.
//!
//! SSH carries one string, which the user's login shell on the host parses. The string made here means the
//! same to the sh, csh and fish families, so that in almost all cases the shell need not be known: safe
//! characters stand bare, everything else in single quotes, and the three characters that one of them
//! treats specially inside single quotes stand outside, behind a backslash: `'` (all), `\` (fish),
//! `!` (csh). What is left is the line feed, which csh wants behind a backslash inside the quotes and the
//! others must not have there.

/// The families of login shells, by how they read a line feed in single quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    /// sh, bash, dash, zsh, ksh, fish and whatever is not known.
    Posix,
    /// csh and tcsh.
    Csh,
}

impl Shell {
    /// Returns the family of a login shell's path.
    pub fn of(path: &str) -> Self {
        match path.rsplit('/').next() {
            Some("csh" | "tcsh") => Self::Csh,
            _ => Self::Posix,
        }
    }
}

/// Returns whether quoting these bytes takes knowing the shell.
pub(super) fn needs_shell(arg: &[u8]) -> bool {
    arg.contains(&b'\n')
}

/// Appends an argument, quoted. NUL bytes cannot be passed and must have been refused.
pub(super) fn quote(line: &mut Vec<u8>, arg: &[u8], shell: Shell) {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+,".contains(&byte);
    // A leading `%` names a job to some shells, and `=` expands in zsh.
    if !arg.is_empty() && arg.iter().all(|byte| bare(*byte)) && arg[0] != b'%' {
        line.extend_from_slice(arg);
        return;
    }
    if arg.is_empty() {
        line.extend_from_slice(b"''");
        return;
    }
    let mut open = false;
    for byte in arg {
        let outside = matches!(byte, b'\'' | b'\\' | b'!');
        if outside == open {
            line.push(b'\'');
            open = !open;
        }
        if outside || (*byte == b'\n' && shell == Shell::Csh) {
            line.push(b'\\');
        }
        line.push(*byte);
    }
    if open {
        line.push(b'\'');
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::ffi::OsStringExt as _;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn quoted(arg: &[u8]) -> String {
        let mut line = Vec::new();
        quote(&mut line, arg, Shell::Posix);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn plain_words_stay_readable() {
        assert_eq!(quoted(b"ls"), "ls");
        assert_eq!(quoted(b"--color=auto"), "'--color=auto'");
        assert_eq!(quoted(b""), "''");
        assert_eq!(quoted(b"it's"), "'it'\\''s'");
        assert_eq!(quoted(b"a\\b!"), "'a'\\\\'b'\\!");
    }

    /// Runs `printf '%s\0' ARGS` through a shell as sshd would, and returns what came out.
    fn round_trip(program: &str, args: &[Vec<u8>], shell: Shell) -> Vec<u8> {
        let mut line = b"exec printf '%s\\000'".to_vec();
        if shell == Shell::Csh {
            line = b"exec env printf '%s'\\\\'000'".to_vec();
        }
        for arg in args {
            line.push(b' ');
            quote(&mut line, arg, shell);
        }
        let output = Command::new(program)
            .arg("-c")
            .arg(std::ffi::OsString::from_vec(line))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        std::io::stderr().write_all(&output.stderr).unwrap();
        output.stdout
    }

    fn expected(args: &[Vec<u8>]) -> Vec<u8> {
        args.iter().flat_map(|arg| arg.iter().copied().chain([0])).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        #[test]
        fn every_byte_passes_through_real_shells(
            args in proptest::collection::vec(proptest::collection::vec(1u8..=255, 0..40), 1..6),
        ) {
            for program in ["sh", "bash", "dash"] {
                if Command::new(program).arg("-c").arg(":").status().is_ok() {
                    prop_assert_eq!(round_trip(program, &args, Shell::Posix), expected(&args), "{}", program);
                }
            }
        }
    }

    #[test]
    fn csh_and_fish_read_the_same_where_they_are_installed() {
        let args: Vec<Vec<u8>> =
            [&b"it's"[..], b"a!b", b"back\\slash", b"two\nlines", b"$HOME `id` *?[x] ~", b"\\"]
                .map(<[u8]>::to_vec)
                .into();
        for (program, shell) in [("tcsh", Shell::Csh), ("csh", Shell::Csh), ("fish", Shell::Posix)]
        {
            if Command::new(program).arg("-c").arg("exit 0").output().is_ok() {
                assert_eq!(round_trip(program, &args, shell), expected(&args), "{program}");
            }
        }
    }
}

//! A request made into the line that the remote login shell gets.

use std::collections::HashSet;
use std::time::Duration;

use occ_proto::exec::ExecRequest;
use occ_proto::text::sanitize;

use super::quote::{self, Shell};
use crate::ssh::marker;

/// Why a request cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadCommand(pub String);

/// A checked request.
#[derive(Debug, Clone)]
pub struct Command {
    request: ExecRequest,
    of_client: bool,
}

/// Goes into a directory and starts the program there. Login shells have words and exit codes of their own for one that is
/// not there; local.rs has these. Arguments: what the host is called, the directory, the same as a terminal may show it, the
/// program and its arguments. `printf`, since the `echo` of some shells makes control characters of `\033`.
const ENTER: &str = r#"cd "$1" >/dev/null 2>&1 || { w="no such directory"; [ -e "$1" ] && w="not a directory"; [ -d "$1" ] && w="permission denied"; { printf %s "occ: $2 on $0: $w"; echo; } >&2; exit 1; }; shift 2; exec "$@""#;

impl Command {
    /// Checks a request.
    pub fn new(request: ExecRequest) -> Result<Self, BadCommand> {
        let bad = |text: &str| Err(BadCommand(text.into()));
        match (&request.argv[..], &request.shell) {
            // The login shell, which is for people.
            ([], None) if request.tty.is_some() => {}
            ([], None) => return bad("argv is empty; name a program, or use shell"),
            ([_, ..], Some(_)) => return bad("argv and shell exclude each other"),
            ([], Some(line)) if line.trim().is_empty() => return bad("shell is empty"),
            ([], Some(line)) if line.contains('\0') => return bad("shell contains a NUL byte"),
            ([program, ..], None) => {
                if program.0.is_empty() {
                    return bad("the program's name is empty");
                }
                if program.0.starts_with(b"-") {
                    return bad("the program's name begins with '-'; write ./-name if it is one");
                }
                if program.0.contains(&b'=') {
                    return bad("the program's name contains '=', which would set a variable");
                }
                if request.argv.iter().any(|arg| arg.0.contains(&0)) {
                    return bad("an argument contains a NUL byte, which no program can receive");
                }
            }
            ([], Some(_)) => {}
        }
        for (name, value) in &request.env {
            let mut bytes = name.bytes();
            let valid = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !valid {
                return Err(BadCommand(format!("{name:?} is not a variable's name")));
            }
            if value.contains('\0') {
                return Err(BadCommand(format!("the value of {name} contains a NUL byte")));
            }
        }
        if let Some(cwd) = &request.cwd
            && (cwd.is_empty() || cwd.contains('\0'))
        {
            return bad("cwd is empty or contains a NUL byte");
        }
        if let Some(tty) = &request.tty {
            let is_term = |b: u8| b.is_ascii_alphanumeric() || b"-_+.".contains(&b);
            if tty.term.is_empty() || tty.term.len() > 64 || !tty.term.bytes().all(is_term) {
                return Err(BadCommand(format!("{:?} is no kind of terminal", tty.term)));
            }
        }
        if request.timeout_ms == Some(0) {
            return bad("a timeout of 0 would end the command before it began");
        }
        Ok(Self { request, of_client: false })
    }

    /// Returns the same with a limit where the request sets none.
    pub fn limited(mut self, limit: Option<Duration>) -> Self {
        let limit = limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        self.request.timeout_ms = self.request.timeout_ms.or(limit);
        self
    }

    /// Returns the same in a directory where the request names none.
    pub fn placed(mut self, directory: Option<String>) -> Self {
        self.request.cwd = self.request.cwd.or(directory);
        self
    }

    /// Returns the same as what a client asked for, and not something of the daemon's own: it is counted.
    pub fn of_client(mut self) -> Self {
        self.of_client = true;
        self
    }

    /// Returns whether it is counted.
    pub fn is_of_client(&self) -> bool {
        self.of_client
    }

    /// Returns the request.
    pub fn request(&self) -> &ExecRequest {
        &self.request
    }

    /// Returns how long the command may last, if that is limited.
    pub fn limit(&self) -> Option<Duration> {
        self.request.timeout_ms.map(Duration::from_millis)
    }

    /// Returns whether the line depends on the login shell.
    pub fn needs_shell(&self) -> bool {
        let request = &self.request;
        request.argv.iter().any(|arg| quote::needs_shell(&arg.0))
            || request.env.values().any(|value| quote::needs_shell(value.as_bytes()))
            || request.cwd.as_ref().is_some_and(|cwd| quote::needs_shell(cwd.as_bytes()))
    }

    /// Returns whether it is the login shell, as the host starts it for whoever logs in.
    pub fn is_bare_login(&self) -> bool {
        let request = &self.request;
        request.argv.is_empty()
            && request.shell.is_none()
            && request.cwd.is_none()
            && request.env.is_empty()
            && !request.clear_env
    }

    /// Returns the variables that a server may take beside the line. Where the environment is to have nothing else, it has to be
    /// set by the line.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let env = Some(&self.request.env).filter(|_| !self.request.clear_env);
        env.into_iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the line for a host. A marker goes into the program's environment. The program takes the shell's place by `exec`,
    /// so that it leads its process group and signals reach it: sshd signals the group of the process it started.
    pub fn line(&self, host: &str, shell: Shell, marker: Option<&str>) -> Vec<u8> {
        self.line_beside(&HashSet::new(), host, shell, marker)
    }

    /// Returns the same without the variables that the server has `taken`.
    pub fn line_beside(
        &self,
        taken: &HashSet<&str>,
        host: &str,
        shell: Shell,
        marker: Option<&str>,
    ) -> Vec<u8> {
        let request = &self.request;
        let env = request.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let env: Vec<_> = env.filter(|(name, _)| !taken.contains(name)).collect();
        let needs_env = !env.is_empty() || request.clear_env || marker.is_some();
        let raw = match &request.shell {
            Some(raw) if request.cwd.is_none() && !needs_env => return raw.clone().into_bytes(),
            raw => raw,
        };
        let mut line = b"exec ".to_vec();
        if let Some(cwd) = &request.cwd {
            line.extend_from_slice(b"sh -c ");
            quote::quote(&mut line, ENTER.as_bytes(), shell);
            line.push(b' ');
            quote::quote(&mut line, host.as_bytes(), shell);
            line.push(b' ');
            for directory in [cwd, &sanitize(cwd)] {
                enter(&mut line, directory, shell);
                line.push(b' ');
            }
        }
        // csh's own exec exits with 1 for a program that is not there.
        if needs_env || (shell == Shell::Csh && request.cwd.is_none()) {
            line.extend_from_slice(b"env ");
            if request.clear_env {
                line.extend_from_slice(b"-i ");
            }
            let marker = marker.map(|marker| (marker::VARIABLE, marker));
            for (name, value) in env.into_iter().chain(marker) {
                line.extend_from_slice(name.as_bytes());
                line.push(b'=');
                quote::quote(&mut line, value.as_bytes(), shell);
                line.push(b' ');
            }
        }
        match raw {
            Some(raw) => {
                line.extend_from_slice(b"$SHELL -c ");
                quote::quote(&mut line, raw.as_bytes(), shell);
            }
            // As a login would, where the shell has to be told of a directory or a variable first.
            None if request.argv.is_empty() => line.extend_from_slice(b"$SHELL -l"),
            None => {
                for (at, arg) in request.argv.iter().enumerate() {
                    if at > 0 {
                        line.push(b' ');
                    }
                    quote::quote(&mut line, &arg.0, shell);
                }
            }
        }
        line
    }
}

/// Appends the directory for [`ENTER`]. `~/` means the remote home, also inside our quotes.
fn enter(line: &mut Vec<u8>, cwd: &str, shell: Shell) {
    match cwd.strip_prefix("~/") {
        _ if cwd == "~" => line.extend_from_slice(b"\"$HOME\""),
        Some(rest) => {
            line.extend_from_slice(b"\"$HOME\"/");
            quote::quote(line, rest.as_bytes(), shell);
        }
        None => {
            // `cd -x` would be an option and `cd -` the previous directory.
            if cwd.starts_with('-') {
                line.extend_from_slice(b"./");
            }
            quote::quote(line, cwd.as_bytes(), shell);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(argv: &[&str]) -> ExecRequest {
        ExecRequest { argv: argv.iter().map(|a| (*a).into()).collect(), ..Default::default() }
    }

    fn line(request: ExecRequest) -> String {
        String::from_utf8(Command::new(request).unwrap().line("h", Shell::Posix, None)).unwrap()
    }

    #[test]
    fn the_program_replaces_the_shell() {
        assert_eq!(line(request(&["ls", "-l", "a b"])), "exec ls -l 'a b'");
        let mut full = request(&["make"]);
        full.cwd = Some("~/my src".into());
        full.env.insert("K".into(), "v w".into());
        let enter = |rest: &str| format!("exec sh -c '{ENTER}' h {rest}");
        assert_eq!(line(full), enter("\"$HOME\"/'my src' \"$HOME\"/'my src' env K='v w' make"));
        let mut dash = request(&["pwd"]);
        dash.cwd = Some("-".into());
        assert_eq!(line(dash), enter("./- ./- pwd"));
    }

    #[test]
    fn csh_is_not_asked_to_find_a_program() {
        let csh = |request| {
            let line = Command::new(request).unwrap().line("h", Shell::Csh, None);
            String::from_utf8(line).unwrap()
        };
        assert_eq!(csh(request(&["ls"])), "exec env ls");
    }

    #[test]
    fn every_login_shell_tells_the_same_of_what_is_not_there() {
        for login in ["sh", "bash", "dash", "zsh", "tcsh", "csh", "fish"] {
            let run = |request| {
                let line = Command::new(request).unwrap().line("h", Shell::of(login), None);
                let line = String::from_utf8(line).unwrap();
                std::process::Command::new(login).args(["-c", &line]).output()
            };
            // Not all are everywhere.
            let Ok(program) = run(request(&["no-such-program"])) else { continue };
            assert_eq!(program.status.code(), Some(127), "{login}: {program:?}");
            for (cwd, why) in
                [("/no/su ch", "no such directory"), ("/etc/passwd", "not a directory")]
            {
                let there = ExecRequest { cwd: Some(cwd.into()), ..request(&["true"]) };
                let told = run(there).unwrap();
                let words = String::from_utf8_lossy(&told.stderr);
                assert_eq!(words, format!("occ: {cwd} on h: {why}\n"), "{login}");
                assert_eq!(told.status.code(), Some(1), "{login}");
            }
            let there = ExecRequest { cwd: Some("/usr".into()), ..request(&["no-such-program"]) };
            assert_eq!(run(there).unwrap().status.code(), Some(127), "{login}");
            let there = ExecRequest { cwd: Some("/usr".into()), ..request(&["pwd"]) };
            assert_eq!(run(there).unwrap().stdout, b"/usr\n", "{login}");
        }
    }

    #[test]
    fn a_shell_line_stays_as_it_is_unless_it_needs_a_place() {
        let mut raw = ExecRequest { shell: Some("a; b | c".into()), ..Default::default() };
        assert_eq!(line(raw.clone()), "a; b | c");
        raw.cwd = Some("/srv".into());
        assert_eq!(line(raw), format!("exec sh -c '{ENTER}' h /srv /srv $SHELL -c 'a; b | c'"));
    }

    #[test]
    fn a_marker_is_a_variable_more() {
        let marked = |request| {
            let line = Command::new(request).unwrap().line("h", Shell::Posix, Some("m"));
            String::from_utf8(line).unwrap()
        };
        assert_eq!(marked(request(&["ls"])), "exec env OCC_EXEC_ID=m ls");
        let raw = ExecRequest { shell: Some("a; b".into()), ..Default::default() };
        assert_eq!(marked(raw), "exec env OCC_EXEC_ID=m $SHELL -c 'a; b'");
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let with = |change: fn(&mut ExecRequest)| {
            let mut request = request(&["a"]);
            change(&mut request);
            Command::new(request)
        };
        assert!(with(|r| r.argv.clear()).is_err());
        assert!(with(|r| r.argv[0] = "-c".into()).is_err());
        assert!(with(|r| r.argv[0] = "".into()).is_err());
        assert!(with(|r| r.argv.push("a\0b".into())).is_err());
        assert!(with(|r| r.shell = Some("x".into())).is_err());
        assert!(with(|r| drop(r.env.insert("A B".into(), String::new()))).is_err());
        assert!(with(|r| drop(r.env.insert("A=B".into(), String::new()))).is_err());
        assert!(with(|r| r.cwd = Some(String::new())).is_err());
        assert!(with(|r| r.timeout_ms = Some(0)).is_err());
    }
}

//! The login user of the fixtures.
//!
//! Root's login shell may read slow start-up files, and nothing of the person's own account may be
//! touched, so as root a system user of our own is used.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::keys::run;
use crate::require::{is_root, require_root};

/// The system user that [`test_user`] creates.
pub const TEST_USER: &str = "occ-test";

/// Taken while the user is created and while its files are changed: tests run in many processes.
const LOCK: &str = "/tmp/.occ-test-user.lock";

/// Returns the lock on the test user, released when dropped.
pub(crate) fn lock() -> File {
    let file = File::options().create(true).append(true).open(LOCK).unwrap();
    file.lock().unwrap();
    file
}

/// Returns the login name for the fixtures: as root `occ-test`, created on first use with `/bin/sh`
/// and a home of its own; else the current user.
pub fn test_user() -> String {
    static USER: OnceLock<String> = OnceLock::new();
    let make = || {
        if !is_root() {
            return current_user();
        }
        let _lock = lock();
        if home_of(TEST_USER).is_none() {
            // `*` is no password at all; useradd's own `!` means locked, which sshd refuses.
            run(Command::new("useradd")
                .args(["--system", "--create-home", "--home-dir", "/var/lib/occ-test"])
                .args(["--shell", "/bin/sh", "--password", "*", TEST_USER]));
        }
        TEST_USER.to_owned()
    };
    USER.get_or_init(make).clone()
}

/// The system user that [`password_user`] creates, and its password.
pub const PASSWORD_USER: (&str, &str) = ("occ-test-pw", "correct horse");

/// Returns a login name and its password, created on first use; nothing unless root runs this, which the output
/// then says.
///
/// # Panics
/// When this is not root and `OCC_REQUIRE_SSHD=1`.
pub fn password_user() -> Option<(&'static str, &'static str)> {
    if !require_root("a user with a password") {
        return None;
    }
    let (name, password) = PASSWORD_USER;
    let _lock = lock();
    if home_of(name).is_none() {
        run(Command::new("useradd")
            .args(["--system", "--create-home", "--home-dir", "/var/lib/occ-test-pw"])
            .args(["--shell", "/bin/sh", name]));
    }
    // Each time: a run that was killed in between left it without.
    let mut child = Command::new("chpasswd").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{name}:{password}\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "chpasswd failed");
    Some(PASSWORD_USER)
}

/// Returns the login name of an account that has expired, created on first use; nothing unless root runs this, which
/// the output then says.
///
/// # Panics
/// When this is not root and `OCC_REQUIRE_SSHD=1`.
pub fn expired_user() -> Option<&'static str> {
    const NAME: &str = "occ-test-old";
    if !require_root("an account that has expired") {
        return None;
    }
    let _lock = lock();
    if home_of(NAME).is_none() {
        run(Command::new("useradd")
            .args(["--system", "--create-home", "--home-dir", "/var/lib/occ-test-old"])
            .args(["--shell", "/bin/sh", "--password", "*", NAME]));
    }
    // useradd does not do this to a system user.
    run(Command::new("usermod").args(["--expiredate", "1", NAME]));
    Some(NAME)
}

/// A login of one test's own, and a group that it is no member of. Both are gone when this is dropped. It needs root.
#[derive(Debug)]
pub struct OwnLogin {
    name: String,
}

impl OwnLogin {
    /// Makes both.
    #[expect(clippy::new_without_default, reason = "it changes the machine")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("occ-own{}-{number}", std::process::id());
        let _lock = lock();
        run(Command::new("groupadd").arg("--system").arg(format!("{name}-g")));
        run(Command::new("useradd")
            .args(["--system", "--no-create-home", "--home-dir", "/", "--shell", "/bin/sh"])
            .args(["--password", "*", &name]));
        Self { name }
    }

    /// Returns the login name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives a file to the group, whose members alone may use it.
    pub fn give(&self, path: &Path) {
        run(Command::new("chgrp").arg(format!("{}-g", self.name)).arg(path));
        run(Command::new("chmod").arg("660").arg(path));
    }

    /// Has the login join the group. Processes that it has do not notice.
    pub fn join(&self) {
        self.join_group(&format!("{}-g", self.name));
    }

    /// The same with a group that is there.
    pub fn join_group(&self, group: &str) {
        let _lock = lock();
        run(Command::new("usermod").args(["-aG", group, &self.name]));
    }
}

impl Drop for OwnLogin {
    fn drop(&mut self) {
        let _lock = lock();
        // Its processes may not have ended yet.
        let _ = Command::new("userdel").arg("--force").arg(&self.name).output();
        let _ = Command::new("groupdel").arg(format!("{}-g", self.name)).output();
    }
}

/// Returns the command as somebody runs it whom the modes of files bind, which they do not bind root.
pub fn bound_by_modes(plain: &Command) -> Command {
    let mut command = Command::new(plain.get_program());
    if is_root() {
        command = Command::new("setpriv");
        command.args(["--bounding-set", "-dac_override,-dac_read_search"]);
        command.arg(plain.get_program());
    }
    command.args(plain.get_args()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Returns the name of the user who runs this process.
pub fn current_user() -> String {
    run(Command::new("id").arg("-un")).trim().to_owned()
}

/// Returns a user's home directory as `/etc/passwd` has it.
pub fn home_of(user: &str) -> Option<PathBuf> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(user))?;
    line.split(':').nth(5).map(PathBuf::from)
}

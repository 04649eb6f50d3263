//! Skipping a test whose server is not installed, visibly, or failing it where it must run.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Finds a program that `cargo xtask test` fetched for the tests.
pub fn find_fetched(name: &str) -> Result<PathBuf, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-programs").join(name);
    if path.is_file() { Ok(path) } else { Err(format!("{name} was not fetched")) }
}

/// Returns whether a test that needs `what` may go on.
///
/// # Panics
/// When it is not available although the variable `env` is `1`, as `cargo xtask test` sets it.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen in its output")]
pub fn require(what: &str, available: Result<(), String>, env: &str) -> bool {
    let Err(reason) = available else { return true };
    assert!(
        std::env::var_os(env).is_none_or(|value| value != "1"),
        "{what} is required by {env}=1, but: {reason}"
    );
    eprintln!("SKIPPED: this test needs {what}: {reason} ({env}=1 makes this a failure)");
    false
}

/// Returns where a program is: an absolute path from the usual system directories or `PATH`.
pub fn find_program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
    std::env::split_paths(&path)
        .chain(system.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_absolute() && candidate.is_file())
        .ok_or_else(|| format!("{name} is not installed"))
}

/// Returns whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns whether a test that needs root, for `what`, may go on; says so in its output when not.
///
/// # Panics
/// When this is not root and `OCC_REQUIRE_SSHD=1`, which `cargo xtask test` sets as root.
pub fn require_root(what: &str) -> bool {
    let available = is_root().then_some(()).ok_or_else(|| "this is not root".to_owned());
    require(what, available, "OCC_REQUIRE_SSHD")
}

/// Returns whether a test may go on that needs namespaces of its own, which `unshare` makes with these options; says
/// so in its output when not.
///
/// # Panics
/// When there are none and `OCC_REQUIRE_SYSTEMD=1`, as for systemd, which is run in some, too.
pub fn require_namespaces(options: &[&str]) -> bool {
    let tried = Command::new("unshare").args(options).arg("true").output();
    let available = match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("unshare: {error}")),
    };
    require(&format!("unshare {}", options.join(" ")), available, "OCC_REQUIRE_SYSTEMD")
}

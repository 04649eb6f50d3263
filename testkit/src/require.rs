//! Skipping a test whose server is not installed, visibly, or failing it where it must run.

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
pub fn find_program(name: &str) -> Result<std::path::PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
    std::env::split_paths(&path)
        .chain(system.iter().map(std::path::PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_absolute() && candidate.is_file())
        .ok_or_else(|| format!("{name} is not installed"))
}

/// Returns whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

//! Programs of others that come as Python packages, each in an environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages::is_installed;
use crate::{Failed, run};

/// Under which name tests look for it, what it is made of, every package with its version, so that what it makes up is the
/// same each time, and the program. Of what has none it is the interpreter.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("schemathesis", "schemathesis.txt", "schemathesis"),
    ("prometheus-client", "prometheus-client.txt", "python3"),
];

/// Returns the directory in which the tests look for them.
fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-programs")
}

/// Fetches what is missing; where that cannot be done, says what is missing and goes on.
pub(crate) fn install() {
    for (name, list, entry) in PROGRAMS {
        let link = dir().join(name);
        if link.is_file() {
            continue;
        }
        if !is_installed("pip3") {
            eprintln!("xtask: there is no pip3. The tests that need {name} are skipped.");
            continue;
        }
        if let Err(Failed(why)) = fetch(name, list, entry, &link) {
            eprintln!("xtask: {why}. The tests that need {name} are skipped.");
        }
    }
}

fn fetch(name: &str, list: &str, entry: &str, link: &Path) -> Result<(), Failed> {
    let dir = dir();
    std::fs::create_dir_all(&dir)?;
    let environment = dir.join(format!("{name}.venv"));
    // Debian has what makes one with a pip of its own in yet another package.
    run(Command::new("python3")
        .args(["-m", "venv", "--clear", "--without-pip"])
        .arg(&environment))?;
    let mut pip = Command::new("pip3");
    pip.arg("--python").arg(environment.join("bin/python"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    run(pip.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(list)))?;
    // The link is the last: a fetch that was cut short leaves none, and begins anew.
    // One that leads nowhere is of a checkout that was moved.
    if link.is_symlink() {
        std::fs::remove_file(link)?;
    }
    std::os::unix::fs::symlink(environment.join("bin").join(entry), link)?;
    Ok(())
}

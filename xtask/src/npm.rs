//! Programs of others that come as npm packages: real agents for the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages::is_installed;
use crate::{Failed, run};

/// The program, its package and version, and where it is in that.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("opencode", "opencode-linux-x64-baseline@1.18.33", "package/bin/opencode"),
    (
        "codex",
        "@openai/codex@0.171.0-linux-x64",
        "package/vendor/x86_64-unknown-linux-musl/bin/codex",
    ),
];

/// Returns the directory in which the tests look for them.
fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-programs")
}

/// Fetches what is missing; where that cannot be done, says what is missing and goes on.
pub(crate) fn install() {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return;
    }
    for (name, package, path) in PROGRAMS {
        let program = dir().join(name);
        if program.is_file() {
            continue;
        }
        if !is_installed("npm") {
            eprintln!("xtask: there is no npm. The tests that need {name} are skipped.");
            continue;
        }
        if let Err(Failed(why)) = fetch(package, path, &program) {
            eprintln!("xtask: {why}. The tests that need {name} are skipped.");
        }
    }
}

fn fetch(package: &str, path: &str, program: &Path) -> Result<(), Failed> {
    let dir = dir();
    std::fs::create_dir_all(&dir)?;
    let packed =
        Command::new("npm").current_dir(&dir).args(["pack", "--silent", package]).output()?;
    let archive = String::from_utf8_lossy(&packed.stdout).trim().to_owned();
    if !packed.status.success() || archive.is_empty() {
        return Err(Failed(format!("npm pack {package} failed")));
    }
    let archive = dir.join(archive);
    run(Command::new("tar").arg("-C").arg(&dir).arg("-xzf").arg(&archive).arg(path))?;
    std::fs::rename(dir.join(path), program)?;
    std::fs::remove_file(archive)?;
    std::fs::remove_dir_all(dir.join("package"))?;
    Ok(())
}

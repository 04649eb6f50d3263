//! `cargo xtask`: the commands for working on this repository.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool that talks to a person on a terminal"
)]

mod dist;
mod npm;
mod packages;
mod pip;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask: the commands for working on this repository

Usage: cargo xtask <command>

  demo [--keep]   occd and occ at work on a throw-away SSH server, in under a minute
  test [ARGS]     install what the tests need (as root, with apt, npm and pip), build, run every test;
                  ARGS go to the runner: cargo nextest run, or cargo test without nextest
  dist [--programs DIR] [--to DIR] [--tree DIR]
                  build occd and occ as users get them, into target/dist, and pack them there, with units,
                  completions, man pages and docs: a tar.gz and a .deb. --programs packs built ones,
                  --to packs elsewhere, --tree makes a directory of what would be packed
  bench [NAMES] [--full]
                  the same, and measure; needs a quiet machine; --full copies files of 2 GB
  soak [SECONDS [SEED]]
                  twenty hosts behind links that break at random, and what must hold whatever breaks;
                  three minutes, and a seed that it prints
  soak readers [SECONDS]
                  a reader of 5 MB/s for ten minutes, and stopped ones for two, beside short commands
";

/// Why a command failed. Whatever it ran has said more.
struct Failed(String);

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        []
        | ["help" | "-h" | "--help"]
        | ["demo" | "test" | "dist" | "bench" | "soak", "-h" | "--help"] => {
            print!("{HELP}");
            Ok(())
        }
        ["demo", ref rest @ ..] => demo(rest),
        ["test", ref rest @ ..] => test(rest),
        ["dist", ref rest @ ..] => dist(rest),
        ["bench", ref rest @ ..] => bench(rest),
        ["soak", ref rest @ ..] => soak(rest),
        [unknown, ..] => {
            eprint!("Error: there is no command {unknown:?}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(why)) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Builds everything the demo runs and becomes the demo, so that a signal reaches nobody else.
fn demo(args: &[&str]) -> Result<(), Failed> {
    let packages = ["-p", "occd", "-p", "occ-cli", "-p", "testkit"];
    let programs = ["--bin", "occd", "--bin", "occ", "--bin", "demo"];
    run(cargo().args(["build", "--quiet", "--locked"]).args(packages).args(programs))?;
    // This program and those are built into one directory.
    let demo = std::env::current_exe()?.with_file_name("demo");
    Err(Command::new(&demo).args(args).exec().into())
}

fn soak(args: &[&str]) -> Result<(), Failed> {
    let packages = ["-p", "occd", "-p", "occ-cli", "-p", "testkit"];
    let programs = ["--bin", "occd", "--bin", "occ", "--bin", "soak"];
    run(cargo().args(["build", "--quiet", "--locked"]).args(packages).args(programs))?;
    let soak = std::env::current_exe()?.with_file_name("soak");
    Err(Command::new(&soak).args(args).exec().into())
}

fn test(args: &[&str]) -> Result<(), Failed> {
    let args = args.strip_prefix(&["--"]).unwrap_or(args);
    packages::install();
    npm::install();
    pip::install();
    // With the tests, so that all is built with the same features, once.
    run(cargo().args(["build", "--workspace", "--locked", "--bins", "--tests"]))?;
    let mut settings = Vec::new();
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    for (variable, servers) in packages::SERVERS {
        let installed = || servers.iter().all(|program| packages::is_installed(program));
        if ci || (packages::is_root() && installed()) {
            eprintln!("xtask: {variable}=1");
            settings.push((variable, "1"));
        }
    }
    let nextest = cargo().args(["nextest", "--version"]).output();
    if !nextest.is_ok_and(|output| output.status.success()) {
        let all = ["test", "--workspace", "--locked", "--no-fail-fast"];
        return run(cargo().args(all).args(args).envs(settings));
    }
    // The doc tests first: the last words are then the summary of all others.
    let docs = if args.is_empty() {
        run(cargo().args(["test", "--quiet", "--doc", "--workspace", "--locked"]))
    } else {
        Ok(())
    };
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "--locked"]);
    let given = |names: [&str; 2]| args.iter().any(|arg| names.iter().any(|n| arg.starts_with(n)));
    if !given(["-p", "--package"]) {
        nextest.arg("--workspace");
    }
    if !given(["--failure-output", "--no-capture"]) {
        // Each failure is shown as it happens; shown again at the end they would hide the summary.
        nextest.args(["--failure-output", "immediate"]);
    }
    if !given(["--test-threads", "-j"]) && !given(["--no-capture", "--nocapture"]) {
        // Many tests wait for a time limit to pass, which takes no processor.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        nextest.args(["--test-threads", &(cores + 2).to_string()]);
    }
    nextest.args(args).envs(settings);
    let status = announce(&mut nextest).status()?;
    if !status.success() {
        // It has said what failed, and its summary is the last word.
        std::process::exit(status.code().unwrap_or(1));
    }
    docs
}

/// Builds the programs as users get them, and packs them.
fn dist(args: &[&str]) -> Result<(), Failed> {
    let wish = dist::Wish::of(args)?;
    let programs = match &wish.programs {
        Some(programs) => programs.clone(),
        None => programs()?,
    };
    for made in dist::pack(&wish, &programs)? {
        println!("{}", made.display());
    }
    Ok(())
}

/// Builds the programs as users get them, and returns where they are.
fn programs() -> Result<PathBuf, Failed> {
    run(cargo().args(["build", "--release", "--locked", "-p", "occd"]))?;
    let mut occ = cargo();
    occ.args(["rustc", "--release", "--locked", "-p", "occ-cli", "--bin", "occ"]);
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        // A third of the time of an `occ status` would go into loading shared libraries. Not for occd:
        // glibc resolves host names by modules that it loads.
        occ.args(["--", "-C", "target-feature=+crt-static"]);
    }
    run(&mut occ)?;
    let target = target_dir();
    let dist = target.join("dist");
    std::fs::create_dir_all(&dist)?;
    for program in ["occd", "occ"] {
        // A new file, because a running program cannot be written to.
        let to = dist.join(program);
        let staged = dist.join(format!(".{program}.new"));
        std::fs::copy(target.join("release").join(program), &staged)?;
        std::fs::rename(&staged, &to)?;
        println!("{}", to.display());
    }
    Ok(dist)
}

/// Builds the programs as users get them and measures them.
fn bench(args: &[&str]) -> Result<(), Failed> {
    let dist = programs()?;
    let mut bench = cargo();
    bench
        .args(["run", "--quiet", "--locked", "-p", "testkit", "--bin", "bench", "--"])
        .args(args)
        .env("OCC_BIN", dist.join("occ"))
        .env("OCCD_BIN", dist.join("occd"));
    Err(announce(&mut bench).exec().into())
}

/// Returns the directory that this program, too, was built into: it is in `target/debug`.
fn target_dir() -> PathBuf {
    let own = std::env::current_exe().ok();
    let target = own.as_deref().and_then(Path::parent).and_then(Path::parent);
    target.map_or_else(|| root().join("target"), Path::to_owned)
}

/// Returns the cargo that runs this program, in the workspace's directory.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Prints a command as a person would type it.
fn announce(command: &mut Command) -> &mut Command {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let mut line = format!("$ {}", program.display());
    for word in command.get_args() {
        line.push_str(&format!(" {}", word.display()));
    }
    eprintln!("{line}");
    command
}

/// Prints a command, runs it and fails if it does.
fn run(command: &mut Command) -> Result<(), Failed> {
    let status = announce(command).status()?;
    if status.success() {
        return Ok(());
    }
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().display();
    let verb = command.get_args().next().unwrap_or_default().display();
    Err(Failed(format!("{name} {verb} ended with {status}")))
}

//! Files there and back, beside tar over ssh, rsync and scp.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Bench, FAR_BYTES, NEAR_BYTES, median, ms};

const ROUNDS: usize = 5;
/// How many small files, and the bytes of each.
const SMALL: (usize, usize) = (5000, 4096);
/// What is enough to see how fast a long file goes; `--full` moves [`NEAR_BYTES`].
const LONG: u64 = 500_000_000;
/// What occ chooses on a machine with AES instructions.
const CIPHER: &str = "aes128-gcm@openssh.com";

/// A copy by one program: to its goal, which nothing is at.
struct Way<'a> {
    name: String,
    goal: &'a str,
    command: Command,
}

impl<'a> Way<'a> {
    fn new(name: impl Into<String>, goal: &'a str, command: Command) -> Self {
        Self { name: name.into(), goal, command }
    }
}

/// A directory in memory, so that no disk is what is measured, which both ends may write to.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory } else { Path::new("/tmp") };
        let dir = tempfile::Builder::new().prefix("occ-bench-").tempdir_in(parent).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        Self(dir)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Writes bytes that nothing compresses.
fn fill(path: &Path, bytes: u64) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    let (mut block, mut left) = (vec![0; 1 << 20], bytes);
    let mut random = fastrand::Rng::with_seed(bytes);
    while left > 0 {
        random.fill(&mut block);
        let length = block.len().min(usize::try_from(left).unwrap_or(block.len()));
        file.write_all(&block[..length]).unwrap();
        left -= length as u64;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

fn clear(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir_all(path);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Measures all ways in turns. Returns the medians.
fn in_turns(goal: &Path, rounds: usize, ways: &mut [Way<'_>]) -> Vec<Duration> {
    let mut times = vec![Vec::new(); ways.len()];
    // The first round warms up.
    for round in 0..=rounds {
        for (way, times) in ways.iter_mut().zip(&mut times) {
            clear(goal);
            let begun = Instant::now();
            let status = way.command.status().unwrap();
            let time = begun.elapsed();
            assert!(status.success(), "{:?} ended with {status}", way.command);
            if round > 0 {
                times.push(time);
            }
        }
    }
    clear(goal);
    times.iter_mut().map(|times| median(times)).collect()
}

impl Bench {
    pub(super) fn files(&mut self) {
        let place = Place::new();
        self.small_files(&place);
        let bytes = if self.full { NEAR_BYTES } else { LONG };
        self.long_file(&place, "near", bytes, ROUNDS, "≥ 1.5");
    }

    pub(super) fn far_files(&mut self) {
        self.long_file(&Place::new(), "far", FAR_BYTES, 3, "≥ 3");
    }

    fn small_files(&mut self, place: &Place) {
        let (source, goal) = (place.at("source"), place.at("goal"));
        let (count, length) = SMALL;
        for n in 0..count {
            let dir = source.join(format!("dir-{}", n / 100));
            fs::create_dir_all(&dir).unwrap();
            fill(&dir.join(format!("file-{n}")), length as u64);
        }
        let config = text(&self.ssh_config).to_owned();
        let (from, to) = (text(&source), text(&goal));
        let tar = |host: &str| {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!(
                "tar -cf - -C {from} . | ssh -F {config} {host} 'mkdir {to} && exec tar -xf - -C {to}'"
            ));
            shell
        };
        let rsync = |host: &str| {
            let mut rsync = Command::new("rsync");
            rsync.args(["-a", "-e", &format!("ssh -F {config}")]);
            rsync.arg(format!("{host}:{from}/")).arg(to);
            rsync
        };
        let master = |name: &str| format!("{name} over a ControlMaster");
        let up = self.occ(&["cp", "-q", "-r", from, &format!("near:{to}")]);
        let down = self.occ(&["cp", "-q", "-r", &format!("near:{from}"), to]);
        for (title, mut ways) in [
            (
                "to a host",
                [
                    Way::new("`occ cp -r`", "", up),
                    Way::new("`tar | ssh`", "≤ 1.1", tar("near")),
                    Way::new(master("`tar | ssh`"), "", tar("near-master")),
                ],
            ),
            (
                "from a host",
                [
                    Way::new("`occ cp -r`", "", down),
                    Way::new("`rsync -a`", "≤ 1.1", rsync("near")),
                    Way::new(master("`rsync -a`"), "", rsync("near-master")),
                ],
            ),
        ] {
            let times = in_turns(&goal, ROUNDS, &mut ways);
            self.title_with(&format!("{count} files of {length} bytes {title}"), NOTE);
            let others: Vec<(&str, Duration, &str)> =
                (1..3).map(|at| (&*ways[at].name, times[at], ways[at].goal)).collect();
            self.rows((&ways[0].name, times[0]), &others);
        }
        clear(&source);
    }

    fn long_file(&mut self, place: &Place, host: &str, bytes: u64, rounds: usize, wanted: &str) {
        let (source, goal) = (place.at("source"), place.at("goal"));
        fill(&source, bytes);
        let (here, from, to) = (text(&source), text(&source), text(&goal));
        let there = |path: &str| format!("{host}:{path}");
        let config = text(&self.ssh_config).to_owned();
        let scp = |options: &[&str], from: &str, to: &str| {
            let mut scp = Command::new("scp");
            scp.args(["-q", "-F", &config]).args(options).args([from, to]);
            scp
        };
        for (title, from, to) in
            [("to the host", here.to_owned(), there(to)), ("from the host", there(from), to.into())]
        {
            let fast = format!("`scp`, {CIPHER}");
            let mut ways = [
                Way::new("`occ cp`", "", self.occ(&["cp", "-q", &from, &to])),
                Way::new("`scp`, default cipher", wanted, scp(&[], &from, &to)),
                Way::new(fast, "", scp(&["-c", CIPHER], &from, &to)),
            ];
            let times = in_turns(&goal, rounds, &mut ways);
            let note = format!("{NOTE} In this table a ratio is how many times as fast occ is.");
            let megabytes = bytes / 1_000_000;
            self.title_with(&format!("A file of {megabytes} MB {title}, {host}"), &note);
            let speed = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
            for (way, time) in ways.iter().zip(&times) {
                let ratio = match way.goal.is_empty() && *time == times[0] {
                    true => String::new(),
                    false => format!("{:.2}", time.as_secs_f64() / times[0].as_secs_f64()),
                };
                let (name, goal) = (&way.name, way.goal);
                self.say(&format!(
                    "| {name} | {} ({:.0} MB/s) | {ratio} | {goal} |",
                    ms(*time),
                    speed(*time)
                ));
            }
        }
        clear(&source);
    }
}

const NOTE: &str = "The files are in memory at both ends.";

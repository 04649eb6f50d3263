//! What somebody who is attached to a session waits for after a broken link.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use testkit::wait::blocking::wait_until;

use super::{Bench, ONE_WAY, median, ms};

/// Cuts.
const ROUNDS: usize = 10;
/// Nothing takes so long.
const GUARD: Duration = Duration::from_secs(60);
/// Writes a line every 10 ms.
const TICKS: &str = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done";

impl Bench {
    /// The first byte that was missed, once the link is back.
    pub(super) fn session(&mut self) {
        self.rig.occ_ok(&[
            "session", "start", "--host", "far", "--name", "ticks", "--", "sh", "-c", TICKS,
        ]);
        let mut attach = self.occ(&["session", "attach", "ticks", "-n"]);
        let mut attach = attach.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = attach.stdout.take().unwrap();
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send((Instant::now(), line.parse::<u64>().unwrap())).is_err() {
                    return;
                }
            }
        });
        let (_, mut next) = lines.recv_timeout(GUARD).unwrap();
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            self.far.refuse(true);
            self.far.reset_all();
            let state = || self.rig.http("GET", "/v1/hosts/far", &[], None).json()["state"].clone();
            wait_until("the host to be down", GUARD, state, |state| state != "connected");
            // What was on its way is not what was missed.
            for (_, line) in lines.try_iter() {
                assert_eq!(line, next + 1);
                next = line;
            }
            self.far.refuse(false);
            self.rig.occ_ok(&["reconnect", "--host", "far"]);
            let back = Instant::now();
            let (at, line) = lines.recv_timeout(GUARD).unwrap();
            assert_eq!(line, next + 1, "nothing is lost, nothing comes twice");
            next = line;
            times.push(at.saturating_duration_since(back));
        }
        let mut typed = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let mut again = self.occ(&["session", "attach", "ticks", "-n", "--from-start"]);
            let mut again = again.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            again.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
            typed.push(begun.elapsed());
            again.kill().unwrap();
            again.wait().unwrap();
        }
        let note = "A session on the far host (50 ms) writes a line every 10 ms. The first byte that was missed: from the moment at \
                    which the host is connected again, for who was attached when the link was cut; and from the moment at which \
                    the command is typed.";
        self.title_with("Attached to a session, after a cut", note);
        let limit = ms(2 * ONE_WAY + Duration::from_millis(50));
        for (what, times) in [("attached before", &mut times), ("typed anew", &mut typed)] {
            let time = ms(median(times));
            self.say(&format!("| `occ session attach`, {what} | {time} | | ≤ {limit} |"));
        }
        attach.kill().unwrap();
        attach.wait().unwrap();
        self.rig.occ_ok(&["session", "rm", "--force", "ticks"]);
    }
}

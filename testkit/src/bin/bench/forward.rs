//! Bytes through forwards, beside ssh's own with the same cipher.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use testkit::wait::blocking;

use super::{Bench, median, ms};

/// Guards against hanging.
const GUARD: Duration = Duration::from_secs(30);
const ROUNDS: usize = 5;
/// What occ chooses on a machine with AES instructions.
const CIPHER: &str = "aes128-gcm@openssh.com";
const BYTES: u64 = 1_000_000_000;
/// Requests one after the other, each over a connection of its own.
const REQUESTS: u32 = 200;

/// The ssh program, which forwards.
struct Ssh(Child);

impl Drop for Ssh {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy)]
enum Way {
    FromHost,
    ToHost,
}

impl Bench {
    pub(super) fn forward(&mut self) {
        let (source, sink) = (serve(source), serve(sink));
        let echo = serve(|mut client| io::copy(&mut client.try_clone()?, &mut client).map(drop));
        let ports = [source, sink, echo];
        let ours = ports.map(|port| {
            let spec = format!("0:localhost:{port}");
            let said = self.rig.occ_ok(&["forward", "add", "-q", "--host", "near", "-L", &spec]);
            said.trim().rsplit(':').next().unwrap().parse::<u16>().unwrap()
        });
        let theirs = ports.map(|_| testkit::free_port());
        let mut command: Command = self.ssh(&["-N", "-c", CIPHER]);
        for (near, far) in theirs.iter().zip(ports) {
            command.arg("-L").arg(format!("{near}:localhost:{far}"));
        }
        let _ssh = Ssh(command.arg("near").spawn().unwrap());
        for port in theirs {
            blocking::wait_for("ssh's forwards", GUARD, || {
                TcpStream::connect(("127.0.0.1", port)).ok()
            });
        }
        for (at, way, title) in [
            (0, Way::FromHost, "A forward, from the host"),
            (1, Way::ToHost, "A forward, to the host"),
        ] {
            let [mut occ, mut ssh] = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                occ.push(moved(ours[at], way));
                ssh.push(moved(theirs[at], way));
            }
            let note = "In this table a ratio is how many times as fast occ is.";
            self.title_with(&format!("{title}, {} MB", BYTES / 1_000_000), note);
            let (occ, ssh) = (median(&mut occ), median(&mut ssh));
            let speed = |time: Duration| BYTES as f64 / 1e6 / time.as_secs_f64();
            self.say(&format!("| `occ forward -L` | {} ({:.0} MB/s) | | |", ms(occ), speed(occ)));
            let ratio = ssh.as_secs_f64() / occ.as_secs_f64();
            self.say(&format!(
                "| `ssh -L`, {CIPHER} | {} ({:.0} MB/s) | {ratio:.2} | ≥ 0.9 |",
                ms(ssh),
                speed(ssh)
            ));
        }
        let [mut occ, mut ssh] = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            occ.push(asked(ours[2]));
            ssh.push(asked(theirs[2]));
        }
        self.title("A connection through a forward, with a question and its answer");
        self.rows(("`occ forward -L`", median(&mut occ)), &[("`ssh -L`", median(&mut ssh), "")]);
        for port in ours {
            self.rig.occ_ok(&["forward", "remove", &port.to_string()]);
        }
    }
}

/// Serves each client on a thread of its own. Returns the port.
fn serve(handler: fn(TcpStream) -> io::Result<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || handler(client));
        }
    });
    port
}

fn source(mut client: TcpStream) -> io::Result<()> {
    io::copy(&mut io::repeat(7).take(BYTES), &mut client).map(drop)
}

/// Tells how much came, once all has come.
fn sink(mut client: TcpStream) -> io::Result<()> {
    let count = drain(&mut client)?;
    client.write_all(&count.to_be_bytes())
}

fn drain(stream: &mut TcpStream) -> io::Result<u64> {
    let (mut buffer, mut count) = (vec![0; 256 * 1024], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(count),
            length => count += length as u64,
        }
    }
}

/// Measures how long [`BYTES`] take through a port.
fn moved(port: u16, way: Way) -> Duration {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let count = match way {
        Way::FromHost => drain(&mut stream).unwrap(),
        Way::ToHost => {
            let block = vec![7; 256 * 1024];
            let mut left = BYTES;
            while left > 0 {
                let length = block.len().min(usize::try_from(left).unwrap());
                stream.write_all(&block[..length]).unwrap();
                left -= length as u64;
            }
            stream.shutdown(Shutdown::Write).unwrap();
            let mut count = [0; 8];
            stream.read_exact(&mut count).unwrap();
            u64::from_be_bytes(count)
        }
    };
    assert_eq!(count, BYTES);
    begun.elapsed()
}

/// Measures a connection with a question and its answer, as the mean of many.
fn asked(port: u16) -> Duration {
    let begun = Instant::now();
    for _ in 0..REQUESTS {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
    }
    begun.elapsed() / REQUESTS
}

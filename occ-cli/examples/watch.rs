//! What an editor does: show the hosts, run a command on one of them if asked to, and follow what changes.
//!
//! `cargo run -p occ-cli --example watch [HOST COMMAND…]`

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::error::Error;
use std::io::Write as _;

use occ_cli::daemon::Daemon;
use occ_proto::event::Change;
use occ_proto::exec::{ExecEvent, ExecRequest};
use occ_proto::status::HostList;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let daemon = Daemon::connect(None).await?;
    let list: HostList = daemon.get("/v1/hosts").await?;
    for status in &list.hosts {
        println!("{} is {}", status.name, status.state.as_str());
    }
    let mut words = std::env::args().skip(1);
    if let Some(host) = words.next() {
        let argv = words.map(|word| word.as_str().into()).collect();
        let request = ExecRequest { argv, ..ExecRequest::default() };
        let mut command = daemon.exec(&host.parse()?, &request).await?;
        while let Some(event) = command.next().await? {
            match event {
                ExecEvent::Stdout { data } | ExecEvent::Stderr { data } => {
                    std::io::stdout().write_all(&data.0)?;
                }
                ExecEvent::Exit(exit) => println!("exit {}", exit.status()),
                ExecEvent::Error { problem } => return Err((*problem).into()),
                _ => {}
            }
        }
        return Ok(());
    }
    let mut events = daemon.events("kind=host", None).await?;
    loop {
        match events.next().await?.change {
            Change::Host { host, status: Some(status) } => {
                println!("{host} is {}", status.state.as_str());
            }
            Change::Host { host, status: None } => println!("{host} was removed"),
            _ => {}
        }
    }
}

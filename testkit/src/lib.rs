//! Fixtures shared by tests, benches and the demo: servers to connect to, a link to break, and a
//! daemon in a home of its own.
//!
//! | fixture | what it is |
//! | --- | --- |
//! | [`RealSshd`], [`Dropbear`] | a real server per test, with its own keys and port |
//! | [`EmbeddedHost`] | an SSH server in this process, for faults that a real one cannot produce |
//! | [`FaultyLink`] | a TCP proxy with latency, limits, black holes and resets |
//! | [`DaemonRig`] | `occd` and `occ` with a home, a runtime directory and host files of their own |
//! | [`DockerRig`] | a private Docker Engine |
//! | [`Bridge`] | a TCP port that leads to a Unix socket |
//! | [`Terminal`] | a program on a pseudo-terminal, and somebody who types |
//! | [`FakeModel`] | the model server of an agent's conversation |
//! | [`Keyring`] | a desktop's keyring |
//! | [`SystemdRig`] | a real `systemd --user` for a rig's home |
//!
//! Every fixture ends all of its processes, threads and files when it is dropped, and all but
//! [`wait::wait_for`] and [`wait::wait_until`] work without an async runtime: the in-process ones have
//! a thread of their own, so a test with a paused clock or a blocked thread does not stop them.

#![allow(
    clippy::unwrap_used,
    reason = "a fixture that cannot be set up must fail its test at once"
)]

pub mod bridge;
pub mod bus;
pub mod daemon;
pub mod docker;
pub mod docs;
pub mod dropbear;
pub mod embedded;
pub mod fake_model;
pub mod http;
pub mod keyring;
pub mod keys;
pub mod link;
pub mod ports;
pub mod proc;
pub mod readers;
pub mod registry;
pub mod require;
pub mod soak;
pub mod ssh;
pub mod sshd;
pub mod systemd;
pub mod terminal;
pub mod user;
pub mod wait;

mod worker;

pub use bridge::Bridge;
pub use bus::Bus;
pub use daemon::DaemonRig;
pub use docker::DockerRig;
pub use dropbear::Dropbear;
pub use embedded::EmbeddedHost;
pub use fake_model::FakeModel;
pub use keyring::Keyring;
pub use link::FaultyLink;
pub use ports::free_port;
pub use registry::Registry;
pub use sshd::RealSshd;
pub use systemd::SystemdRig;
pub use terminal::Terminal;

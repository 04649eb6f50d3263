//! occd: a per-user daemon that keeps SSH connections and serves them on a private Unix socket.
//!
//! ARCHITECTURE.md in the project's root draws the picture. The arrows go one way:
//! `daemon → api → (pool, hosts, container, files, forward, exec) → host → ssh`.

pub mod api;
pub mod audit;
mod blocking;
pub mod check;
pub mod config;
pub mod container;
pub mod daemon;
pub mod descriptors;
pub mod events;
pub mod exec;
pub mod files;
pub mod forward;
#[doc(hidden)]
pub mod fuzz;
pub mod grants;
pub mod history;
pub mod host;
pub mod hosts;
pub mod in_flight;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod ownership;
pub mod peer;
pub mod policy;
pub mod pool;
pub mod process;
pub mod prompts;
pub mod rest;
pub mod sealed;
pub mod secrets;
pub mod server;
pub mod session;
pub mod socket;
pub mod ssh;
pub mod stamp;
mod state_file;
pub mod trace;
pub mod used;
pub mod wake;
mod watched;
pub mod wire;

//! What occd promises, tested against the programs as they are built. One binary, because linking is most
//! of what a test binary costs; one file per promise.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod agent_forwarding;
mod agents;
mod ask;
mod auth;
mod autoconnect;
mod bad_names;
mod behind;
mod cancel;
mod certificates;
mod channel;
mod compression;
mod descriptors;
mod dns;
mod docker;
mod docker_socket;
mod dropbear;
mod elsewhere;
mod ending;
mod evil_server;
mod exec;
mod groups;
mod history;
mod host_keys;
mod hosts_api;
mod idle;
mod install_docker;
mod interrupted;
mod invariants;
mod jump;
mod passwords;
mod patience;
mod prompts;
mod reconnect;
mod rekey;
mod revoked_keys;
mod sandbox;
mod sandbox_memory;
mod sandbox_more;
mod secrets;
mod session;
mod settings;
mod slow_reader;
mod soak;
mod socket;
mod ssh_config;
mod stalls;
mod stop;
mod support;
mod trust;
mod unit;
mod update_host_keys;
mod wake;

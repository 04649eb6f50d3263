//! The types that `occ`, `occd` and other clients exchange over the control socket.
//!
//! This crate owns the wire: JSON bodies, WebSocket frames, the names that are valid, and where the
//! socket and the configuration files are. It does no IO and knows neither SSH nor HTTP, so that the
//! client that links it stays small.

pub mod audit;
pub mod container;
pub mod daemon;
pub mod docker_setup;
pub mod error;
pub mod event;
pub mod exec;
pub mod files;
mod files_action;
pub mod files_follow;
pub mod forward;
pub mod history;
pub mod host;
pub mod log;
pub mod metrics;
pub mod name;
pub mod operation;
pub mod paths;
pub mod policy;
pub mod prompt;
#[cfg(feature = "schema")]
mod schema;
pub mod secret;
pub mod session;
pub mod ssh_config;
pub mod status;
pub mod tar;
pub mod text;
pub mod trace;
pub mod trust;
pub mod wildcard;
pub mod wording;

pub use error::{Code, Problem};
pub use host::{HostConfig, HostsFile};
pub use name::{Address, GroupName, HostName, InvalidName, UserName};
pub use secret::Secret;

/// The version of the HTTP API: the `v1` in its paths.
pub const API_VERSION: u32 = 1;

/// The request header by which a client names its ssh-agent's socket (`SSH_AUTH_SOCK`), in bytes as they
/// are: a daemon under systemd knows none.
pub const AGENT_HEADER: &str = "occ-ssh-auth-sock";

/// The request header by which a client brings a private key of its own in base64 (`OCC_SSH_KEY`), for this
/// request only.
pub const KEY_HEADER: &str = "occ-ssh-key";

/// The variables of the environment that hold such a key, the first that is set counts.
pub const KEY_VARIABLES: [&str; 2] = ["OCC_SSH_KEY", "TENDHOST_SSH_KEY"];

/// The response header that carries the daemon's program version.
pub const VERSION_HEADER: &str = "occ-version";

/// The response header that carries [`API_VERSION`].
pub const API_VERSION_HEADER: &str = "occ-api-version";

/// The response header that carries [`MIN_CLIENT`].
pub const MIN_CLIENT_HEADER: &str = "occ-min-client";

/// The oldest client that this version of the daemon serves in full. It has no third number: what a client understands
/// does not change with that.
pub const MIN_CLIENT: &str = "0.1";

/// The response header that tells of a host key which was trusted for the request ([`trust::NewHostKey`]);
/// one for each key, also when the request failed.
pub const NEW_HOST_KEY_HEADER: &str = "occ-new-host-key";

/// The response header that says why the files on disk are not what is in force: a JSON string, one for each file.
pub const WARNING_HEADER: &str = "occ-warning";

/// The header with which a POST that is sent again is not done again: 1 to 255 visible ASCII characters, which nobody else
/// uses (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";

/// The header of an answer that was given before, to the same request.
pub const REPLAYED_HEADER: &str = "idempotency-replayed";

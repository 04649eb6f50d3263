//! Docker on a host, and the opencode sandbox in it, through a channel of the pooled connection.

mod answer;
mod differs;
mod disk;
mod docker;
mod engine;
mod error;
mod follow;
mod head;
mod image;
mod install;
mod logs;
mod memory;
mod mount;
mod objects;
mod opencode_config;
mod operations;
mod password;
mod ready;
mod relay;
mod replace;
mod sandbox;
mod session;
pub(crate) mod settings;
mod sockets;
mod spec;
mod steps;
mod there;
mod transport;
mod volumes;
mod way;

pub use answer::answers;
pub use disk::measure as disk_use;
pub use docker::{Docker, DockerError};
pub use engine::{Engine, EngineError, LocalEngine, TcpError};
pub use error::SandboxError;
pub use install::{
    InstallError, Plan as InstallPlan, Root, install as install_docker, plan as plan_install,
};
pub use logs::{LogQuery, Logs};
pub use memory::{Known, Sandboxes};
pub use opencode_config::{OpencodeConfig, OpencodeConfigError};
pub use operations::{End, Event, NotBegun, Operations, Progress, Running};
pub use password::one_time_password;
pub use sandbox::{is_running, ours, published, status};
pub use settings::{BadSettings, SandboxConfig, SandboxSettings};
pub use sockets::DockerSockets;
pub use spec::{spec, sync};
pub use steps::{restart, start, stop, update};

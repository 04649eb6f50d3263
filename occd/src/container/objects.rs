//! The Docker objects of a sandbox, named and shaped as the existing opencode-cloud tool has them, so that either
//! manages what the other made.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, HostConfigCgroupnsModeEnum,
    ImageInspect, Mount, MountType, PortBinding, PortMap, RestartPolicy, RestartPolicyNameEnum,
    SystemInfo,
};
use occ_proto::container::SANDBOX_CONTAINER;
use occ_proto::text::sanitize;

use super::SandboxError;
use super::settings::SandboxSettings;

/// The port inside on which the sandbox answers.
pub(super) const WEB: &str = "3000/tcp";
/// The port inside on which cockpit answers.
pub(super) const COCKPIT: &str = "9090/tcp";
/// The container while it is being replaced, until the new one has proved itself.
pub(super) const SET_ASIDE: &str = "opencode-cloud-sandbox-before-update";
/// The new container until the old one is set aside.
pub(super) const NEXT: &str = "opencode-cloud-sandbox-next";
/// The tag of the image from before the last update.
pub(super) const PREVIOUS: &str = "previous";
/// The tag that this image keeps while an update is at work, so that one that is cut short can be undone.
pub(super) const PREVIOUS_KEPT: &str = "previous-before-update";
/// The image's label with the version of what is in it.
pub(super) const VERSION_LABEL: &str = "org.opencode-cloud.version";

const MANAGED_BY: (&str, &str) = ("managed-by", "opencode-cloud");
const WORKSPACE: &str = "/home/opencoder/workspace";
/// Volumes and where they are inside.
const VOLUMES: [(&str, &str); 7] = [
    ("opencode-data", "/home/opencoder/.local/share/opencode"),
    ("opencode-state", "/home/opencoder/.local/state/opencode"),
    ("opencode-cache", "/home/opencoder/.cache/opencode"),
    ("opencode-workspace", WORKSPACE),
    ("opencode-config", "/home/opencoder/.config/opencode"),
    ("opencode-users", "/var/lib/opencode-users"),
    ("opencode-ssh", "/home/opencoder/.ssh"),
];
/// Variables that the sandbox has unless they are set otherwise.
const VARIABLES: [(&str, &str); 4] = [
    ("XDG_DATA_HOME", "/home/opencoder/.local/share"),
    ("XDG_STATE_HOME", "/home/opencoder/.local/state"),
    ("XDG_CONFIG_HOME", "/home/opencoder/.config"),
    ("XDG_CACHE_HOME", "/home/opencoder/.cache"),
];
/// Has the image start systemd.
const SYSTEMD: (&str, &str) = ("USE_SYSTEMD", "1");

/// Returns whether systemd can run in a container of this engine, as the existing tool decides it: on Linux, neither
/// in Docker Desktop nor rootless.
pub(super) fn runs_systemd(engine: &SystemInfo) -> bool {
    let is_desktop = |system: &String| system.to_ascii_lowercase().contains("docker desktop");
    engine.os_type.as_deref().is_some_and(|os| os.eq_ignore_ascii_case("linux"))
        && engine.operating_system.as_ref().is_some_and(|system| !is_desktop(system))
        && engine.security_options.as_ref().is_some_and(|options| {
            !options.iter().any(|option| option.to_ascii_lowercase().contains("name=rootless"))
        })
}

/// Returns a new sandbox as Docker's API has it.
pub(super) fn new(settings: &SandboxSettings, systemd: bool) -> ContainerCreateBody {
    let bind = |port: u16| {
        let binding = PortBinding {
            host_ip: Some(settings.bind_address.to_string()),
            host_port: Some(port.to_string()),
        };
        Some(vec![binding])
    };
    let mut ports: PortMap = HashMap::from([(WEB.to_owned(), bind(settings.port))]);
    if let Some(port) = settings.cockpit {
        ports.insert(COCKPIT.to_owned(), bind(port));
    }
    let mut env = settings.env.clone();
    let systemd_variable = systemd.then_some(SYSTEMD);
    for (name, value) in VARIABLES.into_iter().chain(systemd_variable) {
        if !env.iter().any(|set| set.split('=').next() == Some(name)) {
            env.push(format!("{name}={value}"));
        }
    }
    ContainerCreateBody {
        image: Some(settings.image.clone()),
        hostname: Some(SANDBOX_CONTAINER.to_owned()),
        working_dir: Some(WORKSPACE.to_owned()),
        exposed_ports: Some(ports.keys().cloned().collect()),
        env: Some(env),
        labels: Some(HashMap::from([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())])),
        host_config: Some(HostConfig {
            mounts: Some(mounts(settings)),
            port_bindings: Some(ports),
            auto_remove: Some(false),
            restart_policy: settings.restart.then_some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
                maximum_retry_count: None,
            }),
            ..if systemd { with_systemd() } else { without_systemd() }
        }),
        ..ContainerCreateBody::default()
    }
}

/// Returns whether a container was made by this tool or by the existing one. What was not is nobody's here to change.
pub(super) fn is_ours(container: &ContainerInspectResponse) -> bool {
    let labels = container.config.as_ref().and_then(|config| config.labels.as_ref());
    labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|by| by == MANAGED_BY.1)
}

/// Checks that a container of that name may be touched.
///
/// # Errors
/// When it is somebody else's.
pub(super) fn check_ours(
    container: &ContainerInspectResponse,
    name: &str,
) -> Result<(), SandboxError> {
    match is_ours(container) {
        true => Ok(()),
        false => Err(SandboxError::NotOurs { container: name.to_owned(), owner: owner(container) }),
    }
}

/// Returns whose a container is that is not ours, as far as it says so.
fn owner(container: &ContainerInspectResponse) -> String {
    let config = container.config.clone().unwrap_or_default();
    let labels = config.labels.unwrap_or_default();
    let image = sanitize(config.image.as_deref().unwrap_or("unknown"));
    if let Some(project) = labels.get("com.docker.compose.project") {
        return format!(
            "it belongs to the compose project {}, of the image {image}",
            sanitize(project)
        );
    }
    match labels.get(MANAGED_BY.0) {
        Some(by) => format!("it is managed by {}, of the image {image}", sanitize(by)),
        None => format!(
            "somebody made it of the image {image} without the label {}={}",
            MANAGED_BY.0, MANAGED_BY.1
        ),
    }
}

/// Returns whether a variable is one that a sandbox has without being told to.
pub(super) fn is_variable_of_every_sandbox(variable: &str) -> bool {
    let all = VARIABLES.into_iter().chain([SYSTEMD]);
    variable.split_once('=').is_some_and(|own| all.into_iter().any(|theirs| theirs == own))
}

/// Returns the volumes, each unless a path of the host takes its place, and those paths.
fn mounts(settings: &SandboxSettings) -> Vec<Mount> {
    let is_taken = |target: &str| settings.mounts.iter().any(|mount| mount.target == target);
    let volumes =
        VOLUMES.iter().filter(|(_, target)| !is_taken(target)).map(|(name, target)| Mount {
            typ: Some(MountType::VOLUME),
            source: Some((*name).to_owned()),
            target: Some((*target).to_owned()),
            read_only: Some(false),
            ..Mount::default()
        });
    volumes.chain(settings.mounts.iter().map(|mount| mount.to_docker())).collect()
}

fn with_systemd() -> HostConfig {
    let tmpfs = [("/run", "exec"), ("/run/lock", ""), ("/tmp", "")];
    HostConfig {
        privileged: Some(true),
        cap_add: Some(vec!["SYS_ADMIN".to_owned()]),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::HOST),
        binds: Some(vec!["/sys/fs/cgroup:/sys/fs/cgroup:rw".to_owned()]),
        tmpfs: Some(tmpfs.map(|(path, options)| (path.to_owned(), options.to_owned())).into()),
        ..HostConfig::default()
    }
}

fn without_systemd() -> HostConfig {
    // For its broker, which starts terminals as other users of the sandbox.
    let capabilities = vec!["SETUID".to_owned(), "SETGID".to_owned()];
    HostConfig { cap_add: Some(capabilities), ..HostConfig::default() }
}

/// Returns a container like `old`, whoever made that, of another image. What the old image brought is the new
/// one's matter.
pub(super) fn like(
    old: &ContainerInspectResponse,
    old_image: Option<&ImageInspect>,
    image: &str,
) -> ContainerCreateBody {
    let config = old.config.clone().unwrap_or_default();
    let brought = old_image.and_then(|image| image.config.clone()).unwrap_or_default();
    let env = config.env.unwrap_or_default();
    let image_env = brought.env.unwrap_or_default();
    let own = env.into_iter().filter(|variable| !image_env.contains(variable)).collect();
    let image_labels = brought.labels.unwrap_or_default();
    let labels = config.labels.unwrap_or_default();
    let own_labels =
        labels.into_iter().filter(|(name, value)| image_labels.get(name) != Some(value)).collect();
    let image_ports = brought.exposed_ports.unwrap_or_default();
    let ports = config.exposed_ports.unwrap_or_default();
    let changed = |now: Option<Vec<String>>, then: Option<Vec<String>>| {
        if now == then { None } else { now }
    };
    ContainerCreateBody {
        image: Some(image.to_owned()),
        hostname: config.hostname,
        working_dir: config.working_dir,
        user: config.user.filter(|user| Some(user) != brought.user.as_ref()),
        cmd: changed(config.cmd, brought.cmd),
        entrypoint: changed(config.entrypoint, brought.entrypoint),
        exposed_ports: Some(ports.into_iter().filter(|port| !image_ports.contains(port)).collect()),
        env: Some(own),
        labels: Some(own_labels),
        host_config: old.host_config.clone(),
        ..ContainerCreateBody::default()
    }
}

/// Returns an image's name with another tag.
pub(super) fn with_tag(image: &str, tag: &str) -> (String, String) {
    let name = image.split('@').next().unwrap_or(image);
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    let end = name[slash..].find(':').map_or(name.len(), |at| slash + at);
    (name[..end].to_owned(), tag.to_owned())
}

/// Takes an image's name and its tag apart.
pub(super) fn split(image: &str) -> (String, String) {
    let (repo, _) = with_tag(image, "");
    let tag = image[repo.len()..].strip_prefix(':').unwrap_or("latest").to_owned();
    (repo, tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::opencode_config::OpencodeConfig;
    use crate::container::settings::SandboxConfig;

    fn settings() -> SandboxSettings {
        let own = SandboxConfig {
            mounts: vec!["/srv/work:/home/opencoder/workspace".parse().unwrap()],
            env: vec!["XDG_CACHE_HOME=/cache".into(), "A=b".into()],
            ..SandboxConfig::default()
        };
        SandboxSettings::for_host(&own, &OpencodeConfig::default()).unwrap()
    }

    #[test]
    fn a_sandbox_is_as_the_existing_tool_makes_it() {
        let plain = new(&settings(), false);
        let host = plain.host_config.unwrap();
        assert_eq!(plain.hostname.as_deref(), Some("opencode-cloud-sandbox"));
        assert_eq!(plain.labels.unwrap()["managed-by"], "opencode-cloud");
        assert_eq!(host.cap_add.unwrap(), ["SETUID", "SETGID"]);
        assert_eq!(host.privileged, None);
        let binding = host.port_bindings.unwrap()[WEB].clone().unwrap();
        assert_eq!(binding[0].host_ip.as_deref(), Some("127.0.0.1"));
        assert_eq!(binding[0].host_port.as_deref(), Some("3000"));
        // The path of the host takes the place of the volume.
        let mounts = host.mounts.unwrap();
        assert_eq!(mounts.len(), 7);
        let workspace: Vec<_> =
            mounts.iter().filter(|mount| mount.target.as_deref() == Some(WORKSPACE)).collect();
        assert_eq!(workspace.len(), 1);
        assert_eq!(workspace[0].source.as_deref(), Some("/srv/work"));
        let env = plain.env.unwrap();
        assert!(
            env.contains(&"A=b".to_owned()) && env.contains(&"XDG_CACHE_HOME=/cache".to_owned())
        );
        assert!(env.contains(&"XDG_DATA_HOME=/home/opencoder/.local/share".to_owned()));
        assert!(!env.iter().any(|variable| variable == "XDG_CACHE_HOME=/home/opencoder/.cache"));
        let systemd = new(&settings(), true);
        let host = systemd.host_config.unwrap();
        assert_eq!((host.privileged, host.tmpfs.unwrap().len()), (Some(true), 3));
        assert!(systemd.env.unwrap().contains(&"USE_SYSTEMD=1".to_owned()));
    }

    #[test]
    fn one_like_it_keeps_what_was_set_and_not_what_the_image_brought() {
        use bollard::models::{ContainerConfig, ImageConfig};
        let list = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        let old = ContainerInspectResponse {
            config: Some(ContainerConfig {
                env: list(&["PATH=/bin", "A=b"]),
                cmd: list(&["serve"]),
                labels: Some(HashMap::from([
                    ("managed-by".into(), "opencode-cloud".into()),
                    (VERSION_LABEL.into(), "1".into()),
                ])),
                ..ContainerConfig::default()
            }),
            ..ContainerInspectResponse::default()
        };
        let image = ImageInspect {
            config: Some(ImageConfig {
                env: list(&["PATH=/bin"]),
                cmd: list(&["serve"]),
                labels: Some(HashMap::from([(VERSION_LABEL.into(), "1".into())])),
                ..ImageConfig::default()
            }),
            ..ImageInspect::default()
        };
        let new = like(&old, Some(&image), "x:2");
        assert_eq!(new.env.unwrap(), ["A=b"]);
        assert_eq!(new.cmd, None);
        assert_eq!(new.labels.unwrap().len(), 1);
        assert_eq!(new.image.as_deref(), Some("x:2"));
    }

    #[test]
    fn a_tag_takes_the_place_of_another() {
        let with = |image| with_tag(image, "previous");
        let tag = "previous".to_owned();
        assert_eq!(with("ghcr.io/a/b:latest"), ("ghcr.io/a/b".into(), tag.clone()));
        assert_eq!(with("localhost:5000/a"), ("localhost:5000/a".into(), tag.clone()));
        assert_eq!(with("a@sha256:00"), ("a".into(), tag));
    }

    #[test]
    fn systemd_needs_a_real_linux() {
        let engine = |system: &str, options: &[&str]| SystemInfo {
            os_type: Some("linux".into()),
            operating_system: Some(system.into()),
            security_options: Some(options.iter().map(|option| (*option).to_owned()).collect()),
            ..SystemInfo::default()
        };
        assert!(runs_systemd(&engine("Debian GNU/Linux 12", &["name=seccomp"])));
        assert!(!runs_systemd(&engine("Docker Desktop", &[])));
        assert!(!runs_systemd(&engine("Debian", &["name=rootless"])));
        assert!(!runs_systemd(&SystemInfo::default()));
    }
}

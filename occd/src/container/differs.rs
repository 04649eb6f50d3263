//! How a sandbox differs from what the settings and a request say.

use std::net::{IpAddr, Ipv4Addr};

use bollard::models::{
    ContainerInspectResponse, HostConfig, ImageInspect, MountType, RestartPolicyNameEnum,
};
use occ_proto::container::StartRequest;
use occ_proto::text::sanitize;

use super::Engine;
use super::objects::{self, COCKPIT, WEB};
use super::settings::{DEFAULT_IMAGE, SandboxSettings};

/// What of a sandbox is not as it would be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    /// What it has, and what it would have.
    text: String,
    /// The request says so itself, and not the settings alone.
    pub(super) asked: bool,
}

/// Returns the differences in one sentence's words.
pub(super) fn words(differences: &[Difference]) -> String {
    differences.iter().map(|one| one.text.as_str()).collect::<Vec<_>>().join("; ")
}

/// Returns what a person should know of a sandbox that stays as it is although the settings say otherwise.
pub(super) fn note(engine: &Engine, differences: &[Difference]) -> Option<String> {
    let host =
        engine.host().map_or_else(|| " --local".to_owned(), |host| format!(" --host {host}"));
    (!differences.is_empty()).then(|| {
        format!(
            "it is not as the settings say now: it has {}; occ start{host} --yes makes it anew, its volumes stay",
            words(differences)
        )
    })
}

/// Returns what is different. Values of variables are nobody's business here. `image` is what the sandbox is made of.
pub(super) fn differences(
    old: &ContainerInspectResponse,
    image: Option<&ImageInspect>,
    settings: &SandboxSettings,
    request: &StartRequest,
) -> Vec<Difference> {
    let host = old.host_config.clone().unwrap_or_default();
    let mut found = Vec::new();
    let mut compare = |is: String, should: String, asked: bool| {
        if is != should {
            found.push(Difference { text: format!("{is} instead of {should}"), asked });
        }
    };
    let made_of = old.config.as_ref().and_then(|config| config.image.clone()).unwrap_or_default();
    compare(
        format!("the image {}", sanitize(&made_of)),
        format!("the image {}", image_name(old, settings)),
        false,
    );
    let port_words = |port: Option<u16>| {
        port.map_or_else(|| "no port".to_owned(), |port| format!("port {port}"))
    };
    let web = binding(&host, WEB);
    compare(port_words(web.map(|(_, port)| port)), port_words(Some(settings.port)), {
        request.port.is_some()
    });
    if let Some((address, _)) = web {
        let words = |address: IpAddr| format!("the address {address}");
        compare(words(address), words(settings.bind_address), false);
    }
    let cockpit = |port: Option<u16>| format!("{} for cockpit", port_words(port));
    let published = binding(&host, COCKPIT).map(|(_, port)| port);
    compare(cockpit(published), cockpit(settings.cockpit), false);
    let asked = request.no_mounts || !request.mounts.is_empty();
    compare(mounts_of(&host), mounts_to_be(settings), asked);
    if let Some(systemd) = settings.systemd {
        let words = |systemd| if systemd { "systemd" } else { "no systemd" }.to_owned();
        compare(words(host.privileged == Some(true)), words(systemd), false);
    }
    let restarts = !matches!(
        host.restart_policy.and_then(|policy| policy.name),
        None | Some(RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO)
    );
    let words = |restarts| if restarts { "auto_restart" } else { "no auto_restart" }.to_owned();
    compare(words(restarts), words(settings.restart), false);
    let names = variables(old, image, settings);
    if !names.is_empty() {
        let text = format!("other values of the variables {}", names.join(", "));
        found.push(Difference { text, asked: false });
    }
    found
}

/// Returns the image that a sandbox is to be of: the one that is set, else what it was made of.
pub(super) fn image_name(
    container: &ContainerInspectResponse,
    settings: &SandboxSettings,
) -> String {
    let made_of = container.config.as_ref().and_then(|config| config.image.clone());
    match made_of {
        Some(name) if settings.image == DEFAULT_IMAGE && !name.starts_with("sha256:") => name,
        _ => settings.image.clone(),
    }
}

/// Returns the address and the port on the host of a port inside.
fn binding(host: &HostConfig, inside: &str) -> Option<(IpAddr, u16)> {
    let binding = host.port_bindings.as_ref()?.get(inside)?.as_ref()?.first()?;
    // Docker's word for every address is none.
    let address = binding.host_ip.as_deref().unwrap_or_default().parse();
    let port = binding.host_port.as_ref()?.parse().ok()?;
    Some((address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port))
}

fn mounts_of(host: &HostConfig) -> String {
    let path = |path: &Option<String>| sanitize(path.as_deref().unwrap_or_default());
    let mounts = host.mounts.iter().flatten();
    let binds = mounts.filter(|mount| mount.typ == Some(MountType::BIND));
    mount_words(
        binds.map(|m| (path(&m.source), path(&m.target), m.read_only == Some(true))).collect(),
    )
}

fn mounts_to_be(settings: &SandboxSettings) -> String {
    let mounts = settings.mounts.iter();
    mount_words(mounts.map(|m| (m.source.clone(), m.target.clone(), m.read_only)).collect())
}

fn mount_words(mut mounts: Vec<(String, String, bool)>) -> String {
    mounts.sort();
    let words = mounts.iter().map(|(source, target, read_only)| {
        format!("{source}:{target}{}", if *read_only { ":ro" } else { "" })
    });
    match words.collect::<Vec<_>>() {
        none if none.is_empty() => "no mounts".to_owned(),
        words => format!("the mounts {}", words.join(", ")),
    }
}

/// Returns the names of the variables that a sandbox has otherwise, or has and would not have.
fn variables(
    old: &ContainerInspectResponse,
    image: Option<&ImageInspect>,
    settings: &SandboxSettings,
) -> Vec<String> {
    let name = |variable: &String| variable.split('=').next().unwrap_or_default().to_owned();
    let has = old.config.as_ref().and_then(|config| config.env.clone()).unwrap_or_default();
    let wanted = &settings.env;
    let mut names: Vec<String> =
        wanted.iter().filter(|variable| !has.contains(variable)).map(name).collect();
    // Without the image it cannot be told what is its own.
    if let Some(image) = image {
        let brought = image.config.as_ref().and_then(|config| config.env.clone());
        let brought = brought.unwrap_or_default();
        let own = has.iter().filter(|variable| {
            !brought.contains(variable) && !objects::is_variable_of_every_sandbox(variable)
        });
        names.extend(own.map(name).filter(|own| !wanted.iter().any(|set| name(set) == *own)));
    }
    let mut names: Vec<String> = names.iter().map(|name| sanitize(name)).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::opencode_config::OpencodeConfig;
    use crate::container::settings::SandboxConfig;
    use bollard::models::ContainerConfig;

    fn settings(own: SandboxConfig) -> SandboxSettings {
        SandboxSettings::for_host(&own, &OpencodeConfig::default()).unwrap()
    }

    /// Returns a sandbox as Docker shows one that was made by these settings.
    fn made(settings: &SandboxSettings) -> ContainerInspectResponse {
        let body = objects::new(settings, settings.systemd == Some(true));
        ContainerInspectResponse {
            config: Some(ContainerConfig {
                image: body.image,
                env: body.env,
                ..ContainerConfig::default()
            }),
            host_config: body.host_config,
            ..ContainerInspectResponse::default()
        }
    }

    #[test]
    fn each_difference_is_named_and_no_value_of_a_variable() {
        let before = SandboxConfig {
            env: vec!["A=1".into(), "SECRET=canary".into()],
            ..SandboxConfig::default()
        };
        let before = settings(before);
        let (image, request) = (ImageInspect::default(), StartRequest::default());
        let of = |now: &SandboxSettings| {
            words(&differences(&made(&before), Some(&image), now, &request))
        };
        assert_eq!(of(&before), "");
        let mut now = settings(SandboxConfig {
            port: Some(4000),
            bind_address: Some("0.0.0.0".parse().unwrap()),
            env: vec!["A=2".into()],
            mounts: vec!["/a:/b:ro".parse().unwrap()],
            image: Some("other:1".into()),
            ..SandboxConfig::default()
        });
        (now.cockpit, now.restart, now.systemd) = (Some(9090), false, Some(true));
        assert_eq!(
            of(&now),
            "the image ghcr.io/prizz/opencode-cloud-sandbox:latest instead of the image other:1; \
             port 3000 instead of port 4000; the address 127.0.0.1 instead of the address 0.0.0.0; \
             no port for cockpit instead of port 9090 for cockpit; \
             no mounts instead of the mounts /a:/b:ro; no systemd instead of systemd; \
             auto_restart instead of no auto_restart; other values of the variables A, SECRET"
        );
    }

    #[test]
    fn what_a_request_asks_for_is_told_apart() {
        let now = settings(SandboxConfig::default());
        let request = StartRequest { port: Some(1), ..StartRequest::default() };
        let mut asked = now.clone().with(&request).unwrap();
        asked.mounts.push("/a:/b".parse().unwrap());
        let found = differences(&made(&now), None, &asked, &request);
        assert_eq!(found.iter().map(|one| one.asked).collect::<Vec<_>>(), [true, false]);
    }
}

//! How a sandbox is made, compared with another one's, and made like it. Neither secrets nor data go from one to the
//! other.

use std::collections::BTreeMap;

use bollard::models::{ContainerCreateBody, ContainerInspectResponse, ImageInspect, MountType};
use occ_proto::container::{SandboxMount, SandboxSpec};
use occ_proto::operation::{Did, Outcome};
use occ_proto::text::sanitize;

use super::answer::{Until, inspect, published};
use super::mount::BindMount;
use super::operations::Progress;
use super::replace::{CutShort, mend, replace};
use super::session::Session;
use super::steps::{Undo, answered, has_port, make, outcome, port_is_free};
use super::{Docker, DockerError, Engine, SandboxError, image, objects, sandbox, there};

/// What the name of a variable has in it whose value is nobody else's business.
const SECRET: [&str; 9] =
    ["KEY", "TOKEN", "SECRET", "PASS", "CREDENTIAL", "AUTH", "PRIVATE", "COOKIE", "SESSION"];

/// Returns how the sandbox is made.
///
/// # Errors
/// When there is none, or it is somebody else's, or Docker cannot be asked.
pub async fn spec(docker: &Docker) -> Result<SandboxSpec, SandboxError> {
    let container = sandbox::ours(docker).await?;
    let image = match &container.image {
        Some(image) => docker.client().inspect_image(image).await.map_err(DockerError::from)?,
        None => ImageInspect::default(),
    };
    Ok(of(&container, &image))
}

fn of(container: &ContainerInspectResponse, image: &ImageInspect) -> SandboxSpec {
    let body = objects::like(container, Some(image), "");
    let host = body.host_config.clone().unwrap_or_default();
    let env = body.env.unwrap_or_default();
    let env = env.iter().filter_map(|variable| variable.split_once('='));
    let bindings = host.port_bindings.unwrap_or_default();
    let ports = bindings.iter().filter_map(|(inside, bindings)| {
        let binding = bindings.as_ref()?.first()?;
        let text = |text: &Option<String>| sanitize(text.as_deref().unwrap_or_default());
        Some((sanitize(inside), format!("{}:{}", text(&binding.host_ip), text(&binding.host_port))))
    });
    let mut mounts: Vec<SandboxMount> = host
        .mounts
        .unwrap_or_default()
        .into_iter()
        .map(|mount| SandboxMount {
            kind: mount.typ.map(|kind| kind.to_string()).unwrap_or_default(),
            source: sanitize(&mount.source.unwrap_or_default()),
            target: sanitize(&mount.target.unwrap_or_default()),
            read_only: mount.read_only == Some(true),
        })
        .collect();
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    let policy = host.restart_policy.and_then(|policy| policy.name);
    let policy = policy.map(|name| name.to_string()).filter(|name| !name.is_empty());
    SandboxSpec {
        image: container
            .config
            .as_ref()
            .and_then(|config| config.image.as_deref())
            .map(sanitize)
            .unwrap_or_default(),
        image_id: container.image.as_deref().map(sanitize).unwrap_or_default(),
        env: env
            .map(|(name, value)| {
                (sanitize(name), (!is_secret(name, value)).then(|| sanitize(value)))
            })
            .collect(),
        ports: ports.collect(),
        mounts,
        restart: policy.unwrap_or_else(|| "no".to_owned()),
        privileged: host.privileged == Some(true),
    }
}

/// Returns whether a variable's value is nobody else's business: by its name, or because it is an address with a
/// password in it.
fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let with_password = value.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
    SECRET.iter().any(|word| name.contains(word)) || with_password
}

/// Makes the sandbox of `to` like that of `from`: image, variables, ports, mounts and policy. Its own secrets stay, and
/// so do its volumes.
///
/// # Errors
/// When it cannot; the sandbox is as it was before then.
pub async fn sync(from: Engine, to: Engine, progress: Progress) -> Result<Outcome, SandboxError> {
    let mut model = Session::new(from, progress.clone());
    let mut session = Session::new(to, progress);
    let session = &mut session;
    let mut notes = Vec::from_iter(mend(session, CutShort::Finish).await?);
    session.progress.step("looking at the other sandbox");
    let model_host = model.engine.host().cloned();
    let like = inspect(&mut model).await?.ok_or(SandboxError::NoModel(model_host))?;
    let id = like.image.clone().unwrap_or_default();
    let like_image = image::find(&mut model, &id).await?;
    let wanted = of(&like, &like_image.clone().unwrap_or_default());

    let old = inspect(session).await?;
    let old_image = match old.as_ref().and_then(|old| old.image.clone()) {
        Some(id) => image::find(session, &id).await?,
        None => None,
    };
    if let Some(old) = &old
        && differences(&of(old, &old_image.clone().unwrap_or_default()), &wanted).is_empty()
    {
        return outcome(session, Did::UpToDate, notes).await;
    }
    let name = wanted.image.clone();
    let binds = wanted.mounts.iter().filter(|mount| mount.kind == MountType::BIND.to_string());
    let binds: Vec<BindMount> = binds
        .map(|mount| BindMount {
            source: mount.source.clone(),
            target: mount.target.clone(),
            read_only: mount.read_only,
        })
        .collect();
    if let Some(path) = there::missing_path(&session.engine, &binds).await {
        return Err(SandboxError::NoPath { path });
    }
    if let Some((address, port)) = published(&like)
        && !old.as_deref().is_some_and(|old| has_port(old, port))
    {
        port_is_free(session, &address, port).await?;
    }
    if image::find(session, &name).await?.and_then(|image| image.id) != Some(id.clone()) {
        match image::pull(session, &name).await {
            // It has one of that name, such as one that was built there.
            Err(SandboxError::NoImage { .. }) if image::find(session, &name).await?.is_some() => {}
            pulled => pulled?,
        }
        if image::find(session, &name).await?.and_then(|image| image.id) != Some(id) {
            notes.push(format!("{name} is another image there"));
        }
    }
    let body =
        Box::new(body(&like, like_image.as_ref(), old.as_deref(), old_image.as_ref(), &name));
    match old {
        Some(old) => notes.extend(Box::pin(replace(session, &old, body, Until::Ready)).await?),
        None => {
            let volumes = Box::pin(make(session, body)).await?;
            notes.extend(answered(session, Undo::Remove(volumes)).await?);
        }
    }
    outcome(session, Did::Synced, notes).await
}

/// Returns a container like the model, with the secrets that the old one had.
fn body(
    like: &ContainerInspectResponse,
    like_image: Option<&ImageInspect>,
    old: Option<&ContainerInspectResponse>,
    old_image: Option<&ImageInspect>,
    name: &str,
) -> ContainerCreateBody {
    let mut body = objects::like(like, like_image, name);
    let secret = |variable: &String| {
        variable.split_once('=').is_some_and(|(name, value)| is_secret(name, value))
    };
    let mut env = body.env.take().unwrap_or_default();
    env.retain(|variable| !secret(variable));
    let own = old.and_then(|old| objects::like(old, old_image, "").env).unwrap_or_default();
    env.extend(own.into_iter().filter(secret));
    body.env = Some(env);
    body
}

/// Returns what is different, apart from secrets, of which nothing is known.
fn differences(one: &SandboxSpec, other: &SandboxSpec) -> Vec<&'static str> {
    let plain = |spec: &SandboxSpec| -> BTreeMap<String, Option<String>> {
        spec.env
            .iter()
            .filter(|(_, value)| value.is_some())
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect()
    };
    let checks = [
        ("image", one.image == other.image && one.image_id == other.image_id),
        ("environment", plain(one) == plain(other)),
        ("ports", one.ports == other.ports),
        ("mounts", one.mounts == other.mounts),
        ("policy", one.restart == other.restart && one.privileged == other.privileged),
    ];
    checks.into_iter().filter(|(_, same)| !same).map(|(what, _)| what).collect()
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerConfig;

    use super::*;

    fn container(env: &[&str]) -> ContainerInspectResponse {
        ContainerInspectResponse {
            config: Some(ContainerConfig {
                image: Some("x:1".into()),
                env: Some(env.iter().map(|variable| (*variable).to_owned()).collect()),
                ..ContainerConfig::default()
            }),
            ..ContainerInspectResponse::default()
        }
    }

    #[test]
    fn secrets_have_no_value_and_stay_where_they_are() {
        let like = container(&["A=1", "API_KEY=theirs", "DB=postgres://u:p@h/d"]);
        let old = container(&["A=2", "B=3", "API_KEY=own"]);
        let spec = of(&like, &ImageInspect::default());
        assert_eq!(spec.env["A"].as_deref(), Some("1"));
        assert_eq!((&spec.env["API_KEY"], &spec.env["DB"]), (&None, &None));
        let made = body(&like, None, Some(&old), None, "x:1").env.unwrap();
        assert_eq!(made, ["A=1", "API_KEY=own"]);
        assert_eq!(body(&like, None, None, None, "x:1").env.unwrap(), ["A=1"]);
    }

    #[test]
    fn a_secret_alone_is_no_difference() {
        let spec = |env: &[&str]| of(&container(env), &ImageInspect::default());
        assert!(differences(&spec(&["TOKEN=a"]), &spec(&["TOKEN=b"])).is_empty());
        assert_eq!(differences(&spec(&["A=a"]), &spec(&["A=b"])), ["environment"]);
    }
}

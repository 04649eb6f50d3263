//! `occ sandbox diff` and `sync`: how two sandboxes are made, compared and made alike.

use std::collections::{BTreeMap, BTreeSet};

use occ_proto::container::{SandboxSpec, SyncRequest};
use occ_proto::error::Code;
use occ_proto::text::sanitize;
use serde::Serialize;

use super::{Context, sandbox};
use crate::cli::{SandboxCommand, SandboxPair};
use crate::client::Client;
use crate::error::{CliError, FAILED};
use crate::output::table::Table;
use crate::place::Place;
use crate::target::{HostArg, Source};

/// Something that differs: what, and how each has it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Difference {
    what: String,
    from: Option<String>,
    to: Option<String>,
}

/// Runs `occ sandbox`.
pub(crate) async fn run(context: &Context<'_>, command: &SandboxCommand) -> Result<u8, CliError> {
    match command {
        SandboxCommand::Diff(pair) => diff(context, pair).await,
        SandboxCommand::Sync { pair, yes } => sync(context, pair, *yes).await,
    }
}

fn place(arg: &HostArg) -> Place {
    match arg {
        HostArg::Local => Place::Local,
        HostArg::Name(host) => Place::Host(host.clone(), Source::Named),
    }
}

fn name(arg: &HostArg) -> &str {
    match arg {
        HostArg::Local => "local",
        HostArg::Name(host) => host.as_str(),
    }
}

async fn spec(
    context: &Context<'_>,
    client: &Client,
    place: &Place,
) -> Result<SandboxSpec, CliError> {
    match client.get_slow(&place.path("/container/spec")).await {
        Ok(reply) => reply.parse(),
        Err(error) => Err(sandbox::explained(context, client, place, error).await),
    }
}

async fn diff(context: &Context<'_>, pair: &SandboxPair) -> Result<u8, CliError> {
    let ui = context.ui;
    let client = context.client().await?;
    let model = spec(context, &client, &place(&pair.from)).await?;
    let mut differ = false;
    for to in &pair.to {
        let other = spec(context, &client, &place(to)).await?;
        let differences = differences(&model, &other);
        differ |= !differences.is_empty();
        if ui.json {
            ui.value(&serde_json::json!({
                "from": name(&pair.from), "to": name(to), "differences": differences,
            }))?;
        } else if differences.is_empty() {
            ui.say(&format!(
                "{} and {} are alike, secrets and data apart.",
                name(&pair.from),
                name(to)
            ))?;
        } else if !ui.quiet {
            let mut table = Table::new(&["", name(&pair.from), name(to)]);
            for Difference { what, from, to } in differences {
                let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
                table.row(vec![what, text(from), text(to)]);
            }
            for line in table.lines() {
                ui.print(&format!("{line}\n"))?;
            }
        }
    }
    // As diff(1) has it.
    Ok(if differ { FAILED } else { 0 })
}

/// Returns what differs, in the order in which a person asks.
fn differences(from: &SandboxSpec, to: &SandboxSpec) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |what: String, from: Option<String>, to: Option<String>| {
        if from != to {
            let shown = |text: Option<String>| text.map(|text| sanitize(&text));
            found.push(Difference { what, from: shown(from), to: shown(to) });
        }
    };
    compare("image".into(), Some(from.image.clone()), Some(to.image.clone()));
    compare("image id".into(), Some(short(&from.image_id)), Some(short(&to.image_id)));
    for name in keys(&from.env, &to.env) {
        let text = |spec: &SandboxSpec| {
            spec.env.get(&name).map(|value| value.clone().unwrap_or_else(|| "(secret)".to_owned()))
        };
        compare(format!("env {name}"), text(from), text(to));
    }
    for port in keys(&from.ports, &to.ports) {
        compare(
            format!("port {port}"),
            from.ports.get(&port).cloned(),
            to.ports.get(&port).cloned(),
        );
    }
    let mounts = |spec: &SandboxSpec| -> BTreeMap<String, String> {
        spec.mounts
            .iter()
            .map(|mount| {
                let mode = if mount.read_only { ", read-only" } else { "" };
                (mount.target.clone(), format!("{} ({}{mode})", mount.source, mount.kind))
            })
            .collect()
    };
    let (mine, theirs) = (mounts(from), mounts(to));
    for target in keys(&mine, &theirs) {
        compare(
            format!("mount {target}"),
            mine.get(&target).cloned(),
            theirs.get(&target).cloned(),
        );
    }
    compare("restart".into(), Some(from.restart.clone()), Some(to.restart.clone()));
    let word = |spec: &SandboxSpec| Some(if spec.privileged { "yes" } else { "no" }.to_owned());
    compare("privileged".into(), word(from), word(to));
    found
}

fn keys<V>(one: &BTreeMap<String, V>, other: &BTreeMap<String, V>) -> BTreeSet<String> {
    one.keys().chain(other.keys()).cloned().collect()
}

fn short(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(12).collect()
}

async fn sync(context: &Context<'_>, pair: &SandboxPair, yes: bool) -> Result<u8, CliError> {
    let ui = context.ui;
    let client = context.client().await?;
    if !yes {
        let names: Vec<&str> = pair.to.iter().map(name).collect();
        let names = names.join(", ");
        if !ui.can_ask() {
            return Err(CliError::usage(format!(
                "making the sandbox of {names} anew needs a confirmation."
            ))
            .hint("occ sandbox diff shows what would change; --yes confirms"));
        }
        let question = format!(
            "Make the sandbox of {names} like that of {}? It is stopped for a moment",
            name(&pair.from)
        );
        if !ui.ask(&question).await? {
            ui.say("Cancelled.")?;
            return Ok(0);
        }
    }
    let request = SyncRequest { from: name(&pair.from).to_owned() };
    let mut code = 0;
    for to in &pair.to {
        let place = place(to);
        let operation = sandbox::operate(context, &client, &place, "sync", &request).await?;
        let done = sandbox::done(context, &client, &place, &operation).await;
        code = code.max(done.map_err(|error| match error.daemon_code() {
            // It is the model's, and no option gives it another.
            Some(Code::PortTaken) => {
                let model = self::place(&pair.from).option();
                error.hint(format!(
                    "stop what has it there, or occ start{model} -p PORT --yes gives the model another"
                ))
            }
            Some(Code::MountInvalid) => {
                let model = self::place(&pair.from).option();
                error.hint(format!(
                    "make that path there, or occ start{model} --no-mounts --yes has the model mount nothing"
                ))
            }
            _ => error,
        })?);
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_and_secrets_are_not_shown() {
        let spec = |image: &str, env: &[(&str, Option<&str>)]| SandboxSpec {
            image: image.into(),
            image_id: "sha256:0".into(),
            env: env.iter().map(|(n, v)| ((*n).into(), v.map(str::to_owned))).collect(),
            ports: BTreeMap::from([("3000/tcp".into(), "127.0.0.1:3000".into())]),
            mounts: Vec::new(),
            restart: "no".into(),
            privileged: false,
        };
        let found = differences(
            &spec("x:2", &[("A", Some("1")), ("KEY", None)]),
            &spec("x:1", &[("KEY", None)]),
        );
        let whats: Vec<&str> = found.iter().map(|difference| difference.what.as_str()).collect();
        assert_eq!(whats, ["image", "env A"]);
        assert_eq!(found[1].to, None);
    }
}

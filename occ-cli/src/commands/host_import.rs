//! `occ host import`: hosts that ssh_config names, taken into hosts.json with one save.

use hyper::Method;
use occ_proto::GroupName;
use occ_proto::ssh_config::{ImportHosts, Imported, NotImported, SshConfigHost, SshConfigHosts};
use occ_proto::text::sanitize;
use occ_proto::wildcard;
use serde_json::json;

use super::Context;
use super::host_edit::groups;
use crate::cli::HostImportArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::output::table::Table;
use crate::output::with_note;

/// Runs the command and returns its exit code.
pub(crate) async fn run(
    context: &Context<'_>,
    args: &HostImportArgs,
    all: bool,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let chosen = all || !args.names.is_empty() || args.matching.is_some();
    if !chosen && !args.dry_run && !ui.can_ask() {
        return Err(CliError::usage("occ host import needs names, --match or --all.")
            .hint("occ host import --dry-run shows what there is"));
    }
    let groups = groups(&args.group)?;
    let client = context.client().await?;
    let known = known(context, &client).await?;
    let picked: Vec<&SshConfigHost> = match chosen || args.dry_run {
        true => known.iter().filter(|host| is_meant(host, args, all)).collect(),
        false => match ask(context, &known).await? {
            Choice::Some(names) => known.iter().filter(|host| names.contains(&host.name)).collect(),
            choice => {
                if let Choice::Other(text) = choice {
                    ui.note(&format!("~/.ssh/config names no host {}.", sanitize(&text)));
                }
                ui.say("Nothing was changed.")?;
                return Ok(0);
            }
        },
    };
    let missing = args.names.iter().filter(|name| !known.iter().any(|host| host.name == **name));
    let mut skipped: Vec<NotImported> =
        missing.map(|name| not_imported(name, "~/.ssh/config does not name it")).collect();
    let in_vain = args.matching.iter().filter(|glob| !known.iter().any(|host| is_like(host, glob)));
    skipped.extend(in_vain.map(|glob| not_imported(glob, "~/.ssh/config names no host like it")));
    skipped
        .extend(picked.iter().filter_map(|host| Some(not_imported(&host.name, obstacle(host)?))));
    let free: Vec<&SshConfigHost> =
        picked.into_iter().filter(|host| obstacle(host).is_none()).collect();
    if known.is_empty() && skipped.is_empty() && !ui.json {
        ui.note("~/.ssh/config names no host.");
    }
    if args.dry_run {
        return dry_run(context, &free, &skipped, args);
    }
    if chosen && !args.yes && !free.is_empty() {
        if !ui.can_ask() {
            return Err(CliError::usage(format!(
                "Adding {} needs a confirmation.",
                counted(free.len())
            ))
            .hint("the same with --yes; with --dry-run it only shows them"));
        }
        ui.note(&table(&free));
        if !ui.ask(&format!("Add {}?", counted(free.len()))).await? {
            ui.say("Cancelled.")?;
            return Ok(0);
        }
    }
    let names: Vec<String> = free.iter().map(|host| host.name.clone()).collect();
    let mut done = import(&client, names, groups).await?;
    skipped.append(&mut done.skipped);
    done.skipped = skipped;
    summary(context, &done, args)
}

/// What somebody has picked.
pub(super) enum Choice {
    /// These.
    Some(Vec<String>),
    /// None of them, but this, which ssh_config does not name.
    Other(String),
    /// None of them.
    None,
}

/// Returns the hosts that ssh_config names.
pub(super) async fn known(
    context: &Context<'_>,
    client: &Client,
) -> Result<Vec<SshConfigHost>, CliError> {
    // A `Match exec` there may take its time.
    let reply =
        with_note(context.ui, "reading ~/.ssh/config …", client.get_slow("/v1/ssh-config")).await?;
    Ok(reply.parse::<SshConfigHosts>()?.hosts)
}

/// Returns those that can be taken.
pub(super) fn free(known: &[SshConfigHost]) -> Vec<&SshConfigHost> {
    known.iter().filter(|host| obstacle(host).is_none()).collect()
}

/// Adds hosts by what ssh_config calls them.
pub(super) async fn import(
    client: &Client,
    names: Vec<String>,
    groups: Vec<GroupName>,
) -> Result<Imported, CliError> {
    if names.is_empty() {
        return Ok(Imported { added: Vec::new(), skipped: Vec::new() });
    }
    let body = ImportHosts { names, groups };
    client.request(Method::POST, "/v1/ssh-config/import", Some(&body), None).await?.parse()
}

/// Asks which of the hosts to take, of those that can be.
pub(super) async fn ask(
    context: &Context<'_>,
    known: &[SshConfigHost],
) -> Result<Choice, CliError> {
    let ui = context.ui;
    let free = free(known);
    if free.is_empty() {
        ui.note("~/.ssh/config names no host that is not configured.");
        return Ok(Choice::None);
    }
    let names: Vec<&str> = free.iter().map(|host| host.name.as_str()).collect();
    ui.note(&format!("{} in ~/.ssh/config: {}.", counted(names.len()), listed(&names)));
    loop {
        let answer = ui.ask_text("Add [a]ll, [p]ick, [n]one, or names:").await?;
        let words: Vec<&str> = match answer.as_deref().unwrap_or_default() {
            "" | "n" | "none" => return Ok(Choice::None),
            "a" | "all" => names.clone(),
            "p" | "pick" => {
                let mut picked = Vec::new();
                for host in &free {
                    if ui.ask(&format!("{}?", row(host).join(" ").trim_end())).await? {
                        picked.push(host.name.as_str());
                    }
                }
                picked
            }
            text => text.split([' ', ',']).filter(|word| !word.is_empty()).collect(),
        };
        let is_known = |word: &str| known.iter().any(|host| host.name == word);
        let unknown: Vec<&str> = words.iter().copied().filter(|word| !is_known(word)).collect();
        match (unknown.as_slice(), words.as_slice()) {
            ([], _) => return Ok(Choice::Some(words.into_iter().map(str::to_owned).collect())),
            ([word], [_]) => return Ok(Choice::Other((*word).to_owned())),
            // Among others none is an address.
            _ => ui.note(&format!("~/.ssh/config names none of these: {}.", listed(&unknown))),
        }
    }
}

/// Returns names in a line: the first of them, and how many more there are.
pub(super) fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    let mut shown =
        names.iter().take(SHOWN).map(|name| sanitize(name)).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(SHOWN);
    if more > 0 {
        shown.push_str(&format!(" and {more} more"));
    }
    shown
}

fn is_meant(host: &SshConfigHost, args: &HostImportArgs, all: bool) -> bool {
    let named = args.names.contains(&host.name);
    let by_pattern = args.matching.as_deref().map(|glob| is_like(host, glob));
    // `--all --match GLOB` is all that match.
    named || by_pattern.unwrap_or(all || (args.dry_run && args.names.is_empty()))
}

fn is_like(host: &SshConfigHost, glob: &str) -> bool {
    wildcard::matches(glob.as_bytes(), host.name.as_bytes())
}

fn obstacle(host: &SshConfigHost) -> Option<&str> {
    if host.configured {
        return Some("a host of this name is configured");
    }
    host.unusable.as_deref()
}

fn not_imported(name: &str, why: &str) -> NotImported {
    NotImported { name: name.to_owned(), why: why.to_owned() }
}

fn counted(hosts: usize) -> String {
    if hosts == 1 { "1 host".to_owned() } else { format!("{hosts} hosts") }
}

fn row(host: &SshConfigHost) -> [String; 2] {
    let user = host.user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
    let port = host.port.map_or_else(String::new, |port| format!(":{port}"));
    let address = host.hostname.as_deref().unwrap_or(&host.name);
    [sanitize(&host.name), sanitize(&format!("{user}{address}{port}"))]
}

fn table(hosts: &[&SshConfigHost]) -> String {
    let mut table = Table::new(&["NAME", "ADDRESS"]);
    hosts.iter().for_each(|host| table.row(row(host).into()));
    table.lines().join("\n")
}

fn dry_run(
    context: &Context<'_>,
    free: &[&SshConfigHost],
    skipped: &[NotImported],
    args: &HostImportArgs,
) -> Result<u8, CliError> {
    let ui = context.ui;
    if ui.json {
        ui.value(&json!({ "dry_run": true, "would_add": free, "skipped": skipped }))?;
    } else {
        if free.is_empty() {
            ui.print("No host would be added.\n")?;
        } else {
            ui.print(&format!("{}\n", table(free)))?;
        }
        tell_skipped(context, skipped);
    }
    Ok(u8::from(in_vain(skipped, args)))
}

fn summary(context: &Context<'_>, done: &Imported, args: &HostImportArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    if ui.json {
        ui.value(done)?;
    } else {
        match done.added.len() {
            0 => ui.say("No host was added.")?,
            count => {
                let names: Vec<&str> = done.added.iter().map(|name| name.as_str()).collect();
                ui.say(&format!("Added: {} ({}).", counted(count), names.join(", ")))?;
            }
        }
        tell_skipped(context, &done.skipped);
        if let Some(name) = done.added.first() {
            ui.note(&match done.added.len() {
                1 => format!("hint: occ host test {name}"),
                _ => "hint: occ host test --all tries each".to_owned(),
            });
        }
    }
    // Or nothing of what was asked for came to be.
    let failed = done.added.is_empty() && done.skipped.iter().any(is_missing);
    Ok(u8::from(failed || in_vain(&done.skipped, args)))
}

/// Returns whether something that was asked for by its name, or by a pattern, is not there as a host now.
fn in_vain(skipped: &[NotImported], args: &HostImportArgs) -> bool {
    let is_asked = |one: &&NotImported| {
        args.names.contains(&one.name)
            || args.matching.as_ref().is_some_and(|glob| *glob == one.name)
    };
    skipped.iter().filter(is_asked).any(is_missing)
}

/// Returns whether a host that was not taken is none by another way: one that was configured before is there.
fn is_missing(skipped: &NotImported) -> bool {
    !skipped.why.contains("is configured")
}

/// Says what was not taken, and why.
pub(super) fn tell_skipped(context: &Context<'_>, skipped: &[NotImported]) {
    for NotImported { name, why } in skipped {
        context.ui.note(&format!("Skipped: {} ({}).", sanitize(name), sanitize(why)));
    }
}

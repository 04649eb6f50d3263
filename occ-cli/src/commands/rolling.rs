//! `occ update` over many hosts: one first, then the others in batches, until too many have failed.

use std::cell::RefCell;

use occ_proto::HostName;
use occ_proto::container::UpdateRequest;
use occ_proto::operation::Did;

use super::Context;
use super::exec_run::Signals;
use super::group::{Done, End, Group, OnSignal};
use super::sandbox_group::{Job, tell_what_goes_on};
use crate::cli::UpdateArgs;
use crate::error::{CliError, NOT_FOUND};
use crate::output::Ui;

/// Returns the batches: the canary alone, then the others in their order.
fn batches(hosts: &[HostName], canary: Option<&HostName>, size: usize) -> Vec<Vec<HostName>> {
    let rest: Vec<HostName> = hosts.iter().filter(|host| Some(*host) != canary).cloned().collect();
    let first = canary.map(|canary| vec![canary.clone()]);
    first.into_iter().chain(rest.chunks(size).map(<[HostName]>::to_vec)).collect()
}

/// Runs `occ update`.
pub(super) async fn update(
    context: &Context<'_>,
    args: &UpdateArgs,
    group: &Group,
) -> Result<u8, CliError> {
    let ui = context.ui;
    let canary = args.canary.as_ref();
    if let Some(host) = canary.filter(|canary| !group.hosts.contains(canary)) {
        let option = group.selection.option();
        let error =
            CliError::failed(format!("The canary '{host}' is not among those of {option}."));
        return Err(CliError { exit: NOT_FOUND, ..error }.hint("occ host list shows the groups"));
    }
    let asked = match args.rollback {
        true => ("update --rollback", "Go back to the image from before"),
        false => ("update", "Update the sandbox"),
    };
    if !group.confirmed(ui, asked, args.yes).await? {
        return Ok(0);
    }
    let body = UpdateRequest { rollback: args.rollback };
    let job = Job { context, group, verb: "update", body };
    let did: RefCell<Vec<(HostName, Did)>> = RefCell::default();
    let work = |host: HostName| {
        let (job, did) = (&job, &did);
        async move {
            match job.on(&host).await {
                Ok(what) => {
                    did.borrow_mut().push((host, what));
                    Ok(End::Ok)
                }
                Err(error) => group.failed(ui, &host, &error),
            }
        }
    };
    let mut all = Done::default();
    // For all batches, so that one between two of them counts.
    let mut signals = Signals::catch()?;
    for batch in batches(&group.hosts, canary, args.batch.unwrap_or(1)) {
        let done = group.each_of(ui, &batch, &mut signals, OnSignal::Leave, work).await?;
        all.ends.extend(done.ends);
        all.left.extend(done.left);
        all.caught = done.caught;
        let failed = all.failures().count();
        let is_canary = canary.is_some_and(|canary| batch.contains(canary));
        if all.caught.is_some() || failed > if is_canary { 0 } else { args.max_fail.unwrap_or(0) } {
            break;
        }
    }
    let ended = |host: &&HostName| !all.ends.iter().any(|(other, _)| other == *host);
    all.untouched = group.hosts.iter().filter(ended).cloned().collect();
    tell_what_goes_on(ui, group, &mut all).await;
    report(ui, &all, &did.into_inner())?;
    Ok(all.code())
}

/// Says what was done where, what failed, and what was not touched.
fn report(ui: &Ui, all: &Done, did: &[(HostName, Did)]) -> Result<(), CliError> {
    if ui.json {
        return all.documents(ui);
    }
    let tell = |what: &str, hosts: Vec<String>| {
        if !hosts.is_empty() {
            ui.note(&format!("{} {what}: {}", hosts.len(), hosts.join(", ")));
        }
    };
    for (one, word) in [
        (Did::Updated, "updated"),
        (Did::RolledBack, "rolled back"),
        (Did::UpToDate, "up to date already"),
        (Did::Unknown, "done"),
    ] {
        tell(word, did.iter().filter(|(_, did)| *did == one).map(|(h, _)| h.to_string()).collect());
    }
    let interrupted = all.ends.iter().filter(|(_, end)| *end == End::Interrupted);
    tell("interrupted", interrupted.map(|(host, _)| host.to_string()).collect());
    let failed: Vec<String> = all.failures().map(|(host, why)| format!("{host} ({why})")).collect();
    tell("failed", failed);
    tell("not touched", all.untouched.iter().map(ToString::to_string).collect());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canary_comes_first_and_alone() {
        let names = |names: &[&str]| -> Vec<HostName> {
            names.iter().map(|name| HostName::new(*name).unwrap()).collect()
        };
        let hosts = names(&["a", "b", "c", "d"]);
        let canary = HostName::new("c").unwrap();
        assert_eq!(
            batches(&hosts, Some(&canary), 2),
            [names(&["c"]), names(&["a", "b"]), names(&["d"])]
        );
        assert_eq!(batches(&hosts, None, 3), [names(&["a", "b", "c"]), names(&["d"])]);
    }
}

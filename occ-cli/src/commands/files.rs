//! `occ ls`, `occ cat` and `occ rm`.

use std::ffi::OsStr;

use hyper::Method;
use occ_proto::HostName;
use occ_proto::error::Code;
use occ_proto::files::{FileInfo, FileKind, FileList};

use super::Context;
use crate::cli::{CatArgs, LsArgs, RmArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::exchange::{Answer, Ask, bytes_of};
use crate::output::removal::{self, Done};
use crate::output::write_stdout;
use crate::place::Place;
use crate::spot::Spot;

/// Returns a client, and the host that paths without one are on; where each of them names its own, nobody is asked.
pub(super) async fn home(
    context: &Context<'_>,
    paths: &[impl AsRef<OsStr>],
) -> Result<(Client, Option<HostName>), CliError> {
    if !paths.is_empty() && paths.iter().all(|path| Spot::names_its_place(path.as_ref())) {
        return Ok((context.client().await?, None));
    }
    let (client, place) = context.client_and_place().await?;
    Ok(match place {
        Place::Host(host, _) => (client, Some(host)),
        Place::Local => (client, None),
    })
}

/// Returns what is known of a file.
pub(super) async fn stat(client: &Client, spot: &Spot) -> Result<FileInfo, CliError> {
    client.get_slow(&spot.api("?stat=true")?).await?.parse()
}

/// Returns the same; nothing where nothing is.
pub(super) async fn stat_if_there(
    client: &Client,
    spot: &Spot,
) -> Result<Option<FileInfo>, CliError> {
    match stat(client, spot).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.daemon_code() == Some(Code::FileNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists a directory, or shows a file.
pub(crate) async fn ls(context: &Context<'_>, args: &LsArgs) -> Result<u8, CliError> {
    let (client, home) = home(context, args.path.as_slice()).await?;
    let path = args.path.as_deref().unwrap_or(OsStr::new(""));
    let spot = Spot::of(path, home.as_ref())?;
    let reply = match client.get_slow(&spot.api("?list=true")?).await {
        Ok(reply) => reply,
        Err(error) if error.daemon_code() == Some(Code::NotDirectory) => {
            let reply = client.get_slow(&spot.api("?stat=true")?).await?;
            if context.ui.json {
                context.ui.document(&reply.body)?;
            } else {
                show(context, args, &[reply.parse()?])?;
            }
            return Ok(0);
        }
        Err(error) => return Err(error),
    };
    if context.ui.json {
        context.ui.document(&reply.body)?;
        return Ok(0);
    }
    let list: FileList = reply.parse()?;
    let is_shown = |entry: &&FileInfo| args.all_names || !entry.name.0.starts_with(b".");
    let entries: Vec<FileInfo> = list.entries.iter().filter(is_shown).cloned().collect();
    show(context, args, &entries)?;
    Ok(0)
}

fn show(context: &Context<'_>, args: &LsArgs, entries: &[FileInfo]) -> Result<(), CliError> {
    // What goes on to a program is as it is on the host.
    let raw = args.null || !context.ui.stdout_terminal;
    let mut out = Vec::new();
    // By their numbers: which names the host has for them, its files do not say.
    let owner_of = |entry: &FileInfo| format!("{}:{}", entry.uid, entry.gid);
    let digits = entries.iter().map(|entry| entry.size.to_string().len()).max().unwrap_or(0);
    let width = entries.iter().map(|entry| owner_of(entry).len()).max().unwrap_or(0);
    for entry in entries {
        let mark = match entry.kind {
            _ if args.null => "",
            FileKind::Directory => "/",
            FileKind::Symlink => "@",
            _ => "",
        };
        if args.long {
            let time = jiff::Timestamp::from_second(entry.mtime).unwrap_or_default();
            let time = time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M");
            let (kind, mode) = (letter(entry.kind), permissions(entry.mode));
            let (owner, size) = (owner_of(entry), entry.size);
            let line = format!("{kind}{mode}  {owner:<width$}  {size:>digits$}  {time}  ");
            out.extend_from_slice(line.as_bytes());
        }
        out.extend(bytes_of(&entry.name, raw));
        out.extend_from_slice(mark.as_bytes());
        out.push(if args.null { 0 } else { b'\n' });
    }
    write_stdout(&out)
}

fn letter(kind: FileKind) -> char {
    match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Other => '?',
    }
}

/// Returns permissions as `ls -l` shows them.
fn permissions(mode: u32) -> String {
    let mut text = String::new();
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Writes files to standard output, byte for byte.
pub(crate) async fn cat(context: &Context<'_>, args: &CatArgs) -> Result<u8, CliError> {
    if context.ui.json {
        return Err(CliError::usage("occ cat writes the file itself: --json does not go with it."));
    }
    let (client, home) = home(context, &args.paths).await?;
    for path in &args.paths {
        let spot = Spot::of(path, home.as_ref())?;
        let mut answer = Answer::to(&client, Ask::new(Method::GET, spot.api("")?)).await?;
        loop {
            match answer.next().await {
                Ok(Some(data)) => write_stdout(&data)?,
                Ok(None) => break,
                Err(_) => return Err(cut(&client, &spot, "").await),
            }
        }
    }
    Ok(0)
}

/// Returns the error for a file whose bytes ended too early: why, as far as the daemon can tell by now.
pub(super) async fn cut(client: &Client, spot: &Spot, how_far: &str) -> CliError {
    let name = spot.to_string();
    // To ask another daemon would start one that somebody has just stopped.
    if client.has_gone().await {
        return CliError::daemon(format!("{name}: occd stopped{how_far}."))
            .hint(format!("occ cat {}", spot.word()));
    }
    let error = match stat(client, spot).await {
        Ok(_) => CliError::interrupted(format!("{name}: the link broke{how_far}.")),
        Err(error) => {
            let why = error.message.trim_end_matches('.').to_owned();
            let message = format!("{name}: the link broke{how_far}: {why}.");
            CliError { message, ..error }
        }
    };
    error.hint(format!("occ cat {}", spot.word()))
}

/// Removes files.
pub(crate) async fn rm(context: &Context<'_>, args: &RmArgs) -> Result<u8, CliError> {
    let (client, home) = home(context, &args.paths).await?;
    let query = if args.recursive { "?recursive=true" } else { "" };
    let mut spots = Vec::new();
    for path in &args.paths {
        // All are looked at before the first is removed.
        let spot = Spot::of(path, home.as_ref())?;
        let api = spot.api(query)?;
        spots.push((spot.to_string(), (spot, api)));
    }
    removal::each(context.ui, spots, async |(spot, api)| {
        let removed = client.request(Method::DELETE, &api, None::<&()>, None).await;
        match removed {
            Err(error) if args.force && error.daemon_code() == Some(Code::FileNotFound) => {
                Ok((Done::Absent, None))
            }
            Err(error) if error.daemon_code() == Some(Code::NotEmpty) => {
                Err(error.hint(format!("occ rm -r {}", spot.word())))
            }
            Err(error) => Err(error),
            Ok(_) => Ok((Done::Removed, None)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_those_of_ls() {
        assert_eq!(permissions(0o644), "rw-r--r--");
        assert_eq!(permissions(0o4755), "rwsr-xr-x");
        assert_eq!(permissions(0o1666), "rw-rw-rwT");
    }
}

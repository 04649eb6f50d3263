//! `occ edit`: a file of a host in the editor here, and back if nobody has changed it meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use futures_util::StreamExt as _;
use futures_util::stream;
use hyper::Method;
use hyper::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use occ_proto::error::Code;
use occ_proto::text::sanitize;
use sha2::{Digest as _, Sha256};

use super::Context;
use super::cp::umask;
use super::files::{cut, home};
use crate::cli::EditArgs;
use crate::client::Client;
use crate::eol::ToLf;
use crate::error::CliError;
use crate::exchange::{Answer, Ask};
use crate::hint::shell_word;
use crate::local_file;
use crate::spot::Spot;

/// The longest file that an editor is given, in bytes: more is no text that anybody edits.
const LONGEST: usize = 256 * 1024 * 1024;
/// The longest answer of the daemon, in bytes.
const ANSWER: usize = 64 * 1024;

/// A private directory with the file, removed when dropped unless it is to be kept.
struct Desk {
    dir: PathBuf,
    file: PathBuf,
    keep: bool,
}

impl Desk {
    /// Makes one for a file of that name: an editor knows by it what the file is.
    fn new(name: &[u8], text: &[u8]) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let dir = format!("occ-edit-{:016x}", u64::from_ne_bytes(random));
        let dir = std::env::temp_dir().join(dir);
        DirBuilder::new().mode(0o700).create(&dir)?;
        let file = dir.join(OsString::from_vec(name.to_vec()));
        let desk = Self { dir, file, keep: false };
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&desk.file)?;
        file.write_all(text)?;
        Ok(desk)
    }

    fn word(&self) -> String {
        shell_word(&self.file.to_string_lossy())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if !self.keep {
            // It is this user's alone, and in the directory for what may go.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, args: &EditArgs) -> Result<u8, CliError> {
    let editor = editor()?;
    let (client, home) = home(context, &[&args.path]).await?;
    let spot = Spot::of(&args.path, home.as_ref())?;
    let Some(name) = spot.name().map(<[u8]>::to_vec) else {
        return Err(CliError::usage(format!("{spot} has no name.")));
    };
    let before = read(&client, &spot).await?;
    let (text, etag) = match &before {
        Some((text, etag)) => (&text[..], etag.as_deref()),
        None => (&b""[..], None),
    };
    let failed = |error: io::Error| local_file::failed(&std::env::temp_dir(), &error);
    let mut desk = Desk::new(&name, text).map_err(failed)?;
    let edited = edited(&mut desk, text, &editor).await?;
    let edited = if args.eol.is_some() { edited.map(|text| ToLf::whole(&text)) } else { edited };
    let Some(edited) = edited.filter(|edited| edited != text) else {
        context.ui.say(&format!("{spot}: unchanged, nothing was written."))?;
        return Ok(0);
    };
    if let Err(error) = write(&client, &spot, before.as_ref().map(|_| (text, etag)), &edited).await
    {
        if error.is_quiet() {
            return Err(error);
        }
        desk.keep = true;
        let file = desk.word();
        let why = error.message.trim_end_matches('.').to_owned();
        let message = format!("{why}; nothing was written. What you edited is in {file}.");
        let next = match error.daemon_code() {
            Some(Code::FileChanged | Code::FileExists) => {
                format!("occ cat {0} | diff - {file}; occ cp {file} {0}", spot.word())
            }
            _ => format!("occ cp {file} {}", spot.word()),
        };
        return Err(CliError { message, ..error }.hint(next));
    }
    let bytes = crate::progress::size(edited.len() as u64);
    context.ui.say(&format!("{spot}: written, {bytes}."))?;
    Ok(0)
}

/// Returns a file's bytes and its tag; nothing where it is not there.
async fn read(client: &Client, spot: &Spot) -> Result<Option<(Vec<u8>, Option<String>)>, CliError> {
    let mut answer = match Answer::to(client, Ask::new(Method::GET, spot.api("")?)).await {
        Ok(answer) => answer,
        Err(error) if error.daemon_code() == Some(Code::FileNotFound) => return Ok(None),
        Err(error) => return Err(error),
    };
    let etag = answer.text(ETAG.as_str()).map(str::to_owned);
    let mut text = Vec::new();
    loop {
        match answer.next().await {
            Ok(Some(data)) if text.len() + data.len() > LONGEST => {
                return Err(CliError::failed(format!("{spot} is too long to be edited."))
                    .hint(format!("occ cp {} .", spot.word())));
            }
            Ok(Some(data)) => text.extend_from_slice(&data),
            Ok(None) => return Ok(Some((text, etag))),
            Err(_) => return Err(cut(client, spot, "").await),
        }
    }
}

/// Lets the person edit. Returns what the file is then; nothing where it is gone.
async fn edited(
    desk: &mut Desk,
    before: &[u8],
    editor: &OsStr,
) -> Result<Option<Vec<u8>>, CliError> {
    let shown = sanitize(&editor.to_string_lossy());
    // As git runs it: the words of the variable are the shell's, the file is an argument.
    // Ctrl-C is the editor's, and neither ends the shell nor us.
    let script = [b"trap : INT QUIT; ", editor.as_bytes(), b" \"$@\""].concat();
    let mut command = tokio::process::Command::new("sh");
    command.arg("-c").arg(OsString::from_vec(script)).arg(editor).arg(&desk.file);
    if !io::stdout().is_terminal() {
        // Whoever reads our output wants no screen in it.
        let stderr = io::stderr().as_fd().try_clone_to_owned();
        let stderr =
            stderr.map_err(|error| CliError::failed(format!("standard error: {error}.")))?;
        command.stdout(stderr);
    }
    let status = {
        // Before there is an editor in which somebody could type it.
        let mut interrupts =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
                .map_err(|error| CliError::failed(format!("signals: {error}.")))?;
        let mut child = command
            .spawn()
            .map_err(|error| CliError::failed(format!("the editor {shown}: {error}.")))?;
        loop {
            tokio::select! {
                status = child.wait() => break status,
                _ = interrupts.recv() => {}
            }
        }
    };
    let status =
        status.map_err(|error| CliError::failed(format!("the editor {shown}: {error}.")))?;
    let after = match std::fs::read(&desk.file) {
        Ok(after) => Some(after),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(local_file::failed(&desk.file, &error)),
    };
    if status.success() {
        return Ok(after);
    }
    let how = match status.code() {
        Some(127) => "was not found".to_owned(),
        Some(code) => format!("ended with {code}"),
        None => "was killed".to_owned(),
    };
    let mut message = format!("The editor {shown} {how}; nothing was written.");
    if after.is_some_and(|after| after != before) {
        desk.keep = true;
        message.push_str(&format!(" What was edited is in {}.", desk.word()));
    }
    Err(CliError::failed(message).hint("VISUAL or EDITOR names the editor, such as EDITOR=vi"))
}

/// Returns the editor that is named, or the usual one, which needs a terminal.
fn editor() -> Result<OsString, CliError> {
    let set = |name| std::env::var_os(name).filter(|editor| !editor.is_empty());
    let has_terminal =
        io::stdin().is_terminal() && (io::stdout().is_terminal() || io::stderr().is_terminal());
    match set("VISUAL").or_else(|| set("EDITOR")) {
        Some(editor) => Ok(editor),
        None if has_terminal => Ok("vi".into()),
        None => Err(CliError::usage("There is no terminal for the editor vi.").hint(
            "VISUAL or EDITOR names one that needs none; occ cp copies a file here and back",
        )),
    }
}

/// Puts the text into its place, if there is still what was read.
async fn write(
    client: &Client,
    spot: &Spot,
    before: Option<(&[u8], Option<&str>)>,
    text: &[u8],
) -> Result<(), CliError> {
    let mut ask = match before {
        Some((before, etag)) => {
            // A tag has the time in seconds, within which somebody else may have written as much.
            let hash = Sha256::digest(before);
            let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let ask = Ask::new(Method::PUT, spot.api(&format!("?if_sha256={hash}"))?);
            match etag {
                Some(etag) => ask.header(IF_MATCH, etag)?,
                None => ask,
            }
        }
        None => {
            let query = format!("?new_mode={:o}", 0o666 & !umask());
            Ask::new(Method::PUT, spot.api(&query)?).header(IF_NONE_MATCH, "*")?
        }
    };
    let bytes = bytes::Bytes::copy_from_slice(text);
    let length = Some(text.len() as u64);
    ask.body = Some((stream::iter([Ok(bytes)]).boxed_local(), length));
    Answer::to(client, ask).await?.whole(ANSWER).await.map(drop)
}

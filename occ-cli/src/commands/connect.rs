//! `occ connect`, `disconnect`, `reconnect`.

use jiff::Timestamp;
use occ_proto::status::HostStatus;

use super::Context;
use crate::client::host_path;
use crate::error::CliError;
use crate::output::{host as show, with_note};

/// What to do with the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Connect {
        /// How long to wait for a host that is down, in place of a few dials.
        wait_ms: Option<u64>,
    },
    Disconnect,
    Reconnect,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Disconnect => "disconnect",
            Self::Reconnect => "reconnect",
        }
    }
}

/// Runs the command and returns its exit code.
pub(crate) async fn run(context: &Context<'_>, verb: Verb) -> Result<u8, CliError> {
    let asked = Timestamp::now();
    let (client, host, source) = context.client_and_host(verb.word()).await?;
    let query = match verb {
        Verb::Connect { wait_ms: Some(ms) } => format!("?wait_ms={ms}"),
        _ => String::new(),
    };
    let path = host_path(&host, &format!("/{}{query}", verb.word()));
    let note = format!("[{host}] {}ing …", verb.word());
    let reply = match with_note(context.ui, &note, client.post(&path)).await {
        Ok(reply) => reply,
        Err(error) => return Err(super::explain(context, &client, &host, source, error).await),
    };
    let status: HostStatus = reply.parse()?;
    if context.ui.json {
        context.ui.document(&reply.body)?;
    } else {
        show::tell_host_key_since(context.ui, &status, asked);
        if let Some(line) = show::not_kept_since(&status, asked) {
            context.ui.note(&line);
        }
        context.ui.say(&show::link(context.ui, &status, Timestamp::now()))?;
    }
    Ok(0)
}

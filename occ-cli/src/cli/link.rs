//! The command line of what concerns a link: `occ status`, `connect`, `trust`, `unlock`, `prompts`, `allow`.

use clap::Args;

use crate::duration::parse_ms;
use crate::parse::parse_fingerprint;

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Wait for a connection and ask the host, instead of answering from memory
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Go on showing it when something changes
    #[arg(long, conflicts_with = "fresh")]
    pub(crate) watch: bool,
    /// With that: one line about all hosts, or a group, for a status bar
    #[arg(long, requires = "watch")]
    pub(crate) summary: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Wait this long for a host that is down, such as 5m, instead of dialling a few times
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub(crate) wait: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// Trust the key with this fingerprint without asking, and no other
    #[arg(long, value_name = "SHA256:…", value_parser = parse_fingerprint)]
    pub(crate) fingerprint: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UnlockArgs {
    /// A private key; else those that the host's login would offer; without a host, those that hosts wait for
    #[arg(value_name = "KEY")]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PromptsArgs {
    /// Allow what this question is about
    #[arg(long, value_name = "N", conflicts_with = "deny")]
    pub(crate) allow: Option<u64>,
    /// Refuse it
    #[arg(long, value_name = "N")]
    pub(crate) deny: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct AllowArgs {
    /// Take that back
    #[arg(long)]
    pub(crate) remove: bool,
}

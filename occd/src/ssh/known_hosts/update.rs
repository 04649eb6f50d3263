//! Following a server that changes its keys (`UpdateHostKeys` of ssh_config(5), PROTOCOL section 2.5 of OpenSSH):
//! keys that it announces and has proved are added, and those that it announces no more are taken out.

use std::path::PathBuf;

use russh::keys::PublicKey;

use super::replace::remove_all_but;
use super::{Entry, Hosts, KnownHosts, KnownHostsError, append, is_plain, lookup_name};

/// What would have to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Keys that are announced and not on record: to be proved, then added.
    pub new: Vec<PublicKey>,
    /// Keys on record that are announced no more.
    pub gone: Vec<PublicKey>,
}

impl Update {
    /// Returns whether everything is as it should be.
    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.gone.is_empty()
    }
}

/// Compares what a server announces with what the user's files have of it. Nothing is to change where the
/// records are not of this one host alone: a pattern, an authority, one of the keys under another name as well,
/// or nothing under this name.
///
/// # Errors
/// When a file cannot be read.
pub fn compare(
    user_files: &[PathBuf],
    global: &KnownHosts,
    host: &str,
    port: u16,
    used: &PublicKey,
    announced: &[PublicKey],
) -> Result<Update, KnownHostsError> {
    let known = KnownHosts::load(user_files)?;
    let name = lookup_name(host, port);
    let same = |a: &PublicKey, b: &PublicKey| a.key_data() == b.key_data();
    let (ours, others): (Vec<&Entry>, Vec<&Entry>) =
        known.keys.iter().partition(|entry| entry.hosts.contain(&name));
    let is_pattern = |entry: &&Entry| match &entry.hosts {
        Hosts::Patterns(list) => list.iter().any(|byte| b"*?!".contains(byte)),
        Hosts::Hashed { .. } => false,
    };
    let is_used = |key: &PublicKey| same(key, used);
    // The key that it has just used must be among both, or it speaks of somebody else.
    let is_elsewhere = |key: &PublicKey| others.iter().any(|entry| same(&entry.key, key));
    let unsure = !ours.iter().any(|entry| is_used(&entry.key))
        || !announced.iter().any(is_used)
        || ours.iter().any(is_pattern)
        || announced.iter().any(is_elsewhere)
        || !global.cert_authorities(host, port).is_empty();
    if unsure {
        return Ok(Update::default());
    }
    let mut update = Update::default();
    for key in announced.iter().filter(|key| is_plain(key)) {
        let on_record = ours.iter().any(|entry| same(&entry.key, key));
        let twice = update.new.iter().any(|other| same(other, key));
        if !on_record && !twice && !global.is_revoked(host, port, key) {
            update.new.push(key.clone());
        }
    }
    for Entry { key, .. } in ours {
        let stays = announced.iter().any(|other| same(other, key));
        let twice = update.gone.iter().any(|other| same(other, key));
        if !stays && !twice {
            update.gone.push(key.clone());
        }
    }
    if update.gone.iter().any(is_elsewhere) {
        return Ok(Update::default());
    }
    Ok(update)
}

/// Makes the change.
///
/// # Errors
/// When a file cannot be read or written.
pub fn update(
    user_files: &[PathBuf],
    host: &str,
    port: u16,
    update: &Update,
    hash: bool,
) -> Result<(), KnownHostsError> {
    // First the new ones: whatever fails after that, the host stays known.
    for key in &update.new {
        if let Some(first) = user_files.first() {
            append(first, host, port, key, hash)?;
        }
    }
    if update.gone.is_empty() {
        return Ok(());
    }
    let name = lookup_name(host, port);
    let stays = |key: &PublicKey| !update.gone.iter().any(|gone| gone.key_data() == key.key_data());
    user_files.iter().try_for_each(|file| remove_all_but(file, &name, &stays))
}

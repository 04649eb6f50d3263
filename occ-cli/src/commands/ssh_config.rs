//! `occ host add --ssh-config`: the host in ~/.ssh/config as well, for ssh itself and all that uses it.

use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use occ_proto::paths::Env;
use occ_proto::{HostConfig, HostName};

use super::{Context, host_import};
use crate::client::Client;
use crate::error::CliError;

/// Writes a host that is saved already, unless ssh_config names it. That it could not be is no failure of the host.
pub(super) async fn add(
    context: &Context<'_>,
    client: &Client,
    name: &HostName,
    config: &HostConfig,
) -> Result<(), CliError> {
    let ui = context.ui;
    let known = host_import::known(context, client).await?;
    if known.iter().any(|host| host.name == name.as_str()) {
        ui.note(&format!("~/.ssh/config names {name} already; it stays as it is."));
        return Ok(());
    }
    let home = Env::from_process().home.ok_or_else(|| {
        CliError::failed("HOME is not set, so there is no ~/.ssh/config to write to.")
    })?;
    write(&home.join(".ssh/config"), &block(name, config))
        .map_err(|error| CliError::failed(format!("~/.ssh/config was not written: {error}")))?;
    ui.note(&format!("Added: Host '{name}' added to ~/.ssh/config."));
    Ok(())
}

/// Returns the lines for a host.
fn block(name: &HostName, config: &HostConfig) -> String {
    let mut text = format!("Host {name}\n");
    let mut line = |keyword: &str, value: Option<String>| {
        if let Some(value) = value {
            // A quote cannot be written inside of quotes; none of these has one but a file's name.
            let quoted = value.contains(char::is_whitespace) && !value.contains('"');
            let value = if quoted { format!("\"{value}\"") } else { value };
            text.push_str(&format!("  {keyword} {value}\n"));
        }
    };
    let hostname = config.hostname.as_str();
    line("HostName", (hostname != name.as_str()).then(|| hostname.to_owned()));
    line("User", config.user.as_ref().map(ToString::to_string));
    line("Port", config.port.map(|port| port.to_string()));
    line("IdentityFile", config.identity_file.clone());
    line("ProxyJump", config.jump_host.clone());
    text
}

/// Returns a configuration with a block more. It goes before all other blocks, since the first value of an option is the
/// one that counts (ssh_config(5)), and behind what stands there for all hosts.
fn with(text: &str, block: &str) -> String {
    let begins_block = |line: &str| {
        let word = line.trim_start().split([' ', '\t', '=']).next().unwrap_or_default();
        ["host", "match"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
    };
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if begins_block(line) {
            break;
        }
        at += line.len();
    }
    let (before, after) = text.split_at(at);
    let end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let gap = if after.is_empty() { "" } else { "\n" };
    format!("{before}{end}{block}{gap}{after}")
}

/// Adds a block to the file, which is the old one or the new one at any moment.
fn write(path: &Path, block: &str) -> io::Result<()> {
    // A link stays one.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let (text, mode) = match std::fs::read_to_string(path) {
        Ok(text) => (text, std::fs::metadata(path)?.permissions().mode() & 0o7777),
        Err(error) if error.kind() == ErrorKind::NotFound => (String::new(), 0o600),
        Err(error) => return Err(error),
    };
    let beside = dir.join(format!(".config.occ-{}", std::process::id()));
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(with(&text, block).as_bytes())?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    })();
    if written.is_err() {
        // What could not be written whole is nobody's.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use occ_proto::Address;

    #[test]
    fn a_block_goes_before_the_others_and_behind_what_is_for_all() {
        assert_eq!(with("", "Host a\n"), "Host a\n");
        assert_eq!(with("Compression yes", "Host a\n"), "Compression yes\nHost a\n");
        let text = "Include x\n# theirs\nHost *\n  User u\n";
        assert_eq!(with(text, "Host a\n"), "Include x\n# theirs\nHost a\n\nHost *\n  User u\n");
        assert_eq!(with("MATCH all\n", "Host a\n"), "Host a\n\nMATCH all\n");
    }

    #[test]
    fn a_host_becomes_lines() {
        let mut config = HostConfig::new(Address::new("203.0.113.10").unwrap());
        config.port = Some(2222);
        config.identity_file = Some("~/my keys/id".to_owned());
        let text = block(&HostName::new("prod-1").unwrap(), &config);
        let lines = "  HostName 203.0.113.10\n  Port 2222\n  IdentityFile \"~/my keys/id\"\n";
        assert_eq!(text, format!("Host prod-1\n{lines}"));
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        std::fs::write(&real, "Host b\n").unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
        let link = dir.path().join(".ssh/config");
        std::fs::create_dir(dir.path().join(".ssh")).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write(&link, "Host a\n").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "Host a\n\nHost b\n");
        assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        let new = dir.path().join("new/config");
        write(&new, "Host a\n").unwrap();
        assert_eq!(std::fs::metadata(&new).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

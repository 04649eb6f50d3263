//! What has to be looked at where the engine is, and Docker cannot tell: paths, and who listens on a port.

use std::process::Stdio;
use std::time::Duration;

use occ_proto::text::sanitize;

use super::Engine;
use super::mount::BindMount;
use crate::exec;

/// How long a look at this machine may take.
const LOOK: Duration = Duration::from_secs(10);

/// Prints each path that is certainly not there. What lies in a directory that one may not look into is for Docker
/// to find, which is root.
const MISSING: &str = r#"
for p; do
  [ -e "$p" ] && continue
  d=$p
  while d=$(dirname -- "$d"); do [ -e "$d" ] && break; done
  [ -x "$d" ] && printf '%s\n' "$p"
done; exit 0"#;

/// Returns the first path to be mounted that is not there. Where it cannot be told, Docker will say it.
pub(super) async fn missing_path(engine: &Engine, mounts: &[BindMount]) -> Option<String> {
    if mounts.is_empty() {
        return None;
    }
    let mut argv = vec!["sh", "-c", MISSING, "sh"];
    argv.extend(mounts.iter().map(|mount| mount.source.as_str()));
    let said = output(engine, &argv).await?;
    said.lines().next().map(str::to_owned)
}

/// Returns who listens on a port, as far as this user may know.
pub(super) async fn listener(engine: &Engine, port: u16) -> String {
    let unknown = "another program there".to_owned();
    let filter = format!("sport = :{port}");
    let Some(said) = output(engine, &["ss", "-Hltnp", &filter]).await else { return unknown };
    process_of(&said).unwrap_or(unknown)
}

/// Reads the process from a line of ss: `… users:(("nginx",pid=12,fd=3))`.
fn process_of(said: &str) -> Option<String> {
    let (_, users) = said.split_once("users:((\"")?;
    let (name, rest) = users.split_once("\",pid=")?;
    let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(format!("{} (process {pid})", sanitize(name)))
}

/// Runs a command there and returns what it says; nothing where it does not run or fails.
async fn output(engine: &Engine, argv: &[&str]) -> Option<String> {
    let said = match engine {
        Engine::Host(host) => exec::look(host, argv).await?,
        Engine::Local(_) => {
            let (program, rest) = argv.split_first()?;
            let mut command = tokio::process::Command::new(program);
            command.args(rest).stdin(Stdio::null()).kill_on_drop(true);
            let output = tokio::time::timeout(LOOK, command.output()).await.ok()?.ok()?;
            output.status.success().then_some(output.stdout)?
        }
    };
    Some(String::from_utf8_lossy(&said).into_owned())
}

/// Makes the directories that are mounted where config.json says nothing, as the existing tool does.
pub(super) fn make_directories(paths: &[String]) -> std::io::Result<()> {
    paths.iter().try_for_each(std::fs::create_dir_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_read_from_what_ss_says() {
        let line = "LISTEN 0 511 127.0.0.1:3000 0.0.0.0:* users:((\"nginx\",pid=12,fd=6),(\"nginx\",pid=13,fd=6))\n";
        assert_eq!(process_of(line).as_deref(), Some("nginx (process 12)"));
        assert_eq!(process_of("LISTEN 0 511 127.0.0.1:3000 0.0.0.0:*\n"), None);
    }
}

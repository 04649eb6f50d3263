//! Which host a command goes to: `--local`, `--host`, `OCC_HOST`, the project's `.occ.toml`, the default host, else local.

use std::str::FromStr;

use occ_proto::error::Code;
use occ_proto::host::DefaultHost;
use occ_proto::{HostName, InvalidName};

use crate::cli::Global;
use crate::client::Client;
use crate::error::CliError;
use crate::project::Project;

/// What `--host` and `OCC_HOST` may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostArg {
    /// The word `local`.
    Local,
    /// A configured host.
    Name(HostName),
}

impl FromStr for HostArg {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text == "local" { Ok(Self::Local) } else { HostName::new(text).map(Self::Name) }
    }
}

/// Where a target came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The command line or the environment.
    Named,
    /// The default host.
    Default,
}

/// What a command goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A host.
    Host(HostName, Source),
    /// This machine, asked for.
    Local,
    /// Nothing was said and no default is set.
    Unset,
}

impl Target {
    /// Returns the target as far as it is known without the daemon; `None` leaves it to the default.
    pub(crate) fn named(
        global: &Global,
        occ_host: Option<&std::ffi::OsStr>,
    ) -> Result<Option<Self>, CliError> {
        if global.local {
            return Ok(Some(Self::Local));
        }
        let of = |arg: HostArg| match arg {
            HostArg::Local => Self::Local,
            HostArg::Name(name) => Self::Host(name, Source::Named),
        };
        if let Some(arg) = &global.host {
            return Ok(Some(of(arg.clone())));
        }
        match occ_host {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) => HostArg::from_str(&value.to_string_lossy())
                .map(|arg| Some(of(arg)))
                .map_err(|error| CliError::usage(format!("OCC_HOST: {error}"))),
        }
    }

    /// Returns the target: the project's where nothing is said (`.occ.toml`), else the daemon's default host. A project whose
    /// file is not allowed is not passed over.
    pub(crate) async fn resolve(named: Option<Self>, client: &Client) -> Result<Self, CliError> {
        if let Some(target) = named {
            return Ok(target);
        }
        if let Some(project) = Project::find()? {
            return Ok(Self::Host(project.allowed()?.host, Source::Named));
        }
        let default: DefaultHost = client.get("/v1/default-host").await?.parse()?;
        Ok(default.name.map_or(Self::Unset, |name| Self::Host(name, Source::Default)))
    }

    /// Returns the host, or says plainly that there is none.
    pub(crate) fn host(self, command: &str) -> Result<(HostName, Source), CliError> {
        match self {
            Self::Host(name, source) => Ok((name, source)),
            Self::Local => Err(CliError::unsupported(format!(
                "occ {command} needs a host: it is not for this machine itself."
            ))
            .hint(format!("occ {command} --host NAME"))),
            Self::Unset => {
                Err(CliError::usage(format!("No host is selected, and occ {command} needs one."))
                    .hint(format!("occ {command} --host NAME, or occ host default NAME")))
            }
        }
    }
}

impl Source {
    /// Returns `error` with the words for a default host that is not there: never a reason to go local.
    pub(crate) fn explain(self, host: &HostName, error: CliError) -> CliError {
        if self == Self::Default && error.daemon_code() == Some(Code::HostNotFound) {
            return CliError {
                message: format!("The default host '{host}' does not exist."),
                hint: Some("occ host default NAME, or occ host default none".to_owned()),
                ..error
            };
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use std::ffi::OsStr;

    fn named(args: &[&str], env: Option<&str>) -> Option<Target> {
        let cli = crate::cli::Cli::try_parse_from(args).unwrap();
        Target::named(&cli.global, env.map(OsStr::new)).unwrap()
    }

    fn host(name: &str) -> Option<Target> {
        Some(Target::Host(HostName::new(name).unwrap(), Source::Named))
    }

    #[test]
    fn the_order_of_targets() {
        assert_eq!(named(&["occ", "status", "--local"], Some("e")), Some(Target::Local));
        assert_eq!(named(&["occ", "status", "--host", "f"], Some("e")), host("f"));
        assert_eq!(named(&["occ", "--remote-host", "f", "status"], Some("e")), host("f"));
        assert_eq!(named(&["occ", "status"], Some("e")), host("e"));
        assert_eq!(named(&["occ", "status"], Some("")), None);
        assert_eq!(named(&["occ", "status", "--host", "local"], None), Some(Target::Local));
        assert_eq!(named(&["occ", "status"], None), None);
    }

    #[test]
    fn a_bad_variable_is_named() {
        let cli = crate::cli::Cli::try_parse_from(["occ", "status"]).unwrap();
        let error = Target::named(&cli.global, Some(OsStr::new("-x"))).unwrap_err();
        assert_eq!(error.exit, 2);
        assert!(error.message.starts_with("OCC_HOST: "), "{}", error.message);
    }
}

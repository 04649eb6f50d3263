//! The tables of occd.toml, and their rules.

use std::path::PathBuf;
use std::time::Duration;

use occ_proto::policy::{Action, Capability, ClientKind, Permission};
use serde::{Deserialize, Deserializer};

use super::program::{self, Layer};
use super::{Decision, Pattern};

/// `[policy]`, and the same keys under `[hosts.NAME.policy]` and `[local.policy]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct PolicyConfig {
    /// The directory that commands run in and files are below.
    #[serde(deserialize_with = "root")]
    pub root: Option<String>,
    /// Nothing is changed.
    pub read_only: Option<bool>,
    /// What is done where no rule fits.
    pub default: Option<Action>,
    /// What is done about changes of Docker's where no rule fits.
    pub docker: Option<Action>,
    /// What is done about forwards where no rule fits.
    pub forward: Option<Action>,
    /// How long a person has to allow something.
    #[serde(deserialize_with = "crate::config::duration")]
    pub ask_timeout: Option<Duration>,
    /// The first that fits decides.
    #[serde(deserialize_with = "rules")]
    pub rules: Vec<Rule>,
}

/// A table that says nothing.
pub static NOTHING: PolicyConfig = PolicyConfig {
    root: None,
    read_only: None,
    default: None,
    docker: None,
    forward: None,
    ask_timeout: None,
    rules: Vec::new(),
};

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// What is done with what it fits.
    pub action: Action,
    /// What it is about; everything, unless given.
    pub what: Vec<Capability>,
    /// Which programs.
    pub program: Option<Pattern>,
    /// With which arguments, a space between them.
    pub args: Option<Pattern>,
    /// For which kinds of client; all, unless given.
    pub client: Vec<ClientKind>,
    /// Where it is written: in bytes, then in lines.
    pub place: RulePlace,
}

/// Where a rule is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulePlace {
    /// So many bytes from the beginning of occd.toml.
    Offset(usize),
    /// In that line of it.
    Line(usize),
    /// In that line of a system-wide policy.
    System(PathBuf, usize),
    /// In a grant.
    Grant(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct RuleRepr {
    action: Action,
    #[serde(default)]
    what: Vec<Capability>,
    program: Option<Pattern>,
    args: Option<Pattern>,
    #[serde(default)]
    client: Vec<ClientKind>,
}

fn rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Rule>, D::Error> {
    let written = Vec::<toml::Spanned<RuleRepr>>::deserialize(deserializer)?;
    let rule = |spanned: toml::Spanned<RuleRepr>| {
        let place = RulePlace::Offset(spanned.span().start);
        let RuleRepr { action, what, program, args, client } = spanned.into_inner();
        let about_programs = program.is_some() || args.is_some();
        if about_programs && what.iter().any(|what| *what != Capability::Exec) {
            return Err(serde::de::Error::custom(
                "program and args go with what = [\"exec\"] alone",
            ));
        }
        if program.as_ref().is_some_and(|program| program.as_str().is_empty()) {
            return Err(serde::de::Error::custom(
                "program is empty, which no program is; * is every one",
            ));
        }
        Ok(Rule { action, what, program, args, client, place })
    };
    written.into_iter().map(rule).collect()
}

fn root<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    check_root(&text).map_err(serde::de::Error::custom)?;
    Ok(Some(text))
}

/// Checks a root: an absolute path.
pub fn check_root(text: &str) -> Result<(), String> {
    if !text.starts_with('/') || text.contains('\0') {
        return Err(format!("{text:?} is no directory that begins with /"));
    }
    Ok(())
}

impl PolicyConfig {
    /// Returns whether it says nothing.
    pub(super) fn is_silent(&self) -> bool {
        *self == Self { ask_timeout: self.ask_timeout, ..Self::default() }
    }

    /// Returns what a grant says.
    pub fn of_grant(name: &str, allow: &[Permission], root: Option<String>) -> Self {
        let rule = |permission: &Permission| Rule {
            action: Action::Allow,
            what: vec![permission.capability],
            program: permission.program.clone().map(Pattern::new),
            args: None,
            client: Vec::new(),
            place: RulePlace::Grant(name.to_owned()),
        };
        Self {
            root,
            default: Some(Action::Deny),
            rules: allow.iter().map(rule).collect(),
            ..Self::default()
        }
    }
}

impl std::fmt::Display for RulePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line) => write!(f, "occd.toml, line {line}"),
            Self::Offset(_) => f.write_str("occd.toml"),
            Self::System(path, line) => write!(f, "{}, line {line}", path.display()),
            Self::Grant(name) => write!(f, "the grant {name}"),
        }
    }
}

impl Rule {
    pub(super) fn is_for(&self, client: ClientKind, capability: Capability) -> bool {
        let about = if self.what.is_empty() && self.is_about_programs() {
            capability == Capability::Exec
        } else {
            self.what.is_empty() || self.what.contains(&capability)
        };
        about && (self.client.is_empty() || self.client.contains(&client))
    }

    pub(super) fn is_about_programs(&self) -> bool {
        self.program.is_some() || self.args.is_some()
    }

    /// Returns whether it names a program, as opposed to any.
    pub(super) fn names_program(&self) -> bool {
        self.program.as_ref().is_some_and(|pattern| !pattern.is_anything())
    }

    pub(super) fn fits_every_program(&self) -> bool {
        self.program.as_ref().is_none_or(Pattern::is_anything)
            && self.args.as_ref().is_none_or(Pattern::is_anything)
    }

    pub(super) fn fits(&self, client: ClientKind, layer: Layer<'_>) -> bool {
        let Some((program, args)) = layer.split_first() else { return false };
        let is_program = |pattern: &Pattern| {
            if pattern.as_str().contains('/') {
                return pattern.fits(program);
            }
            // What is allowed by its name alone must be what everybody knows by that name.
            let known = self.action != Action::Allow
                || pattern.is_anything()
                || program::is_systems(program);
            known && pattern.fits(program::base(program))
        };
        self.is_for(client, Capability::Exec)
            && self.program.as_ref().is_none_or(is_program)
            && self.args.as_ref().is_none_or(|pattern| pattern.fits(&args.join(&b' ')))
    }

    pub(super) fn decision(&self) -> Decision {
        let mut what = match &self.program {
            Some(program) => format!("the rule {} {:?}", self.action.as_str(), program.as_str()),
            None => format!("the rule {}", self.action.as_str()),
        };
        if let Some(args) = &self.args {
            what.push_str(&format!(" {:?}", args.as_str()));
        }
        Decision::new(self.action, format!("{what} ({})", self.place))
    }
}

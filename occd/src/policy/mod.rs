//! Policies: what may be done on a host, by which kind of client. Pure: a [`Request`] in, a [`Decision`] out.
//!
//! A guard against accidents and over-eager agents, and no wall: whoever is this user can do everything anyway. What
//! a grant's socket is mounted into meets the same engine, and there it is one. `guard.rs` has what is asked of
//! people and hosts; `api/doors.rs` says which request comes here.

use std::time::Duration;

use occ_proto::policy::{Action, Capability, ClientKind, Permission, PolicyView, RuleView};
use occ_proto::session::SessionHost;
use serde::{Deserialize, Deserializer};

mod asker;
mod guard;
mod pattern;
mod program;
mod reading;
mod root;

pub use asker::{Asker, GrantInForce};
pub use guard::{Denied, Guard, Told};
pub use pattern::Pattern;
pub use root::{is_below, resolve};

use program::{Hidden, Layer, Programs};

/// `[policy]`, and the same keys under `[hosts.NAME.policy]` and `[local.policy]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
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
    /// In a grant.
    Grant(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
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
    fn is_silent(&self) -> bool {
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
            Self::Grant(name) => write!(f, "the grant {name}"),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// To read a file or a directory, or what Docker tells.
    Read,
    /// To change one.
    Write,
    /// To run something.
    Exec(Exec<'a>),
    /// To change something of Docker's.
    Docker,
    /// To have Docker tell something.
    DockerRead,
    /// To open a way to the host, or from it.
    Forward,
}

/// What is to be run: a program with its arguments; none at all is the login shell.
#[derive(Debug, Clone, Copy)]
pub struct Exec<'a> {
    /// The program and its arguments; a line for a shell is `sh -c LINE`.
    pub argv: &'a [&'a [u8]],
    /// The names of the variables that are set.
    pub env: &'a [&'a str],
}

impl Request<'_> {
    fn capability(&self) -> Capability {
        match self {
            Self::Read | Self::DockerRead => Capability::Read,
            Self::Write => Capability::Write,
            Self::Exec(_) => Capability::Exec,
            Self::Docker => Capability::Docker,
            Self::Forward => Capability::Forward,
        }
    }
}

/// What is done with a request, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub action: Action,
    /// What decided it, such as a rule and its place.
    pub why: String,
}

impl Decision {
    fn new(action: Action, why: impl Into<String>) -> Self {
        Self { action, why: why.into() }
    }

    /// Returns the stricter of two.
    pub fn and(self, other: Self) -> Self {
        if other.action > self.action { other } else { self }
    }
}

/// What is in force for a place: its own table, then that for all.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    own: &'a PolicyConfig,
    all: &'a PolicyConfig,
}

impl<'a> Policy<'a> {
    /// Returns what one table says over another.
    pub fn new(own: &'a PolicyConfig, all: &'a PolicyConfig) -> Self {
        Self { own, all }
    }

    /// Returns whether anything is restricted.
    pub fn restricts(&self) -> bool {
        !self.own.is_silent() || !self.all.is_silent()
    }

    /// Returns the directory that work stays below.
    pub fn root(&self) -> Option<&'a str> {
        self.own.root.as_deref().or(self.all.root.as_deref())
    }

    /// Returns whether nothing is to be changed.
    pub fn read_only(&self) -> bool {
        self.own.read_only.or(self.all.read_only).unwrap_or(false)
    }

    /// Returns what is done where no rule fits.
    pub fn default(&self) -> Action {
        self.own.default.or(self.all.default).unwrap_or(Action::Allow)
    }

    /// Returns how long a person has to allow something, if that is set.
    pub fn ask_timeout(&self) -> Option<Duration> {
        self.own.ask_timeout.or(self.all.ask_timeout)
    }

    fn rules(&self) -> impl Iterator<Item = &'a Rule> + use<'a> {
        self.own.rules.iter().chain(&self.all.rules)
    }

    /// Returns whether what Docker can do would lead around it: everything on the host.
    fn is_evaded_by_docker(&self) -> bool {
        self.root().is_some() || self.rules().next().is_some() || self.default() != Action::Allow
    }

    fn docker(&self) -> Decision {
        if let Some(action) = self.own.docker.or(self.all.docker) {
            return Decision::new(action, format!("docker = \"{}\"", action.as_str()));
        }
        if self.is_evaded_by_docker() {
            return Decision::new(
                Action::Deny,
                "with root, rules or a default, Docker is only read: it can do everything on the host; docker = \"allow\" lets it",
            );
        }
        Decision::new(Action::Allow, "nothing is said of Docker")
    }

    fn forward(&self) -> Decision {
        if let Some(action) = self.own.forward.or(self.all.forward) {
            return Decision::new(action, format!("forward = \"{}\"", action.as_str()));
        }
        if self.is_evaded_by_docker() {
            return Decision::new(
                Action::Deny,
                "with root, rules or a default, nothing is forwarded: a port or a socket may lead around them; forward = \"allow\" lets it",
            );
        }
        Decision::new(Action::Allow, "nothing is said of forwards")
    }

    /// Decides.
    pub fn decide(&self, client: ClientKind, request: &Request<'_>) -> Decision {
        let capability = request.capability();
        let changes = matches!(request, Request::Write | Request::Docker | Request::Forward);
        if changes && self.read_only() {
            return Decision::new(Action::Deny, "read_only = true");
        }
        if let Request::Exec(exec) = request {
            return self.decide_exec(client, exec);
        }
        if let (Request::DockerRead, Some(Action::Deny)) =
            (request, self.own.docker.or(self.all.docker))
        {
            return Decision::new(Action::Deny, "docker = \"deny\"");
        }
        let fits = |rule: &&Rule| rule.is_for(client, capability) && !rule.is_about_programs();
        match (self.rules().find(fits), request) {
            (Some(rule), _) => rule.decision(),
            (None, Request::Docker) => self.docker(),
            (None, Request::Forward) => self.forward(),
            (None, _) => self.by_default(),
        }
    }

    fn by_default(&self) -> Decision {
        let default = self.default();
        match self.own.default.or(self.all.default) {
            Some(_) => Decision::new(default, format!("default = \"{}\"", default.as_str())),
            None => Decision::new(default, "no rule fits"),
        }
    }

    fn decide_exec(&self, client: ClientKind, exec: &Exec<'_>) -> Decision {
        let strictly = self.default() != Action::Allow || self.read_only();
        let login: &[&[u8]] = &[b"sh"];
        let argv = if exec.argv.is_empty() { login } else { exec.argv };
        let Programs { layers, mut hidden } = program::programs(argv, strictly);
        if exec.env.iter().any(|name| program::is_loaded(name, strictly)) {
            hidden = Hidden::Anything;
        }
        let seen = layers.iter().map(|layer| self.decide_layer(client, layer));
        let mut decision = seen.reduce(Decision::and).unwrap_or_else(|| self.by_default());
        let innermost = layers.last().copied().unwrap_or(argv);
        let is_named = |rule: &Rule| rule.names_program();
        let covered = hidden == Hidden::Inside
            && self.rules().find(|rule| rule.fits(client, innermost)).is_some_and(is_named);
        if hidden != Hidden::No && !covered {
            decision = decision.and(self.strictest(client));
        }
        decision
    }

    /// Decides about one program, everything of which shows.
    fn decide_layer(&self, client: ClientKind, layer: Layer<'_>) -> Decision {
        let rule = self.rules().find(|rule| rule.fits(client, layer));
        let is_named = rule.is_some_and(Rule::names_program);
        // A rule that names a program knows what it does.
        if self.read_only() && !is_named && !reading::is_reading(layer) {
            let name = String::from_utf8_lossy(program::base(layer[0])).into_owned();
            let why = format!("read_only = true, and {name} is not known to change nothing");
            return Decision::new(Action::Deny, why);
        }
        rule.map_or_else(|| self.by_default(), Rule::decision)
    }

    /// Returns the strictest of all that could be said about a program that does not show.
    fn strictest(&self, client: ClientKind) -> Decision {
        let mut about = self.rules().filter(|rule| rule.is_for(client, Capability::Exec));
        let mut all: Option<Decision> = None;
        let mut add = |decision: Decision| {
            all = Some(match all.take() {
                Some(others) => others.and(decision),
                None => decision,
            });
        };
        // Behind one that fits every program nothing can apply.
        let is_last = about.by_ref().any(|rule| {
            add(rule.decision());
            rule.fits_every_program()
        });
        if !is_last {
            add(self.by_default());
        }
        let all = all.unwrap_or_else(|| self.by_default());
        let read_only = Decision::new(Action::Deny, "read_only = true");
        let all = if self.read_only() { all.and(read_only) } else { all };
        let why = format!("what it runs does not show, so the strictest counts: {}", all.why);
        Decision { why, ..all }
    }

    /// Returns it for people.
    pub fn view(&self, host: SessionHost) -> PolicyView {
        let rule = |rule: &Rule| RuleView {
            at: rule.place.to_string(),
            action: rule.action,
            what: rule.what.clone(),
            program: rule.program.as_ref().map(|pattern| pattern.as_str().to_owned()),
            args: rule.args.as_ref().map(|pattern| pattern.as_str().to_owned()),
            client: rule.client.clone(),
        };
        let unless_read_only =
            |decision: Decision| if self.read_only() { Action::Deny } else { decision.action };
        PolicyView {
            host,
            restricts: self.restricts(),
            root: self.root().map(str::to_owned),
            read_only: self.read_only(),
            default: self.default(),
            docker: unless_read_only(self.docker()),
            forward: unless_read_only(self.forward()),
            rules: self.rules().map(rule).collect(),
        }
    }
}

impl Rule {
    fn is_for(&self, client: ClientKind, capability: Capability) -> bool {
        let about = if self.what.is_empty() && self.is_about_programs() {
            capability == Capability::Exec
        } else {
            self.what.is_empty() || self.what.contains(&capability)
        };
        about && (self.client.is_empty() || self.client.contains(&client))
    }

    fn is_about_programs(&self) -> bool {
        self.program.is_some() || self.args.is_some()
    }

    /// Returns whether it names a program, as opposed to any.
    fn names_program(&self) -> bool {
        self.program.as_ref().is_some_and(|pattern| !pattern.is_anything())
    }

    fn fits_every_program(&self) -> bool {
        self.program.as_ref().is_none_or(Pattern::is_anything)
            && self.args.as_ref().is_none_or(Pattern::is_anything)
    }

    fn fits(&self, client: ClientKind, layer: Layer<'_>) -> bool {
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

    fn decision(&self) -> Decision {
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

#[cfg(test)]
mod tests;

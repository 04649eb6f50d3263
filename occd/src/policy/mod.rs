//! Policies: what may be done on a host, by which kind of client. Pure: a [`Request`] in, a [`Decision`] out.
//!
//! A guard against accidents and over-eager agents, and no wall: whoever is this user can do everything anyway. What
//! a grant's socket is mounted into meets the same engine, and there it is one. `guard.rs` has what is asked of
//! people and hosts; `api/doors.rs` says which request comes here.

use std::time::Duration;

use occ_proto::policy::{Action, Capability, ClientKind, PolicyView, RuleView};
use occ_proto::session::SessionHost;

mod asker;
pub(crate) mod guard;
mod pattern;
mod program;
mod reading;
mod root;
mod table;

pub use asker::{Asker, GrantInForce};
pub use guard::{Denied, Guard, Told};
pub use pattern::Pattern;
pub use root::{is_below, names_outside, resolve, stops_below};
pub use table::{NOTHING, PolicyConfig, Rule, RulePlace, check_root};

use program::{Hidden, Layer, Programs};

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
                "root, rules or a default, with which Docker is only read: it can do everything on the host; docker = \"allow\" lets it",
            );
        }
        Decision::new(Action::Allow, "nothing is said of Docker")
    }

    /// Returns the refusal where not even reading is let through, which no rule changes.
    fn docker_closed(&self) -> Option<Decision> {
        let is_closed = self.own.docker.or(self.all.docker) == Some(Action::Deny);
        is_closed.then(|| Decision::new(Action::Deny, "docker = \"deny\""))
    }

    fn docker_read(&self) -> Decision {
        self.docker_closed().unwrap_or_else(|| self.by_default())
    }

    fn forward(&self) -> Decision {
        if let Some(action) = self.own.forward.or(self.all.forward) {
            return Decision::new(action, format!("forward = \"{}\"", action.as_str()));
        }
        if self.is_evaded_by_docker() {
            return Decision::new(
                Action::Deny,
                "root, rules or a default, with which nothing is forwarded: a port or a socket may lead around them; forward = \"allow\" lets it",
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
        if let (Request::DockerRead, Some(closed)) = (request, self.docker_closed()) {
            return closed;
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
        let hidden = "the strictest that could apply, because what it runs does not show";
        let why = format!("{}, {hidden}", all.why);
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
            docker_read: Some(self.docker_read().action),
            forward: unless_read_only(self.forward()),
            rules: self.rules().map(rule).collect(),
            system: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;

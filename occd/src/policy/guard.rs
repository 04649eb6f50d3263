//! Where requests meet policies: what is in force is looked up, and a person is asked where a policy says so.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use occ_proto::HostName;
use occ_proto::forward::{Direction, Endpoint};
use occ_proto::policy::{Action, ClientKind, PolicyView};
use occ_proto::session::SessionHost;
use tokio::sync::watch;

use super::{Asker, Decision, Policy, Request};
use crate::audit::Audit;
use crate::config::{Config, Feature, LoadedConfig, SystemPolicy};
use crate::peer::Lineage;
use crate::prompts::{Approval, Client, NoAnswer, Prompts};

/// How long a person has to allow something: they may have to come to the terminal first.
pub(crate) const ASK_TIMEOUT: Duration = Duration::from_secs(300);

/// Told, once, of the question that is waited for: its number and its words.
pub type Told<'a> = &'a (dyn Fn(u64, &str) + Send + Sync);

/// What all doors ask.
#[derive(Debug)]
pub struct Guard {
    config: watch::Receiver<LoadedConfig>,
    prompts: Arc<Prompts>,
    audit: Audit,
    /// The sessions whose start a person has allowed, with the kind of client.
    allowed: Mutex<BTreeSet<(String, ClientKind)>>,
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The policy says so.
    #[error("refused by {0}")]
    Policy(String),
    /// A person was asked, and said no.
    #[error("{0}, and whoever was asked did not allow it")]
    Declined(String),
    /// A person was asked, and said nothing.
    #[error("{0}, and nobody allowed it in time")]
    Unanswered(String),
    /// The daemon stopped before anybody said anything.
    #[error("{0}, and occd stopped before anybody allowed it")]
    Stopping(String),
}

impl Guard {
    /// Returns one for the settings as they change.
    pub fn new(config: watch::Receiver<LoadedConfig>, prompts: Arc<Prompts>, audit: Audit) -> Self {
        Self { config, prompts, audit, allowed: Mutex::default() }
    }

    /// Returns where it is noted what becomes of requests.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow().config)
    }

    /// Returns whether anything of that place is restricted for them.
    pub fn restricts(&self, asker: &Asker, place: &SessionHost) -> bool {
        let config = self.config();
        let is_bound = || config.system.iter().any(|system| !system.is_silent());
        asker.grant.is_some() || config.policy(place).restricts() || is_bound()
    }

    /// Refuses what whoever administers this machine has turned off.
    pub fn check_feature(&self, feature: Feature) -> Result<(), Denied> {
        match self.config().turned_off(feature) {
            None => Ok(()),
            Some(system) => Err(turned_off(system, feature)),
        }
    }

    /// Refuses a way that whoever administers this machine has turned off.
    pub fn check_forward(&self, direction: Direction, listen: &Endpoint) -> Result<(), Denied> {
        self.check_feature(match direction {
            Direction::Remote => Feature::RemoteForwards,
            _ => Feature::LocalForwards,
        })?;
        if listen.is_public() { self.check_feature(Feature::PublicForwards) } else { Ok(()) }
    }

    /// Decides; of the policies of the place, of the grant, and of the administrator the strictest counts.
    pub fn decide(&self, asker: &Asker, place: &SessionHost, request: &Request<'_>) -> Decision {
        let config = self.config();
        let of_place = config.policy(place).decide(asker.kind, request);
        let of_place = config.system.iter().fold(of_place, |decision, system| {
            decision.and(by_system(system, asker.kind, request))
        });
        match &asker.grant {
            None => of_place,
            Some(grant) => Policy::new(&grant.policy, &super::NOTHING)
                .decide(asker.kind, request)
                .and(of_place),
        }
    }

    /// Returns whether they may be shown what Docker tells of a host, about which no person is asked then.
    pub fn shows_docker(&self, asker: &Asker, host: &HostName) -> bool {
        let place = SessionHost::Host(host.clone());
        let allows = || self.decide(asker, &place, &Request::DockerRead).action == Action::Allow;
        // A grant gives nothing of Docker's, whatever its policy says of reading.
        asker.grant.is_none() && (!self.restricts(asker, &place) || allows())
    }

    /// Returns whether any client may be shown it.
    pub fn shows_docker_to_anybody(&self, host: &HostName) -> bool {
        let client = |kind| Asker { kind, ..Asker::default() };
        ClientKind::ALL.into_iter().any(|kind| self.shows_docker(&client(kind), host))
    }

    /// Returns the directories that work there stays below.
    pub fn roots(&self, asker: &Asker, place: &SessionHost) -> Vec<String> {
        let config = self.config();
        let of_grant = asker.grant.as_ref().and_then(|grant| grant.policy.root.clone());
        let of_place = config.policy(place).root().map(str::to_owned);
        let of_system = config.system.iter().filter_map(|system| system.policy.root.clone());
        of_grant.into_iter().chain(of_place).chain(of_system).collect()
    }

    /// Returns what is in force for a place.
    pub fn view(&self, asker: &Asker, place: SessionHost) -> PolicyView {
        match &asker.grant {
            None => {
                let config = self.config();
                let system = config.system.iter().map(|system| system.view(&place)).collect();
                PolicyView { system, ..config.policy(&place).view(place) }
            }
            Some(grant) => Policy::new(&grant.policy, &super::NOTHING).view(place),
        }
    }

    /// Decides, and asks a person where the policy says so. `text` says what is asked for.
    pub async fn permit(
        &self,
        (asker, client): (&Asker, &Client),
        place: &SessionHost,
        request: &Request<'_>,
        text: &str,
        told: Told<'_>,
    ) -> Result<(), Denied> {
        let decision = self.decide(asker, place, request);
        match decision.action {
            Action::Allow => Ok(()),
            Action::Deny => Err(Denied::Policy(decision.why)),
            Action::Ask => self.ask((asker, client), place, decision.why, text, told).await,
        }
    }

    /// Asks a person about what was decided so.
    pub async fn ask(
        &self,
        (asker, client): (&Asker, &Client),
        place: &SessionHost,
        why: String,
        text: &str,
        told: Told<'_>,
    ) -> Result<(), Denied> {
        let patience = self.config().policy(place).ask_timeout().unwrap_or(ASK_TIMEOUT);
        let pid = asker.peer.and_then(|peer| peer.pid);
        let who = match &asker.grant {
            Some(grant) => format!("the grant {}", grant.name),
            None => asker.kind.as_str().to_owned(),
        };
        let program =
            pid.map_or_else(String::new, |pid| format!(", process {pid} ({})", program(pid)));
        let approval = Approval {
            host: place.host().cloned(),
            message: occ_proto::text::sanitize(&format!("Allow {who}{program} on {place}: {text}")),
            note: Some(occ_proto::text::sanitize(&why)),
            by: asker.peer,
            // Where it cannot be told, nobody of this machine can be told from it.
            lineage: pid.and_then(Lineage::of),
            patience,
        };
        match self.prompts.approve(approval, client, told).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(NoAnswer::Declined) => Err(Denied::Declined(why)),
            Err(NoAnswer::Nobody) => {
                Err(Denied::Policy(format!("{why}, and too many approvals are waited for")))
            }
            Err(NoAnswer::Stopping) => Err(Denied::Stopping(why)),
            Err(_) => Err(Denied::Unanswered(why)),
        }
    }

    fn allowed(&self) -> MutexGuard<'_, BTreeSet<(String, ClientKind)>> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that such a client may work with a session, for whose start a person was asked if the policy says so.
    pub fn remember(&self, asker: &Asker, session: &str) {
        self.allowed().insert((session.to_owned(), asker.kind));
    }

    /// Returns whether such a client has started a session.
    pub fn remembers(&self, asker: &Asker, session: &str) -> bool {
        self.allowed().contains(&(session.to_owned(), asker.kind))
    }

    /// Decides about what occ does by itself, such as opening again what was open: nobody is asked.
    pub fn still_permits(&self, host: &HostName, request: &Request<'_>) -> Result<(), Denied> {
        let decision = self.decide(&Asker::default(), &SessionHost::Host(host.clone()), request);
        match decision.action {
            // Somebody was asked when it was new.
            Action::Allow | Action::Ask => Ok(()),
            Action::Deny => Err(Denied::Policy(decision.why)),
        }
    }
}

/// Returns what a system-wide policy says; its words name the file.
fn by_system(system: &SystemPolicy, kind: ClientKind, request: &Request<'_>) -> Decision {
    let feature = match request {
        Request::Docker | Request::DockerRead => Some(Feature::Docker),
        Request::Write => Some(Feature::Files),
        Request::Read | Request::Exec(_) | Request::Forward => None,
    };
    if let Some(feature) = feature.filter(|feature| !system.has(*feature))
        && let Denied::Policy(why) = turned_off(system, feature)
    {
        return Decision { action: Action::Deny, why };
    }
    let decision = system.policy().decide(kind, request);
    let file = system.path.display().to_string();
    match decision.why.contains(&file) {
        true => decision,
        false => Decision { why: format!("{} ({file})", decision.why), ..decision },
    }
}

fn turned_off(system: &SystemPolicy, feature: Feature) -> Denied {
    Denied::Policy(format!("{} = false ({})", feature.key(), system.path.display()))
}

/// Returns the name of a process's program, as far as the system tells.
fn program(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => "of an unknown name".to_owned(),
        name => name.to_owned(),
    }
}

//! A login that was refused, and what it was tried with, in words.

/// A key that was offered to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The file or the agent's comment.
    pub name: String,
    /// Why a server may not take it, to be put behind the name; mostly empty.
    pub note: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// `file` or `agent`.
    pub origin: &'static str,
}

/// A login that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusal {
    /// The login name.
    pub user: String,
    /// What it took, which was not enough.
    pub accepted: Vec<String>,
    /// What was offered in vain.
    pub offered: Vec<Offer>,
    /// What the server would have taken and the agent did not sign with.
    pub unsigned: Vec<Offer>,
    /// Certificates that could not be offered, in words.
    pub unusable: Vec<String>,
    /// Keys that were not offered, because there were too many.
    pub unoffered: usize,
    /// The server allowed no more tries.
    pub cut_short: bool,
    /// The server has no other method, whatever is offered.
    pub no_method: bool,
    /// What forbids everything but keys for all hosts, if something does.
    pub forbidden: Option<&'static str>,
    /// What a person gave in vain, in words.
    pub answered: Vec<&'static str>,
    /// What the server would accept, such as `publickey,password`.
    pub accepts: String,
    /// Of those, what the settings would have to allow.
    pub allow: Vec<&'static str>,
}

impl Refusal {
    /// Returns whether nothing but the agent was in the way.
    pub(super) fn is_for_the_agent(&self) -> bool {
        !self.unsigned.is_empty() && self.offered.is_empty() && self.answered.is_empty()
    }

    /// Returns whether another key would not do, and a method that the settings do not allow might.
    pub(super) fn wants_another_method(&self) -> bool {
        let takes_keys = self.accepts.split(',').any(|method| method == "publickey");
        let key_was_wrong = takes_keys && self.accepted.is_empty() && !self.offered.is_empty();
        !self.allow.is_empty() && !key_was_wrong
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { user, accepted, offered, unsigned, answered, allow, .. } = self;
        if !unsigned.is_empty() {
            write!(f, "the ssh-agent did not sign with {}", list_text(unsigned))?;
            if self.is_for_the_agent() {
                return write!(f, ", which the server would take for {user}");
            }
            f.write_str("; ")?;
        }
        if self.no_method && offered.is_empty() && accepted.is_empty() && answered.is_empty() {
            return write!(f, "the server has no authentication method for {user}");
        }
        let takes_keys = self.accepts.split(',').any(|method| method == "publickey");
        if offered.is_empty() && accepted.is_empty() && answered.is_empty() && !takes_keys {
            let allow = allow_text(allow, self.forbidden);
            return write!(f, "the server takes no key for {user}{allow}");
        }
        write!(
            f,
            "the server {} for {user}{}{}{}{}{}",
            refused_text(accepted, offered, answered),
            offers_text(offered),
            self.unusable.iter().map(|why| format!("; {why}")).collect::<String>(),
            limit_text(self.unoffered, self.cut_short),
            if self.no_method { "; it has no other authentication method" } else { "" },
            allow_text(allow, self.forbidden)
        )
    }
}

fn refused_text(accepted: &[String], offered: &[Offer], answered: &[&'static str]) -> String {
    let nothing_else = answered.is_empty() && accepted.is_empty();
    let keys = (!offered.is_empty() || nothing_else).then_some("every key");
    let refused: Vec<&str> = keys.into_iter().chain(answered.iter().copied()).collect();
    let refused = refused.join(" and ");
    match (accepted.join(" and "), refused.is_empty()) {
        (accepted, _) if accepted.is_empty() => format!("refused {refused}"),
        (accepted, true) => format!("took {accepted} and wants more"),
        (accepted, false) => format!("took {accepted}, and refused {refused}"),
    }
}

fn limit_text(unoffered: usize, cut_short: bool) -> String {
    match (unoffered, cut_short) {
        (0, _) => String::new(),
        (n, true) => format!("; it allowed no more tries, {n} more keys were not offered"),
        (n, false) => format!("; {n} more keys were not offered, five is the most"),
    }
}

fn allow_text(allow: &[&'static str], forbidden: Option<&'static str>) -> String {
    if allow.is_empty() {
        return String::new();
    }
    let words: Vec<String> = allow.iter().map(|method| format!("\"{method}\"")).collect();
    let words = words.join(", ");
    if let Some(by) = forbidden {
        return format!("; it would take {words}, which {by} forbids");
    }
    format!("; it would take {words}: auth = [{words}] for this host in occd.toml allows it")
}

fn offers_text(offered: &[Offer]) -> String {
    if offered.is_empty() { String::new() } else { format!("; offered {}", list_text(offered)) }
}

fn list_text(offers: &[Offer]) -> String {
    let text = |offer: &Offer| {
        let Offer { name, note, fingerprint, origin } = offer;
        format!("{name}{note} {fingerprint} ({origin})")
    };
    offers.iter().map(text).collect::<Vec<_>>().join(", ")
}

//! The clients that can put a question to a person.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// How deep groups of clients lie in one another: a host behind jump hosts, and a key that the last needs.
const DEEPEST: usize = 16;

/// A client's request whose sender listens for prompts. Ends with the request.
#[derive(Debug, Clone)]
pub struct Asker(Arc<str>);

impl Asker {
    /// Returns the client of that token, which is 1 to 64 letters, digits and hyphens.
    pub fn new(token: &str) -> Option<Self> {
        let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let good = (1..=64).contains(&token.len()) && token.bytes().all(valid);
        good.then(|| Self(token.into()))
    }
}

#[derive(Debug)]
enum Member {
    Client(Weak<str>),
    Group(Weak<Mutex<Vec<Member>>>),
}

/// The clients that can answer for one host or key, and those of others that wait for it.
#[derive(Debug, Clone, Default)]
pub struct Askers(Arc<Mutex<Vec<Member>>>);

impl Askers {
    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a client for as long as its request lasts.
    pub fn add(&self, asker: &Asker) {
        let mut members = self.lock();
        members.retain(|member| match member {
            Member::Client(token) => token.strong_count() > 0,
            Member::Group(group) => group.strong_count() > 0,
        });
        members.push(Member::Client(Arc::downgrade(&asker.0)));
    }

    /// Adds the clients of another, now and later, until the guard is dropped.
    pub(super) fn lend<'a>(&'a self, other: &'a Askers) -> impl Drop + use<'a> {
        self.lock().push(Member::Group(Arc::downgrade(&other.0)));
        super::OnDrop(move || {
            let mut members = self.lock();
            let is_it = |member: &Member| match member {
                Member::Group(group) => group.as_ptr() == Arc::as_ptr(&other.0),
                Member::Client(_) => false,
            };
            if let Some(at) = members.iter().position(is_it) {
                members.swap_remove(at);
            }
        })
    }

    /// Returns whether there is one.
    pub fn any(&self) -> bool {
        self.find(&|_| true, DEEPEST)
    }

    /// Returns whether this client is one.
    pub fn has(&self, token: &str) -> bool {
        self.find(&|other| other == token, DEEPEST)
    }

    fn find(&self, wanted: &dyn Fn(&str) -> bool, depth: usize) -> bool {
        // Not under the lock: groups lie in one another.
        let (mut clients, mut groups) = (Vec::new(), Vec::new());
        for member in self.lock().iter() {
            match member {
                Member::Client(token) => clients.extend(token.upgrade()),
                Member::Group(group) => groups.extend(group.upgrade().map(Askers)),
            }
        }
        clients.iter().any(|token| wanted(token))
            || (depth > 0 && groups.iter().any(|group| group.find(wanted, depth - 1)))
    }
}

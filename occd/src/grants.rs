//! Grants: sockets that serve one host, with a policy that is fixed when they are made, until an end.
//!
//! Each has a directory of its own, which can be mounted into a container as a whole, so that the socket of the next
//! daemon is seen there, too. They are remembered, and end when their time has come, with all that is open through them.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use occ_proto::HostName;
use occ_proto::paths::MAX_SOCKET_PATH;
use occ_proto::policy::{GRANT_SOCKET, Grant, Permission};
use tokio::net::UnixListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Service;
use crate::audit::Audit;
use crate::policy::{GrantInForce, PolicyConfig, check_root};
use crate::{server, state_file};

/// The longest name: it is part of a socket's path.
const LONGEST_NAME: usize = 32;
/// The longest that a grant can last.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// The clock is looked at this often, since the time that a machine sleeps counts, too.
const LOOK: Duration = Duration::from_secs(15);

/// A grant to make.
#[derive(Debug)]
pub struct Wish {
    /// Its host.
    pub host: HostName,
    /// What it gives.
    pub allow: Vec<Permission>,
    /// How long.
    pub lasts: Duration,
    /// The directory that work stays below.
    pub root: Option<String>,
    /// Its name; some other unless given.
    pub name: Option<String>,
    /// Whoever reaches the socket may use it.
    pub any_uid: bool,
}

/// Why there is no grant.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// It cannot be one.
    #[error("{0}")]
    Bad(String),
    /// There is one of that name.
    #[error("there is a grant {0} already")]
    Taken(String),
    /// There is none of that name.
    #[error("there is no grant {0}")]
    Unknown(String),
    /// The system refused.
    #[error("{what}")]
    Io {
        /// To do what.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// All of them.
#[derive(Debug)]
pub struct Grants {
    /// Has their directories.
    dir: PathBuf,
    /// Remembers them.
    file: PathBuf,
    entries: Mutex<BTreeMap<String, Entry>>,
    audit: Audit,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Entry {
    grant: Grant,
    over: CancellationToken,
}

impl Grants {
    /// Returns those that are remembered in `state` and have not ended, with sockets below `dir`; none is served yet.
    pub fn new(
        dir: &Path,
        state: &Path,
        audit: Audit,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let file = state.join("grants.json");
        let remembered: Vec<Grant> = state_file::load(&file, "there are no grants");
        let now = Timestamp::now();
        let open = remembered.into_iter().filter(|grant| grant.ends_at > now);
        let dir = dir.join("grants");
        let entry = |mut grant: Grant| {
            // The daemon before may have had its sockets in another place.
            let socket = socket_in(&dir.join(&grant.name)).display().to_string();
            let before = std::mem::replace(&mut grant.socket, socket);
            if before != grant.socket {
                tracing::warn!(
                    grant = grant.name,
                    before,
                    now = grant.socket,
                    "a grant has its socket in another place now"
                );
                if let Some(dir) = Path::new(&before)
                    .parent()
                    .filter(|dir| dir.ends_with(Path::new("grants").join(&grant.name)))
                {
                    remove(dir);
                }
            }
            (grant.name.clone(), Entry { grant, over: CancellationToken::new() })
        };
        let entries = Mutex::new(open.map(entry).collect());
        Self { dir, file, entries, audit, tasks, stop }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves those that are remembered, with the whole API behind their policies.
    pub fn serve_all(self: &Arc<Self>, service: &Service) {
        // What is left of others has ended.
        if let Ok(dirs) = std::fs::read_dir(&self.dir) {
            let known = self.lock();
            for dir in dirs.flatten() {
                if !known.contains_key(&*dir.file_name().to_string_lossy()) {
                    remove(&dir.path());
                }
            }
        }
        for (grant, over) in self.open() {
            if let Err(error) = self.serve(&grant, over, service) {
                tracing::error!(grant = grant.name, %error, "a grant is not served");
            }
        }
    }

    fn open(&self) -> Vec<(Grant, CancellationToken)> {
        self.lock().values().map(|entry| (entry.grant.clone(), entry.over.clone())).collect()
    }

    /// Returns them.
    pub fn list(&self) -> Vec<Grant> {
        let now = Timestamp::now();
        let grants = self.lock();
        let open = grants.values().filter(|entry| entry.grant.ends_at > now);
        open.map(|entry| entry.grant.clone()).collect()
    }

    /// Makes one and serves it.
    ///
    /// # Errors
    /// See [`GrantError`]; there is none then.
    pub fn add(self: &Arc<Self>, wish: Wish, service: &Service) -> Result<Grant, GrantError> {
        let bad = |text: String| Err(GrantError::Bad(text));
        let Wish { host, allow, lasts, root, name, any_uid } = wish;
        if allow.is_empty() {
            return bad("a grant that gives nothing is none".into());
        }
        if lasts.is_zero() || lasts > LONGEST {
            return bad("a grant lasts longer than no time, and at most 366 days".into());
        }
        if let Some(root) = &root {
            check_root(root).map_err(GrantError::Bad)?;
        }
        let name = name.unwrap_or_else(|| format!("{:08x}", fastrand::u32(..)));
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_plain) {
            return bad(format!(
                "{name:?} is no name: 1 to {LONGEST_NAME} letters, digits, - and _"
            ));
        }
        let created = Timestamp::now();
        let ends_at = SignedDuration::try_from(lasts)
            .ok()
            .and_then(|lasts| created.checked_add(lasts).ok())
            .ok_or_else(|| GrantError::Bad("the end is out of range".into()))?;
        let socket = socket_in(&self.dir.join(&name));
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return bad(format!("the path {} is too long for a socket", socket.display()));
        }
        let socket = socket.display().to_string();
        let grant =
            Grant { name: name.clone(), host, allow, root, created, ends_at, any_uid, socket };
        let over = CancellationToken::new();
        {
            let mut entries = self.lock();
            if entries.contains_key(&name) {
                return Err(GrantError::Taken(name));
            }
            let entry = Entry { grant: grant.clone(), over: over.clone() };
            entries.insert(name.clone(), entry);
        }
        let served = self.serve(&grant, over, service).and_then(|()| self.save());
        if let Err(source) = served {
            self.take(&name);
            return Err(GrantError::Io {
                what: format!("the grant {name} cannot be made"),
                source,
            });
        }
        tracing::info!(grant = name, host = %grant.host, "a grant was made");
        Ok(grant)
    }

    /// Ends one.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot be forgotten.
    pub fn revoke(&self, name: &str) -> Result<(), GrantError> {
        if !self.take(name) {
            return Err(GrantError::Unknown(name.to_owned()));
        }
        let failed = |source| GrantError::Io {
            what: format!("the grant {name} has ended, and comes back with the next daemon"),
            source,
        };
        self.save().map_err(failed)
    }

    /// Ends those of a host that is no more.
    pub fn revoke_all(&self, host: &HostName) {
        let its = self.list().into_iter().filter(|grant| grant.host == *host);
        for grant in its {
            if let Err(error) = self.revoke(&grant.name) {
                tracing::error!(%error, "a grant of a host that is no more");
            }
        }
    }

    fn take(&self, name: &str) -> bool {
        let Some(entry) = self.lock().remove(name) else { return false };
        // First: whoever is cut off looks whether it is there.
        remove(&self.dir.join(name));
        entry.over.cancel();
        tracing::info!(grant = name, "a grant has ended");
        self.audit.note("grant.end", Some(entry.grant.host.as_str()), format!("grant {name}"));
        true
    }

    fn save(&self) -> io::Result<()> {
        // Held while it is written, so that what is written last is the newest.
        let entries = self.lock();
        let all: Vec<&Grant> = entries.values().map(|entry| &entry.grant).collect();
        state_file::save(&self.file, &all)
    }

    fn serve(
        self: &Arc<Self>,
        grant: &Grant,
        over: CancellationToken,
        service: &Service,
    ) -> io::Result<()> {
        let listener = self.bind(grant)?;
        let in_force = Arc::new(GrantInForce {
            name: grant.name.clone(),
            host: grant.host.clone(),
            policy: PolicyConfig::of_grant(&grant.name, &grant.allow, grant.root.clone()),
            ends_at: grant.ends_at,
            over: over.clone(),
        });
        let serving = server::serve_grant(
            listener,
            service.clone(),
            in_force,
            grant.any_uid,
            self.tasks.clone(),
            over.clone(),
        );
        self.tasks.spawn(serving);
        let (name, ends_at) = (grant.name.clone(), grant.ends_at);
        let (grants, stop) = (Arc::downgrade(self), self.stop.clone());
        let socket = socket_in(&self.dir.join(&name));
        self.tasks.spawn(async move {
            let ended = async {
                while let Ok(left) = Duration::try_from(ends_at.duration_since(Timestamp::now()))
                    && !left.is_zero()
                {
                    sleep(left.min(LOOK)).await;
                }
            };
            let stopped = tokio::select! {
                () = stop.cancelled() => true,
                () = over.cancelled() => return,
                () = ended => false,
            };
            if stopped {
                over.cancel();
                // The next daemon goes on with it, in the same directory, which may be mounted somewhere.
                if let Err(error) = std::fs::remove_file(&socket) {
                    tracing::warn!(grant = name, %error, "a grant's socket could not be removed");
                }
                return;
            }
            if let Some(grants) = grants.upgrade()
                && grants.take(&name)
                && let Err(error) = grants.save()
            {
                tracing::error!(%error, "the grants cannot be remembered");
            }
            over.cancel();
        });
        Ok(())
    }

    fn bind(&self, grant: &Grant) -> io::Result<UnixListener> {
        let make = |dir: &Path, mode: u32| match DirBuilder::new().mode(mode).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            // Whatever the umask.
            _ => std::fs::set_permissions(dir, Permissions::from_mode(mode)),
        };
        // The directory above them is nobody else's: whom a socket is for is who has it mounted.
        make(&self.dir, 0o700)?;
        let dir = self.dir.join(&grant.name);
        let (dir_mode, mode) = if grant.any_uid { (0o711, 0o666) } else { (0o700, 0o600) };
        make(&dir, dir_mode)?;
        let socket = socket_in(&dir);
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = StdListener::bind(&socket)?;
        std::fs::set_permissions(&socket, Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }
}

/// Returns the socket of the grant whose directory that is.
fn socket_in(dir: &Path) -> PathBuf {
    dir.join(GRANT_SOCKET)
}

fn remove(dir: &Path) {
    let socket = socket_in(dir);
    for removed in [std::fs::remove_file(&socket), std::fs::remove_dir(dir)] {
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %dir.display(), %error, "what is left of a grant stays");
            }
            _ => {}
        }
    }
}

//! What a [`RealSshd`] is made of: the builder, its files, its port.

use super::*;
use crate::ports::free_port_at;
use crate::user::test_user;

/// Where distributions have OpenSSH's `sftp-server`.
const SFTP_SERVERS: [&str; 5] = [
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/libexec/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/lib/sftp-server",
];

/// Returns the path of OpenSSH's `sftp-server`, if it is there.
pub fn sftp_server() -> Option<PathBuf> {
    SFTP_SERVERS.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Settings of a [`RealSshd`]. What is not set is OpenSSH's default.
#[derive(Debug, Clone)]
pub struct RealSshdBuilder {
    listen: IpAddr,
    host_keys: Vec<String>,
    client_key: String,
    user: Option<String>,
    lines: Vec<String>,
    host_ca: Option<(KeyFile, Vec<String>)>,
    env: Vec<String>,
    no_sftp_server: bool,
}

impl Default for RealSshdBuilder {
    fn default() -> Self {
        Self {
            listen: Ipv4Addr::LOCALHOST.into(),
            host_keys: vec!["ed25519".to_owned()],
            client_key: "ed25519".to_owned(),
            user: None,
            lines: Vec::new(),
            host_ca: None,
            env: Vec::new(),
            no_sftp_server: false,
        }
    }
}

impl RealSshdBuilder {
    /// Adds a line of `sshd_config`. It comes before the fixture's own and so wins over them
    /// (sshd_config(5): the first value counts). From a `Match` line on, lines go to the end.
    #[must_use]
    pub fn config(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Sets a variable for every program of a session, such as `PATH`; its value has no spaces.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!(" {name}={value}"));
        self
    }

    /// Hides OpenSSH's `sftp-server` from its sessions, which takes root.
    #[must_use]
    pub fn without_sftp_server(mut self) -> Self {
        self.no_sftp_server = true;
        self
    }

    /// Sets `MaxSessions`: session channels per connection.
    #[must_use]
    pub fn max_sessions(self, count: u32) -> Self {
        self.config(format!("MaxSessions {count}"))
    }

    /// Sets `ClientAliveInterval` in seconds and `ClientAliveCountMax`.
    #[must_use]
    pub fn client_alive(self, interval: u32, count_max: u32) -> Self {
        self.config(format!("ClientAliveInterval {interval}"))
            .config(format!("ClientAliveCountMax {count_max}"))
    }

    /// Listens on this address instead of 127.0.0.1.
    #[must_use]
    pub fn listen(mut self, address: IpAddr) -> Self {
        self.listen = address;
        self
    }

    /// Uses host keys of these types (`ssh-keygen -t`): `ed25519`, `ecdsa`, `rsa`.
    #[must_use]
    pub fn host_keys(mut self, kinds: &[&str]) -> Self {
        self.host_keys = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        self
    }

    /// Shows a certificate for its first host key, see [`KeyFile::certify`].
    #[must_use]
    pub fn host_certificate(mut self, ca: &KeyFile, args: &[&str]) -> Self {
        self.host_ca = Some((ca.clone(), args.iter().map(|arg| (*arg).to_owned()).collect()));
        self
    }

    /// Makes the client key of this type instead of `ed25519`.
    #[must_use]
    pub fn client_key(mut self, kind: &str) -> Self {
        kind.clone_into(&mut self.client_key);
        self
    }

    /// Lets this user log in instead of [`test_user`].
    #[must_use]
    pub fn user(mut self, name: &str) -> Self {
        self.user = Some(name.to_owned());
        self
    }

    /// Starts the server on a free port.
    pub fn start(self) -> RealSshd {
        if is_root() {
            // The directory for privilege separation; Debian's package leaves it to systemd.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let dir = tempfile::Builder::new().prefix("occ-sshd-").tempdir_in("/tmp").unwrap();
        // sshd reads authorized_keys as the login user, who must be able to enter.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let keys = self.host_keys.iter().enumerate();
        let host_keys = keys.map(|(i, kind)| generate_host_key(dir.path(), i, kind)).collect();
        let client_key = KeyFile::generate(dir.path().join("client_key"), &self.client_key);
        std::fs::write(dir.path().join("authorized_keys"), format!("{}\n", client_key.public))
            .unwrap();
        let mut sshd = RealSshd {
            addr: SocketAddr::new(self.listen, 0),
            user: self.user.clone().unwrap_or_else(test_user),
            // sshd starts itself again for each connection and needs an absolute path for that.
            program: find_program("sshd").unwrap(),
            client_key,
            host_keys,
            hidden: match self.no_sftp_server {
                true => {
                    SFTP_SERVERS.iter().map(PathBuf::from).filter(|path| path.exists()).collect()
                }
                false => Vec::new(),
            },
            listener: None,
            orphans: Vec::new(),
            dir,
        };
        if let Some((ca, args)) = &self.host_ca {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            sshd.host_keys[0].certify(ca, &args);
        }
        for _ in 0..PORT_ATTEMPTS {
            sshd.addr = SocketAddr::new(self.listen, free_port_at(self.listen));
            std::fs::write(sshd.dir().join("sshd_config"), self.file(&sshd)).unwrap();
            if sshd.try_start().is_ok() {
                return sshd;
            }
        }
        panic!("no free port for sshd:\n{}", sshd.log());
    }

    fn file(&self, sshd: &RealSshd) -> String {
        let dir = sshd.dir().display();
        let at_end = self.lines.iter().position(|line| line.trim_start().starts_with("Match"));
        let (first, last) = self.lines.split_at(at_end.unwrap_or(self.lines.len()));
        let mut lines = first.to_vec();
        lines.push(format!("Port {}", sshd.port()));
        lines.push(format!("ListenAddress {}", self.listen));
        lines.extend(sshd.host_keys.iter().map(|key| format!("HostKey {}", key.path.display())));
        if self.host_ca.is_some() {
            let path = sshd.host_keys[0].path.display();
            lines.push(format!("HostCertificate {path}-cert.pub"));
        }
        lines.push(format!("AuthorizedKeysFile {dir}/authorized_keys"));
        // A person's start-up files are slow, and some leave locks behind when a test ends the shell in them.
        let home = if sshd.user == "root" { format!(" HOME={dir}") } else { String::new() };
        // What is kept there for later, such as sessions, is each server's own; the user is shared by many tests.
        let cache = sshd.dir().join("cache");
        if !cache.exists() {
            std::fs::create_dir(&cache).unwrap();
            std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let mark = RealSshd::mark(sshd.dir());
        let env = self.env.concat();
        lines.push(format!("SetEnv {mark}{home} XDG_CACHE_HOME={}{env}", cache.display()));
        lines.extend(
            ["PidFile none", "StrictModes no", "UsePAM no", "LogLevel VERBOSE", "UseDNS no"]
                .map(str::to_owned),
        );
        lines.push("PasswordAuthentication no".to_owned());
        lines.push("KbdInteractiveAuthentication no".to_owned());
        if is_root() {
            lines.push("PermitRootLogin prohibit-password".to_owned());
        }
        lines.extend_from_slice(last);
        lines.join("\n") + "\n"
    }
}

pub(super) fn generate_host_key(dir: &Path, index: usize, kind: &str) -> KeyFile {
    KeyFile::generate(dir.join(format!("host_key_{index}_{kind}")), kind)
}

/// Returns the type that [`generate_host_key`] put into the file's name.
pub(super) fn host_key_kind(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit('_').next().unwrap_or_default().to_owned()
}

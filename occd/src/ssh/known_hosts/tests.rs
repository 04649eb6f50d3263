//! The oracle is OpenSSH itself: `ssh-keygen -F` for finding lines, and `ssh` against a real `sshd -i` (as
//! its ProxyCommand, so that any host name and port can be claimed) for the verdict.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use russh::keys::ssh_key::public::{Ed25519PublicKey, KeyData};
use tempfile::TempDir;

use super::*;

/// Returns a public key without a private one.
fn key(seed: u8) -> PublicKey {
    PublicKey::from(KeyData::Ed25519(Ed25519PublicKey([seed; 32])))
}

fn line(host: &str, key: &PublicKey) -> String {
    format!("{host} {}\n", key.to_openssh().unwrap())
}

fn load(path: &Path) -> KnownHosts {
    KnownHosts::load(&[path.to_owned()]).unwrap()
}

fn parse(content: &[u8]) -> KnownHosts {
    let mut known = KnownHosts::default();
    known.parse(Path::new("k"), content);
    known
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Known,
    Unknown,
    Changed,
    Revoked,
}
use Kind::{Changed, Known, Revoked, Unknown};

fn kind(verdict: &Verdict) -> Kind {
    match verdict {
        Verdict::Known => Known,
        Verdict::Unknown => Unknown,
        Verdict::Changed { .. } => Changed,
        Verdict::Revoked { .. } => Revoked,
    }
}

/// One line of the truth table. In `content`, `{A}` is the server's key, `{B}` another one of its type, `{E}`
/// one of another type, `{BLOB}` the base64 of `{A}`, and `{#name}` the hashed name.
struct Row {
    content: &'static str,
    host: &'static str,
    port: u16,
    ours: Kind,
    /// What ssh says, where that differs.
    ssh: Kind,
    /// Whether `ssh-keygen -F` finds a line, where that tells anything.
    found: Option<bool>,
}

const fn row(content: &'static str, port: u16, verdict: Kind, found: bool) -> Row {
    Row { content, host: "h.test", port, ours: verdict, ssh: verdict, found: Some(found) }
}

const fn differing(content: &'static str, port: u16, ours: Kind, ssh: Kind) -> Row {
    Row { content, host: "h.test", port, ours, ssh, found: None }
}

const fn named(content: &'static str, host: &'static str, port: u16, verdict: Kind) -> Row {
    Row { content, host, port, ours: verdict, ssh: verdict, found: Some(true) }
}

const TABLE: &[Row] = &[
    // The four verdicts.
    row("h.test {A}\n", 22, Known, true),
    row("", 22, Unknown, false),
    row("other.test {B}\n", 22, Unknown, false),
    row("h.test {B}\n", 22, Changed, true),
    row("h.test {E}\n", 22, Changed, true),
    row("@revoked h.test {A}\n", 22, Revoked, true),
    // Several keys of a host.
    row("h.test {B}\nh.test {A}\n", 22, Known, true),
    row("h.test {E}\nh.test {A}\n", 22, Known, true),
    row("h.test {E}\nh.test {B}\n", 22, Changed, true),
    // Lists, wildcards, negation, case.
    row("x.test,h.test {A}\n", 22, Known, true),
    row("*.test {A}\n", 22, Known, true),
    row("h.t??t {A}\n", 22, Known, true),
    row("?.tes {A}\n", 22, Unknown, false),
    row("*.test,!h.test {A}\n", 22, Unknown, false),
    row("!h.*,*.test {B}\n", 22, Unknown, false),
    row("!x.test {A}\n", 22, Unknown, false),
    row("!x.test,*t {A}\n", 22, Known, true),
    named("H.Test {A}\n", "h.TEST", 22, Known),
    // Ports.
    row("[h.test]:2222 {A}\n", 2222, Known, true),
    row("[h.test]:2222 {A}\n", 22, Unknown, false),
    row("[h.test]:2222 {B}\n", 2222, Changed, true),
    row("[h.test]:2222 {B}\n", 2200, Unknown, false),
    row("h.test {A}\n", 2222, Known, false),
    row("h.test {B}\n", 2222, Unknown, false),
    row("[h.test]:2222 {B}\nh.test {A}\n", 2222, Changed, true),
    row("[h.test]:2222 {E}\nh.test {A}\n", 2222, Changed, true),
    row("[*.test]:2222 {A}\n", 2222, Known, true),
    row("[h.test]:* {A}\n", 2222, Known, true),
    row("*.test {A}\n", 2222, Known, false),
    row("* {B}\n", 2222, Changed, true),
    named("::1 {A}\n", "::1", 22, Known),
    named("[::1]:2222 {A}\n", "::1", 2222, Known),
    // Hashed names.
    row("{#h.test} {A}\n", 22, Known, true),
    row("{#h.test} {B}\n", 22, Changed, true),
    row("{#other.test} {B}\n", 22, Unknown, false),
    row("{#[h.test]:2222} {A}\n", 2222, Known, true),
    row("{#h.test} {A}\n", 2222, Known, false),
    row("@revoked {#h.test} {A}\n", 22, Revoked, true),
    named("{#h.test} {A}\n", "H.test", 22, Known),
    // Revocation wins, wherever it stands, for its hosts and its key only.
    row("h.test {A}\n@revoked h.test {A}\n", 22, Revoked, true),
    row("@revoked * {A}\nh.test {A}\n", 22, Revoked, true),
    row("@revoked * {A}\nh.test {B}\n", 22, Revoked, true),
    row("@revoked other.test {A}\nh.test {A}\n", 22, Known, true),
    row("@revoked *,!h.test {A}\nh.test {A}\n", 22, Known, true),
    row("@revoked h.test {B}\nh.test {A}\n", 22, Known, true),
    row("@revoked h.test {B}\n", 22, Unknown, true),
    // Authorities vouch for certificates, not for keys.
    row("@cert-authority *.test {A}\n", 22, Unknown, true),
    row("@cert-authority *.test {B}\nh.test {A}\n", 22, Known, true),
    // White space and comments.
    row(" \t h.test \t ssh-ed25519\t\t{BLOB}  a comment\n", 22, Known, true),
    row("h.test\tssh-ed25519\t{BLOB}", 22, Known, true),
    row("h.test ssh-ed25519 {BLOB}\r\n", 22, Known, true),
    row("# h.test {B}\n\n \t\n#h.test {B}\nh.test {A}\n", 22, Known, true),
    row("#h.test {A}\n", 22, Unknown, false),
    // Lines that do not parse neither count nor harm.
    row(
        "x\nh.test\nh.test ssh-ed25519\nh.test ssh-ed25519 AAAA\nh.test ssh-rsa {BLOB}\n\
         h.test 1024 37 159\n@other h.test {B}\n@revoked\n@revoked @revoked h.test {A}\n\
         |1|x|y {B}\n|1|| {B}\n|2|a|b {B}\n\u{fffd}\0\n{#h.test},h.test {B}\nh.test {A}\n",
        22,
        Known,
        true,
    ),
    differing("h.test ssh-ed25519 AAAA\n", 22, Unknown, Unknown),
    // Where we are stricter than ssh.
    differing("@revoked\th.test {A}\nh.test {A}\n", 22, Revoked, Known),
    differing("@revoked h.test {A}\n", 2222, Revoked, Unknown),
];

/// The keys of the table as real files, for a real server.
struct Oracle {
    dir: TempDir,
    keys: HashMap<&'static str, PublicKey>,
    sshd: Option<PathBuf>,
}

impl Oracle {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = HashMap::new();
        for (name, kind) in [("A", "ed25519"), ("B", "ed25519"), ("E", "ecdsa")] {
            let file = dir.path().join(name);
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", kind, "-N", "", "-C", "", "-f"])
                .arg(&file)
                .status();
            assert!(made.unwrap().success());
            let text = fs::read_to_string(file.with_extension("pub")).unwrap();
            keys.insert(name, PublicKey::from_openssh(&text).unwrap());
        }
        let config = format!("HostKey {}\nUsePAM no\n", dir.path().join("A").display());
        fs::write(dir.path().join("sshd_config"), config).unwrap();

        let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"];
        let sshd = places.map(PathBuf::from).into_iter().find(|path| path.exists());
        if sshd.is_none() {
            assert!(
                std::env::var_os("OCC_REQUIRE_SSHD").is_none_or(|value| value != "1"),
                "OCC_REQUIRE_SSHD=1 and there is no sshd"
            );
            eprintln!("SKIPPED: no sshd, so the verdicts are not compared with ssh's");
        } else if rustix::process::geteuid().is_root() {
            // Debian's sshd wants it, and only its service manager makes it.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        Self { dir, keys, sshd }
    }

    fn fill(&self, content: &str) -> String {
        let mut text = content.to_owned();
        for (name, key) in &self.keys {
            text = text.replace(&format!("{{{name}}}"), key.to_openssh().unwrap().trim());
        }
        text = text.replace("{BLOB}", &STANDARD.encode(self.keys["A"].to_bytes().unwrap()));
        while let Some((before, rest)) = text.split_once("{#") {
            let (name, after) = rest.split_once('}').unwrap();
            text = format!("{before}{}{after}", hashed_field(name).unwrap());
        }
        text
    }

    fn keygen_finds(file: &Path, host: &str, port: u16) -> bool {
        let mut keygen = Command::new("ssh-keygen");
        keygen.arg("-F").arg(lookup_name(host, port)).arg("-f").arg(file);
        keygen.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    /// Returns ssh's verdict on the server with key A.
    fn ssh(&self, file: &Path, host: &str, port: u16) -> Option<Kind> {
        let sshd = self.sshd.as_ref()?;
        let config = self.dir.path().join("sshd_config");
        let output = Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"])
            .args(["-o", "GlobalKnownHostsFile=/dev/null", "-o", "IdentityFile=none"])
            .args(["-o", "IdentityAgent=none", "-o", "LogLevel=INFO"])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", file.display()))
            .arg("-o")
            .arg(format!("ProxyCommand={} -i -f {}", sshd.display(), config.display()))
            .args(["-p", &port.to_string(), "--", host, "true"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        let said = |words| text.contains(words);
        Some(if said("Permission denied") {
            Known
        } else if said("host key is known for") {
            // Before the others: ssh warns of a revoked key of the plain name and goes on.
            Unknown
        } else if said("REVOKED HOST KEY") {
            Revoked
        } else if said("REMOTE HOST IDENTIFICATION HAS CHANGED") {
            Changed
        } else {
            panic!("ssh said something else: {text}");
        })
    }
}

#[test]
fn the_verdicts_are_those_of_openssh() {
    let oracle = Oracle::new();
    let server = &oracle.keys["A"];
    for (index, row) in TABLE.iter().enumerate() {
        let content = oracle.fill(row.content);
        let file = oracle.dir.path().join(format!("known_hosts_{index}"));
        fs::write(&file, &content).unwrap();
        let context = format!("{:?} for {} port {}", row.content, row.host, row.port);

        assert_eq!(kind(&load(&file).check(row.host, row.port, server)), row.ours, "{context}");
        if let Some(found) = row.found {
            let host = row.host.to_ascii_lowercase();
            let finds = Oracle::keygen_finds(&file, &host, row.port);
            assert_eq!(finds, found, "ssh-keygen -F: {context}");
        }
        if let Some(theirs) = oracle.ssh(&file, row.host, row.port) {
            assert_eq!(theirs, row.ssh, "ssh: {context}");
        }
    }
}

#[test]
fn a_change_names_the_line_and_the_keys_on_record() {
    let oracle = Oracle::new();
    let file = oracle.dir.path().join("known_hosts");
    fs::write(&file, oracle.fill("# c\nh.test {E}\nh.test {B}\nh.test {B}\n")).unwrap();
    let fingerprints = |name: &str| {
        let output = Command::new("ssh-keygen")
            .args(["-l", "-E", "sha256", "-f"])
            .arg(oracle.dir.path().join(name))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split(' ').nth(1).unwrap().to_owned()
    };
    let known = vec![
        format!("ecdsa-sha2-nistp256 {}", fingerprints("E")),
        format!("ssh-ed25519 {}", fingerprints("B")),
    ];
    assert_eq!(
        load(&file).check("h.test", 22, &oracle.keys["A"]),
        Verdict::Changed { file: file.clone(), line: 3, known: known.clone(), same_type: true }
    );
    fs::write(&file, oracle.fill("h.test {E}\n")).unwrap();
    assert_eq!(
        load(&file).check("h.test", 22, &oracle.keys["A"]),
        Verdict::Changed { file, line: 1, known: known[..1].to_vec(), same_type: false }
    );
}

#[test]
fn files_are_read_in_order_and_a_revocation_in_any_of_them_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (user, global) = (dir.path().join("user"), dir.path().join("global"));
    fs::write(&user, line("h", &key(1))).unwrap();
    fs::write(&global, line("h", &key(2)) + "@revoked " + &line("*", &key(1))).unwrap();
    let missing = dir.path().join("missing");
    let known = KnownHosts::load(&[missing, user, global.clone(), "/dev/null".into()]).unwrap();
    assert_eq!(known.check("h", 22, &key(1)), Verdict::Revoked { file: global, line: 2 });
    assert_eq!(known.check("h", 22, &key(2)), Verdict::Known);
    assert_eq!(KnownHosts::load(&[]).unwrap().check("h", 22, &key(1)), Verdict::Unknown);
}

#[test]
fn a_file_that_is_there_and_cannot_be_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let load = |path: &Path| KnownHosts::load(&[path.to_owned()]);
    assert!(matches!(load(dir.path()), Err(KnownHostsError::NotAFile { .. })));

    let circle = dir.path().join("circle");
    symlink(&circle, &circle).unwrap();
    assert!(matches!(load(&circle), Err(KnownHostsError::Read { .. })));

    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(load(&pipe), Err(KnownHostsError::NotAFile { .. })));
    assert!(append(&pipe, "h", 22, &key(1), false).is_err());

    let large = dir.path().join("large");
    File::create(&large).unwrap().set_len(MAX_FILE + 1).unwrap();
    assert!(matches!(load(&large), Err(KnownHostsError::TooLarge { .. })));
    assert!(append(&large, "h", 22, &key(1), false).is_err());
    File::create(&large).unwrap().set_len(MAX_FILE).unwrap();
    assert!(load(&large).is_ok());

    let secret = dir.path().join("secret");
    fs::write(&secret, line("h", &key(1))).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root reads files of mode 000");
    } else {
        assert!(matches!(load(&secret), Err(KnownHostsError::Read { .. })));
    }
}

#[test]
fn the_types_on_record_are_told_in_file_order() {
    let oracle = Oracle::new();
    let known = |content: &str| parse(oracle.fill(content).as_bytes());
    let names = |known: &KnownHosts, port| -> Vec<String> {
        known.known_algorithms("h.test", port).iter().map(ToString::to_string).collect()
    };
    let both = known("h.test {E}\nx {A}\n*.test {A}\nh.test {B}\n@cert-authority h.test {E}\n");
    assert_eq!(names(&both, 22), ["ecdsa-sha2-nistp256", "ssh-ed25519"]);
    assert_eq!(names(&both, 2222), ["ecdsa-sha2-nistp256", "ssh-ed25519"]);
    let port = known("h.test {E}\n[h.test]:2222 {A}\n");
    assert_eq!(names(&port, 2222), ["ssh-ed25519"]);
    let revoked = known("h.test {E}\nh.test {A}\n@revoked * {E}\n");
    assert_eq!(names(&revoked, 22), ["ssh-ed25519"]);
    assert_eq!(names(&known("@revoked * {E}\nh.test {E}\nh.test {A}\nh.test {B}"), 22).len(), 1);
    assert_eq!(both.cert_authorities("h.test", 22), [&oracle.keys["E"]]);
    assert!(both.cert_authorities("x", 22).is_empty());
}

#[test]
fn what_is_appended_ssh_finds_and_accepts() {
    let oracle = Oracle::new();
    let server = &oracle.keys["A"];
    for (index, (host, port)) in
        [("h.test", 22), ("H.Test", 2222), ("::1", 22), ("192.0.2.1", 22), ("fe80::1%lo", 65535)]
            .into_iter()
            .enumerate()
    {
        for hash in [false, true] {
            let file = oracle.dir.path().join(format!("{index}{hash}"));
            append(&file, host, port, server, hash).unwrap();
            let text = fs::read_to_string(&file).unwrap();
            assert_eq!(text.starts_with("|1|"), hash, "{text}");
            assert_eq!(hash, !text.contains(&host.to_ascii_lowercase()));
            assert!(Oracle::keygen_finds(&file, host, port), "{host} {port} {hash}");
            assert!(oracle.ssh(&file, host, port).is_none_or(|theirs| theirs == Known));
        }
    }
}

#[test]
fn appending_makes_private_files_and_keeps_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("home/.ssh/known_hosts");
    append(&file, "h", 22, &key(1), false).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));

    // Neither the same key again, nor the lack of a final newline, nor a link loses or adds anything.
    fs::write(&file, format!("# mine\n{}", line("h", &key(1)).trim_end())).unwrap();
    let link = dir.path().join("link");
    symlink(&file, &link).unwrap();
    append(&link, "H", 22, &key(1), true).unwrap();
    append(&link, "h", 2222, &key(1), false).unwrap();
    append(&link, "h", 22, &key(2), false).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let expected = format!(
        "# mine\n{}{}{}",
        line("h", &key(1)),
        line("[h]:2222", &key(1)),
        line("h", &key(2))
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);

    append(Path::new("/dev/null"), "h", 22, &key(1), false).unwrap();
    let nowhere = record_first(Path::new("/dev/null"), "h", 22, &key(1), true);
    assert_eq!(nowhere.unwrap(), (Verdict::Known, false), "nothing keeps it");
}

#[test]
fn names_that_would_be_read_back_as_something_else_are_not_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k");
    for bad in ["", "*", "a b", "a,b", "!a", "a\nb", "#a", "@revoked", "[a]:1", "|1|a|b", "a\tb"] {
        let result = append(&file, bad, 22, &key(1), false);
        assert!(matches!(result, Err(KnownHostsError::Name)), "{bad:?}");
    }
    assert!(!file.exists());
}

#[test]
fn of_several_first_keys_at_a_time_one_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..50 {
        let file = dir.path().join(round.to_string());
        let start = Barrier::new(8);
        let verdicts: Vec<Kind> = std::thread::scope(|scope| {
            let record = |seed| {
                start.wait();
                kind(&record_first(&file, "h", 22, &key(seed), true).unwrap().0)
            };
            let threads = [1, 2, 3, 4, 5, 6, 7, 8].map(|seed| scope.spawn(move || record(seed)));
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
        assert_eq!((count(Known), count(Changed)), (1, 7), "{verdicts:?}");
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 1);
    }
    let file = dir.path().join("revoked");
    fs::write(&file, format!("@revoked {}", line("*", &key(1)))).unwrap();
    let verdict = record_first(&file, "h", 22, &key(1), false).unwrap();
    assert_eq!(verdict, (Verdict::Revoked { file, line: 1 }, false));
}

#[test]
fn concurrent_writers_add_each_line_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sub/known_hosts");
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let (file, start) = (&file, &start);
            scope.spawn(move || {
                for host in 0..10 {
                    start.wait();
                    append(file, &format!("h{host}"), 22, &key(7), thread % 2 == 0).unwrap();
                }
                append(file, &format!("own{thread}"), 22, &key(thread), false).unwrap();
            });
        }
    });
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 18, "{text}");
    let known = load(&file);
    for host in 0..10 {
        assert_eq!(known.check(&format!("h{host}"), 22, &key(7)), Verdict::Known);
    }
}

#[test]
fn nothing_is_lost_of_what_is_added_while_the_file_is_replaced() {
    const THREADS: u8 = 8;
    const HOSTS: u8 = 25;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known_hosts");
    fs::write(&file, line("changing", &key(0))).unwrap();
    let running = AtomicUsize::new(THREADS.into());
    let start = Barrier::new(usize::from(THREADS) + 2);
    let name = |thread, host| format!("h{thread}-{host}");
    std::thread::scope(|scope| {
        let (file, start, running) = (&file, &start, &running);
        for thread in 0..THREADS {
            scope.spawn(move || {
                start.wait();
                for host in 0..HOSTS {
                    let (verdict, new) =
                        record_first(file, &name(thread, host), 22, &key(thread), false).unwrap();
                    assert_eq!((verdict, new), (Verdict::Known, true));
                }
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
        // Two, so that a replacement is waited for by another one as well.
        for seeds in [[100, 101], [102, 103]] {
            scope.spawn(move || {
                start.wait();
                for seed in seeds.into_iter().cycle() {
                    let files = std::slice::from_ref(file);
                    replace(files, "changing", 22, &key(seed), false).unwrap();
                    if running.load(Ordering::Relaxed) == 0 {
                        break;
                    }
                }
            });
        }
    });
    let known = load(&file);
    for thread in 0..THREADS {
        for host in 0..HOSTS {
            let verdict = known.check(&name(thread, host), 22, &key(thread));
            assert_eq!(verdict, Verdict::Known, "{}", name(thread, host));
        }
    }
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("changing ")).count(), 1, "{text}");
}

#[test]
fn a_pattern_of_stars_takes_no_exponential_time() {
    let pattern = "*a".repeat(200);
    let known = parse(line(&pattern, &key(1)).as_bytes());
    assert_eq!(known.check(&("a".repeat(199) + "b"), 22, &key(1)), Verdict::Unknown);
    assert_eq!(known.check(&"a".repeat(250), 22, &key(1)), Verdict::Known);
}

proptest! {
    #[test]
    fn no_content_makes_parsing_fail(content in prop::collection::vec(any::<u8>(), 0..400)) {
        parse(&content).check("h", 22, &key(1));
    }

    #[test]
    fn no_line_hides_the_next_one(
        words in prop::collection::vec(
            prop_oneof![
                Just("h".to_owned()), Just("@revoked".to_owned()), Just("@cert-authority".to_owned()),
                Just("|1|".to_owned()), Just("ssh-ed25519".to_owned()), Just("ssh-rsa".to_owned()),
                Just("AAAAC3NzaC1lZDI1NTE5AAAAIA==".to_owned()), Just("#".to_owned()), Just("!h,*".to_owned()),
                "[A-Za-z0-9+/=|,*?!@ \t]{0,60}",
            ],
            0..8,
        ),
    ) {
        let content = format!("{}\n{}", words.join(" "), line("h", &key(1)));
        prop_assert_eq!(parse(content.as_bytes()).check("h", 22, &key(1)), Verdict::Known);
    }

    #[test]
    fn what_is_appended_is_known(
        host in "[a-zA-Z0-9._%-]{1,60}|[0-9a-f:]{2,39}",
        port in 1_u16..,
        seed in any::<[u8; 32]>(),
        hash in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("k");
        let key = PublicKey::from(KeyData::Ed25519(Ed25519PublicKey(seed)));
        prop_assert_eq!(load(&file).check(&host, port, &key), Verdict::Unknown);
        append(&file, &host, port, &key, hash).unwrap();
        append(&file, &host, port, &key, !hash).unwrap();
        let known = load(&file);
        prop_assert_eq!(known.check(&host, port, &key), Verdict::Known);
        prop_assert_eq!(known.known_algorithms(&host, port), [Algorithm::Ed25519]);
        let other = PublicKey::from(KeyData::Ed25519(Ed25519PublicKey(seed.map(|byte| !byte))));
        prop_assert_eq!(kind(&known.check(&host, port, &other)), Changed);
        prop_assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 1);
    }
}

#[test]
fn a_host_whose_key_is_replaced_is_never_without_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["first", "second"].map(|name| dir.path().join(name));
    let (old, new) = (key(1), key(2));
    let before = line("h", &old);
    fs::write(&files[0], &before).unwrap();
    // What cannot be changed is found before anything is.
    fs::write(&files[1], line("h*", &old)).unwrap();
    let error = replace(&files, "h", 22, &new, false).unwrap_err();
    assert!(matches!(error, KnownHostsError::Pattern { line: 1, .. }), "{error}");
    assert_eq!(fs::read_to_string(&files[0]).unwrap(), before);
    // So is a second file that cannot be changed: the key is not trusted then.
    fs::write(&files[1], line("h", &old)).unwrap();
    fs::create_dir(dir.path().join("second.old")).unwrap();
    let error = replace(&files, "h", 22, &new, false).unwrap_err();
    assert!(matches!(error, KnownHostsError::Write { .. }), "{error}");
    assert_eq!(fs::read_to_string(&files[0]).unwrap(), before);
    fs::remove_dir(dir.path().join("second.old")).unwrap();
    // Nor is a file that cannot be replaced: here, because the copy has no place.
    fs::write(&files[1], line("other", &old)).unwrap();
    fs::create_dir(dir.path().join("first.old")).unwrap();
    let error = replace(&files, "h", 22, &new, false).unwrap_err();
    assert!(matches!(error, KnownHostsError::Write { .. }), "{error}");
    assert_eq!(fs::read_to_string(&files[0]).unwrap(), before);
    fs::remove_dir(dir.path().join("first.old")).unwrap();
    replace(&files, "h", 22, &new, false).unwrap();
    assert_eq!(fs::read_to_string(&files[0]).unwrap(), line("h", &new));
    assert_eq!(fs::read_to_string(&files[1]).unwrap(), line("other", &old));
}

/// Returns what a call returns, which must not wait for itself.
fn in_time<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(call()));
    done.recv_timeout(Duration::from_secs(30)).expect("it waits for ever")
}

#[test]
fn a_key_is_replaced_where_several_names_are_of_one_file() {
    let (old, new) = (key(1), key(2));
    let others = line("other", &key(3));
    for (what, content) in [("changed", line("h", &old)), ("added to", String::new())] {
        for second in ["symlink", "hard link", "the same", "the same, otherwise written"] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("known_hosts");
            fs::write(&file, format!("{others}{content}")).unwrap();
            let mut again = dir.path().join("known_hosts2");
            match second {
                "symlink" => symlink("known_hosts", &again).unwrap(),
                "hard link" => fs::hard_link(&file, &again).unwrap(),
                "the same" => again = file.clone(),
                _ => again = dir.path().join(".").join("known_hosts"),
            }
            for files in [[file.clone(), again.clone()], [again, file]] {
                let (wanted, given) = (new.clone(), files.clone());
                in_time(move || replace(&given, "h", 22, &wanted, false)).unwrap();
                let known = KnownHosts::load(&files).unwrap();
                let verdict = |key| kind(&known.check("h", 22, key));
                assert_eq!((verdict(&new), verdict(&old)), (Known, Changed), "{second} {what}");
                assert_eq!(known.check("other", 22, &key(3)), Verdict::Known, "{second} {what}");
            }
        }
    }
}

#[test]
fn two_that_replace_keys_in_the_same_files_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["one", "two"].map(|name| dir.path().join(name));
    in_time(move || {
        std::thread::scope(|scope| {
            for (host, turned) in [("a", false), ("b", true)] {
                let mut files = files.clone();
                if turned {
                    files.reverse();
                }
                scope.spawn(move || {
                    for seed in 0..50 {
                        // In both, so that both are replaced.
                        append(&files[1], host, 22, &key(100), false).unwrap();
                        replace(&files, host, 22, &key(seed), false).unwrap();
                    }
                });
            }
        });
    });
}

//! The oracle is the ssh of this machine, run on configurations in a temporary `$HOME`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command as StdCommand;

use tempfile::TempDir;

use super::files::limit_of;
use super::program::SHOWN_STDERR;
use super::*;

fn address(text: &str) -> Address {
    Address::new(text).unwrap()
}

fn home_with(config: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".ssh")).unwrap();
    fs::write(home.path().join(".ssh/config"), config).unwrap();
    home
}

async fn resolve_in(home: &TempDir, host: &str) -> Result<SshConfig, SshConfigError> {
    Resolver::new(home.path().to_owned()).resolve(&address(host), None, None).await
}

async fn resolve(config: &str, host: &str) -> SshConfig {
    resolve_in(&home_with(config), host).await.unwrap()
}

/// Makes a program out of a shell script. It is written by another process: were it ours, a fork in
/// another test could hold the file open for writing and make running it fail.
fn program(dir: &TempDir, script: &str) -> PathBuf {
    let (source, program) = (dir.path().join("source"), dir.path().join("ssh"));
    fs::write(&source, format!("#!/bin/sh\n{script}\n")).unwrap();
    let installed =
        StdCommand::new("install").args(["-m", "755"]).arg(&source).arg(&program).status();
    assert!(installed.unwrap().success());
    program
}

/// Returns a fake ssh that answers like the real one without configuration, but for `lines`.
fn answering(dir: &TempDir, lines: &str) -> Resolver {
    let script = format!(
        "case \"$*\" in *localhost) exec ssh \"$@\";; esac\n\
         echo user root; echo hostname h; echo port 22\ncat <<'END'\n{lines}\nEND"
    );
    Resolver::with_programs(dir.path().to_owned(), vec![program(dir, &script)])
}

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect(what);
}

#[tokio::test]
async fn what_is_not_set_is_not_reported() {
    assert_eq!(resolve("", "h").await, SshConfig::default());
    assert_eq!(resolve("", "UPPER.example").await, SshConfig::default());
    assert_eq!(resolve("", "2001:DB8::1").await, SshConfig::default());
    // Every default said aloud is as good as unsaid, whatever this ssh's defaults are.
    let output = StdCommand::new("ssh").args(["-G", "-F", "none", "--", "h"]).output().unwrap();
    let mut config = String::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let keyword = line.split(' ').next().unwrap();
        if value::KEYS.contains(&keyword) && line != "connecttimeout none" {
            config += &format!("{line}\n");
        }
    }
    assert!(config.contains("\nidentityfile ") && config.contains("userknownhostsfile "));
    assert_eq!(resolve(&config, "h").await, SshConfig::default());
    assert_eq!(resolve_in(&tempfile::tempdir().unwrap(), "h").await.unwrap(), SshConfig::default());
}

#[tokio::test]
async fn every_option_is_read() {
    let config = "Host alias other\n\
        HostName %h.Example.com\nUser deploy\nPort 2222\n\
        AddressFamily inet\nBindAddress fe80::1%lo\n\
        IdentityFile ~/.ssh/id-%h-%r-%p-%n\nIdentityFile \"/a b/100%%\"\nIdentityFile ${PATH}/k\n\
        IdentityFile %d/%k-%u\n\
        CertificateFile ~/c-cert.pub\nIdentitiesOnly yes\nIdentityAgent ~/agent.sock\n\
        ProxyJump u@j1:2200,j2\nUserKnownHostsFile ~/kh \"/a b/kh\"\nGlobalKnownHostsFile /g\n\
        StrictHostKeyChecking accept-new\nHostKeyAlias Key-Alias\nHashKnownHosts yes\n\
        ConnectTimeout 7\nServerAliveInterval 1m\nServerAliveCountMax 9\nForwardAgent yes\n\
        Compression yes\nCiphers aes256-ctr\nKexAlgorithms curve25519-sha256\n\
        MACs hmac-sha2-256\nHostKeyAlgorithms ssh-ed25519,rsa-sha2-512\n\
        CASignatureAlgorithms ssh-ed25519\nRevokedHostKeys ~/revoked\n\
        KnownHostsCommand /bin/false %H\nPubkeyAuthentication no\nPasswordAuthentication no\n\
        KbdInteractiveAuthentication no\nPreferredAuthentications publickey,password\n";
    let home = home_with(config);
    let got = resolve_in(&home, "alias").await.unwrap();
    let below = |path: &str| home.path().join(path).to_str().unwrap().to_owned();
    let local_user =
        String::from_utf8(StdCommand::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let passwd_home = passwd_home();
    let expected = SshConfig {
        hostname: Some(address("alias.example.com")),
        user: Some(UserName::new("deploy").unwrap()),
        port: Some(2222),
        local: Local { v6: Some(false), ..Local::default() },
        bind_address: Some(address("fe80::1%lo")),
        identity_files: vec![
            below(".ssh/id-alias.example.com-deploy-2222-alias"),
            "/a b/100%".to_owned(),
            format!("{}/k", std::env::var("PATH").unwrap()),
            below(&format!("key-alias-{}", local_user.trim())),
        ],
        no_identity_files: false,
        certificate_files: vec![below("c-cert.pub")],
        identities_only: true,
        identity_agent: Some(below("agent.sock")),
        proxy_jump: Some("u@j1:2200,j2".to_owned()),
        proxy_command: None,
        user_known_hosts_files: vec![
            below("kh"),
            format!("{passwd_home}/kh"),
            "/a b/kh".to_owned(),
        ],
        global_known_hosts_files: vec!["/g".to_owned()],
        revoked_host_keys: vec![below("revoked")],
        known_hosts_command: true,
        strict_host_key_checking: Strict::AcceptNew,
        host_key_alias: Some("key-alias".to_owned()),
        hash_known_hosts: true,
        // ssh's own default where UserKnownHostsFile is set.
        keep_host_keys: true,
        pubkey_authentication: Some(false),
        password_authentication: Some(false),
        kbd_interactive_authentication: Some(false),
        preferred_authentications: Some(vec!["publickey".to_owned(), "password".to_owned()]),
        connect_timeout: Some(Duration::from_secs(7)),
        server_alive_interval: Some(Duration::from_secs(60)),
        server_alive_count_max: Some(9),
        compression: Some(true),
        algorithms: AlgorithmLists {
            cipher: Some("aes256-ctr".to_owned()),
            kex: Some("curve25519-sha256".to_owned()),
            mac: Some("hmac-sha2-256".to_owned()),
            host_key: Some("ssh-ed25519,rsa-sha2-512".to_owned()),
            ca_signature: Some("ssh-ed25519".to_owned()),
        },
        forward_agent: Some("yes".to_owned()),
    };
    assert_eq!(got, expected);
    assert_eq!(resolve(config, "neither").await, SshConfig::default());
}

fn passwd_home() -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let output = StdCommand::new("getent").args(["passwd", &uid]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(':').nth(5).unwrap().to_owned()
}

#[tokio::test]
async fn the_words_of_openssh_are_understood() {
    let strict = |word| async move {
        resolve(&format!("StrictHostKeyChecking {word}"), "h").await.strict_host_key_checking
    };
    assert_eq!(strict("ask").await, Strict::Unset);
    assert_eq!(strict("yes").await, Strict::Yes);
    assert_eq!(strict("no").await, Strict::No);
    assert_eq!(strict("off").await, Strict::No);
    assert_eq!(strict("accept-new").await, Strict::AcceptNew);

    let none = resolve(
        "IdentityFile none\nIdentityAgent none\nProxyCommand none\nUserKnownHostsFile none\n\
         GlobalKnownHostsFile none\nServerAliveInterval 0\nForwardAgent no\nCertificateFile none\n",
        "h",
    )
    .await;
    let null = vec!["/dev/null".to_owned()];
    let expected = SshConfig {
        no_identity_files: true,
        identity_agent: Some("none".to_owned()),
        user_known_hosts_files: null.clone(),
        global_known_hosts_files: null,
        keep_host_keys: true,
        ..SshConfig::default()
    };
    assert_eq!(none, expected);

    let proxy =
        resolve("ProxyCommand nc %h %p\nIdentityAgent $SOCK\nForwardAgent $SOCK\n", "h").await;
    assert_eq!(proxy.proxy_command.as_deref(), Some("nc h 22"));
    assert_eq!(proxy.identity_agent.as_deref(), Some("$SOCK"));
    assert_eq!(proxy.forward_agent.as_deref(), Some("$SOCK"));
    let agent = resolve("IdentityAgent SSH_AUTH_SOCK\nProxyJump none\n", "h").await;
    assert_eq!(agent.identity_agent.as_deref(), Some("SSH_AUTH_SOCK"));
    assert_eq!((agent.proxy_jump, agent.proxy_command), (None, None));
}

#[tokio::test]
async fn match_and_include_apply() {
    let home = home_with("");
    let included = home.path().join("more.conf");
    fs::write(&included, "Host inc\n  Port 2022\n").unwrap();
    let config = format!(
        "Include {}\nMatch host m* user deploy\n  Port 2001\nMatch exec \"test %h = e\"\n  Port 2002\n",
        included.display()
    );
    fs::write(home.path().join(".ssh/config"), config).unwrap();
    let resolver = Resolver::new(home.path().to_owned());
    let deploy = UserName::new("deploy").unwrap();
    let port = async |host, user| resolver.resolve(&address(host), user, None).await.unwrap().port;
    assert_eq!(port("inc", None).await, Some(2022));
    assert_eq!(port("m1", None).await, None);
    assert_eq!(port("m1", Some(&deploy)).await, Some(2001));
    assert_eq!(port("e", None).await, Some(2002));

    // What the caller gives wins, as on ssh's command line.
    let given = resolver.resolve(&address("inc"), Some(&deploy), Some(2345)).await.unwrap();
    assert_eq!((given.user, given.port), (Some(deploy), Some(2345)));
}

#[tokio::test]
async fn our_own_home_needs_no_file_argument() {
    let resolver = Resolver::new(passwd_home().into());
    let baseline = resolver.baseline().await.unwrap().unwrap();
    assert_eq!(baseline.other_home, None);
    assert!(resolver.file_arguments(baseline).is_empty());

    let home = home_with("");
    let resolver = Resolver::new(home.path().to_owned());
    let baseline = resolver.baseline().await.unwrap().unwrap();
    assert_eq!(baseline.other_home, Some(passwd_home().into()));
    let file = home.path().join(".ssh/config");
    assert_eq!(resolver.file_arguments(baseline), ["-F".into(), file.clone().into_os_string()]);
    fs::remove_file(file).unwrap();
    assert_eq!(resolver.file_arguments(baseline), ["-F", "none"]);
}

#[tokio::test]
async fn no_ssh_program_means_nothing_is_set() {
    let home = home_with("StrictHostKeyChecking yes");
    let missing = || ["/nowhere/ssh", "no-such-program-of-ours"].map(PathBuf::from);
    let resolver = Resolver::with_programs(home.path().to_owned(), missing().into());
    // Not unless there is nothing to set: the file may forbid what would be done without it.
    let error = resolver.resolve(&address("h"), None, Some(2222)).await.unwrap_err();
    assert!(matches!(error, SshConfigError::NoProgram { .. }), "{error:?}");
    fs::remove_file(home.path().join(".ssh/config")).unwrap();
    let answer = resolver.resolve(&address("h"), None, Some(2222)).await;
    assert_eq!(answer.unwrap(), SshConfig::default());
    // The first that is there is run.
    let found = missing().into_iter().chain(["ssh".into()]).collect();
    let resolver = Resolver::with_programs(home.path().to_owned(), found);
    assert!(resolver.baseline().await.unwrap().is_some());
    // One that is there and cannot be run is an error.
    let resolver = Resolver::with_programs(home.path().to_owned(), vec![home.path().to_owned()]);
    let error = resolver.resolve(&address("h"), None, None).await.unwrap_err();
    assert!(matches!(error, SshConfigError::Spawn(_)), "{error:?}");
}

#[tokio::test]
async fn a_mistake_in_the_configuration_is_told_safely() {
    let home = home_with("Host h\n  Nonsense\u{1b}]0;x\u{7} yes\n");
    match resolve_in(&home, "h").await.unwrap_err() {
        SshConfigError::Failed { status, stderr } => {
            assert_eq!(status.code(), Some(255));
            assert!(stderr.contains("line 2: Bad configuration option"), "{stderr}");
            assert!(!stderr.contains(char::is_control), "{stderr:?}");
        }
        error => panic!("{error:?}"),
    }
    let dir = tempfile::tempdir().unwrap();
    let long = program(
        &dir,
        "i=0; while [ $i -lt 9999 ]; do echo 0123456789 >&2; i=$((i+1)); done; exit 3",
    );
    let resolver = Resolver::with_programs(dir.path().to_owned(), vec![long]);
    match resolver.resolve(&address("h"), None, None).await.unwrap_err() {
        SshConfigError::Failed { stderr, .. } => assert_eq!(stderr.chars().count(), SHOWN_STDERR),
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn values_that_a_program_could_misread_are_refused() {
    let key_of = async |lines: &str| {
        let dir = tempfile::tempdir().unwrap();
        match answering(&dir, lines).resolve(&address("h"), None, None).await {
            Err(SshConfigError::Invalid { key, source }) => {
                assert!(!source.to_string().contains('\u{1b}'));
                key
            }
            other => panic!("{lines:?}: {other:?}"),
        }
    };
    assert_eq!(key_of("stricthostkeychecking maybe").await, "stricthostkeychecking");
    assert_eq!(key_of("connecttimeout -1").await, "connecttimeout");
    assert_eq!(key_of("bindaddress a;b").await, "bindaddress");
    assert_eq!(key_of("serveralivecountmax 4294967296").await, "serveralivecountmax");
    assert_eq!(key_of("identitiesonly \u{1b}[31m").await, "identitiesonly");
    assert_eq!(key_of("identityfile ~/%C").await, "identityfile");
    assert_eq!(key_of("identityfile ~/x%").await, "identityfile");
    assert_eq!(key_of("certificatefile ${NO_SUCH_VARIABLE_OF_OURS}").await, "certificatefile");
    assert_eq!(key_of("certificatefile ${HOME").await, "certificatefile");

    for (config, key) in [
        ("HostName -oProxyCommand=x", "hostname"),
        ("HostName a;b", "hostname"),
        ("User -x", "user"),
        ("User \"a b\"", "user"),
    ] {
        match resolve_in(&home_with(config), "h").await {
            Err(SshConfigError::Invalid { key: named, .. }) => assert_eq!(named, key),
            // A newer ssh refuses it by itself.
            Err(SshConfigError::Failed { .. }) => {}
            other => panic!("{config}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn garbage_is_not_an_answer() {
    for script in ["echo what", "head -c 5000 /dev/urandom", "printf 'user\\n\\377'", "true"] {
        let dir = tempfile::tempdir().unwrap();
        let resolver = Resolver::with_programs(dir.path().to_owned(), vec![program(&dir, script)]);
        let error = resolver.resolve(&address("h"), None, None).await.unwrap_err();
        assert!(matches!(error, SshConfigError::Invalid { .. }), "{script}: {error:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let resolver = Resolver::with_programs(dir.path().to_owned(), vec![program(&dir, "yes")]);
    let error = resolver.resolve(&address("h"), None, None).await.unwrap_err();
    assert!(matches!(error, SshConfigError::TooLong), "{error:?}");
    assert!(matches!(parse(b"port \xff\n"), Err(SshConfigError::Invalid { key: "port", .. })));
    assert!(parse(b"\xff \xff\nunknown \xff\n").unwrap().is_empty());
}

/// Returns whether a process is over: gone, or dead and not yet waited for by whoever adopted it.
fn is_over(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"))
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_ssh_that_hangs_is_ended_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let hang =
        format!("sleep 600 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", pids.to_str().unwrap());
    let resolver = Resolver::with_programs(dir.path().to_owned(), vec![program(&dir, &hang)]);
    let host = address("h");
    let started = |pids: &Path| -> Vec<String> {
        let text = fs::read_to_string(pids).unwrap();
        text.split_whitespace().map(str::to_owned).collect()
    };

    // The time limit: the clock jumps once both processes are there.
    let jump = async {
        wait_until("ssh to start", || pids.exists()).await;
        tokio::time::pause();
        tokio::time::advance(TIME_LIMIT).await;
        tokio::time::resume();
    };
    let (answer, ()) = tokio::join!(resolver.resolve(&host, None, None), jump);
    assert!(matches!(answer, Err(SshConfigError::Timeout)), "{answer:?}");
    let [ssh, child] = &started(&pids)[..] else { panic!() };
    assert!(!Path::new("/proc").join(ssh).exists());
    wait_until("the child to end", || is_over(child)).await;

    // The same when the caller goes away.
    fs::remove_file(&pids).unwrap();
    tokio::select! {
        answer = resolver.resolve(&host, None, None) => panic!("{answer:?}"),
        () = wait_until("ssh to start", || pids.exists()) => {}
    }
    for pid in started(&pids) {
        wait_until("all to end", || is_over(&pid)).await;
    }
}

#[tokio::test]
async fn answers_are_kept_until_a_file_changes() {
    let home = home_with("Host h\n  Port 2001\n");
    let runs = home.path().join("runs");
    let counting = format!("echo >> {}; exec ssh \"$@\"", runs.to_str().unwrap());
    let resolver = Resolver::with_programs(home.path().to_owned(), vec![program(&home, &counting)]);
    // The system's own files may make answers short-lived; then nothing is to be seen here.
    if Files::survey(Path::new("/nowhere"), Path::new("/nowhere")).lasts.is_some() {
        eprintln!("SKIPPED: /etc/ssh/ssh_config uses Match exec or a foreign Include");
        return;
    }
    let port = async |host| resolver.resolve(&address(host), None, None).await.unwrap().port;
    let count = || fs::read_to_string(&runs).unwrap().len();
    let config = home.path().join(".ssh/config");

    assert_eq!((port("h").await, count()), (Some(2001), 2));
    assert_eq!((port("h").await, count()), (Some(2001), 2));
    assert_eq!((port("other").await, count()), (None, 3));

    // The same length, but another time or inode.
    let before = fs::metadata(&config).unwrap();
    let replacement = home.path().join("replacement");
    fs::write(&replacement, "Host h\n  Port 2002\n").unwrap();
    fs::rename(&replacement, &config).unwrap();
    assert_ne!(fs::metadata(&config).unwrap().ino(), before.ino());
    assert_eq!((port("h").await, count()), (Some(2002), 4));
    fs::remove_file(&config).unwrap();
    assert_eq!((port("h").await, count()), (None, 5));

    fs::write(&config, "Match exec \"true\"\n  Port 2003\n").unwrap();
    assert_eq!((port("h").await, count()), (Some(2003), 6));
    assert_eq!((port("h").await, count()), (Some(2003), 7));

    // Behind an Include that is not followed, for 10 s.
    fs::write(home.path().join("inc"), "Port 2004\n").unwrap();
    fs::write(&config, format!("Include {}\n", home.path().join("inc").display())).unwrap();
    assert_eq!((port("h").await, count()), (Some(2004), 8));
    assert_eq!((port("h").await, count()), (Some(2004), 8));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    assert_eq!((port("h").await, count()), (Some(2004), 9));
}

#[test]
fn files_in_the_customary_directory_are_watched() {
    let home = home_with("Include config.d/*\n");
    let survey = || Files::survey(home.path(), home.path());
    let first = survey();
    assert_eq!(first, survey());
    fs::create_dir(home.path().join(".ssh/config.d")).unwrap();
    let with_directory = survey();
    assert_ne!(first, with_directory);
    let file = home.path().join(".ssh/config.d/x");
    fs::write(&file, "Port 1\n").unwrap();
    let with_file = survey();
    assert_ne!(with_directory, with_file);
    fs::write(&file, "Match exec x\n").unwrap();
    assert_ne!(with_file, survey());
    assert_eq!(survey().lasts, Some(Duration::ZERO));
}

#[test]
fn how_long_an_answer_holds() {
    let limit = |line: &str| limit_of(line, |path| path.starts_with("config.d/"));
    for line in [
        "Match exec \"true\"",
        "  match host x !exec foo",
        "MATCH=LocalNetwork 10.0.0.0/8",
        "\"Match\" host x exec=y",
    ] {
        assert_eq!(limit(line), Some(Duration::ZERO), "{line}");
    }
    for line in ["Include ~/other", "include config.d/a /x", "CanonicalizeHostname yes"] {
        assert_eq!(limit(line), Some(Duration::from_secs(2)), "{line}");
    }
    for line in [
        "",
        "#",
        "Match host x",
        "Include config.d/*",
        "Include = \"config.d/a\"",
        "Port 1",
        "# Match exec x",
        "CanonicalizeHostname no",
        "Host exec",
    ] {
        assert_eq!(limit(line), None, "{line}");
    }
}

#[test]
fn paths_in_one_line_come_apart() {
    assert_eq!(split_paths("/a"), ["/a"]);
    assert_eq!(split_paths("/a /b c/d /e"), ["/a", "/b c/d", "/e"]);
    assert_eq!(split_paths("relative"), ["relative"]);
}

use occ_proto::policy::Action::{Allow, Ask, Deny};
use occ_proto::policy::ClientKind::{Api, Cli, Editor, Mcp};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Both {
    #[serde(default)]
    own: PolicyConfig,
    #[serde(default)]
    all: PolicyConfig,
}

fn both(text: &str) -> Both {
    toml::from_str(text).unwrap()
}

fn exec(tables: &Both, client: ClientKind, line: &str, env: &[&str]) -> Decision {
    let argv: Vec<&[u8]> = match line.strip_prefix("--shell ") {
        Some(line) => vec![b"sh", b"-c", line.as_bytes()],
        None => line.split(' ').map(str::as_bytes).collect(),
    };
    let request = Request::Exec(Exec { argv: &argv, env });
    Policy::new(&tables.own, &tables.all).decide(client, &request)
}

fn said(tables: &Both, client: ClientKind, line: &str) -> Action {
    exec(tables, client, line, &[]).action
}

fn asked(tables: &Both, client: ClientKind, request: Request<'_>) -> Action {
    Policy::new(&tables.own, &tables.all).decide(client, &request).action
}

#[test]
fn without_a_policy_everything_may_be_done() {
    let none = both("");
    assert!(!Policy::new(&none.own, &none.all).restricts());
    for request in
        [Request::Read, Request::Write, Request::Docker, Request::DockerRead, Request::Forward]
    {
        assert_eq!(asked(&none, Api, request), Allow);
    }
    for line in ["rm -rf /", "--shell rm", "sudo -i", "env PATH=x ls"] {
        assert_eq!(said(&none, Api, line), Allow, "{line}");
    }
}

#[test]
fn a_rule_that_can_fit_nothing_is_refused() {
    let refused = |text: &str| toml::from_str::<Both>(text).err().unwrap().to_string();
    let rule = "[[own.rules]]\naction = \"deny\"\n";
    assert!(refused(&format!("{rule}program = \"\"")).contains("program is empty"));
    assert!(refused(&format!("{rule}what = [\"read\"]\nprogram = \"x\"")).contains("exec"));
    // No arguments at all is something.
    both(&format!("{rule}program = \"x\"\nargs = \"\""));
}

#[test]
fn the_first_rule_that_fits_decides_and_a_hosts_own_come_first() {
    let tables = both(
        r#"
        [[own.rules]]
        action = "allow"
        program = "rm"
        args = "-i *"
        [[own.rules]]
        action = "ask"
        program = "rm"
        client = ["api", "mcp"]
        [[all.rules]]
        action = "deny"
        program = "/opt/*"
        [[all.rules]]
        action = "deny"
        program = "rm"
        "#,
    );
    for (client, line, action) in [
        (Api, "rm -i x", Allow),
        (Api, "rm x", Ask),
        (Mcp, "/bin/rm x", Ask),
        (Cli, "rm x", Deny),
        (Editor, "/usr/bin/rm x", Deny),
        (Cli, "ls", Allow),
        (Cli, "/opt/tool/run", Deny),
        (Cli, "/usr/opt/run", Allow),
        // However it is wrapped.
        (Api, "sudo rm x", Ask),
        (Api, "env X=1 nice rm x", Ask),
        (Cli, "sudo -u root /bin/rm x", Deny),
        (Cli, "busybox rm x", Deny),
        // What does not show is the strictest of what could apply.
        (Api, "--shell ls", Deny),
        (Api, "sh -c ls", Deny),
        (Api, "sudo bash", Deny),
        (Api, "xargs ls", Deny),
        (Api, "env PATH=/tmp ls", Deny),
        (Api, "find . -exec ls ;", Deny),
    ] {
        assert_eq!(said(&tables, client, line), action, "{client:?} {line}");
    }
}

#[test]
fn a_shell_is_what_a_rule_says_that_names_it() {
    let tables = both(
        r#"
        [[own.rules]]
        action = "deny"
        program = "rm"
        [[own.rules]]
        action = "allow"
        program = "bash"
        [[own.rules]]
        action = "ask"
        program = "*"
        "#,
    );
    assert_eq!(said(&tables, Cli, "bash -c x"), Allow);
    // A rule about any program names none.
    assert_eq!(said(&tables, Cli, "sh -c x"), Deny);
    assert_eq!(said(&tables, Cli, "make"), Ask);
    // The outer program counts as well.
    assert_eq!(said(&tables, Cli, "sudo bash"), Ask);
    assert_eq!(exec(&tables, Cli, "bash", &["PATH"]).action, Deny);
}

#[test]
fn a_login_shell_is_a_shell() {
    let tables = both("[[own.rules]]\naction = \"ask\"\nprogram = \"rm\"");
    let login = Request::Exec(Exec { argv: &[], env: &[] });
    assert_eq!(asked(&tables, Cli, login), Ask);
}

#[test]
fn what_is_allowed_by_its_name_is_the_systems() {
    let tables =
        both("[own]\ndefault = \"deny\"\n[[own.rules]]\naction = \"allow\"\nprogram = \"git\"\n");
    for (line, action) in [
        ("git status", Allow),
        ("/usr/bin/git status", Allow),
        ("./git status", Deny),
        ("/srv/app/git status", Deny),
        ("sudo git status", Deny),
        ("env git status", Deny),
        ("git2", Deny),
        ("--shell git status", Deny),
    ] {
        assert_eq!(said(&tables, Api, line), action, "{line}");
    }
    // Where little is allowed, so are variables.
    assert_eq!(exec(&tables, Api, "git status", &["LANG", "LC_ALL"]).action, Allow);
    assert_eq!(exec(&tables, Api, "git status", &["FOO"]).action, Deny);
}

#[test]
fn read_only_leaves_reading() {
    let tables = both(
        r#"
        [own]
        read_only = true
        docker = "allow"
        forward = "allow"
        [[own.rules]]
        action = "allow"
        program = "git"
        args = "log*"
        [[own.rules]]
        action = "allow"
        "#,
    );
    assert_eq!(asked(&tables, Cli, Request::Read), Allow);
    assert_eq!(asked(&tables, Cli, Request::DockerRead), Allow);
    for request in [Request::Write, Request::Docker, Request::Forward] {
        assert_eq!(asked(&tables, Cli, request), Deny);
    }
    for (line, action) in [
        ("ls -l", Allow),
        ("cat x", Allow),
        ("git log", Allow),
        ("git push", Deny),
        ("touch x", Deny),
        ("sudo ls", Deny),
        ("env LANG=C ls", Allow),
        ("env touch x", Deny),
        ("--shell ls", Deny),
        ("./ls", Deny),
        ("find . -delete", Deny),
    ] {
        assert_eq!(said(&tables, Cli, line), action, "{line}");
    }
}

#[test]
fn docker_and_forwards_lead_around_a_policy_unless_it_speaks_of_them() {
    for text in [
        "[own]\nroot = \"/srv\"",
        "[own]\ndefault = \"ask\"",
        "[[own.rules]]\naction = \"ask\"\nprogram = \"rm\"",
        "[[all.rules]]\naction = \"ask\"\nprogram = \"rm\"",
    ] {
        let tables = both(text);
        assert_eq!(asked(&tables, Cli, Request::Docker), Deny, "{text}");
        assert_eq!(asked(&tables, Cli, Request::Forward), Deny, "{text}");
        let spoken =
            both(&format!("{text}\n[all]\ndocker = \"allow\"\nforward = \"ask\"").replace(
                "[[all.rules]]\naction = \"ask\"\nprogram = \"rm\"\n[all]",
                "[all]\nrules = [{ action = \"ask\", program = \"rm\" }]",
            ));
        assert_eq!(asked(&spoken, Cli, Request::Docker), Allow, "{text}");
        assert_eq!(asked(&spoken, Cli, Request::Forward), Ask, "{text}");
    }
    let never = both("[own]\ndocker = \"deny\"");
    assert_eq!(asked(&never, Cli, Request::DockerRead), Deny);
    assert_eq!(asked(&never, Cli, Request::Read), Allow);
}

#[test]
fn a_rule_is_about_what_it_says() {
    let tables = both(
        r#"
        [[own.rules]]
        action = "allow"
        what = ["read"]
        [[own.rules]]
        action = "ask"
        client = ["mcp"]
        "#,
    );
    assert_eq!(asked(&tables, Mcp, Request::Read), Allow);
    for request in [Request::Write, Request::Docker, Request::Forward] {
        assert_eq!(asked(&tables, Mcp, request), Ask);
    }
    assert_eq!(said(&tables, Mcp, "ls"), Ask);
    assert_eq!(said(&tables, Cli, "ls"), Allow);
    assert_eq!(asked(&tables, Cli, Request::Write), Allow);
}

#[test]
fn what_cannot_be_meant_is_an_error() {
    for bad in [
        "[own]\nroot = \"srv\"",
        "[own]\nread_onyl = true",
        "[own]\ndefault = \"perhaps\"",
        "[[own.rules]]\nprogram = \"rm\"",
        "[[own.rules]]\naction = \"ask\"\nprogramm = \"rm\"",
        "[[own.rules]]\naction = \"ask\"\nprogram = \"rm\"\nwhat = [\"read\"]",
        "[[own.rules]]\naction = \"ask\"\nclient = [\"person\"]",
    ] {
        assert!(toml::from_str::<Both>(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_grant_gives_what_it_says() {
    let allow = ["read", "exec:git", "exec:/srv/tool"].map(|text| text.parse().unwrap());
    let policy = PolicyConfig::of_grant("g", &allow, None);
    let tables = Both { own: policy, all: PolicyConfig::default() };
    assert_eq!(asked(&tables, Api, Request::Read), Allow);
    for request in [Request::Write, Request::Docker, Request::Forward] {
        assert_eq!(asked(&tables, Api, request), Deny);
    }
    for (line, action) in [
        ("git status", Allow),
        ("/srv/tool x", Allow),
        ("ls", Deny),
        ("./git", Deny),
        ("--shell git", Deny),
        ("sh", Deny),
    ] {
        assert_eq!(said(&tables, Api, line), action, "{line}");
    }
    // All programs are all, shells too.
    let allow = ["exec"].map(|text| text.parse().unwrap());
    let all = PolicyConfig::of_grant("g", &allow, None);
    let all = Both { own: all, all: PolicyConfig::default() };
    for line in ["sh", "--shell ls | wc", "./tool", "env PATH=x ls"] {
        assert_eq!(said(&all, Api, line), Allow, "{line}");
    }
    assert_eq!(asked(&all, Api, Request::Read), Deny);
    let why = exec(&tables, Api, "git status", &[]).why;
    assert!(why.contains("the grant g"), "{why}");
}

fn action() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["allow", "ask", "deny"])
}

proptest! {
    /// A command that does not show is treated no better than any that could be behind it.
    #[test]
    fn hiding_gains_nothing(
        default in action(),
        rules in prop::collection::vec((action(), prop::sample::select(vec!["rm", "ls", "git", "*"])), 0..5),
        program in prop::sample::select(vec!["rm", "ls", "git", "make"]),
    ) {
        let mut text = format!("[own]\ndefault = \"{default}\"\n");
        for (action, program) in rules {
            text.push_str(&format!("[[own.rules]]\naction = \"{action}\"\nprogram = \"{program}\"\n"));
        }
        let tables = both(&text);
        let plain = said(&tables, Api, program);
        for wrapped in [
            format!("--shell {program}"),
            format!("sh -c {program}"),
            format!("sudo {program}"),
            format!("env LANG=C {program}"),
            format!("xargs {program}"),
            format!("env PATH=/tmp {program}"),
        ] {
            prop_assert!(said(&tables, Api, &wrapped) >= plain, "{} in {}", wrapped, text);
        }
    }
}

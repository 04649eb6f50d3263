//! docs/configuration.md says what the parsers take: no key is missing there, none is told that is no more, its examples
//! are taken, and its defaults are those of the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use occ_proto::host::HostsFile;
use testkit::docs::{self, Section, known_keys, literals};

use super::*;
use crate::container::settings::DEFAULT_IMAGE;
use crate::container::{OpencodeConfig, SandboxSettings};
use crate::policy::guard::ASK_TIMEOUT;
use crate::ssh::dial::settings::{KEEPALIVE_COUNT, KEEPALIVE_INTERVAL, TIMEOUT};

const DOCUMENT: &str = "docs/configuration.md";
/// What the document says in place of a default: the key is not set, or it must be.
const NOT_SET: &str = "–";
const NEEDED: &str = "needed";

/// A line of the document about a key.
struct Told {
    key: String,
    default: String,
    example: String,
}

fn section(heading: &str) -> Section {
    let sections = docs::sections(&docs::text(DOCUMENT));
    let found = sections.into_iter().find(|section| section.heading == heading);
    found.unwrap_or_else(|| panic!("{DOCUMENT} has no section {heading}"))
}

fn told(section: &Section) -> Vec<Told> {
    let line = |row: &Vec<String>| {
        assert_eq!(row.len(), 6, "{DOCUMENT}, {}: {row:?}", section.heading);
        assert!(row.iter().all(|cell| !cell.is_empty()), "{DOCUMENT}: {row:?}");
        let cell = |at: usize| row[at].trim_matches('`').to_owned();
        Told { key: cell(0), default: cell(2), example: cell(4) }
    };
    section.rows.iter().map(line).collect()
}

/// Returns what the document says, by the header of the table in occd.toml.
fn told_of_tables() -> BTreeMap<String, Vec<Told>> {
    let mut all = BTreeMap::new();
    for section in docs::sections(&docs::text(DOCUMENT)) {
        let headers = literals(&section.heading).into_iter().filter(|word| word.starts_with('['));
        for header in headers {
            all.insert(header.to_owned(), told(&section));
        }
    }
    all
}

fn toml(text: &str) -> Result<(), String> {
    Config::parse(text, Path::new("occd.toml")).map(drop).map_err(|error| error.to_string())
}

/// Adds the tables of occd.toml below one of them, and the keys of each, as the parser has them.
fn walk(path: &str, header: &str, tables: &mut BTreeMap<String, BTreeSet<String>>) -> bool {
    let error = toml(&format!("{header}\nno_such_key = 1\n")).err();
    let Some(keys) = error.as_deref().and_then(known_keys) else { return false };
    let mut own = BTreeSet::new();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let is_table = walk(&path, &format!("[{path}]"), tables);
        let of_any_name = format!("{path}.NAME");
        let is_map = !is_table && walk(&of_any_name, &format!("[{of_any_name}]"), tables);
        // A list of tables is a key as well, which may be written in one line.
        walk(&path, &format!("[[{path}]]"), tables);
        if !is_table && !is_map {
            own.insert(key);
        }
    }
    if !own.is_empty() {
        tables.insert(header.to_owned(), own);
    }
    true
}

fn same_keys(place: &str, told: &[Told], known: &BTreeSet<String>) {
    let told: BTreeSet<String> = told.iter().map(|told| told.key.clone()).collect();
    let missing: Vec<_> = known.difference(&told).collect();
    assert!(missing.is_empty(), "{DOCUMENT} does not tell these keys of {place}: {missing:?}");
    let gone: Vec<_> = told.difference(known).collect();
    assert!(gone.is_empty(), "{DOCUMENT} tells keys of {place} that there are not: {gone:?}");
}

#[test]
fn every_table_and_key_is_told_and_no_other() {
    let mut known = BTreeMap::new();
    assert!(walk("", "", &mut known));
    let told = told_of_tables();
    for (header, keys) in &known {
        let section = told.get(header);
        let section = section.unwrap_or_else(|| panic!("{DOCUMENT} has no section for {header}"));
        same_keys(header, section, keys);
    }
    for header in told.keys() {
        assert!(
            known.contains_key(header),
            "{DOCUMENT} tells of {header}, which occd.toml has not"
        );
    }
}

#[test]
fn every_example_and_default_is_taken() {
    for (header, lines) in told_of_tables() {
        for Told { key, default, example } in lines {
            let needed = if header.ends_with("rules]]") && key != "action" {
                "action = \"deny\"\n"
            } else {
                ""
            };
            let mut values = vec![example];
            if default != NOT_SET && default != NEEDED {
                values.push(default);
            }
            for value in values {
                let text = format!("{header}\n{needed}{key} = {value}\n");
                toml(&text).unwrap_or_else(|error| panic!("{DOCUMENT}: {text}{error}"));
            }
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("\"{}s\"", time.as_secs())
}

fn set<T>(value: &Option<T>, set: String) -> String {
    assert!(value.is_none());
    set
}

/// Returns what holds in the code where a key is not set.
fn default_of(header: &str, key: &str) -> String {
    let config = Config::default();
    let name = HostName::new("NAME").unwrap();
    let effective = config.effective(&name);
    let dial = &effective.dial;
    let host = HostSettings::default();
    let sandbox = |key: &str| {
        let own = SandboxConfig::default();
        let settings = SandboxSettings::for_host(&own, &OpencodeConfig::default()).unwrap();
        match key {
            "image" => {
                assert_eq!(settings.image, DEFAULT_IMAGE);
                format!("{DEFAULT_IMAGE:?}")
            }
            "port" => settings.port.to_string(),
            "bind_address" => format!("\"{}\"", settings.bind_address),
            "env" => format!("{:?}", settings.env),
            "mounts" => format!("{:?}", settings.mounts),
            "systemd" => set(&settings.systemd, NOT_SET.into()),
            _ => unknown(header, key),
        }
    };
    let policy = |key: &str| {
        let policy = Policy::new(&policy::NOTHING, &policy::NOTHING);
        match key {
            "root" => set(&policy.root(), NOT_SET.into()),
            "read_only" => policy.read_only().to_string(),
            "default" => format!("{:?}", policy.default().as_str()),
            "docker" => set(&policy::NOTHING.docker, NOT_SET.into()),
            "forward" => set(&policy::NOTHING.forward, NOT_SET.into()),
            "ask_timeout" => set(&policy.ask_timeout(), seconds(ASK_TIMEOUT)),
            "rules" => format!("{:?}", policy::NOTHING.rules),
            _ => unknown(header, key),
        }
    };
    let kind = header.trim_matches(['[', ']']).replace("hosts.NAME.", "").replace("local.", "");
    match (kind.as_str(), key) {
        ("connection", "connect_timeout") => set(&dial.timeout, seconds(TIMEOUT)),
        ("connection", "keepalive_interval") => {
            set(&dial.keepalive_interval, seconds(KEEPALIVE_INTERVAL))
        }
        ("connection", "keepalive_count") => {
            set(&dial.keepalive_count, KEEPALIVE_COUNT.to_string())
        }
        ("connection", "max_retries") => set(&effective.limits.max_retries, "0".into()),
        ("connection", "max_backoff") => seconds(effective.caps.normal),
        ("connection", "max_backoff_long_down") => seconds(effective.caps.long_down),
        ("connection", "command_timeout") => set(&effective.command_timeout, NOT_SET.into()),
        ("connection", "idle_timeout") => set(&effective.idle_timeout, NOT_SET.into()),
        ("connection", "max_connections") => effective.max_connections.to_string(),
        ("connection", "autoconnect") => {
            format!("{:?}", format!("{:?}", effective.autoconnect).to_lowercase())
        }
        ("connection", "compression") => set(
            &dial.compression,
            format!("{:?}", format!("{:?}", Compression::default()).to_lowercase()),
        ),
        // What ssh_config leaves open is recorded: `HostKeyPolicy::load`.
        ("connection", "strict_host_key_checking") => {
            set(&dial.unknown_host_key, "\"accept-new\"".into())
        }
        ("output", "spill_limit_mib") => config.output.spill_limit_mib.to_string(),
        ("security", "passwords") => config.security.passwords.to_string(),
        ("security", "proxy_commands") => config.security.proxy_commands.to_string(),
        ("security", "keep_passwords") => config.security.keep_passwords.to_string(),
        ("security", "key_lifetime") => set(&config.security.key_lifetime, NOT_SET.into()),
        ("limits", "max_operations") => config.limits.max_operations.to_string(),
        ("limits", "max_operations_per_host") => config.limits.max_operations_per_host.to_string(),
        ("limits", "stream_idle_timeout") => {
            seconds(config.limits.stream_idle_timeout.unwrap_or_default())
        }
        ("prompts", "notify") => config.prompts.notify.to_string(),
        ("log", "format") => format!("{:?}", format!("{:?}", config.log.format).to_lowercase()),
        ("audit", "enabled") => config.audit.enabled.to_string(),
        ("audit", "max_size_mib") => config.audit.max_size_mib.to_string(),
        ("forwards", "by_name_port") => config.forwards.by_name_port.to_string(),
        ("local", "docker_socket") => set(&config.local.docker_socket, NOT_SET.into()),
        ("hosts.NAME", "auth") => format!("{:?}", host.auth),
        ("hosts.NAME", "directory") => set(&host.directory, NOT_SET.into()),
        ("hosts.NAME", "workspaces") => {
            assert_eq!(host.workspaces, Workspaces::default());
            "{}".into()
        }
        ("hosts.NAME", "docker_socket") => set(&host.docker_socket, NOT_SET.into()),
        ("hosts.NAME", "probe") => (!dial.no_probe).to_string(),
        ("hosts.NAME", "forward_agent") => set(&dial.forward_agent, NOT_SET.into()),
        ("sandbox", key) => sandbox(key),
        ("policy", key) => policy(key),
        ("policy.rules", "action") => NEEDED.into(),
        ("policy.rules", "what" | "client") => "[]".into(),
        ("policy.rules", "program" | "args") => NOT_SET.into(),
        _ => unknown(header, key),
    }
}

fn unknown(header: &str, key: &str) -> ! {
    panic!("{key} of {header} is new: say in this test where its default is in the code")
}

/// Returns a default in one spelling: times in seconds.
fn plain(default: &str) -> String {
    let time = default.trim_matches('"').parse::<jiff::SignedDuration>();
    time.map_or_else(|_| default.to_owned(), |time| format!("{} s", time.as_secs_f64()))
}

#[test]
fn every_default_is_the_code_s() {
    for (header, lines) in told_of_tables() {
        for Told { key, default, .. } in lines {
            let code = default_of(&header, &key);
            assert_eq!(plain(&default), plain(&code), "{DOCUMENT}: {key} of {header}");
        }
    }
}

/// Compares a table of a JSON file's: `text` puts members into a file, `parse` reads it and, where it is taken, returns the
/// value of a key.
fn compare_json(
    heading: &str,
    ignored: &[&str],
    needed: &str,
    text: impl Fn(&str) -> String,
    parse: impl Fn(&str, &str) -> Result<String, String>,
) {
    let section = section(heading);
    let told = told(&section);
    let refused = parse(&text("\"no_such_key\": 1"), "").unwrap_err();
    let known = known_keys(&refused).unwrap_or_else(|| panic!("{refused}"));
    let known = known.into_iter().filter(|key| !ignored.contains(&key.as_str())).collect();
    same_keys(heading, &told, &known);
    for Told { key, default, example } in told {
        let others = if needed.contains(&format!("{key:?}")) { "" } else { needed };
        let taken = parse(&text(&format!("{others}{key:?}: {example}")), &key);
        taken.unwrap_or_else(|error| panic!("{DOCUMENT}: {key} of {heading}: {error}"));
        if default != NEEDED {
            let code = parse(&text(needed.trim_end_matches(", ")), &key).unwrap();
            assert_eq!(default, code, "{DOCUMENT}: {key} of {heading}");
        }
    }
}

/// Returns a value as the document spells it.
fn spelled(value: &serde_json::Value) -> String {
    if value.is_null() { NOT_SET.into() } else { value.to_string() }
}

#[test]
fn hosts_json_is_told_as_it_is() {
    let parse = |text: &str, at: &str| {
        let file: HostsFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok(spelled(serde_json::to_value(&file).unwrap().pointer(at).unwrap_or_default()))
    };
    let whole = |members: &str| format!("{{{members}}}");
    compare_json("The file", &[], "", whole, |text, key| parse(text, &format!("/{key}")));
    let host = |members: &str| format!("{{\"hosts\": {{\"a\": {{{members}}}}}}}");
    let needed = "\"hostname\": \"a\", ";
    compare_json("A host", &[], needed, host, |text, key| parse(text, &format!("/hosts/a/{key}")));
}

#[test]
fn config_json_is_told_as_it_is_read() {
    let parse = |text: &str, key: &str| {
        let config = OpencodeConfig::parse(text)?;
        Ok(match key {
            "version" => config.version.to_string(),
            "opencode_web_port" => config.opencode_web_port.to_string(),
            "auto_restart" => config.auto_restart.to_string(),
            "container_env" => format!("{:?}", config.container_env),
            "bind_address" => format!("{:?}", config.bind_address),
            "cockpit_port" => config.cockpit_port.to_string(),
            "cockpit_enabled" => config.cockpit_enabled.to_string(),
            "mounts" => config.mounts.map_or(NOT_SET.into(), |mounts| format!("{mounts:?}")),
            _ => unknown("config.json", key),
        })
    };
    let intro = section("config.json").text;
    let ignored = literals(&intro);
    compare_json("What is read", &ignored, "", |members| format!("{{{members}}}"), parse);
}

#[test]
fn the_policy_of_all_users_is_told_as_it_is() {
    let parse = |text: &str| {
        SystemPolicy::parse(text, Path::new("policy.toml")).map_err(|error| error.to_string())
    };
    let refused = parse("[hosts]\nno_such_key = 1\n").unwrap_err();
    let hosts = known_keys(&refused).unwrap().into_iter().collect();
    let features = Feature::ALL.map(|feature| feature.key().to_owned()).into_iter().collect();
    for (heading, table, known) in
        [("Hosts of all users", "hosts", hosts), ("Features of all users", "features", features)]
    {
        let told = told(&section(heading));
        same_keys(heading, &told, &known);
        for Told { key, default, example } in told {
            let taken = parse(&format!("[{table}]\n{key} = {example}\n"));
            taken.unwrap_or_else(|error| panic!("{DOCUMENT}: {key} of {heading}: {error}"));
            let silent = parse("").unwrap();
            let of_key = |feature: &Feature| feature.key() == key;
            let code = match (table, key.as_str()) {
                ("hosts", "allow") => set(&silent.hosts.allow, NOT_SET.into()),
                ("hosts", _) => format!("{:?}", silent.hosts.deny),
                _ => silent.has(Feature::ALL.into_iter().find(of_key).unwrap()).to_string(),
            };
            assert_eq!(default, code, "{DOCUMENT}: {key} of {heading}");
        }
    }
    for block in docs::blocks(&docs::text("docs/security.md")) {
        if block.text.starts_with("[hosts] ") {
            parse(&block.text).unwrap_or_else(|error| panic!("docs/security.md: {error}"));
        }
    }
}

#[test]
fn every_variable_is_told_and_no_other() {
    /// Those of the fixtures' own, and words of Rust.
    const OTHERS: [&str; 5] =
        ["OCC_TESTKIT", "OCC_TEST_", "OCC_HOSTS_TEST_", "OCCD_OF_UNITS", "OCC_NO_SUCH"];
    let is_ours = |word: &&str| word.starts_with("OCC_") || word.starts_with("OCCD_");
    let text = docs::text(DOCUMENT);
    let told: BTreeSet<&str> = literals(&text).into_iter().filter(is_ours).collect();
    let told: BTreeSet<&str> = told.into_iter().filter(|word| !word.contains(' ')).collect();
    let sources = docs::sources();
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    for (path, text) in &sources {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let words = words.filter(is_ours).filter(|word| word.chars().all(|c| !c.is_lowercase()));
        // What ends with an underscore is a part of a name.
        for word in words.filter(|word| !word.ends_with('_')) {
            if !OTHERS.iter().any(|other| word.starts_with(other)) {
                found.entry(word).or_insert(path);
            }
        }
    }
    for (word, path) in &found {
        assert!(told.contains(word), "{DOCUMENT} does not tell {word}, which is in {path}");
    }
    for word in told.iter().filter(|word| !word.contains('=')) {
        assert!(found.contains_key(word), "{DOCUMENT} tells {word}, which is nowhere in the code");
    }
}

#[test]
fn what_the_documents_show_as_settings_is_taken() {
    let mut count = 0;
    for file in ["README.md", "docs/guide.md", "docs/security.md", "docs/configuration.md"] {
        for block in docs::blocks(&docs::text(file)) {
            let taken = match block.language.as_str() {
                "toml" => toml(&block.text),
                "json" if file == "README.md" => {
                    let read = serde_json::from_str::<HostsFile>(&block.text);
                    read.map(drop).map_err(|error| error.to_string())
                }
                _ => continue,
            };
            taken.unwrap_or_else(|error| panic!("{file}: {error}\n{}", block.text));
            count += 1;
        }
    }
    assert!(count >= 5, "{count}");
}

#[test]
fn whatever_refuses_unknown_keys_is_compared_here_or_is_no_file() {
    /// Those that are compared, also by `occ-cli/src/project.rs`.
    const FILES: [&str; 18] = [
        "Config",
        "ConnectionConfig",
        "HostSettings",
        "SecurityConfig",
        "OutputConfig",
        "LimitsConfig",
        "LocalConfig",
        "ForwardsConfig",
        "PolicyConfig",
        "RuleRepr",
        "SandboxConfig",
        "OpencodeConfig",
        "Wishes",
        "PromptsConfig",
        "LogConfig",
        "AuditConfig",
        "SystemPolicy",
        "HostRules",
    ];
    /// What requests are made of, and a type of a test.
    const OTHERS: [&str; 4] = ["FileQuery", "WorkspacesQuery", "Written", "Both"];
    for (path, text) in docs::sources() {
        if !path.starts_with("occd/src/") && !path.starts_with("occ-cli/src/") {
            continue;
        }
        for after in text.split("deny_unknown_fields").skip(1) {
            let Some((_, name)) = after.split_once("struct ") else { continue };
            let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            let is_known = FILES.contains(&name) || OTHERS.contains(&name) || name.is_empty();
            assert!(
                is_known,
                "{name} in {path}: where it is of a file, compare it with {DOCUMENT}"
            );
        }
    }
}

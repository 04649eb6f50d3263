//! The README and the documents that follow it show what works: their commands are run as they stand, in their order, against a real
//! server and, where it can be had, a real Docker Engine; what they show as answers is what comes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use testkit::daemon::client_binary;
use testkit::docs::{self, Block};
use testkit::require::{find_program, require};
use testkit::wait::blocking::try_wait_for;
use testkit::{DaemonRig, DockerRig, RealSshd, Registry, free_port};

use crate::ask::GUARD;

const DOCUMENTS: [&str; 4] =
    ["README.md", "docs/guide.md", "docs/security.md", "docs/troubleshooting.md"];

/// What is not run, and why. Each is in one of the documents.
const NOT_RUN: [(&str, &str); 10] = [
    ("cargo xtask demo", "it builds; `the_demo_works` runs what it has built"),
    ("cargo xtask test", "it is what runs this"),
    ("./install.sh --uninstall", "xtask/tests/dist.rs runs it, with a prefix of its own"),
    ("./install.sh", "it builds for minutes; xtask/tests/dist.rs runs it on what is built"),
    (
        "occ daemon install",
        "it changes this machine's systemd; `install` runs it in one of its own",
    ),
    ("occ daemon logs -f", "it goes on; `install` has the logs"),
    ("OCC_NO_AUTOSTART=1 occ status --watch", "it goes on; `status` and `editors` run it"),
    ("occ doctor", "what it finds is this machine's; occ-cli/tests/doctor.rs runs it"),
    ("docker run -v", "what is run in the container is left out; `grants` runs it with that"),
    ("occ update --group eu", "there is one engine; `groups` has it for several"),
];

/// What is run and whose answer is another one here, and why.
const NOT_COMPARED: [(&str, &str); 2] = [
    ("occ exec --group eu -- uname -r | tail -1", "the group has three hosts here"),
    ("occ exec --group eu", "the group has three hosts here, and there is no terminal"),
];

/// What fails here, and with which words.
const FAILS: [(&str, &str); 1] = [("occ prompts --allow 3", "There is no such prompt")];

/// How long that may take.
const SOON: Duration = Duration::from_secs(20);

/// What comes on a terminal alone; `occ-cli/tests/daemon.rs` has it.
const ON_A_TERMINAL: &str = "occd was not running: started (socket ";
/// What comes where there is none: on a terminal it is asked about.
const WITHOUT_ONE: &str = "hint: occ host install-docker here installs it";

/// What is asked again until it answers as shown: it tells of what happens by itself.
const IN_TIME: [&str; 3] = ["occ status", "curl ", "occ session list"];

/// A command with what the document shows as its answer.
struct Step {
    document: &'static str,
    heading: String,
    command: String,
    shown: String,
}

/// Returns the commands of a block: after a `$ ` with their answers, else line by line.
fn steps(document: &'static str, block: &Block) -> Vec<Step> {
    let is_dialogue = block.text.starts_with("$ ");
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for line in block.text.lines() {
        let command = match line.strip_prefix("$ ") {
            Some(command) => command,
            None if goes_on || !is_dialogue => line,
            None => {
                let shown = &mut steps.last_mut().unwrap().shown;
                shown.push_str(line);
                shown.push('\n');
                continue;
            }
        };
        if goes_on {
            let whole = &mut steps.last_mut().unwrap().command;
            whole.push_str(&format!("\n{command}"));
        } else if !command.trim().is_empty() {
            // What is set apart says what a command does.
            let end = command.find("   ").unwrap_or(command.len());
            let command = command[..end].trim_end().to_owned();
            let heading = block.heading.clone();
            steps.push(Step { document, heading, command, shown: String::new() });
        }
        goes_on = command.ends_with(['|', '\\']);
    }
    steps
}

fn all_steps() -> Vec<Vec<Step>> {
    let of = |document| {
        let blocks = docs::blocks(&docs::text(document));
        let commands = blocks.into_iter().filter(|block| block.language.is_empty());
        commands.map(move |block| steps(document, &block))
    };
    DOCUMENTS.into_iter().flat_map(of).collect()
}

fn reason<'a>(list: &[(&str, &'a str)], command: &str) -> Option<&'a str> {
    list.iter().find(|(start, _)| command.starts_with(start)).map(|(_, reason)| *reason)
}

/// The machine of somebody who reads.
struct World {
    rig: DaemonRig,
    sshd: RealSshd,
    /// What the README calls `/` on a host, and in `home` its home directory.
    there: TempDir,
    ports: [u16; 3],
    /// What the host has in its PATH.
    _programs: TempDir,
    docker: Option<(DockerRig, Registry)>,
}

/// Returns a directory with all programs but Docker's.
fn without_docker() -> TempDir {
    let dir = tempfile::Builder::new().prefix("occ-bin-").tempdir_in("/tmp").unwrap();
    for from in ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"] {
        for entry in fs::read_dir(from).into_iter().flatten().map(Result::unwrap) {
            let name = entry.file_name();
            if !name.to_string_lossy().starts_with("docker") {
                // The first in the PATH counts.
                let _ = std::os::unix::fs::symlink(entry.path(), dir.path().join(name));
            }
        }
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

impl World {
    fn new() -> Self {
        // This machine may have Docker; that of the tour has none.
        let programs = without_docker();
        let path = programs.path().display().to_string();
        let sshd = RealSshd::builder().env("PATH", &path).start();
        let rig = DaemonRig::new();
        let there = tempfile::Builder::new().prefix("occ-there-").tempdir_in("/tmp").unwrap();
        for dir in ["srv", "var/www", "var/log", "etc/nginx", "home/src"] {
            fs::create_dir_all(there.path().join(dir)).unwrap();
        }
        for file in ["etc/hosts", "etc/nginx/nginx.conf", "var/log/syslog", "home/old.log"] {
            fs::write(there.path().join(file), "some text\n").unwrap();
        }
        fs::write(there.path().join("home/src/main.c"), "// TODO: everything\n").unwrap();
        fs::set_permissions(there.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let owner = Command::new("chmod").args(["-R", "a+rwX"]).arg(there.path()).status().unwrap();
        assert!(owner.success());
        // Who reads has this by now: `ssh localhost` lets them in.
        let config = format!(
            "Host localhost\nPort {}\nUser {}\nIdentityFile {}\n",
            sshd.port(),
            sshd.user(),
            sshd.client_key_path().display()
        );
        fs::write(rig.home().join(".ssh/config"), config).unwrap();
        rig.add_known_host(&sshd.known_hosts_line().replace("127.0.0.1", "localhost"));
        let work = rig.home().join("work/site");
        fs::create_dir_all(&work).unwrap();
        for file in ["site/index.html", "notes.txt", "big.iso"] {
            fs::write(rig.home().join("work").join(file), "some text\n").unwrap();
        }
        let docker = (DockerRig::require() && Registry::require())
            .then(|| (DockerRig::start_with_network(), Registry::start()));
        let ports = [0; 3].map(|_| free_port());
        let world = Self { rig, sshd, there, ports, _programs: programs, docker };
        world.make_images();
        world.settings(false);
        world
    }

    fn make_images(&self) {
        let Some((docker, registry)) = &self.docker else { return };
        docker.open_to_everyone();
        let helper = "#!/bin/sh\necho '{\"ok\":true,\"active\":true,\"otp\":\"gq7-1\"}'\n";
        let files = [("usr/local/bin/opencode-cloud-bootstrap", 0o755, helper)];
        let image = format!("{}/sandbox:latest", registry.name());
        docker.import_sandbox(&image, "1.0", &files);
        docker.docker_ok(&["push", &image]);
    }

    /// Writes occd.toml: the host `here` has the engine, or no Docker. The ports are not taken by another test's daemon.
    fn settings(&self, with_docker: bool) {
        let by_name = free_port();
        let mut text = format!("[forwards]\nby_name_port = {by_name}\n");
        if let Some((docker, registry)) = self.docker.as_ref().filter(|_| with_docker) {
            text.push_str(&format!(
                "[hosts.here]\ndocker_socket = \"{}\"\n[hosts.here.sandbox]\nimage = \"{}/sandbox\"\nsystemd = false\nport = {}\n",
                docker.socket().display(),
                registry.name(),
                free_port()
            ));
        }
        self.rig.write_config_toml(&text);
    }

    /// Adds the hosts that the tour does not.
    fn add_others(&self) {
        for name in ["prod-1", "eu-01", "eu-02", "eu-22"] {
            self.rig.add_host(name, &self.sshd);
        }
        self.rig.edit_hosts(|file| {
            for (name, host) in &mut file.hosts {
                if name.as_str().starts_with("eu-") {
                    host.groups = vec![occ_proto::GroupName::new("eu").unwrap()];
                }
            }
        });
    }

    /// Returns a command with the places and ports of this world.
    fn here(&self, command: &str) -> String {
        let there = self.there.path().display();
        let [web, back, socks] = self.ports;
        let mut command = command.to_owned();
        if ["occ cp", "occ ls", "occ cat", "occ rm", "occ edit", "occ files"]
            .iter()
            .any(|start| command.starts_with(start))
        {
            command = command.replace("here:", &format!("here:{there}/home/"));
            command = command.replace(&format!("{there}/home//"), &format!("{there}/"));
        }
        command
            .replace("8080:localhost", &format!("{web}:localhost"))
            .replace("remove 8080", &format!("remove {web}"))
            .replace("9000:localhost", &format!("{back}:localhost"))
            .replace("-D 1080", &format!("-D {socks}"))
            .replace("--root /srv/app", &format!("--root {there}/srv"))
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        let of_rig = self.rig.occ(&[]);
        command
            .env_clear()
            .envs(of_rig.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut path = client_binary().parent().unwrap().as_os_str().to_owned();
        path.push(":/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command
            .env("PATH", path)
            .env("EDITOR", "true")
            .args(["-c", &format!("exec 2>&1\n{script}")])
            .current_dir(self.rig.home().join("work"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, script: &str) -> (String, bool) {
        let output = self.shell(script).output().unwrap();
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
    }

    /// Runs a command that goes on until it has said something.
    fn run_to_first_word(&self, script: &str) -> String {
        let said = self.rig.root().join("said");
        let mut command = self.shell(&format!("exec {script}"));
        let mut child = command.stdout(fs::File::create(&said).unwrap()).spawn().unwrap();
        let file = self.there.path().join("home/src/new.c");
        let text = try_wait_for(GUARD, || {
            fs::write(&file, "").unwrap();
            fs::remove_file(&file).unwrap();
            Some(fs::read_to_string(&said).unwrap()).filter(|text| !text.is_empty())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        text.unwrap_or_default()
    }

    /// Returns an answer without what differs from machine to machine and from run to run.
    fn plain(&self, text: &str) -> Vec<String> {
        let run = self.rig.root().join("run").display().to_string();
        let text = text
            .replace(&run, "/run/user/1000")
            .replace(
                &format!("{}@127.0.0.1:{}", self.sshd.user(), self.sshd.port()),
                "alice@127.0.0.1",
            )
            .replace(&format!("{}@", self.sshd.user()), "alice@")
            .replace("Linux 6.1.0-37-amd64", &self.run("uname -sr").0);
        let lines = text.lines().map(|line| {
            // How a link ends (a close, a reset) is up to the moment.
            let line = line.split_once(" or have finished: ").map_or(line, |(before, _)| before);
            let words: Vec<String> = line.split_whitespace().map(without_numbers).collect();
            words.join(" ")
        });
        lines.filter(|line| !line.is_empty()).collect()
    }
}

/// Returns a word with `#` for each number and each identifier.
fn without_numbers(word: &str) -> String {
    let is_id = |part: &str| {
        matches!(part.len(), 8 | 12) && part.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
    };
    if is_id(word) {
        return "#".to_owned();
    }
    let mut plain = String::new();
    let mut chars = word.chars().peekable();
    while let Some(c) = chars.next() {
        if !c.is_ascii_digit() {
            plain.push(c);
            continue;
        }
        plain.push('#');
        while let Some(next) = chars.next_if(|c| c.is_ascii_digit() || *c == '.') {
            // The end of a sentence is none of the number's.
            if next == '.' && !chars.peek().is_some_and(char::is_ascii_digit) {
                plain.push('.');
            }
        }
    }
    plain
}

/// Returns whether a line is as shown, where `…` stands for anything.
fn fits(shown: &str, line: &str) -> bool {
    let mut rest = line;
    let mut parts = shown.split('…');
    let Some(start) = parts.next().and_then(|first| rest.strip_prefix(first)) else { return false };
    rest = start;
    if !shown.contains('…') {
        return rest.is_empty();
    }
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.is_empty() || shown.ends_with('…')
}

fn is_as_shown(shown: &[String], said: &[String]) -> bool {
    shown.len() == said.len() && shown.iter().zip(said).all(|(shown, line)| fits(shown, line))
}

/// Returns whether a block takes a Docker Engine.
fn takes_docker(steps: &[Step]) -> bool {
    let of_docker = ["occ docker", "occ start", "occ stop", "occ update", "occ logs"];
    steps.iter().any(|step| of_docker.iter().any(|start| step.command.starts_with(start)))
}

/// Returns what a command has said, less what a terminal would not show, or show in passing.
fn answer(world: &World, said: &str) -> Vec<String> {
    let stays = |line: &&str| *line != WITHOUT_ONE && !line.ends_with(" …");
    world.plain(&said.lines().filter(stays).collect::<Vec<_>>().join("\n"))
}

/// Runs a command, and returns what is wrong with its answer.
fn check(world: &World, before: &str, step: &Step) -> Result<(), String> {
    let script = format!("{before}{}", world.here(&step.command));
    let wrong = |said: &str, why: &str| {
        let Step { document, heading, command, shown } = step;
        Err(format!("{document}, {heading}: {command}\n{why}\n{said}--- shown:\n{shown}"))
    };
    if step.command.starts_with("occ files watch") {
        let said = world.run_to_first_word(&script);
        return if said.is_empty() { wrong("", "says nothing") } else { Ok(()) };
    }
    let is_shown = !step.shown.is_empty() && reason(&NOT_COMPARED, &step.command).is_none();
    let lines = step.shown.lines().filter(|line| !line.starts_with(ON_A_TERMINAL));
    let shown = world.plain(&lines.collect::<Vec<_>>().join("\n"));
    let (said, success) = if is_shown && IN_TIME.iter().any(|one| step.command.starts_with(one)) {
        let mut last = (String::new(), false);
        let in_time = try_wait_for(SOON, || {
            last = world.run(&script);
            is_as_shown(&shown, &answer(world, &last.0)).then_some(())
        });
        if in_time.is_some() { (last.0, true) } else { last }
    } else {
        world.run(&script)
    };
    match reason(&FAILS, &step.command) {
        Some(words) if !success && said.contains(words) => return Ok(()),
        Some(words) => return wrong(&said, &format!("does not fail with: {words}")),
        None if !success => return wrong(&said, "fails"),
        None => {}
    }
    let plain = answer(world, &said);
    if is_shown && !is_as_shown(&shown, &plain) {
        return wrong(&said, &format!("{shown:#?} is shown, and {plain:#?} comes"));
    }
    Ok(())
}

#[test]
fn the_commands_work_as_they_stand_and_say_what_is_shown() {
    let programs = ["bash", "curl", "jq"].map(|program| find_program(program).map(drop));
    let available = programs.into_iter().collect::<Result<(), _>>();
    if !require("bash, curl and jq", available, "OCC_REQUIRE_SSHD") || !RealSshd::require() {
        return;
    }
    let world = World::new();
    let mut wrong = Vec::new();
    let (mut run, mut tour_is_over) = (0, false);
    for block in all_steps() {
        let Some(first) = block.first() else { continue };
        let is_tour = first.heading == "Five minutes" || first.heading == "Install";
        if !is_tour && !tour_is_over && first.heading.starts_with("Programs") {
            world.add_others();
            tour_is_over = true;
        }
        let with_docker = takes_docker(&block);
        if with_docker && world.docker.is_none() {
            continue;
        }
        if with_docker {
            world.settings(true);
        }
        let mut before = String::new();
        for step in &block {
            if reason(&NOT_RUN, &step.command).is_some() {
                continue;
            }
            if let Err(error) = check(&world, &before, step) {
                wrong.push(error);
            }
            run += 1;
            // What a shell would still know for the next one.
            if step.command.starts_with("export ") || step.command.starts_with("dir=") {
                before.push_str(&world.here(&step.command));
                before.push('\n');
            }
        }
        if with_docker {
            world.settings(false);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(run > 40, "only {run} commands were found");
}

#[test]
fn the_demo_works() {
    if !RealSshd::require() {
        return;
    }
    let demo = client_binary().with_file_name("demo");
    let output = Command::new(demo).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("Every step showed what it should"), "{said}");
}

#[test]
fn what_is_left_out_is_still_there() {
    let steps: Vec<Step> = all_steps().into_iter().flatten().collect();
    let starts = NOT_RUN.iter().chain(&NOT_COMPARED).chain(&FAILS).map(|(start, _)| *start);
    for start in starts {
        let is_there = steps.iter().any(|step| step.command.starts_with(start));
        assert!(is_there, "no document has {start} any more: take it from this test");
    }
}

/// Returns the figures of a cell that are marked as measured here.
fn measured(cell: &str) -> Vec<&str> {
    let parts = cell.split([';', ',']).map(str::trim);
    let marked = parts.filter_map(|part| part.split_once(" *").map(|(figure, _)| figure));
    marked.map(|figure| figure.trim_start_matches("back in ")).collect()
}

#[test]
fn the_figures_beside_the_alternatives_are_those_of_the_benchmarks() {
    let benchmarks = docs::text("docs/benchmarks.md");
    let sections = docs::sections(&docs::text("README.md"));
    let section = sections.iter().find(|one| one.heading == "Beside the alternatives").unwrap();
    let figures: Vec<&str> =
        section.rows.iter().flatten().flat_map(|cell| measured(cell)).collect();
    assert!(figures.len() >= 12, "{figures:?}");
    for figure in figures {
        assert!(benchmarks.contains(figure), "{figure} is not in docs/benchmarks.md");
    }
}

/// Returns what a link leads to, and the part of it.
fn links(text: &str) -> Vec<(String, Option<String>)> {
    let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    let own = targets.filter(|target| !target.contains("://"));
    own.map(|target| match target.split_once('#') {
        Some((file, part)) => (file.to_owned(), Some(part.to_owned())),
        None => (target.to_owned(), None),
    })
    .collect()
}

/// Returns the name of a heading in an address.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut documents = vec!["README.md".to_owned(), "ARCHITECTURE.md".to_owned()];
    for entry in fs::read_dir(docs::root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            documents.push(format!("docs/{name}"));
        }
    }
    for document in documents {
        let dir = PathBuf::from(&document).parent().unwrap().to_owned();
        for (file, part) in links(&docs::text(&document)) {
            let path = if file.is_empty() { document.clone().into() } else { dir.join(&file) };
            assert!(docs::root().join(&path).exists(), "{document} leads to {file}");
            let Some(part) = part else { continue };
            let sections = docs::sections(&docs::text(path.to_str().unwrap()));
            let found = sections.iter().any(|section| anchor(&section.heading) == part);
            assert!(found, "{document} leads to {file}#{part}, which is no heading there");
        }
    }
}

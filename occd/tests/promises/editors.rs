//! Editors and status bars work as their files in `editors/` say: in a real Neovim and a real tmux.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::daemon::Target;
use testkit::keys::KeyFile;
use testkit::proc::{Process, Signal};
use testkit::require::{find_program, require};
use testkit::wait::blocking::{try_wait_for, wait_for, wait_until};
use testkit::{DaemonRig, EmbeddedHost, FaultyLink, Terminal};

use crate::ask::GUARD;
use crate::files::{Shared, sshd};

/// Returns what is below `editors`.
fn editors(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../editors").join(path)
}

/// Returns a program in the rig's environment that finds `occ`.
fn program(rig: &DaemonRig, name: &str) -> Command {
    let mut command = Command::new(name);
    let occ = rig.occ(&[]);
    command.env_clear().current_dir(rig.home());
    for (name, value) in occ.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = testkit::daemon::client_binary().parent().unwrap().to_owned();
    let path = std::env::join_paths([own].into_iter().chain(std::env::split_paths(&path)));
    command.env("PATH", path.unwrap()).env("TERM", "xterm");
    command
}

#[test]
fn neovim_shows_hosts_runs_commands_edits_files_and_asks() {
    if !require("Neovim", find_program("nvim").map(drop), "OCC_REQUIRE_TERMINAL") {
        return;
    }
    let Some((sshd, rig)) = sshd() else { return };
    let key = KeyFile::generate_with(rig.home().join(".ssh/locked"), "ed25519", "open sesame");
    let keys = fs::read_to_string(sshd.authorized_keys_path()).unwrap();
    fs::write(sshd.authorized_keys_path(), format!("{keys}{}\n", key.public)).unwrap();
    rig.add_host("locked", &sshd);
    rig.edit_hosts(|file| {
        let config = file.hosts.get_mut("locked").unwrap();
        config.identity_file = Some(key.path.display().to_string());
    });
    let shared = Shared::new();
    let mut nvim = headless(&rig);
    nvim.arg("-S")
        .arg(editors("nvim/test/promise.lua"))
        .env("DIR", shared.path())
        .env("HOST", "h")
        .env("LOCKED", "locked")
        .env("PASSPHRASE", "open sesame");
    let said = runs_to_its_end(&rig, nvim);
    let promises = said.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(promises, 30, "{said}");
}

fn headless(rig: &DaemonRig) -> Command {
    let mut nvim = program(rig, "nvim");
    nvim.args(["--clean", "--headless", "-n"])
        .arg("--cmd")
        .arg(format!("set runtimepath^={}", editors("nvim").display()));
    nvim
}

/// Returns what it said.
fn runs_to_its_end(rig: &DaemonRig, mut nvim: Command) -> String {
    let said = rig.root().join("nvim.log");
    nvim.stdin(Stdio::null())
        .stdout(File::create(rig.root().join("nvim.out")).unwrap())
        .stderr(File::create(&said).unwrap());
    let mut nvim = nvim.spawn().unwrap();
    let ended = try_wait_for(Duration::from_secs(100), || nvim.try_wait().unwrap());
    let said = String::from_utf8_lossy(&fs::read(said).unwrap()).into_owned();
    let Some(status) = ended else {
        let _ = (nvim.kill(), nvim.wait());
        panic!("Neovim hangs:\n{said}");
    };
    assert!(status.success(), "{said}");
    said
}

/// While it ends its jobs, what is asked starts none: for that one it would wait for ever.
#[test]
fn neovim_ends_while_another_job_takes_its_time() {
    if !require("Neovim", find_program("nvim").map(drop), "OCC_REQUIRE_TERMINAL") {
        return;
    }
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    let mut nvim = headless(&rig);
    for line in [
        // `occ api` has ended by then, and whoever lost it asks again.
        "lua vim.fn.jobstart({ 'sh', '-c', 'trap \"sleep 1.5; exit\" TERM; echo; while :; do sleep 0.1; done' }, \
         { on_stdout = function() slow = true end, on_exit = function() require('occ.hosts').follow() end })",
        "lua require('occ.hosts').follow()",
        "lua assert(vim.wait(60000, function() return slow and require('occ.hosts').available() end, 5))",
        "qa!",
    ] {
        nvim.args(["-c", line]);
    }
    runs_to_its_end(&rig, nvim);
}

/// Neovim on a terminal of tmux's.
struct OnScreen<'a>(&'a DaemonRig);

impl<'a> OnScreen<'a> {
    /// Starts it; nothing where one of the two is not there.
    fn start(rig: &'a DaemonRig, arguments: &[&str]) -> Option<Self> {
        for name in ["nvim", "tmux"] {
            let found = find_program(name).map(drop);
            if !require("Neovim and tmux", found, "OCC_REQUIRE_TERMINAL") {
                return None;
            }
        }
        let it = Self(rig);
        let runtime = format!("set runtimepath^={}", editors("nvim").display());
        let nvim = ["nvim", "--clean", "-n", "--cmd", &runtime];
        let size = ["new-session", "-d", "-x", "100", "-y", "24"];
        it.tmux(&[&size, &nvim[..], arguments].concat());
        it.shows("[No Name]");
        Some(it)
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut tmux = program(self.0, "tmux");
        tmux.args(["-u", "-L", "nvim", "-f", "/dev/null"])
            .args(args)
            .env("TMUX_TMPDIR", self.0.root());
        let output = tmux.output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn types(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn shows(&self, what: &str) {
        wait_until(what, GUARD, || self.screen(), |screen| screen.contains(what));
    }
}

impl Drop for OnScreen<'_> {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn neovim_says_on_its_screen_why_a_file_cannot_be_had() {
    let mut rig = DaemonRig::new();
    rig.start_daemon(&[]);
    // Only a few times: Ctrl-C would be the timer's.
    let counts = "command -bar Count call timer_start(20, \
                  {-> execute('let g:n += 1 | redrawstatus')}, {'repeat': 3})";
    let Some(nvim) = OnScreen::start(&rig, &["--cmd", counts]) else { return };
    nvim.types(&[":OccOpen nobody:/etc/hosts", "Enter"]);
    nvim.shows("occ: nobody:/etc/hosts: Host 'nobody' not found.");
    let screen = nvim.screen();
    assert!(screen.contains("occ://nobody//etc/hosts [RO]"), "{screen}");
    // A daemon that says nothing is waited for no longer than somebody likes.
    let daemon = Process::find(rig.daemon_pid()).unwrap();
    daemon.signal(Signal::STOP);
    nvim.types(&[":let g:n = 0 | set statusline=%{g:n}\\ turns", "Enter"]);
    nvim.types(&[":Count | OccOpen local:/etc/hosts", "Enter"]);
    let turns = |screen: &String| {
        let before = screen.split_once(" turns")?.0;
        before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
    };
    wait_until("the editor to go on", GUARD, || nvim.screen(), |screen| turns(screen) >= Some(3));
    nvim.types(&["C-c"]);
    nvim.shows("occ: local:/etc/hosts: Interrupted.");
    daemon.signal(Signal::CONT);
}

/// Returns a host whose key nobody knows, and a daemon that asks whether to trust it.
fn asking() -> (EmbeddedHost, DaemonRig) {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("new", &host);
    fs::write(rig.known_hosts_file(), "").unwrap();
    rig.write_config_toml("[connection]\nstrict_host_key_checking = \"ask\"\n");
    rig.start_daemon(&[]);
    (host, rig)
}

/// Answers the question that waits in a terminal, as soon as it is everybody's.
fn answer_elsewhere(rig: &DaemonRig, how: &str) {
    let id = wait_for("it to be everybody's", GUARD, || {
        let waiting = rig.occ_ok(&["prompts", "--json"]);
        let waiting: serde_json::Value = serde_json::from_str(&waiting).unwrap();
        waiting["prompts"][0]["id"].as_u64()
    });
    rig.occ_ok(&["prompts", how, &id.to_string()]);
}

#[test]
fn neovim_takes_no_answer_for_one_and_asks_again() {
    let (_host, rig) = asking();
    let Some(nvim) = OnScreen::start(&rig, &[]) else { return };
    let question = "Trust it (yes/no):";
    // The file is read in the command that asks, or in a later one.
    nvim.types(&[":OccOpen new:/etc/hosts", "Enter"]);
    nvim.shows(question);
    nvim.types(&["C-c"]);
    nvim.shows("the answer was declined");
    assert!(!nvim.screen().contains("traceback"), "{}", nvim.screen());
    nvim.types(&["Enter", ":edit", "Enter"]);
    nvim.shows(question);
    // What somebody has answered elsewhere is asked no more.
    answer_elsewhere(&rig, "--deny");
    let gone = |screen: &String| !screen.contains(question);
    wait_until("the question to go", GUARD, || nvim.screen(), gone);
    // What somebody is typing meanwhile is no answer.
    nvim.types(&[
        "Enter",
        ":OccExec new -- echo ran",
        "Enter",
        "i",
        "yes",
        "Enter",
        "yes",
        "Enter",
    ]);
    let asked = || rig.log().matches("somebody is asked").count();
    wait_until("the question", GUARD, asked, |count| *count == 3);
    nvim.types(&["yes", "Enter", "here"]);
    nvim.shows("here");
    assert!(!nvim.screen().contains(question), "{}", nvim.screen());
    nvim.types(&["Escape"]);
    nvim.shows(question);
    assert_eq!(fs::read_to_string(rig.known_hosts_file()).unwrap(), "");
    nvim.types(&["C-c"]);
    nvim.shows("the answer was declined");
    // Nor what is typed while the editor stands still: it comes behind that.
    nvim.types(&["Enter", ":bwipeout!", "Enter", ":edit", "Enter", "iTYPED"]);
    // For longer than it takes until it would be asked.
    for _ in 0..20 {
        nvim.types(&[" — À", "Left", "!"]);
    }
    nvim.shows(question);
    assert!(!nvim.screen().contains("TYPED"), "{}", nvim.screen());
    nvim.types(&["yes", "Enter"]);
    nvim.shows(&format!("TYPED{}", " — !".repeat(20)));
    nvim.shows("localhost");
}

#[test]
fn neovim_keeps_a_question_through_the_failure_of_something_else() {
    let hosts = [EmbeddedHost::start(), EmbeddedHost::start(), EmbeddedHost::start()];
    let link = FaultyLink::start(hosts[1].addr());
    let mut rig = DaemonRig::new();
    rig.add_host("new", &hosts[0]);
    rig.add_host("third", &hosts[2]);
    rig.add_host("far", Target::from(&hosts[1]).through(&link));
    fs::write(rig.known_hosts_file(), "").unwrap();
    rig.write_config_toml("[connection]\nstrict_host_key_checking = \"ask\"\n");
    rig.start_daemon(&[]);
    let Some(nvim) = OnScreen::start(&rig, &[]) else { return };
    let question = "Trust it (yes/no):";
    nvim.types(&[":OccExec far -- echo begun; sleep 1000", "Enter"]);
    nvim.shows(question);
    nvim.types(&["yes", "Enter"]);
    nvim.shows("begun");
    nvim.types(&[":OccExec new -- echo ran", "Enter"]);
    nvim.shows(question);
    nvim.types(&["ye"]);
    nvim.shows("(yes/no): ye");
    // That is told, and what was being typed is an answer all the same.
    link.refuse(true);
    link.reset_all();
    nvim.shows("occ: far: ");
    nvim.types(&["s", "Enter"]);
    let ran = |screen: &String| screen.lines().any(|line| line.trim() == "ran");
    wait_until("the command to run", GUARD, || nvim.screen(), ran);
    // So is the end of the daemon, with which its questions go.
    nvim.types(&[":OccExec third -- echo never", "Enter"]);
    nvim.shows(question);
    Process::find(rig.daemon_pid()).unwrap().signal(Signal::KILL);
    nvim.shows("occd went away before the end");
    let is_taken_back = |screen: &String| !screen.contains(question);
    wait_until("the question to go", GUARD, || nvim.screen(), is_taken_back);
}

#[test]
fn neovim_shows_what_must_be_answered_elsewhere_while_a_file_is_written() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("new", &host);
    rig.write_config_toml(
        "[policy]\nask_timeout = \"10m\"\n[[policy.rules]]\nwhat = [\"write\"]\naction = \"ask\"\n",
    );
    rig.start_daemon(&[]);
    let file = rig.root().join("file");
    fs::write(&file, "before\n").unwrap();
    let Some(nvim) = OnScreen::start(&rig, &[]) else { return };
    nvim.types(&[&format!(":OccOpen new:{}", file.display()), "Enter"]);
    nvim.shows("before");
    nvim.types(&["ccafter", "Escape", ":w", "Enter"]);
    // It is drawn while the editor stands still.
    nvim.shows("occ prompts --allow ");
    answer_elsewhere(&rig, "--allow");
    wait_until("the file", GUARD, || fs::read_to_string(&file).unwrap(), |text| text == "after\n");
}

#[test]
fn neovim_draws_a_question_once_and_asks_again_after_a_slip() {
    let (_host, rig) = asking();
    let Some(nvim) = OnScreen::start(&rig, &[]) else { return };
    nvim.tmux(&["resize-window", "-x", "50", "-y", "24"]);
    nvim.types(&[":OccOpen new:/etc/hosts", "Enter"]);
    nvim.shows("Trust it");
    nvim.shows("(yes/no):");
    assert_eq!(nvim.screen().matches("The server shows").count(), 1, "{}", nvim.screen());
    nvim.types(&["ys", "Enter"]);
    nvim.shows("Type yes or no");
    nvim.types(&["yes", "Enter"]);
    nvim.shows("localhost");
}

/// Nobody is to trust a key that was never on the screen.
#[test]
fn neovim_shows_a_question_page_by_page_where_it_has_no_room() {
    let (_host, rig) = asking();
    let Some(nvim) = OnScreen::start(&rig, &[]) else { return };
    nvim.tmux(&["resize-window", "-x", "30", "-y", "5"]);
    let file = rig.root().join("file");
    fs::write(&file, "text\n").unwrap();
    nvim.types(&[&format!(":OccOpen new:{}", file.display()), "Enter"]);
    let mut seen = String::new();
    for _ in 0..20 {
        wait_until(
            "a page",
            GUARD,
            || nvim.screen(),
            |screen| screen.contains("-- More --") || screen.contains("(yes/no):"),
        );
        let screen = nvim.screen();
        seen.push_str(&screen);
        if screen.contains("(yes/no):") {
            break;
        }
        nvim.types(&["Space"]);
        wait_until("another page", GUARD, || nvim.screen(), |other| *other != screen);
    }
    for words in ["[new]", "SHA256:", "(yes/no):"] {
        assert!(seen.contains(words), "{words}: {seen}");
    }
    nvim.types(&["yes", "Enter"]);
    nvim.shows("text");
}

#[test]
fn neovim_tells_of_a_host_key_that_was_recorded() {
    let host = EmbeddedHost::start();
    let mut rig = DaemonRig::new();
    rig.add_host("new", &host);
    fs::write(rig.known_hosts_file(), "").unwrap();
    rig.start_daemon(&[]);
    let Some(nvim) = OnScreen::start(&rig, &[]) else { return };
    nvim.types(&[":OccOpen new:/etc/hosts", "Enter"]);
    nvim.shows("localhost");
    nvim.shows("occ: recorded: new SHA256:");
}

#[test]
fn neovim_asks_in_its_command_line_where_a_window_could_not_be_typed_into() {
    let hosts = [EmbeddedHost::start(), EmbeddedHost::start()];
    let mut rig = DaemonRig::new();
    rig.add_host("new", &hosts[0]);
    rig.add_host("other", &hosts[1]);
    fs::write(rig.known_hosts_file(), "").unwrap();
    rig.write_config_toml("[connection]\nstrict_host_key_checking = \"ask\"\n");
    rig.start_daemon(&[]);
    // As with plugins that open a window, whose answer comes later.
    let later = "lua vim.ui.input = function(_, done) vim.g.n = 1; Answer = done end";
    let Some(nvim) = OnScreen::start(&rig, &["--cmd", later]) else { return };
    nvim.types(&[":OccOpen new:/etc/hosts", "Enter"]);
    nvim.shows("Trust it (yes/no):");
    nvim.types(&["yes", "Enter"]);
    nvim.shows("localhost");
    // Elsewhere it is asked in that window. What is typed beside it stays when the question is taken back.
    nvim.types(&[":set statusline=%{get(g:,'n')}\\ asked", "Enter"]);
    nvim.types(&[":OccExec other -- true", "Enter"]);
    nvim.shows("1 asked");
    nvim.types(&[":let g:x = 'one"]);
    nvim.shows(":let g:x = 'one");
    answer_elsewhere(&rig, "--deny");
    nvim.shows("occ: other: ");
    nvim.types(&[" line' | echo 'got' g:x", "Enter"]);
    nvim.shows("got one line");
    // An answer there comes too late.
    nvim.types(&["Enter", ":lua Answer('yes')", "Enter"]);
    nvim.shows("does not ask that any more");
    assert_eq!(fs::read_to_string(rig.known_hosts_file()).unwrap().lines().count(), 1);
}

#[test]
fn neovim_asks_again_for_the_next_daemon() {
    let (_host, rig) = asking();
    let Some(nvim) = OnScreen::start(&rig, &[]) else { return };
    nvim.types(&[":OccOpen new:/etc/hosts", "Enter"]);
    nvim.shows("Trust it (yes/no):");
    Process::find(rig.daemon_pid()).unwrap().signal(Signal::KILL);
    let asked = || rig.log().matches("somebody is asked").count();
    wait_until("the question of the next", GUARD, asked, |count| *count == 2);
    let answered = || {
        nvim.types(&["yes", "Enter"]);
        try_wait_for(Duration::from_secs(2), || nvim.screen().contains("localhost").then_some(()))
    };
    wait_for("the file", GUARD, answered);
}

#[test]
fn neovim_shows_a_question_also_as_it_leaves() {
    let (_host, rig) = asking();
    let Some(nvim) = OnScreen::start(&rig, &[]) else { return };
    let file = rig.root().join("file");
    fs::write(&file, "before\n").unwrap();
    nvim.types(&[&format!(":OccOpen new:{}", file.display()), "Enter"]);
    nvim.shows("Trust it (yes/no):");
    nvim.types(&["yes", "Enter"]);
    nvim.shows("before");
    for leaves in [":wq", ":x"] {
        fs::write(rig.known_hosts_file(), "").unwrap();
        rig.occ_ok(&["daemon", "restart"]);
        nvim.types(&["ccafter", "Escape", leaves, "Enter"]);
        nvim.shows("Trust it (yes/no):");
        assert!(nvim.screen().contains("SHA256:"), "{}", nvim.screen());
        nvim.types(&["no", "Enter"]);
        nvim.shows("declined");
        nvim.types(&["Enter", "Enter"]);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "before\n");
}

/// What the remote end of a Neovim with `--listen` says to an expression.
fn evaluated(nvim: &OnScreen<'_>, socket: &Path, expression: &str) -> String {
    let mut remote = program(nvim.0, "nvim");
    remote.arg("--server").arg(socket).args(["--remote-expr", expression]);
    let output = remote.output().unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn neovim_keeps_a_question_whole_whatever_becomes_of_other_hosts() {
    let (_host, rig) = asking();
    let other = EmbeddedHost::start();
    rig.add_host("other", &other);
    let socket = rig.root().join("nvim.sock");
    let listen = socket.display().to_string();
    let Some(nvim) = OnScreen::start(&rig, &["--listen", &listen]) else { return };
    nvim.types(&[":set laststatus=2 statusline=%{v:lua.require'occ'.status()}", "Enter"]);
    nvim.shows("occ: 0/2");
    // Others draw their status line whenever they like.
    nvim.types(&[":call timer_start(20, {-> execute('redrawstatus!')}, {'repeat': -1})", "Enter"]);
    nvim.types(&[":OccOpen new:/etc/hosts", "Enter"]);
    nvim.shows("Trust it (yes/no):");
    rig.occ_ok(&["connect", "--host", "other"]);
    let status = || evaluated(&nvim, &socket, "luaeval('require(\"occ\").status()')");
    wait_until("the change", GUARD, status, |status| status.contains("1/2"));
    // By now what it has led to has happened.
    status();
    let screen = nvim.screen();
    assert!(screen.contains("SHA256:") && screen.contains("new"), "{screen}");
    nvim.types(&["yes", "Enter"]);
    nvim.shows("localhost");
    nvim.shows("new connected");
    assert!(!nvim.screen().contains("Trust it"), "{}", nvim.screen());
}

#[test]
fn neovim_asks_aloud_also_where_a_command_is_to_be_silent() {
    let (_host, rig) = asking();
    let Some(nvim) = OnScreen::start(&rig, &[]) else { return };
    nvim.types(&[":silent! edit occ://new//etc/hosts", "Enter"]);
    nvim.shows("Trust it (yes/no):");
    let screen = nvim.screen();
    assert!(screen.contains("SHA256:"), "{screen}");
    nvim.types(&["yes", "Enter"]);
    nvim.shows("localhost");
}

#[test]
fn neovim_runs_no_answer_to_a_question_that_was_taken_back() {
    let (_host, rig) = asking();
    let runs = "nnoremap x :let g:ran = 'it'<CR>";
    let Some(nvim) = OnScreen::start(&rig, &["--cmd", runs]) else { return };
    nvim.types(&[":OccExec new -- echo ran", "Enter"]);
    nvim.shows("Trust it (yes/no):");
    nvim.types(&["x"]);
    nvim.shows("(yes/no): x");
    answer_elsewhere(&rig, "--deny");
    // Somebody goes on to type as it goes.
    for _ in 0..40 {
        nvim.types(&["x"]);
    }
    // What comes after a pause is meant.
    let said = wait_for("the editor", GUARD, || {
        nvim.types(&["Escape", ":echo get(g:, 'ran', 'nothing') . ' ran'", "Enter"]);
        try_wait_for(Duration::from_secs(2), || {
            let screen = nvim.screen();
            ["it ran", "nothing ran"].into_iter().find(|said| screen.contains(said))
        })
    });
    assert_eq!(said, "nothing ran");
}

#[test]
fn neovim_says_what_fails_in_a_window_of_somebodys_own() {
    let (_host, rig) = asking();
    let fails = "lua vim.ui.input = function() error('boom') end";
    let Some(nvim) = OnScreen::start(&rig, &["--cmd", fails]) else { return };
    nvim.types(&[":OccExec new -- true", "Enter"]);
    nvim.shows("the answer was declined");
    nvim.types(&["Enter", ":messages", "Enter"]);
    nvim.shows("boom");
}

#[test]
fn tmux_shows_how_many_hosts_are_connected() {
    if !require("tmux", find_program("tmux").map(drop), "OCC_REQUIRE_TERMINAL") {
        return;
    }
    let Some((_sshd, rig)) = sshd() else { return };
    let mut tmux = program(&rig, "tmux");
    tmux.args(["-L", "bar", "-f"]).arg(editors("tmux/occ.conf"));
    tmux.args(["new-session", "exec sleep 1000"]).env("TMUX_TMPDIR", rig.root());
    let mut terminal = Terminal::control(&tmux, "");
    terminal.resize(24, 120);
    rig.occ_ok(&["connect", "--host", "h"]);
    terminal.wait_for("1 host: 1 connected");
    rig.occ_ok(&["daemon", "stop"]);
    terminal.wait_for("occ off");
    assert_eq!(rig.run_occ(&["daemon", "status"]).code(), 3);
    let mut end = program(&rig, "tmux");
    end.args(["-L", "bar", "kill-server"]).env("TMUX_TMPDIR", rig.root());
    assert!(end.status().unwrap().success());
    terminal.finish();
}

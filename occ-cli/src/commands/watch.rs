//! `occ status --watch`: the same again whenever something changes.
//!
//! The daemon is asked for its memory and answers when something in it is another, with one request whatever the number
//! of hosts: it has nothing to do while nothing changes. Nobody is dialled for that. This machine's own Docker is asked
//! once a second.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use occ_proto::HostName;
use occ_proto::container::ContainerStatus;
use occ_proto::status::{HostList, HostStatus, State};
use occ_proto::text::sanitize;
use rustix::stdio::stdout;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::Context;
use super::group::{Selection, of_host};
use crate::autostart::Start;
use crate::client::Client;
use crate::error::{CliError, DAEMON, DAEMON_INCOMPATIBLE, NOT_OCCD};
use crate::output::{Ui, host as show, json, rows, write_stdout};
use crate::target::Target;
use crate::terminal::{foreground, is_in_background, set_modes};

/// How often times that pass are shown anew; this machine's Docker is asked; a daemon that is away is looked for.
const EVERY: Duration = Duration::from_secs(1);
/// How long the daemon has nothing to answer at most. What is no change, such as a round trip, is seen as often.
const WAIT: Duration = Duration::from_secs(60);
/// How much longer than that an answer may take.
const LATE: Duration = Duration::from_secs(10);
/// How long after an answer the next is asked for, so that what changes all the time is seen ten times a second.
const PACE: Duration = Duration::from_millis(100);

/// Takes the whole screen: the alternate one, without a cursor and with lines cut off at the edge (xterm's control
/// sequences, DECSET 1049, 25 and 7).
const TAKE: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l";
/// Gives it back as it was.
const GIVE_BACK: &[u8] = b"\x1b[?7h\x1b[?25h\x1b[?1049l";

/// What is watched.
enum Watched {
    One(HostName),
    Many(Selection),
    /// This machine's own Docker, which has no link.
    Local,
}

/// What is seen of it at one time.
enum Seen {
    Hosts(HostList, serde_json::Value),
    /// The sandbox of this machine, or why it cannot be seen.
    Local(Result<(Box<ContainerStatus>, serde_json::Value), String>),
}

impl Watched {
    async fn of(context: &Context<'_>, client: &Client) -> Result<Self, CliError> {
        if let Some(selection) = &context.selection {
            return Ok(Self::Many(selection.clone()));
        }
        Ok(match Target::resolve(context.named.clone(), client).await? {
            Target::Host(host, _) => Self::One(host),
            Target::Unset => Self::Many(Selection::All),
            Target::Local => Self::Local,
        })
    }

    /// Leaves only what is watched in the list.
    fn narrow(&self, list: &mut HostList) -> Result<(), CliError> {
        match self {
            Self::Many(selection) => selection.narrow(list),
            Self::One(name) => {
                list.hosts.append(&mut list.via);
                list.hosts.retain(|host| host.name == *name);
                match list.hosts.is_empty() {
                    true => Err(CliError::host_not_found(name)),
                    false => Ok(()),
                }
            }
            Self::Local => Ok(()),
        }
    }
}

/// Runs `occ status --watch` until a signal ends it.
pub(super) async fn run(context: &Context<'_>) -> Result<u8, CliError> {
    let client = context.client().await?;
    let watched = Watched::of(context, &client).await?;
    // In the background of a terminal the screen is another's.
    let screen = context.ui.stdout_terminal && !context.ui.json && !is_in_background(stdout());
    let following = async {
        match screen {
            true => on_screen(context.ui, &client, &watched).await,
            false => by_line(context.ui, &client, &watched).await,
        }
    };
    tokio::select! {
        biased;
        // It is how watching ends.
        ended = crate::terminal::following_ended() => Ok(ended.exit),
        failed = following => failed.map(|never| match never {}),
    }
}

/// Runs `occ status --watch --summary` until a signal ends it, also while there is no daemon.
pub(super) async fn summary(context: &Context<'_>) -> Result<u8, CliError> {
    if context.ui.json {
        return Err(CliError::usage("--summary has no --json: occ events --json has every change"));
    }
    let watched = Watched::Many(context.selection.clone().unwrap_or(Selection::All));
    let following = async {
        let mut shown = String::new();
        // Whoever stops it meanwhile wants it stopped.
        let mut start = Start::IfNeeded;
        loop {
            let client = Client::open(context, start).await;
            start = Start::Never;
            let failed = match client {
                Ok(client) => in_short(context.ui, &client, &watched, &mut shown).await?,
                Err(error) => error,
            };
            if !may_come_back(&failed) {
                return Err(failed);
            }
            tell(context.ui, &mut shown, "occ off")?;
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::select! {
        biased;
        // It is how watching ends.
        ended = crate::terminal::following_ended() => Ok(ended.exit),
        failed = following => failed,
    }
}

/// Tells how many hosts are connected until they cannot be looked at, and returns why.
async fn in_short(
    ui: &Ui,
    client: &Client,
    watched: &Watched,
    shown: &mut String,
) -> Result<CliError, CliError> {
    let mut looks = Looks::new(client, watched);
    loop {
        let (later, seen) = looks.next().await;
        looks = later;
        match seen {
            Ok(seen) => {
                let text = picture(ui, watched, &seen);
                tell(ui, shown, text.lines().last().unwrap_or_default())?;
            }
            Err(error) => return Ok(error),
        }
    }
}

/// Tells a line that is another one than the last.
fn tell(ui: &Ui, shown: &mut String, line: &str) -> Result<(), CliError> {
    if shown != line {
        line.clone_into(shown);
        ui.print(&format!("{line}\n"))?;
    }
    Ok(())
}

/// One look after the other, each as soon as there is something new.
struct Looks<'a> {
    client: &'a Client,
    watched: &'a Watched,
    /// What was seen last, if it was the daemon's memory.
    revision: Option<u64>,
    /// When the next look is at the earliest.
    not_before: Instant,
}

impl<'a> Looks<'a> {
    fn new(client: &'a Client, watched: &'a Watched) -> Self {
        Self { client, watched, revision: None, not_before: Instant::now() }
    }

    /// Looks. It comes back with what is seen, so that it can be waited for beside other things.
    async fn next(mut self) -> (Self, Result<Seen, CliError>) {
        sleep_until(self.not_before).await;
        let (begun, before) = (Instant::now(), self.revision.take());
        let seen = match self.watched {
            Watched::Local => self.local().await,
            Watched::One(_) | Watched::Many(_) => self.hosts(before).await,
        };
        if let Ok(Seen::Hosts(list, _)) = &seen {
            self.revision = Some(list.revision);
        }
        // An older daemon does not wait for a change.
        let is_new = self.revision.is_some() && self.revision != before;
        let pause = if is_new || begun.elapsed() >= EVERY { PACE } else { EVERY };
        self.not_before = Instant::now() + if seen.is_ok() { pause } else { EVERY };
        (self, seen)
    }

    async fn local(&self) -> Result<Seen, CliError> {
        match self.client.get_slow("/v1/hosts/local/container").await {
            Ok(reply) => Ok(Seen::Local(Ok((Box::new(reply.parse()?), reply.parse()?)))),
            // Docker's troubles are part of what is seen.
            Err(error) if error.daemon_code().is_some() => Ok(Seen::Local(Err(error.message))),
            Err(error) => Err(error),
        }
    }

    async fn hosts(&self, before: Option<u64>) -> Result<Seen, CliError> {
        let later = async {
            let path = format!("/v1/hosts?since={}&wait={}s", before?, WAIT.as_secs());
            timeout(WAIT + LATE, self.client.get_once(&path)).await.ok()
        };
        let reply = match later.await {
            Some(reply) => reply?,
            // Nothing has been seen yet; or the daemon may be stuck.
            None => self.client.get_once_from_memory("/v1/hosts").await?,
        };
        let mut list: HostList = reply.parse()?;
        self.watched.narrow(&mut list)?;
        Ok(Seen::Hosts(list, reply.parse()?))
    }
}

/// Returns whether the daemon is away, and may be there again a moment later.
fn may_come_back(error: &CliError) -> bool {
    error.exit == DAEMON && ![DAEMON_INCOMPATIBLE, NOT_OCCD].contains(&error.code.as_str())
}

fn away(error: &CliError) -> String {
    format!("{}. It is tried again.", error.message.trim_end_matches('.'))
}

/// The screen, for as long as it is ours.
struct Screen {
    shown: String,
    /// The terminal's modes as they were; nothing where they cannot be known.
    before: Option<Termios>,
}

impl Screen {
    fn take() -> Result<Self, CliError> {
        let screen = Self { shown: String::new(), before: tcgetattr(stdout()).ok() };
        screen.begin()?;
        Ok(screen)
    }

    fn begin(&self) -> Result<(), CliError> {
        if let Some(before) = &self.before {
            let mut ours = before.clone();
            // What is typed is not for the screen; and Ctrl-C must not throw away what gives it back.
            ours.local_modes.remove(LocalModes::ECHO);
            ours.local_modes.insert(LocalModes::NOFLSH);
            set(&ours);
        }
        write_stdout(TAKE)
    }

    /// Gives the screen back, with a text on it.
    fn end(&self, text: &str) -> Result<(), CliError> {
        let given = write_stdout(&[GIVE_BACK, text.as_bytes()].concat());
        if let Some(before) = &self.before {
            set(before);
        }
        given
    }

    /// Shows a text, as much of it as there is room for. In one piece and without clearing first, so that nothing
    /// flickers.
    fn show(&mut self, text: &str, anew: bool) -> Result<(), CliError> {
        if !anew && text == self.shown {
            return Ok(());
        }
        self.shown = text.to_owned();
        let rows = tcgetwinsize(stdout()).map_or(0, |size| usize::from(size.ws_row));
        // One that does not know its size is taken for a long one.
        let rows = if rows == 0 { usize::MAX } else { rows };
        let lines: Vec<&str> = text.lines().collect();
        let fits = lines.len() <= rows;
        let room = if fits { rows } else { rows.saturating_sub(1) };
        let mut shown: Vec<String> =
            lines.iter().take(room).map(|line| format!("{line}\x1b[K")).collect();
        if !fits {
            shown.push(format!("… {} more lines\x1b[K", lines.len() - room));
        }
        write_stdout(format!("\x1b[H{}\x1b[J", shown.join("\r\n")).as_bytes())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What was seen last stays where it can be scrolled to. A terminal that is gone needs nothing.
        let _ = self.end(&self.shown);
    }
}

/// Sets the terminal's modes. Without them the screen is not as tidy, and nothing else.
fn set(modes: &Termios) {
    let _ = set_modes(stdout(), OptionalActions::Now, modes);
}

/// Nothing: following has no end of its own.
enum Never {}

async fn on_screen(ui: &Ui, client: &Client, watched: &Watched) -> Result<Never, CliError> {
    let failed = |error| CliError::failed(format!("signals cannot be caught: {error}"));
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let stop = SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw());
    let mut stopped = signal(stop).map_err(failed)?;
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Before the screen is taken, so that what is wrong is read where it was asked.
    let (looks, first) = Looks::new(client, watched).next().await;
    let (mut seen, mut trouble) = (first?, None);
    let mut looking = Box::pin(looks.next());
    let mut screen = Screen::take()?;
    loop {
        enum Event<'a> {
            Tick,
            Seen(Looks<'a>, Box<Result<Seen, CliError>>),
            Resized,
            Stopped,
        }
        let event = tokio::select! {
            biased;
            _ = stopped.recv() => Event::Stopped,
            _ = resized.recv() => Event::Resized,
            (looks, seen) = &mut looking => Event::Seen(looks, Box::new(seen)),
            _ = tick.tick() => Event::Tick,
        };
        let anew = matches!(event, Event::Stopped | Event::Resized);
        match event {
            Event::Tick | Event::Resized => {}
            Event::Seen(looks, now) => {
                looking.set(looks.next());
                trouble = None;
                match *now {
                    Ok(now) => seen = now,
                    Err(error) if may_come_back(&error) => trouble = Some(away(&error)),
                    Err(error) => return Err(error),
                }
            }
            Event::Stopped => {
                screen.end("")?;
                let own = rustix::process::getpid();
                rustix::process::kill_process(own, rustix::process::Signal::STOP)
                    .map_err(|error| CliError::failed(format!("occ cannot be stopped: {error}")))?;
                // Here it goes on, and not before it may have the screen.
                foreground(&stdout()).await;
                screen.begin()?;
            }
        }
        let mut text = picture(ui, watched, &seen);
        if let Some(trouble) = &trouble {
            text.push_str(&format!("\n{trouble}\n"));
        }
        screen.show(&text, anew)?;
    }
}

/// Returns what is to be seen.
fn picture(ui: &Ui, watched: &Watched, seen: &Seen) -> String {
    let now = Timestamp::now();
    let list = match seen {
        Seen::Hosts(list, _) => list,
        Seen::Local(Ok((sandbox, _))) => {
            let lines = show::sandbox(ui, None, sandbox, now);
            return lines.iter().map(|line| format!("{line}\n")).collect();
        }
        Seen::Local(Err(why)) => return format!("Sandbox   ○ unknown    {why}\n"),
    };
    match (watched, list.hosts.first()) {
        (Watched::One(_), Some(status)) => {
            let mut lines = vec![show::link(ui, status, now, false)];
            lines.extend(super::status::remembered(ui, status, now).0);
            lines.iter().map(|line| format!("{line}\n")).collect()
        }
        _ => show::table(ui, list, now, ui.verbose == 0),
    }
}

/// What of a host is looked at for changes.
#[derive(Debug, Clone, PartialEq)]
struct Look {
    link: (State, Timestamp, String),
    sandbox: Option<String>,
}

impl Look {
    fn at(status: &HostStatus) -> Self {
        let note = rows::note(status);
        Self { link: (status.state, status.since, note), sandbox: rows::sandbox_word(status) }
    }

    /// Returns the lines about what is not as it was.
    fn changes(&self, host: &HostName, before: Option<&Self>, now: Timestamp) -> Vec<String> {
        let mut lines = Vec::new();
        let (state, since, note) = &self.link;
        if before.is_none_or(|before| before.link != self.link) {
            // The time of the change itself; of a new reason in the same state, when it was seen.
            let same = before.is_some_and(|before| before.link.1 == *since);
            let at = second(if same { now } else { *since });
            let note = if note.is_empty() { String::new() } else { format!(": {note}") };
            lines.push(format!("[{host}] {at} {}{note}\n", state.as_str()));
        }
        let sandbox_before = before.map(|before| &before.sandbox);
        if let Some(word) = &self.sandbox
            && sandbox_before != Some(&self.sandbox)
        {
            lines.push(format!("[{host}] {} sandbox {word}\n", second(now)));
        }
        lines
    }
}

fn second(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

async fn by_line(ui: &Ui, client: &Client, watched: &Watched) -> Result<Never, CliError> {
    let mut looks = Looks::new(client, watched);
    let mut before: BTreeMap<HostName, Look> = BTreeMap::new();
    let mut local_before: Option<String> = None;
    let mut is_away = false;
    loop {
        let (later, seen) = looks.next().await;
        looks = later;
        let seen = match seen {
            // One that was there when the watching began; whoever starts it again wants it watched.
            Err(error)
                if may_come_back(&error) && (!before.is_empty() || local_before.is_some()) =>
            {
                if !is_away {
                    ui.note(&away(&error));
                }
                is_away = true;
                continue;
            }
            seen => seen?,
        };
        is_away = false;
        let now = Timestamp::now();
        let (list, document) = match seen {
            Seen::Hosts(list, document) => (list, document),
            Seen::Local(seen) => {
                let word = match &seen {
                    Ok((sandbox, _)) => rows::container_word(sandbox),
                    Err(why) => format!("unknown: {}", sanitize(why)),
                };
                if local_before.as_ref() != Some(&word) {
                    ui.print(&match (ui.json, &seen) {
                        (false, _) => format!("{} sandbox {word}\n", second(now)),
                        (true, Ok((_, document))) => json::line(&document.to_string()),
                        (true, Err(why)) => {
                            json::line(&serde_json::json!({ "error": why }).to_string())
                        }
                    })?;
                    local_before = Some(word);
                }
                continue;
            }
        };
        let mut text = String::new();
        for status in list.hosts.iter().chain(&list.via) {
            let (host, look) = (&status.name, Look::at(status));
            let lines = look.changes(host, before.get(host), now);
            if ui.json && !lines.is_empty() {
                text.push_str(&of_host(host, &own_document(&document, host)));
            } else {
                text.extend(lines);
            }
            before.insert(host.clone(), look);
        }
        let is_there =
            |host: &HostName| list.hosts.iter().chain(&list.via).any(|other| other.name == *host);
        before.retain(|host, _| {
            let stays = is_there(host);
            if !stays {
                let gone = serde_json::json!({ "host": host, "removed": true }).to_string();
                text.push_str(&match ui.json {
                    true => json::line(&gone),
                    false => format!("[{host}] {} removed\n", second(now)),
                });
            }
            stays
        });
        if !text.is_empty() {
            ui.print(&text)?;
        }
    }
}

/// Returns the daemon's own document about a host.
fn own_document(list: &serde_json::Value, name: &HostName) -> Vec<u8> {
    let hosts = ["hosts", "via"].iter().filter_map(|key| list.get(key)?.as_array()).flatten();
    let mut hosts = hosts;
    let own =
        hosts.find(|host| host.get("name").and_then(|name| name.as_str()) == Some(name.as_str()));
    own.map_or_else(Vec::new, |host| host.to_string().into_bytes())
}

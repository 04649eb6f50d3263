//! Completion: what may stand where the cursor is.
//!
//! The scripts in `sh/` are all that a shell has of it; each asks `occ __complete` at every TAB. It reads the
//! grammar that `cli` has, asks the running daemon for names, and starts none. Whatever goes wrong, nothing is
//! offered and nothing is said: an error's text on the line that somebody is typing helps nobody.

mod line;
mod names;

use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory as _};
use occ_proto::HostName;

use crate::cli::{Cli, Shell};
use crate::spot::Spot;
use line::Line;
use names::{Kind, Names};

/// The word that the scripts call `occ` with. No command can have it: commands are words of a person.
pub(crate) const WORD: &str = "__complete";

/// What may stand at the cursor.
#[derive(Debug, Default)]
struct Answer {
    /// Words and what they are.
    words: Vec<(String, String)>,
    /// Files of this machine may stand there, too.
    files: Option<Files>,
}

/// Where in a word a file of this machine may stand.
#[derive(Debug)]
struct Files {
    /// Behind so many bytes.
    before: usize,
    /// What has a colon before any slash is a host's.
    or_of_hosts: bool,
}

/// Returns the script for a shell.
pub(crate) fn script(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("sh/occ.bash"),
        Shell::Zsh => include_str!("sh/_occ"),
        Shell::Fish => include_str!("sh/occ.fish"),
    }
}

/// Answers a shell. For bash: the line up to the cursor, and where bash divides words. For the others: the
/// words before the cursor's, `occ` the first, and what stands before the cursor of its own word.
///
/// The answer's first line is `files` or `words`: whether the shell is to offer files of this machine, too. Each
/// other line is a word and, for shells that show it, a tab and what it is. No space follows a word that ends in `:`, `=`
/// or `/`. bash puts what it is given into the line as it is: its words are quoted, and the files among them.
pub(crate) fn answer(args: &[String]) -> String {
    let (line, is_bash) = match args {
        [shell, line, breaks, ..] if shell == "bash" => (Line::split(line, breaks), true),
        [_, words @ .., current] => (Line::of_words(words.to_vec(), current.clone()), false),
        _ => return String::new(),
    };
    let current = &line.current;
    let mut answer = at(line.words.get(1..).unwrap_or_default(), current);
    // bash knows what it puts in the place of a variable, and quotes files itself where nothing else is offered.
    if let Some(wanted) = answer.files.take_if(|_| is_bash && !line.is_bashs_own()) {
        let home = if line.is_at_home() { std::env::home_dir() } else { None };
        let mut found = files(current, wanted.before, home.as_deref());
        let is_a_hosts = |word: &str| wanted.or_of_hosts && Spot::names_its_place(word.as_ref());
        found.retain(|(word, _)| !is_a_hosts(word));
        answer.words.extend(found);
    }
    answer.words.retain(|(word, _)| word.starts_with(current.as_str()));
    let mut text = String::from(if answer.files.is_some() { "files\n" } else { "words\n" });
    for (word, what) in &answer.words {
        // A name in a file that nobody has validated could break the line.
        if word.contains(['\n', '\t', '\r']) {
            continue;
        }
        if is_bash {
            text.push_str(&line.put(word));
        } else {
            text.push_str(word);
            let what = what.lines().next().unwrap_or_default();
            if !what.is_empty() {
                text.push('\t');
                text.push_str(&occ_proto::text::sanitize(what));
            }
        }
        text.push('\n');
    }
    text
}

/// Returns the files of this machine that a word may go on to, whose first `before` bytes are no path: directories with a
/// slash. `home` is what `~` at its start means.
fn files(word: &str, before: usize, home: Option<&Path>) -> Vec<(String, String)> {
    let (before, path) = word.split_at_checked(before).unwrap_or_default();
    let (dir, begun) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
    let at = match (home, dir) {
        (Some(home), dir) => home.join(dir.trim_start_matches('~').trim_start_matches('/')),
        (None, "") => PathBuf::from("."),
        (None, dir) => PathBuf::from(dir),
    };
    let listed = std::fs::read_dir(at);
    let mut files: Vec<(String, String)> = listed
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let slash = if entry.path().is_dir() { "/" } else { "" };
            let is_meant = name.starts_with(begun);
            is_meant.then(|| (format!("{before}{dir}{name}{slash}"), String::new()))
        })
        .collect();
    files.sort();
    files
}

/// The command line up to the cursor, as far as it has been understood.
struct Place {
    /// Its grammar.
    command: Command,
    /// Its name, such as `host edit`.
    path: Vec<String>,
    /// How many of its positional arguments are there.
    positionals: usize,
    /// The option whose value comes next.
    option: Option<Arg>,
    /// Options are none any more: `--`, or another program's words.
    raw: bool,
    /// `--socket`.
    socket: Option<PathBuf>,
    /// `--host`.
    host: Option<HostName>,
    /// What every command takes.
    global: Vec<Arg>,
}

fn at(words: &[String], current: &str) -> Answer {
    let mut place = Place::new();
    for word in words {
        place.take(word);
    }
    place.complete(current)
}

impl Place {
    fn new() -> Self {
        let command = Cli::command();
        let global = command.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
        Self {
            command,
            path: Vec::new(),
            positionals: 0,
            option: None,
            raw: false,
            socket: None,
            host: None,
            global,
        }
    }

    fn arguments(&self) -> impl Iterator<Item = &Arg> {
        self.command.get_arguments().filter(|arg| !arg.is_global_set()).chain(&self.global)
    }

    fn long(&self, name: &str) -> Option<&Arg> {
        let is = |arg: &&Arg| {
            let others = arg.get_all_aliases().unwrap_or_default();
            arg.get_long() == Some(name) || others.contains(&name)
        };
        self.arguments().find(is)
    }

    fn short(&self, letter: char) -> Option<&Arg> {
        self.arguments().find(|arg| arg.get_short() == Some(letter))
    }

    fn positional(&self) -> Option<&Arg> {
        let mut all = self.command.get_positionals();
        let many = |arg: &&Arg| arg.get_num_args().is_some_and(|n| n.max_values() > 1);
        all.nth(self.positionals).or_else(|| self.command.get_positionals().last().filter(many))
    }

    /// Takes a word that stands before the cursor's.
    fn take(&mut self, word: &str) {
        if let Some(option) = self.option.take() {
            self.value(&option, word);
        } else if self.raw {
            self.positionals += 1;
        } else if word == "--" {
            self.raw = true;
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            let option = self.long(name).filter(|arg| arg.get_action().takes_values()).cloned();
            match (option, value) {
                (Some(option), Some(value)) => self.value(&option, value),
                (option, _) => self.option = option,
            }
        } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            let takes = |arg: &&Arg| arg.get_action().takes_values();
            let found = letters.char_indices().find_map(|(at, letter)| {
                Some((at + letter.len_utf8(), self.short(letter).filter(takes)?.clone()))
            });
            // What follows the letter of such an option is its value.
            self.option = found.filter(|(end, _)| *end == letters.len()).map(|(_, option)| option);
        } else if self.positionals == 0
            && let Some(sub) = self.command.find_subcommand(word)
        {
            let mut sub = sub.clone();
            sub.build();
            self.path.push(sub.get_name().to_owned());
            self.command = sub;
        } else {
            // Of another program's words none is an option of ours.
            self.raw = self.positional().is_some_and(Arg::is_trailing_var_arg_set);
            self.positionals += 1;
        }
    }

    fn value(&mut self, option: &Arg, value: &str) {
        match option.get_id().as_str() {
            "socket" => self.socket = Some(value.into()),
            "host" => self.host = HostName::new(value).ok(),
            _ => {}
        }
    }

    fn complete(&self, current: &str) -> Answer {
        if let Some(option) = &self.option {
            return self.values(option, "", current);
        }
        if !self.raw && current.starts_with('-') {
            let assigned = current.strip_prefix("--").and_then(|long| long.split_once('='));
            return match assigned {
                Some((name, value)) => match self.long(name) {
                    Some(option) => self.values(option, &format!("--{name}="), value),
                    None => Answer::default(),
                },
                None => self.options(),
            };
        }
        let mut answer =
            self.positional().map_or_else(Answer::default, |arg| self.values(arg, "", current));
        if self.positionals == 0 && !self.raw {
            let subs = self.command.get_subcommands();
            let visible = subs.filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
            answer.words.extend(visible.map(|sub| {
                (sub.get_name().to_owned(), described(sub.get_about().map(ToString::to_string)))
            }));
        }
        answer
    }

    fn options(&self) -> Answer {
        let mut words = Vec::new();
        for arg in self.arguments().filter(|arg| !arg.is_hide_set()) {
            let what = described(arg.get_help().map(ToString::to_string));
            if let Some(long) = arg.get_long() {
                words.push((format!("--{long}"), what.clone()));
            } else if let Some(short) = arg.get_short() {
                words.push((format!("-{short}"), what));
            }
        }
        Answer { words, files: None }
    }

    /// Returns the host that paths without one are on, where the line names it. Those of `occ cp` are here.
    fn home(&self) -> Option<&HostName> {
        self.host.as_ref().filter(|_| self.path.first().is_some_and(|name| name != "cp"))
    }

    /// Returns what an argument may be that begins with `typed`, with `before` before it in its word.
    fn values(&self, arg: &Arg, before: &str, typed: &str) -> Answer {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let kind = Kind::of(&path, arg);
        // Behind a host's name are files that nobody has listed.
        let files = match kind {
            Kind::Files => Some(Files { before: 0, or_of_hosts: false }),
            Kind::HostPaths => match Spot::of(typed.as_ref(), self.home()) {
                Ok(Spot { host: None, path }) => {
                    let at = typed.len() - path.len();
                    Some(Files { before: at, or_of_hosts: at == 0 })
                }
                Ok(_) if !Spot::names_its_place(typed.as_ref()) => None,
                _ => return Answer::default(),
            },
            _ => None,
        };
        let mut words: Vec<(String, String)> = arg
            .get_possible_values()
            .iter()
            .filter(|value| !value.is_hide_set() && arg.get_action().takes_values())
            .map(|value| {
                (value.get_name().to_owned(), described(value.get_help().map(ToString::to_string)))
            })
            .collect();
        words.extend(Names::new(self.socket.clone()).of(kind));
        for (word, _) in &mut words {
            word.insert_str(0, before);
        }
        let files = files.map(|files| Files { before: before.len() + files.before, ..files });
        Answer { words, files }
    }
}

/// Returns the first line of what something is.
fn described(text: Option<String>) -> String {
    text.as_deref().and_then(|text| text.lines().next()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;

//! Man pages from the grammar in `cli`: `occ.1`, and one for each command and each command's own.
//!
//! `occ __man DIR` writes them; packages have them from there, so that they are those of the program beside them.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::cli::Cli;

/// The word that makes `occ` write its man pages.
pub(crate) const WORD: &str = "__man";

/// What concerns all commands, on `occ.1` alone.
const WHOLE: [(&str, &str); 3] = [
    (
        "EXIT STATUS",
        "\
0    success
1    the operation failed
2    the command line is wrong
3    occd cannot be reached
4    there is no such host
5    the connection or the login failed
6    the link broke during a command: nobody knows what became of it
7    refused by a policy
124  the time given by --timeout is over
130  interrupted

occ exec and occ shell end as the remote command does; 128 + n stands for signal n.",
    ),
    (
        "ENVIRONMENT",
        "\
OCC_HOST           the host to work on, unless --host or --local says it
OCC_SOCKET         occd's socket
OCC_NO_AUTOSTART   when not empty and not 0, occ starts no occd
OCCD_BIN           the occd to start
OCC_SSH_KEY        a private key in base64, for this command's login only
SSH_AUTH_SOCK      the ssh-agent that occd asks
NO_COLOR           when not empty, no colours",
    ),
    (
        "FILES",
        "\
~/.config/opencode-cloud/hosts.json   the hosts
~/.config/opencode-cloud/occd.toml    settings
~/.local/state/occ/                   what occd remembers, and its log
$XDG_RUNTIME_DIR/occ/occd.sock        occd's socket",
    ),
];

/// Writes the pages into a directory.
pub(crate) fn write(dir: &Path) -> io::Result<()> {
    let mut whole = Cli::command().disable_help_subcommand(true);
    whole.build();
    page(&whole, true, dir)
}

fn page(command: &Command, is_whole: bool, dir: &Path) -> io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        page(sub, false, dir)?;
    }
    let mut shown = command.clone();
    if is_whole {
        shown = shown.about("your servers, always connected");
    } else {
        // They are on the page of occ, to which this one leads.
        shown = shown.mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg });
    }
    // As --help has it: which options take a value, and whether words may be repeated.
    let usage = shown.render_usage().to_string();
    shown = shown.override_usage(usage.trim_start_matches("Usage:").trim().to_owned());
    let name = shown.get_display_name().unwrap_or(shown.get_name()).to_owned();
    let title = name.to_uppercase();
    let version = concat!("occ ", env!("CARGO_PKG_VERSION"));
    let has_subcommands = shown.has_subcommands();
    let after = shown.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(shown).title(title).section("1").date(date()).source(version).manual("occ");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_subcommands {
        man.render_subcommands_section(&mut text)?;
    }
    let mut roff = Roff::new();
    let examples = after.strip_prefix("Examples:\n").or(after.strip_prefix("Example:\n"));
    if let Some(examples) = examples {
        as_it_is(&mut roff, "EXAMPLES", examples);
    } else if !after.is_empty() {
        as_it_is(&mut roff, "NOTES", &after);
    }
    if is_whole {
        for (heading, lines) in WHOLE {
            as_it_is(&mut roff, heading, lines);
        }
    } else {
        roff.control("SH", ["SEE ALSO"]);
        roff.text([roman("occ(1) has the options that go with every command.")]);
    }
    roff.to_writer(&mut text)?;
    fs::write(dir.join(format!("{name}.1")), text)
}

/// Returns the pages' date: that of SOURCE_DATE_EPOCH, by which packages come out the same each time, else today's.
fn date() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|time| time.parse().ok());
    let given = given.and_then(|second| jiff::Timestamp::from_second(second).ok());
    given.unwrap_or_else(jiff::Timestamp::now).strftime("%Y-%m-%d").to_string()
}

/// Adds a section whose lines are not filled.
fn as_it_is(roff: &mut Roff, heading: &str, text: &str) {
    roff.control("SH", [heading]);
    roff.control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

//! The commands for files.

use std::ffi::OsString;

use clap::{Args, Subcommand, ValueEnum};

use crate::parse::parse_count;

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// Directories with everything in them
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Keep times and permissions
    #[arg(short, long)]
    pub(crate) preserve: bool,
    /// Go on with a copy that was interrupted
    #[arg(long, conflicts_with_all = ["recursive", "eol"])]
    pub(crate) resume: bool,
    /// Make the directories that the copy is to be in
    #[arg(long)]
    pub(crate) mkpath: bool,
    /// Make line feeds of the ends of lines that are CR LF, in text files
    #[arg(long, value_name = "lf", value_enum)]
    pub(crate) eol: Option<Eol>,
    /// What is copied, and where to: a path here, or HOST:PATH
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<OsString>,
}

/// The end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Eol {
    /// A line feed
    Lf,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Permissions, owner and group (their numbers), size and time of each
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Names that begin with a dot as well
    #[arg(short, long = "all-names")]
    pub(crate) all_names: bool,
    /// Names as they are, each with a NUL byte behind it
    #[arg(short = '0', long, conflicts_with = "long")]
    pub(crate) null: bool,
    /// HOST:PATH, or a path on the host that --host or the default names
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// HOST:PATH, or a path on the host that --host or the default names
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Directories with everything in them
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// What is not there is no error
    #[arg(short, long)]
    pub(crate) force: bool,
    /// HOST:PATH, or a path on the host that --host or the default names
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct EditArgs {
    /// Make line feeds of the ends of lines that are CR LF
    #[arg(long, value_name = "lf", value_enum)]
    pub(crate) eol: Option<Eol>,
    /// HOST:PATH, or a path on the host that --host or the default names
    #[arg(value_name = "PATH")]
    pub(crate) path: OsString,
}

/// What is done with a directory as a whole.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum FilesCommand {
    /// Tell what is created, changed and removed, until Ctrl-C
    #[command(after_help = "\
Examples:
  occ files watch -r prod-1:src
  occ files watch --json prod-1:app.conf      a document a line

The host's inotifywait tells; without it the directory is looked at every second.
When the link breaks it goes on afterwards, and says that it does not know what happened meanwhile.")]
    Watch(WatchArgs),
    /// Find lines of files
    #[command(after_help = "\
Examples:
  occ files search TODO prod-1:src
  occ files search -F -i 'main(' -g '*.c' -g '!test*' prod-1:src
  occ files search --json error --host prod-1 log

The host's rg searches, else its grep; the pattern is theirs. Exit code 1: nothing was found.")]
    Search(SearchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Directories in it as well
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// HOST:PATH, or a path on the host that --host or the default names
    #[arg(value_name = "PATH")]
    pub(crate) path: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// Letters match in either case
    #[arg(short, long)]
    pub(crate) ignore_case: bool,
    /// PATTERN is the text itself
    #[arg(short = 'F', long)]
    pub(crate) fixed_strings: bool,
    /// Only files with such names; without those behind !
    #[arg(short, long, value_name = "GLOB")]
    pub(crate) glob: Vec<String>,
    /// A NUL byte behind the names of files, in place of the colon
    #[arg(short = '0', long)]
    pub(crate) null: bool,
    /// So many lines at most [default: 10000]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub(crate) limit: Option<usize>,
    /// What is searched for
    #[arg(value_name = "PATTERN", allow_hyphen_values = true)]
    pub(crate) pattern: String,
    /// HOST:PATH, or a path on the host that --host or the default names
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<OsString>,
}

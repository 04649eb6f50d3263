//! The commands for files.

use std::ffi::OsString;

use clap::Args;

use clap::ValueEnum;

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
    /// Make the ends of lines in text files these
    #[arg(long, value_name = "lf", value_enum, conflicts_with = "recursive")]
    pub(crate) eol: Option<Eol>,
    /// What is copied, and where to: a path here, or HOST:PATH
    #[arg(required = true, num_args = 2.., value_name = "PATH")]
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
    /// Permissions, size and time of each
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Names that begin with a dot as well
    #[arg(short, long = "all-names")]
    pub(crate) all_names: bool,
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
    /// HOST:PATH, or a path on the host that --host or the default names
    #[arg(value_name = "PATH")]
    pub(crate) path: OsString,
}

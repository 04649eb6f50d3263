//! `occ allow`: what a project's `.occ.toml` says counts from now on, or no more.

use crate::cli::AllowArgs;
use crate::error::CliError;
use crate::locks;
use crate::project::Project;

use super::Context;

/// Allows the project's file, or takes that back.
pub(crate) fn run(context: &Context<'_>, args: &AllowArgs) -> Result<u8, CliError> {
    let ui = context.ui;
    let Some(project) = Project::find()? else {
        return Err(CliError::usage("There is no .occ.toml here, nor in a directory above.")
            .hint("echo 'host = \"NAME\"' > .occ.toml; occ allow"));
    };
    locks::refuse_as_root()?;
    project.allow(!args.remove)?;
    if ui.json {
        let wishes = &project.wishes;
        let value = serde_json::json!({ "path": project.path, "host": wishes.host,
            "directory": wishes.directory, "allowed": !args.remove });
        return ui.value(&value).map(|()| 0);
    }
    let path = project.path.display();
    match args.remove {
        false => ui.say(&format!("Allowed: {path} ({}).", project.words()))?,
        true => ui.say(&format!("No longer allowed: {path}."))?,
    }
    Ok(0)
}

//! The help of one command, without the options of every command that this one refuses.

use std::ffi::OsString;

use clap::CommandFactory as _;

use super::Cli;

/// The options that are for many hosts.
const OF_MANY: [&str; 3] = ["group", "all", "parallel"];

/// Returns which of those a command has, by its names.
fn has(path: &[&str]) -> &'static [&'static str] {
    match path {
        // See `Command::works_on_many`.
        []
        | [
            "status" | "start" | "stop" | "restart" | "update" | "logs" | "exec" | "cp" | "connect"
            | "disconnect" | "reconnect" | "docker-socket",
        ]
        | ["host", "test"] => &OF_MANY,
        ["host", "add" | "list"] => &["group"],
        ["host", "import"] => &["group", "all"],
        ["forward", "remove"] => &["all"],
        _ => &[],
    }
}

/// Returns the help of the command that a command line names, if it has less than every command.
pub(crate) fn help(args: &[OsString]) -> Option<String> {
    let mut whole = Cli::command();
    whole.build();
    let mut command = &mut whole;
    let mut path = Vec::new();
    let words = args.iter().skip(1).take_while(|word| *word != "--");
    for word in words.filter_map(|word| word.to_str()).filter(|word| *word != "help") {
        if command.find_subcommand(word).is_some() {
            command = command.find_subcommand_mut(word)?;
            path.push(command.get_name().to_owned());
        }
    }
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let has = has(&path);
    if has.len() == OF_MANY.len() {
        return None;
    }
    let is_refused = |id: &str| OF_MANY.contains(&id) && !has.contains(&id);
    let mut command = command.clone().mut_args(|arg| {
        let hide = is_refused(arg.get_id().as_str());
        if hide { arg.hide(true) } else { arg }
    });
    let is_long = args.iter().any(|word| word == "--help" || word == "help");
    let help = if is_long { command.render_long_help() } else { command.render_help() };
    Some(help.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_command_shows_no_option_that_it_refuses() {
        for line in ["occ prompts --help", "occ session start -h", "occ help cockpit"] {
            let help = help(&words(line)).unwrap();
            let options: Vec<&str> = help.split_whitespace().collect();
            let shows = |one: &&str| options.contains(&format!("--{one}").as_str());
            assert!(!OF_MANY.iter().any(shows), "{help}");
            assert!(help.contains("--host <NAME>") && help.contains("Usage: occ "), "{help}");
        }
        assert!(help(&words("occ host add --help")).unwrap().contains("--group"));
        assert!(help(&words("occ forward remove --help")).unwrap().contains("--all"));
        assert_eq!(help(&words("occ host test --help")), None);
    }

    #[test]
    fn the_commands_that_go_with_many_hosts_are_the_same_here() {
        for line in [
            "occ status",
            "occ start",
            "occ stop",
            "occ restart",
            "occ update",
            "occ logs",
            "occ exec true",
            "occ cp a b",
            "occ connect",
            "occ disconnect",
            "occ reconnect",
            "occ docker-socket",
            "occ host test",
            "occ cockpit",
            "occ prompts",
            "occ operations",
            "occ docker ps",
            "occ docker-context",
            "occ ls a",
            "occ trust",
            "occ host list",
            "occ unlock",
            "occ history",
            "occ shell",
        ] {
            let cli = Cli::try_parse_from(words(line)).unwrap();
            let path: Vec<&str> = match line {
                "occ host test" | "occ host list" => line.split(' ').skip(1).collect(),
                _ => line.split(' ').skip(1).take(1).collect(),
            };
            let on_many = has(&path).len() == OF_MANY.len();
            assert_eq!(cli.command.unwrap().works_on_many(), on_many, "{line}");
        }
    }
}

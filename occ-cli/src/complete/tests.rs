use super::*;

/// Returns the words for a line with the cursor at its end, where no names are known.
fn words(line: &str) -> Vec<String> {
    let args = ["bash", line, " =:"].map(str::to_owned);
    answer(&args).lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn commands_and_options_come_from_the_grammar() {
    assert!(words("occ ho").contains(&"host".to_owned()));
    assert_eq!(words("occ host in"), ["install-docker"]);
    assert_eq!(words("occ exec --dur"), ["--durable"]);
    assert_eq!(words("occ --js"), ["--json"]);
    // Behind a command as well, and not behind the words of another program.
    assert_eq!(words("occ status --js"), ["--json"]);
    assert_eq!(words("occ exec -- make --js"), Vec::<String>::new());
    assert_eq!(words("occ exec make --js"), Vec::<String>::new());
    assert_eq!(words("occ completions "), ["bash", "zsh", "fish"]);
    assert_eq!(words("occ daemon log-level d"), ["debug"]);
    assert_eq!(words("occ cp --eol "), ["lf"]);
    assert_eq!(words("occ cp --eol="), ["lf"]);
    assert_eq!(words("occ cp --eol lf --rec"), ["--recursive"]);
}

#[test]
fn nothing_hidden_is_offered() {
    fn hidden(command: &Command) -> Vec<String> {
        let own = command.get_subcommands().filter(|sub| sub.is_hide_set());
        own.map(|sub| sub.get_name().to_owned()).collect()
    }
    let offered = words("occ ");
    assert!(!hidden(&Cli::command()).iter().any(|name| offered.contains(name)));
    assert!(!words("occ host add --no").contains(&"--no-ssh-config".to_owned()));
}

#[test]
fn what_cannot_be_understood_is_answered_with_nothing() {
    for line in ["occ nonsense ", "occ --nonsense=", "occ host add x y z ", "occ -", "", "occ"] {
        words(line);
    }
    assert_eq!(answer(&[]), "");
    assert_eq!(answer(&["bash".to_owned()]), "");
}

#[test]
fn every_argument_that_takes_a_host_is_known_to_name_hosts() {
    use occ_proto::HostName;
    use std::any::TypeId;

    fn check(command: &Command, path: &mut Vec<String>) {
        for arg in command.get_arguments() {
            let id = arg.get_value_parser().type_id();
            let is_host =
                id == TypeId::of::<HostName>() || id == TypeId::of::<crate::target::HostArg>();
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            if is_host && names != ["host", "add"] {
                let kind = Kind::of(&names, arg);
                assert!(kind == Kind::Hosts, "{names:?} {}", arg.get_id());
            }
        }
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            path.push(sub.get_name().to_owned());
            check(sub, path);
            path.pop();
        }
    }
    let mut whole = Cli::command();
    whole.build();
    check(&whole, &mut Vec::new());
}

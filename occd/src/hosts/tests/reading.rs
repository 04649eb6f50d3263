//! What is refused, and how the error says where.

use super::*;

#[tokio::test]
async fn errors_name_line_and_column_at_start_and_at_run_time() {
    let cases = [
        // Text, part of the message, line, column.
        ("{\n  \"version\": 1,\n  \"hosts\": {\n", "EOF while parsing", 4, 0),
        ("{\n  \"version\": 1\n  \"hosts\": {}\n}", "expected `,` or `}`", 3, 3),
        ("{\n  \"extra\": 1,\n  \"hosts\": {}\n}", "unknown field `extra`", 2, 9),
        (
            "{\"hosts\": {\n  \"a\": {\n    \"hostname\": \"h\",\n    \"proxy\": 1\n  }\n}}",
            "unknown field `proxy`, expected one of",
            4,
            11,
        ),
        // Whichever of the two were taken, the other would be lost at the next save.
        (
            "{\"hosts\": {\n  \"a\": {\"hostname\": \"h\"},\n  \"a\": {\"hostname\": \"i\"}\n}}",
            "the host 'a' is there twice",
            3,
            5,
        ),
        // The offending value is the last of its object: the line is its own, not the brace's.
        (
            "{\"hosts\": {\n  \"a\": {\n    \"hostname\": \"h\",\n    \"port\": 70000\n  }\n}}",
            "port 70000 is not 1 to 65535",
            4,
            17,
        ),
        (
            "{\"hosts\": {\n  \"a\": {\n    \"user\": \"u\"\n  }\n}}",
            "missing field `hostname`",
            3,
            15,
        ),
        ("[]", "the whole file is an array", 1, 1),
        ("{\"hosts\": {\"a\": [\"h\"]}}", "the host \"a\" is an array", 1, 1),
        ("{\"hosts\": {\n  \"-a\": {}\n}}", "begins with '-'", 2, 6),
        ("{\"hosts\": []}", "invalid type: sequence", 1, 10),
        ("", "EOF while parsing", 1, 0),
    ];
    for (text, message, line, column) in cases {
        let check = |problem: &HostsFileError| {
            let shown = problem.to_string();
            assert!(shown.starts_with("hosts.json does not parse: "), "{shown}");
            assert!(shown.contains(message), "{shown}");
            assert!(shown.contains(&format!(" at line {line} column {column} (/")), "{shown}");
            assert!(std::error::Error::source(problem).is_none());
        };

        let place = Place::with(text);
        let store = place.store();
        check(store.current().problem.as_ref().unwrap());
        check(store.current().usable().unwrap_err());
        let refused = store.update(|file| insert(file, "a")).await;
        assert!(matches!(&refused, Err(UpdateError::File(problem)) if problem.bak.is_none()));
        assert_eq!(place.text(), text, "left for a person to mend");

        let place = Place::with(V0);
        let store = place.store();
        store.update(|file| insert(file, "new")).await.unwrap();
        fs::write(&place.path, text).unwrap();
        let snapshot = store.refresh().await;
        check(snapshot.problem.as_ref().unwrap());
        assert_eq!(snapshot.problem.as_ref().unwrap().bak.as_ref(), Some(&place.bak()));
        assert_eq!(snapshot.usable().unwrap().hosts.len(), 4, "the last good state stays");
        let refused = store.update(|file| insert(file, "other")).await;
        assert!(matches!(refused, Err(UpdateError::File(_))));
        assert_eq!(place.text(), text);
        assert_eq!(fs::read_to_string(place.bak()).unwrap(), V0);

        fs::write(&place.path, V0).unwrap();
        let snapshot = store.refresh().await;
        assert!(snapshot.problem.is_none());
        assert_eq!(snapshot.file.hosts.len(), 3);
    }
}

#[tokio::test]
async fn every_torn_prefix_is_an_error_and_never_fewer_hosts() {
    let place = Place::new();
    for end in 0..V0.len() - 1 {
        fs::write(&place.path, &V0.as_bytes()[..end]).unwrap();
        let snapshot = place.store().current();
        assert!(snapshot.problem.is_some(), "{end} bytes");
        assert!(snapshot.usable().is_err());
    }
}

#[tokio::test]
async fn a_broken_file_after_none_is_not_an_empty_one() {
    let place = Place::new();
    let store = place.store();
    fs::write(&place.path, "{").unwrap();
    assert!(store.refresh().await.usable().is_err());
}

#[tokio::test]
async fn other_versions_are_refused_even_with_keys_of_their_own() {
    for version in ["2", "-1", "1.5", "99999999999999999999"] {
        let place = Place::with(&format!(r#"{{"version":{version},"teams":{{}}}}"#));
        let problem = place.store().current().problem.clone().unwrap();
        assert!(matches!(problem.fault, HostsFault::Version(_)), "{problem}");
        assert!(problem.to_string().contains("only versions 0 and 1"), "{problem}");
    }
}

#[tokio::test]
async fn a_default_host_that_is_not_there_is_kept() {
    let place = Place::with(r#"{"version":1,"default_host":"gone","hosts":{}}"#);
    let store = place.store();
    store.update(|file| insert(file, "a")).await.unwrap();
    assert!(place.text().contains("\"default_host\": \"gone\""));
}

#[tokio::test]
async fn what_is_no_regular_file_is_an_error_and_does_not_hang() {
    let pipe = Place::new();
    assert!(Command::new("mkfifo").arg(&pipe.path).status().unwrap().success());
    let directory = Place::new();
    fs::create_dir(&directory.path).unwrap();
    let device = Place::new();
    symlink("/dev/zero", &device.path).unwrap();
    let dangling = Place::new();
    symlink("/nonexistent/hosts.json", &dangling.path).unwrap();
    let looping = Place::new();
    symlink("hosts.json", &looping.path).unwrap();

    for (place, text) in [
        (&pipe, "is a named pipe, not a regular file"),
        (&directory, "is a directory, not a regular file"),
        (&device, "is a device, not a regular file"),
        (&dangling, "is a symbolic link to /nonexistent/hosts.json, which does not exist"),
        (&looping, "cannot be read"),
    ] {
        let store = place.store();
        let shown = store.current().problem.as_ref().unwrap().to_string();
        assert!(shown.contains(text), "{shown}");
        assert!(matches!(store.update(|file| insert(file, "a")).await, Err(UpdateError::File(_))));
        assert_eq!(place.names(), ["hosts.json"]);
    }
    assert!(fs::metadata(&pipe.path).unwrap().file_type().is_fifo());
    let problem = looping.store().current().problem.clone().unwrap();
    assert!(std::error::Error::source(&problem).is_some(), "the cause is in the chain");
}

#[tokio::test]
async fn a_huge_file_is_refused() {
    let place = Place::new();
    fs::File::create(&place.path).unwrap().set_len(1 << 40).unwrap();
    let problem = place.store().current().problem.clone().unwrap();
    assert!(matches!(problem.fault, HostsFault::TooLarge), "{problem}");
}

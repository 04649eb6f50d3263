//! A save that fails or is killed leaves an old or a new file.

use super::*;

/// Makes an update that must fail at `step`, and checks that nothing has changed.
async fn fails_at(place: &Place, step: WriteStep) -> WriteError {
    let (before, names) = (place.text(), place.names());
    let store = place.store();
    let result = store.update(|file| insert(file, "new")).await;
    let Err(UpdateError::Write(error)) = result else { panic!("{result:?}") };
    assert_eq!(error.step, step, "{error:?}");
    assert_eq!(place.text(), before);
    assert_eq!(place.names(), names);
    assert_eq!(store.current().revision, 1);
    assert!(!store.current().file.hosts.contains_key("new"));
    error
}

#[tokio::test]
async fn a_backup_that_cannot_be_written_stops_the_change() {
    let place = Place::with(V0);
    fs::create_dir_all(place.bak().join("full")).unwrap();
    let error = fails_at(&place, WriteStep::Backup).await;
    assert_eq!(error.path, place.bak());
    assert!(!error.is_no_space());
    assert!(error.to_string().starts_with("hosts.json is not saved: cannot write the backup /"));
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_told() {
    let place = Place::new();
    fs::write(place.dir.path().join("config"), "a file").unwrap();
    let store = HostsStore::open(vec![place.dir.path().join("config/occ/hosts.json")]);
    let result = store.update(|file| insert(file, "new")).await;
    let Err(UpdateError::Write(error)) = result else { panic!("{result:?}") };
    assert_eq!(error.step, WriteStep::CreateDirectory);
    assert!(store.current().file.hosts.is_empty());
}

/// Runs the test `child` of this program with `role` on `place`.
fn run_child(program: &Path, role: &str, place: &Place) -> Command {
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut command = Command::new(program);
    command
        .args([&format!("{module}::child"), "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIRECTORY, place.dir.path());
    command
}

const ROLE: &str = "OCC_HOSTS_TEST_ROLE";
const DIRECTORY: &str = "OCC_HOSTS_TEST_DIRECTORY";

/// Not a test of its own: what the tests below run in another process.
#[tokio::test]
async fn child() {
    let (Some(role), Some(directory)) = (env::var_os(ROLE), env::var_os(DIRECTORY)) else { return };
    let path = PathBuf::from(directory).join("hosts.json");
    match role.to_str().unwrap() {
        "loop" => {
            let store = HostsStore::open(vec![path]);
            for n in generation(&store.current().file).unwrap().. {
                store.update(|file| set_generation(file, n + 1)).await.unwrap();
            }
        }
        role => {
            let result = HostsStore::open(vec![path]).update(|file| insert(file, "new")).await;
            let Err(UpdateError::Write(error)) = result else { panic!("{result:?}") };
            let kind = error.source.kind();
            let expected = match role {
                "read-only directory" => {
                    (WriteStep::Backup, io::ErrorKind::PermissionDenied, false)
                }
                "read-only target" => (WriteStep::Stage, io::ErrorKind::PermissionDenied, false),
                "read-only file" => {
                    (WriteStep::CheckWritable, io::ErrorKind::PermissionDenied, false)
                }
                "no room" => (WriteStep::Stage, io::ErrorKind::FileTooLarge, true),
                _ => panic!("{role}"),
            };
            assert_eq!((error.step, kind, error.is_no_space()), expected, "{error:?}");
        }
    }
}

fn passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
}

/// Returns this test program where `nobody` can run it.
fn program_for_anyone(place: &Place) -> PathBuf {
    let (from, to) = (env::current_exe().unwrap(), place.dir.path().join("program"));
    if fs::hard_link(&from, &to).is_err() {
        fs::copy(&from, &to).unwrap();
    }
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    to
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn without_permission_to_write_nothing_changes() {
    const NOBODY: u32 = 65534;
    let programs = Place::new();
    let program = program_for_anyone(&programs);
    for role in ["read-only directory", "read-only target", "read-only file"] {
        let place = Place::new();
        let real = place.dir.path().join("real");
        fs::create_dir(&real).unwrap();
        let file = if role == "read-only target" { real.join("file") } else { place.path.clone() };
        fs::write(&file, V0).unwrap();
        if file != place.path {
            symlink(&file, &place.path).unwrap();
        }
        if is_root() {
            for path in [place.dir.path(), &real, &file] {
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        let (locked, mode) = match role {
            "read-only directory" => (place.dir.path(), 0o555),
            "read-only target" => (&*real, 0o555),
            _ => (&*file, 0o444),
        };
        fs::set_permissions(locked, fs::Permissions::from_mode(mode)).unwrap();
        let names = place.names();

        let mut command = run_child(&program, role, &place);
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().unwrap();
        fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        passed(&output);
        assert_eq!(place.text(), V0, "{role}");
        assert_eq!(place.names(), names, "{role}");
        assert!(fs::read_dir(&real).unwrap().count() <= 1);
    }
}

#[test]
fn without_room_nothing_changes() {
    // With a limit of 2,048 bytes the old content, and so its backup, fits, and the new content is cut
    // in the middle. The shell ignores SIGXFSZ, so that the write fails as it does on a full disk.
    let text = V0.replace('ü', &"x".repeat(2000 - V0.len()));
    let place = Place::with(&text);

    let child = run_child(&env::current_exe().unwrap(), "no room", &place);
    let mut shell = Command::new("bash");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 2; exec \"$@\"", "bash"]);
    shell.arg(child.get_program()).args(child.get_args());
    shell.envs(child.get_envs().filter_map(|(key, value)| Some((key, value?))));
    passed(&shell.output().unwrap());
    assert_eq!(place.text(), text);
    assert_eq!(place.names(), ["hosts.json"]);
}

const GENERATION_HOSTS: usize = 50;

/// Writes one number into every host, so that a mixture of two states shows.
fn set_generation(file: &mut HostsFile, n: u64) -> Result<(), Infallible> {
    for host in file.hosts.values_mut() {
        // The length changes too.
        host.description = Some(format!("{n} {}", "x".repeat((n % 50) as usize)));
    }
    Ok(())
}

/// Returns the number in the file; `None` for a mixture.
fn generation(file: &HostsFile) -> Option<u64> {
    let n = file.hosts[0].description.as_deref()?.split(' ').next()?.parse().ok()?;
    let mut whole = file.clone();
    set_generation(&mut whole, n).unwrap();
    (whole == *file && file.hosts.len() == GENERATION_HOSTS).then_some(n)
}

#[test]
fn killed_at_any_moment_the_file_is_an_old_or_a_new_state() {
    let mut file = HostsFile::default();
    for n in 0..GENERATION_HOSTS {
        insert(&mut file, &format!("h{n}")).unwrap();
    }
    set_generation(&mut file, 0).unwrap();
    let place = Place::with(&serde_json::to_string_pretty(&file).unwrap());
    let read = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let file: HostsFile = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        generation(&file).expect("one state, not a mixture")
    };

    let mut last = 0;
    for _ in 0..30 {
        let mut child = run_child(&env::current_exe().unwrap(), "loop", &place)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = tokio::time::Instant::now();
        while read(&place.path) < last + 2 {
            assert!(started.elapsed() < GUARD && child.try_wait().unwrap().is_none());
            thread::yield_now();
        }
        // Not a wait for something: the random moment of the kill.
        thread::sleep(Duration::from_micros(fastrand::u64(0..5000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = read(&place.path);
        let bak = read(&place.bak());
        assert!(now >= last + 2);
        assert!(bak == now || bak + 1 == now, "backup {bak}, file {now}");
        assert!(place.store().current().problem.is_none());
        last = now;
    }
    let leftovers = place.names().len() - 2;
    assert!(leftovers <= 60, "at most two of each killed process: {leftovers}");
}

//! What becomes of a sandbox that is there already: settings that have changed since, a container that is somebody
//! else's, mounts that would break it, and what a failed or killed update leaves.

use occ_proto::container::SANDBOX_CONTAINER;
use testkit::DaemonRig;

use crate::sandbox::{World, json, world};

fn said(rig: &DaemonRig, args: &[&str]) -> String {
    let output = rig.run_occ(args);
    assert!(output.status.success(), "{args:?}: {}{}", output.stdout, output.stderr);
    output.stdout + &output.stderr
}

#[test]
fn settings_that_have_changed_are_told_and_taken_over_when_asked_for() {
    let image = "sandbox:1";
    let Some(world) = world(image, "env = [\"COLOUR=red\"]") else { return };
    let World { docker, rig, .. } = &world;
    docker.import_sandbox(image, "1.0", &[]);
    let id = || docker.docker_ok(&["inspect", "--format", "{{.Id}}", SANDBOX_CONTAINER]);
    let started = said(rig, &["start", "--host", "h"]);
    assert!(!started.contains("Note:"), "{started}");
    let first = id();
    assert!(!said(rig, &["start", "--host", "h", "--yes"]).contains("Note:"));
    assert_eq!(id(), first, "there is nothing to make anew");

    let config = std::fs::read_to_string(rig.config_toml()).unwrap();
    let changed = config.replace("COLOUR=red", "COLOUR=canary-blue");
    rig.write_config_toml(&changed.replace(
        "[local.sandbox]",
        "mounts = [\"/tmp:/work\"]\nbind_address = \"127.0.0.2\"\n[local.sandbox]",
    ));
    // It goes on as it is, and every difference is told, with what takes the settings over.
    for verb in ["start", "restart"] {
        let told = said(rig, &[verb, "--host", "h"]);
        for words in [
            "no mounts instead of the mounts /tmp:/work",
            "the address 127.0.0.1 instead of the address 127.0.0.2",
            "other values of the variables COLOUR",
            "occ start --host h --yes makes it anew",
        ] {
            assert!(told.contains(words), "{verb}: {words}: {told}");
        }
        assert!(!told.contains("canary-blue") && !told.contains("image"), "{told}");
        assert_eq!(id(), first);
    }
    // Cockpit, too, is a setting, and what it says to do does it.
    let file = rig.home().join(".config/opencode-cloud/config.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "{\"version\": 1, \"cockpit_enabled\": true, \"cockpit_port\": 41997}")
        .unwrap();
    let disabled = said(rig, &["cockpit", "--host", "h"]);
    assert!(
        disabled.contains("then occ start --host h --yes makes the sandbox anew"),
        "{disabled}"
    );
    let anew = said(rig, &["start", "--host", "h", "--yes"]);
    assert!(!anew.contains("Note:"), "{anew}");
    assert_ne!(id(), first);
    let look_at =
        |format: &str| docker.docker_ok(&["inspect", "--format", format, SANDBOX_CONTAINER]);
    assert!(look_at("{{.Config.Env}}").contains("COLOUR=canary-blue"));
    assert!(look_at("{{.HostConfig.PortBindings}}").contains("127.0.0.2 41997"));
    let sandbox = json(rig, &["start", "--host", "h"]).outcome.unwrap().sandbox.unwrap();
    assert!(sandbox.mounts.iter().any(|mount| mount.target == "/work"), "{sandbox:?}");
    // What cannot be read does not keep it from being started again.
    std::fs::write(&file, "{").unwrap();
    let unread = said(rig, &["restart", "--host", "h"]);
    assert!(unread.contains("whether it is as the settings say is not known"), "{unread}");
}

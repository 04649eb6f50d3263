//! `occ` starts in a millisecond, so it links nothing heavy.

use std::process::Command;

#[test]
fn nothing_heavy_is_linked() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", "occ-cli", "-e", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"hyperlocal"), "{tree}");
    for heavy in
        ["russh", "axum", "bollard", "occd", "regex", "tracing-subscriber", "reqwest", "ring", "h2"]
    {
        assert!(!names.contains(&heavy), "occ links {heavy}:\n{tree}");
    }
}

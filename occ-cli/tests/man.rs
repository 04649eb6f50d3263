//! The man pages are those of the grammar, and man and mandoc find no fault in them.

#![allow(clippy::unwrap_used, reason = "a failing fixture is a failing test")]

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{occ, private_dir, run};
use testkit::require::{find_program, require};

#[test]
fn every_command_has_a_page_that_mandoc_finds_no_fault_in() {
    let home = private_dir();
    let dir = home.path().join("man1");
    std::fs::create_dir(&dir).unwrap();
    let mut write = occ(&["__man", dir.to_str().unwrap()], home.path());
    let done = run(write.env("SOURCE_DATE_EPOCH", "86400"));
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    assert!(read("occ.1").contains("EXIT STATUS"));
    assert!(read("occ.1").contains(".TH OCC 1 1970-01-02 "), "{}", read("occ.1"));
    assert!(read("occ.1").contains("occ\\-exec(1)"), "{}", read("occ.1"));
    // Examples stand as they are, one a line.
    let exec = read("occ-exec.1");
    let examples = exec.split_once("EXAMPLES\n.nf\n").unwrap().1;
    assert!(examples.starts_with("  occ exec \\-\\-host prod\\-1"), "{exec}");
    assert!(exec.contains("\\-\\-durable") && !exec.contains("\\-\\-no\\-color"), "{exec}");
    assert!(read("occ-host-add.1").contains("ssh \\-J"));

    let pages: Vec<PathBuf> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    if require("mandoc", find_program("mandoc").map(drop), "OCC_REQUIRE_SHELLS") {
        let lint = Command::new("mandoc").args(["-T", "lint", "-W", "error"]).args(&pages).output();
        let lint = lint.unwrap();
        assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
    }
}

//! The `occ` program.

fn main() {
    occ_cli::main();
}

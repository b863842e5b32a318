//! The `callsight` command.
fn main() {}

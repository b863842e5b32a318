//! The `callsight` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    callsight::cli::main()
}

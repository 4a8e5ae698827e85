//! The `mesp` program: see the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesp_cli::main()
}

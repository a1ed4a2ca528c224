//! The binary: everything is in the library, so that tests can call it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    nepenthe::cli::main()
}

//! `anvil`: the control plane and its command line, all of it in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    drophammer::anvil::cli::main()
}

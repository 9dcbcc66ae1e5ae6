//! The binary `palisade`; everything it does stands in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    palisade_hub::cli::main(std::env::args_os())
}

//! The `elect` command: parse, run, print the error, choose the exit code.

use std::process::ExitCode;

mod cli;
mod config;
mod descriptors;
mod effects;
mod log;
mod proof;
mod secrecy;
mod status;

fn main() -> ExitCode {
    cli::main()
}

//! The `elect` command: parse, run, print the error, choose the exit code.

use std::process::ExitCode;

mod cli;
mod config;
mod descriptors;
mod lease_timing;
mod log;
mod secrecy;
mod status;
mod supervise;

fn main() -> ExitCode {
    cli::main()
}

//! The `iggy-cluster` command, for tests that need its processes.

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, run};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

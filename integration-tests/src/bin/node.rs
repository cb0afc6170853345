//! The `iggy-cluster` command, for tests that need its processes.

use std::process::ExitCode;

use clap::Parser;
use iggy_cluster::commands::{Cli, in_full, run};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", in_full(&error));
            ExitCode::FAILURE
        }
    }
}

//! The `iggy-cluster` command.

use std::process::ExitCode;

use clap::Parser;
use iggy_cluster::commands::{Cli, in_full, run};

/// Batches of commands are large, and are allocated and freed on several threads within
/// milliseconds.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", in_full(&error));
            ExitCode::FAILURE
        }
    }
}

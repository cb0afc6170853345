//! A cluster of processes on this machine, for development, tests and benchmarks.
//!
//! Owns the directories, ports and child processes of a cluster, and ends the
//! processes when it is dropped. It knows the program only by its command line: what a
//! node stores, and what its clients send, is up to the caller.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use local_cluster::{Processes, Program, free_node_ports};
//!
//! let ports = free_node_ports(3)?;
//! let config = format!("# {} nodes\n", ports.len());
//! let program = Program::new("target/release/iggy-cluster", ["serve"]);
//! let mut processes = Processes::new(program, ports, &config)?;
//! processes.start_all()?;
//! processes.kill(0)?;
//! processes.start(0)?;
//! # Ok(())
//! # }
//! ```

mod error;
mod http;
mod input;
mod ports;
mod processes;
mod temporary;
mod usage;

use std::path::{Path, PathBuf};

pub use error::ProcessError;
pub use http::{GetError, get, get_within};
pub use input::end_of_input;
pub use ports::{Ports, free_node_ports, free_ports};
pub use processes::{Processes, Program};
pub use temporary::remove_abandoned;
pub use usage::{cpu_time, memory_bytes, open_files};

/// The path of a program in the directory of the running executable, where cargo puts
/// the binaries of one build.
///
/// # Errors
/// When there is no such file.
pub fn sibling(name: &str) -> Result<PathBuf, ProcessError> {
    let own = std::env::current_exe().map_err(ProcessError::io("cannot find", "this program"))?;
    let path = own.parent().unwrap_or(Path::new("")).join(name);
    match path.exists() {
        true => Ok(path),
        false => Err(ProcessError::NoSibling(path)),
    }
}

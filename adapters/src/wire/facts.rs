//! What replies contain besides metadata, for any generation of the wire.

use crate::metadata::PartitionKey;
use partitions::PartitionStats;

/// Looks up the sizes of a partition.
pub type StatsOf<'a> = &'a dyn Fn(&PartitionKey) -> PartitionStats;

/// A node as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub host: String,
    /// The port of Iggy's TCP protocol.
    pub tcp_port: u16,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it answers.
    pub healthy: bool,
}

/// A connected client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectedClient {
    /// Its number.
    pub id: u32,
    /// Its user; `None` before the login.
    pub user_id: Option<u32>,
    /// Where it comes from.
    pub address: String,
    /// The client's id, when it is logged in.
    pub client: Option<u128>,
}

/// Figures of the machine and the process.
#[derive(Clone, Debug, Default)]
pub struct SystemStats {
    /// The process.
    pub process_id: u32,
    /// Its share of a processor, in percent.
    pub cpu_usage: f32,
    /// The machine's, in percent.
    pub total_cpu_usage: f32,
    /// Bytes that the process uses.
    pub memory_bytes: u64,
    /// Bytes of the machine.
    pub total_memory_bytes: u64,
    /// Bytes that are available.
    pub available_memory_bytes: u64,
    /// Microseconds since the process started.
    pub run_time_micros: u64,
    /// When it started, in microseconds since the Unix epoch.
    pub start_time_micros: u64,
    /// Bytes that the process has read.
    pub read_bytes: u64,
    /// Bytes that the process has written.
    pub written_bytes: u64,
    /// Threads of the process.
    pub threads: u32,
    /// Bytes free on the disk of the data.
    pub free_disk_bytes: u64,
    /// Bytes of that disk.
    pub total_disk_bytes: u64,
    /// The machine's name.
    pub hostname: String,
    /// The operating system.
    pub os_name: String,
    /// Its version.
    pub os_version: String,
    /// The kernel.
    pub kernel_version: String,
    /// Connected clients, of all nodes that answer.
    pub clients: u32,
}

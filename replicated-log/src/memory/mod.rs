//! Memory for the requests and replies that a node has at one time: how much there is, who
//! may hold how much of it, and buffers that are counted in it.

mod budget;
mod buffer;

pub use budget::{MemoryAccount, MemoryBudget, MemoryShare, ReservedMemory};
pub use buffer::CountedBuffer;

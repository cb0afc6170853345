//! Every scenario, by name.
#![expect(missing_docs, reason = "the names of scenarios describe them")]

mod bounds;
mod crashes;
mod lagging;
mod network;
mod normal;
mod reads;
mod stalls;

pub use bounds::*;
pub use crashes::*;
pub use lagging::*;
pub use network::*;
pub use normal::*;
pub use reads::*;
pub use stalls::*;

//! Outcomes of commands that were queued together.

use consensus::ProposeError;
use replica::driver::Applied;
use tokio::sync::mpsc;

/// The outcome of a queued command.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The tag under which the command was queued.
    pub tag: u64,
    /// The reply of the state machine, or why there is none.
    pub result: Result<Applied, ProposeError>,
}

/// Receives outcomes, several at a time. The channel is unbounded: the caller that queues
/// commands bounds how many of its own are open.
pub type Outcomes = mpsc::UnboundedSender<Vec<Outcome>>;

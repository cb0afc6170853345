//! The suite that every backend must pass, on Raft.

use consensus::{Consensus, CoreConfig, RecoverError, Recovered};
use consensus_raft::RaftCore;

fn raft(config: &CoreConfig, recovered: Recovered) -> Result<Box<dyn Consensus>, RecoverError> {
    Ok(Box::new(RaftCore::new(config, recovered)?))
}

consensus::conformance_suite!(raft);

//! tikv raft-rs behind the Consensus contract.

//! The suite that every backend must pass, on VR.

use consensus::{Consensus, CoreConfig, RecoverError, Recovered};
use consensus_vr::VrCore;

fn vr(config: &CoreConfig, recovered: Recovered) -> Result<Box<dyn Consensus>, RecoverError> {
    Ok(Box::new(VrCore::new(config, recovered)?))
}

consensus::conformance_suite!(vr);

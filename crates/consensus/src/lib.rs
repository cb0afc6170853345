//! The contract between a replicated log and the backends that replicate it.

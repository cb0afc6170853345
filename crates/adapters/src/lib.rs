//! Iggy on a replicated log: wire, metadata, partition storage.

//! Micro-benchmarks: each part that a command passes through, alone.
//!
//! Tests check the figures that do not depend on the machine (messages, bytes and
//! writes for a command); see `docs/performance.md`.

mod codec;
mod cores;
mod machine;
mod wal;

use criterion::{criterion_group, criterion_main};

/// Bytes of a command, as in the other benchmarks.
const COMMAND_BYTES: usize = 256;

criterion_group!(
    micro,
    cores::benchmark,
    wal::benchmark,
    codec::benchmark,
    machine::benchmark
);
criterion_main!(micro);

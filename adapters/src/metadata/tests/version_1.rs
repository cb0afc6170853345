//! What version 0.1 wrote: commands of every kind with their replies, and a snapshot of
//! the state that they lead to.
//!
//! ```text
//! (length u32 | command | length u32 | reply) ... | 0 u32 | snapshot
//! ```

use super::*;

const RECORDED: &[u8] = include_bytes!("version_1.bin");

/// The recorded commands with their replies, and the snapshot.
fn recorded() -> (Vec<[&'static [u8]; 2]>, &'static [u8]) {
    let mut rest = RECORDED;
    let mut part = || {
        let (length, tail) = rest.split_first_chunk().unwrap();
        let (part, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
        rest = tail;
        part
    };
    let mut commands = Vec::new();
    loop {
        let command = part();
        if command.is_empty() {
            return (commands, rest);
        }
        commands.push([command, part()]);
    }
}

/// A node of version 0.1 and one of this version apply the same log to the same state, and
/// answer clients the same.
#[test]
fn a_log_of_version_1_leads_to_the_same_replies_and_the_same_snapshot() {
    let mut bench = Bench::empty();
    let (commands, snapshot) = recorded();
    assert_eq!(commands.len(), 46);
    for (number, [command, reply]) in commands.into_iter().enumerate() {
        bench.position = (bench.index as u32 + 1) % 3;
        let decoded = Command::decode(command).unwrap();
        if decoded != Command::Noop {
            assert_eq!(decoded.encode(), command, "command {number}");
        }
        let replied = bench.apply_bytes(command);
        assert_eq!(replied.encode(), reply, "command {number}: {replied:?}");
    }
    assert_eq!(bench.machine.freeze().encode(), snapshot);
}

#[test]
fn a_snapshot_of_version_1_is_restored_and_written_again_unchanged() {
    let mut bench = Bench::empty();
    let (_, snapshot) = recorded();
    bench.machine.restore(snapshot).unwrap();
    assert_eq!(bench.machine.freeze().encode(), snapshot);
}

//! What a run leaves behind (pages on their way to the disk, a snapshot, a peer's
//! collector of garbage) is not to be measured with the next.

use std::time::Duration;

/// How long the machine is looked at.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_QUICK: Duration = Duration::from_millis(40);
/// It rests when so much of its processor time, in thousandths, was idle.
const IDLE_PER_MILLE: u64 = 900;
/// It is waited for so many looks; then the run begins all the same.
const LOOKS: usize = 40;
const LOOKS_QUICK: usize = 1;

/// Has everything written, and waits until the machine rests, for a bounded time.
pub(super) async fn wait(quick: bool) {
    tokio::task::block_in_place(rustix::fs::sync);
    let (look, looks) = match quick {
        true => (LOOK_QUICK, LOOKS_QUICK),
        false => (LOOK, LOOKS),
    };
    let mut before = times();
    for _ in 0..looks {
        tokio::time::sleep(look).await;
        let now = times();
        let all = now.all.saturating_sub(before.all);
        let idle = now.idle.saturating_sub(before.idle);
        if idle * 1_000 >= all * IDLE_PER_MILLE {
            return;
        }
        before = now;
    }
}

/// Processor time of the machine, in ticks of the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
struct Times {
    all: u64,
    idle: u64,
}

fn times() -> Times {
    parse(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// The first line: user, nice, system, idle, waiting for disks, interrupts, stolen.
fn parse(stat: &str) -> Times {
    let line = stat.lines().next().unwrap_or_default();
    let fields = line.split_whitespace().skip(1);
    let fields: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    Times {
        all: fields.iter().take(8).sum(),
        idle: fields.iter().skip(3).take(2).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_idle_and_a_guest_is_not_counted_twice() {
        let stat = "cpu  10 1 20 300 40 0 5 6 7 8\ncpu0 1 2 3\n";
        let expected = Times {
            all: 382,
            idle: 340,
        };
        assert_eq!(parse(stat), expected);
        assert_eq!(parse(""), Times::default());
    }
}

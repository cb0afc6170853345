//! Between two runs: the work that one leaves (dirty pages, a snapshot, a peer's garbage
//! collection) must not be measured with the next.

use std::time::Duration;

/// The interval of one observation.
const INTERVAL: Duration = Duration::from_millis(100);
const INTERVAL_QUICK: Duration = Duration::from_millis(40);
/// The machine is idle when this much of its processor time was, in thousandths.
const IDLE_PER_MILLE: u64 = 900;
/// After this many observations, the run starts even on a busy machine.
const OBSERVATIONS: usize = 40;
const OBSERVATIONS_QUICK: usize = 1;

/// Flushes the page cache, and waits until the machine is idle, for a bounded time.
pub(super) async fn wait(quick: bool) {
    tokio::task::block_in_place(rustix::fs::sync);
    let (interval, observations) = match quick {
        true => (INTERVAL_QUICK, OBSERVATIONS_QUICK),
        false => (INTERVAL, OBSERVATIONS),
    };
    let mut before = times();
    for _ in 0..observations {
        tokio::time::sleep(interval).await;
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

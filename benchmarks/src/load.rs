//! Load on a leader, and the latency of its commands.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::wire;

/// Latencies are recorded from a microsecond to a minute.
const LATENCY_MICROS_MAX: u64 = 60_000_000;

/// The commands that are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Bytes of a command.
    pub(crate) command_bytes: usize,
    /// In-flight commands, over all connections.
    pub(crate) in_flight: usize,
    /// Connections that share them.
    pub(crate) connections: usize,
    /// How long commands are sent before they count.
    pub(crate) warm_up: Duration,
    /// How long commands count.
    pub(crate) measured: Duration,
}

/// The result of a load.
pub(crate) struct Measured {
    pub(crate) commands: u64,
    pub(crate) elapsed: Duration,
    /// Microseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.commands as f64 / self.elapsed.as_secs_f64()
    }
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("the bounds are in order")
}

pub(crate) fn record(histogram: &mut Histogram<u64>, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    histogram.saturating_record(micros.max(1));
}

impl Load {
    /// Closed loop: the next command is sent when one has its outcome.
    pub(crate) async fn closed(self, leader: &str) -> anyhow::Result<Measured> {
        let start = Instant::now() + self.warm_up;
        let end = start + self.measured;
        let connections = self.connections.min(self.in_flight).max(1);
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let share =
                self.in_flight / connections + usize::from(number < self.in_flight % connections);
            let client = Client::connect(leader, self.command_bytes).await?;
            tasks.spawn(drive(client, share, start, end));
        }
        let mut measured = Measured {
            commands: 0,
            elapsed: self.measured,
            latency: histogram(),
        };
        while let Some(joined) = tasks.join_next().await {
            let latency = joined??;
            measured.commands += latency.len();
            measured.latency.add(&latency)?;
        }
        Ok(measured)
    }

    /// Closed loop over anything that executes one command: one task for each in-flight
    /// command. `operation` receives the number of its task.
    pub(crate) async fn closed_with<F>(
        self,
        operation: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<Measured>
    where
        F: Future<Output = anyhow::Result<()>> + Send,
    {
        let start = Instant::now() + self.warm_up;
        let end = start + self.measured;
        let operation = Arc::new(operation);
        let mut tasks = JoinSet::new();
        for number in 0..self.in_flight {
            let operation = Arc::clone(&operation);
            tasks.spawn(async move {
                let mut took = Vec::new();
                loop {
                    let sent = Instant::now();
                    operation(number).await?;
                    let now = Instant::now();
                    if now > end {
                        return anyhow::Ok(took);
                    }
                    if now >= start {
                        took.push(now - sent);
                    }
                }
            });
        }
        let mut latency = histogram();
        while let Some(joined) = tasks.join_next().await {
            for took in joined?? {
                record(&mut latency, took);
            }
        }
        Ok(Measured {
            commands: latency.len(),
            elapsed: self.measured,
            latency,
        })
    }
}

/// Commands of this interval are due together.
const BURST: Duration = Duration::from_millis(1);
/// Outcomes of commands that were due are awaited for this long.
const LATE: Duration = Duration::from_secs(5);

impl Load {
    /// Open loop: this many commands per second are sent whether outcomes arrive or not,
    /// those of a millisecond together. Latency counts from when a command was due.
    pub(crate) async fn open(self, leader: &str, per_second: u64) -> anyhow::Result<Measured> {
        let mut client = Client::connect(leader, self.command_bytes).await?;
        let mut latency = histogram();
        let mut due: VecDeque<(u64, Instant)> = VecDeque::new();
        let (mut sent, mut received) = (0, 0);
        let bursts = (self.warm_up + self.measured).as_millis() as u64;
        let total = per_second * bursts / 1_000;
        let started = Instant::now();
        let counts_from = started + self.warm_up;
        let mut bursts = paced(started, bursts);
        while received < total {
            tokio::select! {
                Some(burst) = bursts.recv() => {
                    let until = per_second * burst / 1_000;
                    if until > sent {
                        let first = client.send((until - sent) as usize).await?;
                        due.push_back((first, started + BURST * burst as u32));
                        sent = until;
                    }
                }
                outcomes = tokio::time::timeout(LATE, client.outcomes()) => {
                    let Ok(outcomes) = outcomes else {
                        bail!("{} commands have no outcome", total - received);
                    };
                    let now = Instant::now();
                    for (tag, code) in outcomes? {
                        if code != wire::DONE {
                            bail!("a command was not executed: code {code}");
                        }
                        received += 1;
                        let burst = due.partition_point(|(first, _)| *first <= tag);
                        let at = burst.checked_sub(1).and_then(|burst| due.get(burst));
                        if let Some((_, at)) = at.filter(|(_, at)| *at >= counts_from) {
                            record(&mut latency, now.saturating_duration_since(*at));
                        }
                    }
                    while due.len() > 1 && due[1].0 <= received {
                        due.pop_front();
                    }
                }
            }
        }
        Ok(Measured {
            commands: latency.len(),
            elapsed: started.elapsed().saturating_sub(self.warm_up),
            latency,
        })
    }
}

/// Sends the number of each burst when it is due, from a separate thread: the runtime's
/// timers are as coarse as the bursts.
fn paced(started: Instant, bursts: u64) -> mpsc::UnboundedReceiver<u64> {
    let (due, bursts_due) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for burst in 1..=bursts {
            let at = started + BURST * burst as u32;
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if due.send(burst).is_err() {
                return;
            }
        }
    });
    bursts_due
}

/// Keeps `window` commands in flight; outcomes that arrive between `start` and `end`
/// count.
async fn drive(
    mut client: Client,
    window: usize,
    start: Instant,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = histogram();
    // When the commands of each frame were sent: first tag, time.
    let mut sent: VecDeque<(u64, Instant)> = VecDeque::new();
    let mut room = window;
    loop {
        if room > 0 {
            let at = Instant::now();
            let first = client.send(room).await?;
            sent.push_back((first, at));
            room = 0;
        }
        let outcomes = client.outcomes().await?;
        let now = Instant::now();
        for (tag, code) in outcomes {
            if code != wire::DONE {
                bail!("a command was not executed: code {code}");
            }
            room += 1;
            if now < start || now > end {
                continue;
            }
            let frame = sent.partition_point(|(first, _)| *first <= tag);
            if let Some((_, at)) = frame.checked_sub(1).and_then(|frame| sent.get(frame)) {
                record(&mut latency, now - *at);
            }
        }
        if now > end {
            return Ok(latency);
        }
        forget_executed(&mut sent, window);
    }
}

/// Drops frames whose outcomes have all arrived: at most `window` commands are in flight.
fn forget_executed(sent: &mut VecDeque<(u64, Instant)>, window: usize) {
    while sent.len() > window + 1 {
        sent.pop_front();
    }
}

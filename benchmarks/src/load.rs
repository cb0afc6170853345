//! Load on a leader, and how long commands took.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::wire;

/// From a microsecond to a minute.
const LATENCY_MICROS_MAX: u64 = 60_000_000;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Bytes of a command.
    pub(crate) command_bytes: usize,
    /// Commands under way at any time, over all connections.
    pub(crate) in_flight: usize,
    /// Connections that share them.
    pub(crate) connections: usize,
    /// Commands sent before anything counts.
    pub(crate) warm_up: Duration,
    /// How long it counts.
    pub(crate) measured: Duration,
}

/// What came of it.
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
    /// Closed loop: a command that is answered is followed by the next.
    pub(crate) async fn closed(self, leader: &str) -> anyhow::Result<Measured> {
        let begin = Instant::now() + self.warm_up;
        let end = begin + self.measured;
        let connections = self.connections.min(self.in_flight).max(1);
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let share =
                self.in_flight / connections + usize::from(number < self.in_flight % connections);
            let client = Client::connect(leader, self.command_bytes).await?;
            tasks.spawn(drive(client, share, begin, end));
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

    /// Closed loop over anything that carries out one command: as many tasks as
    /// commands are under way. `operation` is given a number of the task's.
    pub(crate) async fn closed_with<F>(
        self,
        operation: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<Measured>
    where
        F: Future<Output = anyhow::Result<()>> + Send,
    {
        let begin = Instant::now() + self.warm_up;
        let end = begin + self.measured;
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
                    if now >= begin {
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

/// Commands that are due together.
const BURST: Duration = Duration::from_millis(1);
/// What is due when it is over is waited for so long.
const LATE: Duration = Duration::from_secs(5);

impl Load {
    /// Open loop: so many commands a second are sent whatever becomes of them, those
    /// of a millisecond together. Latency counts from when a command was due.
    pub(crate) async fn open(self, leader: &str, per_second: u64) -> anyhow::Result<Measured> {
        let mut client = Client::connect(leader, self.command_bytes).await?;
        let mut latency = histogram();
        let mut due: VecDeque<(u64, Instant)> = VecDeque::new();
        let (mut sent, mut answered) = (0, 0);
        let bursts = (self.warm_up + self.measured).as_millis() as u64;
        let total = per_second * bursts / 1_000;
        let begun = Instant::now();
        let counts_from = begun + self.warm_up;
        let mut bursts = paced(begun, bursts);
        while answered < total {
            tokio::select! {
                Some(burst) = bursts.recv() => {
                    let until = per_second * burst / 1_000;
                    if until > sent {
                        let first = client.send((until - sent) as usize).await?;
                        due.push_back((first, begun + BURST * burst as u32));
                        sent = until;
                    }
                }
                outcomes = tokio::time::timeout(LATE, client.outcomes()) => {
                    let Ok(outcomes) = outcomes else {
                        bail!("{} commands were not answered", total - answered);
                    };
                    let now = Instant::now();
                    for (tag, code) in outcomes? {
                        if code != wire::DONE {
                            bail!("a command was not carried out: code {code}");
                        }
                        answered += 1;
                        let burst = due.partition_point(|(first, _)| *first <= tag);
                        let at = burst.checked_sub(1).and_then(|burst| due.get(burst));
                        if let Some((_, at)) = at.filter(|(_, at)| *at >= counts_from) {
                            record(&mut latency, now.saturating_duration_since(*at));
                        }
                    }
                    while due.len() > 1 && due[1].0 <= answered {
                        due.pop_front();
                    }
                }
            }
        }
        Ok(Measured {
            commands: latency.len(),
            elapsed: begun.elapsed().saturating_sub(self.warm_up),
            latency,
        })
    }
}

/// The numbers of the bursts, each when it is due. A thread of its own: the runtime's
/// timers are as coarse as the bursts.
fn paced(begun: Instant, bursts: u64) -> mpsc::UnboundedReceiver<u64> {
    let (due, taken) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for burst in 1..=bursts {
            let at = begun + BURST * burst as u32;
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if due.send(burst).is_err() {
                return;
            }
        }
    });
    taken
}

/// Keeps `window` commands under way; what is answered between `begin` and `end`
/// counts.
async fn drive(
    mut client: Client,
    window: usize,
    begin: Instant,
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
                bail!("a command was not carried out: code {code}");
            }
            room += 1;
            if now < begin || now > end {
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
        forget_answered(&mut sent, window);
    }
}

/// Frames that are surely answered: no more than `window` commands are under way.
fn forget_answered(sent: &mut VecDeque<(u64, Instant)>, window: usize) {
    while sent.len() > window + 1 {
        sent.pop_front();
    }
}

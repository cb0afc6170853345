//! Time, as the driver reports it.

use consensus::{CoreConfig, Tick};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Clock {
    /// The driver's time.
    tick: Tick,
    /// Ticks that count here: fewer, after the driver was delayed.
    now: u64,
    heartbeat_ticks: u64,
    election_ticks: u64,
    disk_stall_ticks: u64,
}

impl Clock {
    pub(super) fn new(config: &CoreConfig) -> Self {
        Self {
            tick: Tick(0),
            now: 0,
            heartbeat_ticks: config.heartbeat_ticks,
            election_ticks: config.election_ticks,
            disk_stall_ticks: config.disk_stall_ticks(),
        }
    }

    /// Whether time passed. It advances by one heartbeat interval at most: a driver
    /// that was delayed has messages waiting that show whether the primary is alive,
    /// and a burst of ticks before them would start a needless view change.
    pub(super) fn advance(&mut self, tick: Tick) -> bool {
        let elapsed = tick.0.saturating_sub(self.tick.0);
        self.tick = self.tick.max(tick);
        self.now += elapsed.min(self.heartbeat_ticks);
        elapsed > 0
    }

    /// The driver's time at which `due` is reached: in one tick at the earliest, and in
    /// one heartbeat interval at the latest.
    pub(super) fn deadline(&self, due: u64) -> Tick {
        let ticks = due.saturating_sub(self.now);
        Tick(self.tick.0 + ticks.clamp(1, self.heartbeat_ticks))
    }

    /// As if the driver's time had been this when the replica started.
    #[cfg(test)]
    pub(super) fn start_at(&mut self, tick: Tick) {
        self.tick = tick;
    }

    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    pub(crate) fn heartbeat_ticks(&self) -> u64 {
        self.heartbeat_ticks
    }

    pub(crate) fn election_ticks(&self) -> u64 {
        self.election_ticks
    }

    pub(crate) fn disk_stall_ticks(&self) -> u64 {
        self.disk_stall_ticks
    }
}

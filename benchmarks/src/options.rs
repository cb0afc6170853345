//! The options of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::replica::Durability;
use crate::scenarios::saturation;

/// Options that all scenarios share.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// One short round of everything, in under a minute
    #[arg(long)]
    pub(crate) quick: bool,
    /// Rounds of every measurement [default: 3, quick 1]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// The time of one measurement [default: 1, quick 0.2]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,
    /// Kills of the leader for each backend [default: 20, quick 3]
    #[arg(long, value_name = "N")]
    trials: Option<usize>,
    /// The time of elections on a busy machine [default: 20, quick 1]
    #[arg(long, value_name = "SECONDS")]
    saturation: Option<u64>,
    /// Bytes of a command
    #[arg(long, default_value_t = 256, value_name = "BYTES", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(8..=4_096))]
    pub(crate) command_size: usize,
    /// In-flight commands, several separated by commas
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    in_flight: Vec<usize>,
    /// Bounds of a batch, several separated by commas
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    batch: Vec<usize>,
    /// When a command counts as durable [default: both]
    #[arg(long, value_name = "WHEN")]
    durability: Option<Durability>,
    /// The number of replicas
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(crate) replicas: u8,
    /// Connections that share the in-flight commands
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub(crate) connections: usize,
    /// Only the protocols, in one process, without network and disk
    #[arg(long)]
    pub(crate) in_process: bool,
    /// Also measure etcd and ZooKeeper, where installed, and openraft
    #[arg(long)]
    pub(crate) peers: bool,
    /// The directory for results.json and report.html
    #[arg(long, default_value = "iggy-cluster-bench", value_name = "DIR")]
    pub(crate) out: PathBuf,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=3_600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number from 0.05 to 3600".into()),
    }
}

impl Options {
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }

    pub(crate) fn trials(&self) -> usize {
        self.trials
            .unwrap_or(if self.quick { 3 } else { 20 })
            .max(1)
    }

    pub(crate) fn measured(&self) -> Duration {
        let seconds = self.seconds.unwrap_or(if self.quick { 0.2 } else { 1.0 });
        Duration::from_secs_f64(seconds)
    }

    /// How long commands are sent before they count.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_millis(if self.quick { 150 } else { 300 })
    }

    pub(crate) fn saturation(&self) -> Duration {
        match (self.saturation, self.quick) {
            (Some(seconds), _) => Duration::from_secs(seconds.clamp(1, 86_400)),
            (None, true) => saturation::SECONDS_QUICK,
            (None, false) => saturation::SECONDS,
        }
    }

    pub(crate) fn in_flights(&self) -> Vec<usize> {
        match (self.in_flight.is_empty(), self.quick) {
            (false, _) => self.in_flight.iter().map(|n| (*n).max(1)).collect(),
            (true, true) => vec![1, 64, 2_048],
            (true, false) => vec![1, 64, 256, 2_048, 8_192],
        }
    }

    pub(crate) fn batches(&self) -> Vec<usize> {
        match (self.batch.is_empty(), self.quick) {
            (false, _) => self.batch.iter().map(|n| (*n).max(1)).collect(),
            (true, true) => vec![1, 64],
            (true, false) => vec![1, 8, 64, 512],
        }
    }

    pub(crate) fn durabilities(&self) -> Vec<Durability> {
        match self.durability {
            Some(durability) => vec![durability],
            None => vec![Durability::Fsync, Durability::None],
        }
    }
}

//! Stock clients that create and delete streams.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use iggy::prelude::*;
use integration_tests::Cluster;

pub(crate) struct Expected {
    /// Whether each stream whose last command was acknowledged exists.
    pub(crate) streams: BTreeMap<String, bool>,
    pub(crate) acknowledged: u64,
}

/// Stock clients that create and delete streams of their own.
pub(crate) struct Load {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<Vec<Instant>>>,
    clients: tokio::task::JoinSet<BTreeMap<String, bool>>,
}

impl Load {
    pub(crate) async fn start(
        cluster: &Cluster,
        clients: usize,
        nodes: &[u8],
    ) -> anyhow::Result<Self> {
        let mut load = Self {
            done: Arc::default(),
            stop: Arc::default(),
            answered: Arc::default(),
            clients: tokio::task::JoinSet::new(),
        };
        let mut connected = Vec::new();
        for number in 0..clients {
            connected.push(cluster.client(nodes[number % nodes.len()]).await?);
        }
        for (number, client) in connected.into_iter().enumerate() {
            let done = Arc::clone(&load.done);
            let stop = Arc::clone(&load.stop);
            let answered = Arc::clone(&load.answered);
            load.clients
                .spawn(async move { churn(number, &client, &done, &stop, &answered).await });
        }
        Ok(load)
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// The longest time in which no client received a reply.
    pub(crate) fn worst_gap(&self) -> Duration {
        let mut answered = self.answered.lock().expect("no client panics").clone();
        answered.push(Instant::now());
        answered.sort();
        let gaps = answered.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    pub(crate) async fn stop(mut self) -> Expected {
        self.stop.store(true, Ordering::Relaxed);
        let mut streams = BTreeMap::new();
        while let Some(joined) = self.clients.join_next().await {
            streams.extend(joined.unwrap_or_default());
        }
        Expected {
            streams,
            acknowledged: self.done(),
        }
    }
}

/// Returns, of each stream whose last command was acknowledged, whether it
/// exists.
async fn churn(
    number: usize,
    client: &IggyClient,
    done: &AtomicU64,
    stop: &AtomicBool,
    answered: &Mutex<Vec<Instant>>,
) -> BTreeMap<String, bool> {
    let mut known = BTreeMap::new();
    let acknowledge = || {
        done.fetch_add(1, Ordering::Relaxed);
        answered
            .lock()
            .expect("no client panics")
            .push(Instant::now());
    };
    for round in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Every eighth stream stays, so that a loss of either kind is seen.
        let name = format!("s-{number}-{round}");
        let Ok(id) = Identifier::named(&name) else {
            break;
        };
        match client.create_stream(&name).await {
            Ok(_) => {
                acknowledge();
                known.insert(name.clone(), true);
            }
            Err(_) => continue,
        }
        if round % 8 == 0 {
            continue;
        }
        known.remove(&name);
        if client.delete_stream(&id).await.is_ok() {
            acknowledge();
            known.insert(name, false);
        }
        if known.len() > 64 {
            // Only what stays needs to be remembered for long.
            known.retain(|_, exists| *exists);
        }
    }
    known
}

//! What copies follow: the metadata, and the time.

use std::sync::Arc;
use std::time::Duration;

use ::partitions::PartitionKey;
use adapters::metadata::{
    AssignmentsChange, Identifier, MetadataEvent, MetadataState, Stream, Topic,
};
use consensus::ReplicaId;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use super::registry::Copies;

/// How often copies notice that time has passed.
const TICK: Duration = Duration::from_millis(50);
/// Between two looks at the copies that may lack something.
const TRUST_PAUSE: Duration = Duration::from_secs(1);
/// Copies that are idle notice it with every so many ticks only: they may be very many.
const TICKS_OF_IDLE: u64 = 20;
/// Copies that are opened at the same time because this node leads them.
const OPENS_MAX: usize = 16;

impl Copies {
    /// Passes changes of the metadata to the copies that they concern, and opens those with
    /// which this node leads several copies. Runs until the sender is dropped.
    pub(crate) async fn follow(
        self: Arc<Self>,
        mut events: mpsc::UnboundedReceiver<MetadataEvent>,
    ) {
        let opens = Arc::new(Semaphore::new(OPENS_MAX));
        self.forget_epochs();
        self.refresh_where(&opens, |_| true);
        while let Some(event) = events.recv().await {
            match event {
                MetadataEvent::AssignmentsChanged(change) => match change {
                    AssignmentsChange::Of(keys) => self.refresh_keys(&opens, &keys),
                    AssignmentsChange::OfNode(node) => self.refresh_node(&opens, node),
                    AssignmentsChange::OfTopic {
                        stream_id,
                        topic_id,
                    } => self.refresh_topic(&opens, stream_id, topic_id),
                },
                MetadataEvent::Restored => self.refresh_where(&opens, |_| true),
                _ => continue,
            }
            self.leaders.notify_waiters();
        }
    }

    /// Forgets what is recorded of partitions that do not exist any more.
    fn forget_epochs(&self) {
        let state = self.node.metadata.reader.read();
        let exists = |key: &PartitionKey| state.partition(key).is_some();
        // An older state may not contain them yet.
        if state.leaders_change() && self.node.metadata.is_current() {
            self.node.files.retain(exists);
        }
    }

    /// Lets copies notice that time passes. Runs until the task is aborted.
    pub(crate) async fn tick(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0_u64.. {
            ticks.tick().await;
            let now = self.node.now();
            let all = number.is_multiple_of(TICKS_OF_IDLE);
            for copy in self.all_opened() {
                if all || !copy.is_idle(now) {
                    copy.tick();
                }
            }
        }
    }

    /// After a start whose log may lack something, opens all copies until each of them has again
    /// what it may have lost, and then forgets the loss. Runs to the end, or until the task is
    /// aborted.
    pub(crate) async fn regain_trust(self: Arc<Self>) {
        if !self.has_lost() {
            return;
        }
        loop {
            tokio::time::sleep(TRUST_PAUSE).await;
            let own: Vec<_> = {
                let state = self.node.metadata.reader.read();
                let me = self.node.me();
                let registered = state
                    .node(me)
                    .is_some_and(|node| node.info.incarnation == self.node.incarnation);
                if !state.leaders_change() || !registered {
                    continue;
                }
                topics(&state)
                    .flat_map(|(stream, topic)| topic.keys(stream.id))
                    .filter(|key| {
                        let partition = state.partition(key);
                        partition.is_some_and(|it| it.replicas.contains(me))
                    })
                    .collect()
            };
            let mut untrusted = 0;
            for key in own {
                match self.open(key).await {
                    Ok(copy) => untrusted += usize::from(!copy.is_trusted()),
                    Err(adapters::metadata::code::PARTITION_NOT_FOUND) => {}
                    Err(_) => untrusted += 1,
                }
            }
            if untrusted > 0 {
                debug!(untrusted, "copies lack what they may have lost");
                continue;
            }
            let files = Arc::clone(&self.node.files);
            let recorded = tokio::task::spawn_blocking(move || files.recovered()).await;
            match recorded {
                Ok(Ok(())) => {
                    info!("all copies of this node have again what they may have lost");
                    return;
                }
                Ok(Err(error)) => warn!(%error, "cannot record that nothing is lost"),
                Err(_) => return,
            }
        }
    }

    fn refresh_keys(self: &Arc<Self>, opens: &Arc<Semaphore>, keys: &[PartitionKey]) {
        for key in keys {
            if let Some(copy) = self.opened(key) {
                self.refresh(&copy);
            }
        }
        let led = {
            let state = self.node.metadata.reader.read();
            let led = keys.iter().filter(|key| self.leads_others(&state, key));
            led.copied().collect()
        };
        self.open_led(opens, led);
    }

    fn refresh_topic(self: &Arc<Self>, opens: &Arc<Semaphore>, stream_id: u32, topic_id: u32) {
        let keys: Vec<_> = {
            let state = self.node.metadata.reader.read();
            let stream = state.stream(&Identifier::Id(stream_id));
            let topic = stream.and_then(|stream| stream.topic(&Identifier::Id(topic_id)));
            let keys = topic.map(|topic| topic.keys(stream_id).collect());
            keys.unwrap_or_default()
        };
        self.refresh_keys(opens, &keys);
    }

    fn refresh_node(self: &Arc<Self>, opens: &Arc<Semaphore>, node: ReplicaId) {
        self.refresh_where(opens, |partition| partition.contains(node));
    }

    /// Refreshes the copies of partitions with such replicas.
    fn refresh_where(
        self: &Arc<Self>,
        opens: &Arc<Semaphore>,
        concerned: impl Fn(adapters::metadata::Replicas) -> bool,
    ) {
        for copy in self.all_opened() {
            self.refresh(&copy);
        }
        let led = {
            let state = self.node.metadata.reader.read();
            let mut led = Vec::new();
            for (stream, topic) in topics(&state) {
                for key in topic.keys(stream.id) {
                    let partition = topic.partitions.get(key.partition_id);
                    if partition.is_some_and(|it| concerned(it.replicas))
                        && self.leads_others(&state, &key)
                    {
                        led.push(key);
                    }
                }
            }
            led
        };
        self.open_led(opens, led);
    }

    /// Whether this node leads, and there are other copies.
    fn leads_others(&self, state: &MetadataState, key: &PartitionKey) -> bool {
        state.leaders_change()
            && state.partition(key).is_some_and(|partition| {
                partition.leader() == Some(self.node.me()) && partition.replicas.len() > 1
            })
    }

    /// Opens copies in the background, so that they notice which others are in sync.
    fn open_led(self: &Arc<Self>, opens: &Arc<Semaphore>, keys: Vec<PartitionKey>) {
        let closed: Vec<_> = keys
            .into_iter()
            .filter(|key| self.opened(key).is_none())
            .collect();
        if closed.is_empty() {
            return;
        }
        let (copies, opens) = (Arc::clone(self), Arc::clone(opens));
        tokio::spawn(async move {
            for key in closed {
                let Ok(place) = Arc::clone(&opens).acquire_owned().await else {
                    return;
                };
                let copies = Arc::clone(&copies);
                tokio::spawn(async move {
                    if let Err(code) = copies.open(key).await
                        && code != adapters::metadata::code::TRANSIENT_NOT_ACCEPTED
                        && code != adapters::metadata::code::PARTITION_NOT_FOUND
                    {
                        warn!(?key, %code, "a copy that leads cannot be opened");
                    }
                    drop(place);
                });
            }
        });
    }
}

fn topics(state: &MetadataState) -> impl Iterator<Item = (&Stream, &Topic)> {
    let streams = state.streams();
    streams.flat_map(|stream| stream.topics().map(move |topic| (&**stream, &**topic)))
}

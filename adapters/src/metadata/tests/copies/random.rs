//! Random commands about copies, and what must hold after each.

use proptest::prelude::*;

use super::*;

/// What may happen to partitions of up to four copies on five nodes.
#[derive(Clone, Debug)]
enum Change {
    Start(u64, LogState, bool),
    Fence(u64),
    Alter {
        partition: u32,
        from: u64,
        in_sync: u8,
        copies: Vec<u64>,
        stale: bool,
    },
    Move(u32, u64),
    Recover(u32, u64),
    Force(u32, u64),
    Purge,
}

fn change() -> impl Strategy<Value = Change> {
    let id = || 1..=5_u64;
    let log = prop_oneof![
        3 => Just(LogState::Intact),
        1 => Just(LogState::TailLost),
        1 => Just(LogState::Lost)
    ];
    let copies = prop::sample::subsequence(vec![1, 2, 3, 4, 5_u64], 1..=4).prop_shuffle();
    prop_oneof![
        4 => (id(), log, any::<bool>()).prop_map(|(id, log, again)| Change::Start(id, log, again)),
        3 => id().prop_map(Change::Fence),
        8 => (0..3_u32, prop_oneof![3 => Just(0), 1 => id()], any::<u8>(), copies, prop::bool::weighted(0.1))
            .prop_map(|(partition, from, in_sync, copies, stale)| Change::Alter { partition, from, in_sync, copies, stale }),
        2 => (0..3_u32, id()).prop_map(|(partition, to)| Change::Move(partition, to)),
        1 => (0..3_u32, id()).prop_map(|(partition, to)| Change::Recover(partition, to)),
        1 => (0..3_u32, id()).prop_map(|(partition, to)| Change::Force(partition, to)),
        1 => Just(Change::Purge),
    ]
}

impl Bench {
    fn partition(&self, id: u32) -> (PartitionKey, Partition) {
        let state = self.reader.read();
        let (stream, topic) = state.topic(&named("s"), &named("t")).unwrap();
        (
            topic.key(stream.id, id).unwrap(),
            topic.partitions.get(id).unwrap(),
        )
    }

    fn change_copies(&mut self, change: Change) {
        let incarnation =
            |bench: &Self, id| bench.reader.read().node(node(id)).unwrap().info.incarnation;
        match change {
            Change::Start(id, log, again) => {
                let next = incarnation(self, id) + u64::from(again);
                self.start(id, next, log);
            }
            Change::Fence(id) => self.fence(id),
            Change::Alter {
                partition,
                from,
                in_sync,
                mut copies,
                stale,
            } => {
                let (key, it) = self.partition(partition);
                let leader = it.owner().0;
                let from = if from == 0 { leader } else { from };
                if !copies.contains(&leader) {
                    copies[0] = leader;
                }
                let picked = copies.iter().enumerate();
                let mut set: Vec<u64> = picked
                    .filter(|(at, id)| in_sync & 1 << at != 0 || **id == leader && in_sync < 240)
                    .map(|(_, id)| *id)
                    .collect();
                if set.is_empty() {
                    set.push(copies[0]);
                }
                let change = InSyncChange {
                    key,
                    epoch: Epoch(it.leadership.epoch.into()),
                    version: u64::from(it.leadership.version) - u64::from(stale),
                    in_sync: replicas(&set),
                    replicas: replicas(&copies),
                };
                self.alter(from, incarnation(self, from), change);
            }
            Change::Move(partition, to) => {
                let (key, it) = self.partition(partition);
                let epoch = Epoch(it.leadership.epoch.into());
                let moved = LeaderMove {
                    key,
                    epoch,
                    to: node(to),
                };
                self.apply(&Command::Copies(CopiesCommand::MoveLeaders(vec![moved])));
            }
            Change::Recover(partition, to) | Change::Force(partition, to) => {
                let (key, it) = self.partition(partition);
                let recover = Recover {
                    key,
                    epoch: Epoch(it.leadership.epoch.into()),
                    leader: node(to),
                    incarnation: incarnation(self, to),
                    offset_gap: 1 << 22,
                };
                match change {
                    Change::Force(..) => self.force(recover),
                    _ => self.recover(recover),
                }
            }
            Change::Purge => {
                if self.log_in_anywhere() {
                    let stream = named("s");
                    self.client(ClientOperation::PurgeStream { stream });
                }
            }
        }
    }
}

/// A partition has a leader exactly if a copy in sync is on a live node, and it is such a one.
pub(super) fn check_copies(state: &MetadataState) {
    for topic in state.streams().flat_map(|stream| stream.topics()) {
        for it in &topic.partitions {
            assert!(it.in_sync().count() > 0, "{it:?}");
            let live = it.in_sync().any(|node| state.is_live(node));
            assert_eq!(it.leader().is_some(), live, "{it:?}");
            if let Some(leader) = it.leader() {
                assert!(it.is_in_sync(leader) && state.is_live(leader), "{it:?}");
            }
        }
    }
    check_counts(state);
}

/// Leader and start of the leader's process.
fn led_by(state: &MetadataState, it: &Partition) -> Option<(ReplicaId, u64)> {
    let leader = it.leader()?;
    Some((leader, state.node(leader)?.registration))
}

proptest! {
    #[test]
    fn epochs_rise_with_every_leader_and_sets_change_by_their_leader_only(
        changes in prop::collection::vec(change(), 0..80),
    ) {
        let mut bench = Bench::new();
        bench.start_all(5);
        bench.create_topic(named("s"), "t", 3);
        for change in changes {
            let before = bench.reader.read().clone();
            bench.change_copies(change.clone());
            let after = bench.reader.read();
            check_copies(&after);
            let topic = |state: &MetadataState| Arc::clone(state.topic(&named("s"), &named("t")).unwrap().1);
            for (was, is) in topic(&before).partitions.iter().zip(&topic(&after).partitions) {
                let (l, r) = (was.leadership, is.leadership);
                let what = format!("{change:?}: {was:?} -> {is:?}");
                let other_leader = led_by(&before, &was) != led_by(&after, &is);
                prop_assert!(r.epoch > l.epoch || r.epoch == l.epoch && !other_leader, "{}", what);
                let same = (was.leader(), was.replicas) == (is.leader(), is.replicas)
                    && was.in_sync().eq(is.in_sync()) && r.epoch == l.epoch;
                prop_assert!(r.version > l.version || same && r.version == l.version, "{}", what);
                let copies_changed = was.replicas != is.replicas || !was.in_sync().eq(is.in_sync());
                match &change {
                    Change::Alter { from, stale, .. } if copies_changed => {
                        prop_assert!(*from == 0 || was.leader() == Some(node(*from)), "{}", what);
                        prop_assert!(!stale, "{}", what);
                        let added = is.in_sync().filter(|node| !was.is_in_sync(*node));
                        prop_assert!(added.into_iter().all(|node| after.is_live(node)), "{}", what);
                    }
                    Change::Force(_, to) if copies_changed => {
                        prop_assert!(is.in_sync().eq([node(*to)]), "{}", what);
                    }
                    _ => prop_assert!(!copies_changed, "{}", what),
                }
            }
        }
        let snapshot = bench.machine.freeze().encode();
        let mut restored = Bench::empty();
        restored.machine.restore(&snapshot).unwrap();
        prop_assert_eq!(&*restored.reader.read(), &*bench.reader.read());
    }
}

//! Who leads partitions, and which copies are in sync.

use ::partitions::replication::{Epoch, Recovery};

use super::*;

mod random;
use random::check_copies;

fn node(id: u64) -> ReplicaId {
    ReplicaId(id)
}

fn replicas(ids: &[u64]) -> Replicas {
    let nodes: Vec<_> = ids.iter().copied().map(ReplicaId).collect();
    Replicas::new(&nodes).unwrap()
}

/// What is wrong with a command, and how it comes to be so.
type Variation<T> = (&'static str, fn(&mut T));

/// Leader, epoch, in-sync set, version.
type Seen = (Option<u64>, u32, Vec<u64>, u32);

impl Bench {
    /// A partition with copies on these nodes, all in sync; the first one leads.
    fn with_copies(ids: &[u64]) -> (Self, PartitionKey) {
        let mut bench = Self::new();
        bench.start_all(5);
        bench.create_topic(named("s"), "t", 1);
        let key = bench.key();
        let first = bench.reader.read().partition(&key).unwrap().owner().0;
        // A topic is created with one copy of each partition: its leader adds the others.
        if first != ids[0] {
            bench.alter(first, 2, bench.change(&[first], &[first, ids[0]]));
            bench.alter(first, 2, bench.change(&[first, ids[0]], &[first, ids[0]]));
            bench.move_leader(ids[0]);
        }
        bench.alter(ids[0], 2, bench.change(&ids[..1], ids));
        bench.alter(ids[0], 2, bench.change(ids, ids));
        assert_eq!(bench.seen().2, ids);
        (bench, key)
    }

    fn start(&mut self, id: u64, incarnation: u64, log: LogState) -> u64 {
        self.start_on(id, incarnation, log, STORAGE + u128::from(id))
    }

    fn start_on(&mut self, id: u64, incarnation: u64, log: LogState, storage_id: u128) -> u64 {
        let start = NodeStart {
            info: new_node(id, incarnation),
            storage_id,
            log,
        };
        match self.apply(&Command::Copies(CopiesCommand::StartNode(start))) {
            Reply::NodeRegistered { registration } => registration,
            other => panic!("{other:?}"),
        }
    }

    fn fence(&mut self, id: u64) {
        let registration = self.reader.read().node(node(id)).unwrap().registration;
        self.apply(&Command::FenceNode {
            node: node(id),
            registration,
        });
    }

    /// The partition's key, in its current generation.
    fn key(&self) -> PartitionKey {
        let state = self.reader.read();
        let (stream, topic) = state.topic(&named("s"), &named("t")).unwrap();
        topic.key(stream.id, 0).unwrap()
    }

    fn seen(&self) -> Seen {
        let it = self.reader.read().partition(&self.key()).unwrap();
        let Leadership { epoch, version, .. } = it.leadership;
        let in_sync = it.in_sync().map(|node| node.0).collect();
        (it.leader().map(|node| node.0), epoch, in_sync, version)
    }

    /// A change for the current epoch and version.
    fn change(&self, in_sync: &[u64], copies: &[u64]) -> InSyncChange {
        let (_, epoch, _, version) = self.seen();
        InSyncChange {
            key: self.key(),
            epoch: Epoch(epoch.into()),
            version: version.into(),
            in_sync: replicas(in_sync),
            replicas: replicas(copies),
        }
    }

    fn alter(&mut self, from: u64, incarnation: u64, change: InSyncChange) {
        let alter = AlterInSync {
            from: node(from),
            incarnation,
            changes: vec![change],
        };
        self.apply(&Command::Copies(CopiesCommand::AlterInSync(alter)));
    }

    fn move_leader(&mut self, to: u64) {
        let moved = LeaderMove {
            key: self.key(),
            epoch: Epoch(self.seen().1.into()),
            to: node(to),
        };
        self.apply(&Command::Copies(CopiesCommand::MoveLeaders(vec![moved])));
    }

    fn recover_to(&self, leader: u64) -> Recover {
        let incarnation = self
            .reader
            .read()
            .node(node(leader))
            .unwrap()
            .info
            .incarnation;
        Recover {
            key: self.key(),
            epoch: Epoch(self.seen().1.into()),
            leader: node(leader),
            incarnation,
            offset_gap: 1 << 22,
        }
    }

    fn recover(&mut self, recover: Recover) {
        self.apply(&Command::Copies(CopiesCommand::Recover(recover)));
    }

    fn force(&mut self, recover: Recover) {
        let Recover {
            key,
            epoch,
            leader,
            incarnation,
            ..
        } = recover;
        let force = ForceRecover {
            key,
            epoch,
            leader,
            incarnation,
        };
        self.apply(&Command::Copies(CopiesCommand::ForceRecover(force)));
    }

    fn recovery(&self) -> Option<Recovery> {
        self.reader.read().assignment(&self.key()).unwrap().recovery
    }
}

#[test]
fn a_fenced_leader_is_replaced_by_the_next_live_copy_in_sync() {
    let (mut bench, _) = Bench::with_copies(&[2, 1, 3]);
    let (_, epoch, _, version) = bench.seen();
    bench.fence(1);
    assert_eq!(bench.seen(), (Some(2), epoch, vec![2, 1, 3], version));
    bench.fence(2);
    assert_eq!(
        bench.seen(),
        (Some(3), epoch + 1, vec![2, 1, 3], version + 1)
    );
    bench.fence(3);
    assert_eq!(bench.seen(), (None, epoch + 2, vec![2, 1, 3], version + 2));
    // A copy that is not in sync does not lead.
    bench.start(4, 3, LogState::Intact);
    assert_eq!(bench.seen().0, None);
    bench.start(1, 2, LogState::TailLost);
    assert_eq!(
        bench.seen(),
        (Some(1), epoch + 3, vec![2, 1, 3], version + 3)
    );
    // It is replaced only when it ends.
    bench.start(2, 3, LogState::Intact);
    assert_eq!(bench.seen().0, Some(1));
}

#[test]
fn a_leader_that_starts_again_leads_a_new_epoch_unless_it_has_lost_something() {
    for (log, after) in [
        (LogState::Intact, 1),
        (LogState::TailLost, 2),
        (LogState::Lost, 2),
    ] {
        let (mut bench, _) = Bench::with_copies(&[1, 2, 3]);
        let (_, epoch, in_sync, version) = bench.seen();
        bench.start(1, 3, log);
        assert_eq!(bench.seen(), (Some(after), epoch + 1, in_sync, version + 1));
        let registered = bench.start(1, 3, log);
        let known = bench.reader.read().node(node(1)).unwrap().registration;
        assert_eq!((registered, bench.seen().1), (known, epoch + 1), "repeated");
    }
    // Where all have lost something, the leader stays.
    let (mut bench, _) = Bench::with_copies(&[1, 2]);
    bench.start(2, 3, LogState::Lost);
    bench.start(1, 3, LogState::TailLost);
    assert_eq!(bench.seen().0, Some(1));
}

/// Whatever a node reports, an unknown storage has nothing of what the former one had.
#[test]
fn another_storage_has_lost_everything_until_the_next_start_on_it() {
    let (mut bench, _) = Bench::with_copies(&[1, 2]);
    let log = |bench: &Bench| bench.reader.read().node(node(1)).unwrap().log;
    bench.start_on(1, 3, LogState::Intact, 77);
    assert_eq!((log(&bench), bench.seen().0), (LogState::Lost, Some(2)));
    bench.fence(1);
    bench.start_on(1, 3, LogState::Intact, 77);
    assert_eq!(log(&bench), LogState::Lost, "fenced by mistake");
    bench.start_on(1, 4, LogState::Intact, 77);
    assert_eq!(log(&bench), LogState::Intact);
}

/// Changes exactly one condition of a proposal that would be accepted, each in turn.
#[test]
fn a_proposal_takes_effect_only_where_it_is_based_on_what_is_true() {
    let proposed = |bench: &Bench| bench.change(&[1, 2], &[1, 2, 3]);
    let (mut bench, _) = Bench::with_copies(&[1, 2, 3]);
    let (_, epoch, _, version) = bench.seen();
    bench.alter(1, 2, proposed(&bench));
    let altered = (Some(1), epoch, vec![1, 2], version + 1);
    assert_eq!(bench.seen(), altered);

    let stale: [Variation<InSyncChange>; 4] = [
        ("a former epoch", |it| it.epoch.0 -= 1),
        ("a later epoch", |it| it.epoch.0 += 1),
        ("a former version", |it| it.version -= 1),
        ("another generation", |it| it.key.generation += 1),
    ];
    for (what, change) in stale {
        let (mut bench, _) = Bench::with_copies(&[1, 2, 3]);
        let (before, mut late) = (bench.seen(), proposed(&bench));
        change(&mut late);
        bench.alter(1, 2, late);
        assert_eq!(bench.seen(), before, "{what}");
    }
    for (what, from, incarnation) in [
        ("a node that does not lead", 2, 2),
        ("a former start of the leader", 1, 1),
        ("an unknown node", 9, 2),
    ] {
        let (mut bench, _) = Bench::with_copies(&[1, 2, 3]);
        let before = bench.seen();
        bench.alter(from, incarnation, proposed(&bench));
        assert_eq!(bench.seen(), before, "{what}");
    }
    // A repetition is based on a former version.
    let (mut bench, _) = Bench::with_copies(&[1, 2, 3]);
    let first = proposed(&bench);
    bench.alter(1, 2, first);
    bench.alter(1, 2, bench.change(&[1, 2, 3], &[1, 2, 3]));
    let before = bench.seen();
    bench.alter(1, 2, first);
    assert_eq!(bench.seen(), before);
}

/// The leader, whose proposal counts until the version rises, sees that it is refused.
#[test]
fn what_a_leader_may_not_propose_raises_the_version_only() {
    for (what, in_sync, copies) in [
        ("without the leader", &[2, 3][..], &[1, 2, 3][..]),
        ("a node without a copy", &[1, 4], &[1, 2, 3]),
        ("a copy on an unknown node", &[1, 2, 3], &[1, 2, 3, 9]),
        ("fewer than min_in_sync_replicas", &[1], &[1, 2, 3]),
        ("without a copy of the leader", &[2, 3], &[2, 3]),
    ] {
        let (mut bench, _) = Bench::with_copies(&[1, 2, 3]);
        let (leader, epoch, before, version) = bench.seen();
        bench.alter(1, 2, bench.change(in_sync, copies));
        assert_eq!(bench.seen(), (leader, epoch, before, version + 1), "{what}");
        check_counts(&bench.reader.read());
    }
    let (mut bench, _) = Bench::with_copies(&[1, 2, 3]);
    bench.alter(1, 2, bench.change(&[1, 2], &[1, 2, 3]));
    bench.fence(3);
    let (_, epoch, _, version) = bench.seen();
    bench.alter(1, 2, bench.change(&[1, 2, 3], &[1, 2, 3]));
    assert_eq!(
        bench.seen(),
        (Some(1), epoch, vec![1, 2], version + 1),
        "a fenced member"
    );
    // A member that is fenced later stays until the leader removes it.
    bench.fence(2);
    bench.alter(1, 2, bench.change(&[1, 2], &[1, 2]));
    assert_eq!(bench.seen().2, [1, 2]);
}

#[test]
fn copies_move_to_other_nodes_one_by_one() {
    let (mut bench, key) = Bench::with_copies(&[1, 2]);
    bench.alter(1, 2, bench.change(&[1, 2], &[1, 2, 5]));
    bench.alter(1, 2, bench.change(&[1, 2, 5], &[5, 1, 2]));
    bench.alter(1, 2, bench.change(&[5, 1], &[5, 1]));
    bench.move_leader(5);
    assert_eq!((bench.seen().0, bench.seen().2), (Some(5), vec![5, 1]));
    let state = bench.reader.read();
    check_counts(&state);
    let assignment = state.assignment(&key).unwrap();
    assert_eq!(assignment.replicas, [node(5), node(1)]);
    assert_eq!(assignment.in_sync, [node(1), node(5)]);
    assert_eq!(assignment.min_in_sync, 2);
    assert_eq!(assignment.members[&node(5)].registration, 2);
    assert!(assignment.members[&node(5)].live);
}

#[test]
fn leaders_move_to_live_copies_in_sync_of_the_same_epoch() {
    let (mut bench, _) = Bench::with_copies(&[1, 2, 3]);
    bench.alter(1, 2, bench.change(&[1, 2], &[1, 2, 3]));
    bench.fence(2);
    let before = bench.seen();
    for to in [2, 3, 4, 9] {
        bench.move_leader(to);
        assert_eq!(bench.seen(), before, "{to}");
    }
    bench.start(2, 3, LogState::Intact);
    let moved = LeaderMove {
        key: bench.key(),
        epoch: Epoch(before.1.into()),
        to: node(2),
    };
    let moves = |moved| Command::Copies(CopiesCommand::MoveLeaders(vec![moved]));
    let unknown = PartitionKey {
        generation: 0,
        ..moved.key
    };
    bench.apply(&moves(LeaderMove {
        key: unknown,
        ..moved
    }));
    assert_eq!(bench.seen(), before, "another generation");
    bench.apply(&moves(moved));
    assert_eq!(
        bench.seen(),
        (Some(2), before.1 + 1, vec![1, 2], before.3 + 1)
    );
    let event = MetadataEvent::AssignmentsChanged(AssignmentsChange::Of(vec![moved.key]));
    assert_eq!(bench.events.lock().unwrap().last(), Some(&event));
    let count = bench.events.lock().unwrap().len();
    bench.apply(&moves(LeaderMove {
        to: node(1),
        ..moved
    }));
    assert_eq!(bench.seen().0, Some(2), "of a former epoch");
    assert_eq!(bench.events.lock().unwrap().len(), count);
}

#[test]
fn others_lead_what_a_silent_node_led_where_one_can() {
    let (mut bench, key) = Bench::with_copies(&[1, 2, 3]);
    let registration = |bench: &Bench| {
        let state = bench.reader.read();
        state.node(node(1)).unwrap().registration
    };
    let silent = |bench: &mut Bench, registration| {
        bench.apply(&Command::Copies(CopiesCommand::ReplaceLeader {
            node: node(1),
            registration,
        }));
    };
    let before = bench.seen();
    let current = registration(&bench);
    silent(&mut bench, current - 1);
    assert_eq!(bench.seen(), before, "of a former registration");
    silent(&mut bench, current);
    assert_eq!(
        bench.seen(),
        (Some(2), before.1 + 1, before.2.clone(), before.3 + 1)
    );
    assert!(bench.reader.read().is_live(node(1)));
    check_counts(&bench.reader.read());
    bench.move_leader(1);
    bench.alter(1, 2, bench.change(&[1, 2], &[1, 2, 3]));
    bench.fence(2);
    let alone = bench.seen();
    silent(&mut bench, current);
    assert_eq!(bench.seen(), alone, "the other copy in sync is not live");
    assert_eq!(bench.key(), key);
}

#[test]
fn a_recovery_is_for_one_epoch_and_one_start_of_a_live_copy_in_sync() {
    let (mut bench, _) = Bench::with_copies(&[1, 2, 3]);
    bench.alter(1, 2, bench.change(&[1, 2], &[1, 2, 3]));
    bench.start(2, 3, LogState::TailLost);
    let before = bench.seen();
    let valid = bench.recover_to(2);
    let wrong: [Variation<Recover>; 6] = [
        ("a former epoch", |it| it.epoch.0 -= 1),
        ("a former start", |it| it.incarnation -= 1),
        ("a later start", |it| it.incarnation += 1),
        ("not in sync", |it| {
            (it.leader, it.incarnation) = (ReplicaId(3), 2);
        }),
        ("without a copy", |it| {
            (it.leader, it.incarnation) = (ReplicaId(4), 2);
        }),
        ("another generation", |it| it.key.generation -= 1),
    ];
    for (what, change) in wrong {
        let mut recover = valid;
        change(&mut recover);
        bench.recover(recover);
        assert_eq!(
            (bench.seen(), bench.recovery()),
            (before.clone(), None),
            "{what}"
        );
    }
    bench.recover(valid);
    let recovered = (Some(2), before.1 + 1, vec![1, 2], before.3 + 1);
    assert_eq!(bench.seen(), recovered);
    let recovery = bench.recovery().unwrap();
    let started = Epoch(u64::from(recovered.1));
    assert_eq!((recovery.epoch, recovery.offset_gap), (started, 1 << 22));
    bench.recover(valid);
    assert_eq!(bench.seen(), recovered, "repeated");
    bench.fence(2);
    let before = bench.seen();
    bench.recover(bench.recover_to(2));
    assert_eq!(bench.seen(), before, "fenced");
}

/// The named copy is all that counts from then on, also one that was not in sync.
#[test]
fn a_forced_recovery_takes_one_live_copy() {
    let (mut bench, key) = Bench::with_copies(&[1, 2, 3]);
    bench.alter(1, 2, bench.change(&[1, 2], &[1, 2, 3]));
    for id in [1, 2] {
        bench.fence(id);
    }
    let before = bench.seen();
    assert_eq!(before.0, None);
    for (what, leader, stale) in [
        ("fenced", 1, 0),
        ("without a copy", 4, 0),
        ("a former epoch", 3, 1),
    ] {
        let mut recover = bench.recover_to(leader);
        recover.epoch.0 -= stale;
        bench.force(recover);
        assert_eq!(bench.seen(), before, "{what}");
    }
    let mut restarted = bench.recover_to(3);
    restarted.incarnation -= 1;
    bench.force(restarted);
    assert_eq!(bench.seen(), before, "a former start");

    let forced = bench.recover_to(3);
    bench.force(forced);
    assert_eq!(
        (bench.seen().0, bench.seen().1, bench.seen().2),
        (Some(3), before.1 + 1, vec![3])
    );
    let recovery = bench.recovery().unwrap();
    assert!(recovery.is_forced());
    assert_eq!(recovery.first_offset(500), 1 << 40);
    bench.force(forced);
    assert_eq!(bench.seen().1, before.1 + 1, "repeated");
    // Nothing of the smaller gap may be taken for what was visible before.
    bench.recover(bench.recover_to(3));
    assert_eq!(bench.recovery().unwrap().first_offset(500), 1 << 40);
    // Fewer than min_in_sync_replicas are in sync: the set may grow.
    bench.start(1, 3, LogState::Intact);
    bench.alter(3, 2, bench.change(&[3, 1], &[1, 2, 3]));
    assert_eq!(bench.seen().2, [1, 3]);
    assert!(bench.log_in_anywhere());
    let purge = ClientOperation::PurgeStream { stream: named("s") };
    bench.client(purge);
    assert_eq!(
        bench.recovery(),
        None,
        "nothing is left in which an offset was visible"
    );
    assert!(bench.reader.read().assignment(&key).is_none());
}

/// Commands for the former generation change nothing; epoch and in-sync set stay.
#[test]
fn commands_for_a_purged_generation_change_nothing() {
    let (mut bench, _) = Bench::with_copies(&[1, 2, 3]);
    let (late, recover) = (bench.change(&[1, 2], &[1, 2, 3]), bench.recover_to(2));
    let before = bench.seen();
    bench.client(ClientOperation::PurgeTopic {
        stream: named("s"),
        topic: named("t"),
    });
    bench.alter(1, 2, late);
    bench.recover(recover);
    bench.force(recover);
    let moved = LeaderMove {
        key: recover.key,
        epoch: recover.epoch,
        to: node(2),
    };
    bench.apply(&Command::Copies(CopiesCommand::MoveLeaders(vec![moved])));
    assert_eq!(bench.seen(), before);
}

/// Version 0.1 would keep them.
#[test]
fn leaders_stay_until_all_nodes_know_that_they_change() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    bench.create_topic(named("s"), "t", 3);
    let moved = LeaderMove {
        key: bench.key(),
        epoch: Epoch(1),
        to: node(1),
    };
    let early = Command::Copies(CopiesCommand::MoveLeaders(vec![moved]));
    assert_eq!(bench.apply(&early), refused(3));
    for id in 2..=3 {
        bench.apply(&Command::RegisterNode(new_node(id, 2)));
    }
    bench.apply(&Command::RegisterNode(new_node(1, 2)));
    bench.fence(1);
    assert_eq!(bench.seen(), (Some(1), 1, vec![1], 1));
    bench.raise_level();
    assert_eq!(bench.seen(), (None, 2, vec![1], 2));
    bench.raise_level();
    assert_eq!(bench.seen().1, 2);
    bench.start(1, 2, LogState::Intact);
    assert_eq!(bench.seen(), (Some(1), 3, vec![1], 3));
    check_copies(&bench.reader.read());
}

/// It was proposed just before the level was raised.
#[test]
fn a_registration_that_names_no_storage_is_none_of_a_node_that_has_lost_nothing() {
    let (mut bench, _) = Bench::with_copies(&[1, 2]);
    bench.apply(&Command::RegisterNode(new_node(1, 3)));
    assert_eq!(bench.seen().0, Some(2));
    check_copies(&bench.reader.read());
}

/// When the level rises, all nodes have registered without their storage.
#[test]
fn a_node_that_names_its_storage_keeps_its_registration() {
    let mut bench = Bench::new();
    for id in 1..=3 {
        bench.apply(&Command::RegisterNode(new_node(id, 2)));
    }
    bench.raise_level();
    assert!(bench.log_in_anywhere());
    bench.create_stream("s");
    bench.create_topic(named("s"), "t", 1);
    let registered = |bench: &Bench| bench.reader.read().node(node(1)).unwrap().clone();
    let (before, seen) = (registered(&bench), bench.seen());
    for _ in 0..2 {
        let registration = bench.start(1, 2, LogState::Intact);
        assert_eq!(registration, before.registration);
        assert_eq!(registered(&bench).storage_id, STORAGE + 1);
        assert_eq!(bench.seen(), seen);
    }
    let reply = bench.create_stream("in the same session");
    assert!(matches!(reply, Reply::StreamCreated { .. }), "{reply:?}");
    bench.start_on(1, 2, LogState::Intact, 77);
    assert_eq!(registered(&bench).log, LogState::Lost);
    assert_eq!(bench.seen().1, seen.1 + 1);
}

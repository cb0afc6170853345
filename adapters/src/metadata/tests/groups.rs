//! Members of consumer groups.

use super::*;

#[test]
fn a_membership_ends_with_its_session() {
    let mut bench = Bench::new();
    bench.create_stream("s");
    bench.create_topic(named("s"), "t", 4);
    bench.change_group(GroupChange::Create(name("g")));
    let join = || GroupChange::Join {
        group: named("g"),
        busy: Default::default(),
    };
    let members = |bench: &Bench| {
        let state = bench.reader.read();
        let (_, topic) = state.topic(&named("s"), &named("t")).unwrap();
        topic.group(&named("g")).unwrap().members().len()
    };
    bench.change_group(join());
    assert_eq!(members(&bench), 1);
    let session = bench.session;
    bench.apply(&Command::Unregister {
        client: CLIENT,
        session,
    });
    assert_eq!(members(&bench), 0);

    // Another login replaces the session.
    for _ in 0..2 {
        let Reply::Registered { session } = bench.apply(&register(CLIENT, 1, 1)) else {
            panic!("not registered");
        };
        bench.session = session;
        assert_eq!(members(&bench), 0);
        bench.change_group(join());
        assert_eq!(members(&bench), 1);
    }

    bench.apply(&Command::FenceNode {
        node: ReplicaId(1),
        registration: 1,
    });
    assert_eq!(members(&bench), 0);
}

#[test]
fn group_commands_are_refused_with_the_codes_of_iggy() {
    let mut bench = Bench::new();
    let create = || GroupChange::Create(name("g"));
    assert_eq!(bench.change_group(create()), refused(1009));
    bench.create_stream("s");
    assert_eq!(bench.change_group(create()), refused(2010));
    bench.create_topic(named("s"), "t", 2);
    assert!(matches!(
        bench.change_group(create()),
        Reply::GroupCreated {
            id: 0,
            partitions: 2,
            ..
        }
    ));
    assert_eq!(bench.change_group(create()), refused(5004));
    for change in [
        GroupChange::Delete(named("other")),
        GroupChange::Leave(Identifier::Id(1)),
        GroupChange::Join {
            group: named("other"),
            busy: Default::default(),
        },
    ] {
        assert_eq!(bench.change_group(change), refused(5000));
    }
    assert_eq!(
        bench.change_group(GroupChange::Leave(named("g"))),
        refused(5006)
    );
    assert_eq!(
        bench.change_group(GroupChange::Delete(Identifier::Id(0))),
        Reply::Done
    );
    // Ids are not reused as long as the topic exists.
    assert!(matches!(
        bench.change_group(create()),
        Reply::GroupCreated { id: 1, .. }
    ));
}

use std::cell::Cell;

use super::*;

type Met = Result<Registration, HandshakeError>;

fn members(voters: u64) -> Option<Membership> {
    Membership::new(1, (1..=voters).map(ReplicaId), []).ok()
}

fn identity(cluster: &str, replica: u64) -> Identity {
    Identity {
        cluster: cluster.into(),
        replica: ReplicaId(replica),
        incarnation: replica * 10,
        storage_id: (u128::from(replica) << 96) + 7,
        membership: members(3),
    }
}

async fn meet_on(
    channel: Channel,
    from: Identity,
    to: ReplicaId,
    own: Identity,
    form: Hello,
) -> (Met, Result<Peer, HandshakeError>, Option<Registration>) {
    let (mut near, mut far) = tokio::io::duplex(4096);
    let shown = Cell::new(None);
    let admit = |_, presented| {
        shown.set(Some(presented));
        Ok(())
    };
    let (near, far) = tokio::join!(
        present(&mut near, &from, to, channel, form),
        receive(&mut far, &own, |id| id.0 <= 3, admit)
    );
    (near, far, shown.get())
}

async fn meet(from: Identity, to: ReplicaId, own: Identity) -> (Met, Result<Peer, HandshakeError>) {
    let (near, far, _) = meet_on(Channel::Data, from, to, own, Hello::Current).await;
    (near, far)
}

#[tokio::test]
async fn peers_of_one_cluster_learn_the_identity_of_the_other() {
    // One of them has no list, or both, or none.
    for (theirs, ours) in [(3, 3), (0, 3), (3, 0), (0, 0)] {
        let (mut from, mut own) = (identity("c", 1), identity("c", 2));
        (from.membership, own.membership) = (members(theirs), members(ours));
        let registration = |identity: &Identity| Registration {
            incarnation: identity.incarnation,
            storage_id: identity.storage_id,
        };
        let (hers, his) = (registration(&from), registration(&own));
        let met = meet_on(Channel::Data, from, ReplicaId(2), own, Hello::Current);
        let (near, far, shown) = met.await;
        assert_eq!((near.unwrap(), shown), (his, Some(hers)));
        let expected = Peer {
            replica: ReplicaId(1),
            channel: Channel::Data,
            incarnation: 10,
        };
        assert_eq!(far.unwrap(), expected);
    }
}

#[tokio::test]
async fn strangers_are_refused_with_a_reason() {
    for (from, to, why) in [
        (identity("other", 1), 2, "cluster \"other\""),
        (identity("c", 1), 3, "dialled replica 2, this is replica 1"),
        (identity("c", 9), 2, "replica 8 is not among"),
        (identity("c", 9), 2, "configuration, which lists 0, 1, 2;"),
        (identity("c", 9), 2, "the configuration here lists 0, 1, 2"),
    ] {
        let (near, far) = meet(from, ReplicaId(to), identity("c", 2)).await;
        assert!(far.is_err());
        let text = near.unwrap_err().to_string();
        assert!(text.contains(why), "{text}");
    }
}

#[tokio::test]
async fn the_text_of_a_refusal_is_one_line_without_control_characters() {
    let (mut near, mut far) = tokio::io::duplex(4096);
    let identity = identity("c", 1);
    let refusal = async {
        frame::read_short(&mut far, FRAME_BYTES_MAX).await.unwrap();
        let incarnation = [0; 8];
        let text = b"a\x1b[2J\nERROR b";
        let written = frame::write(&mut far, &[&[REFUSED], &incarnation, text]).await;
        written.unwrap();
        far.flush().await.unwrap();
    };
    let present = present(
        &mut near,
        &identity,
        ReplicaId(2),
        Channel::Data,
        Hello::Current,
    );
    let (refused, ()) = tokio::join!(present, refusal);
    let text = refused.unwrap_err().to_string();
    assert_eq!(text, "refused by the peer: a?[2J?ERROR b");
}

#[tokio::test]
async fn a_peer_with_another_list_of_replicas_is_refused_and_both_lists_are_named() {
    for voters in [1, 2, 4] {
        let other = Identity {
            membership: members(voters),
            ..identity("c", 2)
        };
        let (near, _) = meet(identity("c", 1), ReplicaId(2), other).await;
        let text = near.unwrap_err().to_string();
        let theirs = members(voters).unwrap();
        let lists =
            format!("replica 1 is configured with the replicas {theirs}, this node with 0, 1, 2;");
        assert!(text.contains(&lists), "{text}");
    }
}

#[tokio::test]
async fn a_refusal_by_the_disk_reaches_the_peer_and_the_question_whether_it_has_run_does_not() {
    let (from, own) = (identity("c", 1), identity("c", 2));
    for (channel, refused) in [(Channel::Consensus, true), (Channel::DiskHistory, false)] {
        let (mut near, mut far) = tokio::io::duplex(4096);
        let admit = |replica, shown: Registration| {
            Err(HandshakeError::OtherDisk {
                replica,
                presented: shown.storage_id,
                known: 9 << 96,
            })
        };
        let (near, far) = tokio::join!(
            present(&mut near, &from, ReplicaId(2), channel, Hello::Current),
            receive(&mut far, &own, |_| true, admit)
        );
        assert_eq!((near.is_err(), far.is_err()), (refused, refused));
        let Err(near) = near else {
            continue;
        };
        assert!(matches!(near, HandshakeError::OutdatedHere(_)), "{near}");
        let text = near.to_string();
        let why = "replica 0 runs on disk 00000001, but has had disk 00000009: ";
        assert!(text.contains(why), "{text}");
    }
}

/// Version 0.1 in both directions: what it sends, and what it reads and replies.
#[tokio::test]
async fn a_node_of_version_0_1_is_met_without_a_storage_id() {
    let (from, own) = (identity("c", 1), identity("c", 2));
    let met = meet_on(
        Channel::Data,
        from.clone(),
        ReplicaId(2),
        own.clone(),
        Hello::V0_1,
    );
    let shown = met.await.2.unwrap();
    assert_eq!((shown.incarnation, shown.storage_id), (10, 0));

    for (form, reply) in [(Hello::Current, None), (Hello::V0_1, Some((20, 0)))] {
        let (mut near, mut far) = tokio::io::duplex(4096);
        let old_node = async {
            let hello = frame::read_short(&mut far, FRAME_BYTES_MAX).await;
            let mut hello = hello.unwrap().unwrap();
            hello.advance(MAGIC.len());
            let known = hello.get_u16_le() == 1;
            let (code, text): (u8, &[u8]) = match known {
                true => (0, b""),
                false => (1, b"not a handshake of version 1: another version"),
            };
            if known {
                assert_eq!(&hello[25..], b"c", "the rest is the name of the cluster");
            }
            let incarnation = 20_u64.to_le_bytes();
            let written = frame::write(&mut far, &[&[code], &incarnation, text]).await;
            written.unwrap();
            far.flush().await.unwrap();
        };
        let present = present(&mut near, &from, ReplicaId(2), Channel::Data, form);
        let (presented, ()) = tokio::join!(present, old_node);
        match reply {
            Some(expected) => {
                let shown = presented.unwrap();
                assert_eq!((shown.incarnation, shown.storage_id), expected);
            }
            None => assert!(matches!(presented, Err(HandshakeError::Version(_)))),
        }
    }
}

#[test]
fn lists_of_members_come_back_unless_they_are_too_long_or_damaged() {
    let list = |voters: &[u64], learners: &[u64]| {
        let ids = |ids: &[u64]| ids.iter().map(|id| ReplicaId(*id)).collect::<Vec<_>>();
        Membership::new(1, ids(voters), ids(learners)).unwrap()
    };
    let details = |members| {
        let identity = Identity {
            membership: Some(members),
            ..identity("c", 1)
        };
        put_details(&identity).freeze()
    };
    let most: Vec<u64> = (8..=255).collect();
    for members in [
        list(&[1], &[]),
        list(&[3, 1, 2], &[1 << 20, u64::MAX]),
        list(&[1, 2, 3, 4, 5, 6, 7], &most),
    ] {
        let bytes = details(members.clone());
        let found = get_details(bytes.clone()).unwrap();
        assert_eq!(found, (Some(members), identity("c", 1).storage_id));
        for length in 1..bytes.len() {
            assert!(get_details(bytes.slice(..length)).is_err(), "{length}");
        }
    }
    let huge: Vec<u64> = (0..200).map(|id| u64::MAX - id).collect();
    let without = get_details(details(list(&[1], &huge))).unwrap();
    assert_eq!(without, (None, identity("c", 1).storage_id));
    assert_eq!(get_details(Bytes::new()).unwrap(), (None, 0));
    // A later form is not compared.
    let later = get_details(Bytes::from_static(&[3, 9])).unwrap();
    assert_eq!(later, (None, 0));
}

#[tokio::test(start_paused = true)]
async fn half_a_handshake_is_given_up_after_its_time() {
    for sent in [&b""[..], b"IG", &[200, 0, 0, 0, b'I', b'G']] {
        let (mut near, mut far) = tokio::io::duplex(4096);
        near.write_all(sent).await.unwrap();
        let started = Instant::now();
        let received = receive(&mut far, &identity("c", 2), |_| true, |_, _| Ok(())).await;
        assert!(matches!(received, Err(HandshakeError::Timeout)));
        assert_eq!(started.elapsed(), TIMEOUT);
    }
}

/// Nothing large is read before the handshake.
#[tokio::test]
async fn a_long_frame_instead_of_a_handshake_is_refused_by_its_length() {
    let (mut near, mut far) = tokio::io::duplex(4096);
    near.write_all(&(79_u32 << 20).to_le_bytes()).await.unwrap();
    let received = receive(&mut far, &identity("c", 2), |_| true, |_, _| Ok(())).await;
    assert!(matches!(received, Err(HandshakeError::Io(_))));
}

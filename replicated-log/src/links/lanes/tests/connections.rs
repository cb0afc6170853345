//! Connections that break, are replaced, or carry what no correct peer sends.

use super::*;

#[tokio::test]
async fn a_new_connection_replaces_the_former_one_whose_frames_are_dropped() {
    let mut node = Node::start(0).await;
    let mut former = Raw::dial(&node).await;
    former.piece(0, true, b"whole", 0).await;
    let first = node.next().await;
    assert_eq!((&first.frame[..], first.incarnation), (&b"whole"[..], 17));
    former.piece(1, true, b"half", 4).await;
    let mut newer = Raw::dial(&node).await;
    // The node has not closed the former one when this is written, or it has: it is dropped.
    let head = PieceHead {
        slot: 1,
        is_first: false,
        bytes: 4,
        following: 0,
    };
    let _ = former.0.write_all(&head.encode()).await;
    let _ = former.0.write_all(b"half").await;
    former.closed().await;
    newer.piece(0, true, b"newer", 0).await;
    let second = node.next().await;
    assert_eq!(second.frame[..], b"newer"[..]);
    assert!(second.connection > first.connection);
    assert_eq!(node.refused(), 0);
}

/// The handshake of a connection that the peer has given up may end after that of the next.
#[tokio::test]
async fn a_connection_that_was_accepted_before_the_newest_is_not_served() {
    let node = Node::start(0).await;
    let own = identity(7);
    let mut late = TcpStream::connect(&node.address).await.unwrap();
    // It is accepted before the next one.
    let mut newer = Raw::dial(&node).await;
    handshake::present(&mut late, &own, node.replica, LANE, Hello::Current)
        .await
        .unwrap();
    Raw(late).closed().await;
    newer.piece(0, true, b"frame", 0).await;
    let mut node = node;
    assert_eq!(node.next().await.frame[..], b"frame"[..]);
}

/// Such credit neither counts for the next connection nor keeps the former one open.
#[tokio::test]
async fn credit_of_a_connection_that_has_ended_is_gone_with_it() {
    let mut node = Node::start(0).await;
    let mut former = Raw::dial(&node).await;
    let large = vec![1; PIECE_BYTES_MAX];
    let pieces = LANE.window_bytes() as usize / (PIECE_BYTES_MAX + 64);
    let mut kept = Vec::new();
    for _ in 0..pieces {
        former.piece(0, true, &large, 0).await;
        kept.push(node.next().await);
    }
    let counts = node.counts(identity(7).replica);
    let all = pieces as u64 * cost(PIECE_BYTES_MAX);
    assert_eq!(counts.held_bytes.load(Ordering::Relaxed), all);
    let mut newer = Raw::dial(&node).await;
    former.closed().await;
    drop(kept);
    assert_eq!(counts.held_bytes.load(Ordering::Relaxed), 0);
    // The whole window is there, and what is reported is of this connection.
    for _ in 0..pieces {
        newer.piece(0, true, &large, 0).await;
        drop(node.next().await);
    }
    let mut reported = 0;
    let slack = Window(LANE.window_bytes()).slack();
    while reported + slack <= all {
        let now = newer.0.read_u64_le().await.unwrap();
        assert!(
            now > reported && now <= all,
            "{now} after {reported} of {all}"
        );
        reported = now;
    }
    assert_eq!(node.refused(), 0);
}

/// Each leaves half a long frame, and credit that is released when it has ended.
#[tokio::test]
async fn connections_in_quick_succession_leave_neither_sockets_nor_credit() {
    const CONNECTIONS: u64 = 200;
    let mut node = Node::start(0).await;
    let mut former: Option<(Raw, Arrived)> = None;
    let mut last = 0;
    for _ in 0..CONNECTIONS {
        let mut raw = Raw::dial(&node).await;
        if let Some((former, arrived)) = former.take() {
            former.closed().await;
            drop(arrived);
        }
        raw.piece(0, true, b"whole", 0).await;
        raw.piece(1, true, b"half", LANE_FRAME_BYTES_MAX / 4).await;
        let arrived = node.next().await;
        assert!(arrived.connection > last);
        last = arrived.connection;
        former = Some((raw, arrived));
    }
    drop(former);
    let counts = node.counts(identity(7).replica);
    assert_eq!(counts.held_bytes.load(Ordering::Relaxed), 0);
    assert_eq!(counts.received.load(Ordering::Relaxed), CONNECTIONS);
    assert_eq!(node.refused(), 0);
}

#[tokio::test]
async fn garbage_closes_the_connection_with_one_reason() {
    let head = |slot, is_first, bytes, following| {
        PieceHead {
            slot,
            is_first,
            bytes,
            following,
        }
        .encode()
        .to_vec()
    };
    let first = |bytes: usize, following| {
        let mut piece = head(0, true, bytes, following);
        piece.resize(8 + bytes, 1);
        piece
    };
    let too_long = |bytes: u32| (u64::from(bytes) | 1 << 31).to_le_bytes().to_vec();
    let window = LANE.window_bytes() as usize;
    let mut node = Node::start(0).await;
    for (number, garbage) in [
        // Unknown bits, too long a piece, too long a frame.
        vec![0x04, 0, 0, 0x90, 0, 0, 0, 0],
        too_long(PIECE_BYTES_MAX as u32 + 1),
        head(0, true, 8, LANE_FRAME_BYTES_MAX - 7),
        head(0, true, 8, u32::MAX as usize),
        // A frame in a slot that is in use, or that has not started.
        [first(4, 4), first(4, 4)].concat(),
        head(3, false, 4, 0),
        [first(4, 4), head(1, false, 4, 0)].concat(),
        // A piece that does not continue its frame, or is empty.
        [first(4, 4), head(0, false, 3, 0)].concat(),
        [first(4, 4), head(0, false, 4, 4)].concat(),
        [first(4, 4), head(0, false, 0, 4)].concat(),
        head(0, true, 0, 4),
        // More than the window.
        [first(4, window / 2), head(1, true, 4, window / 2)].concat(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut raw = Raw::dial(&node).await;
        raw.0.write_all(&garbage).await.unwrap();
        raw.closed().await;
        assert_eq!(node.refused(), number as u64 + 1, "{garbage:?}");
    }
    assert!(node.arrived.try_recv().is_err());
    // The node receives from the same peer afterwards.
    let mut raw = Raw::dial(&node).await;
    raw.piece(2, true, b"frame", 0).await;
    assert_eq!(node.next().await.frame[..], b"frame"[..]);
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_is_given_up_when_nothing_more_arrives() {
    let mut node = Node::start(0).await;
    let mut raw = Raw::dial(&node).await;
    raw.piece(0, true, b"whole", 0).await;
    node.next().await;
    let started = Instant::now();
    raw.piece(0, true, b"half", 100).await;
    raw.closed().await;
    assert!(started.elapsed() >= Duration::from_secs(30));
    assert_eq!(node.refused(), 0);
}

/// Accepts the lanes of a node, as a peer without the code that is tested.
struct RawListener(TcpListener);

impl RawListener {
    async fn peer_of(node: &Node) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        node.add(identity(7).replica, &address);
        while node.links.lanes().is_closed_to(identity(7).replica) {
            tokio::task::yield_now().await;
        }
        node.lanes.wake(LANE, identity(7).replica);
        Self(listener)
    }

    async fn accept(&self) -> TcpStream {
        let (mut stream, _) = self.0.accept().await.unwrap();
        let peer = handshake::receive(&mut stream, &identity(7), |_| true, |_, _| Ok(())).await;
        assert_eq!(peer.unwrap().channel, LANE);
        stream
    }
}

#[tokio::test]
async fn a_peer_that_releases_what_was_not_sent_is_dialled_anew() {
    let node = Node::start(0).await;
    let listener = RawListener::peer_of(&node).await;
    for number in 1..=2 {
        let mut stream = listener.accept().await;
        stream.write_u64_le(100_000).await.unwrap();
        stream.write_u64_le(1).await.unwrap();
        Raw(stream).closed().await;
        assert_eq!(node.refused(), number);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_replaced_and_the_source_is_notified_first() {
    let node = Node::start(0).await;
    let listener = RawListener::peer_of(&node).await;
    let peer = identity(7).replica;
    for number in 1..=3 {
        let mut stream = listener.accept().await;
        assert_eq!(*node.source.connected.borrow(), number - 1);
        // Nothing is taken from the source before there is a window.
        node.source.push(peer, 1, &b"frame"[..]);
        node.lanes.wake(LANE, peer);
        assert_eq!(node.source.waiting(peer), 1);
        stream.write_u64_le(1_000).await.unwrap();
        let head = stream.read_u64_le().await.unwrap().to_le_bytes();
        assert_eq!(PieceHead::decode(head).unwrap().bytes, 5);
        assert_eq!(*node.source.connected.borrow(), number);
        let counts = node.counts(peer);
        assert_eq!(counts.unreleased_bytes.load(Ordering::Relaxed), cost(5));
    }
}

/// Version 0.1 knows no lanes. It is not a faulty peer, and it is not dialled all the time.
#[tokio::test]
async fn a_peer_without_lanes_is_dialled_again_when_it_connects() {
    let node = Node::start(0).await;
    let listener = RawListener::peer_of(&node).await;
    let started = Instant::now();
    for _ in 0..3 {
        let (mut stream, _) = listener.0.accept().await.unwrap();
        let length = stream.read_u32_le().await.unwrap();
        let mut hello = vec![0; length as usize];
        stream.read_exact(&mut hello).await.unwrap();
        let text = b"not a handshake of version 1: unknown channel; check that the address is ";
        stream.write_u32_le(9 + text.len() as u32).await.unwrap();
        stream.write_u8(1).await.unwrap();
        stream.write_u64_le(17).await.unwrap();
        stream.write_all(text).await.unwrap();
        Raw(stream).closed().await;
        let upgraded = Raw::dial_without_adding(&node).await;
        drop(upgraded);
    }
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(node.refused(), 0);
    assert_eq!(
        node.links
            .silence(ReplicaId::from_number(5), started.into_std()),
        Duration::ZERO
    );
}

#[tokio::test]
async fn a_peer_that_is_removed_is_sent_nothing_and_one_that_returns_is() {
    let (near, mut far) = Node::pair().await;
    near.send(&far, 1, content(1, 1, 10));
    assert_eq!(check(far.next().await.frame), (1, 1, 10));
    near.peers.send_modify(|peers| peers.remove(far.replica));
    until(|| near.lanes.is_closed_to(far.replica)).await;
    near.send(&far, 1, content(1, 2, 10));
    assert_eq!(near.source.waiting(far.replica), 1);
    near.add(far.replica, &far.address);
    near.connect_to(&far).await;
    let arrived = far.next().await;
    assert_eq!(check(arrived.frame), (1, 2, 10));
}

#[tokio::test]
async fn the_lanes_are_in_the_metrics_by_peer_and_name() {
    let (near, mut far) = Node::pair().await;
    near.send(&far, 1, content(1, 1, 10));
    let _held = far.next().await;
    let labels = near.links.counters().lanes.all();
    let label = |name: &str| [("peer", "1".to_owned()), ("lane", name.to_owned())];
    for (lane, sent) in [("control", 0), ("append", 26), ("catch_up", 0)] {
        let found = labels.iter().find(|(labels, _)| *labels == label(lane));
        let counts = &found.unwrap().1;
        assert_eq!(counts.sent_bytes.load(Ordering::Relaxed), sent);
    }
}

//! Order, turns and credit.

use super::super::sending::Sending;
use super::*;

/// Some frames are written by the threads that wake the lane, some by its task; the receiver
/// releases them late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_each_stream_arrive_whole_and_in_order() {
    const STREAMS: u64 = 3;
    const EACH: u64 = 300;
    let size = |number: u64| [0, 100, 9_000, 70_000, 300_000, 2_000_000][number as usize % 6];
    let (near, mut far) = Node::pair().await;
    let to = far.replica;
    let senders = (0..STREAMS).map(|stream| {
        let (source, lanes) = (Arc::clone(&near.source), near.lanes.clone());
        std::thread::spawn(move || {
            for number in 0..EACH {
                source.push(to, stream, content(stream, number, size(number)));
                lanes.wake(LANE, to);
            }
        })
    });
    let senders: Vec<_> = senders.collect();
    let mut next = [0; STREAMS as usize];
    let mut unreleased = VecDeque::new();
    for _ in 0..STREAMS * EACH {
        let arrived = far.next().await;
        assert_eq!(
            (arrived.from, arrived.incarnation, arrived.lane),
            (near.replica, 10, LANE)
        );
        let (stream, number, bytes) = check(arrived.frame);
        assert_eq!(number, next[stream as usize]);
        assert_eq!(bytes, size(number));
        next[stream as usize] += 1;
        unreleased.push_back(arrived.credit);
        if unreleased.len() > 8 {
            unreleased.pop_front();
        }
    }
    for sender in senders {
        sender.join().unwrap();
    }
    let counts = near.counts(to);
    assert_eq!(counts.sent.load(Ordering::Relaxed), STREAMS * EACH);
    assert_eq!(counts.connections.load(Ordering::Relaxed), 1);
    drop(unreleased);
    let counts = far.counts(near.replica);
    assert_eq!(counts.received.load(Ordering::Relaxed), STREAMS * EACH);
    assert_eq!(counts.held_bytes.load(Ordering::Relaxed), 0);
}

/// The bytes that a connection sends, in pieces.
struct Pieces(Sending);

impl Pieces {
    fn new(window: usize) -> Self {
        Self(Sending::new(window as u64))
    }

    /// The streams of the next pieces, which are the first byte of each frame, while there is
    /// credit.
    fn take(&mut self, source: &mut VecDeque<LaneFrame>) -> Vec<(PieceHead, u8)> {
        let mut pieces = Vec::new();
        loop {
            self.0.fill(true, || source.pop_front());
            let unwritten = &mut self.0.unwritten;
            if !unwritten.has_remaining() {
                return pieces;
            }
            while unwritten.has_remaining() {
                let head = PieceHead::decode(unwritten.get_u64_le().to_le_bytes()).unwrap();
                let bytes = unwritten.copy_to_bytes(head.bytes);
                pieces.push((head, bytes.first().copied().unwrap_or_default()));
            }
        }
    }
}

fn frame(stream: u8, bytes: usize) -> LaneFrame {
    LaneFrame {
        stream: stream.into(),
        parts: vec![
            vec![stream; bytes / 3].into(),
            vec![stream; bytes - bytes / 3].into(),
        ],
    }
}

fn streams(pieces: &[(PieceHead, u8)]) -> Vec<u8> {
    pieces.iter().map(|(_, stream)| *stream).collect()
}

#[test]
fn a_long_frame_delays_others_by_one_piece() {
    let mut pieces = Pieces::new(1 << 30);
    let mut source = VecDeque::from([
        frame(1, 4 * PIECE_BYTES_MAX + 1),
        frame(2, 2 * PIECE_BYTES_MAX),
        frame(3, 10),
        frame(4, 10),
        frame(5, 10),
    ]);
    let taken = pieces.take(&mut source);
    assert_eq!(streams(&taken), [1, 2, 3, 4, 1, 2, 5, 1, 1, 1]);
    let lengths: Vec<_> = taken
        .iter()
        .map(|(head, _)| (head.bytes, head.following))
        .collect();
    assert_eq!(lengths[0], (PIECE_BYTES_MAX, 3 * PIECE_BYTES_MAX + 1));
    assert_eq!(lengths[9], (1, 0));
    assert_eq!(lengths[2], (10, 0));
}

#[test]
fn frames_of_one_stream_do_not_overtake_each_other_and_block_no_other_stream() {
    let mut pieces = Pieces::new(1 << 30);
    let mut source = VecDeque::from([
        frame(1, 2 * PIECE_BYTES_MAX),
        frame(1, 10),
        frame(1, 0),
        frame(2, 2 * PIECE_BYTES_MAX),
        frame(1, 20),
    ]);
    let taken = pieces.take(&mut source);
    let of_stream = |stream| {
        let of_stream = taken.iter().filter(move |(_, of)| *of == stream);
        of_stream.map(|(head, _)| head.bytes).collect::<Vec<_>>()
    };
    assert_eq!(of_stream(1), [PIECE_BYTES_MAX, PIECE_BYTES_MAX, 10, 20]);
    assert_eq!(of_stream(2), [PIECE_BYTES_MAX; 2]);
    // The empty frame.
    assert_eq!(of_stream(0), [0]);
    let second = taken.iter().position(|(_, stream)| *stream == 2).unwrap();
    assert_eq!(second, 1);
}

#[test]
fn what_is_unreleased_stays_within_the_window() {
    let window = 16 * MIB;
    let mut pieces = Pieces::new(window);
    let mut source: VecDeque<_> = (0..40).map(|number| frame(number, MIB)).collect();
    pieces.take(&mut source);
    let each = cost(MIB);
    assert_eq!(pieces.0.unreleased(), 15 * each);
    // One was taken from the source and waits.
    assert_eq!(source.len(), 24);
    assert!(pieces.take(&mut source).is_empty());
    pieces.0.released(each).unwrap();
    assert_eq!(pieces.take(&mut source).len(), 4);
    assert_eq!(pieces.0.unreleased(), 15 * each);
    // Totals never go back, and never exceed what was sent.
    assert!(pieces.0.released(each - 1).is_err());
    assert!(pieces.0.released(16 * each + 1).is_err());
    pieces.0.released(16 * each).unwrap();
    assert_eq!(pieces.0.unreleased(), 0);
}

#[test]
fn a_frame_longer_than_the_window_is_sent_alone() {
    let mut pieces = Pieces::new(MIB);
    let mut source = VecDeque::from([frame(1, MIB / 2), frame(2, 3 * MIB), frame(3, 10)]);
    pieces.take(&mut source);
    assert_eq!(pieces.0.unreleased(), cost(MIB / 2));
    // A sixteenth of the window may be unreported.
    pieces.0.released(cost(MIB / 2) - 64 * 1_024).unwrap();
    let taken = pieces.take(&mut source);
    assert!(streams(&taken).iter().all(|stream| *stream == 2));
    assert_eq!(taken.len(), 12);
    assert_eq!(source.len(), 0);
    pieces.0.released(cost(MIB / 2) + cost(3 * MIB)).unwrap();
    assert_eq!(streams(&pieces.take(&mut source)), [3]);
}

#[test]
fn a_frame_that_is_too_long_is_dropped_and_the_next_is_sent() {
    let mut sending = Sending::new(1 << 30);
    let part = Bytes::from(vec![1; LANE_FRAME_BYTES_MAX / 5 + 1]);
    let too_long = LaneFrame {
        stream: 1,
        parts: vec![part; 5],
    };
    let mut source = VecDeque::from([too_long, frame(2, 10)]);
    let filled = sending.fill(true, || source.pop_front());
    assert!(
        filled
            .too_long
            .is_some_and(|bytes| bytes > LANE_FRAME_BYTES_MAX)
    );
    assert_eq!((filled.frames, filled.bytes), (1, 10));
}

#[tokio::test(start_paused = true)]
async fn the_rate_of_the_catch_up_lane_is_limited_and_that_of_others_is_not() {
    let (near, mut far) = Node::pair().await;
    near.lanes.set_catch_up_rate(MIB as u64);
    let to = far.replica;
    let lane = Channel::CopiesCatchUp;
    let started = Instant::now();
    let old = LaneFrame {
        stream: 1,
        parts: vec![Bytes::from(vec![1; MIB])],
    };
    let frames = VecDeque::from(vec![old; 8]);
    near.source
        .frames
        .lock()
        .unwrap()
        .insert((lane, to), frames);
    near.lanes.wake(lane, to);
    for number in 0..8 {
        near.send(&far, 1, content(1, number, MIB));
    }
    let mut lanes = Vec::new();
    for _ in 0..16 {
        lanes.push(far.next().await.lane);
    }
    // The last one takes a second after those before it.
    assert!(
        started.elapsed() >= Duration::from_secs(7),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(lanes[15], lane);
    let others = lanes.iter().rposition(|lane| *lane == LANE).unwrap();
    assert!(others < 10, "{lanes:?}");
}

/// The memory of a slow follower, and of the nodes that send to it.
#[tokio::test]
async fn a_receiver_that_releases_nothing_is_sent_a_window_and_no_more() {
    let (near, mut far) = Node::pair().await;
    let (sent, received) = (near.counts(far.replica), far.counts(near.replica));
    let large = Bytes::from(vec![1; MIB]);
    for number in 0..100 {
        near.send(&far, number, large.clone());
    }
    until(|| sent.stalls.load(Ordering::Relaxed) == 1).await;
    let in_window = LANE.window_bytes() / cost(MIB);
    let mut kept = VecDeque::new();
    for _ in 0..in_window {
        kept.push_back(far.next().await);
    }
    assert!(far.arrived.try_recv().is_err());
    // One waits in the lane, the others at their source.
    let waiting = 100 - in_window as usize - 1;
    assert_eq!(near.source.waiting(far.replica), waiting);
    let in_window = in_window * cost(MIB);
    assert_eq!(sent.unreleased_bytes.load(Ordering::Relaxed), in_window);
    assert_eq!(received.held_bytes.load(Ordering::Relaxed), in_window);
    // What is released is sent again, whatever the order.
    for _ in 0..waiting + 1 {
        let released = kept.pop_back().unwrap();
        drop(released);
        if received.held_bytes.load(Ordering::Relaxed) + LANE.window_bytes() / 16 < in_window {
            kept.push_front(far.next().await);
        }
    }
    assert_eq!(near.source.waiting(far.replica), 0);
}

#[tokio::test]
async fn a_frame_of_the_greatest_length_arrives() {
    let (near, mut far) = Node::pair().await;
    // Made before anything is sent: a thread that is busy for seconds looks like a dead peer.
    let longest = content(2, 2, LANE_FRAME_BYTES_MAX - 16);
    near.send(&far, 1, content(1, 1, 3 * MIB));
    near.send(&far, 2, longest);
    let first = far.next().await;
    assert_eq!(check(first.frame), (1, 1, 3 * MIB));
    let counts = near.counts(far.replica);
    until(|| counts.stalls.load(Ordering::Relaxed) == 1).await;
    assert_eq!(counts.sent.load(Ordering::Relaxed), 1);
    near.send(&far, 3, content(3, 3, MIB));
    drop(first.credit);
    // A sixteenth of the window may stay unreported.
    near.send(&far, 4, content(4, 4, 0));
    let second = far.next().await;
    assert_eq!(check(second.frame), (2, 2, LANE_FRAME_BYTES_MAX - 16));
    drop(second.credit);
    // Both fit now, and travel in turns: the short one may be whole first.
    let mut last = [far.next().await, far.next().await].map(|arrived| check(arrived.frame));
    last.sort_unstable();
    assert_eq!(last, [(3, 3, MIB), (4, 4, 0)]);
}

#[test]
fn a_window_reports_often_enough_for_a_frame_that_is_longer() {
    for bytes in [0, 1, 1_000, 32 << 20] {
        let window = Window(bytes);
        // What is not reported never keeps such a frame waiting.
        let unreported = window.slack().saturating_sub(1);
        assert!(window.allows(unreported.min(window.slack()), cost(LANE_FRAME_BYTES_MAX)));
    }
}

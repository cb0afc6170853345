//! What a leader knows of a follower.

use std::collections::VecDeque;
use std::time::Duration;

use consensus::{Index, rule};

use super::chain::Position;
use super::message::Beat;
use super::settings::Settings;

/// How long an append may stay without an answer before the follower reports again where
/// it is.
const ANSWER_PATIENCE: Duration = Duration::from_millis(200);
/// How long a table may stay without an answer before it is sent again.
const TABLE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a follower that does not answer counts as reachable.
const SILENT_FOR: Duration = Duration::from_millis(500);

pub(super) struct Progress {
    /// Whose numbers these are.
    pub(super) registration: Option<u64>,
    /// The record after which the next append starts.
    pub(super) predecessor: Position,
    /// Whether `predecessor` is a guess: then one append at a time is sent.
    probing: bool,
    outstanding: bool,
    sent_at: Duration,
    sent_commit: Index,
    sent_table_commit: u64,
    /// Since when something that was sent has no answer.
    unanswered: Option<Duration>,
    /// The last records of appends that it has not written, with the appends' bytes.
    in_flight: VecDeque<(Index, usize)>,
    in_flight_bytes: usize,
    /// Whether the caller knows that there is something to send.
    ready: bool,
    pub(super) matched: Index,
    pub(super) written: Index,
    pub(super) synced: Index,
    pub(super) trusted: bool,
    /// When the last beat that it has answered was sent, in microseconds.
    pub(super) confirmed_micros: Option<u64>,
    /// The version of this epoch's table that it has.
    pub(super) table: u64,
    /// The version that it gets if nothing is lost; zero when it needs the whole table.
    pub(super) table_sent: u64,
    table_sent_at: Duration,
    /// It has acknowledged less than before: it counts no longer.
    gone_back: bool,
    /// It has everything that the leader had then.
    pub(super) caught_up: Duration,
    /// Since when it has been caught up without a break.
    pub(super) steady_since: Option<Duration>,
}

/// What the leader has to convey.
#[derive(Clone, Copy)]
pub(super) struct News {
    pub(super) now: Duration,
    pub(super) end: Index,
    pub(super) commit: Index,
    pub(super) table_commit: u64,
    /// A beat has to be sent at this time or later.
    pub(super) beat_since: Option<Duration>,
    /// How often a beat is sent when there is nothing else.
    pub(super) beat_every: Duration,
}

/// What may be sent to a follower: the records up to `through`, in `bytes_max` bytes.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) records: u64,
    pub(super) bytes_max: usize,
}

impl Progress {
    pub(super) fn new(guess: Position, now: Duration) -> Self {
        Self {
            registration: None,
            predecessor: guess,
            probing: true,
            outstanding: false,
            sent_at: Duration::ZERO,
            sent_commit: Index(0),
            sent_table_commit: 0,
            unanswered: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            ready: false,
            matched: Index(0),
            written: Index(0),
            synced: Index(0),
            trusted: false,
            confirmed_micros: None,
            table: 0,
            table_sent: 0,
            table_sent_at: Duration::ZERO,
            gone_back: false,
            caught_up: now,
            steady_since: None,
        }
    }

    /// Its process has started again: nothing is known of it any more.
    pub(super) fn starts_again(&mut self, guess: Position, registration: u64) {
        *self = Self {
            registration: Some(registration),
            ready: self.ready,
            ..Self::new(guess, self.caught_up)
        };
    }

    /// What may be sent now; `None` when nothing is to be sent, no records for an append
    /// that conveys only the commit index and the end.
    pub(super) fn room(&self, news: &News, settings: &Settings) -> Option<Room> {
        let waited = news.now.saturating_sub(self.sent_at);
        let left = news.end.0.saturating_sub(self.predecessor.index.0);
        let records = left.min(settings.append_records_max);
        if self.probing {
            let may = !self.outstanding || waited >= ANSWER_PATIENCE;
            let bytes_max = settings.append_bytes_max;
            return may.then_some(Room { records, bytes_max });
        }
        let in_flight = self.predecessor.index.0.saturating_sub(self.written.0);
        let window = settings.in_flight_bytes_max;
        let bytes = window.saturating_sub(self.in_flight_bytes);
        let full = bytes == 0 && rule!(WindowInBytes);
        let records = if full {
            0
        } else {
            records.min(settings.in_flight_records_max.saturating_sub(in_flight))
        };
        let idle = left == 0 && self.predecessor.index == self.matched;
        let committed =
            self.sent_commit < news.commit || self.sent_table_commit < news.table_commit;
        let beat = news.beat_since.is_some_and(|since| self.sent_at < since);
        let due = committed && idle || beat || waited >= news.beat_every;
        let bytes_max = bytes.min(settings.append_bytes_max);
        (records > 0 || due).then_some(Room { records, bytes_max })
    }

    /// Whether the caller has to learn that there is something to send.
    pub(super) fn becomes_ready(&mut self, news: &News, settings: &Settings) -> bool {
        if self.ready || self.room(news, settings).is_none() {
            return false;
        }
        self.ready = true;
        true
    }

    /// The caller has sent everything that there was.
    pub(super) fn exhausted(&mut self) {
        self.ready = false;
    }

    /// Records after `predecessor`, up to `last`, were sent.
    pub(super) fn sent(&mut self, now: Duration, last: Position, beat: &Beat, bytes: usize) {
        self.sent_at = now;
        self.outstanding = true;
        self.unanswered.get_or_insert(now);
        self.sent_commit = beat.commit;
        self.sent_table_commit = beat.table_commit;
        if !self.probing && last.index > self.predecessor.index {
            self.predecessor = last;
            self.in_flight.push_back((last.index, bytes));
            self.in_flight_bytes += bytes;
        }
    }

    /// It has answered something.
    pub(super) fn answered(&mut self, now: Duration) {
        let more = !self.probing && self.predecessor.index > self.matched;
        self.unanswered = more.then_some(now);
    }

    /// The start of the log was sent: the answer is awaited like that to an append.
    pub(super) fn started(&mut self, now: Duration) {
        self.sent_at = now;
        self.outstanding = true;
        self.unanswered.get_or_insert(now);
    }

    /// The follower has what precedes; from here on appends follow each other.
    pub(super) fn matched(&mut self, at: Position) {
        self.outstanding = false;
        self.matched = at.index;
        if self.probing || at.index > self.predecessor.index {
            self.probing = false;
            self.predecessor = at;
        }
    }

    /// It has written records up to here.
    pub(super) fn wrote(&mut self, written: Index) {
        self.written = written;
        while let Some(&(last, bytes)) = self.in_flight.front() {
            if last > written {
                break;
            }
            self.in_flight_bytes -= bytes;
            self.in_flight.pop_front();
        }
    }

    /// It has less than it acknowledged: until its process starts again, nothing that it
    /// states counts.
    pub(super) fn went_back(&mut self) {
        self.gone_back = true;
        self.trusted = false;
    }

    pub(super) fn has_gone_back(&self) -> bool {
        self.gone_back
    }

    /// Asks again where the follower is, from this guess: what was sent after what it has
    /// confirmed is lost.
    pub(super) fn probe(&mut self, guess: Position) {
        self.probing = true;
        self.outstanding = false;
        self.predecessor = guess;
        while let Some(&(last, bytes)) = self.in_flight.back() {
            if last <= self.matched {
                break;
            }
            self.in_flight_bytes -= bytes;
            self.in_flight.pop_back();
        }
    }

    /// Whether it needs the whole table: it has none of this epoch, or a change was lost.
    pub(super) fn needs_table(&self, now: Duration, version: u64) -> bool {
        let late = now.saturating_sub(self.table_sent_at) >= TABLE_PATIENCE;
        let lost = self.table < version && late;
        self.registration.is_some() && (self.table_sent < version || lost)
    }

    /// This version of the table was sent.
    pub(super) fn sent_table(&mut self, now: Duration, version: u64) {
        self.table_sent = version;
        self.table_sent_at = now;
    }

    /// Whether what was sent has stayed without an answer for too long.
    pub(super) fn is_stuck(&self, now: Duration) -> bool {
        let over = |since| now.saturating_sub(since) >= ANSWER_PATIENCE;
        !self.probing && self.predecessor.index > self.matched && self.unanswered.is_some_and(over)
    }

    /// Whether it answers: nothing of what was sent in this epoch has waited for long.
    pub(super) fn is_reachable(&self, now: Duration) -> bool {
        let within = |since| now.saturating_sub(since) < SILENT_FOR;
        !self.gone_back && self.registration.is_some() && self.unanswered.is_none_or(within)
    }
}

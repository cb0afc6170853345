//! A limit in bytes, and its division among those who hold some.
//!
//! Memory is taken up for as long as a client takes to read a reply, or to send a request: what
//! one does not release, others lack. So it is divided, at two levels: an *account* is a user
//! or another node, a *share* of it is one connection or request. The bounds depend on what
//! is free (dynamic thresholds, as switches divide their packet memory), so that few holders
//! may hold much, and many leave room for a next one:
//!
//! - An account may hold as much as it leaves free: alone a half, two of them a third each.
//! - A share may hold as much as it leaves of its account's part, or all of that if the
//!   account has no other. Of a reservation that may be smaller, it is a quarter of what it
//!   leaves: then twenty holders leave room for a next one.
//! - A share that holds little ([`SMALL_UNITS`]) is bounded by its account alone, which may
//!   hold three times as much as it leaves free in this way. So what needs little is served
//!   when the rest of the account holds all that it may.
//!
//! A reservation that has no room fails, is smaller, or waits: in order within its account,
//! and the accounts take turns.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

/// What is counted as one.
const UNIT_BYTES: usize = 1 << 10;
/// What a share may hold although its account has no room for more.
const SMALL_UNITS: usize = 1 << 10;

/// Bytes that may be reserved, shared by all who hold some. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    units: usize,
    accounts: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// By account, the one without shares included. No queue is empty.
    waiting: BTreeMap<u64, VecDeque<Waiting>>,
    /// The account that was served last, after which the others have their turn.
    last: u64,
}

#[derive(Debug)]
struct Waiting {
    share: Option<MemoryShare>,
    min: usize,
    max: usize,
    granted: oneshot::Sender<ReservedMemory>,
}

type Grant = (oneshot::Sender<ReservedMemory>, ReservedMemory);

/// A party among which a budget is divided, for instance a user. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MemoryAccount {
    budget: MemoryBudget,
    account: Arc<Account>,
}

/// Changed only with the state of the budget locked.
#[derive(Debug)]
struct Account {
    number: u64,
    used: AtomicUsize,
}

/// One of those among which an account is divided, for instance a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MemoryShare(Arc<Share>);

#[derive(Debug)]
struct Share {
    budget: MemoryBudget,
    account: Arc<Account>,
    /// Changed only with the state of the budget locked.
    used: AtomicUsize,
}

/// Bytes that are reserved until this is dropped.
#[derive(Debug)]
pub struct ReservedMemory {
    budget: MemoryBudget,
    share: Option<MemoryShare>,
    units: usize,
}

impl MemoryBudget {
    /// A budget of so many bytes, in whole KiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let units = bytes / UNIT_BYTES;
        Self(Arc::new(Pool {
            units,
            accounts: AtomicU64::new(0),
            state: Mutex::new(State {
                free: units,
                waiting: BTreeMap::new(),
                last: 0,
            }),
        }))
    }

    /// A further party among which the memory is divided.
    #[must_use]
    pub fn account(&self) -> MemoryAccount {
        MemoryAccount {
            budget: self.clone(),
            account: Arc::new(Account {
                number: self.0.accounts.fetch_add(1, Ordering::Relaxed) + 1,
                used: AtomicUsize::new(0),
            }),
        }
    }

    /// Holds so many bytes, if they are free, on no account.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<ReservedMemory> {
        self.take(None, units(bytes), units(bytes))
    }

    /// The same with so many bytes, or all that there are, as soon as they are free.
    pub async fn reserve(&self, bytes: usize) -> ReservedMemory {
        let units = units(bytes).min(self.0.units);
        self.wait(None, units, units).await
    }

    /// Bytes that are reserved now.
    #[must_use]
    pub fn reserved_bytes(&self) -> usize {
        (self.0.units - self.state().free) * UNIT_BYTES
    }

    /// Reservations that wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state().waiting.values().map(VecDeque::len).sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds between so many units, if there is room.
    fn take(&self, share: Option<&MemoryShare>, min: usize, max: usize) -> Option<ReservedMemory> {
        self.state().take(self, share, min, max)
    }

    /// The same as soon as there is room.
    async fn wait(&self, share: Option<&MemoryShare>, min: usize, max: usize) -> ReservedMemory {
        let (granted, grant) = oneshot::channel();
        {
            let mut state = self.state();
            let account = number(share);
            // Those that wait in an account lack the room: only what needs less passes them.
            let passes = share.is_some() || !state.waiting.contains_key(&account);
            if passes && let Some(reserved) = state.take(self, share, min, max) {
                return reserved;
            }
            state
                .waiting
                .entry(account)
                .or_default()
                .push_back(Waiting {
                    share: share.cloned(),
                    min,
                    max,
                    granted,
                });
        }
        let Ok(reserved) = grant.await else {
            unreachable!("a reservation waits until it is granted");
        };
        reserved
    }

    fn release(&self, share: Option<&MemoryShare>, units: usize) {
        let granted = {
            let mut state = self.state();
            state.free += units;
            if let Some(MemoryShare(share)) = share {
                share.account.used.fetch_sub(units, Ordering::Relaxed);
                share.used.fetch_sub(units, Ordering::Relaxed);
            }
            state.serve_waiting(self)
        };
        // Without the lock: a grant to a caller that waits no more is released again.
        for (caller, reserved) in granted {
            drop(caller.send(reserved));
        }
    }
}

/// Zero stands for those without a share.
fn number(share: Option<&MemoryShare>) -> u64 {
    share.map_or(0, |share| share.0.account.number)
}

impl State {
    /// What a share may hold in addition, between these bounds.
    fn room(&self, share: Option<&MemoryShare>, min: usize, max: usize) -> Option<usize> {
        let Some(MemoryShare(share)) = share else {
            return (self.free >= min).then_some(self.free.min(max));
        };
        let account = share.account.used.load(Ordering::Relaxed);
        let used = share.used.load(Ordering::Relaxed);
        let of_account = self.free.saturating_sub(account) / 2;
        let (most, usual) = match account == used {
            true => (of_account, of_account),
            false => {
                let left = of_account.saturating_sub(used);
                (left / 2, left.saturating_sub(3 * used) / 5)
            }
        };
        let small = (3 * self.free).saturating_sub(account) / 4;
        let small = small.min(SMALL_UNITS.saturating_sub(used));
        match usual.max(small).min(max) {
            room if room >= min => Some(room),
            _ => (most >= min).then_some(min),
        }
    }

    fn take(
        &mut self,
        budget: &MemoryBudget,
        share: Option<&MemoryShare>,
        min: usize,
        max: usize,
    ) -> Option<ReservedMemory> {
        let units = self.room(share, min, max)?;
        self.free -= units;
        if let Some(MemoryShare(share)) = share {
            share.account.used.fetch_add(units, Ordering::Relaxed);
            share.used.fetch_add(units, Ordering::Relaxed);
        }
        Some(ReservedMemory {
            budget: budget.clone(),
            share: share.cloned(),
            units,
        })
    }

    /// Grants what there is room for.
    fn serve_waiting(&mut self, budget: &MemoryBudget) -> Vec<Grant> {
        let mut granted = Vec::new();
        if self.waiting.is_empty() {
            return granted;
        }
        let turn = (Bound::Excluded(self.last), Bound::Unbounded);
        let after = self.waiting.range(turn).map(|(account, _)| *account);
        let before = self.waiting.range(..=self.last);
        let turns: Vec<_> = after.chain(before.map(|(account, _)| *account)).collect();
        for account in turns {
            let Some(mut queue) = self.waiting.remove(&account) else {
                continue;
            };
            while let Some(grant) = self.serve_account(budget, &mut queue) {
                self.last = account;
                granted.push(grant);
            }
            if !queue.is_empty() {
                self.waiting.insert(account, queue);
            }
        }
        granted
    }

    /// Grants the first one of an account for which there is room. One that needs much does
    /// not keep those behind it waiting.
    fn serve_account(
        &mut self,
        budget: &MemoryBudget,
        queue: &mut VecDeque<Waiting>,
    ) -> Option<Grant> {
        queue.retain(|waiting| !waiting.granted.is_closed());
        let fits = |waiting: &Waiting| {
            let Waiting {
                share, min, max, ..
            } = waiting;
            self.room(share.as_ref(), *min, *max).is_some()
        };
        let first = queue.iter().position(fits)?;
        let Waiting {
            share,
            min,
            max,
            granted,
        } = queue.remove(first)?;
        let reserved = self.take(budget, share.as_ref(), min, max)?;
        Some((granted, reserved))
    }
}

impl MemoryAccount {
    /// A further one among which the account is divided.
    #[must_use]
    pub fn share(&self) -> MemoryShare {
        MemoryShare(Arc::new(Share {
            budget: self.budget.clone(),
            account: Arc::clone(&self.account),
            used: AtomicUsize::new(0),
        }))
    }

    /// Whether this is the only handle of the account, and it has no share and no reservation.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        Arc::strong_count(&self.account) == 1
    }
}

impl MemoryShare {
    /// Holds so many bytes, if there is room for them.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<ReservedMemory> {
        self.try_reserve_up_to(bytes, bytes)
    }

    /// Holds up to `max` bytes, as far as there is room, if there is any for `min` bytes.
    #[must_use]
    pub fn try_reserve_up_to(&self, min: usize, max: usize) -> Option<ReservedMemory> {
        self.0.budget.take(Some(self), units(min), units(max))
    }

    /// The same as soon as there is room. What is more than the budget has is never granted.
    pub async fn reserve_up_to(&self, min: usize, max: usize) -> ReservedMemory {
        self.0.budget.wait(Some(self), units(min), units(max)).await
    }

    /// A reservation of nothing, which may grow.
    #[must_use]
    pub fn nothing(&self) -> ReservedMemory {
        ReservedMemory {
            budget: self.0.budget.clone(),
            share: Some(self.clone()),
            units: 0,
        }
    }
}

impl ReservedMemory {
    /// Bytes that are reserved.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.units * UNIT_BYTES
    }

    /// Releases what exceeds so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let excess = self.units.saturating_sub(units(bytes));
        if excess > 0 {
            self.units -= excess;
            self.budget.release(self.share.as_ref(), excess);
        }
    }

    /// Holds at least so many bytes from now on, if there is room for those that are missing.
    #[must_use]
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let missing = units(bytes).saturating_sub(self.units);
        if missing == 0 {
            return true;
        }
        match self.budget.take(self.share.as_ref(), missing, missing) {
            Some(more) => {
                self.merge(more);
                true
            }
            None => false,
        }
    }

    /// Adds another reservation of the same share.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.units += std::mem::take(&mut other.units);
    }

    /// The same bytes, which are reserved until the last part of them is dropped.
    #[must_use]
    pub fn attach(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Counted {
            bytes,
            _reserved: self,
        })
    }
}

impl Drop for ReservedMemory {
    fn drop(&mut self) {
        if self.units > 0 {
            self.budget.release(self.share.as_ref(), self.units);
        }
    }
}

struct Counted {
    bytes: Bytes,
    _reserved: ReservedMemory,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES)
}

#[cfg(test)]
mod tests;

//! Connections that are not logged in: few, and none keeps the others out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::addresses::network_of;

/// The connections that are not logged in. With one more than allowed, the oldest of the
/// network that has the most of them is closed: a network that opens many closes its own.
#[derive(Default)]
pub(super) struct WithoutLogin {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    count: usize,
    networks: HashMap<IpAddr, BTreeMap<u64, oneshot::Sender<()>>>,
}

/// A connection that is counted until this is dropped.
pub(super) struct Place {
    all: Arc<WithoutLogin>,
    network: IpAddr,
    number: u64,
    since: Instant,
    closed: oneshot::Receiver<()>,
}

impl WithoutLogin {
    /// Counts a connection, of which there are `max` at most. Returns also whether another
    /// one is closed for it.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, max: usize) -> (Place, bool) {
        let network = network_of(address);
        let (close, closed) = oneshot::channel();
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        inner.count += 1;
        let of_network = inner.networks.entry(network).or_default();
        of_network.insert(number, close);
        let is_full = inner.count > max;
        if is_full {
            inner.close_one(network);
        }
        drop(inner);
        let place = Place {
            all: Arc::clone(self),
            network,
            number,
            since: Instant::now(),
            closed,
        };
        (place, is_full)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Closes the oldest of the network with the most; of several, of the newest's own.
    fn close_one(&mut self, newest: IpAddr) {
        let rank = |(network, open): &(&IpAddr, &BTreeMap<_, _>)| (open.len(), **network == newest);
        let most = self.networks.iter().max_by_key(rank);
        let oldest = most.and_then(|(network, open)| Some((*network, *open.first_key_value()?.0)));
        if let Some((network, number)) = oldest
            && let Some(close) = self.remove(network, number)
        {
            let _ = close.send(());
        }
    }

    fn remove(&mut self, network: IpAddr, number: u64) -> Option<oneshot::Sender<()>> {
        let open = self.networks.get_mut(&network)?;
        let close = open.remove(&number)?;
        self.count -= 1;
        if open.is_empty() {
            self.networks.remove(&network);
        }
        Some(close)
    }
}

impl Place {
    /// Since when it has this place.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Waits until the connection has to close, to make room for another.
    pub(super) async fn closed(&mut self) {
        let _ = (&mut self.closed).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.lock().remove(self.network, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_closed(place: &mut Place) -> bool {
        place.closed.try_recv().is_ok()
    }

    #[test]
    fn a_network_that_opens_many_closes_its_own_and_no_other() {
        let all = Arc::<WithoutLogin>::default();
        let (honest, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let (mut first, _) = all.enter(honest, 4);
        let mut many: Vec<_> = (0..10).map(|_| all.enter(other, 4)).collect();
        assert!(!is_closed(&mut first));
        let open = many
            .iter_mut()
            .filter_map(|(place, _)| (!is_closed(place)).then_some(()));
        assert_eq!(open.count(), 3, "the newest stay");
        let full: Vec<_> = many.iter().map(|(_, is_full)| *is_full).collect();
        assert_eq!(full.iter().filter(|is_full| **is_full).count(), 7);
        let (mut second, is_full) = all.enter(honest, 4);
        assert!(is_full);
        assert!(!is_closed(&mut first) && !is_closed(&mut second));
    }

    #[test]
    fn a_connection_that_ends_or_logs_in_makes_room() {
        let all = Arc::<WithoutLogin>::default();
        let address = [10, 0, 0, 1].into();
        for _ in 0..3 {
            let (_place, is_full) = all.enter(address, 1);
            assert!(!is_full);
        }
        assert_eq!(all.lock().count, 0);
        assert!(all.lock().networks.is_empty());
    }
}

//! Failed logins by network, and the delays that they cause.
//!
//! Logins of one network with one user name are checked one after the other, and after too
//! many failures with a pause. Other names of the network do not wait for that: names are
//! distinguished by a few bits of a keyed hash, so that who waits does not reveal which users
//! exist.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::addresses::network_of;

/// The most networks that are remembered.
const NETWORKS_MAX: usize = 10_000;
/// User names of a network that are distinguished.
const NAMES_MAX: u8 = 16;
/// Failed logins without a delay.
const FREE: u32 = 10;
/// After this time without a failed login, the count of a network starts again.
const RESET_AFTER: Duration = Duration::from_secs(60);
/// How long a name of a network with more failed logins waits for its next check.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts failed logins of each network.
#[derive(Default)]
pub(super) struct FailedLogins {
    networks: Mutex<HashMap<IpAddr, Network>>,
}

#[derive(Default)]
struct Network {
    failed: u32,
    last: Option<Instant>,
    turns: HashMap<u8, Turn>,
    hashing: Turn,
}

type Turn = Arc<AsyncMutex<()>>;

impl FailedLogins {
    /// Waits until no other login of this network with this name is being checked. `name` is
    /// a hash, of which some bits are used.
    pub(super) async fn turn(&self, from: IpAddr, name: u8) -> OwnedMutexGuard<()> {
        let turn = {
            let mut networks = self.lock();
            let turns = &mut network_entry(&mut networks, from).turns;
            Arc::clone(turns.entry(name % NAMES_MAX).or_default())
        };
        turn.lock_owned().await
    }

    /// Waits until no other password of this network is being hashed.
    pub(super) async fn hashing(&self, from: IpAddr) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(&network_entry(&mut self.lock(), from).hashing);
        turn.lock_owned().await
    }

    /// Whether a login of this network has failed not long ago.
    pub(super) fn has_failed(&self, from: IpAddr, now: Instant) -> bool {
        let networks = self.lock();
        let last = networks.get(&network_of(from)).and_then(|found| found.last);
        last.is_some_and(|last| now.duration_since(last) < RESET_AFTER)
    }

    /// Counts a failed login; returns how long to keep its turn.
    pub(super) fn count(&self, from: IpAddr, now: Instant) -> Duration {
        let mut networks = self.lock();
        let network = network_entry(&mut networks, from);
        let reset = network
            .last
            .is_some_and(|last| now.duration_since(last) >= RESET_AFTER);
        network.failed = if reset { 1 } else { network.failed + 1 };
        network.last = Some(now);
        match network.failed > FREE {
            true => PAUSE,
            false => Duration::ZERO,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Network>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When there are too many networks, the one whose last failed login is oldest is dropped.
fn network_entry(networks: &mut HashMap<IpAddr, Network>, from: IpAddr) -> &mut Network {
    let network = network_of(from);
    if networks.len() >= NETWORKS_MAX && !networks.contains_key(&network) {
        let oldest = networks.iter().min_by_key(|(_, network)| network.last);
        if let Some(oldest) = oldest.map(|(network, _)| *network) {
            networks.remove(&oldest);
        }
    }
    networks.entry(network).or_default()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn a_network_with_many_failed_logins_waits_until_its_count_starts_again() {
        let logins = FailedLogins::default();
        let (one, other) = (
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        );
        let mut now = Instant::now();
        for _ in 0..FREE {
            assert_eq!(logins.count(one, now), Duration::ZERO);
        }
        assert_eq!(logins.count(one, now), PAUSE);
        assert_eq!(logins.count(other, now), Duration::ZERO);
        now += RESET_AFTER - Duration::from_secs(1);
        assert_eq!(logins.count(one, now), PAUSE);
        now += RESET_AFTER;
        assert_eq!(logins.count(one, now), Duration::ZERO);
    }

    #[test]
    fn memory_is_bounded() {
        let logins = FailedLogins::default();
        let now = Instant::now();
        for number in 0..2 * NETWORKS_MAX as u32 {
            logins.count(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(logins.lock().len() <= NETWORKS_MAX);
    }

    #[tokio::test]
    async fn a_name_of_a_network_has_one_turn_at_a_time_and_other_names_do_not_wait() {
        let logins = FailedLogins::default();
        let address = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
        let turn = logins.turn(address(1), 3).await;
        let next = logins.turn(address(2), 3);
        tokio::pin!(next);
        let waits = poll_once(next.as_mut());
        assert!(waits.is_none(), "two checks are concurrent");
        let other_name = Box::pin(logins.turn(address(2), 4));
        assert!(poll_once(other_name).is_some());
        drop(turn);
        next.await;
    }

    #[test]
    fn a_network_has_failed_until_its_count_starts_again() {
        let logins = FailedLogins::default();
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let now = Instant::now();
        assert!(!logins.has_failed(address, now));
        logins.count(address, now);
        assert!(logins.has_failed(address, now));
        assert!(!logins.has_failed(address, now + RESET_AFTER));
    }

    fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        let future = std::pin::Pin::new(&mut future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}

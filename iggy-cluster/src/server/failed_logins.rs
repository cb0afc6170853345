//! Failed logins by network, and the delays that they cause.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::addresses::network_of;

/// The most networks that are remembered.
const NETWORKS_MAX: usize = 10_000;
/// Failed logins without a delay.
const FREE: u32 = 10;
/// After this time without a failed login, the count of a network starts again.
const RESET_AFTER: Duration = Duration::from_secs(60);
/// How long a network with more failed logins waits for its next check.
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
    turn: Arc<AsyncMutex<()>>,
}

impl FailedLogins {
    /// Waits until no other login of this network is being checked.
    pub(super) async fn turn(&self, from: IpAddr) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(&network_entry(&mut self.lock(), from).turn);
        turn.lock_owned().await
    }

    /// Counts a failed login; returns how long to keep the turn of its network.
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
    async fn a_network_has_one_turn_at_a_time() {
        let logins = FailedLogins::default();
        let address = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
        let turn = logins.turn(address(1)).await;
        let next = logins.turn(address(2));
        tokio::pin!(next);
        let waits = poll_once(next.as_mut());
        assert!(waits.is_none(), "two checks are concurrent");
        drop(turn);
        next.await;
    }

    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}

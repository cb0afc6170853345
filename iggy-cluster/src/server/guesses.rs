//! Wrong guesses of passwords and tokens, and what they cost.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::addresses::network_of;

/// Networks that are remembered.
const NETWORKS_MAX: usize = 10_000;
/// Wrong guesses that cost nothing.
const FREE: u32 = 10;
/// After so long without one, a network is as good as new.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// How long a network that went on guessing waits for its next guess.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts wrong guesses by the network they come from.
#[derive(Default)]
pub(super) struct Guesses {
    of: Mutex<HashMap<IpAddr, Guesser>>,
}

#[derive(Default)]
struct Guesser {
    wrong: u32,
    last: Option<Instant>,
    turn: Arc<AsyncMutex<()>>,
}

impl Guesses {
    /// Waits until nobody else guesses from there.
    pub(super) async fn turn(&self, from: IpAddr) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(&guesser(&mut self.lock(), from).turn);
        turn.lock_owned().await
    }

    /// Counts a wrong guess; for how long its turn is to be kept.
    pub(super) fn wrong(&self, from: IpAddr, now: Instant) -> Duration {
        let mut of = self.lock();
        let guesser = guesser(&mut of, from);
        let forgiven = guesser
            .last
            .is_some_and(|last| now.duration_since(last) >= FORGIVEN_AFTER);
        guesser.wrong = if forgiven { 1 } else { guesser.wrong + 1 };
        guesser.last = Some(now);
        match guesser.wrong > FREE {
            true => PAUSE,
            false => Duration::ZERO,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Guesser>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of too many, the one that has been good for longest is forgotten.
fn guesser(of: &mut HashMap<IpAddr, Guesser>, from: IpAddr) -> &mut Guesser {
    let network = network_of(from);
    if of.len() >= NETWORKS_MAX && !of.contains_key(&network) {
        let oldest = of.iter().min_by_key(|(_, guesser)| guesser.last);
        if let Some(oldest) = oldest.map(|(network, _)| *network) {
            of.remove(&oldest);
        }
    }
    of.entry(network).or_default()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn whoever_goes_on_guessing_waits_until_it_is_forgiven() {
        let guesses = Guesses::default();
        let (one, other) = (
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        );
        let mut now = Instant::now();
        for _ in 0..FREE {
            assert_eq!(guesses.wrong(one, now), Duration::ZERO);
        }
        assert_eq!(guesses.wrong(one, now), PAUSE);
        assert_eq!(guesses.wrong(other, now), Duration::ZERO);
        now += FORGIVEN_AFTER - Duration::from_secs(1);
        assert_eq!(guesses.wrong(one, now), PAUSE);
        now += FORGIVEN_AFTER;
        assert_eq!(guesses.wrong(one, now), Duration::ZERO);
    }

    #[test]
    fn memory_is_bounded() {
        let guesses = Guesses::default();
        let now = Instant::now();
        for number in 0..2 * NETWORKS_MAX as u32 {
            guesses.wrong(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(guesses.lock().len() <= NETWORKS_MAX);
    }

    #[tokio::test]
    async fn a_network_has_one_turn_at_a_time() {
        let guesses = Guesses::default();
        let address = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
        let turn = guesses.turn(address(1)).await;
        let next = guesses.turn(address(2));
        tokio::pin!(next);
        let waits = futures_now(next.as_mut());
        assert!(waits.is_none(), "two guesses at once");
        drop(turn);
        next.await;
    }

    fn futures_now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}

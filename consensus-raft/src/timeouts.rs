//! Election timeouts from a seed.
//!
//! raft-rs draws them from `rand::thread_rng()` and reads the value only when a
//! tick asks whether it has passed. Setting it before every such tick makes the
//! whole core a function of its inputs. Each attempt has another timeout, so that two
//! candidates do not split the vote forever (Raft 5.2).

/// A timeout in `[election_ticks, 2 * election_ticks)`.
pub(crate) fn election_ticks(
    seed: u64,
    id: u64,
    term: u64,
    attempt: u64,
    election_ticks: usize,
) -> usize {
    let mut hash = seed;
    for word in [id, term, attempt] {
        hash = mix(hash ^ mix(word));
    }
    election_ticks + (hash % election_ticks as u64) as usize
}

/// The finaliser of splitmix64.
fn mix(word: u64) -> u64 {
    let mut x = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_repeatable_in_range_and_spread() {
        let draw = |attempt| election_ticks(7, 1, 3, attempt, 20);
        let drawn: Vec<_> = (0..1000).map(draw).collect();
        assert_eq!(drawn, (0..1000).map(draw).collect::<Vec<_>>());
        assert!(drawn.iter().all(|ticks| (20..40).contains(ticks)));
        for ticks in 20..40 {
            let share = drawn.iter().filter(|drawn| **drawn == ticks).count();
            assert!((20..100).contains(&share), "{ticks}: {share} of 1000");
        }
    }
}

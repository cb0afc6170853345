//! Numbers from a seed: splitmix64. A generator of our own, because a seed has to
//! mean the same run for as long as it is in the corpus.

#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// One of many generators of a seed: what is drawn from it does not depend on
    /// how often numbers were drawn from the others.
    pub(crate) fn of(seed: u64, part: u64, number: u64) -> Self {
        let mut random = Self(seed ^ part.rotate_left(48) ^ number.rotate_left(24));
        random.next();
        random
    }

    /// In `[0, bound)`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// In `[low, high]`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// In `[low, high]`, as often in each power of two.
    pub(crate) fn between_powers(&mut self, low: u64, high: u64) -> u64 {
        let powers = (high / low.max(1)).ilog2();
        let from = low << self.below(u64::from(powers) + 1);
        self.between(from, (2 * from).min(high))
    }

    pub(crate) fn per_mille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    /// Brings the elements into any order.
    pub(crate) fn shuffle<T>(&mut self, of: &mut [T]) {
        for end in (1..of.len()).rev() {
            let other = self.below(end as u64 + 1) as usize;
            of.swap(end, other);
        }
    }
}

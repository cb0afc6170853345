//! Rules that are broken on purpose, to show that tests see it.
//!
//! A place that keeps a rule asks [`broken`] by the rule's name, and does the
//! wrong thing where it is. Without the feature `mutants` the answer is a
//! constant, and nothing is left of the question. With it, which only the
//! simulator asks for, [`break_rule`] names the rule that is broken on the calling
//! thread.

/// Whether this rule is to be broken now.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[must_use]
pub const fn broken(_rule: &'static str) -> bool {
    false
}

/// A limit that no run would come to: the simulator makes it smaller.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[must_use]
pub const fn limit(usual: usize) -> usize {
    usual
}

#[cfg(feature = "mutants")]
pub use compiled_in::{break_rule, broken, limit, lower_limit, was_broken};

#[cfg(feature = "mutants")]
mod compiled_in {
    use std::cell::Cell;

    thread_local! {
        static RULE: Cell<Option<&'static str>> = const { Cell::new(None) };
        static BROKEN: Cell<bool> = const { Cell::new(false) };
        static LIMIT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Whether this rule is to be broken now.
    #[inline]
    #[must_use]
    pub fn broken(rule: &'static str) -> bool {
        let is = RULE.get().is_some_and(|broken| broken == rule);
        if is {
            BROKEN.set(true);
        }
        is
    }

    /// From now on this rule is broken on the calling thread, and no other.
    pub fn break_rule(rule: Option<&'static str>) {
        RULE.set(rule);
        BROKEN.set(false);
    }

    /// A limit that no run would come to, or the one that was set.
    #[inline]
    #[must_use]
    pub fn limit(usual: usize) -> usize {
        LIMIT.get().unwrap_or(usual)
    }

    /// From now on such limits are this on the calling thread.
    pub fn lower_limit(to: usize) {
        LIMIT.set(Some(to));
    }

    /// Whether a place asked for the rule since it was named.
    #[must_use]
    pub fn was_broken() -> bool {
        BROKEN.get()
    }
}

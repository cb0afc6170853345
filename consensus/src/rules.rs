//! Rules of the code by name, so that the simulator can leave one out.
//!
//! A simulator that finds nothing shows little unless it is known what it would have
//! found. So the place that keeps a rule names it: `if rule!(AckOnlyDurable) { .. }`. The
//! condition is a constant that the compiler removes, except with the feature `mutants`,
//! which only the simulator enables: `break_rule` then disables one rule on the calling
//! thread. The code without a rule is a mutant.
//!
//! Each crate that keeps rules lists them with [`rules!`](crate::rules!) in a module
//! `rules` at its root, with what its mutant does.

/// A rule that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// The crate that keeps it.
    pub kept_in: &'static str,
    /// What the code does without it.
    pub without: &'static str,
}

/// Lists the rules of a crate: a constant for each, and `RULES` with all.
#[macro_export]
macro_rules! rules {
    ($($name:ident: $without:literal,)*) => {
        $(
            #[doc = $without]
            #[allow(non_upper_case_globals, reason = "rules read as names of variants")]
            pub const $name: $crate::rules::Rule = $crate::rules::Rule {
                name: stringify!($name),
                kept_in: env!("CARGO_PKG_NAME"),
                without: $without,
            };
        )*
        /// All rules of this crate.
        pub const RULES: &[$crate::rules::Rule] = &[$($name),*];
    };
}

/// Whether the code keeps this rule here: always, except in a simulated mutant.
#[allow(
    clippy::crate_in_macro_def,
    reason = "the rule is one of the crate that names it"
)]
#[macro_export]
macro_rules! rule {
    ($name:ident) => {
        $crate::rules::is_kept(&crate::rules::$name)
    };
}

/// Whether this rule is kept.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[must_use]
pub const fn is_kept(_rule: &Rule) -> bool {
    true
}

/// A limit that no run would reach: the simulator lowers it by its name.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[must_use]
pub const fn limit(_name: &str, usual: usize) -> usize {
    usual
}

#[cfg(feature = "mutants")]
pub use compiled_in::{break_rule, is_kept, limit, lower_limits, was_broken};

#[cfg(feature = "mutants")]
mod compiled_in {
    use std::cell::Cell;

    use super::Rule;

    /// Limits that can be lowered.
    const LIMITS_MAX: usize = 4;

    thread_local! {
        static BROKEN: Cell<Option<&'static str>> = const { Cell::new(None) };
        static REACHED: Cell<bool> = const { Cell::new(false) };
        static LIMITS: Cell<[(&'static str, usize); LIMITS_MAX]> =
            const { Cell::new([("", 0); LIMITS_MAX]) };
    }

    /// Whether this rule is kept.
    #[inline]
    #[must_use]
    pub fn is_kept(rule: &Rule) -> bool {
        let broken = BROKEN.get().is_some_and(|broken| broken == rule.name);
        if broken {
            REACHED.set(true);
        }
        !broken
    }

    /// Disables this rule, and no other, on the calling thread from now on.
    pub fn break_rule(rule: Option<&Rule>) {
        BROKEN.set(rule.map(|rule| rule.name));
        REACHED.set(false);
    }

    /// Whether the code has come to the rule since it was disabled.
    #[must_use]
    pub fn was_broken() -> bool {
        REACHED.get()
    }

    /// The limit, or what [`lower_limits`] has set in its place.
    #[inline]
    #[must_use]
    pub fn limit(name: &str, usual: usize) -> usize {
        let limits = LIMITS.get();
        let lowered = limits.iter().find(|(lowered, _)| *lowered == name);
        lowered.map_or(usual, |(_, to)| *to)
    }

    /// Sets these limits on the calling thread from now on, and no others.
    ///
    /// # Panics
    /// When there are more than four.
    pub fn lower_limits(limits: &[(&'static str, usize)]) {
        let mut lowered = [("", 0); LIMITS_MAX];
        lowered[..limits.len()].copy_from_slice(limits);
        LIMITS.set(lowered);
    }
}

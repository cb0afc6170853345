//! One replica without its threads.
pub mod driver;

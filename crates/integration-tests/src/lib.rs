//! What needs several crates: processes, stock clients, failures.

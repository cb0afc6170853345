//! The memory for requests and replies, divided among users and their connections.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use replicated_log::{MemoryAccount, MemoryBudget, MemoryShare};

/// An account for each user that has used one lately.
#[derive(Debug)]
pub(super) struct UserMemory {
    budget: MemoryBudget,
    accounts: Mutex<HashMap<u32, MemoryAccount>>,
}

impl UserMemory {
    pub(super) fn new(budget: MemoryBudget) -> Self {
        Self {
            budget,
            accounts: Mutex::default(),
        }
    }

    /// A share for a connection of this user.
    pub(super) fn share(&self, user_id: u32) -> MemoryShare {
        let accounts = self.accounts.lock();
        let mut accounts = accounts.unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(&user_id) {
            return account.share();
        }
        accounts.retain(|_, account| !account.is_unused());
        let account = accounts.entry(user_id);
        account.or_insert_with(|| self.budget.account()).share()
    }
}

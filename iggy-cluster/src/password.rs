//! Password hashes.

use argon2::password_hash::phc::{PasswordHash, Salt};
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use thiserror::Error;

/// Why a password could not be hashed.
#[derive(Debug, Error)]
#[error("the password cannot be hashed: {0}")]
pub(crate) struct HashError(String);

/// The password's Argon2id hash in PHC format.
///
/// # Errors
/// When the password is too long for the algorithm.
pub(crate) fn hash_password(password: &str, salt: &[u8; 16]) -> Result<String, HashError> {
    let failed = |error: &dyn std::fmt::Display| HashError(error.to_string());
    let salt = Salt::new(salt).map_err(|error| failed(&error))?;
    let hash = Argon2::default()
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map_err(|error| failed(&error))?;
    Ok(hash.to_string())
}

/// Whether the password is the one that was hashed. A hash that does not parse matches
/// no password.
#[must_use]
pub(crate) fn verify_password(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| {
        Argon2::default()
            .verify_password(password.as_bytes(), &hash)
            .is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_verifies() {
        let hash = hash_password("iggy", &[7; 16]).unwrap();
        assert!(verify_password("iggy", &hash));
        assert!(!verify_password("iggY", &hash));
        assert!(!verify_password("iggy", "garbage"));
        assert_ne!(hash, hash_password("iggy", &[8; 16]).unwrap());
    }
}

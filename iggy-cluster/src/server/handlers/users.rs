//! Users and personal access tokens.

use adapters::metadata::{ClientOperation, Identifier, Name, Rule, TokenHash, UserOperation, code};
use adapters::wire::UserRequest;
use adapters::wire::v0_11::{self as wire, RequestHeader};
use secrecy::{ExposeSecret, SecretString};

use super::Body;
use crate::cluster::Failure;
use crate::server::connection::{Connection, Outcome};

impl Connection {
    /// One user; an empty body when it does not exist.
    pub(super) async fn user(&self, user: &Identifier) -> Body {
        self.server.metadata.barrier().await?;
        let state = self.server.metadata.reader.read();
        let found = state.users().find(user);
        let me = self.bound.map(|bound| bound.user_id);
        let other = found.filter(|user| Some(user.id) != me);
        self.may(&state, other.map(|_| Rule::ReadUsers))?;
        Ok(found.map(wire::user).into_iter().collect())
    }

    /// All users.
    pub(super) async fn users(&self) -> Body {
        self.server.metadata.barrier().await?;
        let state = self.server.metadata.reader.read();
        self.may(&state, Some(Rule::ReadUsers))?;
        Ok(vec![wire::users(state.users())])
    }

    /// The tokens of the client's user.
    pub(super) async fn tokens(&self) -> Body {
        self.server.metadata.barrier().await?;
        let user_id = self.bound.map(|bound| bound.user_id);
        let state = self.server.metadata.reader.read();
        self.may(&state, None)?;
        let user = user_id.and_then(|id| state.user_by_id(id));
        Ok(user.map(wire::tokens).into_iter().collect())
    }

    /// Replaces secrets with their hashes, and replicates the change.
    pub(super) async fn change_user(
        &mut self,
        header: &RequestHeader,
        request: UserRequest,
    ) -> Outcome {
        let operation = match request {
            UserRequest::Create {
                name,
                password,
                active,
                permissions,
            } => {
                let create = |password_hash| UserOperation::Create {
                    name,
                    password_hash,
                    active,
                    permissions,
                };
                // Before the slow hash: only for clients that are permitted to do this.
                let operation = ClientOperation::User(create.clone()(String::new()));
                if let Err(failure) = self.authorize_change(header, &operation).await {
                    return self.reply(header, Err(failure));
                }
                let Some(password_hash) = self
                    .server
                    .credentials
                    .hash(password, self.address.ip())
                    .await
                else {
                    return self.reply(header, Err(Failure::NotAccepted));
                };
                create(password_hash)
            }
            UserRequest::ChangePassword { user, current, new } => {
                let change = |verified, password_hash| UserOperation::ChangePassword {
                    user: user.clone(),
                    verified,
                    password_hash,
                };
                let operation = ClientOperation::User(change(None, String::new()));
                if let Err(failure) = self.authorize_change(header, &operation).await {
                    return self.reply(header, Err(failure));
                }
                let verified = match self.verify_current(&user, current).await {
                    Ok(verified) => verified,
                    Err(failure) => return self.reply(header, Err(failure)),
                };
                let Some(password_hash) =
                    self.server.credentials.hash(new, self.address.ip()).await
                else {
                    return self.reply(header, Err(Failure::NotAccepted));
                };
                change(verified, password_hash)
            }
            UserRequest::CreateToken {
                name,
                expiry_micros,
            } => return self.create_token(header, name, expiry_micros).await,
        };
        self.change(header, ClientOperation::User(operation)).await
    }

    /// The version of the credentials for which the password is correct.
    async fn verify_current(
        &self,
        user: &Identifier,
        current: SecretString,
    ) -> Result<Option<u64>, Failure> {
        self.server.metadata.barrier().await?;
        let found = {
            let state = self.server.metadata.reader.read();
            let user = state.users().find(user);
            user.map(|user| {
                let name = user.name.to_string();
                (user.credential_version, user.password_hash.clone(), name)
            })
        };
        let Some((version, hash, name)) = found else {
            return Ok(None);
        };
        let credentials = &self.server.credentials;
        let from = self.address.ip();
        let _turn = credentials.turn(from, &name).await?;
        let right = credentials.matches(current, hash, from).await;
        if !right {
            credentials.login_failed(from).await;
        }
        Ok(right.then_some(version))
    }

    /// The secret is a function of the request and of a key of this process: a repeated
    /// request returns the same one, and only its hash is stored.
    async fn create_token(
        &mut self,
        header: &RequestHeader,
        name: Name,
        expiry_micros: u64,
    ) -> Outcome {
        let secret = self.server.credentials.token(header);
        let hash = hash_of(secret.expose_secret());
        let operation = ClientOperation::User(UserOperation::CreateToken {
            name,
            hash,
            expiry_micros,
        });
        self.new_token = Some((hash, secret));
        let outcome = self.change(header, operation).await;
        self.new_token = None;
        outcome
    }

    /// The body of the reply for a token that was created with this hash.
    pub(super) fn created_token(&self, created: &TokenHash) -> Body {
        match &self.new_token {
            Some((hash, secret)) if hash == created => {
                Ok(vec![wire::created_token(secret.expose_secret())])
            }
            // Created before this process started; its secret is not known any more.
            _ => Err(Failure::Refused(code::TOKEN_ALREADY_EXISTS)),
        }
    }
}

/// The hash under which a token is stored.
pub(in crate::server) fn hash_of(token: &str) -> TokenHash {
    *blake3::hash(token.as_bytes()).as_bytes()
}

//! Sessions: logging in and out, and attaching a session to another connection.

use std::sync::Arc;

use adapters::metadata::{Intent, Proof, Reply as Answer, code};
use adapters::wire::Credentials;
use adapters::wire::v0_11::{self as wire, Eviction, RequestHeader, is_protocol_compatible};

use super::{Body, LEADER_WAIT};
use crate::cluster::Failure;
use crate::server::connection::{Bound, Connection, Outcome};

impl Connection {
    pub(super) async fn login(
        &mut self,
        header: &RequestHeader,
        version: u32,
        credentials: Credentials,
    ) -> Outcome {
        let evict = |reason: Eviction| Outcome::Evict(reason.encode(header.client));
        if !is_protocol_compatible(version) {
            return evict(Eviction::IncompatibleProtocol);
        }
        let mut former = self.close_session();
        let metadata = Arc::clone(&self.server.metadata);
        let registration = metadata.registration();
        // Until this node is registered, it cannot own sessions and may not know the users
        // yet. Clients repeat the login.
        let Some(registration) = registration else {
            return self.reply(header, Err(Failure::OutcomeUnknown));
        };
        let mut outdated = false;
        loop {
            let verified = self
                .server
                .credentials
                .verify(&metadata, &credentials, self.address.ip())
                .await;
            let verified = match verified {
                Ok(Ok(verified)) => verified,
                Ok(Err(reason)) => {
                    self.server.metrics.logins_refused.inc();
                    return evict(reason);
                }
                Err(failure) => return self.reply(header, Err(failure)),
            };
            // With the same id, another user can log in once that session has ended.
            if let Some((bound, ending)) = former.take()
                && bound.client == header.client
                && bound.user_id != verified.user_id
                && tokio::time::timeout(LEADER_WAIT, ending).await.is_err()
            {
                return self.reply(header, Err(Failure::NotAccepted));
            }
            let intent = Intent::Register {
                client: header.client,
                user_id: verified.user_id,
                proof: verified.proof,
                node: metadata.me,
                registration,
            };
            match metadata.replicate(intent).await {
                Ok((index, Answer::Registered { session })) => {
                    self.bound = Some(Bound {
                        client: header.client,
                        session,
                        user_id: verified.user_id,
                    });
                    self.watermark = self.watermark.max(index);
                    let user = Some((verified.user_id, header.client));
                    self.server.clients.set_user(self.id, user);
                    let body = wire::login(verified.user_id, session);
                    return self.reply(header, Ok(vec![body]));
                }
                // The user has changed since the check: it is checked again, once.
                Ok((_, Answer::Refused(code::INVALID_CREDENTIALS))) if !outdated => {
                    outdated = true;
                    if let Err(failure) = metadata.barrier().await {
                        return self.reply(header, Err(failure));
                    }
                }
                Ok((_, Answer::Refused(code::INVALID_CREDENTIALS))) => {
                    return evict(match verified.proof {
                        Proof::Password(_) => Eviction::InvalidCredentials,
                        Proof::Token(_) => Eviction::InvalidToken,
                    });
                }
                Err(Failure::Refused(code::UNAUTHENTICATED)) => {
                    self.server.metrics.logins_refused.inc();
                    self.server.log_client_of_another(verified.user_id);
                    return evict(Eviction::ClientOfAnotherUser);
                }
                // Fenced in the meantime: it will register again.
                Ok(_) => return self.reply(header, Err(Failure::OutcomeUnknown)),
                Err(failure) => return self.reply(header, Err(failure)),
            }
        }
    }

    pub(super) async fn logout(&mut self, header: &RequestHeader) -> Outcome {
        let Some(Bound {
            client, session, ..
        }) = self.bound
        else {
            return self.reply(header, Ok(Vec::new()));
        };
        let intent = Intent::Unregister { client, session };
        let result = self.server.metadata.replicate(intent).await;
        if result.is_ok() {
            self.bound = None;
            self.attached = None;
            self.server.clients.set_user(self.id, None);
        }
        self.reply(header, result.map(|_| Vec::new()))
    }

    /// Attaches a session that was opened through another node, so that its consumer reads on
    /// this connection. The local state must contain what that client has seen.
    pub(super) async fn attach(&mut self, client: u128, session: u64, watermark: u64) -> Body {
        let metadata = &self.server.metadata;
        if metadata.applied() < watermark {
            let reached = metadata.barrier().await;
            if reached.is_ok_and(|reached| reached < watermark) || reached.is_err() {
                return Err(Failure::NotAccepted);
            }
        }
        let user_id = self.bound.map(|bound| bound.user_id);
        let parent = {
            let state = metadata.reader.read();
            let found = state.sessions().get(client);
            let found = found.filter(|found| found.session == session);
            found.map(|found| found.user_id)
        };
        self.attached = match parent {
            Some(parent) if user_id == Some(parent) => Some(Bound {
                client,
                session,
                user_id: parent,
            }),
            _ => return Err(Failure::Refused(code::STALE_CLIENT)),
        };
        self.watermark = self.watermark.max(watermark);
        Ok(Vec::new())
    }
}

//! Changes of users and their tokens.

use crate::metadata::commands::UserOperation;
use crate::metadata::error::MetadataError;
use crate::metadata::reply::Reply;
use crate::metadata::state::MetadataState;

impl MetadataState {
    /// Changes users, or tokens of the user that requests it. Returns the reply, and the
    /// user whose sessions end.
    pub(in crate::metadata) fn change_user(
        &mut self,
        by: u32,
        operation: UserOperation,
    ) -> Result<(Reply, Option<u32>), MetadataError> {
        let now = self.now;
        let users = &mut self.users;
        let mut ended = None;
        let reply = match operation {
            UserOperation::Create {
                name,
                password_hash,
                active,
                permissions,
            } => {
                let user = users.create(name, password_hash, active, permissions, now)?;
                Reply::UserCreated {
                    id: user.id,
                    created_at: user.created_at,
                    name: user.name,
                    active: user.active,
                    permissions: user.permissions,
                }
            }
            UserOperation::Delete { user } => {
                ended = Some(users.delete(&user)?);
                Reply::Done
            }
            UserOperation::Update { user, name, active } => {
                ended = users.update(&user, name, active)?;
                Reply::Done
            }
            UserOperation::SetPermissions { user, permissions } => {
                users.set_permissions(&user, permissions)?;
                Reply::Done
            }
            UserOperation::ChangePassword {
                user,
                verified,
                password_hash,
            } => {
                users.change_password(&user, verified, password_hash)?;
                Reply::Done
            }
            UserOperation::CreateToken {
                name,
                hash,
                expiry_micros,
            } => {
                users.create_token(by, name, hash, expiry_micros, now)?;
                Reply::TokenCreated { hash }
            }
            UserOperation::DeleteToken { name } => {
                users.delete_token(by, &name)?;
                Reply::Done
            }
        };
        Ok((reply, ended))
    }
}

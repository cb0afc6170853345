//! Users, permissions and personal access tokens on the wire.

use bytes::Bytes;
use iggy_binary_protocol::codes::*;
use iggy_binary_protocol::primitives::permissions::{
    WireGlobalPermissions, WirePermissions, WireStreamPermissions, WireTopicPermissions,
};
use iggy_binary_protocol::requests::personal_access_tokens::{
    CreatePersonalAccessTokenRequest, DeletePersonalAccessTokenRequest,
};
use iggy_binary_protocol::requests::users::{
    ChangePasswordRequest, CreateUserRequest, DeleteUserRequest, GetUserRequest,
    UpdatePermissionsRequest, UpdateUserRequest,
};
use iggy_binary_protocol::responses::personal_access_tokens::{
    GetPersonalAccessTokensResponse, PersonalAccessTokenResponse, RawPersonalAccessTokenResponse,
};
use iggy_binary_protocol::responses::users::{GetUsersResponse, UserDetailsResponse, UserResponse};
use iggy_binary_protocol::{WireEncode, WireOptions};

use super::fields::{Result, identifier, name, read, wire_text};
use super::options::create_stream_options;
use crate::error_code::code;
use crate::metadata::permissions::{global, stream, topic};
use crate::metadata::{
    ClientOperation, Name, PartitionCount, Permissions, StreamPermissions, User, UserOperation,
    Users,
};
use crate::wire::request::{Request, UserRequest};

const ACTIVE: u8 = 1;
const INACTIVE: u8 = 2;
/// Bytes of a password.
const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 3..=100;

/// A query about users, or a change that contains a secret; `None` for other commands.
pub(super) fn decode(command: u32, body: &[u8]) -> Result<Option<Request>> {
    Ok(Some(match command {
        GET_USER_CODE => Request::User(identifier(&read::<GetUserRequest>(body)?.user_id)?),
        GET_USERS_CODE => Request::Users,
        GET_PERSONAL_ACCESS_TOKENS_CODE => Request::Tokens,
        CREATE_USER_CODE => {
            let create: CreateUserRequest = read(body)?;
            // Users have no options: every key is unknown.
            create_stream_options(&create.options)?;
            Request::ChangeUser(UserRequest::Create {
                name: name(&create.username)?,
                password: checked(create.password)?.into(),
                active: active(create.status)?,
                permissions: create.permissions.as_ref().map(permissions),
            })
        }
        CHANGE_PASSWORD_CODE => {
            let change: ChangePasswordRequest = read(body)?;
            Request::ChangeUser(UserRequest::ChangePassword {
                user: identifier(&change.user_id)?,
                current: change.current_password.into(),
                new: checked(change.new_password)?.into(),
            })
        }
        CREATE_PERSONAL_ACCESS_TOKEN_CODE => {
            let create: CreatePersonalAccessTokenRequest = read(body)?;
            Request::ChangeUser(UserRequest::CreateToken {
                name: name(&create.name)?,
                expiry_micros: create.expiry,
            })
        }
        _ => return Ok(None),
    }))
}

/// A change of users; `None` for other commands.
pub(super) fn change(command: u32, body: &[u8]) -> Result<Option<ClientOperation<PartitionCount>>> {
    let operation = match command {
        DELETE_USER_CODE => UserOperation::Delete {
            user: identifier(&read::<DeleteUserRequest>(body)?.user_id)?,
        },
        UPDATE_USER_CODE => {
            let update: UpdateUserRequest = read(body)?;
            create_stream_options(&update.options)?;
            UserOperation::Update {
                user: identifier(&update.user_id)?,
                name: update.username.as_ref().map(name).transpose()?,
                active: update.status.map(active).transpose()?,
            }
        }
        UPDATE_PERMISSIONS_CODE => {
            let update: UpdatePermissionsRequest = read(body)?;
            UserOperation::SetPermissions {
                user: identifier(&update.user_id)?,
                permissions: update.permissions.as_ref().map(permissions),
            }
        }
        DELETE_PERSONAL_ACCESS_TOKEN_CODE => UserOperation::DeleteToken {
            name: name(&read::<DeletePersonalAccessTokenRequest>(body)?.name)?,
        },
        _ => return Ok(None),
    };
    Ok(Some(ClientOperation::User(operation)))
}

/// A user with a longer or shorter one could not log in.
fn checked(password: String) -> Result<String> {
    match PASSWORD_BYTES.contains(&password.len()) {
        true => Ok(password),
        false => Err(code::INVALID_PASSWORD),
    }
}

fn active(status: u8) -> Result<bool> {
    match status {
        ACTIVE => Ok(true),
        INACTIVE => Ok(false),
        _ => Err(code::INVALID_USER_STATUS),
    }
}

/// One user with its grants.
#[must_use]
pub fn user(user: &User) -> Bytes {
    created_user(
        user.id,
        user.created_at,
        &user.name,
        user.active,
        user.permissions.as_ref(),
    )
}

/// All users.
#[must_use]
pub fn users(users: &Users) -> Bytes {
    let users = users
        .iter()
        .map(|user| response(user.id, user.created_at, &user.name, user.active));
    GetUsersResponse {
        users: users.collect(),
    }
    .to_bytes()
}

/// A user as created.
#[must_use]
pub fn created_user(
    id: u32,
    created_at: u64,
    name: &Name,
    active: bool,
    permissions: Option<&Permissions>,
) -> Bytes {
    UserDetailsResponse {
        user: response(id, created_at, name, active),
        permissions: permissions.map(wire_permissions),
    }
    .to_bytes()
}

/// A user's tokens, without their secrets.
#[must_use]
pub fn tokens(user: &User) -> Bytes {
    let tokens = user.tokens.iter().map(|(name, token)| {
        let expires = token.expires_at != u64::MAX;
        PersonalAccessTokenResponse {
            name: wire_text(name.as_str()),
            expiry_at: if expires { token.expires_at } else { 0 },
        }
    });
    GetPersonalAccessTokensResponse {
        tokens: tokens.collect(),
    }
    .to_bytes()
}

/// The secret of a new token.
#[must_use]
pub fn created_token(secret: &str) -> Bytes {
    RawPersonalAccessTokenResponse {
        token: wire_text(secret),
    }
    .to_bytes()
}

fn response(id: u32, created_at: u64, name: &Name, active: bool) -> UserResponse {
    UserResponse {
        id,
        created_at,
        status: if active { ACTIVE } else { INACTIVE },
        username: wire_text(name.as_str()),
        options: WireOptions::from_validated(Bytes::new()),
    }
}

/// Sets those bits whose flags are set.
fn bits<T>(flags: &[(bool, T)]) -> T
where
    T: std::ops::BitOr<Output = T> + Default + Copy,
{
    let set = flags.iter().filter(|(flag, _)| *flag);
    set.fold(T::default(), |bits, (_, bit)| bits | *bit)
}

fn permissions(wire: &WirePermissions) -> Permissions {
    let WireGlobalPermissions {
        manage_servers,
        read_servers,
        manage_users,
        read_users,
        manage_streams,
        read_streams,
        manage_topics,
        read_topics,
        poll_messages,
        send_messages,
    } = wire.global;
    Permissions {
        global: bits(&[
            (manage_servers, global::MANAGE_SERVERS),
            (read_servers, global::READ_SERVERS),
            (manage_users, global::MANAGE_USERS),
            (read_users, global::READ_USERS),
            (manage_streams, global::MANAGE_STREAMS),
            (read_streams, global::READ_STREAMS),
            (manage_topics, global::MANAGE_TOPICS),
            (read_topics, global::READ_TOPICS),
            (poll_messages, global::POLL),
            (send_messages, global::SEND),
        ]),
        streams: wire.streams.iter().map(stream_permissions).collect(),
    }
}

fn stream_permissions(wire: &WireStreamPermissions) -> (u32, StreamPermissions) {
    let topics = wire.topics.iter().map(|wire| {
        let grants = bits(&[
            (wire.manage_topic, topic::MANAGE),
            (wire.read_topic, topic::READ),
            (wire.poll_messages, topic::POLL),
            (wire.send_messages, topic::SEND),
        ]);
        (wire.topic_id, grants)
    });
    let permissions = StreamPermissions {
        grants: bits(&[
            (wire.manage_stream, stream::MANAGE),
            (wire.read_stream, stream::READ),
            (wire.manage_topics, stream::MANAGE_TOPICS),
            (wire.read_topics, stream::READ_TOPICS),
            (wire.poll_messages, stream::POLL),
            (wire.send_messages, stream::SEND),
        ]),
        topics: topics.collect(),
    };
    (wire.stream_id, permissions)
}

fn wire_permissions(permissions: &Permissions) -> WirePermissions {
    let has = |grant: u16| permissions.global & grant != 0;
    let streams = permissions.streams.iter().map(|(id, permissions)| {
        let has = |grant: u8| permissions.grants & grant != 0;
        WireStreamPermissions {
            stream_id: *id,
            manage_stream: has(stream::MANAGE),
            read_stream: has(stream::READ),
            manage_topics: has(stream::MANAGE_TOPICS),
            read_topics: has(stream::READ_TOPICS),
            poll_messages: has(stream::POLL),
            send_messages: has(stream::SEND),
            topics: permissions.topics.iter().map(topic_permissions).collect(),
        }
    });
    WirePermissions {
        global: WireGlobalPermissions {
            manage_servers: has(global::MANAGE_SERVERS),
            read_servers: has(global::READ_SERVERS),
            manage_users: has(global::MANAGE_USERS),
            read_users: has(global::READ_USERS),
            manage_streams: has(global::MANAGE_STREAMS),
            read_streams: has(global::READ_STREAMS),
            manage_topics: has(global::MANAGE_TOPICS),
            read_topics: has(global::READ_TOPICS),
            poll_messages: has(global::POLL),
            send_messages: has(global::SEND),
        },
        streams: streams.collect(),
    }
}

fn topic_permissions((id, grants): (&u32, &u8)) -> WireTopicPermissions {
    let has = |grant: u8| grants & grant != 0;
    WireTopicPermissions {
        topic_id: *id,
        manage_topic: has(topic::MANAGE),
        read_topic: has(topic::READ),
        poll_messages: has(topic::POLL),
        send_messages: has(topic::SEND),
    }
}

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use adapters::metadata::{
    ClientOperation, ClientRequest, Command, Identifier, Name, Placement, Reply, UserOperation,
};

use super::*;
use crate::cluster::testing::FakeLog;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PASSWORD: &str = "a password";
const ROOT: u128 = 7;

struct Bench {
    log: Arc<FakeLog>,
    metadata: Arc<Metadata>,
    credentials: Credentials,
    session: u64,
    request: u64,
}

impl Bench {
    /// With the users `active` and `inactive`, who have the same password.
    fn new() -> Self {
        let (log, metadata) = FakeLog::start(Duration::from_secs(5));
        let session = log.register(ROOT);
        let mut bench = Self {
            log,
            metadata,
            credentials: Credentials::new(),
            session,
            request: 0,
        };
        for name in ["active", "inactive"] {
            bench.by_root(UserOperation::Create {
                name: Name::new(name).unwrap(),
                password_hash: hash_password(PASSWORD, &[7; 16]).unwrap(),
                active: name == "active",
                permissions: None,
            });
        }
        bench
    }

    fn by_root(&mut self, operation: UserOperation) {
        self.request += 1;
        let operation: ClientOperation<Placement> = ClientOperation::User(operation);
        let applied = self.log.apply(&Command::Client(ClientRequest {
            client: ROOT,
            session: self.session,
            request: self.request,
            checksum: 0,
            operation,
        }));
        let reply = Reply::decode(&applied.reply).unwrap();
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
    }

    fn set_active(&mut self, active: bool) {
        self.by_root(UserOperation::Update {
            user: Identifier::Name(Name::new("active").unwrap()),
            name: None,
            active: Some(active),
        });
    }

    /// Whether a login is accepted, and how many slow checks it cost.
    async fn log_in(&self, username: &str, password: &str) -> (bool, usize) {
        let checks = || self.credentials.checks.load(Ordering::Relaxed);
        let before = checks();
        let claim = Claim::Password {
            username: username.into(),
            password: password.into(),
        };
        let verified = self.credentials.verify(&self.metadata, &claim, ADDRESS);
        let accepted = match verified.await.unwrap() {
            Ok(_) => true,
            Err(reason) => {
                assert_eq!(reason, Eviction::InvalidCredentials);
                false
            }
        };
        (accepted, checks() - before)
    }
}

/// The time of a login does not reveal which part of it is wrong, even when it is repeated.
#[tokio::test]
async fn every_refused_password_costs_one_slow_check() {
    let bench = Bench::new();
    assert_eq!(bench.log_in("active", PASSWORD).await, (true, 1));
    assert_eq!(bench.log_in("active", PASSWORD).await, (true, 0));
    for _ in 0..2 {
        for (username, password) in [
            ("active", "wrong"),
            ("inactive", "wrong"),
            ("inactive", PASSWORD),
            ("unknown", PASSWORD),
        ] {
            let refused = bench.log_in(username, password).await;
            assert_eq!(refused, (false, 1), "{username} with {password}");
        }
    }
}

/// Every refused login counts, so that a guess at the password of an inactive user is as
/// expensive as any other.
#[tokio::test]
async fn the_right_password_of_an_inactive_user_counts_as_a_failed_login() {
    let bench = Bench::new();
    for _ in 0..10 {
        bench.log_in("inactive", PASSWORD).await;
    }
    let failed_logins = &bench.credentials.failed_logins;
    assert!(!failed_logins.count(ADDRESS, Instant::now()).is_zero());
}

/// A password that was remembered is forgotten when its user becomes inactive, and is right
/// again when the user is active again.
#[tokio::test]
async fn a_deactivated_user_is_checked_like_one_that_never_logged_in() {
    let mut bench = Bench::new();
    assert_eq!(bench.log_in("active", PASSWORD).await, (true, 1));
    bench.set_active(false);
    assert_eq!(bench.log_in("active", PASSWORD).await, (false, 1));
    assert_eq!(bench.log_in("active", PASSWORD).await, (false, 1));
    bench.set_active(true);
    assert_eq!(bench.log_in("active", PASSWORD).await, (true, 1));
}

#[test]
fn the_unused_hash_is_as_expensive_as_those_of_users() {
    let of_user = hash_password(PASSWORD, &[0; 16]).unwrap();
    let parameters = |hash: &str| hash.rsplit_once('$').unwrap().0.to_owned();
    assert_eq!(parameters(UNUSED_HASH), parameters(&of_user));
    assert_eq!(UNUSED_HASH.len(), of_user.len());
}

//! What is allowed and unsafe.

use std::net::{IpAddr, Ipv6Addr};

use secrecy::ExposeSecret;

use super::{ClusterConfig, RootUser};

/// Everything that is unsafe, each with the key and what to do.
pub(super) fn unsafe_settings(config: &ClusterConfig, root: &RootUser) -> Vec<String> {
    let mut found = Vec::new();
    let default = RootUser::default().password;
    if root.password.expose_secret() == default.expose_secret() {
        found.push(format!(
            "the root user {:?} of a new cluster has the default password: set IGGY_ROOT_PASSWORD on all nodes before the first start, or change the password afterwards",
            root.username
        ));
    }
    for (number, node) in config.cluster.nodes.iter().enumerate() {
        let Some(reach) = reach(&node.ip) else {
            continue;
        };
        let key = format!("cluster.nodes[{number}].ip = {:?} {reach}", node.ip);
        found.push(format!(
            "{key}: the links between nodes (port {}) are neither encrypted nor authenticated; use a private network or a tunnel",
            node.ports.tcp_replica
        ));
        if !config.tcp.tls.enabled {
            found.push(format!(
                "{key}: passwords and messages of clients (port {}) are not encrypted; set tcp.tls.enabled",
                node.ports.tcp
            ));
        }
    }
    if config.admin.enabled
        && let Some(reach) = reach(&config.admin.ip)
    {
        found.push(format!(
            "admin.ip = {:?} {reach}: the admin endpoint is neither encrypted nor authenticated; listen on a private address or on 127.0.0.1",
            config.admin.ip
        ));
    }
    found
}

/// Why an address may be reached from anywhere; `None` for loopback and private addresses,
/// and for names, which are not looked up.
fn reach(ip: &str) -> Option<&'static str> {
    let ip = ip.parse::<IpAddr>().ok()?.to_canonical();
    if ip.is_unspecified() {
        return Some("listens on all addresses of the machine");
    }
    let private = match ip {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            // 100.64.0.0/10 is shared address space.
            ip.is_private() || ip.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(ip) => is_local(ip),
    };
    (!ip.is_loopback() && !private).then_some("is a public address")
}

/// Unique local and link-local addresses.
fn is_local(ip: Ipv6Addr) -> bool {
    let first = ip.segments()[0];
    first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::config::{Backend, PortsSection};

    fn warnings(ip: &str, admin: &str, password: &str) -> Vec<String> {
        let ports = PortsSection::default();
        let mut config = ClusterConfig::on_this_machine(Backend::Raft, [ports]);
        config.cluster.nodes[0].ip = ip.into();
        config.admin.ip = admin.into();
        let root = RootUser {
            username: "iggy".into(),
            password: SecretString::from(password),
        };
        unsafe_settings(&config, &root)
    }

    #[test]
    fn private_addresses_and_a_password_are_safe() {
        for ip in [
            "127.0.0.1",
            "10.0.0.1",
            "172.31.255.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.100.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "iggy-0.example",
        ] {
            assert!(warnings(ip, ip, "secret").is_empty(), "{ip}");
        }
    }

    #[test]
    fn public_addresses_and_the_default_password_are_unsafe() {
        for ip in [
            "203.0.113.7",
            "172.32.0.1",
            "100.128.0.1",
            "2001:db8::1",
            "0.0.0.0",
            "::",
        ] {
            assert_eq!(warnings(ip, "127.0.0.1", "secret").len(), 2, "{ip}");
            let admin = warnings("127.0.0.1", ip, "secret");
            assert!(admin[0].starts_with("admin.ip = "), "{admin:?}");
        }
        let [default] = &warnings("::1", "::1", "iggy")[..] else {
            panic!("not one warning");
        };
        assert!(default.contains("set IGGY_ROOT_PASSWORD"), "{default}");
    }
}

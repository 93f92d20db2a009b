//! BIND for every name server, and a caching resolver for the operator and the clients.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use handover::model::{FacilityState, NameServer, Zone};

use super::{Ready, Server, Site, argv, at, home, write};
use crate::layout::{OPERATOR, socket};

const USER: &str = "bind";

/// A zone, and the name and entry of a server that is authoritative for it.
type Duty<'a> = (&'a Zone, &'a str, &'a NameServer);

/// One `named` for each address; it serves all zones that list it.
pub fn authoritative(site: &mut Site<'_>) -> Result<Vec<Server>> {
    let topology = site.topology;
    let mut instances: BTreeMap<(Ipv4Addr, u16), Vec<Duty<'_>>> = BTreeMap::new();
    for zone in topology.zones.values() {
        for (name, server) in &zone.servers {
            instances.entry(socket(&server.target)?).or_default().push((zone, name, server));
        }
    }
    instances.into_iter().map(|((ip, port), zones)| named(site, ip, port, &zones)).collect()
}

fn named(site: &mut Site<'_>, ip: Ipv4Addr, port: u16, zones: &[Duty<'_>]) -> Result<Server> {
    let (_, name, first) = zones.first().context("a name server without a zone")?;
    let home = home(name, Some(USER))?;
    let mut conf = format!(
        r#"options {{
    directory "{dir}";
    listen-on port {port} {{ {ip}; }};
    listen-on-v6 {{ none; }};
    query-source address {ip};
    notify-source {ip};
    transfer-source {ip};
    pid-file "{dir}/named.pid";
    lock-file none;
    session-keyfile "{dir}/session.key";
    managed-keys-directory "{dir}";
    recursion no;
    allow-query {{ any; }};
    allow-transfer {{ any; }};
    minimal-responses yes;
    notify explicit;
    notify-delay 0;
    dnssec-validation no;
    max-cache-size 4m;
    interface-interval 0;
    startup-notify-rate 100;
    notify-rate 100;
    serial-query-rate 100;
}};
controls {{ }};
"#,
        dir = home.display()
    );
    let mut keys = BTreeMap::new();
    for (zone, _, server) in zones {
        let settings = &server.target.settings;
        let file = format!("{}.zone", zone.name);
        conf += &format!("zone \"{}\" {{\n    file \"{file}\";\n", zone.name);
        if let Some(source) = &server.transfers_from {
            let source = zone.servers.get(source).with_context(|| format!("no server {source} in {}", zone.name))?;
            let (ip, port) = socket(&source.target)?;
            conf += &format!(
                "    type secondary;\n    masterfile-format text;\n    primaries {{ {ip} port {port}; }};\n    allow-notify {{ {ip}; }};\n    min-refresh-time 1;\n    min-retry-time 1;\n    max-retry-time 2;\n"
            );
        } else {
            let (key, algorithm) = (settings.text("key"), settings.text("algorithm"));
            let key = key.with_context(|| format!("{}: no setting `key`", server.target.id))?;
            keys.insert(key, algorithm.unwrap_or("hmac-sha256"));
            conf += &format!("    type primary;\n    update-policy {{ grant \"{key}\" zonesub ANY; }};\n");
            write(&home.join(file), &zone_file(site, zone)?, Some(USER), 0o640)?;
        }
        // A secondary may have secondaries of its own.
        let next = secondaries(zone, server.target.id.as_str())?;
        conf += &format!("    also-notify {{ {next} }};\n}};\n");
    }
    for (key, algorithm) in keys {
        let secret = site.secrets.of(key)?;
        conf += &format!("key \"{key}\" {{ algorithm {algorithm}; secret \"{secret}\"; }};\n");
    }
    let path = home.join("named.conf");
    write(&path, &conf, Some(USER), 0o640)?;
    let path = path.to_string_lossy();
    let ready = zones.iter().map(|(zone, ..)| Ready::Dns {
        server: at(ip, port),
        name: zone.name.to_string(),
        kind: 6,
        authoritative: true,
    });
    Ok(Server {
        name: (*name).to_owned(),
        kind: "named",
        targets: zones.iter().map(|(.., server)| server.target.id.to_string()).collect(),
        place: first.target.facility.to_string(),
        argv: argv(&["/usr/sbin/named", "-g", "-4", "-n", "1", "-u", USER, "-c", &path]),
        user: None,
        wave: 0,
        pid_file: None,
        by_command: false,
        ready: ready.collect(),
    })
}

/// Addresses of the servers that transfer from this one.
fn secondaries(zone: &Zone, of: &str) -> Result<String> {
    let mut list = String::new();
    for server in zone.servers.values() {
        let source = server.transfers_from.as_ref().and_then(|source| zone.servers.get(source));
        if source.is_some_and(|source| source.target.id.as_str() == of) {
            let (ip, port) = socket(&server.target)?;
            list += &format!("{ip} port {port}; ");
        }
    }
    Ok(list)
}

/// The zone as it is when the lab starts: every active facility with a share is published.
fn zone_file(site: &Site<'_>, zone: &Zone) -> Result<String> {
    let first = zone.servers.keys().next().with_context(|| format!("{} has no server", zone.name))?;
    let mut text =
        format!("$ORIGIN {zone}.\n$TTL 300\n@ IN SOA {first} hostmaster ( 1 60 5 604800 5 )\n", zone = zone.name);
    for (name, server) in &zone.servers {
        text += &format!("@ IN NS {name}\n{name} IN A {}\n", socket(&server.target)?.0);
    }
    for service in site.topology.services.values() {
        for hostname in service.hostnames.iter().filter(|(_, of)| **of == zone.name).map(|(hostname, _)| hostname) {
            let mut records = 0;
            for (facility, ips) in &service.addresses {
                let share = service.share.get(facility).is_some_and(|share| share.basis_points() > 0);
                let active = site
                    .topology
                    .facilities
                    .get(facility)
                    .is_some_and(|facility| facility.state == FacilityState::Active);
                for ip in ips.iter().filter(|_| share && active) {
                    text += &format!("{hostname}. {} IN A {ip}\n", service.ttl.0.as_secs());
                    records += 1;
                }
            }
            ensure!(records > 0, "no active facility with a share publishes {hostname}");
        }
    }
    Ok(text)
}

/// `unbound` for the operator, the clients and every `/etc/resolv.conf` of the lab.
pub fn resolver(site: &Site<'_>) -> Result<Server> {
    let user = "unbound";
    let home = home("resolver", Some(user))?;
    let ip = site.layout.resolver();
    let mut conf = format!(
        r#"server:
    interface: 127.0.0.1
    interface: {ip}
    access-control: 0.0.0.0/0 allow
    do-ip6: no
    do-daemonize: no
    use-syslog: no
    logfile: ""
    chroot: ""
    directory: "{dir}"
    pidfile: ""
    username: "{user}"
    num-threads: 1
    module-config: "iterator"
    cache-min-ttl: 0
    cache-max-negative-ttl: 1
    infra-host-ttl: 10
    msg-cache-size: 1m
    rrset-cache-size: 1m
    do-not-query-localhost: no
remote-control:
    control-enable: no
"#,
        dir = home.display()
    );
    let mut ready = Vec::new();
    for zone in site.topology.zones.values() {
        conf += &format!("stub-zone:\n    name: \"{}\"\n    stub-prime: no\n", zone.name);
        for server in zone.servers.values() {
            let (ip, port) = socket(&server.target)?;
            conf += &format!("    stub-addr: {ip}@{port}\n");
        }
    }
    for hostname in site.topology.services.values().flat_map(|service| service.hostnames.keys()) {
        ready.push(Ready::Dns { server: at(ip, 53), name: hostname.clone(), kind: 1, authoritative: false });
    }
    let path = home.join("unbound.conf");
    write(&path, &conf, Some(user), 0o640)?;
    Ok(Server {
        name: "resolver".to_owned(),
        kind: "unbound",
        targets: Vec::new(),
        place: OPERATOR.to_owned(),
        argv: argv(&["/usr/sbin/unbound", "-d", "-p", "-c", &path.to_string_lossy()]),
        user: None,
        wave: 0,
        pid_file: None,
        by_command: false,
        ready,
    })
}

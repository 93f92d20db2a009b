//! HAProxy for every proxy, and the application servers behind it.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, bail};
use handover::model::{ForeignName, Proxy, Service};

use super::{APP, APP_PASSWORD, Ready, Server, Site, argv, home, write};
use crate::layout::socket;
use crate::namespace::PROGRAM;

/// One HAProxy for each proxy.
pub fn proxies(site: &Site<'_>) -> Result<Vec<Server>> {
    site.topology.proxies.iter().map(|(name, proxy)| haproxy(site, name, proxy)).collect()
}

fn haproxy(site: &Site<'_>, name: &str, proxy: &Proxy) -> Result<Server> {
    let home = home(name, Some("haproxy"))?;
    let (ip, port) = socket(&proxy.target)?;
    let control = proxy.target.settings.text("control").with_context(|| format!("{name}: no setting `control`"))?;
    let stats = match (control.strip_prefix("tcp://"), control.strip_prefix("unix:")) {
        (Some(address), _) => format!("ipv4@{address}"),
        (_, Some(path)) => format!("{path} mode 660"),
        _ => bail!("{name}: `{control}` is neither tcp://IP:PORT nor unix:/PATH"),
    };
    let (saved, load) = match proxy.target.settings.text("state_file") {
        Some(path) => (format!("    server-state-file {path}\n"), "    load-server-state-from-file global\n"),
        None => (String::new(), ""),
    };
    let interval = if site.fast { "500ms" } else { "1s" };
    let known: Vec<&str> =
        site.topology.services.values().flat_map(|service| service.hostnames.keys()).map(String::as_str).collect();
    let known = known.join(" ");
    let mut conf = format!(
        r#"global
    log stdout format raw local0 notice
    maxconn 4000
    nbthread 1
    user haproxy
    group haproxy
    stats socket {stats} level admin
    stats timeout 1m
{saved}defaults
{load}    mode http
    log global
    option dontlognull
    option redispatch
    option idle-close-on-response
    retries 3
    timeout connect 1s
    timeout check 3s
    timeout client 30s
    timeout server 30s
    timeout queue 5s
    timeout http-request 5s
    timeout http-keep-alive 10s
    default-server inter {interval} fastinter 200ms rise 2 fall 3
frontend clients
    bind {ip}:{port}
    acl known hdr(host),field(1,:) -i {known}
    http-request return status 404 content-type text/plain string "no such service" unless known
"#
    );
    for service in site.topology.services.values() {
        let hostnames: Vec<&str> = service.hostnames.keys().map(String::as_str).collect();
        conf += &format!(
            "    use_backend {} if {{ hdr(host),field(1,:) -i {} }}\n",
            backend(proxy, service),
            hostnames.join(" ")
        );
    }
    let mut ready = vec![Ready::Tcp(SocketAddrV4::new(ip, port))];
    for service in site.topology.services.values() {
        conf += &format!(
            "backend {}\n    balance roundrobin\n    option httpchk\n    http-check send meth GET uri {} ver HTTP/1.1 hdr Host {} hdr Connection close\n    http-check expect status {}\n",
            backend(proxy, service),
            service.health.path,
            service.health.host,
            service.health.expect
        );
        for (name, server) in &service.servers {
            let (ip, port) = socket(&server.target)?;
            conf += &format!("    server {name} {ip}:{port} check weight {}\n", weight(service, name));
        }
        if site.applications {
            ready.push(Ready::Http {
                server: SocketAddrV4::new(ip, port),
                host: service.health.host.clone(),
                path: service.health.path.clone(),
                status: service.health.expect,
            });
        }
    }
    let path = home.join("haproxy.cfg");
    write(&path, &conf, None, 0o644)?;
    Ok(Server {
        name: name.to_owned(),
        kind: "haproxy",
        targets: vec![proxy.target.id.to_string()],
        place: proxy.target.facility.to_string(),
        argv: argv(&["/usr/sbin/haproxy", "-db", "-f", &path.to_string_lossy()]),
        user: None,
        wave: 0,
        pid_file: None,
        by_command: false,
        ready,
    })
}

fn backend<'a>(proxy: &'a Proxy, service: &'a Service) -> &'a ForeignName {
    proxy.backends.get(&service.name).unwrap_or(&service.backend)
}

/// A server's weight: its part of its facility's share, 100 for the heaviest.
fn weight(service: &Service, name: &str) -> u64 {
    let part = |name: &str| {
        let facility = service.servers.get(name).map(|server| &server.target.facility)?;
        let peers = service.servers.values().filter(|server| server.target.facility == *facility).count();
        let share = service.share.get(facility).map_or(0, |share| share.basis_points());
        Some(u64::from(share) * 1000 / peers as u64)
    };
    let heaviest = service.servers.keys().filter_map(|name| part(name)).max().unwrap_or(0);
    let own = part(name).unwrap_or(0);
    if own == 0 { 0 } else { (own * 100 / heaviest).max(1) }
}

/// The application servers: this program's own `app`.
pub fn applications(site: &Site<'_>) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for service in site.topology.services.values() {
        for (name, server) in &service.servers {
            let facility = &server.target.facility;
            let (ip, port) = socket(&server.target)?;
            let listen = format!("{ip}:{port}");
            let mut argv = vec![PROGRAM.to_owned()];
            argv.extend(super::argv(&[
                "app",
                "--listen",
                &listen,
                "--service",
                service.name.as_str(),
                "--server",
                name,
            ]));
            argv.extend(super::argv(&["--facility", facility.as_str()]));
            for database in service.writes_to.iter().chain(&service.reads_from) {
                let (pooler, entry) = site.pooler(database, facility)?;
                argv.extend(["--database".to_owned(), format!("{database}={pooler}/{entry}")]);
            }
            argv.extend(super::argv(&["--user", APP, "--password-file", APP_PASSWORD]));
            servers.push(Server {
                name: name.clone(),
                kind: "app",
                targets: vec![server.target.id.to_string()],
                place: facility.to_string(),
                argv,
                user: Some("nobody"),
                wave: 1,
                pid_file: None,
                by_command: false,
                ready: vec![Ready::Http {
                    server: SocketAddrV4::new(ip, port),
                    host: service.health.host.clone(),
                    path: service.health.path.clone(),
                    status: service.health.expect,
                }],
            });
        }
    }
    Ok(servers)
}

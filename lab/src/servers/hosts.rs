//! An ssh server for every host that is reached by ssh, and the operator's client configuration.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use handover::model::TransportKind;

use super::{Ready, Server, Site, argv, at, home, write};
use crate::layout::ssh_address;

/// One `sshd` for each address.
pub fn ssh(site: &Site<'_>) -> Result<Vec<Server>> {
    let mut hosts: BTreeMap<(Ipv4Addr, u16), &str> = BTreeMap::new();
    let vantages = site.topology.vantages.values().filter_map(|target| target.host.as_ref());
    for host in site.topology.hosts.values().chain(vantages) {
        let name = &host.name;
        if let (Some(ip), TransportKind::Ssh { port, .. }) = (ssh_address(&host.transport), &host.transport) {
            hosts.entry((ip?, port.unwrap_or(22))).or_insert(name.as_str());
        }
    }
    let operator = keys(site, "/srv/ssh", "operator")?;
    write(Path::new("/srv/ssh/authorized_keys"), &operator, None, 0o644)?;
    let mut known_hosts = String::new();
    let mut servers = Vec::new();
    for ((ip, port), name) in hosts {
        let key = keys(site, &format!("/srv/{name}/ssh"), "host")?;
        let address = if port == 22 { ip.to_string() } else { format!("[{ip}]:{port}") };
        known_hosts += &format!("{address} {key}");
        servers.push(sshd(site, name, ip, port)?);
    }
    write(Path::new("/srv/ssh/known_hosts"), &known_hosts, None, 0o644)?;
    Ok(servers)
}

fn sshd(site: &Site<'_>, name: &str, ip: Ipv4Addr, port: u16) -> Result<Server> {
    let home = home(name, None)?;
    let conf = format!(
        r"ListenAddress {ip}:{port}
HostKey {dir}/ssh/host
PidFile none
AuthorizedKeysFile /srv/ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxSessions 200
MaxStartups 200:30:400
SetEnv PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin
",
        dir = home.display()
    );
    let path = home.join("sshd_config");
    write(&path, &conf, None, 0o644)?;
    let place = site.layout.places.iter().find(|place| place.addresses.contains(&ip));
    Ok(Server {
        name: name.to_owned(),
        kind: "sshd",
        targets: Vec::new(),
        place: place.with_context(|| format!("host {name} stands in no facility"))?.name.clone(),
        argv: argv(&["/usr/sbin/sshd", "-D", "-e", "-f", &path.to_string_lossy()]),
        user: None,
        wave: 0,
        pid_file: None,
        by_command: false,
        ready: vec![Ready::Tcp(at(ip, port))],
    })
}

/// Makes a key pair; returns the public key's line.
fn keys(site: &Site<'_>, directory: &str, name: &str) -> Result<String> {
    super::directory(Path::new(directory), None)?;
    let file = format!("{directory}/{name}");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", &file]);
    site.processes.run(&mut keygen, None)?;
    Ok(std::fs::read_to_string(format!("{file}.pub"))?)
}

/// Writes the files that are mounted over those of `/etc`: the resolver, the ssh client's configuration with strict host keys, and
/// the accounts without their passwords (`sshd` refuses locked ones even with a key).
pub fn etc(resolver: Ipv4Addr, etc: &Path) -> Result<()> {
    std::fs::create_dir_all(etc)?;
    std::fs::write(etc.join("resolv.conf"), format!("nameserver {resolver}\noptions timeout:2 attempts:3\n"))?;
    std::fs::write(
        etc.join("ssh_config"),
        "Host *\n    IdentityFile /srv/ssh/operator\n    IdentitiesOnly yes\n    GlobalKnownHostsFile /srv/ssh/known_hosts\n    UserKnownHostsFile /dev/null\n    StrictHostKeyChecking yes\n    BatchMode yes\n",
    )?;
    let accounts = std::fs::read_to_string("/etc/passwd")?;
    let lines = accounts.lines().filter_map(|line| line.split(':').next());
    let shadow: String = lines.map(|name| format!("{name}:*:19000:0:99999:7:::\n")).collect();
    std::fs::write(etc.join("shadow"), shadow)?;
    Ok(())
}

//! The real servers that a topology lists: their configuration, how they start, and how one knows that they are ready.

mod dns;
mod edge;
mod hosts;
mod jobs;
mod pooler;
mod postgresql;
mod units;

pub use hosts::etc as hosts_etc;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use handover::model::{DatabaseName, FacilityName, PrimaryPlace, Setting, SettingValue, Settings};
use handover::topology::Topology;
use nix::unistd::User;

use crate::directory::Directory;
use crate::layout::Layout;
use crate::namespace::PROGRAM;
use crate::process::Processes;

/// The lab's private directory as its servers see it.
pub const SRV: &str = "/srv";

/// A program that the supervisor starts and watches.
#[derive(Clone, Debug)]
pub struct Server {
    /// What operators call it, such as `west-ns1`.
    pub name: String,
    /// What it is: `named`, `haproxy`, ….
    pub kind: &'static str,
    /// The targets that it is, as in plans; empty where the topology knows it only as a host or not at all.
    pub targets: Vec<String>,
    /// The place that it runs in.
    pub place: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The user that it runs as; root where there is none.
    pub user: Option<&'static str>,
    /// Later waves start when earlier ones are ready.
    pub wave: u8,
    /// The file whose first line is the pid of whoever serves: a database server that was stopped and started over ssh is no child
    /// of the supervisor any more.
    pub pid_file: Option<PathBuf>,
    /// True where a command on its host starts and stops it, and the supervisor only at the beginning.
    pub by_command: bool,
    /// All of these hold when it is ready.
    pub ready: Vec<Ready>,
}

/// When a server is ready.
#[derive(Clone, Debug)]
pub enum Ready {
    /// It accepts TCP connections.
    Tcp(SocketAddrV4),
    /// It answers a question for an A or SOA record; `authoritative` demands the AA bit.
    Dns {
        /// Where it is asked.
        server: SocketAddrV4,
        /// The name.
        name: String,
        /// 1 for A, 6 for SOA.
        kind: u16,
        /// The AA bit must be set.
        authoritative: bool,
    },
    /// A query over the PostgreSQL protocol answers so.
    Sql {
        /// Where it is asked.
        server: SocketAddrV4,
        /// Login name; its password is in the lab's password file.
        user: String,
        /// Database.
        database: String,
        /// The query.
        query: String,
        /// What it prints.
        answer: String,
    },
    /// An HTTP GET gives this status.
    Http {
        /// Where it is asked.
        server: SocketAddrV4,
        /// The `Host` header.
        host: String,
        /// The path.
        path: String,
        /// The status code.
        status: u16,
    },
    /// A command in the server's place ends with status 0.
    Command(Vec<String>),
}

/// The variable that tells which server a process was started for, by its name.
pub const SERVER_VARIABLE: &str = "LAB_SERVER";

/// Writes `/srv/power`, the operator's power controller: it speaks to the lab's supervisor, over no network.
pub fn power_switch(directory: &Directory) -> Result<()> {
    let script = format!("#!/bin/sh\nexec {PROGRAM} power --directory {} \"$@\"\n", directory.path().display());
    write(Path::new("/srv/power"), &script, None, 0o755)
}

/// What the generators work from.
#[derive(Debug)]
pub struct Site<'a> {
    /// The topology.
    pub topology: &'a Topology,
    /// Where everything lives.
    pub layout: &'a Layout,
    /// The secrets of this lab.
    pub secrets: Secrets,
    /// Starts programs.
    pub processes: &'a Processes,
    /// Application servers and jobs run too.
    pub applications: bool,
    /// Health checks come twice a second.
    pub fast: bool,
}

/// Random secrets, one for each login, made when the lab starts.
#[derive(Debug, Default)]
pub struct Secrets {
    by_login: BTreeMap<String, String>,
}

/// The user of the application servers in databases and poolers.
pub const APP: &str = "app";
/// The file that holds the application servers' password.
pub const APP_PASSWORD: &str = "/srv/secrets/app";
/// The password file of replicas, jobs and the lab itself.
pub const PGPASS: &str = "/srv/secrets/pgpass";

impl Secrets {
    /// The secret of `login`. 32 random bytes in hexadecimal: also valid as the base64 of a TSIG key.
    pub fn of(&mut self, login: &str) -> Result<String> {
        if let Some(secret) = self.by_login.get(login) {
            return Ok(secret.clone());
        }
        let mut bytes = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.by_login.insert(login.to_owned(), secret.clone());
        Ok(secret)
    }
}

impl Site<'_> {
    /// Writes every configuration and returns the servers, in no particular order.
    pub fn prepare(&mut self) -> Result<Vec<Server>> {
        self.write_secrets()?;
        let mut servers = dns::authoritative(self)?;
        servers.push(dns::resolver(self)?);
        servers.extend(edge::proxies(self)?);
        servers.extend(hosts::ssh(self)?);
        servers.extend(pooler::poolers(self)?);
        servers.extend(postgresql::members(self)?);
        if self.applications {
            servers.extend(edge::applications(self)?);
            servers.extend(jobs::jobs(self)?);
        }
        units::units(&servers)?;
        Ok(servers)
    }

    /// Every secret that the topology refers to by a file under `/srv`, and those of the lab's own.
    fn write_secrets(&mut self) -> Result<()> {
        directory(Path::new("/srv/secrets"), None)?;
        fs::set_permissions("/srv/secrets", Permissions::from_mode(0o711))?;
        for target in self.topology.targets() {
            for (setting, login) in [("secret", "key"), ("password", "user"), ("password", "admin")] {
                let (Some(path), Some(login)) = (file_of(&target.settings, setting), target.settings.text(login))
                else {
                    continue;
                };
                ensure!(path.starts_with(SRV), "{}: the lab writes secrets only under {SRV}, not {path}", target.id);
                let secret = self.secrets.of(login)?;
                write(Path::new(path), &format!("{secret}\n"), None, 0o600)?;
            }
        }
        for pooler in self.topology.poolers.values() {
            let Some(SettingValue::Map(probe)) = pooler.target.settings.get("probe").map(|probe| &probe.value) else {
                continue;
            };
            let probe = Settings { entries: probe.clone(), ..Settings::default() };
            ensure!(
                probe.text("user") == Some(APP) && file_of(&probe, "password") == Some(APP_PASSWORD),
                "{}: the lab's probe logs in as `{APP}` with the password in {APP_PASSWORD}",
                pooler.target.id
            );
        }
        let app = self.secrets.of(APP)?;
        write(Path::new(APP_PASSWORD), &format!("{app}\n"), Some("nobody"), 0o400)?;
        self.secrets.of(postgresql::REPLICATOR)?;
        let lines: Vec<String> =
            self.secrets.by_login.iter().map(|(login, secret)| format!("*:*:*:{login}:{secret}\n")).collect();
        write(Path::new(PGPASS), &lines.concat(), Some("postgres"), 0o600)
    }

    /// The member that is the primary when the lab starts.
    pub fn primary(&self, database: &DatabaseName) -> Result<&str> {
        let database = self.topology.databases.get(database).context("an unknown database")?;
        let name = match &database.primary {
            PrimaryPlace::Member(member) => Some(member),
            PrimaryPlace::Facility(facility) => {
                let there = database.members.iter().filter(|(_, member)| member.target.facility == *facility);
                there.max_by_key(|(_, member)| member.priority).map(|(name, _)| name)
            }
        };
        name.map(String::as_str).with_context(|| format!("{} has no member where its primary belongs", database.name))
    }

    /// The pooler of a facility that stands in front of a database; any other one where the facility has none.
    pub fn pooler(&self, database: &DatabaseName, facility: &FacilityName) -> Result<(SocketAddrV4, String)> {
        let poolers = &self.topology.databases.get(database).context("an unknown database")?.poolers;
        let mut candidates: Vec<_> = poolers.iter().filter_map(|name| self.topology.poolers.get(name)).collect();
        candidates.sort_by_key(|pooler| pooler.target.facility != *facility);
        let pooler = candidates.first().with_context(|| format!("no pooler stands in front of {database}"))?;
        let (ip, port) = crate::layout::socket(&pooler.target)?;
        Ok((SocketAddrV4::new(ip, port), pooler_database(self.topology, database)))
    }
}

/// What the poolers call a database.
fn pooler_database(topology: &Topology, database: &DatabaseName) -> String {
    match topology.databases.get(database).map(|database| &database.route) {
        Some(handover::model::Route::PoolerDatabase(name)) => name.as_str().to_owned(),
        _ => database.as_str().to_owned(),
    }
}

/// The path in a setting such as `{file: /srv/secrets/tsig}`.
fn file_of<'a>(settings: &'a Settings, key: &str) -> Option<&'a str> {
    match &settings.get(key)?.value {
        SettingValue::Map(map) => map.get("file").and_then(|(_, file)| file.as_text()),
        _ => None,
    }
}

/// The argument list in a setting such as `{command: [a, b]}`.
pub fn command_of(settings: &Settings, key: &str) -> Option<Vec<String>> {
    let setting = settings.get(key)?;
    let list = match &setting.value {
        SettingValue::Map(map) => &map.get("command")?.1,
        _ => setting,
    };
    match list {
        Setting { value: SettingValue::List(items), .. } => {
            items.iter().map(|item| item.as_text().map(str::to_owned)).collect()
        }
        _ => None,
    }
}

/// Makes a directory that belongs to `user`.
fn directory(path: &Path, user: Option<&str>) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    own(path, user)
}

/// Writes a file that belongs to `user`.
fn write(path: &Path, text: &str, user: Option<&str>, mode: u32) -> Result<()> {
    ensure!(path.starts_with(SRV), "the lab writes only under {SRV}, not {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    own(path, user)
}

fn own(path: &Path, user: Option<&str>) -> Result<()> {
    if let Some(user) = user {
        let user = account(user)?;
        std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    }
    Ok(())
}

/// A user of this machine.
pub fn account(name: &str) -> Result<User> {
    match User::from_name(name)? {
        Some(user) => Ok(user),
        None => bail!("there is no user `{name}` on this machine; run lab/install.sh"),
    }
}

fn argv(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

/// The directory of a server's own.
fn home(name: &str, user: Option<&str>) -> Result<PathBuf> {
    let path = Path::new(SRV).join(name);
    directory(&path, user)?;
    Ok(path)
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip, port)
}

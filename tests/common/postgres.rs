//! Real PostgreSQL and pgbouncer servers on loopback, in a directory of their own; they end with the value that started them.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::disallowed_methods, reason = "tests start servers and write their files")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::ports::free_port;
use handover::model::{Host, Place, Setting, SettingValue, Settings, Target, TargetId, TargetKind, TransportKind};
use handover::secret::SecretReader;

#[path = "ports.rs"]
mod ports;

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A program as the user `postgres`: PostgreSQL refuses to run as root.
pub fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", program]);
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn number_of(user: &str, option: &str) -> u32 {
    succeed(Command::new("id").args([option, user])).parse().unwrap()
}

/// Makes a file that of the user `postgres`.
pub fn give(path: &Path) {
    chown(path, Some(number_of("postgres", "-u")), Some(number_of("postgres", "-g"))).unwrap();
}

fn text(text: impl AsRef<str>) -> SettingValue {
    SettingValue::Text(text.as_ref().to_owned())
}

fn file(path: &str) -> SettingValue {
    SettingValue::Map(entries([("file", text(path))]))
}

fn entries<const N: usize>(items: [(&str, SettingValue); N]) -> BTreeMap<String, (Place, Setting)> {
    let place = Place::default();
    items.into_iter().map(|(key, value)| (key.to_owned(), (place, Setting { value, place }))).collect()
}

fn here() -> Option<Arc<Host>> {
    Some(Arc::new(Host { name: "here".into(), transport: TransportKind::Local, commands: BTreeMap::new() }))
}

/// A directory with the secrets of a test.
pub struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("handover-pg-").tempdir().unwrap();
        give(dir.path());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        for (name, secret) in
            [("postgresql", "pg-secret"), ("pgbouncer", "pool-secret"), ("probe", "app-secret"), ("wrong", "no")]
        {
            fs::write(dir.path().join(name), format!("{secret}\n")).unwrap();
        }
        Self { dir }
    }

    pub fn secrets(&self) -> Arc<SecretReader> {
        Arc::new(SecretReader::new(self.dir.path()))
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A member of the database `accounts`.
pub struct Member {
    pub name: String,
    pub port: u16,
    pub data: PathBuf,
    socket: PathBuf,
}

impl Member {
    fn at(site: &Site, name: &str) -> Self {
        let data = site.path().join(name);
        Self { name: name.to_owned(), port: free_port(), data, socket: site.path().to_owned() }
    }

    /// Starts a primary with the roles and the table that the tests need.
    pub fn primary(site: &Site, name: &str) -> Self {
        let member = Self::at(site, name);
        succeed(
            as_postgres(&format!("{BIN}/initdb")).args(["-N", "-A", "trust", "-U", "postgres", "-D"]).arg(&member.data),
        );
        let hba = "local all all trust\n\
                   host all handover 127.0.0.1/32 md5\n\
                   host all all 127.0.0.1/32 trust\n\
                   host replication replicator 127.0.0.1/32 trust\n";
        fs::write(member.data.join("pg_hba.conf"), hba).unwrap();
        let conf = format!(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nwal_log_hints = on\nshared_buffers = 32MB\n\
             max_wal_size = 256MB\n",
            member.socket.display()
        );
        fs::write(member.data.join("postgresql.conf"), conf).unwrap();
        member.start();
        // An MD5 password, because a SCRAM exchange takes an unoptimised client half of a short deadline.
        // The least rights that the provider needs, as docs/providers.md lists them.
        member.sql(
            "SET password_encryption = 'md5'; \
             CREATE ROLE handover LOGIN REPLICATION PASSWORD 'pg-secret' IN ROLE pg_monitor, pg_checkpoint; \
             GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names, primary_conninfo, primary_slot_name, max_slot_wal_keep_size, \
               wal_retrieve_retry_interval TO handover; \
             GRANT EXECUTE ON FUNCTION pg_reload_conf(), pg_promote(boolean, integer) TO handover; \
             CREATE ROLE replicator LOGIN REPLICATION; \
             GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text), \
               pg_read_binary_file(text, bigint, bigint, boolean) TO replicator; \
             GRANT EXECUTE ON FUNCTION pg_read_file(text, bigint, bigint, boolean) TO handover; \
             CREATE ROLE app LOGIN; \
             CREATE ROLE nobody LOGIN; \
             CREATE TABLE ledger (id bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp()); \
             GRANT ALL ON ledger TO app",
        );
        member
    }

    /// Starts a replica.
    pub fn replica(site: &Site, name: &str, primary: &Self) -> Self {
        let member = Self::at(site, name);
        let slot = name.replace('-', "_");
        primary.sql(&format!("SELECT pg_create_physical_replication_slot('{slot}', true)"));
        let port = primary.port.to_string();
        let mut copy = as_postgres(&format!("{BIN}/pg_basebackup"));
        succeed(
            copy.args(["-h", "127.0.0.1", "-p", &port, "-U", "replicator", "-c", "fast", "-N", "-D"]).arg(&member.data),
        );
        member.follow(primary);
        member.start();
        let name = &member.name;
        primary.until(&format!("SELECT state FROM pg_stat_replication WHERE application_name = '{name}'"), "streaming");
        member
    }

    fn follow(&self, primary: &Self) {
        let (name, slot) = (&self.name, self.name.replace('-', "_"));
        let auto = format!(
            "primary_conninfo = 'host=127.0.0.1 port={} application_name={name} user=replicator'\n\
             primary_slot_name = '{slot}'\n",
            primary.port
        );
        fs::write(self.data.join("postgresql.auto.conf"), auto).unwrap();
        fs::write(self.data.join("standby.signal"), "").unwrap();
        give(&self.data.join("postgresql.auto.conf"));
        give(&self.data.join("standby.signal"));
    }

    pub fn start(&self) {
        self.start_with("");
    }

    /// With more options on its command line.
    pub fn start_with(&self, options: &str) {
        let options = format!("-p {} {options}", self.port);
        let mut start = as_postgres(&format!("{BIN}/pg_ctl"));
        start.args(["start", "-w", "-s", "-o", &options, "-l"]).arg(self.data.with_extension("log"));
        start.arg("-D").arg(&self.data).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(start.status().unwrap().success(), "{}", self.log());
    }

    /// As an operator would who does not look whether it came up.
    pub fn start_without_waiting(&self) {
        let options = format!("-p {}", self.port);
        let mut start = as_postgres(&format!("{BIN}/pg_ctl"));
        start.args(["start", "-W", "-s", "-o", &options, "-l"]).arg(self.data.with_extension("log"));
        start.arg("-D").arg(&self.data).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    }

    pub fn stop(&self) {
        succeed(as_postgres(&format!("{BIN}/pg_ctl")).args(["stop", "-w", "-s", "-m", "fast", "-D"]).arg(&self.data));
    }

    /// Ends it as a power cut would.
    pub fn kill(&self) {
        succeed(
            as_postgres(&format!("{BIN}/pg_ctl")).args(["stop", "-w", "-s", "-m", "immediate", "-D"]).arg(&self.data),
        );
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }

    /// As the superuser.
    pub fn sql(&self, sql: &str) -> String {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-At", "-U", "postgres", "-d", "postgres", "-p", &self.port.to_string(), "-c", sql]);
        succeed(psql.arg("-h").arg(&self.socket))
    }

    pub fn until(&self, sql: &str, expected: &str) {
        let began = Instant::now();
        loop {
            let found = self.sql(sql);
            if found == expected {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{sql}: `{found}`, not `{expected}`");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn postmaster(&self) -> Option<String> {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        file.lines().next().map(str::to_owned)
    }

    /// Sends a signal to all of its processes.
    pub fn signal(&self, signal: &str) {
        let Some(postmaster) = self.postmaster() else { return };
        // One that has died has none, which `ps` calls a failure.
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &postmaster]).output().unwrap();
        let children = String::from_utf8_lossy(&children.stdout).into_owned();
        let children = children.split_whitespace().map(str::to_owned);
        // The postmaster first when they stop, so that it does not see its children stop.
        Command::new("kill").args([signal, &postmaster]).args(children).stderr(Stdio::null()).status().unwrap();
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn id(&self) -> TargetId {
        TargetId::member(&"accounts".into(), &self.name)
    }

    pub fn peer(&self) -> handover::model::Peer {
        handover::model::Peer { member: self.id(), address: self.address() }
    }

    pub fn target(&self) -> Target {
        self.target_as("handover", "postgresql")
    }

    pub fn target_as(&self, user: &str, secret: &str) -> Target {
        let settings = entries([
            ("user", text(user)),
            ("password", file(secret)),
            ("replication", text("user=replicator")),
            ("data_directory", text(self.data.to_str().unwrap())),
        ]);
        Target {
            id: self.id(),
            kind: TargetKind::Member,
            facility: "west".into(),
            provider: "postgresql".into(),
            address: self.address(),
            settings: Settings { entries: settings, place: Place::default() },
            host: here(),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Some(postmaster) = self.postmaster() else { return };
        self.signal("-CONT");
        Command::new("kill").args(["-QUIT", &postmaster]).stderr(Stdio::null()).status().unwrap();
        let began = Instant::now();
        while self.postmaster().is_some() && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A pgbouncer whose database `accounts` leads to one member; several processes, where it is asked for.
pub struct Pooler {
    pub port: u16,
    pub databases: PathBuf,
    pub consoles: Vec<String>,
    processes: Vec<std::process::Child>,
}

impl Pooler {
    pub fn start(site: &Site, leads_to: &str) -> Self {
        Self::start_with(site, leads_to, "", "")
    }

    /// One whose entry and whose configuration have more settings.
    pub fn start_with(site: &Site, leads_to: &str, entry: &str, settings: &str) -> Self {
        let mut pooler = Self::files(site, leads_to, entry);
        let config = pooler.config(site, &format!("listen_addr = 127.0.0.1\nunix_socket_dir =\n{settings}\n"));
        pooler.run(&config, "127.0.0.1");
        pooler
    }

    /// Two processes on one port, the first with an address of its own, the second with a socket.
    pub fn start_two(site: &Site, leads_to: &str) -> Self {
        let mut pooler = Self::files(site, leads_to, "");
        // An address of this test alone, in a network that is all of this machine.
        let own = format!("127.9.{}.{}", pooler.port >> 8, (pooler.port & 0xff).max(1));
        let shared = "so_reuseport = 1\n";
        let config = pooler.config(site, &format!("listen_addr = 127.0.0.1,{own}\nunix_socket_dir =\n{shared}"));
        pooler.run(&config, &own);
        let sockets = pooler.databases.with_file_name("sockets");
        fs::create_dir(&sockets).unwrap();
        give(&sockets);
        let config =
            pooler.config(site, &format!("listen_addr = 127.0.0.1\nunix_socket_dir = {}\n{shared}", sockets.display()));
        pooler.run(&config, "127.0.0.1");
        let socket = sockets.join(format!(".s.PGSQL.{}", pooler.port));
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "no {}", socket.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        pooler.consoles = vec![format!("tcp://{own}:{}", pooler.port), format!("unix:{}", socket.display())];
        pooler
    }

    fn files(site: &Site, leads_to: &str, entry: &str) -> Self {
        let dir = site.path().join("pool");
        fs::create_dir(&dir).unwrap();
        let (host, port) = leads_to.split_once(':').unwrap();
        let databases = dir.join("databases.ini");
        let text =
            format!("; where clients go\n[databases]\naccounts = host={host} port={port} dbname=postgres {entry}\n");
        fs::write(&databases, text).unwrap();
        let users = "\"handover\" \"pool-secret\"\n\"looker\" \"pool-secret\"\n\"app\" \"app-secret\"\n";
        fs::write(dir.join("users"), users).unwrap();
        for path in [&dir, &databases] {
            give(path);
        }
        Self { port: free_port(), databases, consoles: Vec::new(), processes: Vec::new() }
    }

    /// The configuration of one more process.
    fn config(&self, site: &Site, settings: &str) -> PathBuf {
        let dir = site.path().join("pool");
        let path = dir.join(format!("pgbouncer-{}.ini", self.processes.len()));
        let config = format!(
            "%include {}\n[pgbouncer]\nlisten_port = {}\nauth_type = scram-sha-256\nauth_file = {}\n\
             admin_users = handover\nstats_users = looker\npool_mode = transaction\nlogfile = {}\n{settings}\n",
            self.databases.display(),
            self.port,
            dir.join("users").display(),
            dir.join("log").display()
        );
        fs::write(&path, config).unwrap();
        path
    }

    fn run(&mut self, config: &Path, address: &str) {
        let mut pgbouncer = as_postgres("pgbouncer");
        pgbouncer.arg("-q").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        self.processes.push(pgbouncer.spawn().unwrap());
        let began = Instant::now();
        while std::net::TcpStream::connect((address, self.port)).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{}",
                fs::read_to_string(config.with_file_name("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As its administrator.
    pub fn console(&self, command: &str) -> String {
        let mut psql = Command::new("psql");
        psql.args([
            "-X",
            "-q",
            "-At",
            "-h",
            "127.0.0.1",
            "-U",
            "handover",
            "-d",
            "pgbouncer",
            "-p",
            &self.port.to_string(),
        ]);
        succeed(psql.env("PGPASSWORD", "pool-secret").args(["-c", command]))
    }

    pub fn signal(&self, signal: &str) {
        for process in &self.processes {
            Command::new("kill").args([signal, &process.id().to_string()]).status().unwrap();
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn target(&self) -> Target {
        self.target_as("handover")
    }

    pub fn target_as(&self, admin: &str) -> Target {
        let probe = SettingValue::Map(entries([("user", text("app")), ("password", file("probe"))]));
        let mut settings = entries([
            ("admin", text(admin)),
            ("password", file("pgbouncer")),
            ("databases", text(self.databases.to_str().unwrap())),
            ("probe", probe),
        ]);
        if !self.consoles.is_empty() {
            let place = Place::default();
            let items = self.consoles.iter().map(|console| Setting { value: text(console), place }).collect();
            settings.extend(entries([("consoles", SettingValue::List(items))]));
        }
        Target {
            id: TargetId::pooler("west-pool1"),
            kind: TargetKind::Pooler,
            facility: "west".into(),
            provider: "pgbouncer".into(),
            address: self.address(),
            settings: Settings { entries: settings, place: Place::default() },
            host: here(),
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

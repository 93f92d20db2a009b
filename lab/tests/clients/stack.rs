//! A small real stack on loopback: PostgreSQL, pgbouncer, two application servers, HAProxy.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tempfile::TempDir;
use tokio_postgres::NoTls;

#[path = "../../../tests/common/ports.rs"]
mod ports;

use ports::free_port;

const POSTGRES: &str = "/usr/lib/postgresql/15/bin";
const STARTUP: Duration = Duration::from_secs(20);

/// A server that ends with its owner.
pub struct Server {
    child: Child,
    end: Signal,
}

impl Server {
    fn start(command: &mut Command, log: &Path, end: Signal) -> Self {
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Self { child, end }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(self.end);
            _ = self.child.wait();
        }
    }
}

/// Fields are dropped in this order: clients before the servers they use, and the folder last.
pub struct Stack {
    _haproxy: Server,
    pub west: Server,
    pub east: Server,
    pub pgbouncer: Server,
    _postgres: Server,
    pub ports: Ports,
    pub dir: TempDir,
}

#[derive(Clone, Copy)]
pub struct Ports {
    pub http: u16,
    pub west: u16,
    pub east: u16,
    pub pooler: u16,
    pub postgres: u16,
}

fn free_ports() -> Ports {
    let [http, west, east, pooler, postgres] = [(); 5].map(|()| free_port());
    Ports { http, west, east, pooler, postgres }
}

fn as_postgres(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let user = User::from_name("postgres").unwrap().expect("the user postgres: is postgresql-15 installed?");
    let mut command = Command::new(program);
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/");
    command
}

impl Stack {
    pub async fn start() -> Self {
        let dir = TempDir::with_prefix("lab-load-").unwrap();
        let user = User::from_name("postgres").unwrap().unwrap();
        chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        let at = |name: &str| dir.path().join(name);
        let ports = free_ports();
        fs::write(at("password"), "secret\n").unwrap();

        let data = at("data");
        let output = as_postgres(format!("{POSTGRES}/initdb"))
            .args(["--no-sync", "--auth-host=scram-sha-256", "--auth-local=trust", "--username=handover", "--pwfile"])
            .args([&at("password"), Path::new("-D"), &data])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nfsync = off\nmax_connections = 60\n",
            ports.postgres
        );
        fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
        let postgres = Server::start(
            as_postgres(format!("{POSTGRES}/postgres")).arg("-D").arg(&data),
            &at("postgres.log"),
            Signal::SIGQUIT,
        );
        let admin = connect(ports.postgres, "postgres").await;
        admin.batch_execute("CREATE ROLE app LOGIN PASSWORD 'secret'").await.unwrap();
        for database in ["accounts", "products"] {
            admin.batch_execute(&format!("CREATE DATABASE {database} OWNER app")).await.unwrap();
            let database = connect(ports.postgres, database).await;
            let table = "CREATE TABLE writes (id bigint PRIMARY KEY, at timestamptz DEFAULT now()); ALTER TABLE writes OWNER TO app";
            database.batch_execute(table).await.unwrap();
        }

        let ini = format!(
            "[databases]\naccounts = host=127.0.0.1 port={0}\nproducts = host=127.0.0.1 port={0}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {1}\nunix_socket_dir =\nauth_type = scram-sha-256\n\
             auth_file = {2}\nadmin_users = handover\npool_mode = transaction\ndefault_pool_size = 8\nserver_login_retry = 1\n",
            ports.postgres,
            ports.pooler,
            at("users").display()
        );
        fs::write(at("pgbouncer.ini"), ini).unwrap();
        fs::write(at("users"), "\"app\" \"secret\"\n\"handover\" \"secret\"\n").unwrap();
        let pgbouncer = start_pgbouncer(dir.path());
        drop(connect(ports.pooler, "pgbouncer").await);

        let west = start_app(dir.path(), "west", ports.west, ports.pooler);
        let east = start_app(dir.path(), "east", ports.east, ports.pooler);
        let configuration = format!(
            "global\n  maxconn 500\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 30s\n  timeout server 30s\n  timeout check 5s\n\
             frontend web\n  bind 127.0.0.1:{}\n  default_backend app\n\
             backend app\n  option httpchk GET /health\n  default-server check inter 100 fall 2 rise 1\n\
             \x20 server west 127.0.0.1:{}\n  server east 127.0.0.1:{}\n",
            ports.http, ports.west, ports.east
        );
        fs::write(at("haproxy.cfg"), configuration).unwrap();
        for port in [ports.west, ports.east] {
            answers(&format!("http://127.0.0.1:{port}/health")).await;
        }
        let haproxy = Server::start(
            Command::new("/usr/sbin/haproxy").arg("-db").arg("-f").arg(at("haproxy.cfg")),
            &at("haproxy.log"),
            Signal::SIGKILL,
        );
        let stack = Self { _haproxy: haproxy, west, east, pgbouncer, _postgres: postgres, ports, dir };
        answers(&stack.url()).await;
        stack
    }

    /// The service's root, by name, through the proxy.
    pub fn url(&self) -> String {
        format!("http://localhost:{}/", self.ports.http)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub async fn database(&self, name: &str) -> tokio_postgres::Client {
        connect(self.ports.postgres, name).await
    }

    /// Sends a command to the pooler's console.
    pub async fn console(&self, command: &str) {
        connect(self.ports.pooler, "pgbouncer").await.simple_query(command).await.unwrap();
    }
}

pub fn start_pgbouncer(dir: &Path) -> Server {
    // Its SIGTERM is an immediate stop.
    let log = dir.join("pgbouncer.log");
    Server::start(as_postgres("/usr/sbin/pgbouncer").arg(dir.join("pgbouncer.ini")), &log, Signal::SIGTERM)
}

pub fn start_app(dir: &Path, facility: &str, port: u16, pooler: u16) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.arg("app").args(["--listen", &format!("127.0.0.1:{port}"), "--service", "orderform"]);
    command.args(["--facility", facility, "--server", &format!("{facility}-app1"), "--user", "app"]);
    for database in ["accounts", "products"] {
        command.args(["--database", &format!("{database}=127.0.0.1:{pooler}/{database}")]);
    }
    command.arg("--password-file").arg(dir.join("password"));
    Server::start(&mut command, &dir.join(format!("{facility}.log")), Signal::SIGKILL)
}

/// Logs in as the superuser, as soon as that works.
pub async fn connect(port: u16, database: &str) -> tokio_postgres::Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user("handover").password("secret").dbname(database);
    let started = Instant::now();
    loop {
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => assert!(started.elapsed() < STARTUP, "{database} on port {port}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn http() -> reqwest::Client {
    _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(Duration::from_secs(10));
    client.build().unwrap()
}

/// Waits until a URL answers with success.
pub async fn answers(url: &str) {
    let (client, started) = (http(), Instant::now());
    while !matches!(client.get(url).send().await, Ok(response) if response.status().is_success()) {
        assert!(started.elapsed() < STARTUP, "{url} does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

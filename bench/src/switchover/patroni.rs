//! Patroni with etcd, behind HAProxy as Patroni's documentation configures it, but with `inter 1s` instead of 3 s.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::sql::Sql;
use super::{Way, parse_rows};
use crate::programs::{Server, as_postgres, succeed};
use crate::servers::{Site, free_port};

/// How long servers may take to be ready.
const READY: Duration = Duration::from_secs(120);

/// One of Patroni's nodes.
struct Node {
    name: &'static str,
    postgres: u16,
    rest: u16,
}

/// Patroni's times, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For how long the primary's key lives without being renewed.
    pub ttl: u32,
    /// The time between two looks.
    pub loop_wait: u32,
    /// For how long etcd and PostgreSQL are asked again. Patroni wants `loop_wait` and twice this within `ttl`.
    pub retry_timeout: u32,
}

impl Timing {
    /// Those of Patroni's documentation.
    pub const DEFAULT: Self = Self { ttl: 30, loop_wait: 10, retry_timeout: 10 };
}

/// Patroni and its servers.
pub struct Patroni {
    timing: Timing,
    nodes: [Node; 2],
    /// Which of the nodes is primary.
    primary: usize,
    proxy: u16,
    /// In the order in which they must end: the proxy, Patroni of each node, etcd.
    servers: Vec<Server>,
    site: Site,
}

impl Patroni {
    /// Starts etcd, two nodes and the proxy.
    pub fn start(timing: Timing) -> Result<Self> {
        let site = Site::new();
        let nodes = ["a", "b"].map(|name| Node { name, postgres: free_port(), rest: free_port() });
        let (client, peer, proxy) = (free_port(), free_port(), free_port());
        let mut way = Self { timing, nodes, primary: 0, proxy, servers: Vec::new(), site };
        let etcd = way.run(way.etcd(client, peer), "etcd")?;
        way.settings("haproxy.cfg", &way.haproxy())?;
        let mut haproxy = Command::new("haproxy");
        haproxy.arg("-db").arg("-f").arg(way.path("haproxy.cfg"));
        let haproxy = way.run(haproxy, "haproxy")?;
        let mut servers = vec![haproxy];
        for number in 0..way.nodes.len() {
            let node = &way.nodes[number];
            way.settings(&format!("{}.yml", node.name), &way.node(node, client))?;
            servers.push(way.patroni(number)?);
            // The first one makes the cluster, the second one copies it.
            way.until(&format!("{} runs", node.name), || way.role(number).is_ok())?;
        }
        servers.push(etcd);
        way.servers = servers;
        way.until("a replica follows", || way.follows())?;
        let at_primary = way.superuser(way.primary)?;
        at_primary.ask("CREATE ROLE app LOGIN")?;
        at_primary.ask("CREATE TABLE ledger (id bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")?;
        at_primary.ask("GRANT ALL ON ledger TO app")?;
        way.until("clients are served", || Sql::open(&way.login()).is_ok())?;
        Ok(way)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.path().join(name)
    }

    fn settings(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.path(name), text)?)
    }

    /// Starts Patroni of a node.
    fn patroni(&self, node: usize) -> Result<Server> {
        let name = self.nodes[node].name;
        let mut patroni = as_postgres("patroni");
        patroni.arg(self.path(&format!("{name}.yml")));
        self.run(patroni, &format!("patroni-{name}"))
    }

    /// The primary's machine dies: SIGKILL of Patroni, of the postmaster and of all its processes. The other node is primary from now on.
    ///
    /// # Errors
    /// If there is no postmaster.
    pub fn kill_primary(&mut self) -> Result<()> {
        let dying = self.primary;
        let file = self.path(self.nodes[dying].name).join("postmaster.pid");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let postmaster = text.lines().next().context("postmaster.pid is empty")?.trim().to_owned();
        let children = succeed(Command::new("ps").args(["-o", "pid=", "--ppid", &postmaster]))?;
        // First the one that would start it again.
        self.servers[1 + dying].end();
        for pid in std::iter::once(postmaster.as_str()).chain(children.split_whitespace()) {
            // A child may end by itself as soon as the postmaster has.
            let _ = kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL);
        }
        self.primary = 1 - dying;
        Ok(())
    }

    /// The dead machine is back: Patroni starts there, and makes a replica of what it finds.
    ///
    /// # Errors
    /// If it does not follow the new primary.
    pub fn revive(&mut self) -> Result<()> {
        let dead = 1 - self.primary;
        self.servers[1 + dead] = self.patroni(dead)?;
        self.until("the node that died follows", || self.follows())
    }

    fn run(&self, mut command: Command, name: &str) -> Result<Server> {
        Server::start(&mut command, &self.path(&format!("{name}.log")))
    }

    fn etcd(&self, client: u16, peer: u16) -> Command {
        let mut etcd = Command::new("etcd");
        etcd.arg("--data-dir").arg(self.path("etcd"));
        for (option, port) in [
            ("--listen-client-urls", client),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer),
            ("--initial-advertise-peer-urls", peer),
        ] {
            etcd.arg(option).arg(format!("http://127.0.0.1:{port}"));
        }
        etcd.arg("--initial-cluster").arg(format!("default=http://127.0.0.1:{peer}"));
        etcd
    }

    fn haproxy(&self) -> String {
        let mut text = format!(
            "global\n  maxconn 100\ndefaults\n  mode tcp\n  retries 2\n  timeout client 30m\n  timeout connect 4s\n  timeout server 30m\n  \
             timeout check 5s\nlisten primary\n  bind 127.0.0.1:{}\n  option httpchk\n  http-check expect status 200\n  \
             default-server inter 1s fall 3 rise 2 on-marked-down shutdown-sessions\n",
            self.proxy
        );
        for Node { name, postgres, rest } in &self.nodes {
            text += &format!("  server {name} 127.0.0.1:{postgres} maxconn 100 check port {rest}\n");
        }
        text
    }

    fn node(&self, node: &Node, etcd: u16) -> String {
        let Node { name, postgres, rest } = node;
        let folder = self.site.path().display();
        let Timing { ttl, loop_wait, retry_timeout } = self.timing;
        format!(
            "scope: bench\nname: {name}\nrestapi: {{listen: '127.0.0.1:{rest}', connect_address: '127.0.0.1:{rest}'}}\n\
             etcd3: {{host: '127.0.0.1:{etcd}'}}\n\
             bootstrap:\n  dcs:\n    ttl: {ttl}\n    loop_wait: {loop_wait}\n    retry_timeout: {retry_timeout}\n    maximum_lag_on_failover: 1048576\n    \
             postgresql: {{use_pg_rewind: true, use_slots: true, parameters: {{wal_log_hints: 'on', shared_buffers: 32MB, \
             max_wal_size: 256MB}}}}\n  initdb: [{{encoding: UTF8}}, no-sync]\n  \
             pg_hba: ['local all all trust', 'host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust']\n\
             postgresql:\n  listen: '127.0.0.1:{postgres}'\n  connect_address: '127.0.0.1:{postgres}'\n  \
             data_dir: {folder}/{name}\n  bin_dir: /usr/lib/postgresql/15/bin\n  pgpass: {folder}/pgpass-{name}\n  \
             authentication: {{superuser: {{username: postgres}}, replication: {{username: replicator}}, \
             rewind: {{username: rewinder}}}}\n  parameters: {{unix_socket_directories: '{folder}'}}\n"
        )
    }

    fn superuser(&self, node: usize) -> Result<Sql> {
        Sql::open(&format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.nodes[node].postgres))
    }

    /// `t` on a replica.
    fn role(&self, node: usize) -> Result<String> {
        self.superuser(node)?.ask("SELECT pg_is_in_recovery()")
    }

    fn follows(&self) -> bool {
        let streams =
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn = pg_current_wal_lsn()";
        let asked = || -> Result<bool> {
            let replica = self.role(1 - self.primary)? == "t";
            Ok(replica && self.superuser(self.primary)?.ask(streams)? == "1")
        };
        asked().unwrap_or(false)
    }

    fn until(&self, what: &str, condition: impl Fn() -> bool) -> Result<()> {
        let began = Instant::now();
        while !condition() {
            ensure!(began.elapsed() < READY, "not within {} s: {what}\n{}", READY.as_secs(), self.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(8).collect();
            lines.into_iter().rev().map(|line| format!("  {line}\n")).collect::<String>()
        };
        ["etcd.log", "patroni-a.log", "patroni-b.log"].map(|name| format!("{name}:\n{}", tail(name))).concat()
    }

    fn patronictl(&self, arguments: &[&str]) -> Command {
        let mut command = as_postgres(Path::new("patronictl"));
        // The language that its command line library demands.
        command.env("LC_ALL", "C.UTF-8").env("LANG", "C.UTF-8");
        command.arg("-c").arg(self.path("a.yml")).args(arguments);
        command
    }
}

impl Way for Patroni {
    fn name(&self) -> &'static str {
        "patroni"
    }

    fn login(&self) -> String {
        format!("host=127.0.0.1 port={} user=app dbname=postgres connect_timeout=2", self.proxy)
    }

    fn switch(&mut self) -> Result<()> {
        let (leader, candidate) = (self.nodes[self.primary].name, self.nodes[1 - self.primary].name);
        let arguments = ["switchover", "bench", "--master", leader, "--candidate", candidate, "--force"];
        succeed(&mut self.patronictl(&arguments)).context("patronictl")?;
        self.primary = 1 - self.primary;
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.until("the old primary follows", || self.follows())
    }

    fn rows(&self) -> Result<BTreeSet<i64>> {
        let all = self.superuser(self.primary)?.ask("SELECT string_agg(id::text, E'\\n') FROM ledger")?;
        parse_rows(&all)
    }
}

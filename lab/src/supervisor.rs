//! Process 1 of a lab: makes its namespaces and mounts, starts its servers, and carries out what `lab` commands ask for. When it
//! ends, the kernel ends every process of the lab and with them its namespaces and mounts.

mod links;
mod power;
mod snapshot;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use jiff::Timestamp;
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::control::{Reply, Request, Selection, ServerStatus, Status};
use crate::layout::Layout;
use crate::machines::{self, Machine};
use crate::namespace::{Namespace, private_mounts};
use crate::process::{self, Processes};
use crate::router::{Links, Router};
use crate::servers::{Ready, SERVER_VARIABLE, SRV, Server, Site, account, hosts_etc, power_switch};
use crate::ways::{self, Notebook};
use crate::{directory::Directory, probe};
use power::Power;

/// How long a server may take until it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often a server that is not ready yet is asked again.
const POLL: Duration = Duration::from_millis(25);

/// How a lab shall be, written by `lab up` for its supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    /// Round trip between any two places in milliseconds.
    pub delay_ms: f64,
    /// TTLs and soaks are shortened.
    pub fast: bool,
    /// Servers that end are started again.
    pub restart: bool,
    /// Application servers and jobs run too.
    pub applications: bool,
}

/// What the supervisor tells whoever started it, one JSON line each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// A server is ready.
    Server(String),
    /// All are ready.
    Ready(f64),
    /// The lab could not be started.
    Failed(String),
}

/// Runs a lab until it is told to end, or until standard input ends: the other end is held by whoever keeps or owns the lab, and ends
/// with them even if they are killed. Must be process 1 of a new PID namespace and single-threaded.
pub fn run(directory: &Directory) -> Result<()> {
    let mut out = std::io::stdout();
    match Supervisor::start(directory, &mut out) {
        Ok(supervisor) => {
            let listener = UnixListener::bind(directory.control()).context("cannot listen for commands")?;
            tell(&mut out, &News::Ready(supervisor.ready_after.as_secs_f64()));
            supervisor.serve(&listener)
        }
        Err(error) => {
            tell(&mut out, &News::Failed(format!("{error:#}")));
            Err(error)
        }
    }
}

fn tell(out: &mut impl Write, news: &News) {
    // Whoever started the lab may have gone away; the lab goes on.
    if let Ok(line) = serde_json::to_string(news) {
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

struct Supervisor {
    /// Where the lab's files are, beside those that its servers see.
    directory: PathBuf,
    layout: Layout,
    namespaces: Vec<Namespace>,
    processes: Arc<Processes>,
    links: Arc<Links>,
    notebook: Notebook,
    servers: Vec<Server>,
    machines: Vec<Machine>,
    power: Mutex<Power>,
    /// The pid of each server that was started, by its place in `servers`.
    pids: Mutex<HashMap<usize, i32>>,
    restart: bool,
    ready_after: Duration,
}

impl Supervisor {
    fn start(directory: &Directory, out: &mut impl Write) -> Result<Self> {
        let begin = Instant::now();
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNET)
            .context("cannot make the lab's namespaces: root is needed")?;
        let orders: Orders = serde_json::from_slice(&fs::read(directory.orders())?)?;
        let topology = crate::topology::read(&directory.srv().join("topology.yaml"))?;
        let layout = Layout::of(&topology)?;
        hosts_etc(layout.resolver(), &directory.etc())?;
        private_mounts(&directory.srv(), &directory.etc())?;

        let processes = Processes::start();
        std::thread::spawn(|| {
            // Nothing is ever written to it.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
        let namespaces: Vec<Namespace> =
            layout.places.iter().map(|place| Namespace::create(&place.name)).collect::<Result<_>>()?;
        let places = layout.places.iter().zip(&namespaces);
        let devices =
            places.map(|(place, namespace)| namespace.configure(&layout, place, &processes)).collect::<Result<_>>()?;
        let links = Arc::new(Links::new(namespaces.len(), Duration::from_secs_f64(orders.delay_ms / 2000.0)));
        let networks: Vec<[u8; 2]> = layout.places.iter().map(|place| place.network).collect();
        let router = Router::new(devices, &networks, Arc::clone(&links));
        std::thread::spawn(move || {
            if let Err(error) = router.run() {
                eprintln!("the router ended: {error:#}");
                std::process::exit(1);
            }
        });
        fs::create_dir_all("/srv/log")?;
        power_switch(directory)?;
        let servers = Site {
            topology: &topology,
            layout: &layout,
            secrets: Default::default(),
            processes: &processes,
            applications: orders.applications,
            fast: orders.fast,
        }
        .prepare()?;
        let mut supervisor = Self {
            directory: directory.path().to_owned(),
            layout,
            namespaces,
            processes,
            links,
            notebook: Notebook::new(Path::new(SRV).join(ways::FILE)),
            servers,
            machines: machines::machines(&topology)?,
            power: Mutex::default(),
            pids: Mutex::default(),
            restart: orders.restart,
            ready_after: Duration::ZERO,
        };
        supervisor.write_namespaces(&Power::default())?;
        let all: Vec<usize> = (0..supervisor.servers.len()).collect();
        supervisor
            .start_servers(&all, &|_, _| true, &|name| tell(&mut std::io::stdout(), &News::Server(name.to_owned())))?;
        supervisor.ready_after = begin.elapsed();
        out.flush()?;
        Ok(supervisor)
    }

    fn pids(&self) -> std::sync::MutexGuard<'_, HashMap<usize, i32>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts servers wave by wave. What is ready only once later waves run (a proxy with its applications) is waited for at the end.
    /// Of the conditions of readiness, those count for which `counts` is true of server and number.
    fn start_servers(
        &self,
        which: &[usize],
        counts: &(dyn Fn(usize, usize) -> bool + Sync),
        news: &(dyn Fn(&str) + Sync),
    ) -> Result<()> {
        let mut waves: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for index in which {
            waves.entry(self.servers[*index].wave).or_default().push(*index);
        }
        for wave in waves.values() {
            let (standbys, others): (Vec<usize>, Vec<usize>) = wave.iter().partition(|index| self.is_standby(**index));
            others.iter().try_for_each(|index| self.launch(*index))?;
            if !standbys.is_empty() {
                // A replica that finds nobody tries again only after five seconds.
                self.each(&others, &|index| self.wait_answers(index))?;
            }
            standbys.iter().try_for_each(|index| self.launch(*index))?;
            self.each(wave, &|index| {
                self.wait_ready(index, |number, ready| counts(index, number) && !matches!(ready, Ready::Http { .. }))
            })?;
        }
        self.each(which, &|index| {
            self.wait_ready(index, |number, ready| counts(index, number) && matches!(ready, Ready::Http { .. }))?;
            self.still_runs(index)?;
            news(&self.servers[index].name);
            Ok(())
        })
    }

    /// True for a database server that begins as a replica.
    fn is_standby(&self, index: usize) -> bool {
        let data = self.servers[index].pid_file.as_deref().and_then(Path::parent);
        data.is_some_and(|data| data.join("standby.signal").exists())
    }

    /// Waits until a database server answers anything at all.
    fn wait_answers(&self, index: usize) -> Result<()> {
        let server = &self.servers[index];
        let Some(Ready::Sql { server: at, user, database, .. }) = server.ready.first() else { return Ok(()) };
        let (query, answer) = ("select 1".to_owned(), "1".to_owned());
        let (user, database) = (user.clone(), database.clone());
        self.wait_for(index, &Ready::Sql { server: *at, user, database, query, answer })
    }

    /// Does something with several servers at once; all errors in one.
    fn each(&self, which: &[usize], work: &(dyn Fn(usize) -> Result<()> + Sync)) -> Result<()> {
        let errors: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = which.iter().map(|index| scope.spawn(move || work(*index))).collect();
            let results = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("panicked"))));
            results.filter_map(|result| result.err().map(|error| format!("{error:#}"))).collect()
        });
        if errors.is_empty() { Ok(()) } else { bail!(errors.join("\n")) }
    }

    fn namespace(&self, name: &str) -> Result<&Namespace> {
        Ok(&self.namespaces[self.layout.index(name)?])
    }

    fn log(&self, server: &Server) -> PathBuf {
        let name = match server.targets.as_slice() {
            [target] if server.kind == "app" => target.trim_start_matches("app/").replace('/', "-"),
            _ => server.name.clone(),
        };
        Path::new(SRV).join("log").join(format!("{name}.log"))
    }

    fn launch(&self, index: usize) -> Result<()> {
        let server = &self.servers[index];
        let (program, arguments) = server.argv.split_first().context("an empty command")?;
        ensure!(Path::new(program).exists(), "{}: {program} does not exist; run lab/install.sh first", server.name);
        if let Some(pid_file) = server.pid_file.as_ref().filter(|_| !server.by_command) {
            // Left by a server that was killed: its pid may be another process by now.
            let _ = fs::remove_file(pid_file);
        }
        let log = File::options().create(true).append(true).open(self.log(server))?;
        let user = server.user.map(account).transpose()?;
        // Held until it runs: what is started while the power goes would not be seen by who cuts it.
        let mut power = self.power();
        if let Some(off) = self.without_power(&power, index) {
            bail!("{}: {off} has no power; `lab power on {off}` gives it back", server.name);
        }
        power.resting.remove(&index);
        let pid = self.namespace(&server.place)?.enter(|| {
            let mut command = Command::new(program);
            command
                .args(arguments)
                .current_dir("/")
                .env_clear()
                .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
            command.env("LANG", "C.UTF-8").env(SERVER_VARIABLE, &server.name).process_group(0);
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            if let Some(user) = &user {
                command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).env("HOME", &user.dir).env("USER", &user.name);
            }
            self.processes.spawn(&mut command)
        })?;
        self.pids().insert(index, pid);
        Ok(())
    }

    fn wait_ready(&self, index: usize, which: impl Fn(usize, &Ready) -> bool) -> Result<()> {
        let ready = self.servers[index].ready.iter().enumerate();
        ready.filter(|(number, ready)| which(*number, ready)).try_for_each(|(_, ready)| self.wait_for(index, ready))
    }

    fn wait_for(&self, index: usize, ready: &Ready) -> Result<()> {
        let server = &self.servers[index];
        let deadline = Instant::now() + READY_DEADLINE;
        let pid = self.pids().get(&index).copied();
        let place = self.namespace(&server.place)?;
        loop {
            let Err(why) = place.enter(|| probe::ask(ready, &self.processes)) else { return Ok(()) };
            let ended = pid.filter(|_| !server.by_command).and_then(|pid| self.processes.how_ended(pid));
            let problem = match ended {
                Some(how) => format!("ended with {how}"),
                None if Instant::now() > deadline => {
                    format!("is not ready after {} s: {why:#}", READY_DEADLINE.as_secs())
                }
                None => {
                    std::thread::sleep(POLL);
                    continue;
                }
            };
            bail!("{} ({}) {problem}; the end of its log:\n{}", server.name, server.kind, self.last_lines(server));
        }
    }

    /// A server may have answered once and ended all the same: haproxy listens before it finds that it cannot go on.
    fn still_runs(&self, index: usize) -> Result<()> {
        let server = &self.servers[index];
        let pid = self.pids().get(&index).copied().filter(|_| !server.by_command);
        match pid.and_then(|pid| self.processes.how_ended(pid)) {
            Some(how) => {
                bail!(
                    "{} ({}) ended with {how}; the end of its log:\n{}",
                    server.name,
                    server.kind,
                    self.last_lines(server)
                )
            }
            None => Ok(()),
        }
    }

    fn last_lines(&self, server: &Server) -> String {
        let log = fs::read(self.log(server)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(15)..];
        last.iter().map(|line| format!("    {line}\n")).collect()
    }

    /// The pid of a server that runs.
    fn running(&self, index: usize) -> Option<i32> {
        let server = &self.servers[index];
        let pid = match &server.pid_file {
            Some(file) => fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok(),
            None => self.pids().get(&index).copied(),
        };
        pid.filter(|pid| *pid > 1 && process::alive(*pid))
    }

    fn select(&self, selection: &Selection) -> Result<Vec<usize>> {
        let found: Vec<usize> = (0..self.servers.len())
            .filter(|index| {
                let server = &self.servers[*index];
                match selection {
                    Selection::Facility(facility) => server.place == *facility,
                    Selection::Target(name) => server.name == *name || server.targets.contains(name),
                }
            })
            .collect();
        match selection {
            Selection::Facility(facility) => drop(self.layout.index(facility)?),
            Selection::Target(name) => ensure!(!found.is_empty(), "there is no server `{name}`; see `lab status`"),
        }
        Ok(found)
    }

    fn serve(self, listener: &UnixListener) -> Result<()> {
        let supervisor = Arc::new(self);
        if supervisor.restart {
            let supervisor = Arc::clone(&supervisor);
            std::thread::spawn(move || supervisor.keep_running());
        }
        for stream in listener.incoming() {
            let (stream, supervisor) = (stream?, Arc::clone(&supervisor));
            std::thread::spawn(move || {
                if let Err(error) = supervisor.answer(&stream) {
                    eprintln!("a command could not be answered: {error:#}");
                }
            });
        }
        Ok(())
    }

    /// Starts again what has ended by itself, as a host's supervisor would.
    fn keep_running(&self) {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let dead = |index: &usize| !self.servers[*index].by_command && self.running(*index).is_none();
            let may_run = |index: &usize| {
                let power = self.power();
                !power.resting.contains(index) && self.without_power(&power, *index).is_none()
            };
            for index in (0..self.servers.len()).filter(|index| dead(index) && may_run(index)) {
                if let Err(error) = self.launch(index) {
                    eprintln!("{error:#}");
                }
            }
        }
    }

    fn answer(&self, mut stream: &UnixStream) -> Result<()> {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let request: Request = serde_json::from_str(&line)?;
        let reply = self.carry_out(&request).unwrap_or_else(|error| Reply::Failed(format!("{error:#}")));
        let mut answer = serde_json::to_string(&reply)?;
        answer.push('\n');
        stream.write_all(answer.as_bytes())?;
        if request == Request::Down {
            std::process::exit(0);
        }
        Ok(())
    }

    /// Carries a request out, and notes which ways it has closed or opened, also where it failed midway.
    fn carry_out(&self, request: &Request) -> Result<Reply> {
        let began = Timestamp::now();
        let reply = self.reply(request);
        self.notebook.note(began, self.closed_ways())?;
        reply
    }

    fn reply(&self, request: &Request) -> Result<Reply> {
        Ok(match request {
            Request::Status => Reply::Status(self.status()),
            Request::Down => Reply::Done("down".to_owned()),
            Request::Kill(selection) => {
                let selected = self.select(selection)?;
                let running: Vec<i32> = selected.iter().filter_map(|index| self.running(*index)).collect();
                for pid in &running {
                    process::kill_tree(*pid)?;
                }
                if let Selection::Facility(facility) = selection {
                    self.kill_all_in(facility)?;
                }
                Reply::Done(format!("killed {} of {} servers", running.len(), selected.len()))
            }
            Request::Start(selection) => {
                let mut selected = self.select(selection)?;
                selected.retain(|index| self.running(*index).is_none());
                self.start_again(&selected)?;
                Reply::Done(format!("started {} servers", selected.len()))
            }
            Request::Snapshot { name } => Reply::Done(self.snapshot(name)?),
            Request::Restore { name } => Reply::Done(self.restore(name)?),
            Request::Link { a, b, one_way, change } => {
                for (from, to) in self.ways(a, b)? {
                    self.change_link(from, to, *one_way, *change);
                    if !one_way {
                        self.change_link(to, from, *one_way, *change);
                    }
                }
                let way = if *one_way { "→" } else { "↔" };
                let [a, b] = [a, b].map(|place| if place == "all" { "every other place" } else { place });
                Reply::Done(format!("{a} {way} {b}: {}", change.text(*one_way)))
            }
            Request::Power { what, order } => self.order(what, *order)?,
        })
    }

    /// Starts servers without waiting for them: their peers may be away.
    fn start_again(&self, which: &[usize]) -> Result<()> {
        which.iter().try_for_each(|index| self.launch(*index))
    }

    fn status(&self) -> Status {
        let servers = self.servers.iter().enumerate().map(|(index, server)| ServerStatus {
            name: server.name.clone(),
            kind: server.kind.to_owned(),
            targets: server.targets.clone(),
            place: server.place.clone(),
            pid: self.running(index),
        });
        Status {
            servers: servers.collect(),
            links: self.link_status(),
            off: self.switched_off(),
            isolated: self.isolated(),
            ready_after_s: self.ready_after.as_secs_f64(),
            memory_mib: process::memory_kib() / 1024,
        }
    }
}

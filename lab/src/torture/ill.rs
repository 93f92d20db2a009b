//! Servers that die, hang, answer slowly, or answer nonsense.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use handover::model::{Target, TargetId};
use handover::topology::Topology;

use super::cases::Ill;
use crate::layout::{socket, ssh_address};
use crate::{Lab, Selection};

/// Sends `$1` to the process `$2` and all its descendants.
const SIGNAL: &str = "all() { for p in \"$@\"; do echo $p; all $(ps -o pid= --ppid $p); done; }
signal() { kill -s $1 $(all $2) 2>/dev/null; true; }
";

/// A server, as the lab and as its peers know it.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name.
    name: String,
    /// The place that it runs in.
    place: String,
    /// Where it listens.
    address: SocketAddrV4,
}

/// A server that is ill.
pub struct Patient<'a> {
    lab: &'a Lab,
    server: Server,
    ill: Ill,
    pid: Option<i32>,
    /// What keeps it ill.
    germ: Option<Child>,
}

/// The servers that a target needs: itself where it listens, and its host.
pub fn servers(topology: &Topology, id: &TargetId) -> Vec<String> {
    let Some(target) = topology.targets().find(|target| target.id == *id) else { return Vec::new() };
    let itself = socket(target).is_ok().then(|| target.name().to_owned());
    let host = target.host.as_ref().map(|host| host.name.to_string());
    itself.into_iter().chain(host).collect()
}

impl Server {
    /// The server with this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(topology: &Topology, name: &str) -> Result<Self> {
        let of = |target: &Target| -> Option<Self> {
            let place = target.facility.to_string();
            if target.name() == name {
                let (ip, port) = socket(target).ok()?;
                return Some(Self { name: name.to_owned(), place, address: SocketAddrV4::new(ip, port) });
            }
            let host = target.host.as_ref().filter(|host| host.name.as_str() == name)?;
            let ip = ssh_address(&host.transport)?.ok()?;
            Some(Self { name: name.to_owned(), place, address: SocketAddrV4::new(ip, 22) })
        };
        topology.targets().find_map(|target| of(target)).with_context(|| format!("there is no server {name}"))
    }

    /// Words that a true reason may name it by.
    pub fn names(&self) -> [String; 2] {
        [self.name.clone(), self.address.ip().to_string()]
    }

    /// Makes it ill.
    ///
    /// # Errors
    /// If it does not run, or cannot be reached by a signal.
    pub fn infect<'a>(&self, lab: &'a Lab, ill: Ill) -> Result<Patient<'a>> {
        let status = lab.status()?;
        let pid = status.servers.iter().find(|server| server.name == self.name).and_then(|server| server.pid);
        let mut patient = Patient { lab, server: self.clone(), ill, pid, germ: None };
        match ill {
            Ill::Dies => drop(lab.kill(&Selection::Target(self.name.clone()))?),
            Ill::Hangs => patient.signal("STOP")?,
            Ill::Slow => {
                // It may be stopped and started meanwhile: then the new one is well.
                let pid = pid.with_context(|| format!("{} does not run", self.name))?;
                let script = format!(
                    "{SIGNAL}while kill -0 {pid}; do signal STOP {pid}; sleep 0.27; signal CONT {pid}; sleep 0.03; done"
                );
                patient.germ = Some(patient.shell(&script)?.spawn()?);
            }
            Ill::Lies => {
                lab.kill(&Selection::Target(self.name.clone()))?;
                let mut liar = lab.command_in(&self.place, crate::program()?)?;
                liar.arg("liar").arg(self.address.to_string());
                liar.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
                let mut liar = liar.spawn()?;
                // It says a word once it listens.
                let heard = liar.stdout.take().context("no output")?.read_exact(&mut [0]);
                patient.germ = Some(liar);
                heard.with_context(|| format!("nobody else could listen at {}", self.address))?;
            }
        }
        Ok(patient)
    }
}

impl Patient<'_> {
    fn shell(&self, script: &str) -> Result<Command> {
        let mut sh = self.lab.command_in(&self.server.place, "sh")?;
        sh.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(sh)
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let Some(pid) = self.pid else { return Ok(()) };
        let status = self.shell(&format!("{SIGNAL}signal {signal} {pid}"))?.status()?;
        ensure!(status.success(), "{} cannot be signalled", self.server.name);
        Ok(())
    }

    /// Makes the server well again; it runs afterwards.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn cure(mut self) -> Result<()> {
        if let Some(mut germ) = self.germ.take() {
            germ.kill()?;
            germ.wait()?;
        }
        if matches!(self.ill, Ill::Hangs | Ill::Slow) {
            self.signal("CONT")?;
            // What was told to end while it stood still ends now.
            std::thread::sleep(Duration::from_millis(500));
        }
        self.lab.start_servers(&Selection::Target(self.server.name.clone())).map(drop)
    }
}

impl Drop for Patient<'_> {
    fn drop(&mut self) {
        if let Some(germ) = &mut self.germ {
            let _ = germ.kill();
            let _ = germ.wait();
        }
    }
}

/// `lab liar`: answers nonsense at an address.
///
/// # Errors
/// If nothing can listen there.
pub fn lie(address: SocketAddrV4) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?;
    println!("listening");
    for stream in listener.incoming() {
        std::thread::spawn(move || -> Result<()> {
            let mut stream = stream?;
            stream.set_read_timeout(Some(Duration::from_millis(200)))?;
            // Some speak first, some wait to be spoken to.
            let _ = stream.read(&mut [0; 512]);
            Ok(stream.write_all(b"\x00\x2aE\x00\x00\x00\x17wrong number, sorry\r\n\r\n")?)
        });
    }
    Ok(())
}

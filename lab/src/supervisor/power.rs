//! Power and isolation: what a power controller, a PDU or a firewall does to a facility or a machine, whatever state its network is in.

use std::collections::{BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Supervisor;
use crate::control::{PowerOrder, Reply};
use crate::directory::Directory;
use crate::layout::OPERATOR;
use crate::machines;
use crate::process::{self, Seen};
use crate::servers::SERVER_VARIABLE;

/// How long killed processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Who has no power, who is fenced off, and what rests though it has power.
#[derive(Debug, Default)]
pub(super) struct Power {
    /// Places without power.
    places: BTreeSet<usize>,
    /// Machines whose own switch is off. It stays off while the facility's power goes and returns.
    machines: BTreeSet<usize>,
    /// Places that nothing enters and nothing leaves.
    isolated: BTreeSet<usize>,
    /// Servers that were left down when power returned, until somebody starts them.
    pub(super) resting: BTreeSet<usize>,
}

/// What has a switch.
#[derive(Clone, Copy)]
enum Switch {
    Place(usize),
    Machine(usize),
}

impl Supervisor {
    pub(super) fn power(&self) -> MutexGuard<'_, Power> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries an order out.
    pub(super) fn order(&self, what: &str, order: PowerOrder) -> Result<Reply> {
        let switch = self.switch(what)?;
        Ok(match (order, switch) {
            (PowerOrder::Off, Switch::Place(place)) => Reply::Done(self.facility_off(place)?),
            (PowerOrder::Off, Switch::Machine(machine)) => Reply::Done(self.machine_off(machine)?),
            (PowerOrder::On { servers }, _) => Reply::Done(self.switch_on(what, switch, servers)?),
            (PowerOrder::Check, _) => {
                let off = self.is_off(switch)?;
                Reply::Checked { holds: off, text: format!("{what} {}", if off { "is off" } else { "has power" }) }
            }
            (_, Switch::Machine(_)) => bail!("only a whole facility can be isolated: {what} can be switched off"),
            (PowerOrder::Isolate(isolated), Switch::Place(place)) => {
                let mut power = self.power();
                if isolated {
                    power.isolated.insert(place)
                } else {
                    power.isolated.remove(&place)
                };
                self.links.fence(place, power.places.contains(&place) || isolated);
                let text = if isolated { "nothing passes between it and any other place" } else { "isolated no more" };
                Reply::Done(format!("{what}: {text}"))
            }
            (PowerOrder::CheckIsolated, Switch::Place(place)) => {
                let isolated = self.power().isolated.contains(&place);
                let text = format!("{what} {}", if isolated { "is isolated" } else { "is not isolated" });
                Reply::Checked { holds: isolated, text }
            }
        })
    }

    fn switch(&self, what: &str) -> Result<Switch> {
        ensure!(what != OPERATOR, "the operator's place has no power switch");
        match self.layout.index(what) {
            Ok(place) => Ok(Switch::Place(place)),
            Err(_) => machines::named(&self.machines, what).map(Switch::Machine),
        }
    }

    /// Everything in a facility ends at once. Nothing leaves it any more before the first process is killed: a machine without power
    /// closes no connection.
    fn facility_off(&self, place: usize) -> Result<String> {
        let name = &self.layout.places[place].name;
        let mut power = self.power();
        power.places.insert(place);
        self.links.fence(place, true);
        self.write_namespaces(&power)?;
        let killed = self.kill_all_in(name)?;
        self.forget_connections(name, &BTreeSet::new())?;
        Ok(format!("{name} is off: {killed} processes killed"))
    }

    /// The same for one machine. Its processes speak to other places from the facility's own address: those see their connections end.
    fn machine_off(&self, machine: usize) -> Result<String> {
        let place = self.place_of(machine)?;
        let mut power = self.power();
        if power.machines.insert(machine) {
            self.give_addresses(machine, false)?;
        }
        let deadline = Instant::now() + GONE_WITHIN;
        let mut killed = BTreeSet::new();
        loop {
            let there = self.processes_of(machine)?;
            if there.is_empty() {
                let name = &self.layout.places[place].name;
                self.forget_connections(name, &self.machines[machine].addresses)?;
                return Ok(format!("{} is off: {} processes killed", self.machine_name(machine), killed.len()));
            }
            ensure!(Instant::now() < deadline, "these processes do not end: {there:?}");
            there.iter().try_for_each(|pid| process::kill(*pid))?;
            killed.extend(there);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Power returns, with the data as they were left. With `servers` everything starts by itself as on machines with an init system;
    /// without, only the machines themselves, which are reached by ssh.
    fn switch_on(&self, what: &str, switch: Switch, servers: bool) -> Result<String> {
        let mut power = self.power();
        match switch {
            Switch::Place(place) => {
                power.places.remove(&place);
                self.links.fence(place, power.isolated.contains(&place));
                self.write_namespaces(&power)?;
            }
            Switch::Machine(machine) => {
                if power.machines.remove(&machine) {
                    self.give_addresses(machine, true)?;
                }
            }
        }
        let here = |index: &usize| match switch {
            Switch::Place(place) => self.servers[*index].place == self.layout.places[place].name,
            Switch::Machine(machine) => self.stands_on(*index, machine),
        };
        let down: Vec<usize> =
            (0..self.servers.len()).filter(|index| here(index) && self.running(*index).is_none()).collect();
        let starts = |index: &usize| {
            (servers || self.servers[*index].kind == "sshd") && self.without_power(&power, *index).is_none()
        };
        let (start, rest): (Vec<usize>, Vec<usize>) = down.iter().partition(|index| starts(index));
        power.resting.extend(rest);
        drop(power);
        self.start_again(&start)?;
        Ok(format!("{what} has power: {} of {} servers started", start.len(), down.len()))
    }

    /// Who lacks power if a server cannot be started.
    pub(super) fn without_power(&self, power: &Power, index: usize) -> Option<String> {
        let place = &self.servers[index].place;
        if power.places.iter().any(|off| self.layout.places[*off].name == *place) {
            return Some(place.clone());
        }
        power
            .machines
            .iter()
            .find(|machine| self.stands_on(index, **machine))
            .map(|machine| self.machine_name(*machine))
    }

    /// Names of what has no power.
    pub(super) fn switched_off(&self) -> Vec<String> {
        let power = self.power();
        let places = power.places.iter().map(|place| self.layout.places[*place].name.clone());
        places.chain(power.machines.iter().map(|machine| self.machine_name(*machine))).collect()
    }

    /// Names of what is fenced off.
    pub(super) fn isolated(&self) -> Vec<String> {
        self.power().isolated.iter().map(|place| self.layout.places[*place].name.clone()).collect()
    }

    /// Everything has power and nothing is fenced off.
    pub(super) fn power_as_at_the_beginning(&self) -> Result<()> {
        let mut power = self.power();
        for machine in std::mem::take(&mut power.machines) {
            self.give_addresses(machine, true)?;
        }
        *power = Power::default();
        (0..self.layout.places.len()).for_each(|place| self.links.fence(place, false));
        self.write_namespaces(&power)
    }

    /// True if the switch is off and nothing runs there.
    fn is_off(&self, switch: Switch) -> Result<bool> {
        let power = self.power();
        Ok(match switch {
            Switch::Place(place) => {
                power.places.contains(&place) && self.processes_in(&self.layout.places[place].name)?.is_empty()
            }
            Switch::Machine(machine) => {
                let place = self.place_of(machine)?;
                (power.places.contains(&place) || power.machines.contains(&machine))
                    && self.processes_of(machine)?.is_empty()
            }
        })
    }

    /// Where programs may be started from outside: every place with power.
    pub(super) fn write_namespaces(&self, power: &Power) -> Result<()> {
        let powered = self.namespaces.iter().enumerate().filter(|(place, _)| !power.places.contains(place));
        Directory::at(self.directory.clone()).write_namespaces(
            &powered.map(|(_, namespace)| (namespace.name.as_str(), namespace.descriptor())).collect(),
        )
    }

    /// Everything that runs in a place, whoever started it; SIGKILL to all of it, again and again until nothing is left. Returns how
    /// many there were.
    pub(super) fn kill_all_in(&self, place: &str) -> Result<usize> {
        ensure!(place != OPERATOR, "the operator's place has no power switch");
        let deadline = Instant::now() + GONE_WITHIN;
        let mut killed = BTreeSet::new();
        loop {
            let there = self.processes_in(place)?;
            if there.is_empty() {
                return Ok(killed.len());
            }
            ensure!(Instant::now() < deadline, "these processes do not end: {there:?}");
            there.iter().try_for_each(|process| process::kill(process.pid))?;
            killed.extend(there.iter().map(|process| process.pid));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn processes_in(&self, place: &str) -> Result<Vec<Seen>> {
        let network = self.namespace(place)?.identity()?;
        let mut there = process::all()?;
        there.retain(|process| process.network == network && process.pid > 1 && process::alive(process.pid));
        Ok(there)
    }

    /// The processes of a machine: those that listen on its addresses, that came there over ssh or were started for its servers, and
    /// all their descendants.
    fn processes_of(&self, machine: usize) -> Result<Vec<i32>> {
        let place = &self.layout.places[self.place_of(machine)?].name;
        let machine = &self.machines[machine];
        let sockets = self.namespace(place)?.enter(|| process::listening(&machine.addresses))?;
        let there = self.processes_in(place)?;
        let servers: HashSet<&str> = self
            .servers
            .iter()
            .filter(|server| {
                machine.names.contains(&server.name) || server.targets.iter().any(|t| machine.targets.contains(t))
            })
            .map(|server| server.name.as_str())
            .collect();
        let belongs = |process: &Seen| {
            let environment = process::environment(process.pid);
            let over_ssh = environment.get("SSH_CONNECTION").and_then(|way| way.split(' ').nth(2)?.parse().ok());
            over_ssh.is_some_and(|address: Ipv4Addr| machine.addresses.contains(&address))
                || environment.get(SERVER_VARIABLE).is_some_and(|server| servers.contains(server.as_str()))
                || !process::sockets(process.pid).is_disjoint(&sockets)
        };
        let roots = there.iter().filter(|process| belongs(process)).map(|process| process.pid);
        let mut tree: Vec<i32> = roots.collect();
        let mut next = 0;
        while let Some(parent) = tree.get(next).copied() {
            let children = there.iter().filter(|process| process.parent == parent).map(|process| process.pid);
            let new: Vec<i32> = children.filter(|pid| !tree.contains(pid)).collect();
            tree.extend(new);
            next += 1;
        }
        Ok(tree)
    }

    /// A machine without power answers at none of its addresses, and nothing can listen there.
    fn give_addresses(&self, machine: usize, give: bool) -> Result<()> {
        let mut batch = String::new();
        for ip in &self.machines[machine].addresses {
            batch += &match give {
                true => format!("route del blackhole {ip}/32 table local\naddr replace {ip}/32 dev lo\n"),
                false => format!("addr del {ip}/32 dev lo\nroute replace blackhole {ip}/32 table local\n"),
            };
        }
        let place = &self.layout.places[self.place_of(machine)?].name;
        self.namespace(place)?.enter(|| {
            let mut ip = Command::new("ip");
            self.processes.run(ip.args(["-batch", "-"]), Some(&batch)).map(drop)
        })
    }

    /// What killed processes had left in the kernel to be sent is gone as well: it must not arrive when power returns. Of some addresses,
    /// or of all.
    fn forget_connections(&self, place: &str, addresses: &BTreeSet<Ipv4Addr>) -> Result<()> {
        let from = addresses.iter().flat_map(|ip| ["or".to_owned(), "src".to_owned(), ip.to_string()]).skip(1);
        let from: Vec<String> = from.collect();
        let namespace = self.namespace(place)?;
        let ss =
            |options: &str| namespace.enter(|| self.processes.run(Command::new("ss").arg(options).args(&from), None));
        ss("-Ktn")?;
        let left = ss("-Htn")?;
        ensure!(
            left.lines().all(|line| line.starts_with("TIME-WAIT")),
            "{place}: the kernel keeps connections of processes that are gone; it must be built with INET_DIAG_DESTROY: {left}"
        );
        Ok(())
    }

    fn stands_on(&self, index: usize, machine: usize) -> bool {
        let (server, machine) = (&self.servers[index], &self.machines[machine]);
        server.targets.iter().any(|target| machine.targets.contains(target))
            || (server.targets.is_empty() && machine.names.contains(&server.name))
    }

    fn machine_name(&self, machine: usize) -> String {
        self.machines[machine].names.iter().next().cloned().unwrap_or_default()
    }

    fn place_of(&self, machine: usize) -> Result<usize> {
        let addresses = &self.machines[machine].addresses;
        let found = self.layout.places.iter().position(|place| !place.addresses.is_disjoint(addresses));
        found.with_context(|| format!("{} stands in no facility", self.machine_name(machine)))
    }
}

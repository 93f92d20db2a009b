//! Which machine each server stands on: pure, from the topology. A facility's power goes as a whole or machine by machine.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use handover::model::{Target, TargetKind};
use handover::topology::Topology;

use crate::layout::{socket, ssh_address};

/// One machine: a host of the topology with all that names it as its `host`, or a server without one. What shares an address with it
/// is the same machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// What it is called.
    pub names: BTreeSet<String>,
    /// Its addresses.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// The targets that stand on it.
    pub targets: BTreeSet<String>,
}

/// All machines of a topology. Hosts that are the operator's own machine are none.
pub fn machines(topology: &Topology) -> Result<Vec<Machine>> {
    let mut machines: Vec<Machine> = Vec::new();
    for (name, host) in &topology.hosts {
        let Some(address) = ssh_address(&host.transport) else { continue };
        let (names, addresses) = (BTreeSet::from([name.to_string()]), BTreeSet::from([address?]));
        add(&mut machines, Machine { names, addresses, targets: BTreeSet::new() });
    }
    for target in topology.targets() {
        add(&mut machines, of_target(target)?);
    }
    Ok(machines)
}

fn of_target(target: &Target) -> Result<Machine> {
    let host = target.host.as_deref().filter(|host| ssh_address(&host.transport).is_some());
    let name = host.map_or_else(|| target.name().to_owned(), |host| host.name.to_string());
    let mut machine = Machine { names: BTreeSet::from([name]), ..Machine::default() };
    machine.targets.insert(target.id.to_string());
    if target.kind != TargetKind::Job {
        machine.addresses.insert(socket(target)?.0);
    }
    Ok(machine)
}

/// Adds a machine, joined with all that it is one with.
fn add(machines: &mut Vec<Machine>, mut machine: Machine) {
    let same =
        |other: &Machine| !other.names.is_disjoint(&machine.names) || !other.addresses.is_disjoint(&machine.addresses);
    let (same, others): (Vec<Machine>, Vec<Machine>) = machines.drain(..).partition(same);
    for part in same {
        machine.names.extend(part.names);
        machine.addresses.extend(part.addresses);
        machine.targets.extend(part.targets);
    }
    machines.extend(others);
    machines.push(machine);
}

/// The number of the machine that is called so.
pub fn named(machines: &[Machine], name: &str) -> Result<usize> {
    if let Some(found) = machines.iter().position(|machine| machine.names.contains(name)) {
        return Ok(found);
    }
    let has = |target: &String| target == name || target.rsplit('/').next() == Some(name);
    match machines.iter().find(|machine| machine.targets.iter().any(has)) {
        Some(machine) => {
            let names: Vec<&str> = machine.names.iter().map(String::as_str).collect();
            bail!(
                "{name} stands on the machine {}: name that one, its power is for all that is there",
                names.join(", ")
            )
        }
        None => bail!("there is no facility or machine `{name}` in this lab"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<Machine> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../topology.yaml");
        machines(&crate::topology::read(std::path::Path::new(path)).unwrap()).unwrap()
    }

    #[test]
    fn a_machine_has_all_that_names_it_as_its_host_and_all_that_shares_its_address() {
        let machines = example();
        let of = |name: &str| &machines[named(&machines, name).unwrap()];
        let database = of("west-db1");
        assert_eq!(database.addresses, ["10.10.0.100", "10.10.0.110"].map(|ip| ip.parse().unwrap()).into());
        let targets =
            ["member/accounts/west-pg1", "member/prices/west-pg3", "member/products/west-pg2", "pooler/west-pool1"];
        assert_eq!(database.targets, targets.map(str::to_owned).into());
        assert_eq!(of("west-job1").targets, ["job/billing".to_owned()].into());
        let application = of("west-app1");
        assert_eq!((application.addresses.len(), application.targets.len()), (1, 3));
        assert_eq!(of("west-ns1").addresses, ["10.10.0.53".parse().unwrap()].into());
    }

    #[test]
    fn a_server_on_a_machine_with_another_name_leads_there() {
        let error = named(&example(), "west-pg1").unwrap_err().to_string();
        assert!(error.contains("stands on the machine west-db1"), "{error}");
        assert!(named(&example(), "nothing").unwrap_err().to_string().contains("no facility or machine `nothing`"));
    }
}

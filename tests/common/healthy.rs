//! What would be observed of a topology where everything is as it says.
#![allow(dead_code, reason = "each test program uses a part")]

use std::sync::Arc;

use handover::diagnostic::SettingsCheck;
use handover::model::Live;
use handover::rehearse::sim::World;
use handover::topology::{Topology, parse};

/// Reads a topology; settings of providers are not looked at.
pub fn read(text: &str) -> Topology {
    let none: SettingsCheck = |_, _| Vec::new();
    let checks = ["rfc2136", "haproxy", "http", "postgresql", "pgbouncer", "command"]
        .map(|name| (name, none))
        .into_iter()
        .collect();
    parse(text.as_bytes(), &checks).map(|parsed| parsed.topology).unwrap_or_else(|findings| panic!("{findings:?}"))
}

/// The facts of every target.
pub fn live(topology: &Topology) -> Live {
    World::healthy(Arc::new(topology.clone())).unwrap().live
}

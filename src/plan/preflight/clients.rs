//! Clients of the old primary: those that no pooler holds back are cut by the fence.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Found;
use crate::model::{ClientFacts, Database, Live, MemberFacts, Route, TargetId};
use crate::plan::live;
use crate::topology::Topology;

/// How the clients of a primary look that its poolers do not hold back.
struct Bypassing<'a> {
    /// Those alike.
    client: &'a ClientFacts,
    /// How many of them.
    count: u64,
    /// True if they come from where a pooler's connections come from: they may be of a pooler that has just opened or closed them.
    beside_pooler: bool,
}

impl Found {
    /// Every client must come through a pooler that will be paused, or be declared.
    pub(super) fn clients(
        &mut self,
        topology: &Topology,
        database: &Database,
        from: &TargetId,
        primary: &MemberFacts,
        live: &Live,
    ) {
        const ADVICE: &str = "lead it through a pooler, end it, or declare it: `direct: [{application_name: …}]` of the database \
                              (also `user`, `address`); `egress` of a pooler names addresses behind which it hides";
        for Bypassing { client, count, beside_pooler } in bypassing(topology, database, primary, live) {
            if declared(database, client) {
                continue;
            }
            let what = format!(
                "{} past the poolers of {} at {}: the fence would cut {}",
                described(client, count),
                database.name,
                from.name(),
                if count == 1 { "it" } else { "them" }
            );
            if beside_pooler {
                self.passing(what, ADVICE);
            } else {
                self.fixed(what, ADVICE);
            }
        }
    }
}

/// What a plan says about clients that are declared `direct`: they are cut.
pub fn direct_notes(topology: &Topology, database: &Database, from: &TargetId, live: &Live) -> Vec<String> {
    let Some(primary) = live::member(live, from) else { return Vec::new() };
    let told = bypassing(topology, database, primary, live)
        .into_iter()
        .filter(|found| declared(database, found.client))
        .map(|found| {
            format!(
                "{} of {}, declared direct at {}: the fence cuts {}",
                described(found.client, found.count),
                database.name,
                from.name(),
                if found.count == 1 { "it" } else { "them" }
            )
        });
    told.collect()
}

fn described(client: &ClientFacts, count: u64) -> String {
    let ClientFacts { application, user, address, .. } = client;
    let application = if application.is_empty() { "without a name" } else { application };
    let address = address.as_deref().unwrap_or("the server's own machine");
    let (count, clients) = (count.max(1), if count == 1 { "client" } else { "clients" });
    format!("{count} {clients} ({application}, user {user}, from {address})")
}

fn declared(database: &Database, client: &ClientFacts) -> bool {
    let address = client.address.as_deref().and_then(|address| address.parse::<IpAddr>().ok());
    database.direct.iter().any(|direct| {
        direct.application.as_ref().is_none_or(|name| *name == client.application)
            && direct.user.as_ref().is_none_or(|user| *user == client.user)
            && direct.address.is_none_or(|network| address.is_some_and(|address| network.contains(address)))
    })
}

fn bypassing<'a>(
    topology: &Topology,
    database: &Database,
    primary: &'a MemberFacts,
    live: &Live,
) -> Vec<Bypassing<'a>> {
    let Route::PoolerDatabase(entry) = &database.route else { return Vec::new() };
    let poolers: Vec<_> = database.poolers.iter().filter_map(|name| topology.poolers.get(name)).collect();
    // What the poolers themselves say of their connections: another entry, or another program beside them, is not held back.
    let sockets: BTreeSet<&str> = poolers
        .iter()
        .filter_map(|pooler| live::pool(live, &pooler.target.id, entry))
        .flat_map(|pool| pool.servers.iter().map(String::as_str))
        .collect();
    let egress =
        |address: IpAddr| poolers.iter().flat_map(|pooler| &pooler.egress).any(|network| network.contains(address));
    let found = primary.clients.iter().filter_map(|client| {
        let parsed = client.address.as_deref().and_then(|address| address.parse::<IpAddr>().ok());
        if parsed.is_some_and(egress) {
            return None;
        }
        let own = |port: &&u16| {
            parsed.is_some_and(|address| {
                sockets.contains(std::net::SocketAddr::new(address, **port).to_string().as_str())
            })
        };
        let count = client.count.saturating_sub(client.ports.iter().filter(own).count() as u64);
        let beside =
            |socket: &&&str| socket.parse::<std::net::SocketAddr>().is_ok_and(|socket| Some(socket.ip()) == parsed);
        let beside_pooler = sockets.iter().find(beside).is_some();
        (count > 0).then_some(Bypassing { client, count, beside_pooler })
    });
    found.collect()
}

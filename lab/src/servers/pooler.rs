//! pgbouncer for every pooler.

use std::net::SocketAddrV4;
use std::path::Path;

use anyhow::{Context, Result};
use handover::model::{Pooler, Route};

use super::{APP, Ready, Server, Site, argv, home, pooler_database, write};
use crate::layout::socket;

const USER: &str = "postgres";

/// One pgbouncer for each pooler.
pub fn poolers(site: &mut Site<'_>) -> Result<Vec<Server>> {
    let topology = site.topology;
    topology.poolers.iter().map(|(name, pooler)| pgbouncer(site, name, pooler)).collect()
}

fn pgbouncer(site: &mut Site<'_>, name: &str, pooler: &Pooler) -> Result<Server> {
    let home = home(name, Some(USER))?;
    let (ip, port) = socket(&pooler.target)?;
    let setting = |key: &str| {
        pooler.target.settings.text(key).with_context(|| format!("{}: no setting `{key}`", pooler.target.id))
    };
    let (admin, databases_file) = (setting("admin")?, setting("databases")?);

    let mut databases = "[databases]\n".to_owned();
    let mut ready = vec![Ready::Tcp(SocketAddrV4::new(ip, port))];
    for database in site.topology.databases.values().filter(|database| database.poolers.contains(name)) {
        if !matches!(database.route, Route::PoolerDatabase(_)) {
            continue;
        }
        let entry = pooler_database(site.topology, &database.name);
        let primary = database.members.get(site.primary(&database.name)?).context("no primary")?;
        let (host, member_port) = socket(&primary.target)?;
        databases += &format!("{entry} = host={host} port={member_port} dbname={}\n", database.name);
        ready.push(Ready::Sql {
            server: SocketAddrV4::new(ip, port),
            user: APP.to_owned(),
            database: entry,
            query: "select pg_is_in_recovery()".to_owned(),
            answer: "f".to_owned(),
        });
    }
    write(Path::new(databases_file), &databases, Some(USER), 0o640)?;

    let mut users = String::new();
    for login in [APP, admin] {
        users += &format!("\"{login}\" \"{}\"\n", site.secrets.of(login)?);
    }
    write(&home.join("users.txt"), &users, Some(USER), 0o600)?;
    let conf = format!(
        r"%include {databases_file}

[pgbouncer]
listen_addr = {ip}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {dir}/users.txt
admin_users = {admin}
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 20
server_login_retry = 1
server_connect_timeout = 2
tcp_keepidle = 5
tcp_keepintvl = 2
tcp_keepcnt = 3
tcp_user_timeout = 10000
server_check_delay = 5
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
stats_period = 60
",
        dir = home.display()
    );
    let path = home.join("pgbouncer.ini");
    write(&path, &conf, Some(USER), 0o640)?;
    Ok(Server {
        name: name.to_owned(),
        kind: "pgbouncer",
        targets: vec![pooler.target.id.to_string()],
        place: pooler.target.facility.to_string(),
        argv: argv(&["/usr/sbin/pgbouncer", &path.to_string_lossy()]),
        user: Some(USER),
        wave: 0,
        pid_file: None,
        by_command: false,
        ready,
    })
}

//! PostgreSQL for every database member: one cluster for each database, replicas made by copying the data directory.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use handover::model::{Database, Member, ReplicationMode};

use super::{APP, Ready, Server, Site, argv, directory, write};
use crate::layout::socket;

const BIN: &str = "/usr/lib/postgresql/15/bin";
const USER: &str = "postgres";
/// The user that replicas log in as, where the settings name no other.
pub const REPLICATOR: &str = "replicator";

/// One server for each member of each database.
pub fn members(site: &mut Site<'_>) -> Result<Vec<Server>> {
    let topology = site.topology;
    let passwords = [site.secrets.of(APP)?, site.secrets.of(REPLICATOR)?];
    let mut users = Vec::new();
    for database in topology.databases.values() {
        let any = database.members.values().next().with_context(|| format!("{} has no member", database.name))?;
        let user = any.target.settings.text("user").unwrap_or("handover");
        users.push((user, site.secrets.of(user)?));
    }
    let site = &*site;
    // initdb costs a second of CPU: all databases at once.
    std::thread::scope(|scope| {
        let threads: Vec<_> = topology
            .databases
            .values()
            .zip(&users)
            .map(|(database, (user, password))| {
                let passwords = &passwords;
                scope.spawn(move || cluster(site, database, user, password, passwords))
            })
            .collect();
        let mut servers = Vec::new();
        for thread in threads {
            servers.extend(thread.join().map_err(|_| anyhow!("preparing a database panicked"))??);
        }
        Ok(servers)
    })
}

fn cluster(
    site: &Site<'_>,
    database: &Database,
    user: &str,
    password: &str,
    [app, replicator]: &[String; 2],
) -> Result<Vec<Server>> {
    let primary = site.primary(&database.name)?;
    let primary_data = data_directory(database, primary)?;
    let replicas: BTreeSet<&str> =
        database.members.keys().map(String::as_str).filter(|member| *member != primary).collect();
    if let Some(parent) = primary_data.parent() {
        directory(parent, Some(USER))?;
    }
    site.processes.run(
        as_postgres("initdb")
            .args(["--no-sync", "-E", "UTF8", "--locale=C.UTF-8", "-U", USER])
            .arg("-D")
            .arg(&primary_data),
        None,
    )?;
    write_configuration(database, primary, &primary_data)?;

    // The tool alters settings, promotes and reads everything: a superuser, as on most installations.
    let name = &database.name;
    let mut roles = format!(
        "create role {user} superuser login replication password '{password}';\ncreate role {REPLICATOR} login replication password '{replicator}';\ncreate role {APP} login password '{app}';\ncreate database \"{name}\" owner {APP};\n"
    );
    // What pg_rewind asks a primary for.
    roles += &format!(
        "grant execute on function pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) to {REPLICATOR};\n"
    );
    for replica in &replicas {
        roles += &format!("select pg_create_physical_replication_slot('{}', true);\n", slot(replica));
    }
    single_user(site, &primary_data, "postgres", &roles)?;
    single_user(site, &primary_data, name.as_str(), &schema())?;

    let (host, port) = socket(&member(database, primary)?.target)?;
    for replica in &replicas {
        let data = data_directory(database, replica)?;
        if let Some(parent) = data.parent() {
            directory(parent, Some(USER))?;
        }
        let mut copy = Command::new("cp");
        site.processes.run(copy.arg("-a").arg(&primary_data).arg(&data), None)?;
        for entry in std::fs::read_dir(data.join("pg_replslot"))? {
            std::fs::remove_dir_all(entry?.path())?;
        }
        write_configuration(database, replica, &data)?;
        let login = member(database, replica)?.target.settings.text("replication");
        let login = login.map_or_else(|| format!("user={REPLICATOR} passfile={}", super::PGPASS), str::to_owned);
        let auto = format!(
            "primary_conninfo = 'host={host} port={port} application_name={replica} {login}'\nprimary_slot_name = '{}'\n",
            slot(replica)
        );
        write(&data.join("postgresql.auto.conf"), &auto, Some(USER), 0o600)?;
        write(&data.join("standby.signal"), "", Some(USER), 0o600)?;
    }
    if database.mode == ReplicationMode::Synchronous && !replicas.is_empty() {
        let names: Vec<String> = replicas.iter().map(|replica| format!("\"{replica}\"")).collect();
        let auto = format!("synchronous_standby_names = 'FIRST 1 ({})'\n", names.join(", "));
        write(&primary_data.join("postgresql.auto.conf"), &auto, Some(USER), 0o600)?;
    }
    database.members.iter().map(|(name, member)| postgres(database, name, member, user, name == primary)).collect()
}

fn postgres(database: &Database, name: &str, member: &Member, user: &str, primary: bool) -> Result<Server> {
    let data = data_directory(database, name)?;
    let (ip, port) = socket(&member.target)?;
    let synchronous = if database.mode == ReplicationMode::Synchronous { "sync" } else { "async" };
    let (query, answer) = if primary {
        let query = format!(
            "select count(*), count(*) filter (where sync_state = '{synchronous}') > 0 from pg_stat_replication where state = 'streaming'"
        );
        let replicas = database.members.len() - 1;
        (query, format!("{replicas}|{}", if replicas > 0 { "t" } else { "f" }))
    } else {
        ("select pg_is_in_recovery()".to_owned(), "t".to_owned())
    };
    let data = data.to_string_lossy();
    Ok(Server {
        name: name.to_owned(),
        kind: "postgres",
        targets: vec![member.target.id.to_string()],
        place: member.target.facility.to_string(),
        argv: argv(&[&format!("{BIN}/postgres"), "-D", &data]),
        user: Some(USER),
        wave: 0,
        pid_file: Some(Path::new(data.as_ref()).join("postmaster.pid")),
        by_command: false,
        ready: vec![Ready::Sql {
            server: SocketAddrV4::new(ip, port),
            user: user.to_owned(),
            database: database.name.to_string(),
            query,
            answer,
        }],
    })
}

/// Tables of the applications, of the writers and of the jobs.
fn schema() -> String {
    let mut schema = String::new();
    for table in [
        "writes(id bigint primary key, at timestamptz not null default now())",
        "job_runs(job text not null, at timestamptz not null default now())",
    ] {
        let name = table.split('(').next().unwrap_or_default();
        schema += &format!("create table {table};\nalter table {name} owner to {APP};\n");
    }
    schema
}

fn write_configuration(database: &Database, name: &str, data: &Path) -> Result<()> {
    let (ip, port) = socket(&member(database, name)?.target)?;
    let home = data.parent().unwrap_or(data);
    let conf = format!(
        r"listen_addresses = '{ip}'
port = {port}
unix_socket_directories = '{home}'
cluster_name = '{name}'
max_connections = 100
shared_buffers = 16MB
dynamic_shared_memory_type = posix
wal_level = replica
wal_log_hints = on
max_wal_senders = 10
max_replication_slots = 10
wal_keep_size = 64MB
min_wal_size = 32MB
max_wal_size = 256MB
hot_standby = on
wal_sender_timeout = 5s
wal_receiver_timeout = 5s
wal_receiver_status_interval = 1s
password_encryption = scram-sha-256
tcp_keepalives_idle = 5
tcp_keepalives_interval = 1
tcp_keepalives_count = 5
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u@%d/%a '
lc_messages = 'C'
",
        home = home.display()
    );
    write(&data.join("postgresql.conf"), &conf, Some(USER), 0o600)?;
    let access =
        "local all postgres peer\nhost all all 0.0.0.0/0 scram-sha-256\nhost replication all 0.0.0.0/0 scram-sha-256\n";
    write(&data.join("pg_hba.conf"), access, Some(USER), 0o600)
}

fn single_user(site: &Site<'_>, data: &Path, database: &str, sql: &str) -> Result<()> {
    let mut command = as_postgres("postgres");
    // Errors in single-user mode leave the exit status 0.
    let output = site
        .processes
        .run(command.args(["--single", "-c", "exit_on_error=on", "-D"]).arg(data).arg(database), Some(sql));
    output.map(drop).with_context(|| format!("cannot fill the database {database}"))
}

fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--init-groups", "--"]).arg(format!("{BIN}/{program}"));
    command.current_dir("/").env("PGTZ", "UTC");
    command
}

fn member<'a>(database: &'a Database, name: &str) -> Result<&'a Member> {
    database.members.get(name).with_context(|| format!("{} has no member {name}", database.name))
}

fn data_directory(database: &Database, name: &str) -> Result<PathBuf> {
    let directory = member(database, name)?.target.settings.text("data_directory");
    directory.map(PathBuf::from).with_context(|| format!("member {name}: no setting `data_directory`"))
}

/// A member's slot: slot names allow no hyphens.
fn slot(member: &str) -> String {
    member.replace('-', "_")
}

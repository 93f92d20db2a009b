//! Asks whether a server is ready; runs inside the namespace from which it is asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::Processes;
use crate::servers::{PGPASS, Ready};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ok if the condition holds, else why not.
pub fn ask(ready: &Ready, processes: &Processes) -> Result<()> {
    match ready {
        Ready::Tcp(server) => connect(*server).map(drop),
        Ready::Dns { server, name, kind, authoritative } => dns(*server, name, *kind, *authoritative),
        Ready::Sql { server, user, database, query, answer } => {
            let mut psql = Command::new("psql");
            psql.env("PGCONNECT_TIMEOUT", "2").args(["-XAtq", "-h", &server.ip().to_string()]);
            psql.args(["-p", &server.port().to_string(), "-U", user, "-d", database, "-c", query]);
            psql.env("PGPASSWORD", password(user)?);
            let got = processes.run(&mut psql, None)?;
            ensure!(got.trim() == answer, "`{query}` gives {} instead of {answer}", got.trim());
            Ok(())
        }
        Ready::Http { server, host, path, status } => http(*server, host, path, *status),
        Ready::Command(argv) => {
            let (program, arguments) = argv.split_first().context("an empty command")?;
            processes.run(Command::new(program).args(arguments), None).map(drop)
        }
    }
}

/// libpq refuses the password file of another user, root or not: the lab reads it itself.
fn password(user: &str) -> Result<String> {
    let passwords = std::fs::read_to_string(PGPASS)?;
    let prefix = format!("*:*:*:{user}:");
    let line = passwords.lines().find_map(|line| line.strip_prefix(&prefix));
    line.map(str::to_owned).with_context(|| format!("no password for {user}"))
}

fn connect(server: SocketAddrV4) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::V4(server), PATIENCE)
        .with_context(|| format!("{server} does not accept connections"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn http(server: SocketAddrV4, host: &str, path: &str, status: u16) -> Result<()> {
    let mut stream = connect(server)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).context("no HTTP answer")?;
    let got = String::from_utf8_lossy(&start[9..]).into_owned();
    ensure!(got == status.to_string(), "http://{host}{path} at {server} gives {got} instead of {status}");
    Ok(())
}

/// One question over UDP (RFC 1035, section 4.1).
fn dns(server: SocketAddrV4, name: &str, kind: u16, authoritative: bool) -> Result<()> {
    const ID: [u8; 2] = [0x4c, 0x62];
    let recursion = if authoritative { 0 } else { 1 };
    let mut question = vec![ID[0], ID[1], recursion, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.as_bytes());
    }
    question.push(0);
    question.extend(kind.to_be_bytes());
    question.extend([0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    socket.send(&question)?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).with_context(|| format!("{server} does not answer"))?;
    ensure!(length >= 12 && answer[..2] == ID, "{server} answers something else");
    let (code, aa) = (answer[3] & 0x0f, answer[2] & 0x04 != 0);
    let answers = u16::from_be_bytes([answer[6], answer[7]]);
    if code != 0 || answers == 0 || (authoritative && !aa) {
        bail!("{server} answers {name} with code {code}, {answers} records, authoritative: {aa}");
    }
    Ok(())
}

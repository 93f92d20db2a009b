//! Ports that belong to one test program alone.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::Mutex;

/// Below the range from which the kernel takes ports for connections and for port 0: it gives none of these away.
const FROM: u16 = 12_000;
const COUNT: u16 = 20_000;

/// The ports of this process, each with the locked file that keeps other test programs from it.
static OURS: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port of this machine's loopback addresses where nobody listens, and which no other test program is given while this process
/// lives. A port that was only tried and given back may be somebody else's by the time a server starts.
pub fn free_port() -> u16 {
    let mut ours = OURS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = std::env::temp_dir().join("handover-test-ports");
    std::fs::create_dir_all(&folder).unwrap();
    // Programs that run side by side begin at different places; one goes on where it was.
    let first = std::process::id().wrapping_mul(37).wrapping_add(ours.len() as u32);
    for step in 0..u32::from(COUNT) {
        let port = FROM + (first.wrapping_add(step) % u32::from(COUNT)) as u16;
        let file = File::create(folder.join(port.to_string())).unwrap();
        // The lock ends with this process: the file is closed when another program is executed.
        if file.try_lock().is_ok() && is_free(port) {
            ours.push(file);
            return port;
        }
    }
    panic!("no port is free")
}

/// What was left by an earlier program, or is used by something that is no test.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        && TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok()
}

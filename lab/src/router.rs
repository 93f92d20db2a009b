//! The network between the places: one thread that takes packets from each namespace's TUN device, keeps them for the delay of
//! their direction, and hands them to the namespace of their destination; it can also lose them and cut a direction.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// What happens to packets in one direction between two places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// How long each packet takes.
    pub delay: Duration,
    /// The proportion that gets lost, 0 to 1.
    pub loss: f64,
    /// Nothing passes.
    pub cut: bool,
}

/// All directions, changed while the router runs.
#[derive(Debug)]
pub struct Links {
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    links: Vec<Vec<Link>>,
    /// Places that nothing enters and nothing leaves, whatever their links say.
    fenced: Vec<bool>,
}

impl Links {
    /// Directions between `places` places, all alike.
    pub fn new(places: usize, delay: Duration) -> Self {
        let links = vec![vec![Link { delay, loss: 0.0, cut: false }; places]; places];
        Self { table: Mutex::new(Table { links, fenced: vec![false; places] }) }
    }

    /// Changes one direction.
    pub fn change(&self, from: usize, to: usize, change: impl FnOnce(&mut Link)) {
        change(&mut self.table().links[from][to]);
    }

    /// Lets nothing in and out of a place, or again what its links let through.
    pub fn fence(&self, place: usize, fenced: bool) {
        self.table().fenced[place] = fenced;
    }

    /// All directions as they are now, `[from][to]`; those of a fenced place are cut.
    pub fn snapshot(&self) -> Vec<Vec<Link>> {
        let table = self.table();
        let mut links = table.links.clone();
        for (from, row) in links.iter_mut().enumerate() {
            for (to, link) in row.iter_mut().enumerate() {
                link.cut |= table.fenced[from] || table.fenced[to];
            }
        }
        links
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A packet on its way; ordered by the time of its arrival, then by its entry.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct InFlight {
    due: Instant,
    entry: u64,
    from: usize,
    to: usize,
    packet: Vec<u8>,
}

/// Bytes that may be on their way at once; what comes on top is dropped, as a full router would.
const CAPACITY: usize = 256 << 20;
/// Packets taken from one device before the next one has its turn.
const BATCH: usize = 64;

/// Joins places by their TUN devices.
pub struct Router {
    devices: Vec<File>,
    /// The place of each /16.
    networks: HashMap<[u8; 2], usize>,
    links: Arc<Links>,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    bytes: usize,
    entries: u64,
    random: u64,
}

impl Router {
    /// A router over the places' devices and networks, both in the places' order.
    pub fn new(devices: Vec<File>, networks: &[[u8; 2]], links: Arc<Links>) -> Self {
        let networks = networks.iter().enumerate().map(|(index, network)| (*network, index)).collect();
        Self {
            devices,
            networks,
            links,
            in_flight: BinaryHeap::new(),
            bytes: 0,
            entries: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Forwards packets until the process ends.
    pub fn run(mut self) -> Result<()> {
        let mut buffer = vec![0; 65_536];
        loop {
            self.deliver();
            let timeout = self.in_flight.peek().map(|Reverse(next)| next.due.saturating_duration_since(Instant::now()));
            let readable: Vec<bool> = {
                let mut polled: Vec<PollFd> =
                    self.devices.iter().map(|device| PollFd::new(device.as_fd(), PollFlags::POLLIN)).collect();
                match ppoll(&mut polled, timeout.map(TimeSpec::from_duration), None) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
                polled.iter().map(|fd| fd.any().unwrap_or(false)).collect()
            };
            if readable.contains(&true) {
                let links = self.links.snapshot();
                for from in (0..self.devices.len()).filter(|from| readable[*from]) {
                    self.take(from, &links, &mut buffer);
                }
            }
        }
    }

    fn take(&mut self, from: usize, links: &[Vec<Link>], buffer: &mut [u8]) {
        let now = Instant::now();
        for _ in 0..BATCH {
            let Ok(length @ 1..) = self.devices[from].read(buffer) else { return };
            let packet = &buffer[..length];
            let Some(to) = destination(packet).and_then(|network| self.networks.get(&network).copied()) else {
                continue;
            };
            let link = links[from][to];
            if link.cut || (link.loss > 0.0 && self.chance() < link.loss) || self.bytes + length > CAPACITY {
                continue;
            }
            self.entries += 1;
            self.bytes += length;
            let (due, entry) = (now + link.delay, self.entries);
            self.in_flight.push(Reverse(InFlight { due, entry, from, to, packet: packet.to_vec() }));
        }
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        let mut links = None;
        while self.in_flight.peek().is_some_and(|Reverse(next)| next.due <= now) {
            let Some(Reverse(arrived)) = self.in_flight.pop() else { return };
            self.bytes -= arrived.packet.len();
            // A cut also takes what is on its way.
            let links = links.get_or_insert_with(|| self.links.snapshot());
            if !links[arrived.from][arrived.to].cut {
                // A device that takes no more drops the packet, as networks do.
                let _ = self.devices[arrived.to].write(&arrived.packet);
            }
        }
    }

    /// A number from 0 to 1 (xorshift).
    fn chance(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The first two bytes of an IPv4 packet's destination.
fn destination(packet: &[u8]) -> Option<[u8; 2]> {
    match packet {
        [version, ..] if version >> 4 == 4 && packet.len() >= 20 => Some([packet[16], packet[17]]),
        _ => None,
    }
}

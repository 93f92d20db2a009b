//! What a plan that changes one record set of a large zone costs: `handover plan`, octoDNS, and `dig AXFR`, which only reads it.

use std::fmt::Write;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::numbers::median;
use crate::programs::{Server, handover, own, succeed};
use crate::servers::free_port;

const SECRET: &str = "aGFuZG92ZXItYmVuY2htYXJrLWtleS0wMTIzNDU2Nzg=";

/// How a program ran.
#[derive(Debug, Serialize, Deserialize)]
pub struct Timed {
    /// Seconds on the clock.
    pub wall_s: f64,
    /// The most memory that it held.
    pub peak_mib: f64,
    /// What it wrote at last, for a reader who wonders.
    pub output: String,
}

/// What was measured of one zone: medians.
#[derive(Debug, Serialize, Deserialize)]
pub struct Zone {
    /// Record sets in the zone.
    pub records: usize,
    /// `handover plan`.
    pub handover_s: f64,
    /// Its memory.
    pub handover_mib: f64,
    /// `octodns-sync` without `--doit`.
    pub octodns_s: f64,
    /// Its memory.
    pub octodns_mib: f64,
    /// `dig AXFR`.
    pub dig_axfr_s: f64,
}

/// Measures zones of these sizes: `handover` and `dig` take turns `times` times, octoDNS runs `octodns_times`.
///
/// # Errors
/// If a server or program fails.
pub fn measure(sizes: &[usize], octodns: &Path, times: u32, octodns_times: u32) -> Result<Vec<Zone>> {
    sizes.iter().map(|records| zone(*records, octodns, times, octodns_times)).collect()
}

fn zone(records: usize, octodns: &Path, times: u32, octodns_times: u32) -> Result<Zone> {
    eprintln!("a zone of {records} record sets");
    let site = Site::start(records)?;
    let (mut plans, mut memory, mut transfers) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..times {
        let planned = site.plan(number)?;
        plans.push(planned.wall_s);
        memory.push(planned.peak_mib);
        transfers.push(site.transfer(records)?.wall_s);
    }
    let (mut syncs, mut sync_memory) = (Vec::new(), Vec::new());
    for _ in 0..octodns_times {
        let synced = site.octodns(octodns)?;
        syncs.push(synced.wall_s);
        sync_memory.push(synced.peak_mib);
    }
    Ok(Zone {
        records,
        handover_s: median(plans),
        handover_mib: median(memory),
        octodns_s: median(syncs),
        octodns_mib: median(sync_memory),
        dig_axfr_s: median(transfers),
    })
}

/// A name server with one large zone.
struct Site {
    port: u16,
    _server: Server,
    folder: tempfile::TempDir,
}

impl Site {
    fn start(records: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (port, control) = (free_port(), folder.path());
        let directory = control.display();
        let conf = format!(
            "options {{ directory \"{directory}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; \
             dnssec-validation no; pid-file none; session-keyfile none; allow-transfer {{ key bench; }}; notify no; }};\n\
             controls {{ }};\nkey bench {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
             zone \"big.example\" {{ type primary; file \"big.zone\"; update-policy {{ grant bench zonesub ANY; }}; }};\n"
        );
        fs::write(control.join("named.conf"), conf)?;
        fs::write(control.join("big.zone"), zone_file(records))?;
        let mut named = Command::new("named");
        named.args(["-g", "-c"]).arg(control.join("named.conf"));
        let server = Server::start(&mut named, &control.join("named.log"))?;
        let site = Self { port, _server: server, folder };
        site.topology()?;
        site.octodns_configuration(records)?;
        let (began, log) = (Instant::now(), site.path("named.log"));
        while TcpStream::connect(("127.0.0.1", port)).is_err()
            || !fs::read_to_string(&log)?.contains("all zones loaded")
        {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            ensure!(began.elapsed() < Duration::from_secs(60), "named is not ready:\n{}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(site)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One record set is to get a second address.
    fn topology(&self) -> Result<()> {
        fs::write(self.path("tsig"), SECRET)?;
        let text = format!(
            "topology: 1\nname: big\nfacilities: {{west: {{}}}}\nzones:\n  big.example:\n    provider: rfc2136\n    \
             settings: {{key: bench, algorithm: hmac-sha256, secret: {{file: tsig}}}}\n    \
             servers: {{ns1: {{facility: west, address: \"127.0.0.1:{}\", updates: true}}}}\nservices:\n  pay:\n    \
             hostnames: [pay.big.example]\n    ttl: 30s\n    addresses: {{west: [10.10.0.80, 10.10.0.81]}}\n    share: {{west: 100%}}\n    \
             servers: {{app: {{facility: west, address: \"127.0.0.1:9\"}}}}\n    health: {{path: /health}}\n",
            self.port
        );
        Ok(fs::write(self.path("topology.yaml"), text)?)
    }

    fn octodns_configuration(&self, records: usize) -> Result<()> {
        let directory = self.folder.path().display();
        let configuration = format!(
            "providers:\n  files: {{class: octodns.provider.yaml.YamlProvider, directory: {directory}/octodns, enforce_order: false}}\n  \
             bind: {{class: octodns_bind.Rfc2136Provider, host: 127.0.0.1, port: {}, key_name: bench, key_secret: {SECRET}, \
             key_algorithm: hmac-sha256}}\nzones:\n  big.example.: {{sources: [files], targets: [bind]}}\n",
            self.port
        );
        fs::write(self.path("octodns.yaml"), configuration)?;
        fs::create_dir(self.path("octodns"))?;
        let mut text =
            "'': {ttl: 300, type: NS, values: [ns1.big.example.]}\nns1: {ttl: 300, type: A, value: 10.10.0.53}\n\
                        pay: {ttl: 30, type: A, values: [10.10.0.80, 10.10.0.81]}\n"
                .to_owned();
        for (name, address) in hosts(records) {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "{name}: {{ttl: 300, type: A, value: {address}}}");
        }
        Ok(fs::write(self.path("octodns/big.example.yaml"), text)?)
    }

    fn plan(&self, number: u32) -> Result<Timed> {
        let mut plan = vec![handover()?.into_os_string()];
        plan.extend(["plan", "--out"].map(Into::into));
        plan.push(self.path(&format!("plan-{number}.yaml")).into_os_string());
        plan.extend(["--state-dir".into(), self.path("state").into_os_string(), "--topology".into()]);
        plan.push(self.path("topology.yaml").into_os_string());
        let timed = timed(&plan)?;
        ensure!(timed.output.contains("pay.big.example"), "handover planned something else:\n{}", timed.output);
        Ok(timed)
    }

    fn transfer(&self, records: usize) -> Result<Timed> {
        let port = self.port.to_string();
        let key = format!("hmac-sha256:bench:{SECRET}");
        let dig = ["dig", "@127.0.0.1", "-p", &port, "-y", &key, "big.example", "AXFR"];
        let timed = timed(&dig.map(Into::into))?;
        ensure!(timed.output.contains(&format!("{} records", records + 1)), "not the whole zone:\n{}", timed.output);
        Ok(timed)
    }

    fn octodns(&self, folder: &Path) -> Result<Timed> {
        let configuration = format!("--config-file={}", self.path("octodns.yaml").display());
        let timed = timed(&[folder.join("bin/octodns-sync").into_os_string(), configuration.into()])?;
        ensure!(timed.output.contains("Updates=1"), "octoDNS planned something else:\n{}", timed.output);
        Ok(timed)
    }
}

/// Names and addresses of hosts, so many that the zone has `records` record sets with those that every zone has.
fn hosts(records: usize) -> impl Iterator<Item = (String, String)> {
    let address = |number: usize| format!("10.{}.{}.{}", 100 + number / 65_536, number / 256 % 256, number % 256);
    (0..records.saturating_sub(4)).map(move |number| (format!("host{number:06}"), address(number)))
}

fn zone_file(records: usize) -> String {
    let mut text = "$ORIGIN big.example.\n$TTL 300\n@ IN SOA ns1 hostmaster ( 1 3600 600 604800 300 )\n@ IN NS ns1\n\
                    ns1 IN A 10.10.0.53\npay 30 IN A 10.10.0.80\n"
        .to_owned();
    for (name, address) in hosts(records) {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{name} IN A {address}");
    }
    text
}

/// Runs a program to its end and measures it, by a small process of its own: the kernel counts memory per process.
fn timed(command: &[std::ffi::OsString]) -> Result<Timed> {
    let said = succeed(Command::new(own()?).arg("timed").arg("--").args(command))?;
    serde_json::from_str(&said).context("the measuring process wrote something else")
}

/// What that small process does.
///
/// # Errors
/// If the program fails.
pub fn run_timed(command: &[std::ffi::OsString]) -> Result<Timed> {
    let [program, arguments @ ..] = command else { anyhow::bail!("no program is named") };
    let began = Instant::now();
    let output = Command::new(program).args(arguments).output()?;
    let wall_s = began.elapsed().as_secs_f64();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    ensure!(output.status.success(), "{program:?}: {}\n{text}", output.status);
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)?;
    let tail = text.len().saturating_sub(20_000);
    let tail = (tail..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    Ok(Timed { wall_s, peak_mib: usage.max_rss() as f64 / 1024.0, output: text[tail..].to_owned() })
}

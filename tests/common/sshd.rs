//! A real ssh server for tests.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use handover::model::{Host, TransportKind};
use handover::transport::Transport;
use tempfile::TempDir;

/// A real sshd with one host key, one login key and a log, on a loopback port.
pub struct Sshd {
    directory: TempDir,
    pub port: u16,
    process: Child,
}

impl Sshd {
    pub fn start(port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        // Without it sshd does not start, and only its package's service makes it.
        std::fs::create_dir_all("/run/sshd").unwrap();
        for key in ["host", "login", "stranger"] {
            let made =
                Process::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]).status().unwrap();
            assert!(made.success());
        }
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             LogLevel VERBOSE\nMaxSessions 3\n",
            path("host"),
            path("login.pub"),
        );
        std::fs::write(path("sshd_config"), config).unwrap();
        let host_key = std::fs::read_to_string(path("host.pub")).unwrap();
        std::fs::write(path("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
        let process = Process::new("/usr/sbin/sshd")
            .args(["-D", "-f", &path("sshd_config"), "-E", &path("log")])
            .stdin(Stdio::null())
            .spawn()
            .expect("install openssh-server");
        let sshd = Self { directory, port, process };
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < deadline, "sshd does not listen: {}", sshd.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        sshd
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn host(&self) -> Host {
        let transport = TransportKind::Ssh { address: "127.0.0.1".to_owned(), user: None, port: Some(self.port) };
        Host { name: "there".into(), transport, commands: BTreeMap::new() }
    }

    /// A transport whose operator has this configuration, and an unlucky one at that.
    pub fn transport(&self, key: &str, known_hosts: &str) -> Transport {
        let config = format!(
            "Host *\n IdentityFile {}\n IdentitiesOnly yes\n IdentityAgent none\n UserKnownHostsFile {}\n \
             GlobalKnownHostsFile /dev/null\n RemoteCommand uptime\n RequestTTY yes\n LogLevel QUIET\n LocalForward 1 localhost:1\n \
             ExitOnForwardFailure yes\n",
            self.path(key).display(),
            self.path(known_hosts).display(),
        );
        let file = self.path(&format!("ssh_config.{key}.{known_hosts}"));
        std::fs::write(&file, config).unwrap();
        Transport::with_options(vec!["-F".to_owned(), file.display().to_string()])
    }

    pub fn logins(&self) -> usize {
        self.log().matches("Accepted publickey").count()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

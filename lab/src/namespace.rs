//! Network namespaces, their TUN devices, and the private mounts of a lab.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::layout::{Layout, Place};
use crate::process::Processes;

/// Where the lab's own program is seen inside: its folder outside may be closed to the users that servers run as.
pub const PROGRAM: &str = "/srv/.lab";

/// Largest packet: large enough to keep the router's work small.
const MTU: u32 = 9000;

/// A network namespace, alive as long as this descriptor or a process in it.
#[derive(Debug)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    file: File,
}

impl Namespace {
    /// Makes an empty namespace.
    pub fn create(name: &str) -> Result<Self> {
        let made = std::thread::scope(|scope| {
            let thread = scope.spawn(|| -> Result<File> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                Ok(File::open("/proc/thread-self/ns/net")?)
            });
            thread.join().map_err(|_| anyhow!("the thread panicked"))?
        });
        Ok(Self { name: name.to_owned(), file: made.with_context(|| format!("cannot make the namespace {name}"))? })
    }

    /// The number of the descriptor that other processes find under `/proc/PID/fd`.
    pub fn descriptor(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// The identity of the namespace as in `/proc/PID/ns/net`.
    pub fn identity(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(self.file.metadata()?.ino())
    }

    /// Runs `work` inside, on a thread of its own; processes and sockets that it makes stay inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", self.name))?;
                work()
            });
            thread.join().map_err(|_| anyhow!("the thread in {} panicked", self.name))?
        })
    }

    /// Gives the namespace its addresses, its TUN device and its routes; returns the device.
    pub fn configure(&self, layout: &Layout, place: &Place, processes: &Processes) -> Result<File> {
        self.enter(|| {
            let tun = open_tun()?;
            let mut batch = format!("link set lo up\nroute add local {} dev lo\n", place.cidr());
            for ip in place.addresses.iter().copied().chain([place.own_address()]) {
                batch += &format!("addr replace {ip}/32 dev lo\n");
            }
            batch += &format!("link set lab0 mtu {MTU} up\n");
            for other in layout.places.iter().filter(|other| other.name != place.name) {
                batch += &format!("route add {} dev lab0 src {}\n", other.cidr(), place.own_address());
            }
            let mut ip = std::process::Command::new("ip");
            ip.args(["-batch", "-"]);
            processes.run(&mut ip, Some(&batch))?;
            Ok(tun)
        })
    }
}

#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: libc::c_short,
    padding: [u8; 22],
}

nix::ioctl_write_ptr_bad!(tun_set_iff, nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()), InterfaceRequest);

fn open_tun() -> Result<File> {
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("cannot open /dev/net/tun: the lab's router needs it")?;
    let mut request =
        InterfaceRequest { name: [0; 16], flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short, padding: [0; 22] };
    request.name[..4].copy_from_slice(b"lab0");
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` (40 bytes), which `request` is; it outlives the call.
    unsafe { tun_set_iff(tun.as_raw_fd(), &request) }.context("cannot make the TUN device")?;
    Ok(tun)
}

/// Makes the mounts that only this lab sees: `/srv`, `/run`, `/dev/shm`, `/proc` and a few files under `/etc`.
/// The caller is alone in a new mount namespace and is process 1 of a new PID namespace.
pub fn private_mounts(srv: &Path, etc: &Path) -> Result<()> {
    let none: Option<&str> = None;
    let program = std::env::current_exe().context("cannot find this program")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot make the mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("cannot mount /proc")?;
    for (at, mode) in [("/run", "mode=0755,size=64m"), ("/dev/shm", "mode=1777,size=1g")] {
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(mode))
            .with_context(|| format!("cannot mount {at}"))?;
    }
    fs::create_dir_all("/run/sshd")?;
    fs::set_permissions("/run/sshd", fs::Permissions::from_mode(0o755))?;
    symlink("/run", "/run/lock").ok();
    bind(srv, Path::new("/srv"))?;
    fs::write(PROGRAM, "")?;
    bind(&program, Path::new(PROGRAM))?;
    for file in fs::read_dir(etc)? {
        let file = file?;
        let relative = file.file_name();
        let over = match relative.to_str() {
            Some("ssh_config") => Path::new("/etc/ssh/ssh_config").to_owned(),
            _ => Path::new("/etc").join(&relative),
        };
        bind(&file.path(), &landing(&over)?)?;
    }
    Ok(())
}

/// The existing file to mount over: where `path` is a link into `/run`, the file that it means is made there first.
fn landing(path: &Path) -> Result<std::path::PathBuf> {
    if let Ok(existing) = fs::canonicalize(path) {
        return Ok(existing);
    }
    let meant = fs::read_link(path).with_context(|| format!("{} does not exist on this machine", path.display()))?;
    let meant = path.parent().unwrap_or(Path::new("/")).join(meant);
    if let Some(parent) = meant.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(&meant)?;
    Ok(fs::canonicalize(meant)?)
}

fn bind(from: &Path, over: &Path) -> Result<()> {
    let none: Option<&str> = None;
    mount(Some(from), over, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("cannot mount {} over {}", from.display(), over.display()))
}

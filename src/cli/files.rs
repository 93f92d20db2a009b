//! Files that are written whole or not at all: into a file beside them first, which then takes their name.

use std::fs::{File, Permissions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

/// Writes a file that does not exist yet, durably; its folder is made where it is missing.
///
/// # Errors
/// If it exists, which leaves it as it is, or cannot be written; then nothing is left behind.
pub fn create(path: &Path, text: &str) -> Result<()> {
    absent(path)?;
    let folder = folder(path);
    std::fs::create_dir_all(folder)?;
    // What another process has put there in the meantime stays as well.
    written(folder, text)?.persist_noclobber(path).map_err(|error| error.error)?;
    // The name lasts only when the folder does.
    File::open(folder)?.sync_all()
}

/// Writes a file over what was there: whoever reads it sees the old one or the new one, whole.
///
/// # Errors
/// If it cannot be written; then the old one stays.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    written(folder(path), text)?.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// That nothing has this name yet, not even a link that leads nowhere.
///
/// # Errors
/// If something has.
pub fn absent(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(_) => Err(Error::from(ErrorKind::AlreadyExists)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file that vanishes unless it gets its name.
fn written(folder: &Path, text: &str) -> Result<NamedTempFile> {
    // As any new file: the process's umask takes from it.
    let mut builder = tempfile::Builder::new();
    let mut file = builder.prefix(".handover-").permissions(Permissions::from_mode(0o666)).tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests look at files")]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b/plan.yaml");
        create(&file, "one").unwrap();
        assert_eq!(create(&file, "two").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
        assert_eq!(names(&folder.path().join("a/b")), ["plan.yaml"]);
        let link = folder.path().join("link.yaml");
        std::os::unix::fs::symlink("/nowhere/at/all", &link).unwrap();
        assert_eq!(create(&link, "two").unwrap_err().kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_is_replaced_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("handover.prom");
        replace(&file, "a long first text").unwrap();
        replace(&file, "short").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "short");
        assert_eq!(names(folder.path()), ["handover.prom"]);
        // A folder is in the way: nothing is left behind.
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, "x").is_err());
        assert_eq!(names(folder.path()), ["handover.prom", "taken"]);
    }

    #[test]
    fn a_place_that_is_no_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(create(&folder.path().join("file/plan.yaml"), "x").is_err());
        assert_eq!(names(folder.path()), ["file"]);
    }
}

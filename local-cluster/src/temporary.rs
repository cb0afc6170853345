//! The temporary directory of a cluster, which is removed at the end, or, when this process
//! was killed, by a later one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::ProcessError;

const PREFIX: &str = "iggy-cluster-";
/// Locked by the process that uses the directory; the kernel releases the lock with it.
const OWNER: &str = "owner";
/// The name of that file until it is locked.
const NEW_OWNER: &str = "owner.new";

/// A temporary directory that belongs to this process.
pub(crate) struct OwnedDirectory {
    directory: TempDir,
    _lock: File,
}

impl OwnedDirectory {
    /// A new one in the system's directory for temporary files.
    pub(crate) fn new() -> Result<Self, ProcessError> {
        Self::new_in(&std::env::temp_dir())
    }

    fn new_in(parent: &Path) -> Result<Self, ProcessError> {
        let failed = || ProcessError::io("cannot create a directory in", parent);
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(parent)
            .map_err(failed())?;
        let lock = own(directory.path()).map_err(failed())?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// The file has its name only after it is locked, so that no other process takes the
/// directory for an abandoned one.
fn own(directory: &Path) -> io::Result<File> {
    let new = directory.join(NEW_OWNER);
    let file = File::create(&new)?;
    file.lock()?;
    fs::rename(&new, directory.join(OWNER))?;
    Ok(file)
}

/// Removes the temporary directories of this user's clusters whose process was killed, and
/// returns their paths.
#[must_use]
pub fn remove_abandoned() -> Vec<PathBuf> {
    remove_abandoned_in(&std::env::temp_dir())
}

fn remove_abandoned_in(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let ours = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        name.to_string_lossy().starts_with(PREFIX) && is_directory
    });
    let paths = ours.map(|entry| entry.path());
    paths
        .filter(|path| is_abandoned(path) && fs::remove_dir_all(path).is_ok())
        .collect()
}

/// Whether it is this user's, and the process that used it has ended.
fn is_abandoned(directory: &Path) -> bool {
    let me = rustix::process::getuid().as_raw();
    let is_mine = fs::symlink_metadata(directory).is_ok_and(|found| found.uid() == me);
    let lock = OpenOptions::new().write(true).open(directory.join(OWNER));
    is_mine && lock.is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_processes_that_ended_are_removed() {
        let parent = tempfile::tempdir().expect("a directory");
        let used = OwnedDirectory::new_in(parent.path()).expect("a directory");
        let abandoned = OwnedDirectory::new_in(parent.path()).expect("a directory");
        fs::write(abandoned.path().join("log"), "text").expect("a file");
        let foreign = parent.path().join("iggy-cluster-of-something-else");
        fs::create_dir(&foreign).expect("a directory");
        // As if the process was killed: the lock is released, and nothing is removed.
        let OwnedDirectory { directory, _lock } = abandoned;
        let abandoned = directory.keep();
        drop(_lock);
        assert_eq!(
            remove_abandoned_in(parent.path()),
            std::slice::from_ref(&abandoned)
        );
        assert!(!abandoned.exists());
        assert!(used.path().exists() && foreign.exists());
        assert!(remove_abandoned_in(parent.path()).is_empty());
    }
}

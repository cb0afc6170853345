//! The disk of the machine.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::traits::{Disk, DiskError, DiskFile};

const LOCK_FILE: &str = "lock";
/// Log and snapshots contain hashes of passwords: only the user of the process reads them.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// The permissions of everyone but the owner.
const OTHERS: u32 = 0o077;

/// The permissions of a directory that other users of the machine may list, enter or
/// change, as an octal mode of three digits; `None` when only its owner may.
///
/// # Errors
/// The error of the operating system.
pub fn open_to_others(dir: &Path) -> Result<Option<u32>, DiskError> {
    let metadata = fs::metadata(dir)
        .map_err(|error| DiskError::new("inspect", &dir.display().to_string(), error))?;
    let mode = metadata.permissions().mode() & 0o777;
    Ok((mode & OTHERS != 0).then_some(mode))
}

/// Creates a directory and its parents if they are missing, for the user of the process
/// only, and durably.
///
/// # Errors
/// The error of the operating system.
pub fn create_dirs(dir: &Path) -> io::Result<()> {
    let missing = missing_dirs(dir);
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIR_MODE).create(dir)?;
    for dir in missing {
        File::open(parent_of(dir))?.sync_all()?;
    }
    Ok(())
}

/// The directory and those above it, up to the first that exists.
fn missing_dirs(dir: &Path) -> Vec<&Path> {
    let named = dir.ancestors().filter(|dir| !dir.as_os_str().is_empty());
    named.take_while(|dir| !dir.exists()).collect()
}

fn parent_of(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

/// A directory of the machine's file system. Clones are the same disk; as long
/// as one of them exists, no other process can open the directory.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
    /// Holds the lock on the directory; the kernel releases it with the process.
    _lock: Arc<File>,
}

impl RealDisk {
    /// Everything below `root`, which is created if it is missing, and
    /// locked: two writers would destroy each other's log. What is created here can be
    /// read by the user of the process only; [`open_to_others`] shows whether that is
    /// also true of a directory that exists.
    ///
    /// # Errors
    /// The error of the operating system;
    /// [`ResourceBusy`](io::ErrorKind::ResourceBusy) when another process has it open.
    pub fn new(root: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let root = root.into();
        let failed =
            |operation, source| DiskError::new(operation, &root.display().to_string(), source);
        create_dirs(&root).map_err(|error| failed("create directory", error))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(root.join(LOCK_FILE))
            .map_err(|error| failed("lock", error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => failed(
                "lock",
                io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "another process uses this data directory; stop it, or give this node a directory of its own",
                ),
            ),
            TryLockError::Error(error) => failed("lock", error),
        })?;
        Ok(Self {
            root,
            _lock: Arc::new(lock),
        })
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn failed(&self, operation: &'static str, path: &str) -> impl FnOnce(io::Error) -> DiskError {
        let path = self.path(path).display().to_string();
        move |source| DiskError {
            operation,
            path,
            source,
        }
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &str, bytes: u64) -> Result<Box<dyn DiskFile>, DiskError> {
        let failed = |operation| self.failed(operation, path);
        let full = self.path(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&full)
            .map_err(failed("create"))?;
        if bytes > 0 {
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&file, flags, 0, bytes)
                .map_err(io::Error::from)
                .or_else(|error| match error.kind() {
                    // Some file systems cannot reserve; a sparse file serves.
                    io::ErrorKind::Unsupported => file.set_len(bytes),
                    _ => Err(error),
                })
                .map_err(|error| {
                    // What was reserved of it would keep a full disk full.
                    let _ = fs::remove_file(&full);
                    failed("preallocate")(error)
                })?;
        }
        Ok(Box::new(RealFile { file, path: full }))
    }

    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>, DiskError> {
        let full = self.path(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&full)
            .map_err(self.failed("open", path))?;
        Ok(Box::new(RealFile { file, path: full }))
    }

    fn create_dir(&self, path: &str) -> Result<(), DiskError> {
        create_dirs(&self.path(path)).map_err(self.failed("create directory", path))?;
        let mut parent = Path::new(path);
        while let Some(above) = parent.parent() {
            self.sync_dir(&above.to_string_lossy())?;
            parent = above;
        }
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        let failed = || self.failed("list", dir);
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(dir)).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        fs::rename(self.path(from), self.path(to)).map_err(self.failed("rename", from))
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        match fs::remove_file(self.path(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        File::open(self.path(dir))
            .and_then(|dir| dir.sync_all())
            .map_err(self.failed("sync directory", dir))
    }

    fn nonce(&self) -> u64 {
        // Keyed by the operating system's random numbers.
        RandomState::new().hash_one(0_u8)
    }
}

struct RealFile {
    file: File,
    path: PathBuf,
}

impl RealFile {
    fn failed(&self, operation: &'static str) -> impl FnOnce(io::Error) -> DiskError + '_ {
        move |source| DiskError::new(operation, &self.path.display().to_string(), source)
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> Result<u64, DiskError> {
        let metadata = self.file.metadata().map_err(self.failed("inspect"))?;
        Ok(metadata.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("read")(error)),
            }
        }
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(self.failed("write"))
    }

    fn truncate(&self, bytes: u64) -> Result<(), DiskError> {
        self.file.set_len(bytes).map_err(self.failed("truncate"))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(self.failed("sync"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::read_all;

    #[test]
    fn files_are_made_renamed_listed_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(root.path()).unwrap();
        disk.create_dir("a/b").unwrap();
        let file = disk.create("a/b/one", 8192).unwrap();
        assert_eq!(file.len().unwrap(), 8192);
        file.write_at(8190, b"xyz").unwrap();
        file.sync().unwrap();
        disk.rename("a/b/one", "a/b/two").unwrap();
        disk.sync_dir("a/b").unwrap();
        assert_eq!(disk.list("a/b").unwrap(), ["two"]);
        let bytes = read_all(disk.open("a/b/two").unwrap().as_ref()).unwrap();
        assert_eq!((bytes.len(), &bytes[8189..]), (8193, &b"\0xyz"[..]));
        disk.remove("a/b/two").unwrap();
        disk.remove("a/b/two").unwrap();
        assert!(disk.list("a/b").unwrap().is_empty());
    }

    #[test]
    fn what_is_created_is_of_no_use_to_other_users() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("new/data");
        let disk = RealDisk::new(&root).unwrap();
        disk.create_dir("a/b").unwrap();
        disk.create("a/b/file", 10).unwrap();
        for (path, expected) in [
            ("..", DIR_MODE),
            (".", DIR_MODE),
            ("a", DIR_MODE),
            ("a/b", DIR_MODE),
            ("lock", FILE_MODE),
            ("a/b/file", FILE_MODE),
        ] {
            let found = fs::metadata(root.join(path)).unwrap().permissions().mode();
            assert_eq!(found & 0o777, expected, "{path}");
        }
        assert_eq!(open_to_others(&root).unwrap(), None);
    }

    /// What is in a directory is lost with its name.
    #[test]
    fn the_names_of_all_new_directories_are_made_durable() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b/c");
        let parents = |dir: &Path| -> Vec<PathBuf> {
            let missing = missing_dirs(dir).into_iter();
            missing.map(|dir| parent_of(dir).to_owned()).collect()
        };
        let above = ["a/b", "a", ""].map(|path| dir.path().join(path));
        assert_eq!(
            parents(&root),
            above.map(|path| path.components().collect::<PathBuf>())
        );
        create_dirs(&root).unwrap();
        assert_eq!(parents(&root), [] as [PathBuf; 0]);
        let relative = Path::new("no-such-directory/data");
        assert_eq!(
            parents(relative),
            [PathBuf::from("no-such-directory"), PathBuf::from(".")]
        );
    }

    #[test]
    fn a_directory_that_others_may_use_in_any_way_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o755, 0o750, 0o711, 0o701, 0o702] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(open_to_others(dir.path()).unwrap(), Some(mode), "{mode:o}");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(open_to_others(dir.path()).unwrap(), None);
    }

    #[test]
    fn an_error_names_the_operation_and_the_file() {
        let root = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(root.path()).unwrap();
        let error = disk.open("nowhere/file").err().unwrap().to_string();
        assert!(error.starts_with("open "), "{error}");
        assert!(error.contains("nowhere/file"), "{error}");
    }

    #[test]
    fn a_directory_in_use_is_refused_until_its_last_user_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let first = RealDisk::new(root.path()).unwrap();
        let clone = first.clone();
        drop(first);
        let error = RealDisk::new(root.path()).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        drop(clone);
        RealDisk::new(root.path()).unwrap();
    }
}

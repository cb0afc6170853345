//! The disk of the machine.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Disk, DiskError, DiskFile};

/// A directory of the machine's file system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// Everything below `root`, which is created when it is not there.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn new(root: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(|source| {
            DiskError::new("create directory", &root.display().to_string(), source)
        })?;
        Ok(Self { root })
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
                .map_err(failed("preallocate"))?;
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
        fs::create_dir_all(self.path(path)).map_err(self.failed("create directory", path))?;
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

    fn sync(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(self.failed("sync"))
    }
}

//! Whether the data directory can be used at all.

use std::fs;
use std::io;
use std::path::Path;

use replica::disk::create_dirs;
use rustix::fs::{Access, access};

use super::StartError;

/// Creates the data directory if it is missing, like the disk: what creates it decides
/// which users may read it, and has to make its name durable. What fails here would fail
/// later too, with the path of a file inside that an operator has never seen.
pub(super) fn use_data_directory(path: &Path) -> Result<(), StartError> {
    let usable = create_dirs(path)
        .and_then(|()| fs::read_dir(path).map(drop))
        .and_then(|()| {
            let needed = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
            access(path, needed).map_err(io::Error::from)
        });
    usable.map_err(|source| StartError::DataDirectory {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_directory_that_is_created_is_for_its_user_only() {
        let parent = tempfile::tempdir().unwrap();
        let data = parent.path().join("new/data");
        use_data_directory(&data).unwrap();
        for dir in [data.parent().unwrap(), &data] {
            let mode = fs::metadata(dir).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", dir.display());
        }
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_named_as_configured() {
        let parent = tempfile::tempdir().unwrap();
        let data = parent.path().join("new/data");
        assert!(use_data_directory(&data).is_ok() && data.is_dir());
        let file = parent.path().join("file");
        fs::write(&file, "no directory").unwrap();
        for path in [file.clone(), file.join("data")] {
            let error = use_data_directory(&path).unwrap_err().to_string();
            let expected = format!(
                "the data directory {} (storage.path) cannot",
                path.display()
            );
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}

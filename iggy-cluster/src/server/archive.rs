//! The diagnostic archive that a client may request: text files in a ZIP archive.

use std::fmt::Write as _;
use std::fs;
use std::io::{Cursor, Write as _};
use std::path::Path;

use adapters::Printable;
use adapters::metadata::code;
use adapters::wire::ArchiveSection;
use bytes::Bytes;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::Server;
use crate::cluster::Failure;
use crate::log_lines;

/// A larger archive is not sent.
const ARCHIVE_BYTES_MAX: usize = 64 << 20;
/// The most files that are listed.
const FILES_MAX: usize = 10_000;

impl Server {
    /// Creates the archive; only one at a time. Sources that cannot be read are left out.
    pub(super) async fn archive(&self, sections: &[ArchiveSection]) -> Result<Bytes, Failure> {
        let failed = Failure::Refused(code::SNAPSHOT_FAILED);
        let _one_at_a_time = self.archiving.try_lock().map_err(|_| failed)?;
        let status = self.metadata.log.status().await;
        let config = self.config.to_toml().unwrap_or_default();
        let data = self.config.storage.path.clone();
        let sections = sections.to_vec();
        let packed = tokio::task::spawn_blocking(move || {
            let texts = sections.iter().map(|section| {
                let text = match section {
                    ArchiveSection::Filesystem => filesystem(&data),
                    ArchiveSection::Processes => processes(),
                    ArchiveSection::Resources => {
                        let mut text = resources();
                        let _ = writeln!(text, "== replica\n{status:#?}");
                        text
                    }
                    ArchiveSection::Test => "test\n".to_owned(),
                    ArchiveSection::Logs => log_lines::recent(),
                    ArchiveSection::Config => config.clone(),
                };
                (name(*section), text)
            });
            pack(texts)
        });
        match packed.await {
            Ok(Some(archive)) if archive.len() <= ARCHIVE_BYTES_MAX => Ok(archive.into()),
            _ => Err(failed),
        }
    }
}

/// The names that Iggy's own server uses.
fn name(section: ArchiveSection) -> &'static str {
    match section {
        ArchiveSection::Filesystem => "filesystem_overview.txt",
        ArchiveSection::Processes => "process_list.txt",
        ArchiveSection::Resources => "resource_usage.txt",
        ArchiveSection::Test => "test.txt",
        ArchiveSection::Logs => "server_logs.txt",
        ArchiveSection::Config => "server_config.txt",
    }
}

fn pack(texts: impl Iterator<Item = (&'static str, String)>) -> Option<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, text) in texts {
        zip.start_file(name, stored).ok()?;
        zip.write_all(text.as_bytes()).ok()?;
    }
    Some(zip.finish().ok()?.into_inner())
}

/// The files of the data directory, with their sizes.
fn filesystem(data: &Path) -> String {
    let mut text = String::new();
    let mut files = 0;
    let mut dirs = vec![data.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => dirs.push(path),
                Ok(metadata) if files < FILES_MAX => {
                    files += 1;
                    let path = path.to_string_lossy();
                    let _ = writeln!(text, "{:>14} {}", metadata.len(), Printable(&path));
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    if files == FILES_MAX {
        text.push_str("and more\n");
    }
    text
}

/// Process ids, resident memory in KiB, and command lines.
fn processes() -> String {
    let mut text = String::new();
    let Ok(entries) = fs::read_dir("/proc") else {
        return text;
    };
    let pids = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.parse::<u32>().ok()
    });
    for pid in pids {
        let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        let command = of("cmdline").unwrap_or_default().replace('\0', " ");
        let command = match command.trim() {
            "" => of("comm").unwrap_or_default().trim().to_owned(),
            command => command.to_owned(),
        };
        let status = of("status").unwrap_or_default();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap_or("0");
        let command = Printable(&command);
        let _ = writeln!(text, "{pid:>8} {resident:>10} {command}");
    }
    text
}

fn resources() -> String {
    let mut text = String::new();
    for path in [
        "/proc/self/status",
        "/proc/self/io",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/pressure/cpu",
        "/proc/pressure/io",
        "/proc/pressure/memory",
    ] {
        if let Ok(content) = fs::read_to_string(path) {
            let _ = writeln!(text, "== {path}\n{content}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_its_texts_as_they_are() {
        let texts = [("a.txt", "first\n".to_owned()), ("b.txt", String::new())];
        let packed = pack(texts.into_iter()).unwrap();
        let mut archive = zip::ZipArchive::new(Cursor::new(packed)).unwrap();
        assert_eq!(archive.len(), 2);
        let first = archive.by_name("a.txt").unwrap();
        assert_eq!(std::io::read_to_string(first).unwrap(), "first\n");
    }

    #[test]
    fn the_archive_describes_this_process_and_its_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/file"), [0; 77]).unwrap();
        fs::write(dir.path().join("clear\u{1b}[2J"), []).unwrap();
        let text = filesystem(dir.path());
        assert!(
            text.contains("77 ") && text.contains("below/file"),
            "{text}"
        );
        assert!(text.contains("clear\\u{1b}[2J"), "{text}");
        let me = std::process::id().to_string();
        let listed = processes();
        assert!(listed.lines().any(|line| line.trim().starts_with(&me)));
        assert!(resources().contains("VmRSS"));
    }
}

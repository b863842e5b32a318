//! Reading the files that settings name.
//!
//! A path may be a slip of the pen: of a device that never ends, or of a capture of gigabytes. So
//! there is one way to read a file for all settings, and it has a bound.
//!
//! Invariant: no path costs more memory than its bound.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

/// The longest file of settings that is read, in MiB: far more than any has.
const LONGEST: u64 = 16;

/// Reads a file of settings, or a pipe such as a shell makes of `<(command)`.
///
/// # Errors
/// It can't be read, is of another kind, or is too long.
pub(crate) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_bounded(open(path)?, LONGEST)
}

/// Opens a file or a pipe.
///
/// # Errors
/// It can't be opened, or is of another kind.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() && !kind.is_fifo() {
        return Err(io::Error::other("it is a device or a socket; name a regular file"));
    }
    File::open(path)
}

/// [`read_file`] for text.
///
/// # Errors
/// Those of [`read_file`], and that it is not UTF-8.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_file(path)?).map_err(|_| io::Error::other("it is not valid UTF-8"))
}

/// Reads a source to its end.
///
/// # Errors
/// It can't be read, or is longer than a number of MiB.
pub(crate) fn read_bounded(source: impl Read, mebibytes: u64) -> io::Result<Vec<u8>> {
    let (mut bytes, longest) = (Vec::new(), mebibytes << 20);
    source.take(longest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest {
        return Err(io::Error::other(format!("it is longer than {mebibytes} MiB")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_refused() {
        let error = |path: &str| read_file(Path::new(path)).unwrap_err().to_string();
        assert_eq!(error("/dev/zero"), "it is a device or a socket; name a regular file");
        assert_eq!(error("/dev"), "is a directory");
        assert_eq!(read_bounded(io::repeat(b'#'), 3).unwrap_err().to_string(), "it is longer than 3 MiB");
        let long = tempfile::NamedTempFile::new().unwrap();
        long.as_file().set_len((LONGEST << 20) + 1).unwrap();
        assert_eq!(read_file(long.path()).unwrap_err().to_string(), "it is longer than 16 MiB");
        long.as_file().set_len(LONGEST << 20).unwrap();
        assert_eq!(read_file(long.path()).unwrap().len() as u64, LONGEST << 20);
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"secret").unwrap();
        drop(writer);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(read_text(Path::new(&path)).unwrap(), "secret");
    }
}

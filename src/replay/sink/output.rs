//! A file that is there as a whole or not at all, or standard output.

use std::fs::Permissions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{env, fs};

use tempfile::NamedTempFile;

use super::SinkError;

/// How much is handed to the system at a time.
const BUFFER: usize = 1 << 20;

/// Where to write: a file, or `-` for standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

impl FromStr for Target {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "-" { Self::Stdout } else { Self::File(text.into()) })
    }
}

impl Target {
    /// The folder for what is kept meanwhile: beside the file, where there has to be room anyway.
    pub(super) fn folder(&self) -> PathBuf {
        match self {
            Self::File(path) => folder_of(path),
            Self::Stdout => env::temp_dir(),
        }
    }

    /// An error of writing there.
    pub(super) fn error(&self, source: io::Error) -> SinkError {
        match self {
            Self::File(path) => SinkError::Write { path: path.clone(), source },
            Self::Stdout => SinkError::Stdout(source),
        }
    }
}

/// The folder that a file is in, or will be.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// What is being written.
pub(super) struct Output {
    target: Target,
    writer: BufWriter<Kind>,
}

enum Kind {
    /// Takes the file's name at the end.
    Temporary(NamedTempFile),
    /// A pipe or a device, whose place nothing else may take.
    Special(fs::File),
    Stdout(io::Stdout),
}

impl Write for Kind {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Temporary(file) => file.write(bytes),
            Self::Special(file) => file.write(bytes),
            Self::Stdout(stdout) => stdout.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Temporary(file) => file.flush(),
            Self::Special(file) => file.flush(),
            Self::Stdout(stdout) => stdout.flush(),
        }
    }
}

impl Output {
    /// Begins; a folder that is not there or can't be written shows at once.
    pub(super) fn create(target: Target) -> Result<Self, SinkError> {
        let kind = match &target {
            Target::Stdout => Kind::Stdout(io::stdout()),
            Target::File(path) => match fs::metadata(path) {
                Ok(found) if found.is_dir() => {
                    return Err(target.error(io::ErrorKind::IsADirectory.into()));
                }
                Ok(found) if !found.is_file() => {
                    let file = fs::OpenOptions::new().write(true).open(path);
                    Kind::Special(file.map_err(|error| target.error(error))?)
                }
                _ => {
                    // What the umask leaves of it, as for any other file.
                    let made = tempfile::Builder::new()
                        .prefix(".callsight-")
                        .permissions(Permissions::from_mode(0o666))
                        .tempfile_in(folder_of(path));
                    Kind::Temporary(made.map_err(|error| target.error(error))?)
                }
            },
        };
        Ok(Self { target, writer: BufWriter::with_capacity(BUFFER, kind) })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.writer.write_all(bytes).map_err(|error| self.target.error(error))
    }

    /// All is written: the file takes its place.
    pub(super) fn complete(self) -> Result<(), SinkError> {
        let Self { target, writer } = self;
        let kind = writer.into_inner().map_err(|error| target.error(error.into_error()))?;
        match (kind, &target) {
            (Kind::Temporary(file), Target::File(path)) => {
                file.persist(path).map(drop).map_err(|error| target.error(error.error))
            }
            (mut other, _) => other.flush().map_err(|error| target.error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let entries = || fs::read_dir(folder.path()).unwrap().count();
        let mut output = Output::create(Target::File(path.clone())).unwrap();
        output.write(b"half").unwrap();
        drop(output);
        assert_eq!(entries(), 0);

        let mut output = Output::create(Target::File(path.clone())).unwrap();
        output.write(b"whole").unwrap();
        assert!(!path.exists());
        output.complete().unwrap();
        assert_eq!((fs::read(&path).unwrap(), entries()), (b"whole".to_vec(), 1));
    }

    #[test]
    fn a_device_keeps_its_place() {
        let mut output = Output::create(Target::File("/dev/null".into())).unwrap();
        output.write(b"nothing").unwrap();
        output.complete().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_folder_that_is_not_there_shows_at_once() {
        for path in ["/no/such/folder/out", "/"] {
            let error = Output::create(Target::File(path.into())).err().unwrap().to_string();
            assert!(error.starts_with(&format!("cannot write `{path}`")), "{error}");
        }
    }
}

//! A file that is there as a whole or not at all, or standard output.
//!
//! Invariant: until the output is complete, a file of that name is what it was before.

use std::fs::Permissions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{env, fs};

use tempfile::TempPath;

use super::SinkError;

const BUFFER: usize = 1 << 20;

/// Where to write: a file, or `-` for standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    File(PathBuf),
    Stdout,
}

impl FromStr for Target {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "-" { Self::Stdout } else { Self::File(text.into()) })
    }
}

impl Target {
    /// The folder for temporary files: beside the output, where there has to be room anyway.
    pub(super) fn folder(&self) -> PathBuf {
        match self {
            Self::File(path) => folder_of(path).to_owned(),
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

    /// What a sink says when it has finished; nothing of standard output, which may be read by a
    /// program.
    pub(super) fn said(&self, what: &str) -> Vec<String> {
        match self {
            Self::File(path) => vec![format!("{}: {what}", path.display())],
            Self::Stdout => Vec::new(),
        }
    }
}

/// The folder of a file that need not exist.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An output that is being written.
pub(super) struct Output {
    pub(super) target: Target,
    writer: BufWriter<Box<dyn Write + Send>>,
    /// The file until it is complete. Standard output, pipes and devices are written directly.
    temporary: Option<TempPath>,
}

impl Output {
    /// Opens the output. Fails at once if it can't be written.
    pub(super) fn create(target: Target) -> Result<Self, SinkError> {
        let (writer, temporary) = open(&target).map_err(|error| target.error(error))?;
        Ok(Self { target, writer: BufWriter::with_capacity(BUFFER, writer), temporary })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.writer.write_all(bytes).map_err(|error| self.target.error(error))
    }

    /// Flushes, and gives the file its name. Returns where it was written to.
    pub(super) fn complete(self) -> Result<Target, SinkError> {
        let Self { target, mut writer, temporary } = self;
        writer.flush().map_err(|error| target.error(error))?;
        if let (Some(temporary), Target::File(path)) = (temporary, &target) {
            temporary.persist(path).map_err(|error| target.error(error.error))?;
        }
        Ok(target)
    }
}

fn open(target: &Target) -> io::Result<(Box<dyn Write + Send>, Option<TempPath>)> {
    let Target::File(path) = target else { return Ok((Box::new(io::stdout()), None)) };
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if !found.is_file() => Ok((Box::new(fs::OpenOptions::new().write(true).open(path)?), None)),
        _ => {
            let mut builder = tempfile::Builder::new();
            // The umask applies, as to any other file.
            let builder = builder.prefix(".callsight-").permissions(Permissions::from_mode(0o666));
            let (file, temporary) = builder.tempfile_in(folder_of(path))?.into_parts();
            Ok((Box::new(file), Some(temporary)))
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

//! A disk that forgets what was not synced when the power is cut.
//!
//! SIGKILL leaves the page cache, so a killed server loses nothing that it wrote, synced or not. A
//! cut of power loses the page cache too, but a test can't cut the machine's, and a file system of
//! its own would need root. So the server runs under a seccomp filter, which any user may install:
//! each `fsync`, `fdatasync` and `close` waits until a thread here has noted what the file holds.
//! After a cut, the folder is filled with what was noted, and with nothing else.
//!
//! The disk is a bad one that keeps its promises. Content is kept as it was at the file's last
//! sync, or at its end if each write was synchronous (`O_SYNC`). A name is kept once its file or
//! its folder was synced, and a removed name returns unless its folder was synced afterwards.
//!
//! Invariant: a server that runs again finds exactly what it had asked to be synced.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::process::Process;

/// What the server asks of its disk; each has the file as its first argument.
const WATCHED: [libc::c_long; 3] = [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_close];

/// The disk under a folder, while a server runs on it.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    watch: JoinHandle<Image>,
}

impl Disk {
    /// Starts a program whose files are in a folder. What is there already is on the disk.
    pub(crate) fn spawn(root: &Path, name: &str, command: &mut Command) -> (Process, Self) {
        let root = root.canonicalize().unwrap();
        let mut image = Image::default();
        image.note_all(&root);
        let (here, there) = UnixStream::pair().unwrap();
        #[expect(unsafe_code, reason = "the standard library has no safe way to run code after a fork")]
        // SAFETY: only system calls, on memory of the stack.
        unsafe {
            command.pre_exec(move || send(&there, listen()?));
        }
        let process = Process::spawn(name, command);
        let listener = receive(&here);
        let watched = root.clone();
        let watch = thread::spawn(move || {
            watch(&listener, &watched, &mut image)
                .unwrap_or_else(|error| panic!("can't follow what is synced: {error}"));
            image
        });
        (process, Self { root, watch })
    }

    /// Leaves in the folder what was synced. The server must be gone.
    pub(crate) fn forget(self) {
        let image = self.watch.join().unwrap();
        fs::remove_dir_all(&self.root).unwrap();
        fs::create_dir(&self.root).unwrap();
        for (path, file) in &image.names {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, image.contents.get(file).map_or(&[][..], Vec::as_slice)).unwrap();
        }
    }
}

/// A file whatever its name: its number, and its birth, since numbers are used again.
type FileId = (u64, Option<SystemTime>);

fn id(metadata: &Metadata) -> FileId {
    (metadata.ino(), metadata.created().ok())
}

/// What is on the disk for certain.
#[derive(Debug, Default)]
struct Image {
    contents: HashMap<FileId, Vec<u8>>,
    names: BTreeMap<PathBuf, FileId>,
}

impl Image {
    fn note_all(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.note_all(&path);
            } else {
                let file = id(&fs::metadata(&path).unwrap());
                self.contents.insert(file, fs::read(&path).unwrap());
                self.names.insert(path, file);
            }
        }
    }

    fn file_synced(&mut self, path: PathBuf, file: FileId, content: Vec<u8>) {
        // Where it was renamed from, it is no longer.
        self.names.retain(|name, known| *known != file || name.exists());
        self.names.insert(path, file);
        self.contents.insert(file, content);
    }

    fn folder_synced(&mut self, folder: &Path) {
        self.names.retain(|name, _| name.parent() != Some(folder));
        // Files may come and go meanwhile: what is gone has no name to keep.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if let Ok(metadata) = entry.metadata()
                && metadata.is_file()
            {
                self.names.insert(entry.path(), id(&metadata));
            }
        }
    }
}

/// Notes what is synced until the server is gone.
fn watch(listener: &OwnedFd, root: &Path, image: &mut Image) -> io::Result<()> {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if !ready[0].revents().contains(PollFlags::IN) {
            return Ok(());
        }
        // None if the server was killed, or interrupted, before it could be heard.
        let Some(call) = next_call(listener)? else { continue };
        let descriptor = call.data.args[0];
        // The number of an open file, or any other number: nothing is known of that.
        let file = format!("/proc/{}/fd/{descriptor}", call.pid);
        if let Ok(path) = fs::read_link(&file)
            && path.starts_with(root)
        {
            let info = format!("/proc/{}/fdinfo/{descriptor}", call.pid);
            // A file that the server, killed meanwhile, no longer has was not synced either.
            let _ = note(image, i64::from(call.data.nr), path, &file, &info);
        }
        go_on(listener, call.id)?;
    }
}

fn note(image: &mut Image, call: libc::c_long, path: PathBuf, file: &str, info: &str) -> io::Result<()> {
    let metadata = fs::metadata(file)?;
    match call {
        libc::SYS_close if metadata.is_file() && is_synchronous(&fs::read_to_string(info)?) => {
            image.contents.insert(id(&metadata), fs::read(file)?);
        }
        libc::SYS_close => {}
        _ if metadata.is_dir() => image.folder_synced(&path),
        _ => image.file_synced(path, id(&metadata), fs::read(file)?),
    }
    Ok(())
}

/// Whether each write to a file waits for the disk; from the kernel's flags, which are octal.
fn is_synchronous(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_DSYNC != 0)
}

/// Stops this process, and what it becomes, in each of [`WATCHED`] until the listener lets it go
/// on.
#[expect(unsafe_code, reason = "no crate of the tree offers seccomp")]
fn listen() -> io::Result<OwnedFd> {
    let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        #[expect(clippy::cast_possible_truncation, reason = "codes have 16 bits")]
        code: code as u16,
        jt,
        jf,
        k,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 1,000")]
    let [first, second, third] = WATCHED.map(|call| call as u32);
    let (load, equal, answer) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    );
    // The number of the call comes first in what a filter sees.
    let mut filter = [
        op(load, 0, 0, 0),
        op(equal, first, 3, 0),
        op(equal, second, 2, 0),
        op(equal, third, 1, 0),
        op(answer, libc::SECCOMP_RET_ALLOW, 0, 0),
        op(answer, libc::SECCOMP_RET_USER_NOTIF, 0, 0),
    ];
    #[expect(clippy::cast_possible_truncation, reason = "six")]
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // Without this, only root may install a filter.
    rustix::thread::set_no_new_privs(true)?;
    // SAFETY: the kernel copies the filter, and returns a new descriptor, which nobody else has.
    unsafe {
        let listener = libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        );
        match i32::try_from(listener) {
            Ok(listener) if listener >= 0 => Ok(OwnedFd::from_raw_fd(listener)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Hands a descriptor to another process. Does not allocate: it runs after a fork.
fn send(socket: &UnixStream, descriptor: OwnedFd) -> io::Result<()> {
    let descriptors: [BorrowedFd<'_>; 1] = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(b"f")], &mut control, SendFlags::empty())?;
    // Closing it would wait for the listener, which has not begun; the new program closes it.
    std::mem::forget(descriptor);
    Ok(())
}

fn receive(socket: &UnixStream) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.unwrap()
}

#[expect(unsafe_code, reason = "no crate of the tree offers seccomp")]
fn next_call(listener: &OwnedFd) -> io::Result<Option<libc::seccomp_notif>> {
    // SAFETY: numbers only, which may be zero, and which the kernel wants to be.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in a structure of this type.
    match unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) } {
        0 => Ok(Some(call)),
        _ => gone(io::Error::last_os_error()).map(|()| None),
    }
}

/// Lets a call happen.
#[expect(unsafe_code, reason = "no crate of the tree offers seccomp")]
fn go_on(listener: &OwnedFd, id: u64) -> io::Result<()> {
    #[expect(clippy::cast_possible_truncation, reason = "1")]
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let mut answer = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    // SAFETY: the kernel reads a structure of this type.
    match unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) } {
        0 => Ok(()),
        _ => gone(io::Error::last_os_error()),
    }
}

/// Whoever called may be killed, or interrupted by a signal and call again.
fn gone(error: io::Error) -> io::Result<()> {
    let gone = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR));
    if gone { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;
    use crate::process::temporary_directory;
    use crate::wait::PATIENCE;

    /// Runs Python's `os` calls in a folder that has `old`, and returns what is there after a cut.
    fn after_a_cut(program: &str) -> Vec<(String, String)> {
        let folder = temporary_directory();
        fs::write(folder.path().join("old"), "old").unwrap();
        let mut command = Command::new("python3");
        let prelude = "import os\ndef put(name, text, flags=0):\n f = os.open(name, os.O_WRONLY|os.O_CREAT|flags)\n \
                       os.write(f, text)\n return f\ndef folder(): return os.open('.', os.O_RDONLY)\n";
        command.args(["-c", &format!("{prelude}{program}")]).current_dir(folder.path()).stdin(Stdio::null());
        let (mut process, disk) = Disk::spawn(folder.path(), "python3", &mut command);
        let status = process.ended(PATIENCE);
        assert!(status.success(), "{}", process.output());
        disk.forget();
        let mut files: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    #[track_caller]
    fn leaves(program: &str, expected: &[(&str, &str)]) {
        let left = after_a_cut(program);
        let left: Vec<_> = left.iter().map(|(name, text)| (&**name, &**text)).collect();
        assert_eq!(left, expected, "{program}");
    }

    #[test]
    fn what_was_synced_is_there_and_nothing_else_is() {
        leaves("os.close(put('new', b'new'))", &[("old", "old")]);
        leaves("f = put('new', b'new'); os.fsync(f); os.write(f, b'er')", &[("new", "new"), ("old", "old")]);
        leaves("f = put('new', b'new'); os.fdatasync(f)", &[("new", "new"), ("old", "old")]);
        leaves("put('old', b'OLDER')", &[("old", "old")]);
    }

    #[test]
    fn names_are_those_of_the_last_sync_of_their_folder() {
        leaves("os.unlink('old')", &[("old", "old")]);
        leaves("os.unlink('old'); os.fsync(folder())", &[]);
        leaves("os.rename('old', 'new'); os.fsync(folder())", &[("new", "old")]);
        leaves("put('new', b'new'); os.fsync(folder())", &[("new", ""), ("old", "old")]);
        let replaced = "os.close(put('tmp', b'new', os.O_SYNC)); os.rename('tmp', 'old')";
        leaves(replaced, &[("old", "old")]);
        leaves(&format!("{replaced}; os.fsync(folder())"), &[("old", "new")]);
        leaves(
            "f = put('a', b'a'); os.fsync(f); os.rename('a', 'b'); os.fsync(f)",
            &[("b", "a"), ("old", "old")],
        );
    }
}

//! A child process that can't outlive its test, and what it uses of the machine.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use tempfile::TempDir;

use crate::wait;

/// How much of the log a failed test shows.
const TAIL_LINES: usize = 40;

/// A running child, its standard output and error in one file.
///
/// Dropped, it is killed and waited for; dropped while its test panics, it shows the end of its
/// log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    directory: TempDir,
}

impl Process {
    /// Starts a command; the name is for messages.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        let directory = temporary_directory();
        let output = File::create(log(&directory)).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("can't start {name}: {error}"));
        Self { name: name.to_owned(), child, directory }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(log(&self.directory)).unwrap()).into_owned()
    }

    /// The status it ended with, or `None` while it runs.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends SIGKILL and returns once the process is gone.
    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGSTOP: alive, connected and silent, as in a long pause or behind a dead link.
    /// Returns once all of its threads are stopped, which takes a while on a busy machine.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        wait::eventually(wait::PATIENCE, "the process to stop", || {
            wait::when(self.thread_states(), |states| states.chars().all(|state| state == 'T'))
        });
    }

    /// The kernel's state letters, one per thread: `T` is stopped.
    fn thread_states(&self) -> String {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let stats = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        stats.filter_map(|stat| stat.rsplit(") ").next()?.chars().next()).collect()
    }

    /// Sends SIGCONT, after [`Self::stop`].
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Lets it write no file any more, as on a full disk, or again. Its log stops too.
    ///
    /// The kernel refuses to grow files beyond a size, which any user may tell it; the error is
    /// another one than a full disk's.
    pub fn limit_files(&self, full: bool) {
        let own = getrlimit(Resource::Fsize);
        let limit = Rlimit { current: if full { Some(0) } else { own.current }, ..own };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Fsize, limit)
            .unwrap_or_else(|error| panic!("can't limit the files of {}: {error}", self.name));
    }

    /// Sends SIGUSR2, which tells a nats-server to send its clients elsewhere and end, and returns
    /// once it has.
    pub fn drain(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::USR2);
        self.ended(deadline)
    }

    /// Sends SIGTERM and returns the exit status; panics if it has not ended by the deadline.
    pub fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended(deadline)
    }

    /// Sends SIGUSR2 and returns the exit status; panics if it has not ended by the deadline.
    pub(crate) fn lame_duck(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::USR2);
        self.ended(deadline)
    }

    /// Waits until the log contains a text.
    ///
    /// # Errors
    ///
    /// The exit status and the log, if it ends instead.
    pub fn wait_until_logged(&mut self, text: &str) -> Result<(), String> {
        let what = format!("{} to log {text:?}", self.name);
        wait::eventually(wait::PATIENCE, &what, || {
            if let Some(status) = self.exited() {
                return Ok(Err(format!("{status}\n{}", self.output())));
            }
            wait::when(self.output(), |output| output.contains(text)).map(|_| Ok(()))
        })
    }

    /// Waits for it to end by itself.
    pub fn ended(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} (process {}) to end", self.name, self.id());
        wait::eventually(deadline, &what, || self.exited().ok_or("still running"))
    }

    /// The processor time that it has used, in the kernel's resolution of 10 ms.
    pub fn cpu_time(&self) -> Duration {
        cpu_time(&self.id().to_string())
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> usize {
        memory(&self.id().to_string(), "VmRSS:")
    }

    /// The peak of its resident memory since [`Self::forget_peak`], in bytes.
    pub fn peak(&self) -> usize {
        memory(&self.id().to_string(), "VmHWM:")
    }

    /// Starts the measurement of [`Self::peak`] anew.
    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.id()), "5").unwrap();
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap().count()
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.id())).unwrap().count()
    }

    /// Sends nothing once the child has been waited for, since its id may be reused by then.
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal)
            .unwrap_or_else(|error| panic!("can't signal {}: {error}", self.name));
    }

    fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Neither can fail in a way that matters here: it has already ended, or ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the test has failed, and this is why")]
            {
                eprintln!("--- end of the log of {} ({}) ---\n{}\n---", self.name, self.id(), self.tail());
            }
        }
    }
}

fn log(directory: &TempDir) -> PathBuf {
    directory.path().join("log")
}

/// The processor time that a process has used, by its id or `self`.
pub fn cpu_time(process: &str) -> Duration {
    /// The kernel's unit here, on every Linux of today.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// A line of the memory of a process in bytes, by its id or `self`: `VmRSS:` or `VmHWM:`.
pub fn memory(process: &str, line: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let value = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    value.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Runs a command to its end, within the deadline, with `input` as its standard input.
pub fn run(command: &mut Command, input: &str, deadline: Duration) -> Output {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("can't start {name}: {error}"));
    let pid = Pid::from_child(&child);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A child that reads none of its input is no reason to fail, and closes its end of the pipe.
    thread::spawn(move || stdin.write_all(input.as_bytes()));

    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    receiver.recv_timeout(deadline).map(Result::unwrap).unwrap_or_else(|_| {
        let _ = kill_process(pid, Signal::KILL);
        panic!("{name} has not ended within {deadline:?}")
    })
}

/// A folder for one server's files, in cargo's own, so that even a killed test run litters nothing
/// else.
pub fn temporary_directory() -> TempDir {
    // A test program is target/PROFILE/deps/NAME, and CARGO_TARGET_TMPDIR is target/tmp.
    let program = std::env::current_exe().unwrap();
    let folder = program.ancestors().nth(3).unwrap().join("tmp");
    fs::create_dir_all(&folder).unwrap();
    tempfile::tempdir_in(folder).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn dies_with_its_guard_even_when_stopped() {
        let process = Process::spawn("sleeper", &mut shell("exec sleep 600"));
        let entry = format!("/proc/{}", process.id());
        process.stop();
        assert_eq!(process.thread_states(), "T");
        drop(process);
        assert!(!Path::new(&entry).exists());
    }

    #[test]
    fn stops_goes_on_and_ends_when_asked() {
        let script = "trap 'echo bye; exit 3' TERM; echo up; echo err >&2; while :; do sleep 0.05; done";
        let mut process = Process::spawn("polite", &mut shell(script));
        wait::eventually(wait::PATIENCE, "both outputs", || {
            wait::when(process.output(), |output| output == "up\nerr\n")
        });
        process.stop();
        assert_eq!(process.thread_states(), "T");
        process.cont();
        assert_eq!(process.terminate(wait::PATIENCE).code(), Some(3));
        assert!(process.output().ends_with("bye\n"));
        assert!(process.directory.path().exists());
    }

    #[test]
    fn runs_a_command_with_input() {
        let output = run(&mut shell("cat; exit 4"), "in and out", wait::PATIENCE);
        assert_eq!((output.status.code(), &*output.stdout), (Some(4), &b"in and out"[..]));
    }

    #[test]
    #[should_panic(expected = "has not ended within")]
    fn gives_up_on_a_command_that_hangs() {
        run(&mut shell("exec sleep 600"), "", Duration::from_millis(50));
    }
}

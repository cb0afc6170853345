//! The processes of one cluster: started, stopped, killed and observed.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::temporary::OwnedDirectory;
use crate::{Ports, ProcessError, cpu_time, memory_bytes, open_files};

/// Between two checks whether a process has ended.
const POLL: Duration = Duration::from_millis(10);
/// The lines that [`Processes::last_lines`] returns.
const LAST_LINES: usize = 20;

/// A program that runs one node: `BINARY ARGUMENTS... --config FILE --replica-id N`,
/// with the data directory in the variable `IGGY_STORAGE_PATH`.
#[derive(Clone, Debug)]
pub struct Program {
    /// The path of the binary.
    pub binary: PathBuf,
    /// The first arguments.
    pub arguments: Vec<OsString>,
    /// Variables added to the environment of this process.
    pub environment: Vec<(OsString, OsString)>,
    /// Whether each node is in a process group of its own, which the terminal's Ctrl-C
    /// does not reach. The caller then stops the nodes on Ctrl-C.
    pub own_process_group: bool,
    /// Whether each node has a pipe as its standard input, which nothing is written to. It
    /// ends with this process, also when that is killed; a node that watches it can then
    /// stop.
    pub ends_with_input: bool,
}

impl Program {
    /// A program with these first arguments, the environment of this process and its
    /// process group.
    #[must_use]
    pub fn new<A: Into<OsString>>(
        binary: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            binary: binary.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            own_process_group: false,
            ends_with_input: false,
        }
    }
}

/// The processes of one cluster. Nodes have the numbers 0, 1, 2, ... which are their
/// replica ids. Dropping it kills the processes.
pub struct Processes {
    program: Program,
    ports: Vec<Ports>,
    directory: PathBuf,
    /// Removes the directory at the end, where it is a temporary one.
    _temporary: Option<OwnedDirectory>,
    children: Vec<Option<Child>>,
}

impl Processes {
    /// A cluster with one node for each of these ports, in a temporary directory. No
    /// node is started. All nodes read a file with the text `config`.
    ///
    /// # Errors
    /// When the directory or the configuration file cannot be written.
    pub fn new(program: Program, ports: Vec<Ports>, config: &str) -> Result<Self, ProcessError> {
        let temporary = OwnedDirectory::new()?;
        let directory = temporary.path().to_path_buf();
        Self::create(program, ports, config, directory, Some(temporary))
    }

    /// The same in a directory that stays, and may hold the data of an earlier run.
    ///
    /// # Errors
    /// The same.
    pub fn in_directory(
        program: Program,
        ports: Vec<Ports>,
        config: &str,
        directory: impl Into<PathBuf>,
    ) -> Result<Self, ProcessError> {
        Self::create(program, ports, config, directory.into(), None)
    }

    fn create(
        program: Program,
        ports: Vec<Ports>,
        config: &str,
        directory: PathBuf,
        temporary: Option<OwnedDirectory>,
    ) -> Result<Self, ProcessError> {
        fs::create_dir_all(&directory).map_err(ProcessError::io("cannot create", &directory))?;
        let processes = Self {
            program,
            children: ports.iter().map(|_| None).collect(),
            ports,
            directory,
            _temporary: temporary,
        };
        let file = processes.config_file();
        fs::write(&file, config).map_err(ProcessError::io("cannot write", &file))?;
        Ok(processes)
    }

    /// Starts every node that is not running.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn start_all(&mut self) -> Result<(), ProcessError> {
        for node in self.nodes() {
            if self.pid(node).is_none() {
                self.start(node)?;
            }
        }
        Ok(())
    }

    /// Starts a node that is not running. Its output is appended to its log file.
    ///
    /// # Errors
    /// When the process cannot be started, or was started already and neither killed nor
    /// forgotten since.
    pub fn start(&mut self, node: u8) -> Result<(), ProcessError> {
        if self.pid(node).is_some() {
            return Err(ProcessError::Running(node));
        }
        let data = self.data(node);
        // As a node creates it: for its user only.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&data)
            .map_err(ProcessError::io("cannot create", &data))?;
        let path = self.log_file(node);
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(ProcessError::io("cannot write", &path))?;
        let output = log
            .try_clone()
            .map_err(ProcessError::io("cannot write", &path))?;
        let mut command = Command::new(&self.program.binary);
        command
            .args(&self.program.arguments)
            .args(["--replica-id", &node.to_string(), "--config"])
            .arg(self.config_file())
            .envs(self.program.environment.iter().cloned())
            .env("IGGY_STORAGE_PATH", &data)
            .stdin(match self.program.ends_with_input {
                true => Stdio::piped(),
                false => Stdio::null(),
            })
            .stdout(output)
            .stderr(log);
        if self.program.own_process_group {
            command.process_group(0);
        }
        let child = command
            .spawn()
            .map_err(ProcessError::io("cannot start", &self.program.binary))?;
        self.children[usize::from(node)] = Some(child);
        Ok(())
    }

    /// Kills a node with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&mut self, node: u8) -> Result<(), ProcessError> {
        let mut child = self.children[usize::from(node)]
            .take()
            .ok_or(ProcessError::NotRunning(node))?;
        child
            .kill()
            .and_then(|()| child.wait())
            .map_err(ProcessError::io("cannot kill", &self.program.binary))?;
        Ok(())
    }

    /// Kills a node and starts it again.
    ///
    /// # Errors
    /// When it is not running, or cannot be started.
    pub fn restart(&mut self, node: u8) -> Result<(), ProcessError> {
        self.kill(node)?;
        self.start(node)
    }

    /// Stops all nodes with SIGTERM, and kills those that run longer than `patience`.
    /// Blocks the calling thread until all have ended.
    pub fn stop(&mut self, patience: Duration) {
        for node in self.running().collect::<Vec<_>>() {
            let _ = self.signal(node, Signal::TERM);
        }
        let started = Instant::now();
        while started.elapsed() < patience && self.nodes().any(|node| self.is_running(node)) {
            std::thread::sleep(POLL);
        }
        self.kill_all();
    }

    /// Suspends a node's process with SIGSTOP.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pause(&self, node: u8) -> Result<(), ProcessError> {
        self.signal(node, Signal::STOP)
    }

    /// Continues a process that is suspended.
    ///
    /// # Errors
    /// When it is not running.
    pub fn resume(&self, node: u8) -> Result<(), ProcessError> {
        self.signal(node, Signal::CONT)
    }

    /// Sets the soft limit on open files of a process that runs. Files and connections beyond
    /// it stay open.
    ///
    /// # Errors
    /// When the node is not running, or the limit is above the hard one.
    pub fn limit_open_files(&self, node: u8, files: u64) -> Result<(), ProcessError> {
        let pid = self.raw_pid(node)?;
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let current = Some(files);
        prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum })
            .map(drop)
            .map_err(|errno| ProcessError::io("cannot limit", &self.program.binary)(errno.into()))
    }

    fn raw_pid(&self, node: u8) -> Result<Pid, ProcessError> {
        self.pid(node)
            .and_then(|pid| Pid::from_raw(pid.cast_signed()))
            .ok_or(ProcessError::NotRunning(node))
    }

    fn signal(&self, node: u8, signal: Signal) -> Result<(), ProcessError> {
        let pid = self.raw_pid(node)?;
        kill_process(pid, signal)
            .map_err(|errno| ProcessError::io("cannot signal", &self.program.binary)(errno.into()))
    }

    /// How a node's process ended, when it did so without [`kill`](Self::kill); `None`
    /// while it is running.
    pub fn exit_status(&mut self, node: u8) -> Option<ExitStatus> {
        let child = self.children[usize::from(node)].as_mut()?;
        child.try_wait().ok().flatten()
    }

    /// Drops a process that has ended, so that the node can be started again.
    pub fn forget(&mut self, node: u8) {
        if self.exit_status(node).is_some() {
            self.children[usize::from(node)] = None;
        }
    }

    /// Whether a node's process was started and has not ended.
    pub fn is_running(&mut self, node: u8) -> bool {
        self.pid(node).is_some() && self.exit_status(node).is_none()
    }

    /// The nodes that were started and neither killed nor forgotten.
    pub fn running(&self) -> impl Iterator<Item = u8> + '_ {
        self.nodes().filter(|node| self.pid(*node).is_some())
    }

    /// The numbers of all nodes.
    #[must_use = "iterators are lazy"]
    pub fn nodes(&self) -> std::ops::Range<u8> {
        0..self.ports.len() as u8
    }

    /// A node's ports.
    #[must_use]
    pub fn ports(&self, node: u8) -> Ports {
        self.ports[usize::from(node)]
    }

    /// The directory of the cluster.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The configuration file of all nodes.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.directory.join("cluster.toml")
    }

    /// A node's data directory.
    #[must_use]
    pub fn data(&self, node: u8) -> PathBuf {
        self.directory.join(format!("node-{node}"))
    }

    /// The file with a node's output.
    #[must_use]
    pub fn log_file(&self, node: u8) -> PathBuf {
        self.data(node).join("log")
    }

    /// The last 20 lines of a node's output.
    #[must_use]
    pub fn last_lines(&self, node: u8) -> String {
        let text = fs::read_to_string(self.log_file(node)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    /// A node's process id.
    #[must_use]
    pub fn pid(&self, node: u8) -> Option<u32> {
        self.children[usize::from(node)].as_ref().map(Child::id)
    }

    /// File descriptors that a node's process has open; zero when it is not running.
    #[must_use]
    pub fn open_files(&self, node: u8) -> usize {
        self.pid(node).map_or(0, open_files)
    }

    /// Resident memory of a node's process; zero when it is not running.
    #[must_use]
    pub fn memory_bytes(&self, node: u8) -> u64 {
        self.pid(node).map_or(0, memory_bytes)
    }

    /// Processor time of a node's process, without its children; zero when it is not
    /// running.
    #[must_use]
    pub fn cpu_time(&self, node: u8) -> Duration {
        self.pid(node).map_or(Duration::ZERO, cpu_time)
    }

    fn kill_all(&mut self) {
        for child in self.children.iter_mut().filter_map(Option::take) {
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell in place of a node: `sh -c SCRIPT --replica-id N --config FILE`.
    fn cluster(script: &str, nodes: u8) -> Processes {
        let program = Program::new("/bin/sh", ["-c", script]);
        let ports = crate::free_node_ports(nodes).expect("ports");
        Processes::new(program, ports, "key = 1\n").expect("a directory")
    }

    fn until(mut condition: impl FnMut() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < Duration::from_secs(10), "too late");
            std::thread::sleep(POLL);
        }
    }

    #[test]
    fn a_node_has_the_file_its_number_and_its_directory() {
        let mut processes = cluster("echo $@ $0; cat $3; echo $IGGY_STORAGE_PATH", 2);
        processes.start(1).expect("a process");
        until(|| processes.exit_status(1).is_some());
        let (file, data) = (processes.config_file(), processes.data(1));
        let expected = format!("1 --config {} --replica-id\nkey = 1\n", file.display());
        assert_eq!(
            processes.last_lines(1),
            format!("{expected}{}", data.display())
        );
        assert_eq!(processes.running().collect::<Vec<_>>(), [1]);
        assert!(!processes.is_running(1));
    }

    #[test]
    fn the_input_of_a_node_is_open_while_this_process_runs() {
        let mut processes = cluster("cat; echo ended", 1);
        processes.program.ends_with_input = true;
        processes.start(0).expect("a process");
        assert!(processes.is_running(0));
        // As the end of this process does.
        let child = processes.children[0].as_mut().expect("a process");
        drop(child.stdin.take());
        until(|| processes.exit_status(0).is_some());
        assert_eq!(processes.last_lines(0), "ended");
    }

    #[test]
    fn a_node_that_ignores_sigterm_is_killed() {
        let mut processes = cluster("trap '' TERM; echo ready; while :; do sleep 0.01; done", 1);
        processes.start(0).expect("a process");
        until(|| processes.last_lines(0) == "ready");
        processes.stop(Duration::from_millis(50));
        assert_eq!(processes.running().count(), 0);
    }

    #[test]
    fn a_node_that_runs_is_not_started_twice_nor_forgotten() {
        let mut processes = cluster("exec sleep 60", 1);
        processes.start(0).expect("a process");
        assert!(matches!(processes.start(0), Err(ProcessError::Running(0))));
        processes.forget(0);
        assert!(processes.is_running(0));
        processes.kill(0).expect("it is running");
        assert!(matches!(
            processes.kill(0),
            Err(ProcessError::NotRunning(0))
        ));
    }

    #[test]
    fn ports_of_nodes_differ() {
        let ports = crate::free_node_ports(9).expect("ports");
        let all = ports.iter().flat_map(|p| [p.client, p.replica, p.admin]);
        assert_eq!(all.collect::<std::collections::BTreeSet<_>>().len(), 27);
    }
}

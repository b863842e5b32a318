//! helm and kubectl, as a person would call them.
//!
//! Both know how to reach a cluster, who is who and what a release is; doing that again here would be a second truth.
//! Each call has a deadline and can be interrupted: the tool gets SIGTERM and time to put its own affairs in order,
//! since a helm that is killed leaves a release half way.

use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::fleet::{Address, FleetRegion, Service};
use crate::http_client::Endpoint;

/// How long an interrupted tool may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// How much of what a failed tool said is told.
const TOLD_BYTES: usize = 600;

/// How long it may take until a port is forwarded.
const FORWARD_WITHIN: Duration = Duration::from_secs(20);

/// Until when, and unless somebody says stop.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) deadline: Instant,
    pub(crate) stop: watch::Receiver<bool>,
}

/// Why a step ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CutShort {
    /// Its time was up.
    #[error("timed out")]
    TimedOut,
    /// Somebody sent a signal.
    #[error("interrupted")]
    Interrupted,
}

impl Scope {
    /// Waits for the deadline or the signal.
    async fn end(&self) -> CutShort {
        let mut stop = self.stop.clone();
        let stopped = async {
            if stop.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(self.deadline) => CutShort::TimedOut,
            () = stopped => CutShort::Interrupted,
        }
    }

    /// Runs something that may be dropped at any moment.
    pub(crate) async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, CutShort> {
        tokio::select! {
            done = work => Ok(done),
            cut = self.end() => Err(cut),
        }
    }

    /// What is left of the time.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Why a call of a tool failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// It is not there.
    #[error("cannot start {tool}; put it on PATH")]
    Start {
        /// The program.
        tool: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// It says no.
    #[error("{call} failed ({status}): {said}")]
    Failed {
        /// What was called, without values.
        call: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its error output.
        said: String,
    },
    /// It did not end in time, or was interrupted.
    #[error("{call} {cut}")]
    Cut {
        /// What was called.
        call: String,
        /// Why.
        cut: CutShort,
    },
    /// What it says can't be read.
    #[error("{call} says nothing that can be read: {said}")]
    Unreadable {
        /// What was called.
        call: String,
        /// What it said.
        said: String,
    },
}

/// One region's cluster through the tools.
#[derive(Clone, Debug)]
pub(crate) struct Cluster<'a> {
    pub(crate) region: &'a FleetRegion,
    pub(crate) scope: Scope,
}

/// A release as helm lists it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Release {
    pub(crate) revision: String,
    pub(crate) status: String,
}

impl Cluster<'_> {
    /// `helm` with its context and namespace.
    pub(crate) async fn helm(&self, service: &Service, arguments: &[&str]) -> Result<String, ToolError> {
        let place = ["--kube-context", &self.region.context, "--namespace", &service.namespace];
        self.run("helm", &[arguments, &place].concat()).await
    }

    /// `kubectl` with its context and a namespace.
    pub(crate) async fn kubectl(&self, namespace: &str, arguments: &[&str]) -> Result<String, ToolError> {
        let place = ["--context", &self.region.context, "--namespace", namespace];
        self.run("kubectl", &[&place, arguments].concat()).await
    }

    /// The release of a service, if it is installed.
    pub(crate) async fn release(&self, service: &Service) -> Result<Option<Release>, ToolError> {
        let name = format!("^{}$", service.release);
        let said = self.helm(service, &["list", "--filter", &name, "--output", "json"]).await?;
        let releases: Vec<Release> =
            serde_json::from_str(&said).map_err(|_| unreadable("helm list", &said))?;
        Ok(releases.into_iter().next())
    }

    /// The colour to which the service leads.
    pub(crate) async fn active_colour(&self, service: &Service) -> Result<String, ToolError> {
        let path = "jsonpath={.spec.selector.colour}";
        let what = ["get", "service", &service.release, "--output", path];
        let said = self.kubectl(&service.namespace, &what).await?;
        match said.trim() {
            colour @ ("blue" | "green") => Ok(colour.to_owned()),
            other => Err(unreadable("kubectl get service", other)),
        }
    }

    /// What a colour runs as, `deployment.apps/callsight-blue` or a StatefulSet; none if it doesn't.
    pub(crate) async fn workload(
        &self,
        service: &Service,
        colour: &str,
    ) -> Result<Option<String>, ToolError> {
        let said = self.of_colour(service, colour, "name").await?;
        Ok(said.lines().next().map(str::to_owned))
    }

    /// The image of a colour's exporters; none if it has no workload.
    pub(crate) async fn image(&self, service: &Service, colour: &str) -> Result<Option<String>, ToolError> {
        let path = "jsonpath={.items[*].spec.template.spec.containers[0].image}";
        let said = self.of_colour(service, colour, path).await?;
        Ok(said.split_whitespace().next().map(str::to_owned))
    }

    async fn of_colour(&self, service: &Service, colour: &str, output: &str) -> Result<String, ToolError> {
        let selector = format!(
            "app.kubernetes.io/instance={},app.kubernetes.io/component=exporter,colour={colour}",
            service.release
        );
        let kinds = "deployment,statefulset";
        let what = ["get", kinds, "--selector", &selector, "--output", output];
        self.kubectl(&service.namespace, &what).await
    }

    /// What a secret holds under a key, as it is in the API: base64.
    pub(crate) async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<String, ToolError> {
        let path = format!("jsonpath={{.data.{}}}", key.replace('.', "\\."));
        self.kubectl(namespace, &["get", "secret", name, "--output", &path]).await
    }

    /// An address that can be asked from here, and what keeps it so.
    pub(crate) async fn reach(
        &self,
        address: &Address,
        namespace: &str,
    ) -> Result<(Endpoint, Option<Forward>), ToolError> {
        let (resource, port, own) = match address {
            Address::Direct(endpoint) => return Ok((endpoint.clone(), None)),
            Address::Forwarded { namespace, resource, port } => (resource, port, namespace.as_deref()),
        };
        let call = format!("kubectl port-forward {resource}");
        let ports = format!(":{port}");
        let mut command = Command::new("kubectl");
        command.args(["--context", &self.region.context, "--namespace", own.unwrap_or(namespace)]);
        command.args(["port-forward", "--address", "127.0.0.1", resource, &ports]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| ToolError::Start { tool: "kubectl", source })?;
        let Some(stdout) = child.stdout.take() else { return Err(unreadable(&call, "")) };
        let mut lines = BufReader::new(stdout).lines();
        let first = timeout(FORWARD_WITHIN, lines.next_line());
        let first =
            self.scope.within(first).await.map_err(|cut| ToolError::Cut { call: call.clone(), cut })?;
        let line = match first {
            Ok(Ok(Some(line))) => line,
            _ => {
                let mut said = String::new();
                if let Some(mut errors) = child.stderr.take() {
                    let _ = child.start_kill();
                    let _ = timeout(GRACE, errors.read_to_string(&mut said)).await;
                }
                return Err(unreadable(&call, &end_of(&said)));
            }
        };
        // `Forwarding from 127.0.0.1:40001 -> 9464`
        let at = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
        let endpoint = at.and_then(|at| format!("http://{at}").parse().ok());
        let endpoint = endpoint.ok_or_else(|| unreadable(&call, &line))?;
        // Its lines about connections must go somewhere, or it would stand still one day.
        let drain = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok((endpoint, Some(Forward { _child: child, drain })))
    }

    async fn run(&self, tool: &'static str, arguments: &[&str]) -> Result<String, ToolError> {
        let call = told(tool, arguments);
        tracing::debug!(call, "running");
        let mut command = Command::new(tool);
        command.args(arguments.iter().map(OsString::from));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| ToolError::Start { tool, source })?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let pipes = (child.stdout.take(), child.stderr.take());
        let ended = async {
            let (Some(mut stdout), Some(mut stderr)) = pipes else { return child.wait().await };
            let _ = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
            child.wait().await
        };
        let ended = self.scope.within(ended).await;
        let status = match ended {
            Ok(status) => status.map_err(|source| ToolError::Start { tool, source })?,
            Err(cut) => {
                end(&mut child).await;
                return Err(ToolError::Cut { call, cut });
            }
        };
        if status.success() {
            return Ok(String::from_utf8_lossy(&out).into_owned());
        }
        Err(ToolError::Failed { call, status, said: end_of(&String::from_utf8_lossy(&err)) })
    }
}

/// A port that kubectl forwards for as long as this is kept.
#[derive(Debug)]
pub(crate) struct Forward {
    _child: Child,
    drain: tokio::task::JoinHandle<()>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.drain.abort();
    }
}

/// Asks a tool to end, and makes it if it won't.
async fn end(child: &mut Child) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(pid) = pid {
        // It may have ended by itself meanwhile, and is not waited for yet: the number is still its own.
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn unreadable(call: &str, said: &str) -> ToolError {
    ToolError::Unreadable {
        call: call.to_owned(),
        said: if said.is_empty() { "nothing" } else { said }.to_owned(),
    }
}

/// The call by its verb and what it is about: flags may carry what nobody should read.
fn told(tool: &str, arguments: &[&str]) -> String {
    let mut words = vec![tool];
    let mut arguments = arguments.iter().peekable();
    while let Some(argument) = arguments.next() {
        if argument.starts_with('-') {
            // A flag's value, unless another flag follows.
            let has_value =
                !argument.contains('=') && arguments.peek().is_some_and(|next| !next.starts_with('-'));
            if has_value && !SWITCHES.contains(argument) {
                arguments.next();
            }
        } else {
            words.push(argument);
        }
    }
    words.join(" ")
}

/// The flags that take no value, among those used here.
const SWITCHES: [&str; 5] = ["--install", "--wait", "--logs", "--no-hooks", "--ignore-not-found"];

/// The last of what a tool said, in one line.
fn end_of(text: &str) -> String {
    let text = text.trim();
    let mut start = text.len().saturating_sub(TOLD_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    crate::config::one_line(&text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_without_its_flags() {
        let arguments = [
            "upgrade",
            "callsight",
            "helm/callsight",
            "--install",
            "--wait",
            "--set-string",
            "a=secret",
            "--timeout=5m",
        ];
        assert_eq!(told("helm", &arguments), "helm upgrade callsight helm/callsight");
        let arguments = ["--context", "us", "--namespace", "callsight", "get", "service", "callsight"];
        assert_eq!(told("kubectl", &arguments), "kubectl get service callsight");
    }

    #[test]
    fn the_end_of_what_was_said_is_one_line() {
        assert_eq!(end_of("a\nb\n"), "a\\nb");
        assert!(end_of(&"ü".repeat(1000)).len() <= TOLD_BYTES);
    }
}

//! Calls helm and kubectl, as an operator would.
//!
//! Both know how to reach and authenticate to a cluster and what a release is; a second
//! implementation would differ one day. Each call has a deadline and can be interrupted: the tool
//! gets SIGTERM and time to clean up, since a helm that is killed leaves its release in a pending
//! state.
//!
//! Invariant: no tool outlives its call, and no error shows the value of a flag.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::colour::Colour;
use super::fleet::{FleetAddress, FleetRegion, FleetService};
use crate::http_client::Address;

/// How long an interrupted tool may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// How much of a failed tool's error output is shown.
const SHOWN_BYTES: usize = 600;

/// Shows a workload as a name, such as `deployment.apps/callsight-blue`.
pub(crate) const WORKLOAD_NAME: &str = "name";

/// Shows a workload as the image of its exporters.
pub(crate) const WORKLOAD_IMAGE: &str = "jsonpath={.items[*].spec.template.spec.containers[0].image}";

/// How long kubectl may take to forward a port.
const FORWARD_WITHIN: Duration = Duration::from_secs(20);

/// What ends a step early: its deadline, or a signal.
#[derive(Clone, Debug)]
pub(crate) struct StepLimit {
    pub(crate) deadline: Instant,
    /// Turns true when the process receives a signal.
    pub(crate) stop: watch::Receiver<bool>,
}

/// A step ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CutShort {
    #[error("timed out")]
    TimedOut,
    #[error("interrupted")]
    Interrupted,
}

impl StepLimit {
    async fn reached(&self) -> CutShort {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = tokio::time::sleep_until(self.deadline) => CutShort::TimedOut,
            // An error means that no signal can come any more.
            Ok(_) = stop.wait_for(|stop| *stop) => CutShort::Interrupted,
        }
    }

    /// Runs work that may be dropped at any moment.
    pub(crate) async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, CutShort> {
        tokio::select! {
            done = work => Ok(done),
            cut = self.reached() => Err(cut),
        }
    }

    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The rest of the time, as the value of `--timeout`.
    pub(crate) fn timeout_flag(&self) -> String {
        timeout_flag(self.left())
    }
}

/// The value of `--timeout` for helm and kubectl: whole seconds, at least one.
pub(crate) fn timeout_flag(timeout: Duration) -> String {
    format!("{}s", timeout.as_secs().max(1))
}

/// A call of a tool failed. `call` is the command without its flags, `output` the end of what it
/// printed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    #[error("cannot start {tool}; put it on PATH")]
    Start { tool: &'static str, source: std::io::Error },
    #[error("{call} failed ({status}): {output}")]
    Failed { call: String, status: ExitStatus, output: String },
    #[error("{call} {cut}")]
    Cut { call: String, cut: CutShort },
    #[error("cannot understand the output of {call}: {output}")]
    Unreadable { call: String, output: String },
}

/// The cluster of one region, through the tools.
#[derive(Clone, Debug)]
pub(crate) struct Cluster<'a> {
    pub(crate) region: &'a FleetRegion,
    pub(crate) limit: StepLimit,
}

/// A release, as `helm list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct HelmRelease {
    pub(crate) revision: String,
    pub(crate) status: String,
}

impl Cluster<'_> {
    /// Runs `helm` in the service's namespace.
    pub(crate) async fn helm(&self, service: &FleetService, arguments: &[&str]) -> Result<String, ToolError> {
        let place = ["--kube-context", &self.region.context, "--namespace", &service.namespace];
        self.run("helm", &[arguments, &place].concat()).await
    }

    /// Runs `kubectl` in a namespace.
    pub(crate) async fn kubectl(&self, namespace: &str, arguments: &[&str]) -> Result<String, ToolError> {
        let place = ["--context", &self.region.context, "--namespace", namespace];
        self.run("kubectl", &[arguments, &place].concat()).await
    }

    /// The release of a service; `None` if it is not installed.
    pub(crate) async fn release(&self, service: &FleetService) -> Result<Option<HelmRelease>, ToolError> {
        let name = format!("^{}$", service.release);
        let said = self.helm(service, &["list", "--filter", &name, "--output", "json"]).await?;
        let releases: Vec<HelmRelease> =
            serde_json::from_str(&said).map_err(|_| unreadable("helm list", &said))?;
        Ok(releases.into_iter().next())
    }

    /// The colour to which the service leads.
    pub(crate) async fn active_colour(&self, service: &FleetService) -> Result<Colour, ToolError> {
        let path = "jsonpath={.spec.selector.colour}";
        let what = ["get", "service", &service.release, "--output", path];
        let said = self.kubectl(&service.namespace, &what).await?;
        Colour::from_name(said.trim()).ok_or_else(|| unreadable("kubectl get service", said.trim()))
    }

    /// [`WORKLOAD_NAME`] or [`WORKLOAD_IMAGE`] of a colour; `None` if it has no workload.
    pub(crate) async fn workload(
        &self,
        service: &FleetService,
        colour: Colour,
        output: &str,
    ) -> Result<Option<String>, ToolError> {
        let selector = format!(
            "app.kubernetes.io/instance={},app.kubernetes.io/component=exporter,colour={colour}",
            service.release
        );
        let kinds = "deployment,statefulset";
        let what = ["get", kinds, "--selector", &selector, "--output", output];
        let said = self.kubectl(&service.namespace, &what).await?;
        Ok(said.split_whitespace().next().map(str::to_owned))
    }

    /// The value of a secret's key, in base64 as the API has it.
    pub(crate) async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<String, ToolError> {
        let path = format!("jsonpath={{.data.{}}}", key.replace('.', "\\."));
        self.kubectl(namespace, &["get", "secret", name, "--output", &path]).await
    }

    /// An endpoint that can be reached from here, and the kubectl that forwards its port, to keep
    /// for as long as it is used.
    pub(crate) async fn reach(
        &self,
        address: &FleetAddress,
        namespace: &str,
    ) -> Result<(Address, Option<Child>), ToolError> {
        let (resource, port, own) = match address {
            FleetAddress::Direct(endpoint) => return Ok((endpoint.clone(), None)),
            FleetAddress::Forwarded { namespace, resource, port } => (resource, port, namespace.as_deref()),
        };
        let call = format!("kubectl port-forward {resource}");
        let ports = format!(":{port}");
        let place = ["--context", &self.region.context, "--namespace", own.unwrap_or(namespace)];
        let what = ["port-forward", "--address", "127.0.0.1", resource, &ports];
        let mut child = spawn("kubectl", &[&what[..], &place].concat())?;
        let Some(stdout) = child.stdout.take() else { return Err(unreadable(&call, "")) };
        let mut lines = BufReader::new(stdout).lines();
        let first = timeout(FORWARD_WITHIN, lines.next_line());
        let first =
            self.limit.within(first).await.map_err(|cut| ToolError::Cut { call: call.clone(), cut })?;
        let Ok(Ok(Some(line))) = first else {
            let _ = child.start_kill();
            let said = timeout(GRACE, text(child.stderr.take())).await;
            return Err(unreadable(&call, &end_of(&said.unwrap_or_default())));
        };
        // `Forwarding from 127.0.0.1:40001 -> 9464`
        let at = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
        let endpoint = at.and_then(|at| format!("http://{at}").parse().ok());
        let endpoint = endpoint.ok_or_else(|| unreadable(&call, &line))?;
        // kubectl prints a line per connection; without a reader it would block once the pipe is
        // full.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok((endpoint, Some(child)))
    }

    async fn run(&self, tool: &'static str, arguments: &[&str]) -> Result<String, ToolError> {
        let call = without_flags(tool, arguments);
        tracing::debug!(call, "running");
        let mut child = spawn(tool, arguments)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ended = async {
            let (stdout, stderr) = tokio::join!(text(stdout), text(stderr));
            (child.wait().await, stdout, stderr)
        };
        let (status, stdout, stderr) = match self.limit.within(ended).await {
            Ok(ended) => ended,
            Err(cut) => {
                // Once it was waited for, it has no number here, and none of another's is used.
                if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                    let _ = kill_process(pid, Signal::TERM);
                }
                if timeout(GRACE, child.wait()).await.is_err() {
                    let _ = child.kill().await;
                }
                return Err(ToolError::Cut { call, cut });
            }
        };
        let status = status.map_err(|source| ToolError::Start { tool, source })?;
        if status.success() {
            return Ok(stdout);
        }
        Err(ToolError::Failed { call, status, output: end_of(&stderr) })
    }
}

/// Starts a tool, which is killed when the value is dropped.
fn spawn(tool: &'static str, arguments: &[&str]) -> Result<Child, ToolError> {
    let mut command = Command::new(tool);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).spawn().map_err(|source| ToolError::Start { tool, source })
}

/// What a tool prints, to its end.
async fn text(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn unreadable(call: &str, output: &str) -> ToolError {
    let output = if output.is_empty() { "nothing" } else { output }.to_owned();
    ToolError::Unreadable { call: call.to_owned(), output }
}

/// The verb of a call and its objects, which come first: flags may carry secrets.
fn without_flags(tool: &str, arguments: &[&str]) -> String {
    let words = arguments.iter().copied().take_while(|argument| !argument.starts_with('-'));
    std::iter::once(tool).chain(words).collect::<Vec<_>>().join(" ")
}

/// The end of a tool's output, in one line.
fn end_of(text: &str) -> String {
    let text = text.trim();
    let start = text.ceil_char_boundary(text.len().saturating_sub(SHOWN_BYTES));
    crate::config::one_line(&text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_shown_without_its_flags() {
        let arguments = ["upgrade", "callsight", "helm/callsight", "--wait", "--set-string", "a=secret"];
        assert_eq!(without_flags("helm", &arguments), "helm upgrade callsight helm/callsight");
        let arguments = ["get", "service", "callsight", "--context", "us"];
        assert_eq!(without_flags("kubectl", &arguments), "kubectl get service callsight");
    }

    #[test]
    fn the_end_of_what_was_said_is_one_line() {
        assert_eq!(end_of("a\nb\n"), "a\\nb");
        assert!(end_of(&"ü".repeat(1000)).len() <= SHOWN_BYTES);
    }
}

//! What each step of a plan does.

use std::collections::BTreeMap;
use std::error::Error;
use std::iter;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;

use super::certificate::{self, CertificateError};
use super::cluster::{Cluster, CutShort, Forward, ToolError};
use super::colour::{Colour, ColourError};
use super::compare::compare;
use super::deploy::{Known, Run};
use super::diff;
use super::fleet::{Address, Certificate, FleetRegion, Kind, NatsAccess, Service};
use super::plan::{Action, Step};
use super::report::{Change, Difference};
use super::retire::{Deleted, RetireError, Retirement, check_active, delete_durables};
use super::table;
use crate::config::{NatsConfig, NatsIdentity, NatsTls};
use crate::http_client::{ANSWER_WITHIN, HttpError};
use crate::nats::{self, NatsError};
use crate::topology::{Deployment, DeploymentError};

/// How often an exporter that is not ready is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a dead exporter's pull requests may take to run out, and some more.
const RETIRE_WITHIN: Duration = Duration::from_secs(60);

/// The same when rolling back: one that is still read stays.
const FORGET_WITHIN: Duration = Duration::from_secs(20);

/// The longest answer of `/gatewayz`.
const GATEWAYZ_LIMIT: usize = 4 << 20;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// Its time was up, or somebody sent a signal.
    #[error(transparent)]
    Cut(#[from] CutShort),
    /// helm or kubectl says no.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// An exporter does not answer as it should.
    #[error(transparent)]
    Colour(#[from] ColourError),
    /// A durable stays.
    #[error(transparent)]
    Retire(#[from] RetireError),
    /// No connection to NATS can be set up.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// A colour can't be a deployment.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// A NATS server does not answer.
    #[error("no answer from the NATS server at {at}")]
    Monitor {
        /// Where it was asked.
        at: String,
        /// Why not.
        source: HttpError,
    },
    /// A certificate can't be looked at.
    #[error("certificate {which}")]
    Certificate {
        /// Which one.
        which: String,
        /// Why not.
        source: CertificateError,
    },
    /// What was looked at is not as it must be.
    #[error("{0}")]
    Gate(String),
}

impl StepError {
    /// The error and its causes in one line.
    pub(super) fn line(&self) -> String {
        let chain = iter::successors(Some(self as &dyn Error), |&error| error.source());
        crate::config::one_line(&chain.map(ToString::to_string).collect::<Vec<_>>().join(": "))
    }
}

/// What a step saw.
pub(super) struct Seen {
    pub(super) text: String,
    /// It was not done, and a person has to.
    pub(super) left_to_a_person: bool,
}

impl From<String> for Seen {
    fn from(text: String) -> Self {
        Self { text, left_to_a_person: false }
    }
}

/// Which colours run, and which of them is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Beside,
    Switched,
    Alone,
}

/// The colour that is not this one.
fn other(colour: &str) -> &'static str {
    if colour == "blue" { "green" } else { "blue" }
}

impl<'a> Run<'a> {
    /// Does what a step says.
    pub(super) async fn act(
        &self,
        step: &Step,
        region: &'a FleetRegion,
        service: Option<&'a Service>,
    ) -> Result<Seen, StepError> {
        let cluster = self.cluster(region);
        let Some(service) = service else {
            return match step.action {
                Action::Gateways => self.gateways(&cluster).await.map(Seen::from),
                _ => self.certificates(&cluster).await.map(Seen::from),
            };
        };
        let known = self.known(step);
        let text = match step.action {
            Action::Gateways => self.gateways(&cluster).await?,
            Action::Certificates => self.certificates(&cluster).await?,
            Action::Streams => streams(&cluster, service).await?,
            Action::Look => self.look(&cluster, step, service).await?,
            Action::Stage => {
                self.will_change(step, &known, Some(&known.new));
                self.upgrade(&cluster, service, &known, Phase::Beside).await?;
                format!(
                    "{} runs {}",
                    known.new,
                    self.order.version.as_deref().unwrap_or("the chart's version")
                )
            }
            Action::Ready => self.ready(&cluster, service, &known).await?,
            Action::Compare { soak } => self.compare(&cluster, service, &known, soak).await?,
            Action::Promote if known.old.is_none() => {
                format!("{} is the first and active already", known.new)
            }
            Action::Promote => {
                self.will_change(step, &known, None);
                self.upgrade(&cluster, service, &known, Phase::Switched).await?;
                format!("the service leads to {}", known.new)
            }
            Action::Active => self.active(&cluster, service, &known).await?,
            Action::Upgrade => {
                self.will_change(step, &known, None);
                self.helm_upgrade(&cluster, service, Vec::new()).await?;
                "upgraded in place".to_owned()
            }
            Action::Restart => restart(&cluster, service, &known).await?,
            Action::Withdraw => match &known.old {
                None => "there was no other colour".to_owned(),
                Some(old) => {
                    self.upgrade(&cluster, service, &known, Phase::Alone).await?;
                    format!("{old} is stopped")
                }
            },
            Action::Retire => return self.retire(&cluster, service, &known).await,
            // Never planned: `take_back` does it.
            Action::RollBack => String::new(),
        };
        Ok(text.into())
    }

    /// Each NATS server must have a gateway to each other cluster. The way back is the other cluster's own line.
    async fn gateways(&self, cluster: &Cluster<'_>) -> Result<String, StepError> {
        #[derive(serde::Deserialize)]
        struct Gatewayz {
            #[serde(default)]
            outbound_gateways: Option<BTreeMap<String, serde_json::Value>>,
        }
        let wanted = &cluster.region.gateways;
        for monitor in &cluster.region.monitors {
            let (endpoint, _forward) = cluster.reach(monitor, "default").await?;
            let answer = self.http.get_whole(&endpoint, "/gatewayz", ANSWER_WITHIN, GATEWAYZ_LIMIT);
            let failed = |source| StepError::Monitor { at: monitor.to_string(), source };
            let (status, body) = cluster.scope.within(answer).await?.map_err(failed)?;
            let gateways: Option<Gatewayz> = serde_json::from_slice(&body).ok().filter(|_| status == 200);
            let Some(gateways) = gateways else {
                return Err(StepError::Gate(format!(
                    "{monitor} does not answer like a NATS server's monitoring port"
                )));
            };
            let there = gateways.outbound_gateways.unwrap_or_default();
            let missing: Vec<_> = wanted.iter().filter(|name| !there.contains_key(*name)).cloned().collect();
            if !missing.is_empty() {
                return Err(StepError::Gate(format!(
                    "{monitor} has no gateway to {}",
                    missing.join(" and ")
                )));
            }
        }
        Ok(format!("{} from {} servers", wanted.join(" and "), cluster.region.monitors.len()))
    }

    async fn certificates(&self, cluster: &Cluster<'_>) -> Result<String, StepError> {
        let least = self.fleet.gates.certificate_days;
        let mut seen = Vec::new();
        for which in &cluster.region.certificates {
            let end = certificate_end(cluster, which).await?;
            let days = certificate::days_left(end, OffsetDateTime::now_utc());
            if days < i64::from(least) {
                return Err(StepError::Gate(format!(
                    "certificate {which} runs out at {}, in {days} days, and {least} are demanded: renew it",
                    certificate::shown(end)
                )));
            }
            seen.push(format!("{which}: {days} days"));
        }
        Ok(seen.join(", "))
    }

    /// Finds out which colour is active, and with it which one comes next. In a dry run, what would change too.
    async fn look(&self, cluster: &Cluster<'_>, step: &Step, service: &Service) -> Result<String, StepError> {
        let mut known = Known { new: "blue".to_owned(), ..Known::default() };
        let release = cluster.release(service).await?;
        if let Some(release) = &release {
            if release.status.starts_with("pending") || release.status == "uninstalling" {
                return Err(StepError::Gate(format!(
                    "release {} is {}: somebody else is at it, or a run was killed; helm rollback ends that",
                    service.release, release.status
                )));
            }
            known.revision = Some(release.revision.clone());
            if service.kind == Kind::Exporter {
                let old = cluster.active_colour(service).await?;
                known.new = other(&old).to_owned();
                known.old_image = cluster.image(service, &old).await?;
                if self.order.request.promote_only {
                    known.new_image = cluster.image(service, &known.new).await?;
                    if known.new_image.is_none() {
                        return Err(StepError::Gate(format!(
                            "{} does not run: there is nothing to promote",
                            known.new
                        )));
                    }
                }
                known.old = Some(old);
            }
        }
        self.know(step, known.clone());
        if self.order.dry_run && !self.order.request.restart_only {
            self.differences(cluster, step, service, &known).await?;
        }
        Ok(match (&release, &known.old) {
            (None, _) => "not installed yet".to_owned(),
            (Some(release), None) => format!("revision {}", release.revision),
            (Some(release), Some(old)) => {
                let image = known.old_image.as_deref().unwrap_or("an unknown image");
                format!("revision {}, {old} is active with {image}", release.revision)
            }
        })
    }

    async fn differences(
        &self,
        cluster: &Cluster<'_>,
        step: &Step,
        service: &Service,
        known: &Known,
    ) -> Result<(), StepError> {
        let mut before = match known.revision {
            None => String::new(),
            Some(_) => cluster.helm(service, &["get", "manifest", &service.release]).await?,
        };
        let phases: &[(&str, Option<Phase>)] = match (service.kind, known.old.is_some()) {
            (Kind::Plain, _) => &[("upgrade", None)],
            (Kind::Exporter, false) => &[("stage", Some(Phase::Beside))],
            (Kind::Exporter, true) if self.order.request.promote_only => {
                &[("promote", Some(Phase::Switched))]
            }
            (Kind::Exporter, true) => &[
                ("stage", Some(Phase::Beside)),
                ("promote", Some(Phase::Switched)),
                ("withdraw", Some(Phase::Alone)),
            ],
        };
        for (after, phase) in phases {
            let settings = phase.map(|phase| self.settings(known, phase)).unwrap_or_default();
            let arguments = self.chart_arguments(cluster.region, service, settings);
            let mut call = vec!["template", &service.release, &service.chart, "--no-hooks"];
            call.extend(arguments.iter().map(String::as_str));
            let rendered = cluster.helm(service, &call).await?;
            let text = diff::manifests(&before, &rendered);
            let (region, service) = (step.region.clone(), service.name.clone());
            self.report().differences.push(Difference { region, service, after: (*after).to_owned(), text });
            before = rendered;
        }
        Ok(())
    }

    /// Values that make the chart what a phase is.
    fn settings(&self, known: &Known, phase: Phase) -> Vec<String> {
        let new = &known.new;
        let active = match (&known.old, phase) {
            (Some(old), Phase::Beside) => old,
            _ => new,
        };
        let mut settings = vec![format!("active={active}"), format!("colours.{new}.enabled=true")];
        match (&self.order.version, &known.new_image) {
            (Some(version), _) => settings.push(format!("colours.{new}.image.tag={version}")),
            (None, Some(image)) => settings.extend(image_settings(new, image)),
            (None, None) => {}
        }
        let old_runs = known.old.is_some() && phase != Phase::Alone;
        settings.push(format!("colours.{}.enabled={old_runs}", other(new)));
        if let (Some(old), Some(image), true) = (&known.old, &known.old_image, old_runs) {
            settings.extend(image_settings(old, image));
        }
        settings
    }

    /// Values and version, as every rendering of a chart gets them.
    fn chart_arguments(&self, region: &FleetRegion, service: &Service, settings: Vec<String>) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(version) = &service.chart_version {
            arguments.extend(["--version".to_owned(), version.clone()]);
        }
        for file in region.values.get(&service.name).into_iter().flatten() {
            arguments.extend(["--values".to_owned(), file.display().to_string()]);
        }
        for setting in settings {
            // `--set-string` would make a word of what is a switch.
            let flag = if setting.ends_with("enabled=true") || setting.ends_with("enabled=false") {
                "--set"
            } else {
                "--set-string"
            };
            arguments.extend([flag.to_owned(), setting]);
        }
        arguments
    }

    async fn upgrade(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        known: &Known,
        phase: Phase,
    ) -> Result<(), StepError> {
        self.helm_upgrade(cluster, service, self.settings(known, phase)).await
    }

    async fn helm_upgrade(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        settings: Vec<String>,
    ) -> Result<(), StepError> {
        let timeout = format!("{}s", cluster.scope.left().as_secs().max(1));
        let arguments = self.chart_arguments(cluster.region, service, settings);
        let mut call =
            vec!["upgrade", &service.release, &service.chart, "--install", "--wait", "--timeout", &timeout];
        call.extend(arguments.iter().map(String::as_str));
        cluster.helm(service, &call).await?;
        Ok(())
    }

    /// A colour's exporters, and the forwarded ports that keep them reachable.
    async fn colour(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        name: &str,
        addresses: &[Address],
    ) -> Result<(Colour, Vec<Forward>), StepError> {
        let (mut endpoints, mut forwards) = (Vec::new(), Vec::new());
        for address in addresses {
            let (endpoint, forward) = cluster.reach(address, &service.namespace).await?;
            endpoints.push(endpoint);
            forwards.extend(forward);
        }
        Ok((Colour { name: name.to_owned(), endpoints, http: self.http.clone() }, forwards))
    }

    async fn ready(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        known: &Known,
    ) -> Result<String, StepError> {
        let addresses = cluster.region.colour(service, &known.new);
        self.until_ready(cluster, service, &known.new, &addresses).await
    }

    async fn active(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        known: &Known,
    ) -> Result<String, StepError> {
        let expected = match &known.old {
            Some(old) if self.order.request.restart_only => old,
            _ => &known.new,
        };
        self.until_ready(cluster, service, expected, &[cluster.region.active(service)]).await
    }

    /// Asks until exporters of this colour are ready, and nobody else answers.
    async fn until_ready(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        name: &str,
        addresses: &[Address],
    ) -> Result<String, StepError> {
        let end = tokio::time::Instant::now() + self.fleet.gates.ready_within;
        loop {
            // A forwarded port leads to the pod of yesterday for ever, so it is forwarded anew each time.
            let seen = cluster.scope.within(async {
                let (colour, _forwards) = self.colour(cluster, service, name, addresses).await?;
                let readiness = colour.readiness().await?;
                let others: Vec<_> =
                    readiness.deployments.iter().filter(|other| *other != name).cloned().collect();
                if !others.is_empty() {
                    return Err(StepError::Gate(format!(
                        "{} answers instead of {name}",
                        others.join(" and ")
                    )));
                }
                if readiness.deployments.is_empty() {
                    return Err(StepError::Gate(
                        "what answers does not say which deployment it is".to_owned(),
                    ));
                }
                if !readiness.why_not.is_empty() {
                    let why = readiness.why_not.join("; ");
                    return Err(StepError::Gate(format!("{name} is not ready: {why}")));
                }
                Ok(format!("{name} is ready, {:.1} s behind the stream", readiness.lag.as_secs_f64()))
            });
            let why = match seen.await? {
                Ok(seen) => return Ok(seen),
                Err(StepError::Tool(ToolError::Cut { cut, .. })) => return Err(cut.into()),
                Err(why) => why,
            };
            if tokio::time::Instant::now() + PAUSE >= end {
                return Err(why);
            }
            cluster.scope.within(tokio::time::sleep(PAUSE)).await?;
        }
    }

    async fn compare(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        known: &Known,
        soak: bool,
    ) -> Result<String, StepError> {
        let Some(old) = &known.old else {
            return Ok("a first installation: there is nothing to compare with".to_owned());
        };
        let addresses = |colour: &str| cluster.region.colour(service, colour);
        let (blue, _blue) = self.colour(cluster, service, old, &addresses(old)).await?;
        let (green, _green) = self.colour(cluster, service, &known.new, &addresses(&known.new)).await?;
        let terms = self.fleet.gates.terms(soak);
        let comparison = cluster.scope.within(compare(&blue, &green, &terms)).await?;
        tracing::info!("{} is compared with {old}:\n{}", known.new, table::comparison(&comparison));
        if !comparison.go {
            return Err(StepError::Gate(format!(
                "{} does not agree with {old}: {}",
                known.new,
                comparison.reasons.join("; ")
            )));
        }
        let rows = comparison.judgement.map_or(0, |judgement| judgement.rows.len());
        let window = humantime::format_duration(terms.window);
        Ok(format!("{} agrees with {old} in {rows} measures over {window}", known.new))
    }

    /// Deletes the durables of the old colour, once nothing reads them.
    async fn retire(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        known: &Known,
    ) -> Result<Seen, StepError> {
        let Some(old) = &known.old else { return Ok("there was no other colour".to_owned().into()) };
        let Some(access) = &cluster.region.nats else {
            let text = format!(
                "the fleet has no `nats` for {0}; run callsight rollout retire --deployment {old} --region {0}",
                cluster.region.name
            );
            return Ok(Seen { text, left_to_a_person: true });
        };
        let deleted = self.forget(cluster, service, access, old, RETIRE_WITHIN).await?;
        Ok(listed(&deleted).into())
    }

    async fn forget(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        access: &NatsAccess,
        colour: &str,
        timeout: Duration,
    ) -> Result<Vec<Deleted>, StepError> {
        let address = cluster.region.active(service);
        let (active, _forwards) = self.colour(cluster, service, "the active exporter", &[address]).await?;
        let deployment: Deployment = colour.parse()?;
        let work = async {
            check_active(&active, &deployment).await?;
            let client = nats::connect(&access.config(), "callsight rollout").await?;
            let context = async_nats::jetstream::new(client);
            let retirement = Retirement { deployment, regions: vec![cluster.region.name.clone()], timeout };
            Ok(delete_durables(&context, &retirement).await?)
        };
        cluster.scope.within(work).await?
    }

    /// Brings a release to where it was.
    pub(super) async fn roll_back(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        change: &Change,
    ) -> Result<String, StepError> {
        let timeout = format!("{}s", cluster.scope.left().as_secs().max(1));
        let Some(revision) = &change.revision else {
            let call = ["uninstall", &service.release, "--ignore-not-found", "--wait", "--timeout", &timeout];
            cluster.helm(service, &call).await?;
            return Ok("uninstalled: it was not there before".to_owned());
        };
        let call = ["rollback", &service.release, revision, "--wait", "--timeout", &timeout];
        cluster.helm(service, &call).await?;
        let mut text = format!("back at revision {revision}");
        // Its frames are in the stream; a durable that nobody reads only looks like an exporter that hangs.
        if let (Some(colour), Some(access)) = (&change.colour, &cluster.region.nats) {
            text += &match self.forget(cluster, service, access, colour, FORGET_WITHIN).await {
                Ok(deleted) => format!("; {}", listed(&deleted)),
                Err(error) => format!("; the durable of {colour} stays: {}", error.line()),
            };
        }
        Ok(text)
    }
}

/// The chart's own test, in the cluster and as its operator: `callsight streams verify`.
async fn streams(cluster: &Cluster<'_>, service: &Service) -> Result<String, StepError> {
    if cluster.release(service).await?.is_none() {
        return Ok("not installed yet: there is nothing to verify".to_owned());
    }
    let timeout = format!("{}s", cluster.scope.left().as_secs().max(1));
    cluster.helm(service, &["test", &service.release, "--logs", "--timeout", &timeout]).await?;
    Ok("helm test passed".to_owned())
}

async fn restart(cluster: &Cluster<'_>, service: &Service, known: &Known) -> Result<String, StepError> {
    let workload = match (service.kind, &known.old, &service.workload) {
        (Kind::Plain, _, Some(workload)) => workload.clone(),
        (Kind::Exporter, Some(colour), _) => cluster
            .workload(service, colour)
            .await?
            .ok_or_else(|| StepError::Gate(format!("{colour} is active and has no workload")))?,
        _ => {
            return Err(StepError::Gate(format!(
                "{} is not installed: there is nothing to restart",
                service.name
            )));
        }
    };
    cluster.kubectl(&service.namespace, &["rollout", "restart", &workload]).await?;
    let timeout = format!("--timeout={}s", cluster.scope.left().as_secs().max(1));
    cluster.kubectl(&service.namespace, &["rollout", "status", &workload, &timeout]).await?;
    Ok(format!("{workload} is restarted"))
}

async fn certificate_end(cluster: &Cluster<'_>, which: &Certificate) -> Result<OffsetDateTime, StepError> {
    let end = match which {
        Certificate::File(path) => {
            std::fs::read(path).map_err(CertificateError::from).and_then(|pem| certificate::end_of_pem(&pem))
        }
        Certificate::Secret { namespace, name, key } => {
            let encoded = cluster.secret(namespace, name, key).await?;
            let pem = STANDARD.decode(encoded.trim()).unwrap_or_default();
            certificate::end_of_pem(&pem)
        }
        Certificate::Server { host, port, nats } => {
            let asked = tokio::time::timeout(ANSWER_WITHIN, certificate::end_of_server(host, *port, *nats));
            let answer = cluster.scope.within(asked).await?;
            answer.unwrap_or_else(|slow| Err(std::io::Error::other(slow).into()))
        }
    };
    end.map_err(|source| StepError::Certificate { which: which.to_string(), source })
}

/// `repository:tag` or `repository@digest` as values of a colour.
fn image_settings(colour: &str, image: &str) -> Vec<String> {
    let of = |key: &str, value: &str| format!("colours.{colour}.image.{key}={value}");
    if let Some((repository, digest)) = image.split_once('@') {
        return vec![of("repository", repository), of("digest", digest)];
    }
    // A colon before the last slash is that of a registry's port.
    match image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((repository, tag)) => vec![of("repository", repository), of("tag", tag)],
        None => vec![of("repository", image)],
    }
}

fn listed(deleted: &[Deleted]) -> String {
    match deleted {
        [] => "no durable was left".to_owned(),
        deleted => {
            let names: Vec<_> =
                deleted.iter().map(|gone| format!("{} of {}", gone.durable, gone.stream)).collect();
            format!("deleted {}", names.join(", "))
        }
    }
}

impl NatsAccess {
    fn config(&self) -> NatsConfig {
        let identity = match (&self.creds, &self.user, &self.password_file) {
            (Some(file), ..) => NatsIdentity::Credentials(file.clone()),
            (None, Some(user), Some(file)) => {
                NatsIdentity::Password { user: user.clone(), file: file.clone() }
            }
            _ => NatsIdentity::Anonymous,
        };
        NatsConfig {
            servers: self.url.clone(),
            fallback: Vec::new(),
            identity,
            tls: NatsTls { authorities: self.ca.clone(), ..NatsTls::default() },
            inbox_prefix: "_INBOX.operator".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_pinned_as_it_runs() {
        for (image, settings) in [
            ("ghcr.io/c/c:1.2.3", &["repository=ghcr.io/c/c", "tag=1.2.3"][..]),
            ("localhost:5000/c@sha256:ab", &["repository=localhost:5000/c", "digest=sha256:ab"]),
            ("localhost:5000/c", &["repository=localhost:5000/c"]),
        ] {
            let settings: Vec<_> =
                settings.iter().map(|setting| format!("colours.blue.image.{setting}")).collect();
            assert_eq!(image_settings("blue", image), settings);
        }
    }
}

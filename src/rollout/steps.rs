//! What each step of a plan does.

use std::error::Error;
use std::iter;
use std::time::Duration;

use super::certificate::CertificateError;
use super::cluster::{Cluster, CutShort, Forward, ToolError};
use super::colour::{Colour, ColourError};
use super::deploy::{Known, Run};
use super::fleet::{Address, FleetRegion, Kind, NatsAccess, Service};
use super::gates::streams;
use super::plan::{Action, Step};
use super::releases::{Phase, other};
use super::report::Change;
use super::retire::{Deleted, RetireError, Retirement, check_active, delete_durables};
use crate::config::{NatsConfig, NatsIdentity, NatsTls};
use crate::http_client::HttpError;
use crate::nats::{self, NatsError};
use crate::topology::{Deployment, DeploymentError};

/// How long a dead exporter's pull requests may take to run out, and some more.
const RETIRE_WITHIN: Duration = Duration::from_secs(60);

/// The same when rolling back: one that is still read stays.
const FORGET_WITHIN: Duration = Duration::from_secs(20);

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

    /// A colour's exporters, and the forwarded ports that keep them reachable.
    pub(super) async fn colour(
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

//! Performs the steps of a plan.
//!
//! Invariant: before a step changes a release, the report has how to roll it back.

use std::time::Duration;

use super::cluster::{Cluster, WORKLOAD_IMAGE, WORKLOAD_NAME};
use super::colour::Colour;
use super::fleet::{NatsAccess, ServiceKind};
use super::plan::{DeploymentMode, ServiceStep, Step, Task};
use super::releases::{self, Phase};
use super::report::{ReleaseChange, StepResult};
use super::retire::{DeletedDurable, Retirement};
use super::run::{FoundRelease, Run, ServiceJob, StepError, refuse};
use super::{gates, retire};
use crate::config::{NatsConfig, NatsIdentity, NatsTls, chain};

/// How long the pull requests of a stopped exporter may take to expire, with a margin.
const RETIRE_WITHIN: Duration = Duration::from_secs(60);

/// The same when rolling back: a durable that is still read then stays.
const DISCARD_WITHIN: Duration = Duration::from_secs(20);

/// Performs one step and returns what it found or did. [`StepResult::Skipped`] means that the
/// operator has to do it.
///
/// # Errors
/// A gate does not pass, or a change fails.
pub(super) async fn perform<'a>(
    run: &'a Run<'a>,
    step: &Step<'a>,
) -> Result<(StepResult, String), StepError> {
    let cluster = run.cluster(step.region);
    let text = match step.task {
        Task::Gateways => gates::gateways(run, &cluster).await?,
        Task::Certificates => gates::certificates(run, &cluster).await?,
        Task::Service(service, service_step) => {
            let job = run.job(cluster, service);
            match service_step {
                ServiceStep::Streams => gates::streams(&job).await?,
                ServiceStep::Look => look(&job).await?,
                ServiceStep::Stage => stage(&job).await?,
                ServiceStep::Ready => gates::ready(&job).await?,
                ServiceStep::Compare { soak } => gates::compare_colours(&job, soak).await?,
                ServiceStep::Promote => promote(&job).await?,
                ServiceStep::Active => gates::active(&job).await?,
                ServiceStep::Upgrade => {
                    job.will_change(None);
                    releases::upgrade(&job, None).await?;
                    "upgraded in place".to_owned()
                }
                ServiceStep::Restart => restart(&job).await?,
                ServiceStep::Withdraw => withdraw(&job).await?,
                ServiceStep::Retire => return retire(&job).await,
            }
        }
    };
    Ok((StepResult::Ok, text))
}

/// Finds the active colour, and with it the colour that comes next. In a dry run, also what would
/// change.
async fn look(job: &ServiceJob<'_>) -> Result<String, StepError> {
    let ServiceJob { run, cluster, service, .. } = job;
    let mut found = FoundRelease::default();
    if let Some(release) = cluster.release(service).await? {
        if release.status.starts_with("pending") || release.status == "uninstalling" {
            return refuse(format!(
                "release {} is {}: another deployment is running, or one was killed; helm rollback ends that",
                service.release, release.status
            ));
        }
        found.revision = Some(release.revision);
        if service.kind == ServiceKind::Exporter {
            let old = cluster.active_colour(service).await?;
            found.old = Some(old);
            found.old_image = cluster.workload(service, old, WORKLOAD_IMAGE).await?;
            if run.order.request.mode == DeploymentMode::Promote {
                let new = old.other();
                found.new_image = cluster.workload(service, new, WORKLOAD_IMAGE).await?;
                if found.new_image.is_none() {
                    return refuse(format!("{new} does not run: there is nothing to promote"));
                }
            }
        }
    }
    job.remember(found.clone());
    if run.order.care.dry_run && run.order.request.mode != DeploymentMode::Restart {
        releases::preview(&run.job(cluster.clone(), service)).await?;
    }
    Ok(match (found.revision, found.old) {
        (None, _) => "not installed yet".to_owned(),
        (Some(revision), None) => format!("revision {revision}"),
        (Some(revision), Some(old)) => {
            let image = found.old_image.as_deref().unwrap_or("an unknown image");
            format!("revision {revision}, {old} is active with {image}")
        }
    })
}

async fn stage(job: &ServiceJob<'_>) -> Result<String, StepError> {
    let new = job.found.new_colour();
    job.will_change(Some(new));
    releases::upgrade(job, Some(Phase::Beside)).await?;
    Ok(format!("{new} runs {}", job.run.order.version.as_deref().unwrap_or("the chart's version")))
}

async fn promote(job: &ServiceJob<'_>) -> Result<String, StepError> {
    let new = job.found.new_colour();
    if job.found.old.is_none() {
        return Ok(format!("{new} is the first colour and already active"));
    }
    job.will_change(None);
    releases::upgrade(job, Some(Phase::Switched)).await?;
    Ok(format!("the service leads to {new}"))
}

async fn restart(job: &ServiceJob<'_>) -> Result<String, StepError> {
    let ServiceJob { cluster, service, .. } = job;
    let workload = match (service.kind, job.found.old, &service.workload) {
        (ServiceKind::Plain, _, Some(workload)) => workload.clone(),
        (ServiceKind::Exporter, Some(colour), _) => {
            let workload = cluster.workload(service, colour, WORKLOAD_NAME).await?;
            workload.ok_or_else(|| StepError::Gate(format!("{colour} is active and has no workload")))?
        }
        _ => return refuse(format!("{} is not installed: there is nothing to restart", service.name)),
    };
    cluster.kubectl(&service.namespace, &["rollout", "restart", &workload]).await?;
    let timeout = format!("--timeout={}", cluster.limit.timeout_flag());
    cluster.kubectl(&service.namespace, &["rollout", "status", &workload, &timeout]).await?;
    Ok(format!("{workload} is restarted"))
}

async fn withdraw(job: &ServiceJob<'_>) -> Result<String, StepError> {
    let Some(old) = job.found.old else { return Ok("there was no other colour".to_owned()) };
    releases::upgrade(job, Some(Phase::Alone)).await?;
    Ok(format!("{old} is stopped"))
}

async fn retire(job: &ServiceJob<'_>) -> Result<(StepResult, String), StepError> {
    let Some(old) = job.found.old else {
        return Ok((StepResult::Ok, "there was no other colour".to_owned()));
    };
    let name = &job.cluster.region.name;
    let Some(access) = &job.cluster.region.nats else {
        return Ok((
            StepResult::Skipped,
            format!(
                "the fleet has no `nats` for {name}; run callsight rollout retire --deployment {old} --region {name}"
            ),
        ));
    };
    Ok((StepResult::Ok, deleted(&discard_durables(job, access, old, RETIRE_WITHIN).await?)))
}

async fn discard_durables(
    job: &ServiceJob<'_>,
    access: &NatsAccess,
    colour: Colour,
    timeout: Duration,
) -> Result<Vec<DeletedDurable>, StepError> {
    let region = job.cluster.region;
    let addresses = [region.active_address(job.service)];
    let (active, _ports) = job.exporters(retire::ACTIVE, &addresses).await?;
    let retirement =
        Retirement { deployment: colour.deployment(), regions: vec![region.name.clone()], timeout };
    Ok(job.cluster.limit.within(retire::retire(&active, &access.config(), &retirement)).await??)
}

/// Brings a release back to where it was before the deployment.
///
/// # Errors
/// helm fails. A durable that stays is not an error, as it only takes up room.
pub(super) async fn roll_back<'a>(
    run: &'a Run<'a>,
    cluster: Cluster<'a>,
    change: &ReleaseChange,
) -> Result<String, StepError> {
    let service = run.fleet.service(&change.service);
    let service = service.ok_or_else(|| no_longer(&change.service))?;
    let job = run.job(cluster, service);
    let timeout = job.cluster.limit.timeout_flag();
    let Some(revision) = &change.revision else {
        let call = ["uninstall", &service.release, "--ignore-not-found", "--wait", "--timeout", &timeout];
        job.cluster.helm(service, &call).await?;
        return Ok("uninstalled: it was not installed before".to_owned());
    };
    let call = ["rollback", &service.release, revision, "--wait", "--timeout", &timeout];
    job.cluster.helm(service, &call).await?;
    let mut text = format!("back at revision {revision}");
    if let (Some(colour), Some(access)) = (change.colour, &job.cluster.region.nats) {
        text += &match discard_durables(&job, access, colour, DISCARD_WITHIN).await {
            Ok(durables) => format!("; {}", deleted(&durables)),
            Err(error) => format!("; the durable of {colour} stays: {}", chain(&error)),
        };
    }
    Ok(text)
}

/// A report names what the fleet has lost since.
pub(super) fn no_longer(name: &str) -> StepError {
    StepError::Gate(format!("the fleet no longer has {name}"))
}

fn deleted(durables: &[DeletedDurable]) -> String {
    if durables.is_empty() {
        return "no durable was left".to_owned();
    }
    let names: Vec<_> = durables.iter().map(|gone| format!("{} of {}", gone.durable, gone.stream)).collect();
    format!("deleted {}", names.join(", "))
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

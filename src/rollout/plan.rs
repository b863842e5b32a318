//! The order of a deployment: which step, in which region, after which.
//!
//! Planning is pure, so the order can be shown before anything happens and tested without a
//! cluster. Blue-green and canary are one lane: a region begins when the one before it was switched
//! and verified. Parallel is a lane per region, each of which succeeds or fails alone.
//!
//! Invariant: what can't be undone, the end of the old colour, comes last in its lane; until then a
//! failure rolls the whole lane back.

use std::fmt;

use clap::ValueEnum as _;

use super::fleet::{Fleet, FleetRegion, FleetService, ServiceKind};

/// How regions follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Strategy {
    /// One region after another, each with both versions side by side
    BlueGreen,
    /// The same, but the first region compares both for as long as the fleet's `soak`
    Canary,
    /// All regions at the same time; one that fails is rolled back alone
    Parallel,
    /// Only the region of `--region`
    SingleRegion,
}

/// The name in flags and reports.
impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// What happens to the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeploymentMode {
    /// A new version takes over.
    Replace,
    /// What is active restarts; no release changes.
    Restart,
    /// The service switches to the standby colour.
    Promote,
}

/// What the operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeploymentRequest {
    pub(crate) strategy: Strategy,
    pub(crate) mode: DeploymentMode,
    /// `None` for all regions.
    pub(crate) region: Option<String>,
    /// Empty for all services.
    pub(crate) services: Vec<String>,
}

/// One step in one region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step<'a> {
    pub(crate) region: &'a FleetRegion,
    pub(crate) task: Task<'a>,
}

/// What a step is about, and what it does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Task<'a> {
    /// Gate of the region: NATS has its gateways to the other clusters.
    Gateways,
    /// Gate of the region: no certificate expires soon.
    Certificates,
    Service(&'a FleetService, ServiceStep),
}

/// A step of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceStep {
    /// Gate: streams and durables are as declared.
    Streams,
    /// Finds out what runs.
    Look,
    /// Starts the new colour beside the old one.
    Stage,
    /// Gate: the new colour is ready.
    Ready,
    /// Gate: the new colour agrees with the old one.
    Compare { soak: bool },
    /// Switches traffic to the new colour.
    Promote,
    /// Gate: the service leads to the expected colour, which is ready.
    Active,
    /// Replaces a plain service in place.
    Upgrade,
    /// Restarts what is active.
    Restart,
    /// Stops the old colour.
    Withdraw,
    /// Deletes the durables of the old colour.
    Retire,
}

impl<'a> Step<'a> {
    /// The service that the step is about; `None` for a gate of the region.
    pub(crate) const fn service(&self) -> Option<&'a FleetService> {
        match self.task {
            Task::Gateways | Task::Certificates => None,
            Task::Service(service, _) => Some(service),
        }
    }

    /// Whether `--skip-gates` leaves it out.
    pub(crate) const fn is_gate(&self) -> bool {
        use ServiceStep as S;
        match self.task {
            Task::Gateways | Task::Certificates => true,
            Task::Service(_, step) => matches!(step, S::Streams | S::Ready | S::Compare { .. } | S::Active),
        }
    }

    /// Whether a dry run performs it, as it changes nothing in a cluster.
    pub(crate) const fn only_reads(&self) -> bool {
        matches!(self.task, Task::Gateways | Task::Certificates | Task::Service(_, ServiceStep::Look))
    }
}

/// The name of the step, as reports and logs show it.
impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ServiceStep as S;
        f.write_str(match self.task {
            Task::Gateways => "gateways",
            Task::Certificates => "certificates",
            Task::Service(_, S::Streams) => "streams verify",
            Task::Service(_, S::Look) => "look",
            Task::Service(_, S::Stage) => "stage",
            Task::Service(_, S::Ready) => "readyz",
            Task::Service(_, S::Compare { soak: false }) => "compare",
            Task::Service(_, S::Compare { soak: true }) => "compare (soak)",
            Task::Service(_, S::Promote) => "promote",
            Task::Service(_, S::Active) => "active readyz",
            Task::Service(_, S::Upgrade) => "upgrade",
            Task::Service(_, S::Restart) => "restart",
            Task::Service(_, S::Withdraw) => "withdraw",
            Task::Service(_, S::Retire) => "retire",
        })
    }
}

/// Steps that follow one another.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lane<'a> {
    /// Rolled back together if one fails.
    pub(crate) steps: Vec<Step<'a>>,
    /// Run after all of `steps` succeeded, and not rolled back.
    pub(crate) closing: Vec<Step<'a>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeploymentPlan<'a> {
    /// Gates that must pass before anything changes.
    pub(crate) before: Vec<Step<'a>>,
    /// Run at the same time.
    pub(crate) lanes: Vec<Lane<'a>>,
}

/// The request does not fit the fleet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PlanError(String);

/// Puts the steps in order.
///
/// # Errors
/// The request names regions or services that the fleet does not have.
pub(crate) fn plan<'a>(
    fleet: &'a Fleet,
    request: &DeploymentRequest,
) -> Result<DeploymentPlan<'a>, PlanError> {
    let regions = chosen_regions(fleet, request)?;
    let services = chosen_services(fleet, request)?;
    let lanes = regions.iter().enumerate().map(|(index, region)| {
        let soak = request.strategy == Strategy::Canary && index == 0;
        region_lane(region, &services, request.mode, soak)
    });
    let lanes = if request.strategy == Strategy::Parallel {
        lanes.collect()
    } else {
        let mut one = Lane::default();
        for lane in lanes {
            one.steps.extend(lane.steps);
            one.closing.extend(lane.closing);
        }
        vec![one]
    };
    Ok(DeploymentPlan { before: before(fleet, &services, request.mode), lanes })
}

fn chosen_regions<'a>(
    fleet: &'a Fleet,
    request: &DeploymentRequest,
) -> Result<Vec<&'a FleetRegion>, PlanError> {
    let all = names(fleet.regions.iter().map(|region| region.name.as_str()));
    match (&request.region, request.strategy) {
        (Some(name), _) => match fleet.region(name) {
            Some(region) => Ok(vec![region]),
            None => Err(PlanError(format!("the fleet has no region `{name}`; it has {all}"))),
        },
        (None, Strategy::SingleRegion) => {
            Err(PlanError(format!("single-region needs a region; the fleet has {all}")))
        }
        (None, _) => Ok(fleet.regions.iter().collect()),
    }
}

fn chosen_services<'a>(
    fleet: &'a Fleet,
    request: &DeploymentRequest,
) -> Result<Vec<&'a FleetService>, PlanError> {
    if let Some(unknown) = request.services.iter().find(|name| fleet.service(name).is_none()) {
        let all = names(fleet.services.iter().map(|service| service.name.as_str()));
        return Err(PlanError(format!("the fleet has no service `{unknown}`; it has {all}")));
    }
    let all = request.services.is_empty();
    let promote = request.mode == DeploymentMode::Promote;
    let chosen = |service: &&FleetService| {
        if all {
            !promote || service.kind == ServiceKind::Exporter
        } else {
            request.services.contains(&service.name)
        }
    };
    let services: Vec<_> = fleet.services.iter().filter(chosen).collect();
    match services.iter().find(|service| promote && service.kind == ServiceKind::Plain) {
        Some(FleetService { name, .. }) => Err(PlanError(format!(
            "service `{name}` has no colours to promote; name one that has with --services"
        ))),
        None => Ok(services),
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// The gates of every region, also of those that are not deployed to: each depends on the NATS of
/// the others.
fn before<'a>(fleet: &'a Fleet, services: &[&'a FleetService], mode: DeploymentMode) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    for region in &fleet.regions {
        if !region.gateways.is_empty() {
            steps.push(Step { region, task: Task::Gateways });
        }
        if !region.certificates.is_empty() {
            steps.push(Step { region, task: Task::Certificates });
        }
        if mode != DeploymentMode::Restart {
            let exporters = services.iter().filter(|service| service.kind == ServiceKind::Exporter);
            let verify = |service| Step { region, task: Task::Service(service, ServiceStep::Streams) };
            steps.extend(exporters.copied().map(verify));
        }
    }
    steps
}

fn region_lane<'a>(
    region: &'a FleetRegion,
    services: &[&'a FleetService],
    mode: DeploymentMode,
    soak: bool,
) -> Lane<'a> {
    use ServiceStep as S;
    let mut lane = Lane::default();
    for &service in services {
        let (steps, closing): (&[S], &[S]) = match (service.kind, mode) {
            (ServiceKind::Plain, DeploymentMode::Restart) => (&[S::Restart], &[]),
            (ServiceKind::Plain, _) => (&[S::Look, S::Upgrade], &[]),
            (ServiceKind::Exporter, DeploymentMode::Restart) => (&[S::Look, S::Restart, S::Active], &[]),
            (ServiceKind::Exporter, DeploymentMode::Promote) => {
                (&[S::Look, S::Compare { soak }, S::Promote, S::Active, S::Streams], &[])
            }
            (ServiceKind::Exporter, DeploymentMode::Replace) => (
                &[S::Look, S::Stage, S::Ready, S::Compare { soak }, S::Promote, S::Active, S::Streams],
                &[S::Withdraw, S::Retire],
            ),
        };
        let step = |&step| Step { region, task: Task::Service(service, step) };
        lane.steps.extend(steps.iter().map(step));
        lane.closing.extend(closing.iter().map(step));
    }
    if !region.gateways.is_empty() {
        lane.steps.push(Step { region, task: Task::Gateways });
    }
    lane
}

#[cfg(test)]
mod tests;

//! The order of a deployment: which step, in which region, after which.
//!
//! Planning is pure, so that the order can be shown before anything happens and tested without a cluster. Blue-green and
//! canary are one lane: a region begins when the one before has been switched over and looked at. Parallel is a lane for
//! each region, which stand and fall alone. What can't be undone, the old colour's end, comes last in its lane: until
//! then a failure anywhere takes the lane back to where it began.

use std::fmt;

use super::fleet::{Fleet, FleetRegion, Kind, Service};

/// How regions follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Strategy {
    /// One region after another, each with both colours side by side.
    BlueGreen,
    /// The same, and the first region watches both for long before it switches.
    Canary,
    /// All regions at the same time.
    Parallel,
    /// One region.
    SingleRegion,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) strategy: Strategy,
    /// Which region; all of them without.
    pub(crate) region: Option<String>,
    /// Which services; all of them if none is named.
    pub(crate) services: Vec<String>,
    /// Only restart what is active.
    pub(crate) restart_only: bool,
    /// Only switch to the colour that stands by.
    pub(crate) promote_only: bool,
}

/// One step in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) region: String,
    /// The service that it is about, if it is about one.
    pub(crate) service: Option<String>,
    pub(crate) action: Action,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Gate: NATS has its gateways to the other clusters.
    Gateways,
    /// Gate: no certificate runs out soon.
    Certificates,
    /// Gate: streams and durables are what they should be.
    Streams,
    /// Finds out what runs.
    Look,
    /// Lets the new colour run beside the old one.
    Stage,
    /// Gate: the new colour is ready.
    Ready,
    /// Gate: it agrees with the old one; for long, where it is the canary.
    Compare { soak: bool },
    /// Leads the service to the new colour.
    Promote,
    /// Gate: the service leads to it, and it is ready.
    Active,
    /// Replaces a plain service in place.
    Upgrade,
    /// Restarts what runs.
    Restart,
    /// Stops the old colour.
    Withdraw,
    /// Deletes the old colour's durable.
    Retire,
    /// Takes back what was changed; never planned.
    RollBack,
}

impl Action {
    /// Whether it only looks, so that it may be left out in an emergency.
    pub(crate) const fn is_gate(self) -> bool {
        matches!(
            self,
            Self::Gateways
                | Self::Certificates
                | Self::Streams
                | Self::Ready
                | Self::Compare { .. }
                | Self::Active
        )
    }

    /// Whether it changes nothing in a cluster, so that a dry run may do it.
    pub(crate) const fn only_reads(self) -> bool {
        matches!(self, Self::Gateways | Self::Certificates | Self::Look)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateways => "gateways",
            Self::Certificates => "certificates",
            Self::Streams => "streams verify",
            Self::Look => "look",
            Self::Stage => "stage",
            Self::Ready => "readyz",
            Self::Compare { soak: false } => "compare",
            Self::Compare { soak: true } => "compare (soak)",
            Self::Promote => "promote",
            Self::Active => "active readyz",
            Self::Upgrade => "upgrade",
            Self::Restart => "restart",
            Self::Withdraw => "withdraw",
            Self::Retire => "retire",
            Self::RollBack => "roll back",
        })
    }
}

/// Steps that follow one another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lane {
    /// Up to here everything can be taken back.
    pub(crate) steps: Vec<Step>,
    /// What follows when all of that went well, and is not taken back.
    pub(crate) closing: Vec<Step>,
}

/// A whole deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What must hold before anything is changed.
    pub(crate) before: Vec<Step>,
    /// Run at the same time.
    pub(crate) lanes: Vec<Lane>,
}

/// Why there is nothing to plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    /// A region that the fleet has not.
    #[error("the fleet has no region `{0}`; it has {1}")]
    UnknownRegion(String, String),
    /// A service that it has not.
    #[error("the fleet has no service `{0}`; it has {1}")]
    UnknownService(String, String),
    /// Which one?
    #[error("single-region needs a region; the fleet has {0}")]
    NoRegion(String),
    /// Only exporters have colours.
    #[error("service `{0}` has no colours to promote; name one that has with --services")]
    NotColoured(String),
}

/// Puts the steps in order.
///
/// # Errors
/// Regions and services that are not there.
pub(crate) fn plan(fleet: &Fleet, request: &Request) -> Result<Plan, PlanError> {
    let names = |names: Vec<&str>| names.join(", ");
    let all_regions = || names(fleet.regions.iter().map(|region| region.name.as_str()).collect());
    let regions: Vec<&FleetRegion> = match (&request.region, request.strategy) {
        (Some(name), _) => {
            let region = fleet.region(name);
            vec![region.ok_or_else(|| PlanError::UnknownRegion(name.clone(), all_regions()))?]
        }
        (None, Strategy::SingleRegion) => return Err(PlanError::NoRegion(all_regions())),
        (None, _) => fleet.regions.iter().collect(),
    };
    for name in &request.services {
        if fleet.service(name).is_none() {
            let all = names(fleet.services.iter().map(|service| service.name.as_str()).collect());
            return Err(PlanError::UnknownService(name.clone(), all));
        }
    }
    let chosen = |service: &&Service| request.services.is_empty() || request.services.contains(&service.name);
    let mut services: Vec<&Service> = fleet.services.iter().filter(chosen).collect();
    if request.promote_only {
        if request.services.is_empty() {
            services.retain(|service| service.kind == Kind::Exporter);
        }
        if let Some(plain) = services.iter().find(|service| service.kind == Kind::Plain) {
            return Err(PlanError::NotColoured(plain.name.clone()));
        }
    }

    let mut plan = Plan { before: before(fleet, &services, request), lanes: Vec::new() };
    let mut lane = Lane::default();
    for (index, region) in regions.iter().enumerate() {
        let soak = request.strategy == Strategy::Canary && index == 0;
        let own = region_lane(region, &services, request, soak);
        if request.strategy == Strategy::Parallel {
            plan.lanes.push(own);
        } else {
            lane.steps.extend(own.steps);
            lane.closing.extend(own.closing);
        }
    }
    if request.strategy != Strategy::Parallel {
        plan.lanes.push(lane);
    }
    Ok(plan)
}

/// The gates of every cluster, also of those that are not deployed to: each depends on the others' NATS.
fn before(fleet: &Fleet, services: &[&Service], request: &Request) -> Vec<Step> {
    let mut steps = Vec::new();
    for region in &fleet.regions {
        if !region.gateways.is_empty() {
            steps.push(step(region, None, Action::Gateways));
        }
        if !region.certificates.is_empty() {
            steps.push(step(region, None, Action::Certificates));
        }
        // A chart's test has to be there already, which a first installation has yet to bring.
        if !request.restart_only {
            steps.extend(streams(region, services));
        }
    }
    steps
}

fn streams<'a>(region: &'a FleetRegion, services: &'a [&Service]) -> impl Iterator<Item = Step> + 'a {
    let exporters = services.iter().filter(|service| service.kind == Kind::Exporter);
    exporters.map(|service| step(region, Some(service), Action::Streams))
}

fn region_lane(region: &FleetRegion, services: &[&Service], request: &Request, soak: bool) -> Lane {
    let mut lane = Lane::default();
    for service in services {
        let mut add = |action| lane.steps.push(step(region, Some(service), action));
        match (service.kind, request.restart_only) {
            (Kind::Plain, true) => add(Action::Restart),
            (Kind::Plain, false) => {
                add(Action::Look);
                add(Action::Upgrade);
            }
            (Kind::Exporter, true) => {
                add(Action::Look);
                add(Action::Restart);
                add(Action::Active);
            }
            (Kind::Exporter, false) => {
                add(Action::Look);
                if !request.promote_only {
                    add(Action::Stage);
                    add(Action::Ready);
                }
                add(Action::Compare { soak });
                add(Action::Promote);
                add(Action::Active);
                add(Action::Streams);
                if !request.promote_only {
                    lane.closing.push(step(region, Some(service), Action::Withdraw));
                    lane.closing.push(step(region, Some(service), Action::Retire));
                }
            }
        }
    }
    if !region.gateways.is_empty() {
        lane.steps.push(step(region, None, Action::Gateways));
    }
    lane
}

fn step(region: &FleetRegion, service: Option<&Service>, action: Action) -> Step {
    Step { region: region.name.to_string(), service: service.map(|service| service.name.clone()), action }
}

#[cfg(test)]
mod tests;

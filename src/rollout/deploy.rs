//! Running a plan: step after step, to the first that fails, and back.
//!
//! Before something is changed, the way back is written down: the revision at which the release was. A lane that fails
//! goes back to those revisions in the reverse order, which brings the service, both colours and their settings to
//! where they were in one move each. What was written down survives a run that is killed: [`undo`] takes it up.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;

use super::cluster::{Cluster, CutShort, Scope};
use super::fleet::{Fleet, FleetRegion, Service};
use super::plan::{Action, Lane, Plan, Request, Step};
use super::report::{Change, Line, Outcome, Places, Report, StepResult};
use super::steps::StepError;
use crate::http_client::HttpClient;

/// What to do, and how carefully.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) request: Request,
    /// The tag of the new colour's image; the chart's own version without.
    pub(crate) version: Option<String>,
    pub(crate) dry_run: bool,
    pub(crate) skip_gates: bool,
    /// How long one step may take.
    pub(crate) step_timeout: Duration,
    /// How long all of it may take, roll-back not included.
    pub(crate) timeout: Duration,
    pub(crate) places: Places,
}

/// What runs in a region, as it was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The release's revision; none if it is not installed.
    pub(super) revision: Option<String>,
    /// The active colour; none before the first installation.
    pub(super) old: Option<String>,
    /// The colour that takes over.
    pub(super) new: String,
    /// What the old one runs, which a new chart must not change.
    pub(super) old_image: Option<String>,
    /// What the new one runs already, if it is only to be promoted.
    pub(super) new_image: Option<String>,
}

/// A deployment under way.
pub(super) struct Run<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) order: &'a Order,
    pub(super) http: HttpClient,
    /// Turns true when somebody sends a signal.
    stop: watch::Receiver<bool>,
    end: tokio::time::Instant,
    report: Mutex<Report>,
    known: Mutex<BTreeMap<(String, String), Known>>,
}

/// Runs a plan and tells what came of it.
pub(crate) async fn deploy(
    fleet: &Fleet,
    order: &Order,
    plan: &Plan,
    http: HttpClient,
    stop: watch::Receiver<bool>,
) -> Report {
    let start = Instant::now();
    let run = Run::new(fleet, order, http, stop, Report::default());
    {
        let mut report = run.report();
        report.request = described(order);
        report.gates_skipped = order.skip_gates;
        report.dry_run = order.dry_run;
    }
    run.save();
    let mut failed = false;
    for (index, step) in plan.before.iter().enumerate() {
        if !run.step(step).await {
            failed = true;
            run.not_run(&plan.before[index + 1..]);
            break;
        }
    }
    if failed {
        plan.lanes.iter().for_each(|lane| run.not_run(&[&lane.steps[..], &lane.closing].concat()));
        run.finish(Outcome::Stopped, start)
    } else {
        let outcomes = join_all(plan.lanes.iter().map(|lane| run.lane(lane))).await;
        let worst = outcomes.into_iter().max_by_key(|outcome| gravity(*outcome)).unwrap_or(Outcome::Done);
        run.finish(worst, start)
    }
}

/// Takes back what an earlier run left changed, as its report tells.
pub(crate) async fn undo(
    fleet: &Fleet,
    order: &Order,
    left: Report,
    http: HttpClient,
    stop: watch::Receiver<bool>,
) -> Report {
    let start = Instant::now();
    let changes = left.changes.clone();
    let run = Run::new(fleet, order, http, stop, left);
    let taken_back = run.take_back(changes).await;
    let before = run.report().result;
    let outcome = match before {
        _ if !taken_back => Outcome::Failed,
        Outcome::Unfinished | Outcome::Failed => Outcome::RolledBack,
        ended => ended,
    };
    run.finish(outcome, start)
}

fn gravity(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Done => 0,
        Outcome::Stopped => 1,
        Outcome::RolledBack => 2,
        Outcome::Failed | Outcome::Unfinished => 3,
    }
}

fn described(order: &Order) -> String {
    let Request { strategy, region, services, restart_only, promote_only } = &order.request;
    let strategy = serde_json::to_string(strategy).unwrap_or_default();
    let mut text = strategy.trim_matches('"').to_owned();
    if *restart_only {
        text += ", restart only";
    }
    if *promote_only {
        text += ", promote only";
    }
    text += &format!(", region {}", region.as_deref().unwrap_or("all"));
    let services = if services.is_empty() { "all".to_owned() } else { services.join(" and ") };
    text += &format!(", services {services}");
    if let Some(version) = &order.version {
        text += &format!(", version {version}");
    }
    text
}

impl<'a> Run<'a> {
    fn new(
        fleet: &'a Fleet,
        order: &'a Order,
        http: HttpClient,
        stop: watch::Receiver<bool>,
        report: Report,
    ) -> Self {
        let end = tokio::time::Instant::now() + order.timeout;
        Self { fleet, order, http, stop, end, report: Mutex::new(report), known: Mutex::default() }
    }

    pub(super) fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn known(&self, step: &Step) -> Known {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&key(step)).cloned().unwrap_or_default()
    }

    pub(super) fn know(&self, step: &Step, known: Known) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key(step), known);
    }

    /// The cluster of a step's region, until its time is up.
    pub(super) fn cluster(&self, region: &'a FleetRegion) -> Cluster<'a> {
        let deadline = self.end.min(tokio::time::Instant::now() + self.order.step_timeout);
        Cluster { region, scope: Scope { deadline, stop: self.stop.clone() } }
    }

    fn save(&self) {
        if let Some(path) = &self.order.places.json
            && let Err(error) = self.report().save(path)
        {
            tracing::error!(%error, path = %path.display(), "the report cannot be written");
        }
    }

    fn tell(&self, line: Line) {
        let Line { region, service, step, result, seconds, detail } = &line;
        let service = service.as_deref().unwrap_or_default();
        match result {
            StepResult::Failed => tracing::error!(region, service, step, seconds, "failed: {detail}"),
            StepResult::Skipped => tracing::warn!(region, service, step, "skipped: {detail}"),
            _ => tracing::info!(region, service, step, ?result, seconds, "{detail}"),
        }
        self.report().steps.push(line);
        self.save();
    }

    fn not_run(&self, steps: &[Step]) {
        let lines = steps.iter().map(|step| Line::unmeasured(step, StepResult::NotRun, String::new()));
        self.report().steps.extend(lines);
        self.save();
    }

    /// One lane, to its end or back.
    async fn lane(&self, lane: &Lane) -> Outcome {
        for (index, step) in lane.steps.iter().enumerate() {
            if self.step(step).await {
                continue;
            }
            let mine = |change: &Change| {
                lane.steps.iter().any(|step| {
                    step.region == change.region && step.service.as_ref() == Some(&change.service)
                })
            };
            let changes: Vec<_> =
                self.report().changes.iter().filter(|change| mine(change)).cloned().collect();
            let restarted = lane.steps[..=index].iter().any(|step| step.action == Action::Restart);
            let changed = !changes.is_empty();
            let taken_back = self.take_back(changes).await;
            self.not_run(&[&lane.steps[index + 1..], &lane.closing].concat());
            return match (taken_back, changed, restarted) {
                (false, ..) | (_, false, true) => Outcome::Failed,
                (true, true, _) => Outcome::RolledBack,
                (true, false, false) => Outcome::Stopped,
            };
        }
        // From here on there is no way back, nor a need for one.
        let of_lane = |change: &Change| lane.steps.iter().any(|step| step.region == change.region);
        self.report().changes.retain(|change| !of_lane(change));
        self.save();
        for (index, step) in lane.closing.iter().enumerate() {
            if !self.step(step).await {
                self.not_run(&lane.closing[index + 1..]);
                let (region, action) = (&step.region, step.action);
                self.report().why.push(format!(
                    "{region}: the new colour is active and stays so; {action} of the old one has to be done again"
                ));
                return Outcome::Failed;
            }
        }
        Outcome::Done
    }

    /// Runs one step and writes down what came of it; whether the next one may follow.
    async fn step(&self, step: &Step) -> bool {
        if self.order.skip_gates && step.action.is_gate() {
            let detail = "--skip-gates: nobody looked".to_owned();
            self.tell(Line::unmeasured(step, StepResult::Skipped, detail));
            return true;
        }
        if self.order.dry_run && !step.action.only_reads() {
            self.tell(Line::unmeasured(step, StepResult::Planned, String::new()));
            return true;
        }
        let start = Instant::now();
        let done = match self.place(step) {
            Ok((region, service)) => self.act(step, region, service).await,
            Err(error) => Err(error),
        };
        let took = start.elapsed();
        match done {
            Ok(detail) => {
                let result = if detail.left_to_a_person { StepResult::Skipped } else { StepResult::Ok };
                self.tell(Line::measured(step, result, took, detail.text));
                true
            }
            Err(error) => {
                let reason = error.line();
                let service = step.service.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
                self.report().why.push(format!("{}{service}: {} failed: {reason}", step.region, step.action));
                self.tell(Line::measured(step, StepResult::Failed, took, reason));
                false
            }
        }
    }

    /// What a step's names stand for.
    fn place(&self, step: &Step) -> Result<(&'a FleetRegion, Option<&'a Service>), StepError> {
        let missing = || StepError::Gate(format!("the fleet has no {} any more", step.region));
        let region = self.fleet.region(&step.region).ok_or_else(missing)?;
        let service =
            step.service.as_deref().map(|name| self.fleet.service(name).ok_or_else(missing)).transpose()?;
        Ok((region, service))
    }

    /// Writes down the way back, before the first change of a service.
    pub(super) fn will_change(&self, step: &Step, known: &Known, colour: Option<&str>) {
        let service = step.service.clone().unwrap_or_default();
        let mut report = self.report();
        let same = |change: &Change| change.region == step.region && change.service == service;
        if !report.changes.iter().any(same) {
            report.changes.push(Change {
                region: step.region.clone(),
                service,
                revision: known.revision.clone(),
                colour: colour.map(str::to_owned),
            });
        }
        drop(report);
        self.save();
    }

    /// Takes changes back, the last one first; whether all are.
    async fn take_back(&self, changes: Vec<Change>) -> bool {
        let mut all = true;
        for change in changes.into_iter().rev() {
            let step = Step {
                region: change.region.clone(),
                service: Some(change.service.clone()),
                action: Action::RollBack,
            };
            let start = Instant::now();
            // A signal has brought us here perhaps, and must not end this too.
            let (never, stop) = watch::channel(false);
            let deadline = tokio::time::Instant::now() + self.order.step_timeout;
            let done = match self.place(&step) {
                Ok((region, Some(service))) => {
                    let cluster = Cluster { region, scope: Scope { deadline, stop } };
                    self.roll_back(&cluster, service, &change).await
                }
                Ok((_, None)) => Err(StepError::Cut(CutShort::TimedOut)),
                Err(error) => Err(error),
            };
            drop(never);
            let took = start.elapsed();
            match done {
                Ok(detail) => {
                    self.report().changes.retain(|left| *left != change);
                    self.tell(Line::measured(&step, StepResult::Ok, took, detail));
                }
                Err(error) => {
                    all = false;
                    let reason = error.line();
                    let Change { region, service, .. } = &change;
                    self.report().why.push(format!("{region} {service}: roll back failed: {reason}"));
                    self.tell(Line::measured(&step, StepResult::Failed, took, reason));
                }
            }
        }
        all
    }

    fn finish(self, outcome: Outcome, start: Instant) -> Report {
        {
            let mut report = self.report();
            report.result = outcome;
            report.seconds += start.elapsed().as_secs_f64();
        }
        self.save();
        let report = self.report.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.order.places.markdown
            && let Err(error) = report.append_markdown(path)
        {
            tracing::error!(%error, path = %path.display(), "the summary cannot be written");
        }
        report
    }
}

fn key(step: &Step) -> (String, String) {
    (step.region.clone(), step.service.clone().unwrap_or_default())
}

//! Runs a plan: step after step, to the first that fails, and then back.
//!
//! Before anything changes, the way back is written down: the revision of the release. A lane that
//! fails goes back to those revisions in reverse order; each roll-back restores the service, both
//! colours and their settings at once. What was written down survives a run that is killed, and
//! [`undo`] rolls it back.
//!
//! Invariant: a lane either reaches the end of its steps or rolls back all that it changed, or the
//! report lists what is left changed.

use std::time::Instant;

use futures_util::future::join_all;
use tokio::sync::watch;

use super::cluster::{Cluster, StepLimit};
use super::fleet::Fleet;
use super::plan::{DeploymentPlan, Lane, ServiceStep, Step, Task};
use super::report::{DeploymentReport, Outcome, ReleaseChange, StepLine, StepResult};
use super::run::{DeploymentOrder, Run, StepError};
use super::steps::{self, no_longer, perform};
use crate::config::chain;
use crate::http_client::HttpClient;

/// Runs a plan. `stop` turns true when the process receives a signal.
pub(crate) async fn deploy(
    fleet: &Fleet,
    order: &DeploymentOrder,
    plan: &DeploymentPlan<'_>,
    http: HttpClient,
    stop: watch::Receiver<bool>,
) -> DeploymentReport {
    let report = DeploymentReport {
        request: order.in_words(),
        gates_skipped: order.care.skip_gates,
        dry_run: order.care.dry_run,
        ..DeploymentReport::default()
    };
    let run = Run::new(fleet, order, http, stop, report);
    run.save();
    let outcome = run_plan(&run, plan).await;
    run.finish(outcome)
}

/// Rolls back what an earlier run left changed, as its report says.
pub(crate) async fn undo(
    fleet: &Fleet,
    order: &DeploymentOrder,
    left: DeploymentReport,
    http: HttpClient,
    stop: watch::Receiver<bool>,
) -> DeploymentReport {
    let (changes, before) = (left.changes.clone(), left.result);
    let run = Run::new(fleet, order, http, stop, left);
    let outcome = match (roll_back(&run, changes).await, before) {
        (false, _) => Outcome::Failed,
        (true, Outcome::Unfinished | Outcome::Failed) => Outcome::RolledBack,
        (true, ended) => ended,
    };
    run.finish(outcome)
}

async fn run_plan<'a>(run: &'a Run<'a>, plan: &DeploymentPlan<'a>) -> Outcome {
    for (index, step) in plan.before.iter().enumerate() {
        if !run_step(run, step).await {
            run.not_run(&plan.before[index + 1..]);
            for lane in &plan.lanes {
                run.not_run(lane.steps.iter().chain(&lane.closing));
            }
            return Outcome::Stopped;
        }
    }
    let outcomes = join_all(plan.lanes.iter().map(|lane| run_lane(run, lane))).await;
    outcomes.into_iter().max().unwrap_or(Outcome::Done)
}

async fn run_lane<'a>(run: &'a Run<'a>, lane: &Lane<'a>) -> Outcome {
    for (index, step) in lane.steps.iter().enumerate() {
        if !run_step(run, step).await {
            return fail_lane(run, lane, index).await;
        }
    }
    // From here on there is no way back, nor a need for one.
    run.report().changes.retain(|change| !in_lane(lane, change));
    run.save();
    for (index, step) in lane.closing.iter().enumerate() {
        if !run_step(run, step).await {
            run.not_run(&lane.closing[index + 1..]);
            run.report().why.push(format!(
                "{}: the new colour is active and stays so; {step} of the old one has to be repeated",
                step.region.name
            ));
            return Outcome::Failed;
        }
    }
    Outcome::Done
}

/// Rolls a lane back, of which the step at `failed` failed.
async fn fail_lane<'a>(run: &'a Run<'a>, lane: &Lane<'a>, failed: usize) -> Outcome {
    let changes: Vec<_> =
        run.report().changes.iter().filter(|change| in_lane(lane, change)).cloned().collect();
    let changed = !changes.is_empty();
    let rolled_back = roll_back(run, changes).await;
    run.not_run(lane.steps[failed + 1..].iter().chain(&lane.closing));
    let is_restart = |step: &Step<'_>| matches!(step.task, Task::Service(_, ServiceStep::Restart));
    let restarted = lane.steps[..=failed].iter().any(is_restart);
    match (rolled_back, changed, restarted) {
        (false, ..) | (_, false, true) => Outcome::Failed,
        (true, true, _) => Outcome::RolledBack,
        (true, false, false) => Outcome::Stopped,
    }
}

/// Whether a step of the lane made the change: lanes have no region in common.
fn in_lane(lane: &Lane<'_>, change: &ReleaseChange) -> bool {
    lane.steps.iter().any(|step| step.region.name.as_str() == change.region)
}

/// Runs and reports one step; `true` if the next one may follow.
async fn run_step<'a>(run: &'a Run<'a>, step: &Step<'a>) -> bool {
    if run.order.care.skip_gates && step.is_gate() {
        let detail = "not checked, because of --skip-gates".to_owned();
        run.record(StepLine::of(step, StepResult::Skipped, None, detail));
        return true;
    }
    if run.order.care.dry_run && !step.only_reads() {
        run.record(StepLine::of(step, StepResult::Planned, None, String::new()));
        return true;
    }
    let start = Instant::now();
    let done = perform(run, step).await;
    let line = StepLine::of(step, StepResult::Ok, Some(start.elapsed()), String::new());
    record_result(run, line, done)
}

/// Reports a step that ran; `true` unless it failed.
fn record_result(run: &Run<'_>, line: StepLine, done: Result<(StepResult, String), StepError>) -> bool {
    let (result, detail) = done.unwrap_or_else(|error| {
        let StepLine { region, service, step, .. } = &line;
        let reason = chain(&error);
        let service = service.as_ref().map(|service| format!(" {service}")).unwrap_or_default();
        run.report().why.push(format!("{region}{service}: {step} failed: {reason}"));
        (StepResult::Failed, reason)
    });
    run.record(StepLine { result, detail, ..line });
    result != StepResult::Failed
}

/// Rolls changes back, the last one first; `true` if all could be.
async fn roll_back<'a>(run: &'a Run<'a>, changes: Vec<ReleaseChange>) -> bool {
    let mut all = true;
    for change in changes.into_iter().rev() {
        let start = Instant::now();
        let done = roll_back_one(run, &change).await;
        if done.is_ok() {
            run.report().changes.retain(|left| *left != change);
        }
        let line = StepLine {
            region: change.region,
            service: Some(change.service),
            step: "roll back".to_owned(),
            result: StepResult::Ok,
            seconds: Some(start.elapsed().as_secs_f64()),
            detail: String::new(),
        };
        all &= record_result(run, line, done.map(|detail| (StepResult::Ok, detail)));
    }
    all
}

async fn roll_back_one<'a>(run: &'a Run<'a>, change: &ReleaseChange) -> Result<String, StepError> {
    let region = run.fleet.region(&change.region).ok_or_else(|| no_longer(&change.region))?;
    // A signal may be the reason for rolling back, and must not end that too.
    let (_never, stop) = watch::channel(false);
    let deadline = tokio::time::Instant::now() + run.order.care.step_timeout;
    let cluster = Cluster { region, limit: StepLimit { deadline, stop } };
    steps::roll_back(run, cluster, change).await
}

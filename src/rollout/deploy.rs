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

use super::chain::chain;
use super::cluster::{Cluster, StepLimit};
use super::failure::StepError;
use super::fleet::Fleet;
use super::plan::{DeploymentPlan, Lane, ServiceStep, Step, Task};
use super::report::{DeploymentReport, Outcome, ReleaseChange, StepLine, StepResult};
use super::run::{DeploymentOrder, Run};
use super::steps::{self, StepReport, no_longer, perform};
use crate::http_client::HttpClient;

/// Runs a plan. `stop` turns true when the process receives a signal.
pub(crate) async fn deploy(
    fleet: &Fleet,
    order: &DeploymentOrder,
    plan: &DeploymentPlan<'_>,
    http: HttpClient,
    stop: watch::Receiver<bool>,
) -> DeploymentReport {
    let run = Run::new(fleet, order, http, stop, Run::new_report(order));
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
    let of_lane =
        |change: &ReleaseChange| lane.steps.iter().any(|step| *step.region.name.as_str() == change.region);
    run.report().changes.retain(|change| !of_lane(change));
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
    let of_lane = |change: &ReleaseChange| {
        lane.steps.iter().any(|step| {
            step.service().is_some_and(|service| change.is_of(step.region.name.as_str(), &service.name))
        })
    };
    let changes: Vec<_> = run.report().changes.iter().filter(|change| of_lane(change)).cloned().collect();
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

/// Runs and reports one step; `true` if the next one may follow.
async fn run_step<'a>(run: &'a Run<'a>, step: &Step<'a>) -> bool {
    if run.order.skip_gates && step.is_gate() {
        let detail = "not checked, because of --skip-gates".to_owned();
        run.record(StepLine::of(step, StepResult::Skipped, None, detail));
        return true;
    }
    if run.order.dry_run && !step.only_reads() {
        run.record(StepLine::of(step, StepResult::Planned, None, String::new()));
        return true;
    }
    let start = Instant::now();
    let report = perform(run, step).await;
    let took = Some(start.elapsed());
    let (result, detail) = match report {
        Ok(StepReport::Done(detail)) => (StepResult::Ok, detail),
        Ok(StepReport::LeftToOperator(detail)) => (StepResult::Skipped, detail),
        Err(error) => {
            let reason = chain(&error);
            let service = step.service().map(|service| format!(" {}", service.name)).unwrap_or_default();
            run.report().why.push(format!("{}{service}: {step} failed: {reason}", step.region.name));
            (StepResult::Failed, reason)
        }
    };
    run.record(StepLine::of(step, result, took, detail));
    result != StepResult::Failed
}

/// Rolls changes back, the last one first; `true` if all could be.
async fn roll_back<'a>(run: &'a Run<'a>, changes: Vec<ReleaseChange>) -> bool {
    let mut all = true;
    for change in changes.into_iter().rev() {
        let start = Instant::now();
        let done = roll_back_one(run, &change).await;
        let ReleaseChange { region, service, .. } = &change;
        let (result, detail) = match done {
            Ok(detail) => {
                run.report().changes.retain(|left| *left != change);
                (StepResult::Ok, detail)
            }
            Err(error) => {
                all = false;
                let reason = chain(&error);
                run.report().why.push(format!("{region} {service}: roll back failed: {reason}"));
                (StepResult::Failed, reason)
            }
        };
        run.record(StepLine {
            region: region.clone(),
            service: Some(service.clone()),
            step: "roll back".to_owned(),
            result,
            seconds: Some(start.elapsed().as_secs_f64()),
            detail,
        });
    }
    all
}

async fn roll_back_one<'a>(run: &'a Run<'a>, change: &ReleaseChange) -> Result<String, StepError> {
    let region = run.fleet.region(&change.region).ok_or_else(|| no_longer(&change.region))?;
    // A signal may be the reason for rolling back, and must not end that too.
    let (_never, stop) = watch::channel(false);
    let deadline = tokio::time::Instant::now() + run.order.step_timeout;
    let cluster = Cluster { region, limit: StepLimit { deadline, stop } };
    steps::roll_back(run, cluster, change).await
}

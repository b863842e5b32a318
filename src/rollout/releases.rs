//! The values that make the chart what each phase of a deployment needs, and the helm calls with
//! them.
//!
//! Invariant: a release changes only the colour that is new; the image of the old one stays what it
//! was.

use super::cluster::{ToolError, timeout_flag};
use super::colour::Colour;
use super::diff;
use super::fleet::ServiceKind;
use super::plan::DeploymentMode;
use super::report::ManifestDifference;
use super::run::{ServiceJob, StepError};

/// Which colours run, and which of them is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Both run, the old one is active.
    Beside,
    /// Both run, the new one is active.
    Switched,
    /// The new one runs alone.
    Alone,
}

/// Reports how the manifests would differ after each step that changes the release.
pub(super) async fn preview(job: &ServiceJob<'_>) -> Result<(), StepError> {
    let ServiceJob { run, cluster, service, found } = job;
    let mut before = match found.revision {
        None => String::new(),
        Some(_) => cluster.helm(service, &["get", "manifest", &service.release]).await?,
    };
    let (stage, promote) = (("stage", Some(Phase::Beside)), ("promote", Some(Phase::Switched)));
    let phases: &[(&str, Option<Phase>)] = match (service.kind, found.old) {
        (ServiceKind::Plain, _) => &[("upgrade", None)],
        (ServiceKind::Exporter, None) => &[stage],
        (ServiceKind::Exporter, Some(_)) if run.order.request.mode == DeploymentMode::Promote => &[promote],
        (ServiceKind::Exporter, Some(_)) => &[stage, promote, ("withdraw", Some(Phase::Alone))],
    };
    for (after, phase) in phases {
        let rendered = render(job, "template", &["--no-hooks"], *phase).await?;
        run.report().differences.push(ManifestDifference {
            region: cluster.region.name.to_string(),
            service: service.name.clone(),
            after: (*after).to_owned(),
            text: diff::manifests(&before, &rendered)?,
        });
        before = rendered;
    }
    Ok(())
}

/// Upgrades the release to a phase; to `None` for a plain service.
pub(super) async fn upgrade(job: &ServiceJob<'_>, phase: Option<Phase>) -> Result<(), StepError> {
    let ServiceJob { run, cluster, service, .. } = job;
    // Servers that hold streams may take all of the time; an exporter that is not ready by then
    // never will be.
    let within = match service.kind {
        ServiceKind::Exporter => cluster.limit.left().min(run.fleet.gates.ready_within),
        ServiceKind::Plain => cluster.limit.left(),
    };
    render(job, "upgrade", &["--install", "--wait", "--timeout", &timeout_flag(within)], phase).await?;
    Ok(())
}

/// Calls helm with the chart, its version, its repository and the values of a phase.
async fn render(
    job: &ServiceJob<'_>,
    verb: &str,
    flags: &[&str],
    phase: Option<Phase>,
) -> Result<String, ToolError> {
    let (service, region) = (job.service, job.cluster.region);
    let mut arguments = Vec::new();
    let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    if let Some(version) = &service.chart_version {
        add("--version", version.clone());
    }
    if let Some(repository) = &service.repository {
        add("--repo", repository.clone());
    }
    for file in region.values.get(&service.name).into_iter().flatten() {
        add("--values", file.display().to_string());
    }
    for setting in region.set_file.get(&service.name).into_iter().flatten() {
        add("--set-file", setting.clone());
    }
    for setting in phase.into_iter().flat_map(|phase| settings(job, phase)) {
        // `--set-string` would make a string of a boolean.
        let boolean = setting.ends_with("enabled=true") || setting.ends_with("enabled=false");
        add(if boolean { "--set" } else { "--set-string" }, setting);
    }
    let mut call = vec![verb, &service.release, &service.chart];
    call.extend(flags);
    call.extend(arguments.iter().map(String::as_str));
    job.cluster.helm(service, &call).await
}

/// The values of a phase.
fn settings(job: &ServiceJob<'_>, phase: Phase) -> Vec<String> {
    let (found, new) = (&job.found, job.found.new_colour());
    let active = found.old.filter(|_| phase == Phase::Beside).unwrap_or(new);
    let mut settings = vec![format!("active={active}"), format!("colours.{new}.enabled=true")];
    match (&job.run.order.version, &found.new_image) {
        (Some(version), _) => settings.push(format!("colours.{new}.image.tag={version}")),
        (None, Some(image)) => settings.extend(image_settings(new, image)),
        (None, None) => {}
    }
    let running_old = found.old.filter(|_| phase != Phase::Alone);
    settings.push(format!("colours.{}.enabled={}", new.other(), running_old.is_some()));
    if let (Some(old), Some(image)) = (running_old, &found.old_image) {
        settings.extend(image_settings(old, image));
    }
    settings
}

/// `repository:tag` or `repository@digest` as values of a colour.
fn image_settings(colour: Colour, image: &str) -> Vec<String> {
    let of = |key: &str, value: &str| format!("colours.{colour}.image.{key}={value}");
    if let Some((repository, digest)) = image.split_once('@') {
        return vec![of("repository", repository), of("digest", digest)];
    }
    // A colon before the last slash belongs to the port of a registry.
    match image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((repository, tag)) => vec![of("repository", repository), of("tag", tag)],
        None => vec![of("repository", image)],
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
            assert_eq!(image_settings(Colour::Blue, image), settings);
        }
    }
}

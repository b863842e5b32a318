//! What helm is told: the values that make of the chart what each phase of a deployment is.

use super::cluster::Cluster;
use super::deploy::{Known, Run};
use super::diff;
use super::fleet::{FleetRegion, Kind, Service};
use super::plan::Step;
use super::report::Difference;
use super::steps::StepError;

/// Which colours run, and which of them is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Beside,
    Switched,
    Alone,
}

/// The colour that is not this one.
pub(super) fn other(colour: &str) -> &'static str {
    if colour == "blue" { "green" } else { "blue" }
}

impl Run<'_> {
    pub(super) async fn differences(
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
    pub(super) fn settings(&self, known: &Known, phase: Phase) -> Vec<String> {
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
    pub(super) fn chart_arguments(
        &self,
        region: &FleetRegion,
        service: &Service,
        settings: Vec<String>,
    ) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(version) = &service.chart_version {
            arguments.extend(["--version".to_owned(), version.clone()]);
        }
        if let Some(repository) = &service.repository {
            arguments.extend(["--repo".to_owned(), repository.clone()]);
        }
        for file in region.values.get(&service.name).into_iter().flatten() {
            arguments.extend(["--values".to_owned(), file.display().to_string()]);
        }
        for setting in region.set_file.get(&service.name).into_iter().flatten() {
            arguments.extend(["--set-file".to_owned(), setting.clone()]);
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

    pub(super) async fn upgrade(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        known: &Known,
        phase: Phase,
    ) -> Result<(), StepError> {
        self.helm_upgrade(cluster, service, self.settings(known, phase)).await
    }

    pub(super) async fn helm_upgrade(
        &self,
        cluster: &Cluster<'_>,
        service: &Service,
        settings: Vec<String>,
    ) -> Result<(), StepError> {
        // An exporter that is not ready by then won't be. Servers that hold streams take their time.
        let within = match service.kind {
            Kind::Exporter => cluster.scope.left().min(self.fleet.gates.ready_within),
            Kind::Plain => cluster.scope.left(),
        };
        let timeout = format!("{}s", within.as_secs().max(1));
        let arguments = self.chart_arguments(cluster.region, service, settings);
        let mut call =
            vec!["upgrade", &service.release, &service.chart, "--install", "--wait", "--timeout", &timeout];
        call.extend(arguments.iter().map(String::as_str));
        cluster.helm(service, &call).await?;
        Ok(())
    }
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

//! A real Firefox without a window, which opens one page.
//!
//! It is not driven: the page itself tells a server of the test what it sees.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::process::temporary_directory;
use super::tool;

/// A fake camera and microphone, calls over loopback, and no requests of its own to the network.
const PREFERENCES: &str = r#"
user_pref("media.navigator.streams.fake", true);
user_pref("media.navigator.permission.disabled", true);
user_pref("media.peerconnection.ice.loopback", true);
user_pref("media.peerconnection.ice.obfuscate_host_addresses", false);
user_pref("media.autoplay.default", 0);
user_pref("media.gmp-manager.updateEnabled", false);
user_pref("app.update.disabledForTesting", true);
user_pref("app.normandy.enabled", false);
user_pref("browser.safebrowsing.downloads.remote.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.healthreport.uploadEnabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("extensions.update.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("services.settings.server", "data:,none");
user_pref("toolkit.telemetry.unified", false);
"#;

/// A running Firefox with a profile of its own. Dropped, it is killed with all of its processes.
#[derive(Debug)]
pub(crate) struct Firefox {
    child: Child,
    _profile: TempDir,
}

impl Firefox {
    /// Starts a browser that opens a URL; it may not be up yet when this returns.
    pub(crate) fn open(url: &str) -> Self {
        let profile = temporary_directory();
        fs::write(profile.path().join("user.js"), PREFERENCES).unwrap();
        let child = Command::new(tool::find("firefox", "firefox"))
            .args(["--headless", "--no-remote", "--profile"])
            .arg(profile.path())
            .arg(url)
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Self { child, _profile: profile }
    }

    /// Its major version.
    pub(crate) fn version() -> u32 {
        let output = Command::new(tool::find("firefox", "firefox")).arg("--version").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let version = text.split_whitespace().last().unwrap();
        version.split('.').next().unwrap().parse().unwrap()
    }
}

impl Drop for Firefox {
    fn drop(&mut self) {
        // Its helper processes are in its group. A failure means that all of them are gone already.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

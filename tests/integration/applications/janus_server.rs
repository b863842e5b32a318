//! A real Janus with a room.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::kit::process::{Process, temporary_directory};
use crate::kit::{port, tool};

/// The plugins that it loads: the room, and HTTP.
const LOADED: [&str; 2] = ["libjanus_videoroom.so", "libjanus_http.so"];

/// A Janus on 127.0.0.1 with a port and a configuration of its own.
#[derive(Debug)]
pub(super) struct Janus {
    port: u16,
    _process: Process,
    // Dropped after the process that reads it.
    _configuration: TempDir,
}

impl Janus {
    /// Returns once it answers over HTTP. The room's ids are texts.
    pub(super) fn start(room: &str) -> Self {
        let program = tool::find("janus", "janus");
        let (port, configuration) = (port::free(), temporary_directory());
        let write = |name: &str, text: &str| fs::write(configuration.path().join(name), text).unwrap();
        let plugins = plugins();
        let [others, transports] = ["plugins", "transports"].map(|folder| plugins.join(folder));
        write(
            "janus.jcfg",
            &format!(
                "general: {{ plugins_folder = {others:?}; transports_folder = {transports:?}; \
                 events_folder = {none:?}; loggers_folder = {none:?}; debug_colors = false }}
                 nat: {{ ice_enforce_list = \"127.0.0.1\" }}
                 plugins: {{ disable = {:?} }}
                 transports: {{ disable = {:?} }}",
                unused(&others),
                unused(&transports),
                none = configuration.path(),
            ),
        );
        write(
            "janus.transport.http.jcfg",
            &format!("general: {{ http = true; ip = \"127.0.0.1\"; port = {port}; base_path = \"/janus\" }}"),
        );
        write(
            "janus.plugin.videoroom.jcfg",
            &format!("general: {{ string_ids = true }} room-{room}: {{ publishers = 8; bitrate = 64000 }}"),
        );
        let mut command = Command::new(program);
        command.arg("--configs-folder").arg(configuration.path());
        let mut process = Process::spawn("janus", &mut command);
        process
            .wait_until_logged("HTTP webserver started")
            .unwrap_or_else(|ended| panic!("janus ended: {ended}"));
        Self { port, _process: process, _configuration: configuration }
    }

    /// The address for its library.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/janus", self.port)
    }
}

/// The folder of all plugins of the fetched package.
fn plugins() -> PathBuf {
    let libraries = tool::directory().join("janus/root/usr/lib");
    let mut folders = fs::read_dir(&libraries).unwrap().map(|entry| entry.unwrap().path().join("janus"));
    folders.find(|folder| folder.is_dir()).unwrap()
}

/// The plugins of a folder that nobody needs here, separated by commas.
fn unused(folder: &Path) -> String {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| !LOADED.contains(&&**name)).collect::<Vec<_>>().join(",")
}

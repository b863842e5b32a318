//! The browser client of clients/web, and pages that import it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use warp::reply::Reply;
use warp::{Filter, Rejection};

use super::tool;

/// What makes a call of two ends in one page.
const CALL: &str = include_str!("call.js");

/// A fake camera and microphone, and calls over loopback.
pub(crate) const CALLING: &[&str] = &[
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
];

/// The module as `./dev web` builds it.
///
/// # Panics
///
/// If it can't be built, with the reason.
fn module() -> &'static str {
    static BUILT: OnceLock<String> = OnceLock::new();
    BUILT.get_or_init(|| {
        let built = Command::new(tool::root().join("dev")).arg("web").output().unwrap();
        assert!(built.status.success(), "./dev web: {}", String::from_utf8_lossy(&built.stderr));
        fs::read_to_string(tool::root().join("clients/web/dist/callsight.js")).unwrap()
    })
}

/// A module in a folder of the tests with all that it imports: npm packages, and the client as
/// `callsight` and `callsight/janus`.
///
/// # Panics
///
/// If it can't be built, with the reason.
pub(crate) fn bundle(path: &str) -> String {
    let client = package();
    let dist = client.join("dist");
    let built = Command::new(client.join("node_modules/esbuild/bin/esbuild"))
        .arg(tool::root().join("tests/integration").join(path))
        .args(["--bundle", "--format=esm", "--log-level=warning"])
        .arg(format!("--alias:callsight={}", dist.join("index.js").display()))
        .arg(format!("--alias:callsight/janus={}", dist.join("adapters/janus.js").display()))
        .env("NODE_PATH", client.join("node_modules"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{path}: {}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8(built.stdout).unwrap()
}

/// The folder of the npm package, built.
pub(crate) fn package() -> PathBuf {
    module();
    tool::root().join("clients/web")
}

/// Answers a module of a page.
pub(crate) fn script(
    name: &'static str,
    text: String,
) -> impl Filter<Extract = (impl Reply,), Error = Rejection> + Clone {
    let answer = move || warp::reply::with_header(text.clone(), "Content-Type", "text/javascript");
    warp::get().and(warp::path(name)).map(answer)
}

/// Answers the modules that a page imports, and the page itself for everything else.
pub(crate) fn pages(page: &'static str) -> impl Filter<Extract = (impl Reply,), Error = Rejection> + Clone {
    let scripts = script("callsight.js", module().to_owned()).or(script("call.js", CALL.to_owned()));
    let page = warp::get().map(move || warp::reply::html(page));
    scripts.or(page)
}

/// Serves on a free port, and returns its URL.
pub(crate) async fn serve<F>(routes: F) -> String
where
    F: Filter<Error = Rejection> + Clone + Send + Sync + 'static,
    F::Extract: Reply,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(warp::serve(routes).incoming(listener).run());
    url
}

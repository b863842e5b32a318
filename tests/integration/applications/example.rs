//! `examples/web`, run as its README says.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::json;

use super::{Scene, everybody_receives_all_others};
use crate::ingest::client::SECRET;
use crate::kit::browser::Page;
use crate::kit::process::{Process, temporary_directory};
use crate::kit::{media, port, tool, wait, web};

/// Opens a page of the example and joins the call.
async fn join(scene: &Scene, application: &str, name: &str) -> Page {
    let page = scene.browser.window(640, 480).await;
    page.open(application).await;
    let fill = format!("document.forms.join.elements.name.value = {}", json!(name));
    page.evaluate(&fill).await;
    page.evaluate("document.forms.join.requestSubmit()").await;
    page.until("!document.getElementById('own').hidden").await;
    page
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_is_a_call_whose_mutes_are_known() {
    let _turn = media::turn().await;
    let port = port::free();
    let application = format!("http://127.0.0.1:{port}");
    let scene = Scene::start(&application).await;
    let folder = temporary_directory();
    fs::write(folder.path().join("call.key"), SECRET).unwrap();
    let example = tool::root().join("examples/web");
    for name in ["package.json", "server.js", "page"] {
        symlink(example.join(name), folder.path().join(name)).unwrap();
    }
    fs::create_dir(folder.path().join("node_modules")).unwrap();
    symlink(web::package(), folder.path().join("node_modules/callsight")).unwrap();
    let mut command = Command::new("node");
    command
        .args(["--preserve-symlinks", "--preserve-symlinks-main", "server.js"])
        .current_dir(folder.path())
        .env("PORT", port.to_string())
        .env("INGEST", scene.endpoint());
    let mut server = Process::spawn("the example", &mut command);
    server.wait_until_logged(&format!("http://localhost:{port}/")).unwrap();

    let ana = join(&scene, &application, "ana").await;
    let bo = join(&scene, &application, "bo").await;
    let names = wait::eventually_async(wait::PATIENCE, "two sessions", async || {
        let names: Vec<_> = scene.sessions().await.into_keys().collect();
        wait::when(names, |names| names.len() == 2)
    })
    .await;
    let [one, other] = [&*names[0], &*names[1]];
    assert!(one.starts_with("ana-") && other.starts_with("bo-"), "{names:?}");
    scene
        .until("both to hear and see each other", |sessions| {
            everybody_receives_all_others(sessions, &[one, other])
        })
        .await;

    bo.evaluate("document.getElementById('microphone').click()").await;
    ana.evaluate("document.querySelector('figure button').click()").await;
    scene
        .until("the mute and the hidden tile to be known", |sessions| {
            sessions[one].receives.get(other).is_some_and(|pair| {
                pair["peer_microphone_on"] == false && pair["video_wanted"] == false && pair["hears"] == true
            })
        })
        .await;

    bo.evaluate("document.getElementById('leave').click()").await;
    scene
        .until("the one who has left to be gone", |sessions| {
            sessions.keys().eq([one]) && sessions[one].receives.is_empty()
        })
        .await;
    for page in [ana, bo] {
        assert_eq!(page.complaints(), Vec::<String>::new());
    }
}

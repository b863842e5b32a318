//! The five minutes of `docs/browser.md`, with the code as it stands there.

use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};

use warp::Filter;

use super::Scene;
use crate::ingest::Way;
use crate::kit::callsight;
use crate::kit::process::{self, temporary_directory};
use crate::kit::wait::PATIENCE;
use crate::kit::web;

const DOCUMENT: &str = include_str!("../../../docs/browser.md");

/// The documented address of the way in.
const ENDPOINT: &str = "http://127.0.0.1:9475";

/// The block of a language that contains a text.
fn block(language: &str, text: &str) -> &'static str {
    let begin = format!("```{language}\n");
    let blocks = DOCUMENT.split(&*begin).skip(1);
    let mut blocks = blocks.filter_map(|rest| Some(rest.split_once("```")?.0));
    blocks.find(|block| block.contains(text)).unwrap_or_else(|| panic!("no {language} with {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_page_and_backend_make_a_session() {
    let folder = temporary_directory();
    let run = |command: &mut Command, input: &str| {
        let output = process::run(command.current_dir(folder.path()), input, PATIENCE);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command:?}: {printed}{}", String::from_utf8_lossy(&output.stderr));
        printed
    };
    let (key, ingest) = block("sh", "callsight ingest").split_once('\n').unwrap();
    run(callsight::command().args(key.split(' ').skip(1)), "");

    // The backend's token is what the command line takes for a good one.
    fs::write(folder.path().join("backend.mjs"), block("js", "export function tokenFor")).unwrap();
    let sign = "import('./backend.mjs').then(({ tokenFor }) => console.log(tokenFor('standup', 'ana')))";
    let token = run(Command::new("node").args(["-e", sign]), "");
    let show = ["token", "show", "--token-secret", "call.key"];
    let shown = run(callsight::command().args(show), token.trim());
    assert!(shown.contains("good for meeting standup, participant ana"), "{shown}");

    // The page's module comes from npm by its name, and its call is one in the page itself.
    let code = Arc::new(Mutex::new(String::new()));
    let page = Arc::clone(&code);
    let page = warp::path("page").map(move || warp::reply::html(page.lock().unwrap().clone()));
    let backend = warp::post().and(warp::path!("call" / "token")).map(move || token.trim().to_owned());
    let application = web::serve(backend.or(page).or(web::pages(""))).await;

    // Of the documented instance, all flags but those that name what is the test's own.
    assert!(ingest.starts_with("callsight ingest --region us --listen 127.0.0.1:9475 "), "{ingest}");
    let secret = folder.path().join("call.key");
    let flags = ["--token-secret", secret.to_str().unwrap(), "--allow-origin", &application];
    assert!(flags.iter().step_by(2).all(|flag| ingest.contains(flag)), "{ingest}");
    let scene = Scene::start_with(|nats| Way::start_in(temporary_directory(), nats, &flags)).await;
    let client = block("js", "participantOf(track)");
    assert!(client.contains(ENDPOINT));
    *code.lock().unwrap() = format!(
        "<!doctype html><script type=importmap>{{\"imports\": {{\"callsight\": \"/callsight.js\"}}}}</script>
        <body><script type=module>
        import {{ ends, negotiate }} from \"./call.js\";
        const [connection, callee] = await ends();
        const participantOf = () => \"bo\";
        {}
        await negotiate(connection, callee);
        window.health = health;
        </script>",
        client.replace(ENDPOINT, &scene.endpoint())
    );
    let browser = scene.browser.page(640, 480).await;
    browser.open(&format!("{application}/page")).await;
    scene
        .until("a session that hears and sees its peer", |sessions| {
            let pair = sessions.get("ana").and_then(|told| told.receives.get("bo"));
            pair.is_some_and(|pair| {
                pair["hears"] == true && pair["sees"] == true && pair["video_height"].is_number()
            })
        })
        .await;
    browser.evaluate("health.end()").await;
    scene.until("no session", |sessions| sessions.is_empty()).await;
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

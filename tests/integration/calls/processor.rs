//! A participant whose processor is too slow for the video that it sends.

use serde_json::json;

use super::{World, session};
use crate::kit::browser::Browser;
use crate::kit::web::CALLING;

const LISTENERS: [&str; 3] = ["bo", "cy", "di"];

/// An encoder is found slow by the time that it takes from one picture to the next, and a machine
/// that is busy with other tests makes fewer pictures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants the machine for itself: ./dev test --test integration -- --ignored a_slow_processor"]
async fn a_slow_processor_is_blamed() {
    let world = World::start(&LISTENERS.map(|peer| ("ana", peer))).await;
    let fast = Browser::start_with(CALLING);
    let mut pages = Vec::new();
    for me in LISTENERS {
        let page = fast.page(320, 240).await;
        page.keep_in_sight().await;
        page.open(&world.page(me, &["ana"])).await;
        pages.push(page);
    }
    let flags = [CALLING, &["--use-fake-device-for-media-stream=fps=60"]].concat();
    let slow = Browser::start_on_one_core(&flags);
    let page = slow.page(320, 240).await;
    let camera = json!({ "width": 1920, "height": 1080, "frameRate": 60 });
    page.open(&world.page_with("ana", &["ana"], &camera, Some("bo"))).await;
    for me in LISTENERS {
        world
            .frame(me, "sees", |frame| frame["peers"][0]["video"]["frames_decoded"].as_u64() > Some(0))
            .await;
    }
    world.told("a limit", |answer| answer["all"]["sessions_limited"]["cpu"] == 1).await;
    page.slow_down(20).await;
    let answer = world
        .told("the processor", |answer| {
            answer["verdict"]["cause"] == "processor" && session(answer, "ana")["limited_by"] == "cpu"
        })
        .await;
    let evidence = answer["verdict"]["evidence"].as_str().unwrap();
    assert!(evidence.starts_with("Processor: it limits what 1 session sends"), "{evidence}");
    for me in LISTENERS {
        let counts = world.counts("ana", me);
        assert!(counts.forwarded > 100 && counts.lost + counts.overflowed == 0, "{counts:?}");
    }
}

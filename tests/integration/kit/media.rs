//! Real media want a processor: whoever sends and decodes video beside others gets stutters that
//! nobody has caused.

use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Waits until no other test has a real call.
pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().await
}

/// What browser clients complained of, but for answers that come late on a busy machine.
pub(crate) fn problems(complained: &Value) -> Vec<&Value> {
    let late = |problem: &&Value| problem.as_str().unwrap().starts_with("no answer of ");
    complained.as_array().unwrap().iter().filter(|problem| !late(problem)).collect()
}

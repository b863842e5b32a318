//! Everything breaks, over and over, and nothing is lost and nothing is counted twice.
//!
//! Clients publish without a pause, some of them the same frame twice, in the wrong order, or
//! garbage, while the exporter, the server and the links between them are killed, stopped, cut,
//! stalled and made to vanish. Then it is quiet, and the account has to come out exactly, by three
//! books: what the publisher says was acknowledged, what the stream holds, and what the exporters
//! say they did with it.
//!
//! One seed decides about all frames and faults. When they meet is up to the machine: a seed makes
//! a failure likely again, not certain. `CALLSIGHT_CHAOS_SECONDS` and `CALLSIGHT_CHAOS_SEED` are
//! set by `./dev chaos`.

mod clients;
mod faults;
mod tally;

use std::env;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::kit::nats::Nats;
use clients::Clients;
use faults::World;

/// How long it lasts unless somebody says otherwise: a dozen faults or so.
const SECONDS: u64 = 15;

/// What a kill leaves of a file is up to the operating system, and it does not matter: what was
/// acknowledged is on the disk.
const NATS_CONFIG: &str = "jetstream { sync_interval: always }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_the_account_comes_out_exactly() {
    let seed = setting("CALLSIGHT_CHAOS_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let lasts = Duration::from_secs(setting("CALLSIGHT_CHAOS_SECONDS").unwrap_or(SECONDS));
    say(&format!("chaos for {lasts:?}, seed {seed}: ./dev chaos --seed {seed}"));
    let mut rng = StdRng::seed_from_u64(seed);

    let nats = Nats::start_with(NATS_CONFIG, &[]);
    let mut world = World::start(nats).await;
    let clients = Arc::new(Mutex::new(Clients::start(&world.publishers_url(), rng.random()).await));
    let publishing = tokio::spawn(clients::publish(Arc::clone(&clients)));

    let end = Instant::now() + lasts;
    while Instant::now() < end {
        world.breathe(&mut rng).await;
        world.break_something(&mut rng).await;
        if rng.random_bool(0.1) {
            // It is quiet for once, and the books of this exporter's life must be right.
            world.settle(&mut *clients.lock().await).await;
        }
        assert!(!publishing.is_finished(), "the clients gave up");
    }

    let mut clients = clients.lock().await;
    publishing.abort();
    world.settle(&mut clients).await;
    let stream = world.stream(&clients).await;
    world.assert_series(&stream).await;
    world.assert_dead_letters(&stream).await;
    say(&world.tally(&clients, &stream).await);
}

fn setting<T: FromStr<Err: std::fmt::Debug>>(name: &str) -> Option<T> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error:?}")))
}

#[expect(
    clippy::print_stdout,
    reason = "a failure can only be tried again with the seed, and the tally is the result"
)]
fn say(text: &str) {
    println!("{text}");
}

//! Everything breaks, over and over, and nothing is lost and nothing is counted twice.
//!
//! Clients publish without a pause, some of them the same frame twice, in the wrong order, or
//! garbage, while exporters, servers, disks, consumers and the links between all of them break.
//! Then it is quiet, and the account has to come out exactly, by three books: what the publisher
//! says was acknowledged, what the stream holds, and what the exporters say they did with it. All
//! the while, an exporter that is ready must show the calls as they are.
//!
//! One test has a server, the other production's topology: three servers in each of two regions and
//! the arbiter.
//!
//! One seed decides about all frames and faults. When they meet is up to the machine: a seed makes
//! a failure likely again, not certain. `CALLSIGHT_CHAOS_SECONDS` and `CALLSIGHT_CHAOS_SEED` are
//! set by `./dev chaos`.

#[cfg(test)]
mod account;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod faults;
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "shared with the integration tests, which use more of it")]
#[path = "../integration/kit/mod.rs"]
mod kit;
#[cfg(test)]
mod readiness;
#[cfg(test)]
mod tally;
#[cfg(test)]
mod world;

use std::env;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use faults::Deck;
use world::World;

/// How long the faults go on unless somebody says otherwise.
const SECONDS: u64 = 15;

/// From this length on, there is time for what takes a minute.
const LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn after_chaos_on_one_server_the_account_comes_out_exactly() {
    run(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn after_chaos_on_three_servers_per_region_the_account_comes_out_exactly() {
    run(3).await;
}

async fn run(servers: usize) {
    let seed = setting("CALLSIGHT_CHAOS_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let lasts = Duration::from_secs(setting("CALLSIGHT_CHAOS_SECONDS").unwrap_or(SECONDS));
    say(&format!(
        "chaos for {lasts:?} on {servers} per region, seed {seed}: ./dev chaos --servers {servers} --seed {seed}"
    ));
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = if servers == 1 { World::one(&mut rng).await } else { World::three(&mut rng).await };
    let mut deck = Deck::new(servers, lasts >= LONG);

    let end = Instant::now() + lasts;
    while Instant::now() < end {
        world.breathe(&mut rng).await;
        world.break_something(deck.draw(&mut rng), &mut rng).await;
        if rng.random_bool(0.1) {
            // It is quiet for once, and the books of these exporters' lives must be right.
            world.settle().await;
        }
        world.assert_publishing();
    }

    world.stop_publishing().await;
    world.settle().await;
    let stored = world.stored().await;
    say(&world.tally(&stored, &deck).await);
    world.assert_series(&stored).await;
    world.assert_dead_letters(&stored).await;
    world.assert_readiness();
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

//! How fast frames are folded, without decoding. One element is one frame; of a join and leave, one
//! session. `./dev bench --bench fold`

mod common;

use callsight_fold::series::detail::DetailPlane;
use callsight_frame::Frame;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Frames between two ticks of the clock: 0.2 s at 5,000 frames/s.
const FRAMES_PER_TICK: usize = 1000;

/// Long sessions that take turns: a few that stay in the processor's caches, and enough for half a
/// million series.
fn steady(criterion: &mut Criterion<common::CpuTime>) {
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(1));
    for (parties, sessions) in [(2, 2), (10, 10), (2, 20_000), (10, 2600)] {
        let names: Vec<_> = (0..sessions).map(|session| common::Names::new(session, parties)).collect();
        let mut frames: Vec<Frame<'_>> = names.iter().map(|names| names.frame(1)).collect();
        let mut world = common::World::new();
        let (mut turn, mut seq) = (0, 1);
        let id = BenchmarkId::new("steady", format!("{parties} parties, {sessions} sessions"));
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                let frame = &mut frames[turn % sessions];
                seq += u64::from(turn % sessions == 0);
                common::advance(frame, seq);
                world.fold(frame);
                turn += 1;
                if turn % FRAMES_PER_TICK == 0 {
                    world.pass(1000);
                }
            });
        });
        assert_eq!(world.fold.live_sessions(), sessions.min(turn));
    }
    group.finish();
}

/// A session joins with its first frame and leaves with its second, in meetings of ten.
fn joins_and_leaves(criterion: &mut Criterion<common::CpuTime>) {
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(1));
    let names: Vec<_> = (0..10_000).map(|session| common::Names::new(session, 10)).collect();
    let lives: Vec<_> =
        names.iter().map(|names| (names.frame(1), Frame { ended: Some(true), ..names.frame(2) })).collect();
    let mut world = common::World::new();
    world.fold(&lives[0].0);
    assert_eq!(world.detail.live_series(DetailPlane::Pair), 9 * 21, "each peer has a row");
    let mut turn = 1;
    group.bench_function("join and leave/10 parties", |bencher| {
        bencher.iter(|| {
            let (first, last) = &lives[turn % lives.len()];
            world.fold(first);
            world.fold(last);
            turn += 1;
            if turn % 100 == 0 {
                // Fast enough that a session is forgotten before it joins again.
                world.pass(10_000);
            }
        });
    });
    world.fold(&lives[0].1);
    let left = DetailPlane::ALL.map(|plane| world.detail.live_series(plane));
    assert_eq!(left, [0, 0], "every row was removed");
    group.finish();
}

criterion_group!(name = benches; config = common::criterion(); targets = steady, joins_and_leaves);
criterion_main!(benches);

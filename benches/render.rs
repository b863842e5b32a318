//! How long a page takes to write, and the memory of its series. One element is one series.
//! `./dev bench --bench render`

mod common;

use std::io::{self, BufWriter};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Series of a session in a meeting of ten: its own and those of its nine pairs.
const SERIES_PER_SESSION: usize = 4 + 9 * 21;

fn identity(world: &common::World) -> io::Result<usize> {
    let mut sink = BufWriter::with_capacity(64 * 1024, common::Counting::default());
    world.page(&mut sink)?;
    Ok(sink.into_inner()?.0)
}

fn gzip(world: &common::World) -> io::Result<usize> {
    let mut encoder = GzEncoder::new(common::Counting::default(), Compression::fast());
    world.page(&mut encoder)?;
    Ok(encoder.finish()?.0)
}

#[expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "it reports to a terminal; memory takes any byte"
)]
fn render(criterion: &mut Criterion<common::CpuTime>) {
    let mut group = criterion.benchmark_group("render");
    group.sample_size(10);
    // The largest first, while the process has no other memory that could be mistaken for it.
    for wanted in [500_000, 100_000, 10_000] {
        let sessions = wanted / SERIES_PER_SESSION;
        let mut world = common::World::new();
        let before = common::resident();
        for session in 0..sessions {
            world.fold(&common::Names::new(session, 10).frame(1000));
        }
        let grown = common::resident().saturating_sub(before);
        let series = world.live_series();
        let (plain, packed) = (identity(&world).expect("counts"), gzip(&world).expect("counts"));
        println!("{series} series: {plain} bytes a page, {packed} with gzip");
        if wanted == 500_000 {
            println!("{series} series: {} bytes of memory each", grown / series);
        }
        group.throughput(Throughput::Elements(series as u64));
        let label = format!("{}k series", wanted / 1000);
        group.bench_function(BenchmarkId::new("identity", &label), |b| b.iter(|| identity(&world)));
        group.bench_function(BenchmarkId::new("gzip", &label), |b| b.iter(|| gzip(&world)));
    }
    group.finish();
}

criterion_group!(name = benches; config = common::criterion(); targets = render);
criterion_main!(benches);

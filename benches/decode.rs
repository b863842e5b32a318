//! How fast messages are decoded: both forms, small and large meetings. One element is one frame.
//! `./dev bench --bench decode`

mod common;

use std::hint::black_box;

use callsight_frame::{Form, Frame};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn decode(criterion: &mut Criterion<common::CpuTime>) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    for parties in [2, 10] {
        let names = common::Names::new(0, parties);
        for (form, name) in [(Form::Compact, "compact"), (Form::Named, "named")] {
            let message = names.frame(1000).encode(form);
            let id = BenchmarkId::new(name, format!("{parties} parties, {} bytes", message.len()));
            group.bench_with_input(id, &message, |bencher, message| {
                bencher.iter(|| Frame::decode(black_box(message)).is_ok());
            });
        }
    }
    group.finish();
}

criterion_group!(name = benches; config = common::criterion(); targets = decode);
criterion_main!(benches);

//! Remote write 1.0 on the wire: three protobuf messages, packed with snappy.
//!
//! They have not changed since 2018 and are three fields deep, so they are written here, without a compiler for
//! schemas and what it would generate.

/// What a sample holds where a series ends: Prometheus stops showing it at once, instead of five minutes later.
pub(super) const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// The key of a field: its number, and how its value is written.
const LENGTH_DELIMITED: u64 = 2;
const FIXED_64: u64 = 1;
const VARINT: u64 = 0;

fn key(bytes: &mut Vec<u8>, field: u64, kind: u64) {
    varint(bytes, field << 3 | kind);
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn field(bytes: &mut Vec<u8>, number: u64, content: &[u8]) {
    key(bytes, number, LENGTH_DELIMITED);
    varint(bytes, content.len() as u64);
    bytes.extend_from_slice(content);
}

/// A sample: a value, and the time in Unix milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) value: f64,
    pub(super) at_ms: i64,
}

/// A request that is being filled, one series after the other.
#[derive(Default)]
pub(super) struct WriteRequest {
    bytes: Vec<u8>,
    pub(super) samples: usize,
    series: Vec<u8>,
    scratch: Vec<u8>,
}

impl WriteRequest {
    /// Adds a series: labels sorted by name, samples by time.
    pub(super) fn push<'a>(
        &mut self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        samples: &[Sample],
    ) {
        let Self { series, scratch, .. } = self;
        series.clear();
        for (name, value) in labels {
            scratch.clear();
            field(scratch, 1, name.as_bytes());
            field(scratch, 2, value.as_bytes());
            field(series, 1, scratch);
        }
        for sample in samples {
            scratch.clear();
            key(scratch, 1, FIXED_64);
            scratch.extend_from_slice(&sample.value.to_bits().to_le_bytes());
            key(scratch, 2, VARINT);
            varint(scratch, sample.at_ms.cast_unsigned());
            field(series, 2, scratch);
        }
        field(&mut self.bytes, 1, &self.series);
        self.samples += samples.len();
    }

    /// The body of the request, of which nothing is left here.
    pub(super) fn take(&mut self) -> Result<Vec<u8>, snap::Error> {
        let packed = snap::raw::Encoder::new().compress_vec(&self.bytes);
        self.bytes.clear();
        self.samples = 0;
        packed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_the_schema_says() {
        let mut request = WriteRequest::default();
        request.push([("__name__", "up"), ("a", "b")], &[Sample { value: 1.5, at_ms: 300 }]);
        let series = [
            &[0x0a, 14, 0x0a, 8][..],
            b"__name__",
            &[0x12, 2],
            b"up",
            &[0x0a, 6, 0x0a, 1, b'a', 0x12, 1, b'b', 0x12, 12, 0x09],
            &1.5_f64.to_le_bytes(),
            &[0x10, 0xac, 0x02],
        ]
        .concat();
        let expected = [&[0x0a, u8::try_from(series.len()).unwrap()][..], &series].concat();
        assert_eq!(request.samples, 1);
        let body = request.take().unwrap();
        assert_eq!(snap::raw::Decoder::new().decompress_vec(&body).unwrap(), expected);
        assert_eq!(request.samples, 0);
    }

    #[test]
    fn a_series_ends_with_prometheuss_own_nan() {
        assert!(STALE.is_nan());
        assert_eq!(STALE.to_bits(), 0x7ff0_0000_0000_0002);
    }
}

//! Remote write 1.0 on the wire: protobuf messages, compressed with snappy.
//!
//! The messages are `prometheus.WriteRequest` and its parts, as in `prompb/remote.proto` of
//! Prometheus.

use prost::Message;

/// The value that ends a series: without it, Prometheus shows the last value for five more minutes.
pub(super) const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) series: Vec<WireSeries>,
}

/// Labels sorted by name, `__name__` among them, and samples sorted by time.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WireSeries {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<WireLabel>,
    #[prost(message, repeated, tag = "2")]
    pub(super) samples: Vec<WireSample>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct WireLabel {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct WireSample {
    #[prost(double, tag = "1")]
    pub(super) value: f64,
    /// Unix time in milliseconds.
    #[prost(int64, tag = "2")]
    pub(super) timestamp: i64,
}

impl WriteRequest {
    /// The body of an HTTP request.
    pub(super) fn body(&self) -> Result<Vec<u8>, snap::Error> {
        snap::raw::Encoder::new().compress_vec(&self.encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_the_schema_says() {
        let label = |name: &str, value: &str| WireLabel { name: name.to_owned(), value: value.to_owned() };
        let labels = vec![label("__name__", "up"), label("a", "b")];
        let samples = vec![WireSample { value: 1.5, timestamp: 300 }];
        let request = WriteRequest { series: vec![WireSeries { labels, samples }] };
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
        let body = request.body().unwrap();
        assert_eq!(snap::raw::Decoder::new().decompress_vec(&body).unwrap(), expected);
    }

    #[test]
    fn a_series_ends_with_prometheuss_own_nan() {
        assert!(STALE.is_nan());
        let bytes = WireSample { value: STALE, timestamp: 0 }.encode_to_vec();
        assert_eq!(bytes, [&[0x09][..], &0x7ff0_0000_0000_0002_u64.to_le_bytes()].concat());
    }
}

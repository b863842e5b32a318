//! Holds `spec/vectors` to the code, with which clients of other languages test themselves.

use callsight_frame::subject::MeetingPartition;
use callsight_frame::{Form, Frame, Reason, hidden_identifier_of, identifier_of};
use serde_json::Value;

fn read(json: &str) -> Vec<Value> {
    let entries: Vec<Value> = serde_json::from_str(json).unwrap();
    assert!(entries.len() > 10);
    entries
}

fn message(entry: &Value) -> Vec<u8> {
    let hex = entry["hex"].as_str().unwrap();
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16));
    bytes.collect::<Result<_, _>>().unwrap()
}

#[test]
fn every_text_has_its_identifiers() {
    for entry in read(include_str!("../../../../spec/vectors/identifiers.json")) {
        let text = entry["text"].as_str().unwrap();
        assert_eq!(identifier_of(text), entry["identifier"].as_str().unwrap(), "{text:?}");
        assert_eq!(hidden_identifier_of(text), entry["hidden"].as_str().unwrap(), "{text:?}");
    }
}

#[test]
fn every_meeting_has_its_partition() {
    for entry in read(include_str!("../../../../spec/vectors/partitions.json")) {
        let text = entry["text"].as_str().unwrap();
        let partition = MeetingPartition::of(text).to_string();
        assert_eq!(partition, entry["partition"].as_str().unwrap(), "{text:?}");
    }
}

#[test]
fn every_frame_has_its_meaning_and_canonical_ones_are_what_we_write() {
    let mut written = [0; 2];
    for entry in read(include_str!("../../../../spec/vectors/frames.json")) {
        let (name, message) = (&entry["name"], message(&entry));
        let frame = Frame::decode(&message).unwrap_or_else(|rejection| panic!("{name}: {rejection}"));
        assert_eq!(serde_json::to_value(&frame).unwrap(), entry["json"], "{name}");
        let json = entry["json"].to_string();
        let from_json: Frame<'_> = serde_json::from_str(&json).unwrap();
        assert_eq!(from_json, frame, "{name}");
        let form = match entry["canonical"].as_str() {
            Some("named") => Form::Named,
            Some("compact") => Form::Compact,
            other => {
                assert_eq!(other, None, "{name}");
                continue;
            }
        };
        assert_eq!(frame.encode(form), message, "{name}");
        written[usize::from(form == Form::Compact)] += 1;
    }
    assert!(written[0] > 10 && written[0] == written[1], "each in both forms: {written:?}");
}

#[test]
fn every_rejected_message_has_its_reason() {
    let mut reasons = Vec::new();
    for entry in read(include_str!("../../../../spec/vectors/rejected.json")) {
        let rejection = Frame::decode(&message(&entry)).unwrap_err();
        assert_eq!(
            rejection.reason.label(),
            entry["reason"].as_str().unwrap(),
            "{}: {rejection}",
            entry["name"]
        );
        reasons.push(rejection.reason);
    }
    // A message that is too large would fill the file, and a subject is no part of a frame.
    for reason in Reason::ALL.iter().filter(|reason| !matches!(reason.label(), "too_large" | "bad_subject")) {
        assert!(reasons.contains(reason), "{reason:?}");
    }
}

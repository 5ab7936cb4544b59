//! The records file: what is written is read again, also after a crash and across versions.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use records::{
    BrokeDown, Connection, EndReason, Entry, Event, FORMAT, Failure, FailureKind, Header, LoopKind,
    ReadError, Reader, Record, StageBegin, StageInfo, StagePhase, UsageSource, VERSION,
    VersionError, Writer,
};

fn header() -> Header {
    Header {
        format: FORMAT.into(),
        version: VERSION.into(),
        run: "r1".into(),
        started: "2026-01-01T00:00:00Z".into(),
        clock: "ns since run start".into(),
        model: "m".into(),
        endpoint: "http://h".into(),
        seed: 1,
        stages: vec![StageInfo {
            name: "s".into(),
            warmup: false,
            kind: LoopKind::Open,
            rate: Some(2.0),
            concurrency: None,
            max_in_flight: None,
            length: Some(1_000),
            settle: 0,
            labels: Default::default(),
        }],
        slo: Default::default(),
    }
}

fn written(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &header()).unwrap();
    for record in records {
        writer.record(record).unwrap();
    }
    writer.flush().unwrap();
    bytes
}

fn read(bytes: &[u8]) -> (Vec<Record>, bool) {
    let mut reader = Reader::new(bytes).unwrap();
    let mut records = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        if let Entry::Record(record) = entry {
            records.push(*record);
        }
    }
    (records, reader.truncated())
}

fn record(id: u64) -> Record {
    Record {
        id,
        due: Some(5),
        started: 6,
        sent: Some(7),
        tokens: vec![100, 120, 150],
        finished: 160,
        status: 200,
        usage: UsageSource::Server,
        output_tokens: Some(3),
        connection: Connection::Reused,
        ..Record::default()
    }
}

#[test]
fn token_times_stand_in_the_file_as_differences() {
    let text = String::from_utf8(written(&[record(1)])).unwrap();
    assert!(text.contains(r#""tokens":[100,20,30]"#), "{text}");
    assert_eq!(read(text.as_bytes()).0, [record(1)]);
}

#[test]
fn a_file_cut_off_anywhere_gives_every_whole_line() {
    let bytes = written(&[record(1), record(2)]);
    let first_two = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0 + 1;
    for end in first_two..bytes.len() {
        let (records, truncated) = read(&bytes[..end]);
        assert_eq!(records, [record(1)]);
        assert_eq!(truncated, end != first_two);
    }
}

#[test]
fn a_broken_line_in_the_middle_is_an_error_with_its_number() {
    let mut bytes = written(&[record(1)]);
    bytes.extend_from_slice(b"{\"id\":\n{\"id\":3}\n");
    let error = Reader::new(&bytes[..]).unwrap().last().unwrap().unwrap_err();
    assert!(error.to_string().starts_with("line "), "{error}");
}

#[test]
fn newer_minors_are_read_and_newer_majors_are_refused() {
    let at = |version: &str| {
        let line = serde_json::to_string(&Header { version: version.into(), ..header() }).unwrap();
        let more = line.replacen('{', "{\"unknown_field\":1,", 1);
        let event = r#"{"event":"weather","at":1}"#;
        let bytes = format!("{more}\n{event}\n{}\n", serde_json::to_string(&record(1)).unwrap());
        Reader::new(std::io::Cursor::new(bytes)).map(|r| r.map(Result::unwrap).count())
    };
    assert_eq!(at("1.7").unwrap(), 1, "an unknown event of a newer minor version is passed over");
    assert!(matches!(at("2.0"), Err(ReadError::Version(VersionError::Newer(_)))));
    assert!(matches!(at("x"), Err(ReadError::Version(VersionError::Malformed(_)))));
    let other = Reader::new(&b"{\"format\":\"other\"}\n"[..]);
    assert!(matches!(other, Err(ReadError::Version(VersionError::Format(_)))));
    assert!(matches!(Reader::new(&b"{\"for"[..]), Err(ReadError::Empty)));
}

#[test]
fn events_are_told_from_records() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &header()).unwrap();
    let end = Event::End { at: 9, reason: EndReason::Completed, message: String::new() };
    let begin = Event::Stage(StagePhase::Begin(StageBegin { at: 3, stage: 0 }));
    let broken = Event::BrokeDown(BrokeDown { at: 7, thread: "load-1".into() });
    writer.event(&begin).unwrap();
    writer.record(&record(1)).unwrap();
    writer.event(&broken).unwrap();
    writer.event(&end).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains(r#"{"event":"stage","phase":"begin","at":3,"stage":0}"#), "{text}");
    assert!(text.contains(r#"{"event":"broke_down","at":7,"thread":"load-1"}"#), "{text}");
    let entries: Vec<Entry> = Reader::new(&bytes[..]).unwrap().collect::<Result<_, _>>().unwrap();
    let record = Entry::Record(Box::new(record(1)));
    assert_eq!(entries, [Entry::Event(begin), record, Entry::Event(broken), Entry::Event(end)]);
}

#[test]
fn long_messages_are_cut_between_characters() {
    let failure = Failure::new(FailureKind::HttpStatus, "日".repeat(1_000)).cut();
    assert_eq!(failure.message, "日".repeat(682));
}

proptest! {
    #[test]
    fn every_record_comes_back(
        id: u64, due: Option<u64>, sent: Option<u64>, status: u16, retries: u32,
        mut tokens in proptest::collection::vec(0u64..1 << 60, 0..20),
        message: String, cached: Option<u32>,
    ) {
        tokens.sort_unstable();
        let record = Record {
            id, due, sent, status, retries, tokens,
            error: Some(Failure::new(FailureKind::StreamCut, message)),
            cached_tokens: cached,
            labels: [("k".to_owned(), "v".to_owned())].into(),
            ..Record::default()
        };
        let bytes = written(std::slice::from_ref(&record));
        prop_assert_eq!(read(&bytes).0, vec![record]);
    }
}

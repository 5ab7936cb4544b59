//! What reading a streamed answer costs, without sockets: splitting alone, and all of it.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const TOKENS: usize = 64;

fn stream() -> Vec<u8> {
    let mut stream = Vec::new();
    for token in 0..TOKENS {
        let event = format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word{token}\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
        );
        stream.extend_from_slice(event.as_bytes());
    }
    stream.extend_from_slice(b"data: [DONE]\n\n");
    stream
}

/// With so many events in a chunk.
fn response(events: usize) -> Vec<u8> {
    let mut response =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    let stream = stream();
    let lines: Vec<&[u8]> = stream.split_inclusive(|&byte| byte == b'\n').collect();
    for chunk in lines.chunks(2 * events) {
        let chunk = chunk.concat();
        response.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        response.extend_from_slice(&chunk);
        response.extend_from_slice(b"\r\n");
    }
    response.extend_from_slice(b"0\r\n\r\n");
    response
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("64 tokens");
    group.throughput(Throughput::Elements(TOKENS as u64));
    let (stream, response, full) = (stream(), response(1), response(4));
    assert_eq!(load::bench::count_events(&stream), TOKENS + 1);
    for response in [&response, &full] {
        assert_eq!(load::bench::read_response(&[response]).tokens.len(), TOKENS);
    }
    group.bench_function("sse", |b| b.iter(|| load::bench::count_events(black_box(&stream))));
    group.bench_function("response in one read", |b| {
        b.iter(|| load::bench::read_response(black_box(&[&response])));
    });
    group.bench_function("response in one read, 4 events in a chunk", |b| {
        b.iter(|| load::bench::read_response(black_box(&[&full])));
    });
    let reads: Vec<&[u8]> = response.chunks(200).collect();
    group.bench_function("response in reads of 200 bytes", |b| {
        b.iter(|| load::bench::read_response(black_box(&reads)));
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);

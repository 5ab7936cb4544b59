//! Measures what the server costs: CPU seconds per 1,000 streamed requests, and how punctual it is.
//!
//! `cargo run --release -p sim --example sim_cost`. The server runs on a thread of its own, whose CPU
//! time is taken; blocking clients on other threads read and count. Sixty-six events per answer of
//! `/v1/completions` (64 tokens, usage, `[DONE]`), each in its own write; chat has the role event more.
#![expect(clippy::print_stdout, reason = "a program that prints its findings")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};
use sim::{Behavior, TruthLine};

const TOKENS: usize = 64;

fn main() {
    println!(
        "path               ttft   itl clients requests  wall s  req/s  server CPU s per 1,000"
    );
    for path in ["/v1/completions", "/v1/chat/completions"] {
        measure(path, 0.0, 0.0, 1, 4000);
        measure(path, 0.0, 0.0, 8, 4000);
    }
    measure("/v1/completions", 20.0, 5.0, 1, 10);
    measure("/v1/completions", 20.0, 5.0, 8, 200);
    measure("/v1/completions", 20.0, 5.0, 64, 2000);
    measure("/v1/chat/completions", 20.0, 5.0, 64, 2000);
}

fn measure(path: &'static str, ttft_ms: f64, itl_ms: f64, clients: usize, requests: usize) {
    let log = std::env::temp_dir().join(format!("sim-cost-{}.jsonl", std::process::id()));
    let behavior = Behavior {
        ttft_ms,
        itl_ms,
        prefill_us_per_token: 0.0,
        truth_log: Some(log.clone()),
        ..Behavior::default()
    };
    let (addresses, address) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.expect("a runtime starts").block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
            let listener = listener.expect("a port is free");
            addresses.send(listener.local_addr().expect("it is bound")).expect("main waits");
            let shutdown = async { drop(stopped.await) };
            let stats = sim::serve(listener, behavior, shutdown).await.expect("it serves");
            assert_eq!(stats.output_tokens as usize, requests / clients * clients * TOKENS);
        });
        thread_cpu_s()
    });
    let address = address.recv().expect("the server starts");
    let start = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|_| thread::spawn(move || converse(address, path, requests / clients)))
        .collect();
    let count = clients.len();
    clients.into_iter().for_each(|client| client.join().expect("the client succeeds"));
    let wall = start.elapsed().as_secs_f64();
    stop.send(()).expect("the server still runs");
    let cpu = server.join().expect("the server ends");
    println!(
        "{path:<20} {ttft_ms:>3} {itl_ms:>5} {count:>7} {requests:>8} {wall:>7.2} {:>6.0} {:>8.3}",
        requests as f64 / wall,
        cpu * 1000.0 / requests as f64,
    );
    if itl_ms > 0.0 {
        punctuality(&log, ttft_ms, itl_ms);
    }
    fs::remove_file(&log).expect("the log is there");
}

/// CPU seconds this thread has used.
fn thread_cpu_s() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock");
    time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9
}

fn converse(address: SocketAddr, path: &str, requests: usize) {
    let text = r#""messages":[{"role":"user","content":"tell me"}],"prompt":"tell me""#;
    let body = format!(
        r#"{{{text},"stream":true,"stream_options":{{"include_usage":true}},"max_tokens":{TOKENS},"ignore_eos":true}}"#
    );
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: sim\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("TCP has this option");
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..requests {
        stream.write_all(request.as_bytes()).expect("the server reads");
        let mut received = Vec::new();
        while !received.ends_with(b"\r\n0\r\n\r\n") {
            let count = stream.read(&mut buffer).expect("the server answers");
            assert!(count > 0, "the server closed the connection");
            received.extend_from_slice(&buffer[..count]);
        }
        let events = received.windows(6).filter(|window| window == b"data: ").count();
        assert_eq!(events, TOKENS + 2 + usize::from(path.contains("chat")));
    }
}

/// How late tokens were, from the truth log.
fn punctuality(log: &Path, ttft_ms: f64, itl_ms: f64) {
    let text = fs::read_to_string(log).expect("the log is there");
    let mut late_us = Vec::new();
    let mut itl_us = Vec::new();
    for line in text.lines().skip(1) {
        let line: TruthLine = serde_json::from_str(line).expect("a line of the log");
        for (index, &at) in line.tokens_ns.iter().enumerate() {
            let due = (ttft_ms + itl_ms * index as f64) * 1e3;
            late_us.push((at - line.read_ns) as f64 / 1e3 - due);
        }
        itl_us.extend(line.tokens_ns.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e3));
    }
    let mean = itl_us.iter().sum::<f64>() / itl_us.len() as f64;
    late_us.sort_by(f64::total_cmp);
    itl_us.sort_by(f64::total_cmp);
    let at = |sorted: &[f64], share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
    println!(
        "  late us: min {:.0} p50 {:.0} p99 {:.0}; itl us: mean {mean:.1} p50 {:.0} p1 {:.0} p99 {:.0}",
        late_us[0],
        at(&late_us, 0.5),
        at(&late_us, 0.99),
        at(&itl_us, 0.5),
        at(&itl_us, 0.01),
        at(&itl_us, 0.99),
    );
}

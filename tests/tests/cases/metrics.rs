//! C35: a metrics page with several engines, read while load runs.

use acceptance::{Bench, Reply, Server, Stub, lives, root};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[test]
fn c35_engines_are_added_up_and_counts_are_differences() {
    let page = |name: &str| std::fs::read_to_string(root().join("tests/cases").join(name)).unwrap();
    let pages = [page("C35-vllm-t0.prom"), page("C35-vllm-t10.prom")];
    let asked = AtomicUsize::new(0);
    let stub = Stub::start(move |request| {
        if request.is_completion() {
            Reply::tokens(request)
        } else if request.path == "/metrics" {
            // Whether there are any, how it begins, and then how it goes on.
            let page = &pages[usize::from(asked.fetch_add(1, Relaxed) >= 2)];
            Reply::new(200, "text/plain", page.clone())
        } else {
            Reply::models(&["m"])
        }
    });
    let bench = Bench::new();
    let load = ["--rate", "10", "--duration", "1500ms"];
    bench.run(&[&["run", "--endpoint", &stub.url, "--model", "m"], &load[..]].concat()).expect(0);
    let summary = bench.summary();
    let server = &summary["server"][0];
    assert_eq!(server["gauges"]["running"]["last"], 10.0);
    assert_eq!(server["gauges"]["waiting"]["last"], 4.0);
    assert_eq!(server["gauges"]["kv_cache_usage"]["largest"], 0.7);
    assert_eq!(server["totals"]["generation_tokens"]["value"], 2000.0);
    let rate = server["prefix_cache_hit_rate"].as_f64().unwrap();
    assert!((rate - 400.0 / 1500.0).abs() < 1e-9, "{rate}");
    let ttft = &server["histograms"]["ttft"];
    assert_eq!(ttft["n"], 50);
    assert!((ttft["mean"].as_f64().unwrap() - 180.0).abs() < 1e-6, "{ttft}");
    assert!((ttft["percentiles"]["p50"].as_f64().unwrap() - 137.5).abs() < 1e-6, "{ttft}");
    assert!(ttft["percentiles"].get("p90").is_none(), "{ttft}");
    let lines = bench.read("w/results/server_metrics.jsonl");
    assert!(lines.lines().count() >= 3 && !lines.contains("_created"), "{lines}");
    let report = bench.read("w/analysis/report.html");
    assert!(report.contains("The server's own view"));
    assert!(report.contains("/ 70.0 % (over 2 series)"), "a mean of two engines says so");
}

/// The page of a DCGM exporter on a machine with two GPUs.
const DCGM: &str = r#"# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-aa",pci_bus_id="00000000:19:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"} 1980
DCGM_FI_DEV_SM_CLOCK{gpu="1",UUID="GPU-bb",pci_bus_id="00000000:3B:00.0",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"} 1500
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-aa",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"} 96
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-bb",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"} 54
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-aa",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"} 612.339000
DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="GPU-bb",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"} 401.661000
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-aa",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"} 71235
DCGM_FI_DEV_FB_USED{gpu="1",UUID="GPU-bb",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"} 71000
"#;

#[test]
fn gpus_are_read_from_the_page_of_a_dcgm_exporter() {
    let exporter = Stub::start(|_| Reply::new(200, "text/plain", DCGM.to_owned()));
    let server = Stub::good();
    let bench = Bench::new().env("LLMDBENCH_API_KEY", "sk-not-for-the-exporter");
    let page = format!("{}/metrics", exporter.url);
    let gone = "http://127.0.0.1:9/metrics";
    let args = ["run", "--endpoint", &server.url, "--model", "m", "--metrics", &page];
    let load = ["--metrics", gone, "--rate", "10", "--duration", "1500ms"];
    let ended = bench.run(&[&args[..], &load[..]].concat()).expect(0);
    let gauges = &bench.summary()["server"][0]["gauges"];
    assert_eq!(gauges["gpu_utilization"]["mean"], 75.0);
    assert_eq!(gauges["gpu_utilization"]["largest"], 96.0);
    assert_eq!(gauges["gpu_utilization"]["series"], 2);
    assert_eq!(gauges["gpu_memory_used"]["mean"], 142_235.0);
    assert_eq!(gauges["gpu_sm_clock"]["mean"], 1740.0);
    assert!((gauges["gpu_power"]["mean"].as_f64().unwrap() - 1014.0).abs() < 1e-9, "{gauges}");
    assert!(bench.read("w/analysis/report.html").contains("GPU power, mean / max, W"));
    assert!(
        ended.output().contains("GPU, mean: utilisation 75.0 % over 2 series"),
        "{}",
        ended.output()
    );
    assert!(ended.output().contains(&format!("{gone} does not answer")), "{}", ended.output());
    let never = format!("warning: the metrics page {gone} was never read: it does not answer");
    assert!(ended.output().contains(&never), "{}", ended.output());
    let keys = exporter.seen().iter().filter(|r| r.header("authorization").is_some()).count();
    assert_eq!(keys, 0, "the key is the API's alone");
}

#[test]
fn an_address_that_is_no_page_or_holds_a_secret_is_refused() {
    let refused = |url: &str| {
        let args = ["run", "--endpoint", "http://127.0.0.1:9", "--model", "m", "--metrics", url];
        Bench::new().run(&args).expect(2)
    };
    refused("node:9400/metrics").says("it must begin with http://");
    refused("metrics").says("it is no URL");
    let ended = refused("http://u:h@hunter2@node/metrics").says("has no place in it");
    assert!(!ended.output().contains("hunter2"), "{}", ended.output());
}

#[test]
fn gpus_of_this_machine_are_read_from_nvidia_smi_where_it_is() {
    use std::os::unix::fs::PermissionsExt;
    // What it is asked for is kept; it answers as the real one does, one of the GPUs with less.
    let bench = Bench::new();
    let script = "#!/bin/sh\necho $$ \"$@\" > \"$(dirname \"$0\")/asked\"\nwhile :; do\n\
        echo '0, GPU-5c6e1f2a-1111, 96, 71235, 612.34, 1980, 64'\n\
        echo '1, GPU-5c6e1f2a-2222, 54, 71000, [N/A], 1500, 60'\nsleep 0.2\ndone\n";
    bench.write("bin/nvidia-smi", script);
    let program = bench.path("bin/nvidia-smi");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bench.path("bin").display(), std::env::var("PATH").unwrap());
    let bench = bench.env("PATH", &path);
    let server = Stub::good();
    let args = ["run", "--endpoint", &server.url, "--model", "m"];
    let load = ["--rate", "10", "--duration", "2500ms"];
    bench.run(&[&args[..], &load[..]].concat()).expect(0);
    let gauges = &bench.summary()["server"][0]["gauges"];
    assert_eq!(gauges["gpu_utilization"]["mean"], 75.0, "{gauges}");
    assert_eq!(gauges["gpu_power"]["mean"], 612.34);
    assert_eq!(gauges["gpu_power"]["series"], 1, "what a GPU cannot measure is not taken for 0");
    assert_eq!(gauges["gpu_temperature"]["largest"], 64.0);
    let asked = bench.read("bin/asked");
    let (pid, asked) = asked.trim().split_once(' ').unwrap();
    assert_eq!(
        asked,
        "--query-gpu=index,uuid,utilization.gpu,memory.used,power.draw,clocks.sm,temperature.gpu \
         --format=csv,noheader,nounits -lms 1000"
    );
    assert!(!lives(pid.parse().unwrap()), "it is ended with the run");
}

#[test]
fn the_page_is_read_where_a_stage_follows_another() {
    let server = Server::start(&["--ttft", "1ms", "--itl", "1ms"]);
    let bench = Bench::new();
    let load =
        ["--warmup", "40", "--concurrency", "1", "--requests", "16", "--output-tokens", "64"];
    let ended = bench.load(&server, &load);
    assert!([0, 7].contains(&ended.code), "{}", ended.output());
    let lines = bench.read("w/results/server_metrics.jsonl");
    let time = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["at"].as_u64();
    let times: Vec<u64> = lines.lines().filter_map(time).collect();
    // Apart from that one and the last, readings are a second apart.
    let between = times.windows(2).rev().skip(1).map(|pair| pair[1] - pair[0]);
    assert!(between.min().unwrap() < 950_000_000, "{times:?}");
}

#[test]
fn several_targets_are_added_up() {
    let page = |running: f64| {
        let page = format!("vllm:num_requests_running{{engine=\"0\"}} {running}\n");
        Reply::new(200, "text/plain", page)
    };
    let pages: Vec<Stub> = [1.0, 3.0].map(|running| Stub::start(move |_| page(running))).into();
    // A gateway passes its page on from one of them.
    let server = Stub::start(move |request| match request.path.as_str() {
        "/metrics" => page(3.0),
        _ if request.is_completion() => Reply::tokens(request),
        _ => Reply::models(&["m"]),
    });
    let exporter = Stub::start(|_| Reply::new(200, "text/plain", DCGM.to_owned()));
    let url = |stub: &Stub| format!("{}/metrics", stub.url);
    // How many requests are running, by the pages that are named.
    let running = |named: &[&Stub]| {
        let bench = Bench::new();
        let args = ["run", "--endpoint", &server.url, "--model", "m", "--rate", "10"];
        let named = named.iter().flat_map(|stub| ["--metrics".to_owned(), url(stub)]);
        let named: Vec<String> =
            ["--duration", "1500ms"].map(str::to_owned).into_iter().chain(named).collect();
        let more: Vec<&str> = named.iter().map(String::as_str).collect();
        bench.run(&[&args[..], &more[..]].concat()).expect(0);
        bench.summary()["server"][0]["gauges"]["running"].clone()
    };
    let both = running(&[&pages[0], &pages[1], &exporter]);
    assert_eq!((both["mean"].as_f64(), both["largest"].as_f64()), (Some(4.0), Some(3.0)));
    assert_eq!(both["series"], 2);
    // GPUs are no engines: the server's own page is read beside theirs.
    let own = running(&[&exporter]);
    assert_eq!((own["mean"].as_f64(), &own["series"]), (Some(3.0), &1.into()));
}

#[test]
fn a_page_that_is_empty_or_busy_at_first_is_read_as_soon_as_it_has_something() {
    // It has nothing before the first request, or says for a while that it cannot be had.
    for late in ["empty", "busy"] {
        let asked = AtomicUsize::new(0);
        let server = Stub::start(move |request| match request.path.as_str() {
            _ if request.is_completion() => Reply::tokens(request),
            "/metrics" => match (asked.fetch_add(1, Relaxed), late) {
                (0, "empty") => Reply::new(200, "text/plain", "# EOF\n".to_owned()),
                (0, _) => Reply::new(503, "text/plain", "loading".to_owned()),
                (n, _) => Reply::new(200, "text/plain", format!("vllm:prompt_tokens_total {n}\n")),
            },
            _ => Reply::models(&["m"]),
        });
        let bench = Bench::new();
        let args = ["run", "--endpoint", &server.url, "--model", "m"];
        let load = ["--rate", "10", "--duration", "3500ms"];
        let ended = bench.run(&[&args[..], &load[..]].concat()).expect(0);
        let total = &bench.summary()["server"][0]["totals"]["prompt_tokens"]["value"];
        assert!(total.as_f64() >= Some(1.0), "{late}: {total}");
        assert!(!ended.stderr.contains("never read"), "{late}: {}", ended.stderr);
    }
}

#[test]
fn the_servers_own_numbers_stand_beside_ours_and_agree() {
    let bench = Bench::new();
    let server = Server::start(&["--ttft", "30ms", "--itl", "2ms", "--cache-blocks", "4096"]);
    let load = ["--concurrency", "2", "--requests", "40", "--output-tokens", "16"];
    let ended = bench.load(&server, &load).expect(0);
    let summary = bench.summary();
    let reasons = summary["health"]["reasons"].to_string();
    assert!(reasons.contains("same_host"), "{reasons}");
    let view = &summary["server"][0];
    // The stage is the whole run, so nothing else is in the differences.
    assert_eq!(view["totals"]["generation_tokens"]["value"], 40.0 * 16.0);
    assert_eq!(view["histograms"]["ttft"]["n"], 40);
    let there = view["histograms"]["ttft"]["mean"].as_f64().unwrap();
    let here = summary["total"]["metrics"]["ttft"]["mean"].as_f64().unwrap();
    assert!(there >= 30.0 && here >= there - 1.0, "server {there} ms, here {here} ms");
    let both = &view["beside"]["ttft"];
    assert_eq!((both["server"].as_f64(), both["here"].as_f64()), (Some(there), Some(here)));
    assert!((both["difference"].as_f64().unwrap() - (here - there)).abs() < 1e-9, "{both}");
    let shown = ended.output();
    let line =
        shown.lines().find(|line| line.starts_with("mean, server / here, ms: TTFT ")).unwrap();
    assert!(line.contains("ITL ") && line.contains("latency "), "{line}");
    // A server without a page, or with another one, has no such part.
    let other = Bench::new();
    let stub = Stub::good();
    let args =
        ["run", "--endpoint", &stub.url, "--model", "m", "--concurrency", "1", "--requests", "3"];
    other.run(&args).expect(0).says("/metrics was never read: it has no metric that is known");
    assert!(other.summary().get("server").is_none());
    assert!(!other.path("w/results/server_metrics.jsonl").exists());
}

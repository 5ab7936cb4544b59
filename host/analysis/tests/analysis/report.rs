//! What people and programs read.

use crate::run::{Run, answer, failure, slo, stage};
use analysis::server::{Snapshot, parse};
use analysis::{
    Analysis, CacheState, CacheWish, METRICS, Note, Options, Severity, Summary, metrics_markdown,
    report,
};
use records::{FailureKind, LoopKind, Record};

/// Two open stages of forty requests, some failed.
fn two_stages() -> Run {
    let mut run = Run::new(vec![stage("low", LoopKind::Open), stage("high", LoopKind::Open)]);
    for (index, begin) in [(0, 0), (1, 10_000)] {
        run.begin(index, begin);
        run.records((0..40).map(|i| {
            let due = begin + i * 200;
            let ttft = 100 + 50 * u64::from(index) + i % 7;
            let tokens = [due + ttft, due + ttft + 20, due + ttft + 41];
            let record = Record { stage: index, ..answer(due, &tokens, due + ttft + 45) };
            match i {
                9 => failure(record, FailureKind::HttpStatus, "503 <busy> & \"gone\""),
                _ => record,
            }
        }));
        run.end(index, begin + 8_000, 40);
    }
    run.completed(18_500);
    run
}

fn analysis() -> Analysis {
    two_stages().analyse(&slo(&[("ttft", 155.0)]))
}

#[test]
fn the_terminal_has_a_column_for_each_stage() {
    insta::assert_snapshot!(report::terminal(&analysis(), 120, false), @r"
                         low                 high                total
─────────────────────────────────────────────────────────────────────────────────────
 loop                                 open                open                  open
 requests sent                          40                  40                    80
 failed                          1 (2.5 %)           1 (2.5 %)             2 (2.5 %)
 offered, 1/s                         5.00                5.00                  5.00
 requests, 1/s                        4.88                4.88                  4.88
 output tokens, 1/s                   14.6                14.6                  14.6
 total tokens, 1/s                    48.8                48.8                  48.8
 goodput, 1/s                4.88 (97.5 %)       4.25 (85.0 %)         4.56 (91.2 %)
 TTFT, ms                103.0 / 106.0 / -   153.0 / 156.0 / -     106.0 / 155.0 / -
 TTFT, all sent, ms      103.0 / 106.0 / -   153.0 / 156.0 / -     150.0 / 155.0 / -
 scheduled TTFT, ms      103.0 / 106.0 / -   153.0 / 156.0 / -     106.0 / 155.0 / -
 ITL, ms                   20.0 / 21.0 / -     20.0 / 21.0 / -   20.0 / 21.0 / 21.0*
 TPOT, ms                  20.5 / 20.5 / -     20.5 / 20.5 / -       20.5 / 20.5 / -
 latency, ms             148.0 / 151.0 / -   198.0 / 201.0 / -     151.0 / 200.0 / -
 latency, all sent, ms   148.0 / 151.0 / -   198.0 / 201.0 / -     195.0 / 200.0 / -
 scheduled latency, ms   148.0 / 151.0 / -   198.0 / 201.0 / -     151.0 / 200.0 / -
 lateness, ms                    0 / 0 / -           0 / 0 / -             0 / 0 / -
─────────────────────────────────────────────────────────────────────────────────────
* rests on few values
latencies: p50 / p90 / p99
all sent: a request that failed is infinitely late
failed: http_status 2

result: valid (the load generator did what it was asked)
");
}

#[test]
fn a_narrow_terminal_gets_a_row_for_each_stage() {
    insta::assert_snapshot!(report::terminal(&analysis(), 70, false), @r"
 stage   sent   failed   req/s   goodput   TTFT p50   p99   TPOT p50
                                     1/s         ms    ms         ms
─────────────────────────────────────────────────────────────────────
 low       40        1    4.88      4.88      103.0     -       20.5
 high      40        1    4.88      4.25      153.0     -       20.5
 total     80        2    4.88      4.56      106.0     -       20.5
─────────────────────────────────────────────────────────────────────
failed: http_status 2

result: valid (the load generator did what it was asked)
");
}

#[test]
fn without_objectives_the_narrow_table_has_no_goodput() {
    let text = report::terminal(&two_stages().analyse(&slo(&[])), 70, false);
    assert!(text.contains("TPOT p50   p99\n") && !text.contains("goodput"), "{text}");
}

#[test]
fn no_line_is_wider_than_the_terminal_but_sentences() {
    for width in [40, 60, 80, 100, 200] {
        let text = report::terminal(&analysis(), width, false);
        let table = text.split("\n\n").next().unwrap();
        assert!(table.lines().all(|line| line.chars().count() <= width), "{width}:\n{table}");
    }
}

#[test]
fn colour_is_only_there_when_asked_for() {
    assert!(report::terminal(&analysis(), 100, true).contains("\u{1b}["));
    assert!(!report::terminal(&analysis(), 100, false).contains('\u{1b}'));
}

#[test]
fn a_summary_survives_its_file() {
    let summary = analysis().summary;
    let read: Summary = serde_json::from_str(&report::json(&summary)).unwrap();
    assert_eq!(read, summary);
    assert_eq!((summary.format.as_str(), summary.version.as_str()), ("llmdbench.summary", "1.0"));
}

#[test]
fn the_same_records_give_the_same_bytes() {
    let (one, other) = (analysis(), analysis());
    assert_eq!(report::json(&one.summary), report::json(&other.summary));
    assert_eq!(report::html(&one), report::html(&other));
    assert_eq!(report::csv(&one.summary), report::csv(&other.summary));
}

#[test]
fn the_csv_has_a_row_for_each_metric_of_each_stage() {
    let csv = report::csv(&analysis().summary);
    let lines: Vec<&str> = csv.lines().collect();
    insta::assert_snapshot!(lines[0], @"stage,metric,unit,value,n,mean,stddev,min,max,p50,p90,p95,p99,p99_9,few,loop,doubts");
    let columns = lines[0].split(',').count();
    assert!(lines.iter().all(|line| line.split(',').count() == columns), "{csv}");
    let find = |start: &str| *lines.iter().find(|line| line.starts_with(start)).unwrap();
    insta::assert_snapshot!(find("low,ttft,"), @"low,ttft,ms,,39,102.897436,2.010432,100,106,103,106,106,,,p95,open,");
    insta::assert_snapshot!(find("total,request_throughput,"), @"total,request_throughput,1/s,4.875,,,,,,,,,,,,open,");
}

#[test]
fn what_failed_is_infinitely_late_among_all_that_was_sent() {
    let records = |failed: u64| {
        let request = |i: u64| {
            let answer = answer(i * 10, &[i * 10 + 5, i * 10 + 7], i * 10 + 8);
            if i < failed { failure(answer, FailureKind::Timeout, "late") } else { answer }
        };
        Run::open(4_010, (0..400).map(request).collect())
    };
    let broken = records(8).analyse(&Options::default());
    let text = report::terminal(&broken, 120, false);
    assert!(text.contains("TTFT, all sent, ms      5.00 / 5.00 / failed\n"), "{text}");
    assert!(text.contains("latency, all sent, ms   8.00 / 8.00 / failed\n"), "{text}");
    let csv = report::csv(&broken.summary);
    let row = csv.lines().find(|line| line.starts_with("s,latency_all_sent,")).unwrap();
    insta::assert_snapshot!(row, @"s,latency_all_sent,ms,,400,,,,,8,8,8,inf,,,open,");
    let page = report::html(&broken);
    assert!(page.contains("<th>TTFT p99, all sent</th>") && page.contains("<td>failed</td>"));
    assert!(page.contains("<tr><th>scheduled TTFT, all sent</th><td>ms</td><td>400</td>"));

    let whole = records(0).analyse(&Options::default());
    let csv = report::csv(&whole.summary);
    let all = [report::terminal(&whole, 120, false), csv, report::json(&whole.summary)];
    assert!(all.iter().all(|text| !text.contains("all sent") && !text.contains("all_sent")));
    assert!(!report::html(&whole).contains("p99, all sent"));
}

#[test]
fn the_page_needs_nothing_else_and_escapes_what_others_wrote() {
    let run = two_stages();
    let note = Note {
        severity: Severity::Warning,
        source: "a<b".to_owned(),
        text: "<img src=x>".to_owned(),
    };
    let options = Options {
        title: "T & <i>".to_owned(),
        facts: vec![("x\"y".to_owned(), "<script>alert(1)</script>".to_owned())],
        notes: vec![note],
        ..Options::default()
    };
    let page = report::html(&run.analyse(&options));
    for bad in ["<script", "<img", "<i>", "<busy>", "a<b", "src=\"", "href=", "url(", "@import"] {
        assert!(!page.contains(bad), "{bad}");
    }
    assert!(page.contains("503 &lt;busy&gt; &amp; &quot;gone&quot;"));
    assert!(page.contains("T &amp; &lt;i&gt;"));
    // Colours come from the style sheet, so that the page can be dark.
    assert!(page.contains("var(--line-0)") && !page.contains("\"#0072B2\""));
}

#[test]
fn the_page_defines_every_metric_that_it_shows() {
    let analysis = analysis();
    let page = report::html(&analysis);
    for metric in METRICS {
        let shown = analysis.summary.total.metrics.contains_key(metric.name);
        let short = metric.short.replace('\'', "&#39;");
        assert_eq!(page.contains(&short), shown, "{}", metric.name);
    }
}

#[test]
fn the_reference_page_has_every_metric() {
    let page = metrics_markdown();
    for metric in METRICS {
        assert!(page.contains(&format!("| `{}` | {} |", metric.name, metric.unit)));
        assert!(!metric.definition.contains('|') && metric.definition.ends_with('.'));
    }
}

#[test]
fn the_servers_own_numbers_stand_beside_ours_with_the_difference() {
    let page = |count: f64, at: u64| Snapshot {
        at,
        series: parse(&format!(
            "vllm:time_to_first_token_seconds_count {count}\n\
             vllm:time_to_first_token_seconds_sum {}\n\
             vllm:num_requests_running 3\nDCGM_FI_DEV_GPU_UTIL{{gpu=\"0\"}} 80\n\
             DCGM_FI_DEV_POWER_USAGE{{gpu=\"0\"}} 300\n",
            count * 0.1
        )),
    };
    let run = two_stages();
    let options = Options {
        server: [(0.0, 0), (20.0, 8), (20.0, 10), (40.0, 18)]
            .map(|(count, second)| page(count, second * 1_000_000_000))
            .to_vec(),
        cache: Some(CacheState { asked: CacheWish::AsIs, done: "Nothing was done.".to_owned() }),
        ..Options::default()
    };
    let analysis = run.analyse(&options);
    let total = analysis.summary.server.last().unwrap();
    let here = analysis.summary.total.distribution("ttft").unwrap().mean;
    let both = &total.beside["ttft"];
    assert_eq!((both.here, both.here - both.difference), (here, both.server));
    assert!((both.server - 100.0).abs() < 1e-9, "{both:?}");
    let text = report::terminal(&analysis, 100, false);
    let line = text.lines().find(|line| line.starts_with("mean, server / here, ms:")).unwrap();
    assert!(line.contains("TTFT 100.0 / ") && line.ends_with(')'), "{line}");
    assert!(text.contains("GPU, mean: utilisation 80.0 %, power 300.0 W\n"), "{text}");
    let shown = report::html(&analysis);
    assert!(shown.contains("TTFT mean, server / here, ms") && shown.contains("100.0 / "), "{line}");
    // What nobody measured has no column.
    assert!(!shown.contains("preemptions"));
}

#[test]
fn an_itl_by_token_is_not_set_beside_one_by_chunk() {
    let beside = |chunk_tokens: &[u32]| {
        let record = Record { chunk_tokens: chunk_tokens.to_vec(), ..answer(0, &[100, 120], 130) };
        let page = |n: u32, at: u64| {
            let both = ["time_to_first_token", "inter_token_latency"];
            let text = both.map(|name| {
                format!("vllm:{name}_seconds_count {n}\nvllm:{name}_seconds_sum {n}\n")
            });
            Snapshot { at, series: parse(&text.concat()) }
        };
        let server = vec![page(0, 0), page(1, 200_000_000)];
        let options = Options { server, ..Options::default() };
        let view = Run::open(200, vec![record]).analyse(&options).summary.server.remove(0);
        assert!(view.histograms.contains_key("itl"), "{view:?}");
        view.beside.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(beside(&[1, 1]), ["itl", "ttft"]);
    assert_eq!(beside(&[1, 3]), ["ttft"]);
}

#[test]
fn counts_of_the_server_that_went_back_are_left_out_and_told() {
    let counted = |values: [u32; 4]| {
        let readings = [0, 8, 10, 18].iter().zip(values).map(|(second, value)| Snapshot {
            at: second * 1_000_000_000,
            series: parse(&format!(
                "vllm:prompt_tokens_total {value}\nvllm:num_preemptions_total 0\n"
            )),
        });
        let options = Options { server: readings.collect(), ..Options::default() };
        let analysis = two_stages().analyse(&options);
        let notes = analysis.summary.notes.iter();
        let told =
            notes.filter(|note| note.text.contains("went back")).cloned().collect::<Vec<_>>();
        let totals = analysis.summary.server.iter().map(|view| {
            assert_eq!(view.totals["preemptions"].value, 0.0);
            view.totals.get("prompt_tokens").map(|total| total.value)
        });
        (totals.collect::<Vec<_>>(), told)
    };
    assert_eq!(counted([1, 5, 6, 9]), (vec![Some(4.0), Some(3.0), Some(7.0)], vec![]));
    // It was started anew within the second stage.
    let (totals, told) = counted([10, 50, 60, 55]);
    assert_eq!(totals, [Some(40.0), None, None]);
    let [note] = &told[..] else { panic!("one note: {told:?}") };
    assert_eq!(note.severity, Severity::Warning);
    insta::assert_snapshot!(note.text, @"the server's own counts went back from one reading to the next (prompt tokens), and are left out in high and total: it was started anew, or several servers answer in turn behind the address of its metrics page; name the page of each with --metrics");
}

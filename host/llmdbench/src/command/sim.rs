//! `sim`: the simulated inference server.

use crate::error::{Error, Exit, Result};
use crate::printer::Printer;
use crate::{interrupt, unit};
use clap::Args;
use serde_json::json;
use sim::{Behavior, CacheReset, FAULTS, FaultRule, QUIRKS, Quirk, QuirkError};
use std::path::PathBuf;
use std::time::Duration;

/// Options of `sim`.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub(crate) struct SimArgs {
    /// The address to listen at
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The TCP port; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// The model that is served
    #[arg(long, default_value = "sim")]
    model: String,
    /// Time to first token
    #[arg(long, default_value = "50ms", value_parser = duration)]
    ttft: Duration,
    /// Time from one token to the next
    #[arg(long, default_value = "10ms", value_parser = duration)]
    itl: Duration,
    /// What each input token that is not cached adds to the time to first token
    #[arg(long, default_value = "0us", value_parser = duration)]
    prefill_per_token: Duration,
    /// What each further running request adds to the time between tokens
    #[arg(long, default_value = "0us", value_parser = duration)]
    itl_per_running: Duration,
    /// Delays vary by this share, up and down
    #[arg(long, default_value_t = 0.0)]
    jitter: f64,
    /// Seed of jitter, faults, answers and their lengths
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Requests that generate at once; further ones wait
    #[arg(long, default_value_t = 256)]
    max_running: u32,
    /// The longest prompt plus answer, in tokens
    #[arg(long, default_value_t = 131_072)]
    max_model_len: u32,
    /// Blocks of the prefix cache; 0 switches it off
    #[arg(long, default_value_t = 0)]
    cache_blocks: u32,
    /// Tokens of a block
    #[arg(long, default_value_t = 16)]
    block_size: u32,
    /// How it takes the wish that it forget its prefix cache: vllm (POST /reset_prefix_cache), sglang
    /// (POST /flush_cache), none (404), ignored (200, and keeps it)
    #[arg(long, value_name = "HOW", default_value = "vllm", value_parser = cache_reset)]
    cache_reset: CacheReset,
    /// Tokens of each event after the first
    #[arg(long, default_value_t = 1)]
    tokens_per_chunk: u32,
    /// Send each streamed answer with one write, at its end
    #[arg(long)]
    one_write: bool,
    /// Mean length of answers that nobody limits, in tokens
    #[arg(long, default_value_t = 128)]
    output_tokens: u32,
    /// The environment variable that holds the API key to ask for
    #[arg(long, value_name = "NAME")]
    api_key_env: Option<String>,
    /// A fault and the share of requests that get it: http:503=0.01
    #[arg(long = "faults", value_name = "FAULT=SHARE", value_parser = fault)]
    faults: Vec<FaultRule>,
    /// A quirk that all answers have; several may be given
    #[arg(long = "quirk", value_name = "QUIRK", value_parser = quirk)]
    quirks: Vec<Quirk>,
    /// A scripted stream to play instead of answers; several are played in turn
    #[arg(long = "script", value_name = "FILE")]
    scripts: Vec<PathBuf>,
    /// End after this many answers
    #[arg(long, value_name = "N")]
    exit_after_requests: Option<u64>,
    /// Write down when each request was read and each token written
    #[arg(long, value_name = "FILE")]
    truth_log: Option<PathBuf>,
}

/// Serves until it is stopped.
pub(crate) fn run(args: &SimArgs, printer: &Printer) -> Result<Exit> {
    let api_key = match &args.api_key_env {
        None => None,
        Some(name) => {
            let key = std::env::var(name).map_err(|_| {
                Error::usage(format!("the environment variable `{name}` is not set"))
            })?;
            Some(sim::ApiKey::from(key))
        }
    };
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let behavior = Behavior {
        model: args.model.clone(),
        max_model_len: args.max_model_len,
        api_key,
        ttft_ms: ms(args.ttft),
        prefill_us_per_token: ms(args.prefill_per_token) * 1e3,
        itl_ms: ms(args.itl),
        itl_ms_per_running: ms(args.itl_per_running),
        jitter: args.jitter,
        seed: args.seed,
        max_running: args.max_running,
        cache_blocks: args.cache_blocks,
        block_size: args.block_size,
        cache_reset: args.cache_reset,
        tokens_per_chunk: args.tokens_per_chunk,
        one_write: args.one_write,
        default_output_tokens: args.output_tokens,
        faults: args.faults.clone(),
        quirks: args.quirks.clone(),
        scripts: args.scripts.clone(),
        exit_after_requests: args.exit_after_requests,
        truth_log: args.truth_log.clone(),
    };
    behavior.check().map_err(|error| Error::usage("cannot simulate that").because(error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::unexpected("cannot start").because(error))?;
    runtime.block_on(async {
        let address = (args.host.as_str(), args.port);
        let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
            Error::usage(format!("cannot listen at {}:{}", args.host, args.port))
                .because(error)
                .hint("take another --port, 0 for a free one, or an address of this machine as --host")
        })?;
        let at = listener
            .local_addr()
            .map_err(|error| Error::unexpected("cannot listen").because(error))?;
        printer.step(&format!("simulated server: model {} at http://{at}", args.model));
        printer.facts(|| json!({"model": args.model, "url": format!("http://{at}")}));
        let stopped = async {
            while interrupt::count() == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        sim::serve(listener, behavior, stopped)
            .await
            .map_err(|error| Error::unexpected("the simulated server failed").because(error))?;
        Ok(Exit::Ok)
    })
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    unit::duration(text)
}

fn cache_reset(text: &str) -> std::result::Result<CacheReset, String> {
    let names = CacheReset::ALL.map(|(name, _)| name).join(", ");
    let found = CacheReset::ALL.iter().find(|(name, _)| *name == text);
    found.map(|(_, reset)| *reset).ok_or_else(|| format!("use one of {names}"))
}

fn fault(text: &str) -> std::result::Result<FaultRule, String> {
    let (fault, rate) =
        text.rsplit_once('=').ok_or("write FAULT=SHARE, for example http:503=0.01")?;
    Ok(FaultRule {
        fault: fault.parse().map_err(|error: sim::FaultError| error.to_string())?,
        rate: rate.parse().map_err(|_| format!("`{rate}` is no number from 0 to 1"))?,
    })
}

fn quirk(text: &str) -> std::result::Result<Quirk, String> {
    text.parse().map_err(|error: QuirkError| error.to_string())
}

fn help() -> String {
    let mut text =
        String::from("Faults (also on request, with the header `x-sim-fault: FAULT`):\n");
    for fault in FAULTS {
        let name = match fault.argument {
            Some(argument) => format!("{}:{{{argument}}}", fault.name),
            None => fault.name.to_owned(),
        };
        text.push_str(&format!("  {name}\n      {}\n", fault.doc));
    }
    text.push_str("\nQuirks (of streamed answers, as far as nothing else is said):\n");
    for quirk in QUIRKS {
        text.push_str(&format!("  {}\n      {}\n", quirk.name, quirk.doc));
    }
    text
}

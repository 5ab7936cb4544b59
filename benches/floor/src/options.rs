//! What can be typed.

use crate::stream::Parse;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::str::FromStr;

const USAGE: &str = "usage: floor --addr HOST:PORT --n REQUESTS [--conc CONNECTIONS] [--rate PER_SECOND] \
     [--parse count|full] [--tokens N] [--model NAME] [--times FILE]
Without --rate, each connection asks again when it was answered; with it, connections are opened ahead.";

/// How requests follow each other.
pub enum Load {
    Closed,
    /// So many a second, evenly.
    Open {
        rate: f64,
    },
}

pub struct Options {
    pub address: String,
    pub requests: u64,
    pub connections: usize,
    pub load: Load,
    pub parse: Parse,
    pub tokens: u32,
    pub model: String,
    /// Where to write the times of each request.
    pub times: Option<PathBuf>,
}

impl Options {
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            address: String::new(),
            requests: 0,
            connections: 1,
            load: Load::Closed,
            parse: Parse::Count,
            tokens: 64,
            model: "sim".into(),
            times: None,
        };
        while let Some(name) = words.next() {
            let value = words.next().with_context(|| format!("{name} needs a value\n{USAGE}"))?;
            match name.as_str() {
                "--addr" => options.address = value,
                "--n" => options.requests = number(&name, &value)?,
                "--conc" => options.connections = number(&name, &value)?,
                "--rate" => options.load = Load::Open { rate: number(&name, &value)? },
                "--parse" if value == "count" => options.parse = Parse::Count,
                "--parse" if value == "full" => options.parse = Parse::Full,
                "--tokens" => options.tokens = number(&name, &value)?,
                "--model" => options.model = value,
                "--times" => options.times = Some(value.into()),
                _ => bail!("there is no {name} {value}\n{USAGE}"),
            }
        }
        if options.address.is_empty() || options.requests == 0 {
            bail!("{USAGE}");
        }
        Ok(options)
    }
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().ok().with_context(|| format!("{name} {value} is no number"))
}

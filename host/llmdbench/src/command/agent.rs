//! `agent`: the load generator in a pod, and the commands by which the controller speaks to it.

use crate::agent::follow;
use crate::agent::{self, Folder, Start, bundle};
use crate::error::{Error, Exit, Result};
use crate::printer::Printer;
use crate::question;
use clap::{Args, Subcommand};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::SystemTime;

/// Options of `agent`.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The folder of the agent
    #[arg(long, value_name = "DIR", default_value = "/work")]
    dir: PathBuf,
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Wait for work, do it, keep the results until they are collected
    Serve,
    /// Take the archive of so many bytes from standard input
    Take {
        #[arg(long)]
        bytes: u64,
        #[arg(long)]
        shard: u32,
        #[arg(long)]
        shards: u32,
    },
    /// Say what time it is, once for each line of standard input
    Clock,
    /// Ask the target what a line of standard input says, and write what it answers
    Ask,
    /// Begin at this time
    Start {
        #[arg(long)]
        zero: u64,
        #[arg(long)]
        first: Option<String>,
    },
    /// End: in an orderly way by the first wish, at once by the second. A wish that was heard is not heard again
    Stop {
        #[arg(long)]
        wish: usize,
    },
    /// Tell everything that happens, the journal from this offset on
    Follow {
        #[arg(long)]
        from: u64,
    },
    /// Write an archive of the results, the journal left out
    Results,
    /// End: everything was collected
    Done,
}

/// Carries an order out.
pub(crate) fn run(args: &AgentArgs, printer: &Printer) -> Result<Exit> {
    let folder = Folder::at(&args.dir);
    let out = std::io::stdout().lock();
    match &args.order {
        Order::Serve => {
            drop(out);
            return agent::serve(&folder, printer);
        }
        Order::Take { bytes, shard, shards } => {
            bundle::unpack(std::io::stdin().lock(), *bytes, &folder, *shard, *shards)?;
        }
        Order::Clock => clock(out)?,
        Order::Ask => question::serve(std::io::stdin().lock(), out)?,
        Order::Start { zero, first } => {
            folder.set_start(&Start { zero: *zero, first: first.clone() })?;
        }
        Order::Stop { wish } => {
            // A controller that got no answer asks again.
            if folder.is_new_wish(*wish) {
                // The agent is the first process of its pod.
                kill(Pid::from_raw(1), Signal::SIGINT).map_err(|error| {
                    Error::unexpected("the agent cannot be interrupted").because(error)
                })?;
            }
        }
        Order::Follow { from } => follow::tell(&folder, *from, out)?,
        Order::Results => bundle::results(&folder, out)?,
        Order::Done => folder.set_done()?,
    }
    Ok(Exit::Ok)
}

fn clock(mut out: impl Write) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let now = agent::unix_ns(SystemTime::now());
        let told = line.and_then(|_| writeln!(out, "{now}")).and_then(|()| out.flush());
        told.map_err(|error| Error::unexpected("nobody listens").because(error))?;
    }
    Ok(())
}

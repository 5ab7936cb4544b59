//! A question to the target from inside the cluster: asked by one agent that gets no load, and is gone afterwards.

use super::crew::{Crew, ORDER, Trouble};
use super::job::{self, Agents};
use super::{appear, refuse_unprepared};
use crate::error::{Error, Exit, Result};
use crate::kubernetes::Kubernetes;
use crate::phase::evidence;
use crate::phase::plan::Prepared;
use crate::printer::Printer;
use crate::question::{Answer, Question};
use crate::run_dir::RunDir;
use secrecy::{ExposeSecret, SecretString};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(120);
/// So long the pod is waited for to go: what it asks of a node is wanted for the load.
const REMOVAL: Duration = Duration::from_secs(30);

/// Has a pod ask, by the names that the cluster has for things. Gives the pod and what it got for an answer.
///
/// # Errors
/// When no pod comes up that could ask, for the reasons that keep agents from it.
pub(crate) fn ask(
    kubernetes: &Kubernetes,
    prepared: &Prepared,
    question: &Question,
    dir: &RunDir,
    printer: &Printer,
) -> Result<(String, Result<Answer>)> {
    let settings = &prepared.settings;
    let namespace = settings.text("fmperf.namespace").unwrap_or_default();
    refuse_unprepared(kubernetes, settings, namespace)?;
    let run = &prepared.plan.run;
    let name = job::name("smoketest", run);
    let agents = Agents { name: &name, namespace, shards: 1, settings };
    // What it wants to know it is told when it is there.
    let job = agents.job(false)?;
    let line = question.line(&prepared.secrets)?;
    let objects = [("batch/v1", "Job", name.as_str())];
    // One that a command left which was killed does not wait for ever.
    kubernetes.remove_for_run(&objects, namespace, REMOVAL, dir)?;
    let asked = appear(kubernetes, &agents, vec![job], run, dir, printer)
        .and_then(|()| told(kubernetes, &agents, line));
    if asked.is_err() {
        evidence::collect(kubernetes, dir, &prepared.secrets, printer);
    }
    // What stays is recorded, and goes with the stack.
    match kubernetes.remove_for_run(&objects, namespace, REMOVAL, dir) {
        Ok(left) if left.is_empty() => {}
        Ok(left) => printer.step(&format!("still there: {}", left.join("; "))),
        Err(error) => printer.warning(&format!("the Job {namespace}/{name} stays: {error}")),
    }
    asked
}

/// Tells the agent the question, and waits for what it says.
fn told(
    kubernetes: &Kubernetes,
    agents: &Agents<'_>,
    line: SecretString,
) -> Result<(String, Result<Answer>)> {
    let (namespace, job) = (agents.namespace.to_owned(), agents.name.to_owned());
    let (pod, said) = kubernetes.ask(|cluster| async move {
        let crew = Crew::of(&cluster, &namespace, &job, 1, Path::new(""), &[]).await?;
        let pod = crew.seen().next().map(|seen| seen.facts.pod.clone()).unwrap_or_default();
        let said = match crew.pipe(0, &["ask"]).await {
            Ok(pipe) => exchange(pipe, line.expose_secret().as_bytes(), PATIENCE).await,
            Err(trouble) => Err(trouble),
        };
        Ok((format!("pod {namespace}/{pod}"), said))
    })?;
    let answer = said.and_then(|said| {
        Question::answer(&said).ok_or_else(|| format!("it says `{}`", said.trim()))
    });
    match answer {
        Ok(answer) => Ok((pod, answer)),
        Err(trouble) => {
            let error = format!("{pod} does not tell what the target answers");
            Err(Error::new(Exit::Run, error).cause(trouble))
        }
    }
}

/// Gives a command in a pod what it waits for, and takes what it says until it ends well.
pub(super) async fn exchange(
    mut pipe: cluster::Pipe,
    mut input: impl AsyncRead + Unpin,
    patience: Duration,
) -> std::result::Result<String, Trouble> {
    let copied = tokio::io::copy(&mut input, &mut pipe.input).await;
    copied.map_err(|error| error.to_string())?;
    pipe.input.flush().await.map_err(|error| error.to_string())?;
    let mut said = String::new();
    let read = timeout(patience, pipe.output.read_to_string(&mut said)).await;
    read.map_err(|_| "it was given what it needs and says nothing".to_owned())?
        .map_err(|error| error.to_string())?;
    match timeout(ORDER, pipe.end()).await {
        Ok(Some(0)) => Ok(said),
        Ok(code) => Err(format!("it does not take what it is given: {code:?} {said}")),
        Err(_) => Err("it does not say whether it took what it was given".to_owned()),
    }
}

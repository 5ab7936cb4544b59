//! Feeds the load with sessions: calls the workload ahead of need, on a thread of its own, and
//! makes words of what it wants synthetic.

use crate::cache::{Sent, mark};
use crate::chosen::{Chosen, Facts};
use crate::error::Result;
use crate::phase::cache::Ready;
use crate::plan::Target;
use crate::plugins::plugin_error;
use crate::translate::{self, PlannedStage};
use crate::words::Words;
use load::{Feeder, Session};
use plugin_host::{WorkloadInstance, wit};
use std::collections::VecDeque;

/// Sessions asked for at once. The first batch is small so that load starts soon.
const FIRST_BATCH: u32 = 8;
const BATCH: u32 = 64;

/// Sessions made ahead of need.
pub(crate) const AHEAD: usize = 256;

/// Sessions that are looked at for what they share, over all stages, and in each at least.
const LOOKED_AT: usize = 2048;
const LOOKED_AT_LEAST: usize = 128;

/// The instances of the workload, one for each stage with settings of its own and one for all
/// others, and the first batch of the first stage.
pub(crate) struct Supply {
    plugin: String,
    common: WorkloadInstance,
    own: Vec<Option<WorkloadInstance>>,
    first: Vec<wit::requests::Session>,
}

impl Supply {
    /// Makes the instances and asks for the first sessions.
    pub(crate) fn new(
        chosen: &Chosen,
        facts: &Facts,
        target: &Target,
        stages: &[PlannedStage],
    ) -> Result<Self> {
        let used = &chosen.workload;
        let instance = |settings| {
            let setup = chosen.setup(used, facts, Some(target), settings);
            used.plugin.workload(setup).map_err(|error| plugin_error(&error))
        };
        let (common, _) = instance(None)?;
        let mut own = Vec::with_capacity(stages.len());
        for planned in stages {
            own.push(match chosen.stage_settings(planned)? {
                Some(settings) => Some(instance(Some(settings))?.0),
                None => None,
            });
        }
        let mut supply =
            Self { plugin: used.plugin.name().to_owned(), common, own, first: Vec::new() };
        supply.first =
            supply.instance(0).next_batch(0, FIRST_BATCH).map_err(|error| plugin_error(&error))?;
        Ok(supply)
    }

    /// Whether the host makes words for this workload, judged by its first sessions.
    pub(crate) fn wants_words(&self) -> bool {
        use wit::requests::{Part, Prompt};
        self.first.iter().flat_map(|session| &session.turns).any(|turn| {
            match &turn.request.prompt {
                Prompt::Synthetic(_) => true,
                Prompt::Messages(messages) => messages
                    .iter()
                    .any(|m| m.parts.iter().any(|part| matches!(part, Part::Synthetic(_)))),
                _ => false,
            }
        })
    }

    /// Whether a marker can be put in front of its prompts, judged by its first sessions.
    pub(crate) fn takes_marker(&self) -> bool {
        use wit::requests::Prompt;
        let fixed = |prompt: &Prompt| matches!(prompt, Prompt::TokenIds(_) | Prompt::Raw(_));
        !self.first.iter().flat_map(|session| &session.turns).any(|t| fixed(&t.request.prompt))
    }

    /// The first sessions of each stage.
    pub(crate) fn look_ahead(
        mut self,
        stages: usize,
        words: &mut Words,
    ) -> Result<Vec<Vec<Session>>> {
        let enough = (LOOKED_AT / stages.max(1)).max(LOOKED_AT_LEAST);
        let mut all = Vec::with_capacity(stages);
        for stage in 0..stages {
            let mut sessions = std::mem::take(&mut self.first);
            let mut is_last = stage == 0 && sessions.len() < FIRST_BATCH as usize;
            while sessions.len() < enough && !is_last {
                let index = u32::try_from(stage).unwrap_or(u32::MAX);
                let more = self.instance(stage).next_batch(index, BATCH);
                let more = more.map_err(|error| plugin_error(&error))?;
                is_last = more.len() < BATCH as usize;
                sessions.extend(more);
            }
            let translated =
                sessions.into_iter().map(|s| translate::session(&self.plugin, s, words));
            all.push(translated.collect::<Result<Vec<_>>>()?);
        }
        Ok(all)
    }

    /// Feeds one stage after the other until the load wants no more, and takes away the feeders of
    /// those that have everything. What warms the server's cache up comes first, and has a feeder of
    /// its own. An error ends the feeding.
    pub(crate) fn feed(
        mut self,
        feeders: &mut VecDeque<Feeder>,
        mut words: Words,
        ready: Ready,
    ) -> Result<()> {
        let mut sent = Sent::default();
        let before = usize::from(!ready.warm_up.is_empty());
        if before > 0
            && let Some(feeder) = feeders.front()
        {
            for mut session in ready.warm_up {
                sent.label(0, &mut session);
                if feeder.push(session).is_err() {
                    break;
                }
            }
            feeders.pop_front();
        }
        let mut waiting = Some(std::mem::take(&mut self.first));
        for stage in 0.. {
            let Some(feeder) = feeders.front() else { break };
            let index = u32::try_from(stage).unwrap_or(u32::MAX);
            let mut asked = FIRST_BATCH;
            loop {
                let batch = match waiting.take() {
                    Some(first) => first,
                    None => {
                        asked = BATCH;
                        self.instance(stage)
                            .next_batch(index, BATCH)
                            .map_err(|error| plugin_error(&error))?
                    }
                };
                let last = batch.len() < asked as usize;
                let mut closed = false;
                for session in batch {
                    let mut session = translate::session(&self.plugin, session, &mut words)?;
                    if let Some(marker) = &ready.marker {
                        mark(&mut session, marker);
                    }
                    sent.label(before + stage, &mut session);
                    if feeder.push(session).is_err() {
                        closed = true;
                        break;
                    }
                }
                if last || closed {
                    break;
                }
            }
            feeders.pop_front();
        }
        Ok(())
    }

    fn instance(&mut self, stage: usize) -> &mut WorkloadInstance {
        match self.own.get_mut(stage) {
            Some(Some(own)) => own,
            _ => &mut self.common,
        }
    }
}

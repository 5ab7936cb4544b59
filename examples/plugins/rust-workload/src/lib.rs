//! Workload: short greetings, each a request of its own.

use llmdbench_plugin::requests::{Request, Session};
use llmdbench_plugin::workload::Size;
use llmdbench_plugin::{Context, Error, Info, Workload};

/// What the user may set; `schema.json` says it to the host.
#[derive(Debug, serde::Deserialize)]
pub struct Settings {
    requests: u64,
    greeting: String,
    output_tokens: u32,
}

/// The greetings, from the first one in each stage.
#[derive(Debug)]
pub struct Greetings {
    settings: Settings,
    stage: u32,
    /// The next one of this stage.
    next: u64,
}

impl Workload for Greetings {
    type Settings = Settings;

    fn configure(settings: Settings, _: Context) -> Result<Self, Error> {
        if settings.greeting.trim().is_empty() {
            return Err(Error::invalid_settings("the greeting is empty").at("/greeting"));
        }
        Ok(Self { settings, stage: 0, next: 0 })
    }

    fn size(&self) -> Size {
        Size {
            sessions: Some(self.settings.requests),
            requests: Some(self.settings.requests),
            mean_output_tokens: Some(f64::from(self.settings.output_tokens)),
            ..Size::default()
        }
    }

    fn next_batch(&mut self, stage: u32, max: u32) -> Result<Vec<Session>, Error> {
        // What a stage was given and did not send is dropped, so each begins anew.
        if stage != self.stage {
            (self.stage, self.next) = (stage, 0);
        }
        let ids = self.next..self.settings.requests.min(self.next + u64::from(max));
        self.next = ids.end;
        Ok(ids.map(|id| Session::single(id, self.request(id))).collect())
    }
}

impl Greetings {
    fn request(&self, id: u64) -> Request {
        let mut request = Request::text(format!("{}, number {id}!", self.settings.greeting));
        request.max_output_tokens = Some(self.settings.output_tokens);
        request
    }
}

fn manifest() -> Info {
    llmdbench_plugin::info!().schema(include_str!("schema.json"))
}

llmdbench_plugin::export! { manifest: manifest, workload: Greetings }

#[cfg(test)]
mod tests {
    use super::*;

    fn greetings(requests: u64) -> Greetings {
        let settings = Settings { requests, greeting: "Hello".to_owned(), output_tokens: 8 };
        Greetings { settings, stage: 0, next: 0 }
    }

    #[test]
    fn each_stage_has_the_number_of_requests() {
        let mut greetings = greetings(5);
        for stage in 0..2 {
            let mut ids = Vec::new();
            loop {
                let batch = greetings.next_batch(stage, 2).unwrap();
                if batch.is_empty() {
                    break;
                }
                ids.extend(batch.iter().map(|session| session.id));
            }
            assert_eq!(ids, [0, 1, 2, 3, 4]);
        }
    }
}

//! Backend: a server process on this machine.

mod server;
mod settings;

use llmdbench_plugin::backend::Step;
use llmdbench_plugin::types::Target;
use llmdbench_plugin::{Backend, Context, Error, Info, Permission};
use server::Server;
use settings::Settings;

/// The host stops the process itself, so there is nothing to tear down.
struct Local(Server);

impl Backend for Local {
    type Settings = Settings;

    fn configure(settings: Settings, context: Context) -> Result<Self, Error> {
        Server::new(settings, &context).map(Self)
    }

    fn plan(&mut self) -> Result<Vec<Step>, Error> {
        Ok(self.0.steps())
    }

    fn locate(&mut self, observed: Vec<String>) -> Result<Target, Error> {
        self.0.target(&observed)
    }
}

fn manifest() -> Info {
    llmdbench_plugin::info!()
        .schema(include_str!("schema.json"))
        // Program and secrets are those that the user's own settings name.
        .permission(Permission::Process("*".to_owned()))
        .permission(Permission::Secret("*".to_owned()))
}

llmdbench_plugin::export! { manifest: manifest, backend: Local }

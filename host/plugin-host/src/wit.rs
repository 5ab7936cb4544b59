//! What wasmtime makes of `wit/`: the types of the contract, one module for each interface.

mod generated {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes,
        reason = "generated; the documentation stands in wit/"
    )]

    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "plugin-host",
        imports: { default: trappable },
        with: { "llmdbench:plugin/inputs.reader": crate::capability::Reader },
        require_store_data_send: true,
        additional_derives: [PartialEq],
    });
}

pub(crate) use generated::PluginHost;
pub(crate) use generated::llmdbench::plugin::{env, http, inputs, tokenizer};

pub use generated::exports::llmdbench::plugin::{
    analyzer, backend, dialogue, harness, importer, manifest, steering, workload,
};
pub use generated::llmdbench::plugin::{commands, log, requests, results, stages, types};

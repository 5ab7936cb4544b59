//! What wit-bindgen makes of `wit/`: one module with the types and imports that all kinds share, and
//! one for each exported interface, so that a component exports only what its author names.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "generated, and not the same for every target; the documentation stands in wit/"
)]

/// Imports and shared types.
pub mod shared {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package llmdbench:sdk-shared;
            world shared {
                include llmdbench:plugin/imports@0.1.0;
                import llmdbench:plugin/types@0.1.0;
                import llmdbench:plugin/stages@0.1.0;
                import llmdbench:plugin/requests@0.1.0;
                import llmdbench:plugin/commands@0.1.0;
                import llmdbench:plugin/results@0.1.0;
            }
        ",
        generate_all,
        generate_unused_types: true,
        pub_export_macro: true,
        additional_derives: [PartialEq],
        runtime_path: "::llmdbench_plugin::wit_bindgen::rt",
    });
}

/// One module for one exported interface, which takes the types it uses from `shared`.
macro_rules! exported {
    ($module:ident, $export:literal, $world:literal, [$($used:literal: $path:ident),*]) => {
        pub mod $module {
            wit_bindgen::generate!({
                path: "../../wit",
                inline: $world,
                with: { $($used: crate::bindings::shared::llmdbench::plugin::$path),* },
                pub_export_macro: true,
                export_macro_name: $export,
                additional_derives: [PartialEq],
                generate_unused_types: true,
                runtime_path: "::llmdbench_plugin::wit_bindgen::rt",
            });
        }
    };
}

exported!(
    manifest,
    "export_manifest",
    "package llmdbench:sdk; world manifest { export llmdbench:plugin/manifest@0.1.0; }",
    ["llmdbench:plugin/types@0.1.0": types]
);
exported!(
    backend,
    "export_backend",
    "package llmdbench:sdk; world backend { export llmdbench:plugin/backend@0.1.0; }",
    ["llmdbench:plugin/types@0.1.0": types, "llmdbench:plugin/commands@0.1.0": commands]
);
exported!(
    harness,
    "export_harness",
    "package llmdbench:sdk; world harness { export llmdbench:plugin/harness@0.1.0; }",
    [
        "llmdbench:plugin/types@0.1.0": types,
        "llmdbench:plugin/stages@0.1.0": stages,
        "llmdbench:plugin/commands@0.1.0": commands
    ]
);
exported!(
    steering,
    "export_steering",
    "package llmdbench:sdk; world steering { export llmdbench:plugin/steering@0.1.0; }",
    ["llmdbench:plugin/types@0.1.0": types, "llmdbench:plugin/stages@0.1.0": stages]
);
exported!(
    importer,
    "export_importer",
    "package llmdbench:sdk; world importer { export llmdbench:plugin/importer@0.1.0; }",
    ["llmdbench:plugin/types@0.1.0": types, "llmdbench:plugin/results@0.1.0": results]
);
exported!(
    workload,
    "export_workload",
    "package llmdbench:sdk; world workload { export llmdbench:plugin/workload@0.1.0; }",
    ["llmdbench:plugin/types@0.1.0": types, "llmdbench:plugin/requests@0.1.0": requests]
);
exported!(
    dialogue,
    "export_dialogue",
    "package llmdbench:sdk; world dialogue { export llmdbench:plugin/dialogue@0.1.0; }",
    ["llmdbench:plugin/types@0.1.0": types, "llmdbench:plugin/requests@0.1.0": requests]
);
exported!(
    analyzer,
    "export_analyzer",
    "package llmdbench:sdk; world analyzer { export llmdbench:plugin/analyzer@0.1.0; }",
    ["llmdbench:plugin/types@0.1.0": types, "llmdbench:plugin/results@0.1.0": results]
);

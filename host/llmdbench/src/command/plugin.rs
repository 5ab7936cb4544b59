//! `plugin list` and `plugin inspect`: what plugins there are and what they want.

use crate::cli::Global;
use crate::error::{Exit, Result};
use crate::plugins::Plugins;
use crate::printer::Printer;
use clap::{Args, Subcommand};
use plugin_host::{Plugin, Source};
use serde_json::{Value, json};

/// What to do with plugins.
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// List the plugins that are built in, and those given with --plugin
    List,
    /// Show what a plugin is, takes and wants
    Inspect(InspectArgs),
}

/// Options of `plugin inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A plugin's name, or its file
    #[arg(value_name = "NAME|FILE.wasm")]
    plugin: String,
}

/// Lists or inspects.
pub(crate) fn run(command: &PluginCommand, global: &Global, printer: &Printer) -> Result<Exit> {
    let settings = super::from_environment()?;
    let cache_dir = settings.text("control.cache_dir");
    let plugins = Plugins::load(&global.plugins, &global.grants, cache_dir, &|_| {})?;
    match command {
        PluginCommand::List => {
            let mut all: Vec<Plugin> = Vec::new();
            for name in Plugins::embedded() {
                all.push(plugins.find(name)?);
            }
            all.extend(plugins.given().iter().cloned());
            printer.result(|| list(&all), || all.iter().map(facts).collect());
        }
        PluginCommand::Inspect(args) => {
            let plugin = plugins.find(&args.plugin)?;
            printer.result(|| inspect(&plugin), || facts(&plugin));
        }
    }
    Ok(Exit::Ok)
}

fn list(plugins: &[Plugin]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["NAME", "VERSION", "KINDS", "FROM", "DOES"]);
    for plugin in plugins {
        table.add_row([
            plugin.name().to_owned(),
            plugin.version().to_owned(),
            kinds(plugin),
            from(plugin),
            plugin.info().description.clone(),
        ]);
    }
    table.trim_fmt()
}

fn inspect(plugin: &Plugin) -> String {
    let info = plugin.info();
    let list = |items: Vec<String>| {
        if items.is_empty() { "none".to_owned() } else { items.join("\n               ") }
    };
    let mut text = format!(
        "{} {}\n  {}\n  kinds        {}\n  from         {}\n  size         {} bytes\n  sha256       {}\n  license      {}\n  homepage     {}\n  imports      {}\n  exports      {}\n  permissions  {}\n",
        plugin.name(),
        plugin.version(),
        info.description,
        kinds(plugin),
        from(plugin),
        plugin.size(),
        plugin.digest(),
        if info.license.is_empty() { "not stated" } else { &info.license },
        if info.homepage.is_empty() { "none" } else { &info.homepage },
        list(plugin.imports().to_vec()),
        list(plugin.exports().to_vec()),
        list(plugin.permissions().iter().map(ToString::to_string).collect()),
    );
    if !plugin.unsupported().is_empty() {
        text.push_str(&format!(
            "  unsupported  {} (this llmdbench does not use it yet)\n",
            plugin.unsupported().join(", ")
        ));
    }
    for kind in plugin.kinds() {
        if let Some(schema) = plugin.schema(*kind) {
            text.push_str(&format!("settings as a {kind}\n"));
            describe(schema, 1, "", &mut text);
        }
    }
    text
}

/// The properties of a schema, one below the other, each behind a mark.
pub(super) fn describe(schema: &Value, depth: usize, mark: &str, text: &mut String) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let mut notes = Vec::new();
        if required.contains(&name.as_str()) {
            notes.push("required".to_owned());
        }
        if let Some(default) = property.get("default") {
            notes.push(format!("default {default}"));
        }
        if let Some(words) = property.get("enum") {
            notes.push(format!("one of {words}"));
        }
        let notes =
            if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
        let doc = property["description"].as_str().unwrap_or_default();
        let indent = "  ".repeat(depth);
        text.push_str(&format!("{indent}{mark}{name}{notes}: {doc}\n"));
        describe(property, depth + 1, mark, text);
        describe(&property["items"], depth + 1, mark, text);
    }
}

fn kinds(plugin: &Plugin) -> String {
    let names: Vec<&str> = plugin.kinds().iter().map(|kind| kind.as_str()).collect();
    names.join(", ")
}

fn from(plugin: &Plugin) -> String {
    match plugin.source() {
        Source::Embedded(_) => "built in".to_owned(),
        Source::File(path) => path.display().to_string(),
    }
}

fn facts(plugin: &Plugin) -> Value {
    let info = plugin.info();
    let kinds = plugin.kinds();
    json!({
        "name": plugin.name(),
        "version": plugin.version(),
        "description": info.description,
        "license": info.license,
        "homepage": info.homepage,
        "kinds": kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>(),
        "from": from(plugin),
        "size": plugin.size(),
        "sha256": plugin.digest(),
        "imports": plugin.imports(),
        "exports": plugin.exports(),
        "permissions": plugin.permissions().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "unsupported": plugin.unsupported(),
        "settings": kinds.iter().map(|kind| (kind.as_str().to_owned(), plugin.schema(*kind).cloned().unwrap_or_default())).collect::<serde_json::Map<_, _>>(),
    })
}

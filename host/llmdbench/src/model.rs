//! Models by their short names.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Short names that the original knew, and what they stand for.
const ALIASES: [(&str, &str); 4] = [
    ("llama-3b", "meta-llama/Llama-3.2-3B-Instruct"),
    ("llama-8b", "meta-llama/Llama-3.1-8B-Instruct"),
    ("llama-70b", "meta-llama/Llama-3.1-70B-Instruct"),
    ("llama-17b", "RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic"),
];

/// A model as the user names it and as the hub does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Model {
    /// What the user wrote: "llama-8b".
    pub(crate) alias: String,
    /// Its full id: "meta-llama/Llama-3.1-8B-Instruct".
    pub(crate) id: String,
}

impl Model {
    /// The model that a name stands for; a name that is no short one is an id.
    pub(crate) fn named(name: &str) -> Self {
        let id = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, id)| id);
        Self { alias: name.to_owned(), id: id.to_owned() }
    }

    /// The models of a comma list, each once.
    pub(crate) fn list(text: &str) -> Vec<Self> {
        let mut models: Vec<Self> = Vec::new();
        for model in items(text).into_iter().map(|name| Self::named(&name)) {
            if !models.iter().any(|other| other.id == model.id) {
                models.push(model);
            }
        }
        models
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.alias == self.id {
            f.write_str(&self.id)
        } else {
            write!(f, "{} ({})", self.id, self.alias)
        }
    }
}

/// The items of a comma list, each once, in their order.
pub(crate) fn items(text: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        if !items.iter().any(|other| other == item) {
            items.push(item.to_owned());
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_stand_for_ids_and_ids_for_themselves() {
        let models =
            Model::list("llama-8b, facebook/opt-125m,llama-8b,meta-llama/Llama-3.1-8B-Instruct");
        let shown: Vec<String> = models.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["meta-llama/Llama-3.1-8B-Instruct (llama-8b)", "facebook/opt-125m"]);
    }
}

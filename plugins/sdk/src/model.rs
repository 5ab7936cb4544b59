//! What a model's name says about it, as llm-d-benchmark read it: its deployments and services are
//! named after these parts.

/// Parts of a model's name, all in lower case; empty where the name does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// "instruct", "hf".
    pub kind_of_tuning: String,
    /// "8b", "0.5b".
    pub parameters: String,
    /// "3" of "3.1".
    pub major_version: String,
    /// The family: "llama", "qwen2.5".
    pub family: String,
}

impl Attributes {
    /// Reads them from a full id: "meta-llama/Llama-3.1-8B-Instruct".
    #[must_use]
    pub fn of(id: &str) -> Self {
        let name = id.rsplit('/').next().unwrap_or(id).to_lowercase();
        let parts: Vec<&str> = name.split('-').collect();
        let find = |is: &dyn Fn(&str) -> bool| -> String {
            parts.iter().find(|part| is(part)).map_or_else(String::new, |part| (*part).to_owned())
        };
        let begins_with_digit = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
        let version = find(&|part| begins_with_digit(part) && !part.contains(['b', 'e']));
        Self {
            kind_of_tuning: find(&|part| part.contains("nstruct") || part.contains("hf")),
            parameters: find(&|part| begins_with_digit(part) && part.contains('b')),
            major_version: version.split('.').next().unwrap_or_default().to_owned(),
            family: parts.first().map_or_else(String::new, |part| (*part).to_owned()),
        }
    }

    /// Family, version and size in one word: "llama-3-8b". As the original made it, also where a
    /// part is missing: not every label is fit for Kubernetes.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}-{}-{}", self.family, self.major_version, self.parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_said_to_the_original() {
        let check = |id: &str, expected: [&str; 5]| {
            let found = Attributes::of(id);
            let label = found.label();
            let found = [
                &found.kind_of_tuning,
                &found.parameters,
                &found.major_version,
                &found.family,
                &label,
            ];
            assert_eq!(found, expected, "{id}");
        };
        check("meta-llama/Llama-3.2-3B-Instruct", ["instruct", "3b", "3", "llama", "llama-3-3b"]);
        check("meta-llama/Llama-3.1-8B-Instruct", ["instruct", "8b", "3", "llama", "llama-3-8b"]);
        check(
            "meta-llama/Llama-3.1-70B-Instruct",
            ["instruct", "70b", "3", "llama", "llama-3-70b"],
        );
        check(
            "RedHatAI/Llama-4-Scout-17B-16E-Instruct-FP8-dynamic",
            ["instruct", "17b", "4", "llama", "llama-4-17b"],
        );
        check("facebook/opt-125m", ["", "", "125m", "opt", "opt-125m-"]);
        check("Qwen/Qwen2.5-0.5B-Instruct", ["instruct", "0.5b", "", "qwen2.5", "qwen2.5--0.5b"]);
        check(
            "mistralai/Mistral-7B-Instruct-v0.2",
            ["instruct", "7b", "", "mistral", "mistral--7b"],
        );
        check("google/gemma-2-2b", ["", "2b", "2", "gemma", "gemma-2-2b"]);
    }
}

//! Workload profiles: a flat YAML mapping of fifteen keys.

use llmdbench_plugin::{Error, log};
use saphyr_parser::{Event, Parser};

/// What a profile says; what it does not say is as in the original.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Profile {
    /// The model that requests name. Empty: the run's.
    pub(crate) model_name: String,
    pub(crate) scenarios: String,
    /// Requests per second, divided by blanks; each text names its files.
    pub(crate) qps_values: String,
    pub(crate) num_users_warmup: u32,
    pub(crate) num_users: u32,
    pub(crate) num_rounds: u32,
    pub(crate) system_prompt: u32,
    pub(crate) chat_history: u32,
    pub(crate) answer_len: u32,
    pub(crate) init_user_id: u64,
    /// Seconds.
    pub(crate) test_duration: u32,
    pub(crate) use_chat_completions: bool,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            model_name: String::new(),
            scenarios: "sharegpt".to_owned(),
            qps_values: "0.5 0.67 0.84 1 1.17 1.34".to_owned(),
            num_users_warmup: 20,
            num_users: 15,
            num_rounds: 20,
            system_prompt: 1000,
            chat_history: 20000,
            answer_len: 100,
            init_user_id: 1,
            test_duration: 100,
            use_chat_completions: true,
        }
    }
}

impl Profile {
    /// For a run of this model: requests name another one only where the profile does.
    pub(crate) fn for_model(mut self, run: &str) -> Self {
        if self.model_name == run {
            // The target may know it by a name of its own, which requests then bear.
            self.model_name.clear();
        } else if !self.model_name.is_empty() {
            log::warn(format!(
                "requests name the model `{}`, as `model_name` says, and not the run's, `{run}`; without `model_name` they name the run's",
                self.model_name
            ));
        }
        self
    }
}

/// Keys of the pod that made the load, which is none here.
const OF_A_POD: [&str; 3] = ["image", "service_account", "pvc_name"];

/// Keys that the original's class took and that have no meaning here.
const WITHOUT_MEANING: [&str; 3] = ["base_url", "overwrite", "chat_template"];

const KEYS: [&str; 12] = [
    "model_name",
    "scenarios",
    "qps_values",
    "num_users_warmup",
    "num_users",
    "num_rounds",
    "system_prompt",
    "chat_history",
    "answer_len",
    "init_user_id",
    "test_duration",
    "use_chat_completions",
];

/// A key with its value and line.
#[derive(Debug)]
struct Entry {
    key: String,
    /// The parts of a list, or the one value.
    values: Vec<String>,
    line: usize,
}

/// Reads a profile.
///
/// # Errors
/// When it is not a flat YAML mapping, or a key or value is none of a profile; with the line.
pub(crate) fn parse(text: &str) -> Result<Profile, Error> {
    let mut profile = Profile::default();
    for entry in entries(text)? {
        let key = entry.key.as_str();
        if OF_A_POD.contains(&key) {
            continue;
        }
        if WITHOUT_MEANING.contains(&key) {
            log::warn(format!("the profile's `{key}` has no meaning here and is left out"));
            continue;
        }
        match key {
            "model_name" => profile.model_name = entry.text()?,
            "scenarios" => profile.scenarios = entry.text()?,
            "qps_values" => profile.qps_values = entry.values.join(" "),
            "num_users_warmup" => profile.num_users_warmup = entry.number()?,
            "num_users" => profile.num_users = entry.number()?,
            "num_rounds" => profile.num_rounds = entry.number()?,
            "system_prompt" => profile.system_prompt = entry.number()?,
            "chat_history" => profile.chat_history = entry.number()?,
            "answer_len" => profile.answer_len = entry.number()?,
            "init_user_id" => profile.init_user_id = entry.number()?,
            "test_duration" => profile.test_duration = entry.number()?,
            "use_chat_completions" => profile.use_chat_completions = entry.switch()?,
            unknown => {
                let known = KEYS.iter().chain(&OF_A_POD).chain(&WITHOUT_MEANING).copied();
                let error = bad(entry.line, format!("`{unknown}` is no key of a profile"));
                return Err(match nearest(unknown, known) {
                    Some(near) => error.hint(format!("the nearest name is `{near}`")),
                    None => error,
                });
            }
        }
    }
    Ok(profile)
}

impl Entry {
    fn text(&self) -> Result<String, Error> {
        match self.values.as_slice() {
            [one] => Ok(one.clone()),
            _ => Err(self.wrong("one text")),
        }
    }

    fn number<T: std::str::FromStr>(&self) -> Result<T, Error> {
        let text = self.text()?;
        text.trim().parse().map_err(|_| self.wrong("a whole number"))
    }

    fn switch(&self) -> Result<bool, Error> {
        match self.text()?.to_lowercase().as_str() {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err(self.wrong("true or false")),
        }
    }

    fn wrong(&self, expected: &str) -> Error {
        let values = self.values.join(", ");
        bad(self.line, format!("`{}` takes {expected}, not `{values}`", self.key))
    }
}

fn bad(line: usize, message: String) -> Error {
    Error::invalid_data(format!("the profile's line {line}: {message}"))
}

fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().max(name.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The keys of the mapping. What lies deeper than a list is left out: only `chat_template` has it.
fn entries(text: &str) -> Result<Vec<Entry>, Error> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut depth = 0_usize;
    let mut awaits_value = false;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            bad(error.marker().line(), format!("this is not YAML: {}", error.info()))
        })?;
        let line = span.start.line();
        match event {
            Event::MappingStart(..) | Event::SequenceStart(..) if depth == 0 => {
                if matches!(event, Event::SequenceStart(..)) {
                    return Err(bad(line, "a profile is a mapping of keys to values".to_owned()));
                }
                depth = 1;
            }
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => {
                depth = depth.saturating_sub(1);
                if depth == 1 {
                    awaits_value = false;
                }
            }
            Event::Scalar(..) if depth == 0 => {
                return Err(bad(line, "a profile is a mapping of keys to values".to_owned()));
            }
            Event::Scalar(value, ..) if depth == 1 && !awaits_value => {
                if entries.iter().any(|entry| entry.key == value) {
                    return Err(bad(line, format!("the key `{value}` stands twice")));
                }
                entries.push(Entry { key: value.into_owned(), values: Vec::new(), line });
                awaits_value = true;
            }
            Event::Alias(_) => {
                return Err(bad(line, "profiles have no aliases: write the value out".to_owned()));
            }
            Event::Scalar(value, ..) => {
                if let Some(entry) = entries.last_mut().filter(|_| depth <= 2) {
                    entry.values.push(value.into_owned());
                }
                if depth == 1 {
                    awaits_value = false;
                }
            }
            _ => {}
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "model_name: \"m\"\nimage: i\nservice_account: s\npvc_name: p\n";

    #[test]
    fn a_profile_says_fifteen_things_and_what_it_leaves_out_is_the_originals() {
        let text = format!(
            "{HEAD}scenarios: \"short-input\"\nqps_values: \"0.5\"\nnum_users_warmup: 1\nnum_users: 2\nnum_rounds: 3\nsystem_prompt: 256\nchat_history: 1024\nanswer_len: 32\ninit_user_id: 7\ntest_duration: 30\nuse_chat_completions: false\n"
        );
        let expected = Profile {
            model_name: "m".into(),
            scenarios: "short-input".into(),
            qps_values: "0.5".into(),
            num_users_warmup: 1,
            num_users: 2,
            num_rounds: 3,
            system_prompt: 256,
            chat_history: 1024,
            answer_len: 32,
            init_user_id: 7,
            test_duration: 30,
            use_chat_completions: false,
        };
        assert_eq!(parse(&text).unwrap(), expected);
        let defaults = Profile { model_name: "m".into(), ..Profile::default() };
        assert_eq!(parse(HEAD).unwrap(), defaults);
        let lists = parse("qps_values: [0.1, 1]\nchat_template: {a: [b, {c: d}]}\nnum_users: 4\n");
        let lists = lists.unwrap();
        assert_eq!((lists.qps_values.as_str(), lists.num_users), ("0.1 1", 4));
    }

    #[test]
    fn requests_name_another_model_only_where_the_profile_does() {
        let name = |run| parse(HEAD).unwrap().for_model(run).model_name;
        assert_eq!([name("m"), name("other")], ["", "m"]);
        assert_eq!(Profile::default().for_model("m").model_name, "");
    }

    #[test]
    fn what_is_no_profile_is_told_with_its_line() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).unwrap_err();
            let all = format!("{} {}", error.message, error.hint.unwrap_or_default());
            assert!(all.contains(expected), "{all}");
        };
        check("num_users: 1\nnum_user: 2\n", "line 2: `num_user` is no key of a profile");
        check("num_user: 2\n", "the nearest name is `num_users`");
        check("num_users: many\n", "line 1: `num_users` takes a whole number, not `many`");
        check("use_chat_completions: perhaps\n", "takes true or false");
        check("- a\n", "a mapping of keys");
        check("a: [\n", "this is not YAML");
        check("num_users: 1\nnum_users: 1\n", "stands twice");
        check("num_users: &a 3\nnum_rounds: *a\n", "line 2: profiles have no aliases");
    }
}

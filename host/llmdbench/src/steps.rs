//! Which steps of a standup are meant by `-s`: numbers, names, prefixes, lists and ranges.

use crate::action::Action;
use crate::document::nearest;
use crate::error::{Error, Result};
use crate::plan::Step;
use crate::prepare;
use cluster::Owner;

/// The host's own step that asks for a completion.
pub(crate) const SMOKETEST: u8 = 8;

/// The steps of a standup in a cluster, whatever the method, as users select them.
pub(crate) const STEPS: [(u8, &str, &str); 9] = [
    (0, "ensure_llm-d-deployer", "nothing to do: step 07 gets the chart"),
    (1, "ensure_local_conda", "nothing to do: the analysis needs no Python"),
    (2, "ensure_gateway_provider", "gateway, and the definitions of its objects"),
    prepare::NAMES[0],
    prepare::NAMES[1],
    prepare::NAMES[2],
    (6, "deploy_vllm_standalone_models", "vLLM as Deployment and Service (method standalone)"),
    (7, "invoke_llm-d-deployer", "llm-d by its chart (method deployer)"),
    (SMOKETEST, "smoketest", "ask the model for a completion and check the answer"),
];

/// The steps, for the help of `standup`.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "Steps of the methods standalone and deployer (other methods have their own, which `plan` lists):\n",
    );
    for (number, name, title) in STEPS {
        text.push_str(&format!("  {number:02}_{name}: {title}\n"));
    }
    text
}

/// Numbers of the host's own steps: monitoring, model namespace, harness namespace, smoke test.
pub(crate) const HOST_STEPS: [u8; 4] = [3, 4, 5, SMOKETEST];

/// Whom it belongs to what an action of a step makes, in a run of this id: what the host prepares is
/// there for all runs, but for downloads, and a chart of 00 to 02 is the cluster's, which other people
/// use as well.
pub(crate) fn owner(number: u8, action: &Action, run: &str) -> Owner {
    match action {
        _ if HOST_STEPS.contains(&number) && prepare::is_download(action) => {
            Owner::Run(run.to_owned())
        }
        _ if HOST_STEPS.contains(&number) => Owner::Prepared,
        Action::Helm(_) if number <= 2 => Owner::Stranger,
        _ => Owner::Run(run.to_owned()),
    }
}

/// The numbers of the selected steps, in the order of the plan. No selection: all of them.
pub(crate) fn select(selection: Option<&str>, steps: &[Step]) -> Result<Vec<u8>> {
    let Some(selection) = selection else {
        return Ok(steps.iter().map(|step| step.number).collect());
    };
    let mut chosen = Vec::new();
    for word in selection.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let range = word.split_once('-').and_then(|(from, to)| {
            Some((from.trim().parse::<u8>().ok()?, to.trim().parse::<u8>().ok()?))
        });
        let before = chosen.len();
        match range {
            Some((from, to)) if from > to => {
                return Err(Error::usage(format!("the range of steps `{word}` runs backwards")));
            }
            Some((from, to)) => {
                chosen.extend(steps.iter().map(|s| s.number).filter(|n| (from..=to).contains(n)));
            }
            None => chosen.extend(one(word, steps)?),
        }
        if chosen.len() == before {
            return Err(unknown(word, steps));
        }
    }
    if chosen.is_empty() {
        let names: Vec<String> = steps.iter().map(full_name).collect();
        return Err(
            Error::usage("no step is named").hint(format!("the steps are {}", names.join(", ")))
        );
    }
    let numbers = steps.iter().map(|step| step.number);
    Ok(numbers.filter(|number| chosen.contains(number)).collect())
}

/// "06_start_local_server".
pub(crate) fn full_name(step: &Step) -> String {
    format!("{:02}_{}", step.number, step.name)
}

fn one(word: &str, steps: &[Step]) -> Result<Option<u8>> {
    if let Ok(number) = word.parse::<u8>() {
        return Ok(steps.iter().find(|step| step.number == number).map(|step| step.number));
    }
    let word = word.strip_suffix(".sh").unwrap_or(word);
    let named: Vec<&Step> = steps
        .iter()
        .filter(|step| full_name(step).starts_with(word) || step.name.starts_with(word))
        .collect();
    match named.as_slice() {
        [] => Ok(None),
        [step] => Ok(Some(step.number)),
        several => {
            let names: Vec<String> = several.iter().map(|step| full_name(step)).collect();
            Err(Error::usage(format!("`{word}` is the beginning of several steps"))
                .hint(format!("write one of {}", names.join(", "))))
        }
    }
}

fn unknown(word: &str, steps: &[Step]) -> Error {
    let names: Vec<String> = steps.iter().map(full_name).collect();
    let mut error = Error::usage(format!("there is no step `{word}`"));
    if let Some(near) = nearest(word, names.iter().map(String::as_str)) {
        error = error.hint(format!("the nearest name is `{near}`"));
    }
    error.hint(format!("the steps are {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Vec<Step> {
        [(0, "ensure_tools"), (6, "start_local_server"), (7, "start_router"), (8, "smoketest")]
            .map(|(number, name)| Step {
                number,
                name: name.into(),
                title: String::new(),
                actions: Vec::new(),
            })
            .into()
    }

    #[test]
    fn steps_are_selected_in_every_spelling() {
        let check = |selection: &str, expected: &[u8]| {
            assert_eq!(select(Some(selection), &steps()).unwrap(), expected, "{selection}");
        };
        check("6", &[6]);
        check("08", &[8]);
        check("08_smoketest.sh", &[8]);
        check("smoke", &[8]);
        check("0,6-8", &[0, 6, 7, 8]);
        check("8, 0", &[0, 8]);
        check("06_start", &[6]);
        assert_eq!(select(None, &steps()).unwrap(), [0, 6, 7, 8]);
    }

    #[test]
    fn what_is_no_step_is_an_error() {
        let check = |selection: &str, expected: &str| {
            let error = select(Some(selection), &steps()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("9", "there is no step `9`");
        check("08_smoktest", "the nearest name is `08_smoketest`");
        check("start_", "several steps");
        check("8-6", "backwards");
        check("1-5", "there is no step `1-5`");
        check(" ,", "no step is named");
    }
}

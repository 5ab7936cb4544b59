//! Names that were settings once, here or in the original: renamed ones still work, the others do
//! nothing, and both give a notice.

use super::{SETTINGS, Setting};

/// What became of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is called so now.
    Renamed(&'static str),
    /// It does nothing; why, in a sentence.
    Gone(&'static str),
}

use Fate::{Gone, Renamed};

const COMPUTED: &str = "It is computed, as it was in the original.";
const NO_CLONE: &str = "Nothing is cloned: charts come from their repository or from a setting, and load is made by llmdbench.";
const NO_PYTHON: &str = "The analysis needs no Python.";
const GUARD: &str = "It kept scripts from doing something twice; there are no scripts.";
const OWN_TOOLS: &str = "The programs that scripts called are not needed.";
const IN_THE_POD: &str = "It was read inside the original's launcher pod only; write it into the profile or the harness's settings.";

/// Names without LLMDBENCH_ in front.
const LEGACY: &[(&str, Fate)] = &[
    ("CLUSTER_HOST", Renamed("CLUSTER_URL")),
    // Names of later versions of the original.
    ("VLLM_COMMON_ACCELERATOR_NR", Renamed("VLLM_COMMON_GPU_NR")),
    ("VLLM_COMMON_ACCELERATOR_MEM_UTIL", Renamed("VLLM_COMMON_GPU_MEM_UTIL")),
    ("HARNESS_NAMESPACE", Renamed("FMPERF_NAMESPACE")),
    ("HARNESS_SERVICE_ACCOUNT", Renamed("FMPERF_SERVICE_ACCOUNT")),
    ("HARNESS_EXPERIMENT_PROFILE", Renamed("FMPERF_EXPERIMENT_PROFILE")),
    ("HARNESS_PVC_NAME", Renamed("FMPERF_PVC_NAME")),
    ("HARNESS_PVC_SIZE", Renamed("FMPERF_PVC_SIZE")),
    ("HARNESS_CONTAINER_IMAGE", Renamed("FMPERF_CONTAINER_IMAGE")),
    ("HARNESS_CONDA_ENV_NAME", Gone(NO_PYTHON)),
    ("HARNESS_EXPERIMENT_HARNESS", Gone("The harness is a plugin: LLMDBENCH_HARNESS_NAME.")),
    ("HARNESS_EXPERIMENT_SKIP", Gone("Use `run -z`.")),
    ("HARNESS_GIT_REPO", Gone(NO_CLONE)),
    ("HARNESS_GIT_BRANCH", Gone(NO_CLONE)),
    ("HARNESS_DIR", Gone(NO_CLONE)),
    // Names before those that the original read when it was published.
    ("EPP_ENABLE_KVCACHE_AWARE_SCORER", Renamed("VLLM_DEPLOYER_EPP_ENABLE_KVCACHE_AWARE_SCORER")),
    ("EPP_KVCACHE_AWARE_SCORER_WEIGHT", Renamed("VLLM_DEPLOYER_EPP_KVCACHE_AWARE_SCORER_WEIGHT")),
    ("EPP_ENABLE_PREFIX_AWARE_SCORER", Renamed("VLLM_DEPLOYER_EPP_ENABLE_PREFIX_AWARE_SCORER")),
    ("EPP_PREFIX_AWARE_SCORER_WEIGHT", Renamed("VLLM_DEPLOYER_EPP_PREFIX_AWARE_SCORER_WEIGHT")),
    ("EPP_ENABLE_LOAD_AWARE_SCORER", Renamed("VLLM_DEPLOYER_EPP_ENABLE_LOAD_AWARE_SCORER")),
    ("EPP_LOAD_AWARE_SCORER_WEIGHT", Renamed("VLLM_DEPLOYER_EPP_LOAD_AWARE_SCORER_WEIGHT")),
    ("EPP_ENABLE_SESSION_AWARE_SCORER", Renamed("VLLM_DEPLOYER_EPP_ENABLE_SESSION_AWARE_SCORER")),
    ("EPP_SESSION_AWARE_SCORER_WEIGHT", Renamed("VLLM_DEPLOYER_EPP_SESSION_AWARE_SCORER_WEIGHT")),
    ("EPP_PD_ENABLED", Renamed("VLLM_DEPLOYER_EPP_PD_ENABLED")),
    ("EPP_PD_PROMPT_LEN_THRESHOLD", Renamed("VLLM_DEPLOYER_EPP_PD_PROMPT_LEN_THRESHOLD")),
    // Dead already in the original.
    ("VLLM_COMMON_PERSISTENCE_ENABLED", Gone("Nothing ever read it.")),
    ("VLLM_P2P_LMCACHE_MAX_LOCAL_CPU_SIZE", Gone("Nothing ever read it.")),
    ("FMPERF_EXPERIMENT_HARNESS", Gone("Nothing ever read it; the harness is a plugin.")),
    ("EXPERIMENT_ID", Gone("Nothing ever read it; every run has an id of its own.")),
    ("ENV_VAR_LIST", Gone("Nothing ever read it.")),
    ("CONTROL_PROXY_UID", Gone("Nothing ever read it.")),
    ("CONTROL_REMOTE_KUBECONFIG_FILENAME", Gone("Nothing ever read it.")),
    // What has no place any more.
    ("DEPLOYER_GIT_REPO", Gone(NO_CLONE)),
    ("DEPLOYER_DIR", Gone(NO_CLONE)),
    ("DEPLOYER_GIT_BRANCH", Gone(NO_CLONE)),
    ("FMPERF_GIT_REPO", Gone(NO_CLONE)),
    ("FMPERF_DIR", Gone(NO_CLONE)),
    ("FMPERF_GIT_BRANCH", Gone(NO_CLONE)),
    ("FMPERF_CONDA_ENV_NAME", Gone(NO_PYTHON)),
    ("FMPERF_EXPERIMENT_SKIP", Gone("Use `run -z`.")),
    ("CONTROL_DEEP_CLEANING", Gone("Use `teardown -d`.")),
    ("CONTROL_CLUSTER_NAME", Gone("Run folders are named after the run.")),
    (
        "CONTROL_CHECK_CLUSTER_AUTHORIZATIONS",
        Gone("What is not allowed is told when it is refused."),
    ),
    ("CONTROL_RESOURCE_LIST", Gone("What a run made is known by its label.")),
    ("CONTROL_KCMD", Gone(OWN_TOOLS)),
    ("CONTROL_SCMD", Gone(OWN_TOOLS)),
    ("CONTROL_PCMD", Gone(OWN_TOOLS)),
    ("CONTROL_CCMD", Gone(OWN_TOOLS)),
    ("CONTROL_DEPLOY_HOST_OS", Gone(COMPUTED)),
    ("CONTROL_DEPLOY_HOST_SHELL", Gone(COMPUTED)),
    ("CONTROL_DEPLOY_IS_OPENSHIFT", Gone("Use LLMDBENCH_DEPLOY_PLATFORM.")),
    ("USER_IS_ADMIN", Gone(COMPUTED)),
    ("CONTROL_ENVVAR_DISPLAYED", Gone(GUARD)),
    ("CONTROL_DEPENDENCIES_CHECKED", Gone(GUARD)),
    ("CONTROL_OVERRIDE_COMMAND_DISPLAYED", Gone(GUARD)),
    ("CONTROL_PERMISSIONS_CHECKED", Gone(GUARD)),
    ("CONTROL_WARNING_DISPLAYED", Gone(GUARD)),
    ("CONTROL_CLI_OPTS_PROCESSED", Gone(GUARD)),
    ("CONTROL_ENVIRONMENT_TYPE_STANDALONE_ACTIVE", Gone(COMPUTED)),
    ("CONTROL_ENVIRONMENT_TYPE_DEPLOYER_ACTIVE", Gone(COMPUTED)),
    ("MAIN_DIR", Gone(COMPUTED)),
    ("CONTROL_DIR", Gone(COMPUTED)),
    ("STEPS_DIR", Gone(COMPUTED)),
    ("CURRENT_STEP", Gone(COMPUTED)),
    ("STEP_LIST", Gone("Use `standup -s`.")),
    ("SCENARIO_FULL_PATH", Gone(COMPUTED)),
    ("DEPLOY_CURRENT_MODEL", Gone(COMPUTED)),
    ("BASE64_CONTEXT", Gone(COMPUTED)),
    ("BASE64_FMPERF_WORKLOAD", Gone(COMPUTED)),
    ("FMPERF_STACK_NAME", Gone(COMPUTED)),
    ("FMPERF_STACK_TYPE", Gone(COMPUTED)),
    ("FMPERF_ENDPOINT_URL", Gone("Use LLMDBENCH_DEPLOY_ENDPOINT.")),
    ("FMPERF_WORKLOAD_FILE", Gone("Use LLMDBENCH_FMPERF_EXPERIMENT_PROFILE.")),
    ("FMPERF_REPETITION", Gone(IN_THE_POD)),
    ("FMPERF_JOB_ID", Gone(COMPUTED)),
    ("FMPERF_RESULTS_DIR", Gone("Results lie in the run folder.")),
    ("FMPERF_BATCH_SIZE", Gone("Nothing ever read it.")),
    ("FMPERF_SEQUENCE_LENGTH", Gone("Nothing ever read it.")),
    ("FMPERF_MAX_TOKENS", Gone("Nothing ever read it.")),
    ("FMPERF_NUM_USERS_WARMUP", Gone(IN_THE_POD)),
    ("FMPERF_NUM_USERS", Gone(IN_THE_POD)),
    ("FMPERF_NUM_ROUNDS", Gone(IN_THE_POD)),
    ("FMPERF_SYSTEM_PROMPT", Gone(IN_THE_POD)),
    ("FMPERF_CHAT_HISTORY", Gone(IN_THE_POD)),
    ("FMPERF_ANSWER_LEN", Gone(IN_THE_POD)),
    ("FMPERF_TEST_DURATION", Gone(IN_THE_POD)),
];

/// The names and what became of them, LLMDBENCH_ in front.
pub(crate) fn all() -> impl Iterator<Item = (String, String)> {
    LEGACY.iter().map(|(name, fate)| {
        let text = match fate {
            Renamed(new) => format!("is called LLMDBENCH_{new} now."),
            Gone(why) => format!("does nothing. {why}"),
        };
        (format!("LLMDBENCH_{name}"), text)
    })
}

/// The setting that an old name stands for, and a notice. None: it is no old name.
pub(super) fn find(variable: &str) -> Option<(Option<&'static Setting>, String)> {
    let name = variable.strip_prefix("LLMDBENCH_")?;
    let (_, fate) = LEGACY.iter().find(|(old, _)| *old == name)?;
    Some(match fate {
        Renamed(new) => {
            let setting =
                SETTINGS.iter().find(|s| s.variable.strip_prefix("LLMDBENCH_") == Some(new));
            (setting, format!("{variable} is called LLMDBENCH_{new} now"))
        }
        Gone(why) => (None, format!("{variable} does nothing. {why}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn old_names_are_no_settings_and_new_ones_are() {
        let is_setting =
            |name: &str| SETTINGS.iter().any(|s| s.variable == format!("LLMDBENCH_{name}"));
        let mut seen = HashSet::new();
        for (name, fate) in LEGACY {
            assert!(seen.insert(name), "{name} stands twice");
            assert!(!is_setting(name), "{name} is a setting");
            match fate {
                Renamed(new) => assert!(is_setting(new), "{new} is no setting"),
                Gone(why) => assert!(why.ends_with('.'), "{why}"),
            }
        }
    }
}

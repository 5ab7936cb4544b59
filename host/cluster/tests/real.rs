//! Against a real cluster: the one of KUBECONFIG, with the image of LLMDBENCH_TEST_IMAGE. Without the latter every test
//! here says that it was skipped.
//!
//! `cargo xtask test --cluster` has both. Each test works in a namespace of its own and removes it.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

#[path = "real/bench.rs"]
mod bench;

use bench::{Bench, image};
use cluster::{Access, Cluster, Condition, Effect, Error, LogOptions, ObjectRef, Owner, Selection};
use futures::AsyncBufReadExt;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MINUTE: Duration = Duration::from_secs(60);

fn run(id: &str) -> Owner {
    Owner::Run(id.to_owned())
}

/// A server of the simulator and its Service.
fn server() -> Vec<Value> {
    let container = json!({
        "name": "vllm",
        "image": image(),
        "command": ["/bin/sh", "-c"],
        "args": ["vllm serve org/model --port 8000 --max-model-len 4096"],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
    });
    vec![
        bench::deployment("server", container, json!({})),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"},
            "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": "http"}]},
        }),
    ]
}

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": value}})
}

#[test]
fn what_is_applied_comes_up_answers_and_goes_without_a_trace() {
    Bench::run("lifecycle", async |bench| {
        let (cluster, namespace) = (&bench.cluster, bench.namespace.as_str());
        bench.apply(&Owner::Stranger, vec![map("of-somebody", "x")]).await.unwrap();
        let owner = run("lifecycle");
        let mut objects = server();
        objects.push(map("settings", "1"));
        let applied = bench.apply(&owner, objects.clone()).await.unwrap();
        let kinds: Vec<&str> = applied.iter().map(|a| a.object.kind.as_str()).collect();
        assert_eq!(kinds, ["ConfigMap", "Service", "Deployment"]);
        assert!(applied.iter().all(|a| a.effect == Effect::Created && a.object.uid.is_some()));

        let deployment = Selection::named("apps/v1", "Deployment", namespace, "server");
        let mut told = Vec::new();
        let mut progress = |p: &cluster::Progress<'_>| told.push(p.state.to_owned());
        cluster.wait(&deployment, &Condition::Rollout, MINUTE, &mut progress).await.unwrap();
        assert!(told.iter().any(|state| state == "Deployment server: 0 of 1 ready"), "{told:?}");

        // Once more: only what differs changes.
        objects[2] = map("settings", "2");
        let again = bench.apply(&owner, objects).await.unwrap();
        let changed: Vec<_> = again.iter().filter(|a| a.effect == Effect::Changed).collect();
        assert_eq!(changed.len(), 1, "{again:?}");
        assert_eq!(changed[0].object.name, "settings");

        let pods = Selection::labelled("v1", "Pod", namespace, "app=server");
        let pods = cluster.get(&pods).await.unwrap();
        let pod = pods[0]["metadata"]["name"].as_str().unwrap();
        let log = cluster.logs(namespace, pod, &LogOptions::default()).await.unwrap();
        assert!(log.contains("simulated server: model org/model"), "{log}");
        let mut lines =
            cluster.follow(namespace, pod, &LogOptions::default()).await.unwrap().lines();
        let first = futures::StreamExt::next(&mut lines).await.unwrap().unwrap();
        assert!(log.starts_with(&first), "{first}");

        let command = ["/bin/sh", "-c", "id -u; echo oops >&2; exit 3"];
        let ended = cluster.exec(namespace, pod, None, &command).await.unwrap();
        assert_eq!((ended.code, ended.stdout.as_slice()), (Some(3), &b"65532\n"[..]));
        assert_eq!(ended.stderr, b"oops\n");

        let forward = cluster.forward("Service", namespace, "server", 80).await.unwrap();
        for _ in 0..2 {
            let mut stream = tokio::net::TcpStream::connect(forward.address()).await.unwrap();
            let ask = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            stream.write_all(ask).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("org/model"), "{answer}");
        }
        drop(forward);

        let found = cluster.find(&owner, &[namespace]).await.unwrap().found;
        let own = found.iter().filter(|found| !found.is_made);
        let own: Vec<&str> = own.map(|found| found.object.kind.as_str()).collect();
        assert_eq!(own, ["ConfigMap", "Service", "Deployment"]);
        let inventory: Vec<ObjectRef> = applied.into_iter().map(|a| a.object).collect();
        let removal = bench.delete(&inventory, &owner).await;
        let removed: Vec<&str> = removal.removed.iter().map(|o| o.kind.as_str()).collect();
        assert_eq!(removed, ["Deployment", "Service", "ConfigMap"]);
        assert!(removal.left.is_empty(), "{removal:?}");
        assert_eq!(cluster.find(&owner, &[namespace]).await.unwrap().found, []);
        let pods = Selection::labelled("v1", "Pod", namespace, "");
        assert!(cluster.get(&pods).await.unwrap().is_empty());
        let other = Selection::named("v1", "ConfigMap", namespace, "of-somebody");
        assert_eq!(cluster.get(&other).await.unwrap().len(), 1);
        // Twice is fine.
        assert_eq!(bench.delete(&inventory, &owner).await.absent.len(), 3);
    });
}

#[test]
fn nothing_of_others_is_taken_over_or_removed() {
    Bench::run("owners", async |bench| {
        let (one, two) = (run("one"), run("two"));
        bench.apply(&one, vec![map("a", "1")]).await.unwrap();
        bench.apply(&Owner::Stranger, vec![map("b", "1")]).await.unwrap();

        // Refused before anything is touched, by the name of the run.
        let refused = bench.apply(&two, vec![map("new", "2"), map("a", "2")]).await.unwrap_err();
        let text = format!(
            "ConfigMap {}/a is there already and belongs to the run `one`",
            bench.namespace
        );
        assert_eq!(refused.to_string(), text);
        assert!(refused.hint().unwrap().contains("llmdbench.io/run=one"));
        assert!(bench.config("new").await.is_none());
        let refused = bench.apply(&two, vec![map("b", "2")]).await.unwrap_err();
        assert!(refused.to_string().ends_with("belongs to somebody else"), "{refused}");

        // What is prepared makes do with what is there.
        let kept = bench.apply(&Owner::Prepared, vec![map("b", "3"), map("c", "3")]).await.unwrap();
        let effects: Vec<Effect> = kept.iter().map(|a| a.effect).collect();
        assert_eq!(effects, [Effect::Kept, Effect::Created]);
        assert_eq!(bench.config("b").await.as_deref(), Some("1"));

        // A name is not enough to be removed.
        let all: Vec<ObjectRef> = kept.into_iter().map(|a| a.object).collect();
        let removal = bench.delete(&all, &two).await;
        assert_eq!(removal.foreign.len(), 2, "{removal:?}");
        let removal = bench.delete(&all, &Owner::Prepared).await;
        assert_eq!((removal.removed.len(), removal.foreign.len()), (1, 1), "{removal:?}");
        assert_eq!(bench.config("b").await.as_deref(), Some("1"));
    });
}

#[test]
fn of_two_who_make_an_object_at_the_same_moment_one_gets_it() {
    Bench::run("race", async |bench| {
        let (one, two) = (run("one"), run("two"));
        for index in 0..10 {
            let name = format!("map-{index}");
            let (first, second) = futures::join!(
                bench.apply(&one, vec![map(&name, "1")]),
                bench.apply(&two, vec![map(&name, "2")]),
            );
            let (got, refused, owner) = match (first, second) {
                (Ok(got), Err(refused)) => (got, refused, "one"),
                (Err(refused), Ok(got)) => (got, refused, "two"),
                both => panic!("{name}: {both:?}"),
            };
            assert_eq!(got[0].effect, Effect::Created);
            let text = format!("{name} is there already and belongs to the run `{owner}`");
            assert!(refused.to_string().ends_with(&text), "{refused}");
        }
    });
}

#[test]
fn hopeless_waits_end_with_the_reason() {
    Bench::run("hopeless", async |bench| {
        let cases = bench::hopeless();
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota"}, "spec": {"hard": {"requests.memory": "1Ti"}}});
        bench.apply(&run("hopeless"), vec![quota]).await.unwrap();
        let waits = cases.into_iter().map(|case| async move {
            let name = case.name;
            bench.apply(&run("hopeless"), case.objects).await.unwrap();
            let what = Selection::named(case.api_version, case.kind, &bench.namespace, name);
            let begin = Instant::now();
            let ended =
                bench.cluster.wait(&what, &Condition::Rollout, 3 * MINUTE, &mut |_| {}).await;
            let took = begin.elapsed();
            let Err(Error::Hopeless { diagnoses, .. }) = ended else {
                return vec![format!("{name}: {ended:?}")];
            };
            let first = &diagnoses[0];
            let mut wrong = Vec::new();
            if first.signal != case.signal || !first.lines().join("\n").contains(case.says) {
                wrong.push(format!("{name}: {first:#?}"));
            }
            // So long after the decisive signal, which comes after the first restarts.
            if took > 2 * MINUTE {
                wrong.push(format!("{name}: ended after {took:?}"));
            }
            wrong
        });
        let wrong: Vec<String> = futures::future::join_all(waits).await.concat();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn a_wait_that_takes_too_long_says_what_it_saw_last() {
    Bench::run("slow", async |bench| {
        let container = json!({
            "name": "vllm", "image": image(), "command": ["sleep", "1000"],
            "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        });
        bench
            .apply(&run("slow"), vec![bench::deployment("slow", container, json!({}))])
            .await
            .unwrap();
        let what = Selection::named("apps/v1", "Deployment", &bench.namespace, "slow");
        let limit = Duration::from_secs(12);
        let ended = bench.cluster.wait(&what, &Condition::Rollout, limit, &mut |_| {}).await;
        let Err(Error::TimedOut { state, diagnoses, .. }) = ended else { panic!("{ended:?}") };
        assert_eq!(state, "Deployment slow: 0 of 1 ready");
        assert_eq!(diagnoses[0].signal, "loading", "{diagnoses:?}");
        let kind = Selection::named("example.org/v1", "Thing", &bench.namespace, "x");
        let ended = bench.cluster.wait(&kind, &Condition::Rollout, limit, &mut |_| {}).await;
        let error = ended.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the cluster does not know the kind `Thing` of `example.org/v1`"
        );
        assert!(error.hint().unwrap().contains("install what defines it"));
    });
}

#[test]
fn a_job_that_is_waited_for_says_how_far_it_is() {
    Bench::run("progress", async |bench| {
        let container = json!({
            "name": "c", "image": image(), "command": ["/bin/sh", "-c", "echo 3 of 9 files; sleep 4"],
        });
        let pod = json!({"restartPolicy": "Never", "containers": [container]});
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"},
            "spec": {"template": {"spec": pod}},
        });
        bench.apply(&run("progress"), vec![job]).await.unwrap();
        let what = Selection::named("batch/v1", "Job", &bench.namespace, "job");
        let ended = Condition::Status { name: "Complete".into(), status: "True".into() };
        let mut told = Vec::new();
        let mut progress = |p: &cluster::Progress<'_>| told.push(p.state.to_owned());
        bench.cluster.wait(&what, &ended, MINUTE, &mut progress).await.unwrap();
        assert!(told.iter().any(|state| state.ends_with("; 3 of 9 files")), "{told:?}");
    });
}

#[test]
fn a_wait_goes_on_when_the_api_server_is_back() {
    Bench::alone("outage", async |bench| {
        let container = json!({
            "name": "vllm", "image": image(), "command": ["/bin/sh", "-c", "sleep 8; vllm serve m"],
            "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
        });
        bench
            .apply(&run("outage"), vec![bench::deployment("late", container, json!({}))])
            .await
            .unwrap();
        let what = Selection::named("apps/v1", "Deployment", &bench.namespace, "late");
        let outage = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            bench::part("stop", "apiserver");
            std::thread::sleep(Duration::from_secs(5));
            bench::part("start", "apiserver");
        });
        let mut told = Vec::new();
        let mut progress = |p: &cluster::Progress<'_>| told.push(p.state.to_owned());
        let ended = bench.cluster.wait(&what, &Condition::Rollout, 2 * MINUTE, &mut progress).await;
        outage.join().unwrap();
        ended.unwrap();
        let unanswered = "the API server does not answer";
        assert!(told.iter().any(|state| state.starts_with(unanswered)), "{told:?}");
    });
}

#[test]
fn an_account_without_rights_is_told_so() {
    Bench::run("rights", async |bench| {
        let Some(authority) = bench::authority() else { return };
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}});
        bench.apply(&run("rights"), vec![account]).await.unwrap();
        let token = bench.token("nobody").await;
        let access = Access::Server {
            url: bench.cluster.server().to_owned(),
            token: token.into(),
            authority: Some(authority.clone()),
        };
        let nobody = Cluster::connect(&access).await.unwrap();
        let mut done = |_| {};
        let refused =
            nobody.apply(vec![map("x", "1")], &bench.namespace, &run("r"), &mut done).await;
        let refused = refused.unwrap_err();
        assert!(refused.is_denied(), "{refused}");
        assert!(refused.to_string().contains("system:serviceaccount"), "{refused}");
        assert!(refused.hint().unwrap().contains("kubectl auth can-i"));
        let what = Selection::named("v1", "Pod", &bench.namespace, "x");
        let ended = nobody.wait(&what, &Condition::Rollout, MINUTE, &mut |_| {}).await;
        assert!(ended.unwrap_err().is_denied());
        let access = Access::Server {
            url: bench.cluster.server().to_owned(),
            token: "wrong-token".into(),
            authority: Some(authority),
        };
        let what = Selection::named("v1", "Pod", &bench.namespace, "x");
        let refused = match Cluster::connect(&access).await {
            Ok(stranger) => stranger.get(&what).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(!refused.to_string().contains("wrong-token"), "{refused}");
    });
}

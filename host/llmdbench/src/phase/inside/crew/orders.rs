//! What agents are told: to begin in one instant, to end, that nothing of theirs is wanted any more.

use super::{AGAIN, CONTAINER, Crew, ORDER, Trouble, command};
use crate::agent::{State, unix_ns};
use std::time::{Duration, Instant, SystemTime};
use tokio::time::{sleep, timeout};

/// So long one tries to tell an agent that it shall begin.
const START: Duration = Duration::from_secs(60);
/// So long after the order to begin the run's clock reads 0.
const LEAD: Duration = Duration::from_secs(2);

impl Crew {
    /// Starts those that wait for it in one instant, which is that of the others where these were told before. One
    /// that hears of it too late begins late, which its records show.
    pub(crate) async fn start(&self) -> Result<(), Trouble> {
        let zero = self.zero().unwrap_or_else(|| unix_ns(SystemTime::now() + LEAD));
        let first = self.seen().find_map(|seen| match &seen.state {
            Some(
                State::Ready { meeting: Some(port) } | State::Running { meeting: Some(port), .. },
            ) => Some(match seen.address.contains(':') {
                true => format!("[{}]:{port}", seen.address),
                false => format!("{}:{port}", seen.address),
            }),
            _ => None,
        });
        let orders = self.waiting().into_iter().map(|shard| {
            let theirs = zero.saturating_add_signed(self.agent(shard).ahead()).to_string();
            let first = first.clone().filter(|_| shard > 0);
            async move {
                let mut order = vec!["start", "--zero", theirs.as_str()];
                if let Some(first) = &first {
                    order.extend(["--first", first.as_str()]);
                }
                let begin = Instant::now();
                loop {
                    match self.order(shard, &order).await {
                        Err(_) if begin.elapsed() < START => sleep(AGAIN).await,
                        told => break told.map_err(|why| format!("agent {shard}: {why}")),
                    }
                }
            }
        });
        futures::future::try_join_all(orders).await.map(drop)
    }

    /// Asks an agent to end: in an orderly way by the first wish, at once by the second. Asks again until it has heard
    /// it, or nothing more comes from it.
    pub(crate) async fn stop(self, shard: u32, wish: usize) {
        let wish = wish.to_string();
        while !self.agent(shard).is_over {
            let told = self.order(shard, &["stop", "--wish", &wish]).await;
            let is_told = told.is_ok();
            self.agent(shard).deaf = told.err();
            if is_told {
                break;
            }
            sleep(AGAIN).await;
        }
    }

    /// Lets those end of which everything is here: nothing of theirs is wanted any more.
    pub(crate) async fn dismiss(&self) {
        let all_here = self.seen().filter(|seen| !seen.facts.may_have_more);
        let all_here: Vec<u32> = all_here.map(|seen| seen.facts.shard).collect();
        // One that is not told waits, and the Job's removal ends it.
        let orders = all_here.into_iter().map(|shard| self.order(shard, &["done"]));
        futures::future::join_all(orders).await;
    }

    /// Gives an agent an order and waits until it is carried out.
    async fn order(&self, shard: u32, order: &[&str]) -> Result<(), Trouble> {
        let (pod, command) = (self.pod(shard), command(order));
        let asked = self.cluster.exec(&self.namespace, &pod, Some(CONTAINER), &command);
        let output = timeout(ORDER, asked).await.map_err(|_| "it does not answer".to_owned())?;
        let output = output.map_err(|error| error.to_string())?;
        match output.code {
            Some(0) => Ok(()),
            _ => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::lock;
    use crate::phase::inside::crew::{Facts, Seen};
    use cluster::{Access, Cluster};
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};
    use tokio::runtime::Runtime;

    /// Orders that an API server was asked to pass on: the pod, and what it is told.
    type Asked = Arc<Mutex<Vec<(String, String)>>>;

    /// Three agents behind an API server that passes nothing on.
    fn crew(runtime: &Runtime) -> (Crew, Asked) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Asked::default();
        let heard = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let heard = heard.clone();
                std::thread::spawn(move || answer(stream.unwrap(), &heard));
            }
        });
        let access = Access::Server { url, token: "t".to_owned().into(), authority: None };
        let cluster = runtime.block_on(Cluster::connect(&access)).unwrap();
        let agent = |shard: u32| {
            let facts = Facts { shard, pod: format!("p{shard}"), ..Facts::default() };
            Mutex::new(Seen { facts, ..Seen::default() })
        };
        let agents = Arc::new((0..3).map(agent).collect());
        let (namespace, folder) = ("ns".to_owned(), "/nowhere".into());
        (Crew { cluster, namespace, folder, agents }, asked)
    }

    /// Answers one request: says what version the server has, and refuses all else.
    fn answer(mut stream: TcpStream, heard: &Asked) {
        let mut request = String::new();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        reader.read_line(&mut request).unwrap();
        let mut header = String::new();
        while reader.read_line(&mut header).is_ok_and(|read| read > 2) {
            header.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        if let Some((_, exec)) = path.split_once("/pods/") {
            let words = exec.split(['?', '&']).filter_map(|part| part.strip_prefix("command="));
            let order: Vec<&str> = words.skip(2).collect();
            let pod = exec.split('/').next().unwrap();
            lock(heard).push((pod.to_owned(), order.join(" ")));
        }
        let (status, body) = match path {
            "/version" => ("200 OK", r#"{"major": "1", "minor": "34", "gitVersion": "v1.34.4"}"#),
            _ => ("403 Forbidden", "{}"),
        };
        let length = body.len();
        let head = format!("content-type: application/json\r\ncontent-length: {length}");
        let answer = format!("HTTP/1.1 {status}\r\n{head}\r\nconnection: close\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).unwrap();
    }

    #[test]
    fn an_agent_that_may_have_more_is_not_let_go() {
        let runtime = Runtime::new().unwrap();
        let (crew, asked) = crew(&runtime);
        crew.agent(1).facts.may_have_more = true;
        runtime.block_on(crew.dismiss());
        let mut told = lock(&asked).clone();
        told.sort();
        let done = |pod: &str| (pod.to_owned(), "done".to_owned());
        assert_eq!(told, [done("p0"), done("p2")]);
    }

    #[test]
    fn an_agent_that_does_not_hear_that_it_shall_end_is_told_again_until_it_is_over() {
        let runtime = Runtime::new().unwrap();
        let (crew, asked) = crew(&runtime);
        let telling = runtime.spawn(crew.clone().stop(1, 2));
        let since = Instant::now();
        while lock(&asked).len() < 2 {
            assert!(since.elapsed() < Duration::from_secs(30), "it is not told again");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(crew.agent(1).deaf.is_some());
        crew.agent(1).is_over = true;
        let ended = async { timeout(Duration::from_secs(30), telling).await };
        runtime.block_on(ended).unwrap().unwrap();
        let order = ("p1".to_owned(), "stop --wish 2".to_owned());
        assert!(lock(&asked).iter().all(|told| *told == order), "{:?}", lock(&asked));
    }
}

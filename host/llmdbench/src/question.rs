//! A question to a target whose answer shows that it serves the model: which models it has, and one completion. It is
//! asked by this process, or by an agent for it.

use crate::error::{Error, Exit, Problem, Result};
use crate::experiment::Experiment;
use crate::phase::smoketest::{check_model, parse};
use crate::probe::{Completion, Probe};
use crate::secrets::Secrets;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

/// So long it may take until proxies of a cluster know of pods that are ready, and how often it is tried.
const KNOWN: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(500);

/// What is asked. Secrets are no part of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Question {
    /// The base URL.
    pub(crate) endpoint: String,
    pub(crate) model: String,
    /// Has how it is asked.
    pub(crate) experiment: Experiment,
}

/// What came: whatever it is, the model is one that the target lists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// What the server says of itself.
    pub(crate) version: Option<String>,
    pub(crate) completion: Completion,
}

/// What an agent is told of a question. It lives in a pipe.
#[derive(Deserialize)]
struct Told {
    question: Question,
    /// The certificates of authorities, as PEM.
    authorities: Option<String>,
    api_key: Option<String>,
    headers: Vec<(String, String)>,
}

/// What an agent tells.
type Reply = std::result::Result<Answer, (Exit, Vec<Problem>)>;

impl Question {
    /// Asks it from here.
    ///
    /// # Errors
    /// When nothing answers, or the target does not have the model.
    pub(crate) fn ask(&self, secrets: &Secrets) -> Result<Answer> {
        let endpoint = parse(&self.endpoint)?;
        let probe =
            Probe::new(&endpoint, secrets, &self.experiment.tls(), self.experiment.timeout())?;
        check_model(&probe, &self.model)?;
        let completion = probe.completion(
            self.experiment.api(),
            &self.model,
            &self.experiment.target.extra_body,
            "Say hello in a few words.",
        )?;
        Ok(Answer { version: probe.version(), completion })
    }

    /// All that an agent needs to ask it, in one line.
    pub(crate) fn line(&self, secrets: &Secrets) -> Result<SecretString> {
        let authorities = self.experiment.target.ca_file.as_ref().map(|path| {
            std::fs::read_to_string(path).map_err(|error| {
                Error::usage(format!("cannot read the CA file `{}`", path.display())).because(error)
            })
        });
        let headers = secrets.headers.iter();
        let headers = headers.map(|(name, value)| (name, value.expose_secret()));
        let told = json!({
            "question": self,
            "authorities": authorities.transpose()?,
            "api_key": secrets.api_key.as_ref().map(ExposeSecret::expose_secret),
            "headers": headers.collect::<Vec<_>>(),
        });
        Ok(format!("{told}\n").into())
    }

    /// What an agent says it got. None: this is something else.
    pub(crate) fn answer(said: &str) -> Option<Result<Answer>> {
        let reply: Reply = serde_json::from_str(said).ok()?;
        Some(reply.map_err(|(exit, problems)| Error { exit, problems }))
    }
}

/// Asks, as an agent, what a line says, and says what comes.
pub(crate) fn serve(mut from: impl BufRead, mut out: impl Write) -> Result<()> {
    let failed = |error: &dyn std::error::Error| {
        Error::unexpected("the question was not understood").cause(error.to_string())
    };
    let mut line = String::new();
    from.read_line(&mut line).map_err(|error| failed(&error))?;
    let told: Told = serde_json::from_str(&line).map_err(|error| failed(&error))?;
    let mut question = told.question;
    let mut file = tempfile::NamedTempFile::new().map_err(|error| failed(&error))?;
    question.experiment.target.ca_file = match told.authorities {
        Some(authorities) => {
            file.write_all(authorities.as_bytes()).map_err(|error| failed(&error))?;
            Some(file.path().to_owned())
        }
        None => None,
    };
    let secret = |(name, value): (String, String)| (name, value.into());
    let secrets = Secrets {
        api_key: told.api_key.map(SecretString::from),
        headers: told.headers.into_iter().map(secret).collect(),
        ..Secrets::default()
    };
    let since = Instant::now();
    let asked = loop {
        match question.ask(&secrets) {
            // Nobody answers there yet.
            Err(error) if error.exit == Exit::Run && since.elapsed() < KNOWN => {
                std::thread::sleep(AGAIN);
            }
            asked => break asked,
        }
    };
    let reply: Reply = asked.map_err(|error| (error.exit, error.problems));
    let reply = serde_json::to_string(&reply).map_err(|error| failed(&error))?;
    writeln!(out, "{}", secrets.redaction().clean(&reply)).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::resolve;

    fn question(endpoint: &str) -> Question {
        let settings = resolve(Vec::new()).unwrap();
        Question {
            endpoint: endpoint.to_owned(),
            model: "m".to_owned(),
            experiment: Experiment::new(&settings, None, &mut Vec::new()),
        }
    }

    #[test]
    fn an_agent_asks_with_the_key_that_it_is_told_and_repeats_none_of_it() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 4096];
            let length = stream.read(&mut asked).unwrap();
            let body = r#"{"error": "not with sk-hidden"}"#;
            let head =
                format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        let secrets = Secrets {
            api_key: Some("sk-hidden".to_owned().into()),
            headers: vec![("x-tenant".into(), "t-hidden".to_owned().into())],
            ..Secrets::default()
        };
        let line = question(&format!("http://{address}")).line(&secrets).unwrap();
        let mut out = Vec::new();
        serve(line.expose_secret().as_bytes(), &mut out).unwrap();
        let asked = server.join().unwrap();
        assert!(asked.contains("Bearer sk-hidden") && asked.contains("t-hidden"), "{asked}");
        let said = String::from_utf8(out).unwrap();
        assert!(!said.contains("sk-hidden") && said.contains("not with (hidden)"), "{said}");
        let error = Question::answer(&said).unwrap().unwrap_err();
        assert!(error.to_string().contains("wants other credentials"), "{error}");
        assert!(Question::answer("exec format error").is_none());
    }
}

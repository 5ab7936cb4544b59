//! Questions to the target outside of the load: which models it has, how it counts tokens, whether
//! it answers at all.

use crate::error::{Error, Result};
use crate::secrets::Secrets;
use load::Endpoint;
use reqwest::blocking::{Client, RequestBuilder};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// How to ask a target.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    client: Client,
    endpoint: &'a Endpoint,
    secrets: &'a Secrets,
}

/// What a target says of its models.
#[derive(Debug)]
pub(crate) enum Models {
    /// It lists them.
    Listed(Vec<String>),
    /// It has no such list.
    NoList {
        /// What it said instead.
        answer: String,
    },
}

/// A completion that was asked for as a test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Completion {
    /// Where.
    pub(crate) url: String,
    /// The HTTP status.
    pub(crate) status: u16,
    /// The words of the answer.
    pub(crate) text: String,
    /// Tokens of the prompt by the server's count.
    pub(crate) input_tokens: Option<u64>,
    /// The beginning of the whole answer.
    pub(crate) body: String,
}

/// TLS and patience for the control plane.
pub(crate) fn client(timeout: Duration) -> Result<Client> {
    client_for(timeout, None, false)
}

fn client_for(timeout: Duration, ca_file: Option<&PathBuf>, insecure: bool) -> Result<Client> {
    let failed = || Error::unexpected("cannot set up HTTP");
    let mut builder = Client::builder().timeout(timeout).tls_danger_accept_invalid_certs(insecure);
    if let Some(path) = ca_file {
        let pem = std::fs::read(path).map_err(|error| {
            Error::usage(format!("cannot read the CA file `{}`", path.display())).because(error)
        })?;
        let certificates =
            reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| failed().because(error))?;
        for certificate in certificates {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.no_proxy().build().map_err(|error| failed().because(error))
}

impl<'a> Probe<'a> {
    /// A way to ask this endpoint, as the load will.
    pub(crate) fn new(
        endpoint: &'a Endpoint,
        secrets: &'a Secrets,
        tls: &load::Tls,
    ) -> Result<Self> {
        let client = client_for(Duration::from_secs(30), tls.ca_file.as_ref(), tls.insecure)?;
        Ok(Self { client, endpoint, secrets })
    }

    /// Asks for the models. An error: the target does not answer at all.
    pub(crate) fn models(&self) -> Result<Models> {
        let url = self.endpoint.url("/v1/models");
        let answer = self.send(self.client.get(&url), &url)?;
        let status = answer.status();
        let body = answer.text().unwrap_or_default();
        if status.as_u16() == 401 || status.as_u16() == 403 {
            return Err(Error::usage(format!(
                "{url} answers {status}: it wants other credentials"
            ))
            .cause(short(&body))
            .hint(
                "give the API key's variable with --api-key-env NAME, or a header with --header",
            ));
        }
        let listed = serde_json::from_str::<Value>(&body).ok().and_then(|value| {
            let data = value.get("data")?.as_array()?;
            Some(data.iter().filter_map(|m| m.get("id")?.as_str().map(str::to_owned)).collect())
        });
        Ok(match listed {
            Some(models) if status.is_success() => Models::Listed(models),
            _ => Models::NoList { answer: format!("{url} answers {status}: {}", short(&body)) },
        })
    }

    /// Asks for one short completion.
    pub(crate) fn completion(
        &self,
        api: load::Api,
        model: &str,
        extra: &serde_json::Map<String, Value>,
        prompt: &str,
    ) -> Result<Completion> {
        let (path, mut body) = match api {
            load::Api::Chat => (
                "/v1/chat/completions",
                json!({"model": model, "messages": [{"role": "user", "content": prompt}]}),
            ),
            load::Api::Completions => {
                ("/v1/completions", json!({"model": model, "prompt": prompt}))
            }
        };
        body["max_tokens"] = json!(8);
        for (key, value) in extra {
            body[key] = value.clone();
        }
        body["stream"] = json!(false);
        let url = self.endpoint.url(path);
        let answer = self.send(self.client.post(&url).json(&body), &url)?;
        let status = answer.status().as_u16();
        let text = answer.text().unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let choice = &value["choices"][0];
        let words = [
            &choice["message"]["content"],
            &choice["message"]["reasoning_content"],
            &choice["message"]["reasoning"],
            &choice["text"],
        ];
        Ok(Completion {
            url,
            status,
            text: words.iter().filter_map(|w| w.as_str()).collect(),
            input_tokens: value["usage"]["prompt_tokens"].as_u64(),
            body: short(&text),
        })
    }

    /// Has the server count the tokens of a text. None: it has no `/tokenize` that we know.
    pub(crate) fn tokenize(&self, model: &str, text: &str) -> Option<usize> {
        let url = self.endpoint.url("/tokenize");
        // vLLM reads `prompt`, llama.cpp `content`; both leave the other alone.
        let body = json!({"model": model, "prompt": text, "content": text, "add_special_tokens": false, "add_special": false});
        let answer = self.send(self.client.post(&url).json(&body), &url).ok()?;
        let value: Value = answer.error_for_status().ok()?.json().ok()?;
        let counted = value["count"].as_u64().and_then(|n| usize::try_from(n).ok());
        counted.or_else(|| value["tokens"].as_array().map(Vec::len)).filter(|n| *n > 0)
    }

    /// What the server says of itself: its version, where it tells.
    pub(crate) fn version(&self) -> Option<String> {
        let url = self.endpoint.url("/version");
        let answer = self.send(self.client.get(&url), &url).ok()?.error_for_status().ok()?;
        let value: Value = answer.json().ok()?;
        value["version"].as_str().map(str::to_owned)
    }

    fn send(&self, request: RequestBuilder, url: &str) -> Result<reqwest::blocking::Response> {
        let mut request = request;
        if let Some(key) = &self.secrets.api_key {
            request = request.bearer_auth(key.expose_secret());
        }
        for (name, value) in &self.secrets.headers {
            request = request.header(name, value.expose_secret());
        }
        request.send().map_err(|error| {
            let what = if error.is_connect() {
                format!("nothing answers at {url}")
            } else if error.is_timeout() {
                format!("{url} does not answer in time")
            } else {
                format!("cannot ask {url}")
            };
            // The outer errors only say again that it failed.
            let mut innermost: &dyn std::error::Error = &error;
            while let Some(source) = innermost.source() {
                innermost = source;
            }
            Error::new(crate::error::Exit::Run, what)
                .cause(innermost.to_string())
                .hint("is the server up, and is the endpoint right?")
        })
    }
}

fn short(body: &str) -> String {
    let mut text: String = body.trim().chars().take(500).collect();
    if text.len() < body.trim().len() {
        text.push('…');
    }
    text
}

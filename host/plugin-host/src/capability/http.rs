//! `http`: control calls to granted hosts.
//!
//! A name that was granted may still lead anywhere, so the addresses it resolves to are looked at, and
//! the connection goes to exactly those. Redirects are followed by hand, through the same gate.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use reqwest::blocking::Client;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode, Url};

use crate::capability::error;
use crate::grant::Grant;
use crate::instance::State;
use crate::wit::http;
use crate::wit::types::{Error, ErrorKind, Label, Target};

const MAX_BODY: u64 = 16 << 20;
const MAX_REDIRECTS: usize = 5;

/// The hosts that one instance may call.
pub(crate) struct Http {
    granted: Vec<Grant>,
}

impl Http {
    /// "target" stands for every host of the system under test.
    pub(crate) fn new(grants: &[Grant], target: Option<&Target>) -> Self {
        let mut granted = Vec::new();
        for grant in grants {
            match grant {
                Grant::Http(name) if name == "target" => {
                    let endpoints = target.into_iter().flat_map(|target| &target.endpoints);
                    let metrics = target.into_iter().flat_map(|target| &target.metrics);
                    let urls = endpoints
                        .map(|endpoint| &endpoint.url)
                        .chain(metrics.map(|source| &source.url));
                    let hosts = urls.filter_map(|url| host_and_port(&Url::parse(url).ok()?));
                    granted.extend(hosts.map(Grant::Http));
                }
                Grant::Http(_) => granted.push(grant.clone()),
                _ => {}
            }
        }
        Self { granted }
    }

    fn fetch(&self, request: &http::Request, deadline: Instant) -> Result<http::Response, Error> {
        let mut method = Method::from_bytes(request.method.as_bytes()).map_err(|_| {
            error(ErrorKind::InvalidData, format!("`{}` is no HTTP method", request.method))
        })?;
        let mut url = Url::parse(&request.url).map_err(|cause| {
            error(ErrorKind::InvalidData, format!("`{}` is no URL: {cause}", request.url))
        })?;
        let mut headers = headers(&request.headers)?;
        let mut body = request.body.clone();
        for _ in 0..=MAX_REDIRECTS {
            let addresses = self.admit(&url)?;
            let response = send(&url, &addresses, &method, &headers, body.clone(), deadline)?;
            let next = response
                .headers()
                .get(LOCATION)
                .and_then(|place| url.join(place.to_str().ok()?).ok());
            let Some(next) = next.filter(|_| response.status().is_redirection()) else {
                return whole(response);
            };
            let keeps = [StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT];
            if !keeps.contains(&response.status()) && method != Method::HEAD {
                (method, body) = (Method::GET, None);
            }
            if next.origin() != url.origin() {
                headers.remove("authorization");
                headers.remove("cookie");
            }
            url = next;
        }
        Err(error(
            ErrorKind::Unavailable,
            format!("{} redirects more than {MAX_REDIRECTS} times", request.url),
        ))
    }

    /// Lets a URL pass whose host was granted, and gives the addresses to connect to.
    fn admit(&self, url: &Url) -> Result<Vec<SocketAddr>, Error> {
        let wanted = host_and_port(url)
            .filter(|_| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| {
                error(ErrorKind::InvalidData, format!("{url} is no http or https URL with a host"))
            })?;
        if !self.granted.iter().any(|grant| grant.allows(&Grant::Http(wanted.clone()))) {
            let permission = format!("http={wanted}");
            return Err(error(ErrorKind::Denied(permission), format!("{wanted} was not granted")));
        }
        let addresses = wanted.to_socket_addrs().map_err(|cause| {
            error(ErrorKind::Unavailable, format!("{wanted} cannot be resolved: {cause}"))
        })?;
        let is_local_name = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let (good, bad): (Vec<_>, Vec<_>) =
            addresses.partition(|address| is_permitted(address.ip(), is_local_name));
        match bad.first() {
            Some(address) if good.is_empty() => {
                let message =
                    format!("{wanted} leads to {}, which no plugin may call", address.ip());
                Err(error(ErrorKind::Denied(format!("http={wanted}")), message))
            }
            _ => Ok(good),
        }
    }
}

/// "host:port" of a URL, with the scheme's port where it names none.
fn host_and_port(url: &Url) -> Option<String> {
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

/// Addresses that a granted name may lead to. Private networks are where clusters live; link-local ones
/// are where clouds keep credentials. Loopback only for names that say so.
fn is_permitted(address: IpAddr, is_local_name: bool) -> bool {
    let address = address.to_canonical();
    if address.is_loopback() {
        return is_local_name;
    }
    match address {
        IpAddr::V4(v4) => {
            let is_metadata = v4 == Ipv4Addr::new(100, 100, 100, 200);
            !(v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
                || is_metadata)
        }
        IpAddr::V6(v6) => {
            let is_metadata = v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
            !(v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast() || is_metadata)
        }
    }
}

fn headers(labels: &[Label]) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for label in labels {
        let bad = || error(ErrorKind::InvalidData, format!("`{}` is no HTTP header", label.key));
        let name = HeaderName::from_bytes(label.key.as_bytes()).map_err(|_| bad())?;
        headers.append(name, HeaderValue::from_str(&label.value).map_err(|_| bad())?);
    }
    Ok(headers)
}

fn send(
    url: &Url,
    addresses: &[SocketAddr],
    method: &Method,
    headers: &HeaderMap,
    body: Option<Vec<u8>>,
    deadline: Instant,
) -> Result<reqwest::blocking::Response, Error> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let failed = |cause: reqwest::Error| {
        let kind = if cause.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Unavailable };
        error(kind, format!("{method} {url} failed: {}", root(&cause)))
    };
    let host = url.host_str().unwrap_or_default();
    let client = Client::builder()
        .redirect(Policy::none())
        .resolve_to_addrs(host, addresses)
        .timeout(left)
        .build()
        .map_err(failed)?;
    let mut request = client.request(method.clone(), url.clone()).headers(headers.clone());
    if let Some(body) = body {
        request = request.body(body);
    }
    request.send().map_err(failed)
}

fn whole(response: reqwest::blocking::Response) -> Result<http::Response, Error> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = response.headers().iter();
    let headers = headers
        .map(|(key, value)| Label { key: key.as_str().to_owned(), value: text(value) })
        .collect();
    let (status, url) = (response.status().as_u16(), response.url().clone());
    let mut body = Vec::new();
    response.take(MAX_BODY + 1).read_to_end(&mut body).map_err(|cause| {
        error(ErrorKind::Unavailable, format!("the answer of {url} broke off: {cause}"))
    })?;
    if body.len() as u64 > MAX_BODY {
        return Err(error(
            ErrorKind::InvalidData,
            format!("the answer of {url} is over {} MiB", MAX_BODY >> 20),
        ));
    }
    Ok(http::Response { status, headers, body })
}

/// The innermost cause says what happened; reqwest's own words repeat the URL.
fn root(cause: &dyn std::error::Error) -> String {
    let mut cause = cause;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl http::Host for State {
    fn fetch(&mut self, request: http::Request) -> wasmtime::Result<Result<http::Response, Error>> {
        // The call of the plugin goes on afterwards, so the answer has to come within its time.
        let limit = Duration::from_nanos(request.timeout).min(self.time_left());
        let deadline = Instant::now() + limit;
        let http = &self.capabilities.http;
        // A thread of its own: the blocking client must not run on an async worker, and the caller
        // may be one.
        Ok(std::thread::scope(|scope| {
            scope.spawn(|| http.fetch(&request, deadline)).join().unwrap_or_else(|_| {
                Err(error(ErrorKind::Internal, "the host's HTTP client failed"))
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request after another with these texts; gives the address and the request lines.
    fn serve(answers: Vec<String>) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let answer = |text: String| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines =
                    BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
                let first = lines.next().unwrap();
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                stream.write_all(text.as_bytes()).unwrap();
                first
            };
            answers.into_iter().map(answer).collect()
        });
        (address, server)
    }

    fn get(grants: &[String], url: &str) -> Result<http::Response, Error> {
        // The program installs one at its start; of several tests the first one wins.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let grants: Vec<Grant> = grants.iter().map(|grant| Grant::parse(grant).unwrap()).collect();
        let request = http::Request {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: Vec::new(),
            body: None,
            timeout: 0,
        };
        Http::new(&grants, None).fetch(&request, Instant::now() + Duration::from_secs(10))
    }

    #[test]
    fn a_granted_host_answers_through_its_redirects() {
        let moved = "HTTP/1.1 302 Found\r\nlocation: /new\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let found =
            "HTTP/1.1 404 Not Found\r\nx-a: b\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
        let (address, server) = serve(vec![moved.to_owned(), found.to_owned()]);
        let response = get(&[format!("http={address}")], &format!("http://{address}/old")).unwrap();
        assert_eq!((response.status, response.body.as_slice()), (404, b"hi".as_slice()));
        assert!(response.headers.iter().any(|header| header.key == "x-a" && header.value == "b"));
        assert_eq!(server.join().unwrap(), ["GET /old HTTP/1.1", "GET /new HTTP/1.1"]);
    }

    #[test]
    fn what_was_not_granted_is_refused_before_anything_is_sent() {
        let check = |grant: &str, url: &str, permission: &str| {
            let error = get(&[grant.to_owned()], url).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Denied(permission.to_owned()), "{url}");
        };
        check("http=example.org", "http://127.0.0.1:1/", "http=127.0.0.1:1");
        check("http=127.0.0.1:1", "http://127.0.0.1:2/", "http=127.0.0.1:2");
        check("http=169.254.169.254", "http://169.254.169.254/latest", "http=169.254.169.254:80");
        check("process=curl", "http://localhost:1/", "http=localhost:1");
    }

    #[test]
    fn a_redirect_to_another_host_needs_its_own_grant() {
        let moved = "HTTP/1.1 307 x\r\nlocation: http://localhost:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let (address, server) = serve(vec![moved.to_owned()]);
        let error = get(&[format!("http={address}")], &format!("http://{address}/")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied("http=localhost:1".to_owned()));
        server.join().unwrap();
    }

    #[test]
    fn an_answer_without_end_is_refused() {
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
        let (address, server) = serve(vec![format!("{head}{}", "x".repeat(MAX_BODY as usize + 1))]);
        let error = get(&[format!("http={address}")], &format!("http://{address}/")).unwrap_err();
        assert!(error.message.ends_with("is over 16 MiB"), "{}", error.message);
        server.join().unwrap();
    }

    #[test]
    fn names_do_not_lead_to_forbidden_addresses() {
        for (address, is_local_name, wanted) in [
            ("10.0.0.1", false, true),
            ("127.0.0.1", false, false),
            ("127.0.0.1", true, true),
            ("::ffff:169.254.169.254", false, false),
            ("fe80::1", false, false),
            ("0.0.0.0", true, false),
            ("2001:db8::1", false, true),
        ] {
            assert_eq!(is_permitted(address.parse().unwrap(), is_local_name), wanted, "{address}");
        }
    }

    #[test]
    fn the_target_stands_for_its_hosts() {
        let endpoint = crate::wit::types::Endpoint {
            url: "http://localhost:8000".to_owned(),
            reach: crate::wit::types::Reach::Direct,
            credential: None,
        };
        let target = Target {
            endpoints: vec![endpoint],
            metrics: Vec::new(),
            model: String::new(),
            facts: Vec::new(),
        };
        let http = Http::new(&[Grant::Http("target".to_owned())], Some(&target));
        assert!(http.admit(&Url::parse("http://localhost:8000/v1/models").unwrap()).is_ok());
        assert!(http.admit(&Url::parse("http://localhost:9000/").unwrap()).is_err());
    }
}

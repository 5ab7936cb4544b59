//! Load over TLS: whom it trusts, and what it says of those whom it does not.

use crate::support::*;
use load::Tls;
use records::{Connection, FailureKind, Record};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use tempfile::NamedTempFile;

/// A server with a certificate that it has signed itself, for this host; and that certificate.
fn server(host: &str, scripts: Vec<Script>) -> (Server, NamedTempFile) {
    let own = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(own.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let wrap =
        move |stream| Some(StreamOwned::new(ServerConnection::new(config.clone()).ok()?, stream));
    (Server::over(wrap, scripts), file)
}

fn play(address: &str, sessions: u64, tls: Tls) -> Vec<Record> {
    let mut plan = plan(address, vec![closed(sessions)]);
    plan.target.tls = tls;
    run(plan).records().into_iter().cloned().collect()
}

fn trusting(file: &NamedTempFile) -> Tls {
    Tls { ca_file: Some(file.path().to_owned()), insecure: false }
}

fn unchecked() -> Tls {
    Tls { ca_file: None, insecure: true }
}

fn secure(server: &Server) -> String {
    format!("https://{}", server.address)
}

#[test]
fn answers_come_over_kept_connections_where_the_certificate_is_trusted_or_not_checked() {
    let check = |host: &str, tls: &dyn Fn(&NamedTempFile) -> Tls| {
        let (server, file) = server(host, vec![Script::answer(5, 10)]);
        let records = play(&secure(&server), 3, tls(&file));
        let connections: Vec<_> = records.iter().map(|record| record.connection).collect();
        assert_eq!(connections, [Connection::Reused; 3], "opened before the stage began");
        for record in records {
            assert_eq!((&record.error, record.tokens.len()), (&None, 2));
            assert!(record.tokens[0] - record.sent.unwrap() >= 5 * MS);
        }
    };
    check("127.0.0.1", &trusting);
    check("127.0.0.1", &|_| unchecked());
    check("elsewhere.example", &|_| unchecked());
}

#[test]
fn a_server_that_cannot_be_trusted_gets_no_request() {
    let check = |host: &str, tls: &dyn Fn(&NamedTempFile) -> Tls, says: &[&str]| {
        let (server, file) = server(host, vec![Script::answer(1, 2)]);
        let records = play(&secure(&server), 1, tls(&file));
        let failure = records[0].error.as_ref().unwrap();
        assert_eq!(failure.kind, FailureKind::Tls, "{failure:?}");
        for part in says {
            assert!(failure.message.contains(part), "{failure:?} lacks {part}");
        }
        assert_eq!((records[0].sent, server.seen().len()), (None, 0));
    };
    let unknown = ["127.0.0.1:", "authority", "ca_file"];
    check("127.0.0.1", &|_| Tls::default(), &unknown);
    check("elsewhere.example", &trusting, &["127.0.0.1", "elsewhere.example"]);
}

#[test]
fn a_server_without_tls_is_told_from_one_with_a_bad_certificate() {
    let check = |answer: &'static [u8]| {
        let wrap = move |mut stream: TcpStream| {
            // The whole hello is read: bytes left unread would make the close a reset.
            let hello = stream.read(&mut [0; 4096]).ok()?;
            stream.write_all(answer).ok().filter(|()| hello > 0)?;
            None::<TcpStream>
        };
        let server = Server::over(wrap, vec![Script::default()]);
        let records = play(&secure(&server), 1, unchecked());
        let failure = records[0].error.as_ref().unwrap();
        assert_eq!(failure.kind, FailureKind::Tls, "{failure:?}");
        assert!(failure.message.contains("write http://"), "{failure:?}");
    };
    check(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
    check(b"");
}

#[test]
fn a_kept_connection_that_the_server_closed_is_replaced() {
    let scripts = vec![Script::answer(1, 2).end(End::Close(2)), Script::answer(1, 2)];
    let (server, file) = server("127.0.0.1", scripts);
    let records = play(&secure(&server), 2, trusting(&file));
    assert!(records.iter().all(|record| record.error.is_none()), "{records:?}");
    // Whether the client knew of it before it sent or after is chance.
    let took_another = records[1].connection == Connection::New || records[1].retries == 1;
    assert!(took_another, "{records:?}");
}

#[test]
fn a_file_without_certificates_is_refused_before_anything_is_sent() {
    let file = NamedTempFile::new().unwrap();
    let mut plan = plan("https://127.0.0.1:1", vec![closed(1)]);
    plan.target.tls = trusting(&file);
    let (_, supply) = load::ring(1);
    let writer = records::Writer::new(std::io::sink(), &header()).unwrap();
    let error = load::start(plan, vec![supply], writer).unwrap_err().to_string();
    assert!(error.contains("no certificate"), "{error}");
}

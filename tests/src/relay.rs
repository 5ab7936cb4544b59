//! [`Relay`]: stands between the program and a server and keeps what both said.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// Passes bytes on as they come. It listens until the test ends.
#[derive(Debug)]
pub struct Relay {
    /// Where it answers.
    pub url: String,
    heard: Arc<Mutex<Vec<Heard>>>,
}

/// What went over one connection.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Bytes of the client.
    pub asked: Vec<u8>,
    /// Bytes of the server.
    pub answered: Vec<u8>,
}

impl Relay {
    /// A relay to the server with this URL.
    #[must_use]
    pub fn start(server: &str) -> Self {
        let address = server.trim_end_matches('/').strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let keep = Arc::clone(&heard);
        spawn(move || {
            for client in listener.incoming() {
                // Where there is no descriptor for it, there may be one soon.
                let Ok(client) = client else {
                    sleep(Duration::from_millis(1));
                    continue;
                };
                // Without a server the client sees its connection closed, as it would without us.
                let Ok(server) = TcpStream::connect(&address) else { continue };
                let (client, server) = (Arc::new(client), Arc::new(server));
                let index = {
                    let mut heard = keep.lock().unwrap();
                    heard.push(Heard::default());
                    heard.len() - 1
                };
                let (up, down) = (Arc::clone(&keep), Arc::clone(&keep));
                let (from, to) = (Arc::clone(&client), Arc::clone(&server));
                spawn(move || {
                    pass(&from, &to, |bytes| up.lock().unwrap()[index].asked.extend(bytes))
                });
                spawn(move || {
                    pass(&server, &client, |bytes| {
                        down.lock().unwrap()[index].answered.extend(bytes);
                    });
                });
            }
        });
        Self { url, heard }
    }

    /// What went over each connection so far.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, keep: impl Fn(&[u8])) {
    // Small events are not to wait for each other.
    let _ = to.set_nodelay(true);
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        keep(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other side learns of the end; if it has gone already there is nobody to tell.
    let _ = to.shutdown(Shutdown::Write);
}

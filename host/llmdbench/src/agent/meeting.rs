//! Where several agents agree on when a stage begins: the first one listens, the others come to it. Who goes away
//! is waited for no more; when the first one goes, each goes on by itself.

use super::lock;
use load::{Agreement, Readiness};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// So long the first one waits for the others to come.
pub(crate) const COME: Duration = Duration::from_secs(30);
/// So long all wait for the last one to be ready: a request may go on for minutes at the end of a stage.
const STAGE: Duration = Duration::from_secs(3600);
/// A stage begins so long after the last one was ready, in nanoseconds: by then all know of it.
const LEAD: u64 = 50_000_000;
/// How often one tries to come.
const TRY: Duration = Duration::from_millis(200);

/// A meeting, seen by one of its agents.
#[derive(Debug)]
pub(crate) enum Meeting {
    /// The first agent.
    Host(Arc<Room>),
    /// Another one.
    Guest(Mutex<Way>),
}

/// The way to the first agent.
#[derive(Debug)]
pub(crate) struct Way {
    /// None: it cannot be reached, or has gone.
    first: Option<BufReader<TcpStream>>,
    /// The first stage that was begun without it.
    alone_from: Option<u32>,
}

/// What the first agent knows of the others.
#[derive(Debug)]
pub(crate) struct Room {
    state: Mutex<Guests>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Guests {
    /// Those that are still to come, or are there: what they said last, and the way back to them.
    guests: BTreeMap<u32, Guest>,
    /// One that should be there is not.
    is_broken: bool,
}

#[derive(Debug, Default)]
struct Guest {
    way_back: Option<TcpStream>,
    said: Option<Said>,
}

/// What a guest says first.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    run: String,
    index: u32,
}

/// A line from a guest.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Said {
    stage: u32,
    ready: u64,
    next_id: u64,
}

/// A line to a guest.
#[derive(Debug, Serialize, Deserialize)]
struct Agreed {
    begin: u64,
    first_id: Option<u64>,
}

impl Meeting {
    /// Opens a meeting of so many agents. Gives the port at which the others find it, too.
    pub(crate) fn host(run: &str, count: u32) -> io::Result<(Self, u16)> {
        let any = [SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), (Ipv4Addr::UNSPECIFIED, 0).into()];
        let listener = TcpListener::bind(&any[..])?;
        let port = listener.local_addr()?.port();
        let guests = (1..count).map(|index| (index, Guest::default())).collect();
        let room = Arc::new(Room {
            state: Mutex::new(Guests { guests, is_broken: false }),
            changed: Condvar::new(),
        });
        let (run, host) = (run.to_owned(), room.clone());
        thread::Builder::new().name("meeting".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let (run, room) = (run.clone(), host.clone());
                let _ = thread::Builder::new()
                    .name("guest".into())
                    .spawn(move || room.hear(stream, &run));
            }
        })?;
        Ok((Self::Host(room), port))
    }

    /// Comes to the meeting of the first agent.
    pub(crate) fn join(first: &str, run: &str, index: u32) -> Self {
        let since = Instant::now();
        let stream = loop {
            let connected = first.parse().map(|first| TcpStream::connect_timeout(&first, COME));
            match connected.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(stream) => break Some(stream),
                Err(_) if since.elapsed() < COME => thread::sleep(TRY),
                Err(_) => break None,
            }
        };
        let hello = Hello { run: run.to_owned(), index };
        let greeted = stream.and_then(|mut stream| {
            stream.set_nodelay(true).ok()?;
            stream.set_read_timeout(Some(STAGE)).ok()?;
            say(&mut stream, &hello).ok()?;
            Some(BufReader::new(stream))
        });
        Self::Guest(Mutex::new(Way { first: greeted, alone_from: None }))
    }

    /// The first stage that this agent began alone, for it could not agree with the first one. None: there is none.
    pub(crate) fn alone_from(&self) -> Option<u32> {
        match self {
            Self::Host(_) => None,
            Self::Guest(way) => lock(way).alone_from,
        }
    }

    /// Waits until all are ready for a stage.
    pub(crate) fn agree(&self, own: Readiness) -> Agreement {
        let said = Said { stage: own.stage, ready: own.ready, next_id: own.next_id };
        let agreed = match self {
            Self::Host(room) => Some(room.agree(said)),
            Self::Guest(way) => {
                let mut way = lock(way);
                let agreed = way.first.as_mut().and_then(|reader| {
                    say(reader.get_mut(), &said).ok()?;
                    let mut line = String::new();
                    reader.read_line(&mut line).ok()?;
                    serde_json::from_str::<Agreed>(&line).ok()
                });
                if agreed.is_none() {
                    way.first = None;
                    way.alone_from.get_or_insert(own.stage);
                }
                agreed
            }
        };
        match agreed {
            Some(agreed) => Agreement { begin: agreed.begin, first_id: agreed.first_id },
            None => Agreement { begin: own.ready, first_id: None },
        }
    }
}

impl Room {
    /// Hears a guest until it goes away.
    fn hear(&self, mut stream: TcpStream, run: &str) {
        let _ = stream.set_nodelay(true);
        let Ok(reading) = stream.try_clone() else { return };
        let mut lines = BufReader::new(reading).lines().map_while(Result::ok);
        let hello = lines.next().and_then(|line| serde_json::from_str::<Hello>(&line).ok());
        let Some(hello) = hello.filter(|hello| hello.run == run) else {
            let _ = stream.write_all(b"this is not your meeting\n");
            return;
        };
        match lock(&self.state).guests.get_mut(&hello.index) {
            Some(guest) => guest.way_back = Some(stream),
            // It came too late: to be let go tells it to go on alone.
            None => return,
        }
        for said in lines.map_while(|line| serde_json::from_str::<Said>(&line).ok()) {
            match lock(&self.state).guests.get_mut(&hello.index) {
                Some(guest) => guest.said = Some(said),
                None => return,
            }
            self.changed.notify_all();
        }
        let mut state = lock(&self.state);
        state.guests.remove(&hello.index);
        state.is_broken = true;
        drop(state);
        self.changed.notify_all();
    }

    fn agree(&self, own: Said) -> Agreed {
        let since = Instant::now();
        let is_ready = |guest: &Guest| guest.said.is_some_and(|said| said.stage == own.stage);
        let mut state = lock(&self.state);
        while !state.guests.values().all(is_ready) {
            let have_come = state.guests.values().all(|guest| guest.way_back.is_some());
            let most = if have_come { STAGE } else { COME };
            let Some(left) = most.checked_sub(since.elapsed()) else {
                // Who has not come by now goes on alone.
                state.guests.retain(|_, guest| is_ready(guest));
                state.is_broken = true;
                break;
            };
            let waited = self.changed.wait_timeout(state, left.min(Duration::from_secs(1)));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let all = || state.guests.values().filter_map(|guest| guest.said).chain([own]);
        let agreed = Agreed {
            begin: all().map(|said| said.ready).max().unwrap_or(own.ready) + LEAD,
            // Who went away may go on alone, with the numbers that follow from the last that all agreed on.
            first_id: all().map(|said| said.next_id).max().filter(|_| !state.is_broken),
        };
        for guest in state.guests.values_mut() {
            // One that cannot be told is heard to go away by its own thread.
            if let Some(way) = &mut guest.way_back {
                let _ = say(way, &agreed);
            }
        }
        agreed
    }
}

fn say(stream: &mut TcpStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(stage: u32, ready: u64, next_id: u64) -> Readiness {
        Readiness { stage, ready, next_id }
    }

    #[test]
    fn all_begin_when_the_last_is_ready_and_with_the_highest_number() {
        let (host, port) = Meeting::host("r", 3).unwrap();
        let first = format!("127.0.0.1:{port}");
        let guests: Vec<_> = [(1, 50, 7), (2, 20, 9)]
            .into_iter()
            .map(|(index, at, id)| {
                let first = first.clone();
                thread::spawn(move || {
                    let guest = Meeting::join(&first, "r", index);
                    [guest.agree(ready(0, at, id)), guest.agree(ready(1, at + 1000, id))]
                })
            })
            .collect();
        let own = [host.agree(ready(0, 30, 8)), host.agree(ready(1, 2000, 12))];
        let agreed = |begin: u64, id| Agreement { begin: begin + LEAD, first_id: Some(id) };
        assert_eq!(own, [agreed(50, 9), agreed(2000, 12)]);
        assert_eq!(host.alone_from(), None);
        for guest in guests {
            assert_eq!(guest.join().unwrap(), own);
        }
    }

    #[test]
    fn who_goes_away_is_waited_for_no_more() {
        let (host, port) = Meeting::host("r", 3).unwrap();
        let first = format!("127.0.0.1:{port}");
        let stays = {
            let first = first.clone();
            thread::spawn(move || Meeting::join(&first, "r", 2).agree(ready(0, 5, 0)))
        };
        drop(Meeting::join(&first, "r", 1));
        let own = host.agree(ready(0, 1, 0));
        assert_eq!(own, Agreement { begin: 5 + LEAD, first_id: None });
        assert_eq!(stays.join().unwrap(), own);
    }

    #[test]
    fn without_the_first_one_each_goes_on_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = listener.local_addr().unwrap().to_string();
        let guest = Meeting::join(&first, "r", 1);
        drop(listener);
        let alone = Agreement { begin: 5, first_id: None };
        assert_eq!(guest.agree(ready(0, 5, 3)), alone);
        assert_eq!(guest.agree(ready(1, 5, 3)), alone);
        assert_eq!(guest.alone_from(), Some(0));
    }

    #[test]
    fn a_guest_of_another_run_is_turned_away() {
        let (_host, port) = Meeting::host("r", 2).unwrap();
        let first = format!("127.0.0.1:{port}");
        let guest = Meeting::join(&first, "other", 1);
        assert_eq!(guest.agree(ready(0, 5, 3)).first_id, None);
    }
}

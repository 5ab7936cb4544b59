//! Several load generators that make one load.

use crate::support::*;
use load::{Agreement, Arrival, Readiness, Shard, Stage, Stop, Together};
use std::collections::BTreeSet;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, SystemTime};

/// What all shards know of each other.
struct Meeting {
    all: Barrier,
    said: Mutex<Vec<Readiness>>,
}

impl Meeting {
    fn agree(&self, own: Readiness) -> Agreement {
        self.said.lock().unwrap().push(own);
        self.all.wait();
        let said = self.said.lock().unwrap();
        let of_stage = || said.iter().filter(|other| other.stage == own.stage);
        Agreement {
            begin: of_stage().map(|other| other.ready).max().unwrap(),
            first_id: of_stage().map(|other| other.next_id).max(),
        }
    }
}

fn in_shards(count: u32, url: &str, stages: &[Stage]) -> Vec<Done> {
    let meeting = Arc::new(Meeting { all: Barrier::new(count as usize), said: Mutex::default() });
    let zero = SystemTime::now() + Duration::from_millis(100);
    let going: Vec<_> = (0..count)
        .map(|index| {
            let mut plan = plan(url, stages.to_vec());
            let meeting = meeting.clone();
            let agree = Box::new(move |own| meeting.agree(own));
            plan.together = Some(Together { shard: Shard { index, count }, zero, agree });
            std::thread::spawn(move || run(plan))
        })
        .collect();
    going.into_iter().map(|shard| shard.join().unwrap()).collect()
}

/// Number, stage, session, and when it was due after the begin of its stage.
fn sent(done: &Done) -> BTreeSet<(u64, u32, u64, Option<u64>)> {
    done.records()
        .into_iter()
        .map(|r| {
            let after = r.due.map(|due| due - done.stage_begin(r.stage));
            (r.id, r.stage, r.session, after)
        })
        .collect()
}

#[test]
fn shards_of_open_stages_send_what_one_would() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let sessions = |n| Stop { sessions: Some(n), ..Stop::default() };
    let stages = [
        Stage { arrival: Arrival::Poisson(150.0), ..open(0.0, sessions(40)) },
        open(100.0, sessions(25)),
        // The last is due long before the end, so that a busy machine sends it in time, too.
        open(8.0, Stop { after: Some(500 * MS), ..Stop::default() }),
    ];
    let alone = sent(&run(plan(&server.url(), stages.to_vec())));
    let shards = in_shards(3, &server.url(), &stages);
    let mut together = BTreeSet::new();
    for done in &shards {
        assert!(done.records().iter().all(|record| record.started >= record.due.unwrap()));
        for stage in 0..3 {
            assert_eq!(done.stage_begin(stage), shards[0].stage_begin(stage));
        }
        let own = sent(done);
        assert!(together.is_disjoint(&own));
        together.extend(own);
    }
    assert_eq!(together, alone);
    let scheduled = |done: &Done| done.stage_end(1).scheduled.unwrap();
    assert_eq!(shards.iter().map(scheduled).sum::<u64>(), 25);
}

#[test]
fn the_slots_and_requests_of_a_closed_loop_are_dealt_out() {
    let server = Server::start(vec![Script::answer(1, 2)]);
    let stages = [Stage { concurrency: Some(5), ..closed(11) }];
    let shards = in_shards(2, &server.url(), &stages);
    let counts: Vec<usize> = shards.iter().map(|done| done.records().len()).collect();
    assert_eq!(counts, [6, 5]);
    let records = || shards.iter().flat_map(Done::records);
    let sessions: BTreeSet<u64> = records().map(|record| record.session).collect();
    assert_eq!(sessions, (0..11).collect());
    let numbers: BTreeSet<u64> = records().map(|record| record.id).collect();
    assert_eq!(numbers.len(), 11);
}

#[test]
fn a_shard_that_waited_for_others_in_vain_begins_then_and_sends_its_part() {
    const WAIT: Duration = Duration::from_millis(400);
    let server = Server::start(vec![Script::answer(1, 2)]);
    // Its stage would be over before the wait is.
    let stage = open(100.0, Stop { after: Some(200 * MS), ..Stop::default() });
    let mut plan = plan(&server.url(), vec![stage]);
    let ready = Arc::new(Mutex::new(0));
    let told = ready.clone();
    let agree = Box::new(move |own: Readiness| {
        *told.lock().unwrap() = own.ready;
        std::thread::sleep(WAIT);
        Agreement { begin: own.ready, first_id: None }
    });
    let shard = Shard { index: 0, count: 2 };
    plan.together = Some(Together { shard, zero: SystemTime::now(), agree });
    let done = run(plan);
    assert!(done.stage_begin(0) > *ready.lock().unwrap());
    // A busy machine may have no time for the last ones.
    let (sent, unsent) = (done.records().len() as u64, done.stage_end(0).unsent);
    assert!(sent + unsent == 10 && unsent <= 2, "{sent} sent, {unsent} not");
}

//! `hub store` beside each hub: the real process, but for its sockets, and a cluster of etcd that goes and comes.
//!
//! Each process has a thread, which runs only while the simulation waits for what it asks for next: one after the other, in
//! the order of virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hub::control::{StoreRequest, StoreWork, StoredRecord, serve_store};
use hub::core::Core;
use hub::store::{Cluster, Error, Leader, Outside};
use serde::de::DeserializeOwned;
use serde_json::{Value, json, to_value};

use crate::etcd::Etcd;
use crate::ms;
use crate::world::World;

const PREFIX: &str = "/hub/";
/// How long a process waits for etcd, and between two looks.
const PATIENCE: Duration = Duration::from_millis(800);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// How long a hub lets a question wait.
const WAIT: Duration = Duration::from_secs(5);

/// What a process wants of the world.
enum Call {
    Post(String, Value),
    Ask(StoreRequest),
    Pause,
}

type Answer = Result<Value, String>;

/// The process's end.
struct Wires {
    calls: Sender<Call>,
    answers: Receiver<Answer>,
    lease: Arc<Mutex<Option<String>>>,
}

impl Wires {
    fn call(&self, call: Call) -> Answer {
        let gone = |_| "the process was killed".to_owned();
        self.calls.send(call).map_err(|error| gone(error.to_string()))?;
        self.answers.recv().map_err(|error| gone(error.to_string()))?
    }
}

impl Cluster for Wires {
    fn post(&mut self, path: &str, body: &Value) -> Result<Value, Error> {
        self.call(Call::Post(path.to_owned(), body.clone())).map_err(Error::Unreachable)
    }
}

impl Outside for Wires {
    fn ask<T: DeserializeOwned>(&mut self, request: StoreRequest) -> Result<T, String> {
        let answer = self.call(Call::Ask(request))?;
        Ok(serde_json::from_value(answer).expect("the hub's answer makes sense"))
    }

    fn hold(&mut self, lease: String) {
        *self.lease.lock().unwrap() = Some(lease);
    }

    fn held(&self) -> Option<String> {
        self.lease.lock().unwrap().clone()
    }

    fn let_go(&mut self) -> Option<String> {
        self.lease.lock().unwrap().take()
    }

    fn warn(&mut self, _: &str) {}

    fn note(&mut self, _: &str) {}

    fn pause(&mut self) -> bool {
        self.call(Call::Pause).is_ok()
    }
}

/// What a process waits for.
enum Pending {
    /// What it asks for gets there then.
    Call(Instant, Call),
    /// The answer comes then.
    Answer(Instant, Answer),
    /// The hub keeps its question, until then at most.
    Work(Instant),
}

/// A process, as the world sees it.
struct Process {
    calls: Receiver<Call>,
    answers: Sender<Answer>,
    lease: Arc<Mutex<Option<String>>>,
    renew_at: Instant,
    pending: Pending,
}

impl Process {
    fn start(now: Instant) -> Process {
        let (to_world, calls) = channel();
        let (answers, from_world) = channel();
        let lease = Arc::new(Mutex::new(None));
        let wires = Wires { calls: to_world, answers: from_world, lease: Arc::clone(&lease) };
        std::thread::spawn(move || Leader::new(wires, PREFIX).run());
        let first = calls.recv().expect("it runs");
        Process { calls, answers, lease, renew_at: now, pending: Pending::Call(now, first) }
    }

    /// Gives the process its answer, and takes what it asks for next, which gets there after this time.
    fn answer(&mut self, answer: Answer, now: Instant, takes: Duration) {
        self.answers.send(answer).expect("it runs");
        self.pending = match self.calls.recv().expect("it runs") {
            Call::Pause => Pending::Answer(now + LOOK_EVERY, Ok(Value::Null)),
            call @ (Call::Post(..) | Call::Ask(_)) => Pending::Call(now + takes, call),
        };
    }
}

/// The store of a LAN.
pub(crate) struct Stores {
    pub(crate) etcd: Etcd,
    processes: BTreeMap<usize, Process>,
    /// Hubs whose machines do not reach etcd.
    apart: BTreeSet<usize>,
}

impl World {
    /// The same as [`World::sharing`], with etcd.
    pub(crate) fn storing(seed: u64) -> World {
        let mut world = World::sharing(seed);
        let (etcd, processes, apart) = Default::default();
        world.stores = Some(Box::new(Stores { etcd, processes, apart }));
        (0..world.hubs.len()).for_each(|hub| world.start_store(hub));
        world
    }

    fn stores(&mut self) -> &mut Stores {
        self.stores.as_mut().unwrap()
    }

    pub(crate) fn start_store(&mut self, hub: usize) {
        let now = self.now;
        if !self.stores().processes.contains_key(&hub) {
            self.say(|| format!("start store {hub}"));
            self.stores().processes.insert(hub, Process::start(now));
        }
    }

    /// It is killed, so that its lease is not given back.
    pub(crate) fn kill_store(&mut self, hub: usize) {
        self.say(|| format!("kill store {hub}"));
        self.stores().processes.remove(&hub);
    }

    /// The machine of a hub does not reach etcd any more.
    pub(crate) fn part_store(&mut self, hub: usize) {
        self.say(|| format!("store {hub} does not reach etcd"));
        self.stores().apart.insert(hub);
    }

    /// All of them do.
    pub(crate) fn join_stores(&mut self) {
        self.say(|| "all reach etcd, which has a majority".to_owned());
        let now = self.now;
        let stores = self.stores();
        stores.apart.clear();
        stores.etcd.recover(now);
    }

    pub(crate) fn lose_majority(&mut self) {
        self.say(|| "etcd has no majority".to_owned());
        let now = self.now;
        self.stores().etcd.lost_since.get_or_insert(now);
    }

    /// The data of etcd is lost: a keeper that was cut off may take itself for the one that has the list.
    pub(crate) fn wipe_store(&mut self) {
        self.say(|| "the data of etcd is lost".to_owned());
        self.stores().etcd.wipe();
        self.list.as_mut().unwrap().has_kept = true;
    }

    /// A hub's process has died, and with it the connection on which its store waited.
    pub(crate) fn end_wait(&mut self, hub: usize) {
        let now = self.now;
        let Some(stores) = &mut self.stores else { return };
        if let Some(Process { pending: pending @ Pending::Work(_), .. }) = stores.processes.get_mut(&hub) {
            *pending = Pending::Answer(now, Err("the hub has gone".to_owned()));
        }
    }

    pub(crate) fn next_of_stores(&self) -> Option<Instant> {
        let stores = self.stores.as_ref()?;
        let next = |(&hub, process): (&usize, &Process)| {
            let core = self.hubs[hub].core.as_ref();
            let at = match process.pending {
                Pending::Work(_) if core.is_some_and(Core::has_work_for_store) => self.now,
                Pending::Call(at, _) | Pending::Answer(at, _) | Pending::Work(at) => at,
            };
            at.min(process.renew_at)
        };
        stores.processes.iter().map(next).min()
    }

    pub(crate) fn turn_stores(&mut self) {
        let Some(stores) = &self.stores else { return };
        let hubs: Vec<usize> = stores.processes.keys().copied().collect();
        for hub in hubs {
            self.renew(hub);
            while self.step(hub) {}
        }
    }

    fn reaches_etcd(&self, hub: usize) -> bool {
        let stores = self.stores.as_ref().unwrap();
        !self.hubs[hub].is_dark && !stores.apart.contains(&hub) && stores.etcd.lost_since.is_none()
    }

    fn renew(&mut self, hub: usize) {
        let (now, is_reached) = (self.now, self.reaches_etcd(hub));
        let Stores { etcd, processes, .. } = self.stores();
        let process = processes.get_mut(&hub).unwrap();
        if process.renew_at > now {
            return;
        }
        process.renew_at = now + RENEW_EVERY;
        let mut lease = process.lease.lock().unwrap();
        if let Some(id) = lease.as_ref().filter(|_| is_reached)
            && etcd.serve("/v3/lease/keepalive", &json!({"ID": id}), now)["result"]["TTL"].is_null()
        {
            *lease = None;
        }
    }

    /// Goes on with a process; whether there may be more to do now.
    fn step(&mut self, hub: usize) -> bool {
        let (now, is_reached) = (self.now, self.reaches_etcd(hub));
        let takes = match self.rng.below(20) {
            0 => ms(self.rng.below(700) as u64),
            _ => Duration::from_micros(self.rng.below(8_000) as u64),
        };
        // It was done, and the answer is lost.
        let is_lost = self.rng.one_in(60);
        let stores = self.stores.as_mut().unwrap();
        let process = stores.processes.get_mut(&hub).unwrap();
        let core = self.hubs[hub].core.as_mut();
        let next = match &mut process.pending {
            Pending::Answer(at, answer) if *at <= now => {
                let answer = std::mem::replace(answer, Ok(Value::Null));
                process.answer(answer, now, takes);
                return true;
            }
            Pending::Call(at, call) if *at <= now => match call {
                Call::Post(path, body) => {
                    let answer = is_reached.then(|| stores.etcd.serve(path, body, now));
                    match answer.filter(|_| !is_lost) {
                        Some(answer) => Pending::Answer(now + takes, Ok(answer)),
                        None => Pending::Answer(now + PATIENCE, Err("nothing within 800 ms".to_owned())),
                    }
                }
                Call::Ask(request) => match core.map(|core| serve_store(core, request.clone(), now)) {
                    Some(Some(answer)) => Pending::Answer(now, answer),
                    Some(None) => Pending::Work(now + WAIT),
                    None => Pending::Answer(now, Err("no hub runs here".to_owned())),
                },
                Call::Pause => unreachable!("it is no call that gets anywhere"),
            },
            Pending::Work(_) if core.as_ref().is_some_and(|core| core.has_work_for_store()) => {
                Pending::Answer(now, to_value(StoreWork::take(core.unwrap())).map_err(|why| why.to_string()))
            }
            Pending::Work(until) if *until <= now => Pending::Answer(now, Err(String::new())),
            Pending::Answer(..) | Pending::Call(..) | Pending::Work(_) => return false,
        };
        process.pending = next;
        self.do_effects(hub);
        true
    }

    /// After quiet etcd has the list of the hub that keeps it, and that one agrees to changes.
    pub(crate) fn check_store(&mut self) {
        // An answer of etcd may just be lost.
        let is_stored =
            |world: &World| world.hubs.iter().filter_map(|hub| hub.core.as_ref()).any(Core::is_stored);
        for _ in 0..10 {
            if !is_stored(self) {
                self.pass(Duration::from_secs(1));
            }
        }
        let now = self.now;
        let mut cores = self.hubs.iter_mut().filter_map(|hub| hub.core.as_mut());
        let core = cores.find(|core| core.is_stored()).expect("a hub keeps the list in the store");
        let mut list = BTreeMap::new();
        for first in [true, false, false, false] {
            let page = serve_store(core, StoreRequest::List { first }, now).unwrap().unwrap();
            let records: Vec<StoredRecord> = serde_json::from_value(page).unwrap();
            list.extend(records.into_iter().filter_map(|record| Some((record.id, record.text?))));
        }
        assert_eq!(self.stores().etcd.below("/hub/list/"), list);
    }
}

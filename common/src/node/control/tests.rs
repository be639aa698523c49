//! The two ends against each other, in a directory of the test's own.

use std::os::unix::net::UnixStream as Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::node::event_loop::EventLoop;
use crate::node::request::decode;

/// A program whose control socket answers each request with itself, after `check` has looked at its socket.
struct Echo {
    state: PathBuf,
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Echo {
    fn start() -> Echo {
        let tag: String =
            crate::node::state::random().unwrap()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let state = std::env::temp_dir().join(format!("control-test-{tag}"));
        fs::create_dir(&state).unwrap();
        let (ready, started) = mpsc::channel();
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let (directory, stopped) = (state.clone(), stop.clone());
        let thread = thread::spawn(move || {
            let mut events = EventLoop::new(64).unwrap();
            let mut control = ControlSocket::open(&directory, events.registry(), "`echo`").unwrap();
            ready.send(()).unwrap();
            let mut turn = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let look_at = Instant::now() + Duration::from_millis(20);
                let deadline = control.deadline().map_or(look_at, |at| at.min(look_at));
                let now = events.wait(Some(deadline), &mut turn).unwrap();
                for ready in &turn {
                    if let Some((ticket, request)) = control.serve(ready.source, events.registry(), now) {
                        let answer =
                            encode(decode::<serde_json::Value>(&request).map(|(request, _)| request));
                        control.answer(ticket, answer, now);
                    }
                }
                control.handle_timeout(events.registry(), now);
            }
        });
        started.recv().unwrap();
        Echo { state, stop, thread: Some(thread) }
    }

    fn connect(&self) -> Client {
        let client = Client::connect(self.state.join(SOCKET)).unwrap();
        client.set_read_timeout(Some(2 * DEADLINE)).unwrap();
        client
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        fs::remove_dir_all(&self.state).unwrap();
    }
}

fn read_all(mut client: Client) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_request_is_answered_and_is_for_the_owner_alone() {
    let echo = Echo::start();
    assert_eq!(ask::<String>(&echo.state, &"hello").unwrap(), "hello");
    let mode = fs::metadata(echo.state.join(SOCKET)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn the_socket_of_a_killed_program_is_replaced_and_answers_nobody_before() {
    let first = Echo::start();
    let state = first.state.clone();
    let nobody = PathBuf::from("/nowhere/at all");
    assert!(matches!(ask::<String>(&nobody, &"x"), Err(AskError::Nobody(path)) if path == nobody));
    let left = state.join("left");
    fs::create_dir(&left).unwrap();
    drop(ControlSocket::bind(&left).unwrap());
    assert!(left.join(SOCKET).exists(), "as after kill -9");
    assert!(matches!(ask::<String>(&left, &"x"), Err(AskError::Nobody(_))));
    ControlSocket::bind(&left).unwrap();
}

#[test]
fn what_is_no_request_is_told_so() {
    let echo = Echo::start();
    for (request, why) in [("nonsense\n", "is invalid"), ("\n", "is invalid")] {
        let mut client = echo.connect();
        client.write_all(request.as_bytes()).unwrap();
        let answer = read_all(client);
        assert!(answer.starts_with("{\"error\":") && answer.contains(why), "{answer}");
    }
    let mut client = echo.connect();
    client.write_all(&vec![b' '; MAX_REQUEST + 1]).unwrap();
    let mut answer = [0; 512];
    let len = client.read(&mut answer).unwrap();
    let answer = std::str::from_utf8(&answer[..len]).unwrap();
    assert!(answer.contains("at most 32768 bytes"), "{answer}");
}

#[test]
fn a_request_may_come_in_pieces_and_an_answer_may_be_large() {
    let echo = Echo::start();
    let mut client = echo.connect();
    let text = "x".repeat(MAX_REQUEST - 3);
    for piece in format!("\"{text}\"\n").as_bytes().chunks(1_000) {
        client.write_all(piece).unwrap();
        client.flush().unwrap();
    }
    assert_eq!(read_all(client), format!("{{\"ok\":\"{text}\"}}\n"));
}

#[test]
fn those_who_say_nothing_make_others_wait_no_longer_than_the_deadline() {
    let echo = Echo::start();
    let start = Instant::now();
    let silent: Vec<Client> = (0..MAX_CONNECTIONS).map(|_| echo.connect()).collect();
    assert_eq!(ask::<u8>(&echo.state, &7).unwrap(), 7);
    assert!(start.elapsed() >= DEADLINE.saturating_sub(Duration::from_millis(100)));
    for client in silent {
        assert_eq!(read_all(client), "", "closed");
    }
}

#[test]
fn one_who_leaves_makes_room() {
    let echo = Echo::start();
    let start = Instant::now();
    for _ in 0..4 * MAX_CONNECTIONS {
        drop(echo.connect());
    }
    assert_eq!(ask::<u8>(&echo.state, &7).unwrap(), 7);
    assert!(start.elapsed() < DEADLINE);
}

#[test]
fn where_nothing_can_be_written_there_is_no_socket() {
    let events = EventLoop::new(8).unwrap();
    assert!(ControlSocket::open(Path::new("/nowhere/at all"), events.registry(), "`echo`").is_none());
}

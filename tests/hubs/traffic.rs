//! What runs from spoke to spoke while something happens to hubs.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::world::{DESK, LAPTOP, SOON, World};
use crate::house::{Host, Lan, fill_seeded};

/// Datagrams that are sent each 10 ms, and answered.
pub(crate) struct Beat {
    is_over: Arc<AtomicBool>,
    echoes: Vec<JoinHandle<()>>,
    asks: JoinHandle<Vec<Instant>>,
}

impl Beat {
    /// Whichever of `to` has the address then answers.
    pub(crate) fn start(from: &Host, to: &[&Host], at: SocketAddr) -> Beat {
        let is_over = Arc::new(AtomicBool::new(false));
        let client = from.udp_bind((Lan::address(0), 0)).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let mut echoes = Vec::new();
        for host in to {
            let (echo, over) = (host.udp_bind(at).unwrap(), Arc::clone(&is_over));
            echo.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            echoes.push(thread::spawn(move || {
                let mut message = [0; 64];
                while !over.load(Ordering::Relaxed) {
                    if let Ok((len, from)) = echo.recv_from(&mut message) {
                        let _ = echo.send_to(&message[..len], from);
                    }
                }
            }));
        }
        let over = Arc::clone(&is_over);
        let asks = thread::spawn(move || {
            let (mut heard, mut message, mut next) = (Vec::new(), [0; 64], Instant::now());
            while !over.load(Ordering::Relaxed) {
                let now = Instant::now();
                if now >= next {
                    next = now + Duration::from_millis(10);
                    let _ = client.send_to(b"still there?", at);
                }
                client.set_read_timeout(Some((next - now).max(Duration::from_millis(1)))).unwrap();
                match client.recv_from(&mut message) {
                    Ok(_) => heard.push(Instant::now()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // The address is not there for a moment, say.
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
            heard
        });
        Beat { is_over, echoes, asks }
    }

    /// Ends it: the longest time without an answer.
    pub(crate) fn end(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        self.echoes.into_iter().for_each(|echo| echo.join().unwrap());
        let heard = self.asks.join().unwrap();
        assert!(heard.len() > 20, "{} answers", heard.len());
        heard.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
    }
}

/// A TCP connection by which the laptop sends 1,000 bytes each 10 ms.
pub(crate) struct Trickle {
    is_over: Arc<AtomicBool>,
    sender: JoinHandle<io::Result<u64>>,
    receiver: JoinHandle<io::Result<(u64, Duration)>>,
}

impl Trickle {
    pub(crate) fn start(from: &Host, to: &Host, at: SocketAddr) -> Trickle {
        let listener = to.tcp_listen(at).unwrap();
        let mut outgoing = from.tcp_connect(at, SOON).unwrap();
        let (mut incoming, _) = listener.accept().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let sender = thread::spawn(move || {
            let (mut sent, mut seed, mut bytes) = (0, 7, [0; 1_000]);
            while !over.load(Ordering::Relaxed) {
                fill_seeded(&mut bytes, &mut seed);
                outgoing.write_all(&bytes)?;
                sent += bytes.len() as u64;
                thread::sleep(Duration::from_millis(10));
            }
            Ok(sent)
        });
        let receiver = thread::spawn(move || {
            let (mut received, mut seed) = (0, 7);
            let (mut bytes, mut expected) = ([0; 1_000], [0; 1_000]);
            let (mut at, mut longest) = (Instant::now(), Duration::ZERO);
            while incoming.read_exact(&mut bytes).is_ok() {
                fill_seeded(&mut expected, &mut seed);
                assert_eq!(bytes, expected, "what arrives is what was sent");
                received += bytes.len() as u64;
                longest = longest.max(at.elapsed());
                at = Instant::now();
            }
            Ok((received, longest))
        });
        Trickle { is_over, sender, receiver }
    }

    /// Ends it: the longest time for which nothing arrived.
    pub(crate) fn end(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap().unwrap();
        let (received, longest) = self.receiver.join().unwrap().unwrap();
        assert_eq!(received, sent, "the connection lives to its end");
        longest
    }
}

/// Lets a beat and a TCP connection run while something happens to the hub: the longest silence, and the longest stall.
pub(crate) fn through(
    world: &mut World,
    what: &str,
    happens: impl FnOnce(&mut World),
) -> (Duration, Duration) {
    let (laptop, desk) = (world.net.spoke(LAPTOP), world.net.spoke(DESK));
    let trickle = Trickle::start(laptop, desk, (Lan::address(1), 4_008).into());
    let beat = Beat::start(laptop, &[desk], (Lan::address(1), 4_007).into());
    thread::sleep(Duration::from_millis(500));
    happens(world);
    thread::sleep(Duration::from_millis(500));
    let (gap, stall) = (beat.end(), trickle.end());
    println!("{what}: {gap:?} without an answer by UDP, TCP stood still for {stall:?}");
    (gap, stall)
}

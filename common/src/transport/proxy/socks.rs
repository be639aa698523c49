//! SOCKS5 (RFC 1928), with user name and password (RFC 1929). Pure.

use std::net::IpAddr;

use super::error::{Cause, Destination, Progress};
use super::url::Credentials;

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
const NO_ACCEPTABLE_LOGIN: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
/// The longest answer: to CONNECT, with a name of 255 bytes.
const MAX_ANSWER: usize = 4 + 1 + 255 + 2;

/// Awaits one answer after the other.
#[derive(Debug)]
pub(super) struct Socks {
    awaits: Reply,
    /// What came of it so far, at most [`MAX_ANSWER`] bytes.
    answer: Vec<u8>,
    /// The log-in, as it is sent.
    login: Option<Vec<u8>>,
    /// The command, as it is sent.
    command: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Reply {
    Greeting,
    Login,
    Command,
}

impl Socks {
    /// The greeting, and what awaits its answer.
    pub(super) fn new(
        destination: &Destination,
        credentials: Option<&Credentials>,
    ) -> (Vec<u8>, Result<Socks, Cause>) {
        let greeting = if credentials.is_some() {
            vec![VERSION, 2, NO_LOGIN, PASSWORD]
        } else {
            vec![VERSION, 1, NO_LOGIN]
        };
        (greeting, Socks::prepare(destination, credentials).ok_or(Cause::TooLongToSay))
    }

    fn prepare(destination: &Destination, credentials: Option<&Credentials>) -> Option<Socks> {
        let login = match credentials {
            Some(Credentials { user, password }) => {
                let mut login = vec![1];
                push_text(&mut login, user)?;
                push_text(&mut login, password)?;
                Some(login)
            }
            None => None,
        };
        let mut command = vec![VERSION, CONNECT, 0];
        match destination.address() {
            Some(IpAddr::V4(address)) => {
                command.push(IPV4);
                command.extend(address.octets());
            }
            Some(IpAddr::V6(address)) => {
                command.push(IPV6);
                command.extend(address.octets());
            }
            None => {
                command.push(NAME);
                push_text(&mut command, &destination.host)?;
            }
        }
        command.extend(destination.port.to_be_bytes());
        Some(Socks { awaits: Reply::Greeting, answer: Vec::new(), login, command })
    }

    pub(super) fn receive(&mut self, bytes: &[u8], unsent: &mut Vec<u8>) -> Result<Progress, Cause> {
        for (index, &byte) in bytes.iter().enumerate() {
            debug_assert!(self.answer.len() < MAX_ANSWER);
            self.answer.push(byte);
            let is_whole = match self.awaits {
                Reply::Greeting => self.handle_greeting(unsent)?,
                Reply::Login => self.handle_login(unsent)?,
                Reply::Command if self.is_done()? => return Ok(Progress::Open(index + 1)),
                Reply::Command => false,
            };
            if is_whole {
                self.answer.clear();
            }
        }
        Ok(Progress::More)
    }

    fn handle_greeting(&mut self, unsent: &mut Vec<u8>) -> Result<bool, Cause> {
        self.check_version()?;
        let Some(&method) = self.answer.get(1) else { return Ok(false) };
        self.awaits = match (method, &self.login) {
            (NO_LOGIN, _) => {
                unsent.extend(&self.command);
                Reply::Command
            }
            (PASSWORD, Some(login)) => {
                unsent.extend(login);
                Reply::Login
            }
            (NO_ACCEPTABLE_LOGIN, None) => return Err(Cause::WantsPassword),
            (NO_ACCEPTABLE_LOGIN, Some(_)) => return Err(Cause::UnknownLogin(String::new())),
            // It chose what was not offered.
            _ => return Err(Cause::Garbage),
        };
        Ok(true)
    }

    fn handle_login(&mut self, unsent: &mut Vec<u8>) -> Result<bool, Cause> {
        match self.answer[..] {
            // Some servers answer with SOCKS's version instead of the log-in's.
            [1 | VERSION] => Ok(false),
            [_, 0] => {
                unsent.extend(&self.command);
                self.awaits = Reply::Command;
                Ok(true)
            }
            [_, _] => Err(Cause::RejectedPassword),
            _ => Err(Cause::Garbage),
        }
    }

    /// Whether the answer to the command is whole, and says yes.
    fn is_done(&self) -> Result<bool, Cause> {
        self.check_version()?;
        // Some servers end the connection behind the code: it is enough.
        if let Some(&code) = self.answer.get(1).filter(|&&code| code != 0) {
            return Err(Cause::Code(code));
        }
        let address = match self.answer.get(3) {
            None => return Ok(false),
            Some(&IPV4) => 4,
            Some(&IPV6) => 16,
            Some(&NAME) => match self.answer.get(4) {
                Some(&len) => 1 + usize::from(len),
                None => return Ok(false),
            },
            Some(_) => return Err(Cause::Garbage),
        };
        Ok(self.answer.len() == 4 + address + 2)
    }

    fn check_version(&self) -> Result<(), Cause> {
        match self.answer.first() {
            None | Some(&VERSION) => Ok(()),
            Some(b'H') => Err(Cause::IsHttp),
            Some(0 | 4) => Err(Cause::IsSocks4),
            Some(_) => Err(Cause::Garbage),
        }
    }
}

/// A length in one byte, and the text.
fn push_text(to: &mut Vec<u8>, text: &str) -> Option<()> {
    to.push(u8::try_from(text.len()).ok()?);
    to.extend(text.as_bytes());
    Some(())
}

//! New files in place of old ones, while the gateway serves.
//!
//! Files are compared by what they hold, so that it does not matter how they were replaced. A file that is
//! wrong, or does not yet fit the others, changes nothing: what was good stays, and why is told once.

use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use super::certificate::{Certificate, date};
use super::client::Trust;
use super::{HeldCertificate, HeldTrust, Material, Part, Secret, Tls, Vouching, Wrong, seconds, tickets};
use crate::settings::Files;

/// What is to be told of one change.
#[derive(Clone, Debug)]
pub struct Event {
    /// A fixed name.
    pub name: &'static str,
    /// What it is about.
    pub fields: Vec<(&'static str, String)>,
}

type Events = Vec<Event>;

/// What looking at files has led to.
enum Outcome {
    Same,
    New,
}

impl Tls {
    /// Looks at all files again and takes what is new and good. Returns how many things have changed, and what
    /// is to be told, all of which is true by then.
    ///
    /// Reads files, so it may wait for a disk.
    pub fn reload(&self, files: &dyn Files, now: SystemTime) -> (usize, Vec<Event>) {
        let now = seconds(now);
        let mut events = Events::new();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = 0;
        for certificate in &mut held.certificates {
            certificate.tell_public_key(files, &mut events);
            if let Outcome::New = certificate.reload(files, now, &mut events) {
                changed += 1;
            }
        }
        if let Some(Outcome::New) = held.clients.as_mut().map(|clients| clients.reload(files, now, &mut events)) {
            changed += 1;
            // Who was let in by the old rules must not come back by a ticket.
            match tickets() {
                Ok(tickets) => held.tickets = tickets,
                Err(error) => {
                    events.push(Event { name: "certificate-kept", fields: vec![("cause", error.to_string())] });
                }
            }
        }
        if changed > 0 {
            match held.current() {
                Ok(current) => self.current.store(current.into()),
                Err(error) => {
                    events.push(Event { name: "certificate-kept", fields: vec![("cause", error.to_string())] });
                }
            }
        }
        (changed, events)
    }
}

impl HeldCertificate {
    fn reload(&mut self, files: &dyn Files, now: i64, events: &mut Events) -> Outcome {
        let outcome = match self.read(files, now) {
            Ok(None) => {
                self.complaint = None;
                if self.certificate.take_old_staple(now) { Outcome::New } else { Outcome::Same }
            }
            Ok(Some((material, certificate))) => {
                (self.material, self.certificate, self.complaint) = (material, certificate, None);
                let expires = date(self.certificate.expires);
                let hosts = self.certificate.hosts.join(" ");
                let name = self.name.to_string();
                events.push(Event {
                    name: "certificate-loaded",
                    fields: vec![("name", name), ("hosts", hosts), ("expires", expires)],
                });
                Outcome::New
            }
            Err(wrong) => {
                let file = match wrong.part {
                    Part::Key => self.files.private_key.as_deref(),
                    Part::Ocsp => self.files.ocsp.as_deref(),
                    _ => Some(self.files.certificate.as_str()),
                };
                complain(&mut self.complaint, &self.name, file, &wrong, events);
                // The last good certificate stays; its staple must not outlive its time with it.
                if self.certificate.take_old_staple(now) { Outcome::New } else { Outcome::Same }
            }
        };
        if let Some(cause) = self.certificate.unstapled.take() {
            let (name, file) = (self.name.to_string(), self.files.ocsp.clone().unwrap_or_default());
            events.push(Event {
                name: "certificate-unstapled",
                fields: vec![("name", name), ("file", file), ("cause", cause)],
            });
        }
        outcome
    }

    fn read(&self, files: &dyn Files, now: i64) -> Result<Option<(Material, Certificate)>, Wrong> {
        let read = |part, name: &str| files.read(name).map_err(|reason| unreadable(part, &reason));
        let material = Material {
            chain: read(Part::Certificate, &self.files.certificate)?,
            key: match &self.files.private_key {
                Some(file) => Secret::from_text(&read(Part::Key, file)?),
                None => Secret::new(self.material.key.expose()),
            },
            ocsp: self.files.ocsp.as_ref().map(|file| read(Part::Ocsp, file)).transpose()?,
        };
        if material == self.material {
            return Ok(None);
        }
        let certificate = Certificate::read(&material, now)?;
        Ok(Some((material, certificate)))
    }

    /// A key that every user of the machine can read is told of, and served with: containers mount secrets so.
    fn tell_public_key(&mut self, files: &dyn Files, events: &mut Events) {
        let Some(file) = &self.files.private_key else { return };
        let public = files.is_public(file);
        if public && !self.told_public {
            let cause = "every user of this machine can read it; chmod 600 if others share the machine".to_owned();
            let name = self.name.to_string();
            events.push(Event {
                name: "private-key-readable",
                fields: vec![("name", name), ("file", file.clone()), ("cause", cause)],
            });
        }
        self.told_public = public;
    }
}

impl HeldTrust {
    fn reload(&mut self, files: &dyn Files, now: i64, events: &mut Events) -> Outcome {
        let read = |part, name: &str| files.read(name).map_err(|reason| unreadable(part, &reason));
        let trust = read(Part::ClientCa, &self.ca).and_then(|ca| {
            let crl = self.crl.as_ref().map(|file| read(Part::ClientCrl, file)).transpose()?;
            Ok(Trust { ca, crl })
        });
        let verifier = trust.and_then(|trust| {
            if trust == self.trust {
                return Ok(None);
            }
            let verifier = trust.verifier(self.required, now)?;
            Ok(Some((trust, verifier)))
        });
        match verifier {
            Ok(None) => {
                self.complaint = None;
                Outcome::Same
            }
            Ok(Some((trust, verifier))) => {
                (self.trust, self.verifier, self.complaint) = (trust, Arc::new(Vouching(verifier)), None);
                events.push(Event { name: "client-ca-loaded", fields: vec![("file", self.ca.clone())] });
                Outcome::New
            }
            Err(wrong) => {
                let file = if wrong.part == Part::ClientCrl { self.crl.as_deref() } else { Some(self.ca.as_str()) };
                complain(&mut self.complaint, "client_ca", file, &wrong, events);
                Outcome::Same
            }
        }
    }
}

fn unreadable(part: Part, reason: &str) -> Wrong {
    Wrong { part, reason: format!("can't be read: {reason}"), remedy: "check the path and its permissions" }
}

/// Tells what is wrong, unless that was the last thing told.
fn complain(last: &mut Option<String>, name: &str, file: Option<&str>, wrong: &Wrong, events: &mut Events) {
    if last.as_ref() == Some(&wrong.reason) {
        return;
    }
    let file = file.unwrap_or("-");
    let fields = [("name", name), ("file", file), ("cause", &wrong.reason), ("remedy", wrong.remedy)];
    events
        .push(Event { name: "certificate-kept", fields: fields.map(|(key, value)| (key, value.to_owned())).to_vec() });
    *last = Some(wrong.reason.clone());
}

//! A worker's answer on its way out: held to what its route declares as the worker gave it, then opened, shaped and sealed
//! for the caller.
//!
//! What has to be read for that is read whole; everything else passes as it comes, and is counted on its way where the
//! route says how long it may be.

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};

use crate::edge::upstream::{Fault, WorkerBody, in_form};
use crate::exchange::Exchange;
use crate::fernet_endpoint;
use crate::policy::Route;
use crate::policy::answer::declared::{Declared, too_long};
use crate::policy::answer::{AnswerRule, forget, is_json};
use crate::policy::fernet::Direction;
use crate::policy::profile::Profile;
use crate::policy::sealed::Sealed;
use crate::problem::Stop;
use crate::types::{Principal, Timestamp};

/// The longest answer that is read where nothing says less.
const MOST_WHOLE: usize = 16 << 20;

/// An answer before it is finished.
pub enum Answer {
    /// From a worker.
    Worker(Response<WorkerBody>),
    /// Ours.
    Own(Response<Bytes>),
}

/// What is done with one answer.
#[derive(Clone, Copy, Debug)]
pub struct Answering<'a> {
    declared: Option<&'a Declared>,
    shaped: Option<&'a AnswerRule>,
    sealed: Option<(&'a Sealed, Direction)>,
    /// What a refusal is held to the form of.
    refusals: Option<Profile>,
    now: Timestamp,
}

impl<'a> Answering<'a> {
    /// What is done with a route's answers for a caller. An answer to HEAD has nothing that could be read.
    #[must_use]
    pub fn of(route: &'a Route, principal: &Principal, method: &Method, now: Timestamp) -> Self {
        if *method == Method::HEAD {
            return Self { declared: None, shaped: None, sealed: None, refusals: None, now };
        }
        let sealed = route.sealed.as_deref();
        Self {
            declared: route.declared.as_ref(),
            shaped: route.answers.rule(principal).map(AsRef::as_ref),
            sealed: sealed.and_then(|rule| Some((rule, rule.for_answer(principal)?))),
            refusals: route.shapes_refusals(method).then(|| route.profile()),
            now,
        }
    }

    /// Whether answers are read, which must then come without any coding.
    #[must_use]
    pub fn reads(&self) -> bool {
        self.shaped.is_some() || self.sealed.is_some() || self.declared.is_some_and(Declared::needs_whole)
    }

    /// Judges an answer, and makes of it what the caller gets. What a worker says of a client's fault passes as it is,
    /// or in the form of its protocol where that is known.
    ///
    /// # Errors
    /// [`Stop::Undeclared`] or [`Stop::Upstream`].
    pub async fn answer(self, exchange: &mut Exchange, answer: Response<WorkerBody>) -> Result<Answer, Stop> {
        if let Some(profile) = self.refusals.filter(|_| answer.status().is_client_error()) {
            return Ok(Answer::Own(Box::pin(in_form(profile, answer)).await));
        }
        if !answer.status().is_success() {
            return Ok(Answer::Worker(answer));
        }
        if let Some(declared) = self.declared {
            let length = answer.body().size_hint().exact();
            let head = declared.decide_head(answer.status(), answer.headers(), length);
            head.map_err(|differs| Stop::Undeclared(differs.0))?;
        }
        if self.reads() {
            return Box::pin(self.read(exchange, answer)).await.map(Answer::Own);
        }
        exchange.most_out = self.declared.and_then(Declared::max);
        Ok(Answer::Worker(answer))
    }

    async fn read(self, exchange: &mut Exchange, answer: Response<WorkerBody>) -> Result<Response<Bytes>, Stop> {
        let (mut head, body) = answer.into_parts();
        let sealed = self.sealed.map(|(rule, _)| rule.max());
        let bounds = [self.declared.and_then(Declared::max).or(sealed), self.shaped.map(AnswerRule::max)];
        let most = bounds.into_iter().flatten().min().unwrap_or(MOST_WHOLE);
        let whole = body.whole(most).await;
        let mut whole = whole.map_err(|fault| match fault {
            Fault::TooLarge if self.declared.is_some() || self.sealed.is_some() => Stop::Undeclared(too_long(most).0),
            fault => Stop::Upstream(fault),
        })?;
        if let Some(copied) = &mut exchange.copied {
            copied.keep(&whole);
        }
        if let Some(declared) = self.declared {
            let judged = declared.decide(exchange.wanted.as_deref(), &head.headers, &whole);
            judged.map_err(|differs| Stop::Undeclared(differs.0))?;
        }
        // Opened before it is shaped, and sealed behind it: shapes are of values.
        if let Some((rule, Direction::Decrypt)) = self.sealed {
            whole = self.change(rule, Direction::Decrypt, head.status, &mut head.headers, whole)?;
        }
        if let Some(rule) = self.shaped {
            let shaped = rule.apply(head.status, &mut head.headers, &whole);
            whole = shaped.map_err(|undeclared| Stop::Undeclared(undeclared.0.into()))?.into();
        }
        if let Some((rule, Direction::Encrypt)) = self.sealed {
            whole = self.change(rule, Direction::Encrypt, head.status, &mut head.headers, whole)?;
        }
        Ok(Response::from_parts(head, whole))
    }

    /// Opens or seals what is in an answer.
    fn change(
        self,
        rule: &Sealed,
        direction: Direction,
        status: StatusCode,
        headers: &mut HeaderMap,
        whole: Bytes,
    ) -> Result<Bytes, Stop> {
        if whole.is_empty() {
            return Ok(whole);
        }
        // A part of JSON may be JSON too, with its values at other places.
        if status == StatusCode::PARTIAL_CONTENT || headers.contains_key(header::CONTENT_ENCODING) || !is_json(headers)
        {
            return Err(Stop::Undeclared(
                "it has fields that are sealed, and is no whole JSON without a coding".into(),
            ));
        }
        let changed = rule.answer(direction, &whole, &fernet_endpoint::iv, self.now);
        let Some(changed) = changed.map_err(|why| Stop::Undeclared(why.into()))? else { return Ok(whole) };
        forget(headers);
        Ok(changed.into())
    }
}

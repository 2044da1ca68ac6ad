//! A worker's answer on its way out: held to what its route declares, shaped for the caller.
//!
//! What has to be read for that is read whole; everything else passes as it comes, and is counted on its way where the
//! route says how long it may be.

use bytes::Bytes;
use http::{Method, Response};

use crate::edge::upstream::{Fault, WorkerBody};
use crate::exchange::Exchange;
use crate::policy::Route;
use crate::policy::answer::AnswerRule;
use crate::policy::answer::declared::{Declared, too_long};
use crate::problem::Stop;
use crate::types::Principal;

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
}

impl<'a> Answering<'a> {
    /// What is done with a route's answers for a caller. An answer to HEAD has nothing that could be read.
    #[must_use]
    pub fn of(route: &'a Route, principal: &Principal, method: &Method) -> Self {
        if *method == Method::HEAD {
            return Self { declared: None, shaped: None };
        }
        Self { declared: route.declared.as_ref(), shaped: route.answers.rule(principal).map(AsRef::as_ref) }
    }

    /// Whether answers are read, which must then come without any coding.
    #[must_use]
    pub fn reads(&self) -> bool {
        self.shaped.is_some() || self.declared.is_some_and(Declared::needs_whole)
    }

    /// Judges an answer, and makes of it what the caller gets. What a worker says of a client's fault passes as it is.
    ///
    /// # Errors
    /// [`Stop::Undeclared`] or [`Stop::Upstream`].
    pub async fn answer(self, exchange: &mut Exchange, answer: Response<WorkerBody>) -> Result<Answer, Stop> {
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
        let declared = self.declared.filter(|declared| declared.needs_whole());
        let most = declared.and_then(Declared::max).unwrap_or(usize::MAX);
        let whole = body.whole(most.min(self.shaped.map_or(usize::MAX, AnswerRule::max))).await;
        let mut whole = whole.map_err(|fault| match (fault, declared) {
            (Fault::TooLarge, Some(_)) => Stop::Undeclared(too_long(most).0),
            (fault, _) => Stop::Upstream(fault),
        })?;
        if let Some(copied) = &mut exchange.copied {
            copied.keep(&whole);
        }
        if let Some(declared) = declared {
            let judged = declared.decide(exchange.wanted.as_deref(), &head.headers, &whole);
            judged.map_err(|differs| Stop::Undeclared(differs.0))?;
        }
        if let Some(rule) = self.shaped {
            let shaped = rule.apply(head.status, &mut head.headers, &whole);
            whole = shaped.map_err(|undeclared| Stop::Undeclared(undeclared.0.into()))?.into();
        }
        Ok(Response::from_parts(head, whole))
    }
}

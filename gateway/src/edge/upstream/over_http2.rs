//! Forwarding over HTTP/2: the request's head, the worker's connection, the answer's.
//!
//! Source: RFC 9113 §8.3, §8.7.

use std::rc::Rc;

use h2::RecvStream;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, Version};

use super::address::Address;
use super::session::Slot;
use super::stream::{self, Sending, Streamed, Unprocessed};
use super::worker::Place;
use super::{Answer, Call, Fault, Outgoing, Pool, Tries, passes};
use crate::types::Name;

/// How many connections to one worker may end under one request before it goes to another.
const MOST_GOODBYES: u32 = 2;

impl Call<'_> {
    /// The head of a request over HTTP/2, with a body of this length.
    fn request(&self, address: &Address, length: Option<u64>) -> Result<Request<()>, Fault> {
        let mut request = bare_request(self.method, self.path, self.query, address)?;
        let headers = request.headers_mut();
        headers.reserve(16);
        self.headers.add_to(headers);
        if self.trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        let says_nothing = !matches!(*self.method, Method::POST | Method::PUT | Method::PATCH);
        if let Some(length) = length.filter(|length| !(*length == 0 && says_nothing)) {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        Ok(request)
    }
}

pub(super) fn bare_request(
    method: &Method,
    path: &str,
    query: Option<&str>,
    address: &Address,
) -> Result<Request<()>, Fault> {
    let scheme = if address.is_tls() { "https" } else { "http" };
    let target = match query {
        Some(query) => format!("{path}?{query}").try_into(),
        None => PathAndQuery::try_from(path),
    };
    let unwritable = |_| Fault::Broken("the request can't be written".into());
    let target: PathAndQuery = target.map_err(|_| Fault::Broken("its path can't be written".into()))?;
    let uri = Uri::builder().scheme(scheme).authority(address.host()).path_and_query(target);
    let uri = uri.build().map_err(unwritable)?;
    Request::builder().method(method).uri(uri).version(Version::HTTP_2).body(()).map_err(unwritable)
}

impl Pool {
    /// Brings a request to a worker, and the answer to its body back; to another worker only where the first did not
    /// process it.
    pub(super) async fn forward_over_http2(
        &self,
        call: &Call<'_>,
        body: Outgoing,
        connected: &impl Fn(),
    ) -> Result<Answer, Fault> {
        self.budget.earn();
        let settings = &self.settings;
        let mut sending = Sending::new(body);
        let length = sending.length();
        let mut tries = Tries::default();
        while let Some(place) = self.place(call, &mut tries).await {
            let worker = Rc::clone(&place.0);
            let mut goodbyes = 0;
            let fault = loop {
                let slot = match worker.sessions.slot(settings, &worker.address, connected).await {
                    Ok(slot) => slot,
                    Err(fault) => break fault,
                };
                let request = call.request(&worker.address, length)?;
                let unanswered = match stream::converse(&slot, request, &mut sending, settings).await {
                    Ok(answer) => return self.receive(call, answer, sending, (place, slot)).await,
                    Err(unanswered) => unanswered,
                };
                match unanswered.unprocessed {
                    // A kept connection was ending, and a fresh one may work.
                    Some(Unprocessed::Goodbye) if goodbyes < MOST_GOODBYES => {
                        slot.retire();
                        goodbyes += 1;
                    }
                    Some(_) => break unanswered.fault,
                    None => {
                        if unanswered.fault == Fault::Slow {
                            slot.retire();
                        }
                        worker.failed(&unanswered.fault);
                        return Err(unanswered.fault);
                    }
                }
            };
            worker.failed(&fault);
            (tries.failure, tries.is_retry) = (Some(fault), true);
        }
        Err(self.give_up(tries))
    }

    /// Takes an answer over HTTP/2 whose head has come.
    async fn receive(
        &self,
        call: &Call<'_>,
        answer: Response<RecvStream>,
        sending: Sending,
        place: (Place, Slot),
    ) -> Result<Answer, Fault> {
        let worker = Rc::clone(&place.0.0);
        let (parts, received) = answer.into_parts();
        let (mut headers, mut length) =
            stream::head(parts.status, &parts.headers).inspect_err(|fault| worker.failed(fault))?;
        let status = passes(parts.status, &parts.headers, &worker)?;
        if *call.method == Method::HEAD {
            headers.extend(length.take().map(|length| (header::CONTENT_LENGTH, length.into())));
        }
        if length.is_some_and(|length| length > self.settings.max_answer) {
            return Err(Fault::TooLarge);
        }
        let streamed = Streamed::new(received, sending, place, length, &self.settings, call.trailers);
        let early = streamed.is_early();
        let mut response = Response::new(streamed.begin().await?);
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        Ok(Answer { response, worker: Name::clone(&worker.label), early, tunnel: None })
    }
}

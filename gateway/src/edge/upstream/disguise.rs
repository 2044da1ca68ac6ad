//! What a worker's error is: its own fault, or a client's, which its protocol has a form for and a 500 may disguise.
//!
//! Which words mean a client's fault is the profile's to know. A 500 that does not say is ambiguous: it is held to be the
//! input's doing a few times in a row, and only by a worker that has predicted since it last did so. So a model that is
//! broken for everybody is soon seen to be. Looked at are short answers of known length over HTTP/1.1.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::incoming::{Lease, WorkerBody};
use super::link::{Framing, Head, Upload};
use super::worker::Worker;
use super::{Call, Fault, Pool};
use crate::policy::answer;
use crate::policy::profile::{Disguise, MOST_DISGUISED, Profile, Use};

/// The longest refusal of a worker that is read.
const MOST_REFUSAL: usize = 64 << 10;

/// A worker's refusal in the form of its protocol. One that can't be read says no more than its status.
pub async fn in_form(profile: Profile, refusal: Response<WorkerBody>) -> Response<Bytes> {
    let (mut head, body) = refusal.into_parts();
    let whole = body.whole(MOST_REFUSAL).await.unwrap_or_default();
    let said = profile.refusal(head.status.as_u16(), media_type(&head.headers), &whole);
    answer::forget(&mut head.headers);
    head.headers.remove(header::CONTENT_ENCODING);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(head, said.into())
}

/// The media type of a body that can be read as it is; empty where there is none.
fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).filter(|_| !headers.contains_key(header::CONTENT_ENCODING));
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl Pool {
    /// Notes that a worker predicts.
    pub(super) fn note_prediction(&self, call: &Call<'_>, status: StatusCode, worker: &Worker) {
        if status.is_success() && worker.is_in_doubt() && self.is_prediction(call) {
            worker.predicted();
        }
    }

    fn is_prediction(&self, call: &Call<'_>) -> bool {
        self.settings.profile.knows(call.method, call.path) == Some(Use::Prediction)
    }

    /// Says what an answer with 500 is, and tells the worker's standing.
    pub(super) async fn unmask(&self, call: &Call<'_>, head: Head, upload: &Upload, mut lease: Lease) -> Fault {
        let (pause, total) = (self.settings.body_timeout, self.settings.total_timeout);
        let found = match head.framing {
            Framing::Length(length @ 1..=MOST_DISGUISED) if upload.is_sent() && self.is_prediction(call) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let body = lease.whole(length, pause, total).await.unwrap_or_default();
                self.settings.profile.disguised(media_type(&head.headers), &body)
            }
            _ => None,
        };
        let found = found.filter(|found| *found == Disguise::Told || lease.worker().is_believed());
        let fault = found.map_or(Fault::Failed(head.status), Fault::Refused);
        lease.worker().failed(&fault);
        // The connection ends with the lease: servers such as uvicorn close it behind a 500 and do not say so before.
        fault
    }
}

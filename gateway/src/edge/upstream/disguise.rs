//! What a 500 is: a worker's own fault, or a client's in disguise.
//!
//! Which words mean a client's fault is the profile's to know. A 500 without a word is ambiguous: it is held to be the
//! input's doing a few times in a row, and only by a worker that has predicted since it last did so. So a model that is
//! broken for everybody is soon seen to be. Looked at are short answers of known length over HTTP/1.1.

use http::{StatusCode, header};

use super::incoming::Lease;
use super::link::{Framing, Head, Upload};
use super::worker::Worker;
use super::{Call, Fault, Pool};
use crate::policy::profile::{Disguise, MOST_DISGUISED, Use};

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
                let media_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
                self.settings.profile.disguised(media_type.unwrap_or_default(), &body)
            }
            _ => None,
        };
        match found.filter(|found| *found == Disguise::Told || lease.worker().is_believed()) {
            Some(found) => {
                let fault = Fault::Refused(found);
                lease.worker().failed(&fault);
                if head.keeps {
                    lease.give_back();
                }
                fault
            }
            None => {
                let fault = Fault::Failed(head.status);
                lease.worker().failed(&fault);
                fault
            }
        }
    }
}

//! What a worker's answer becomes on HTTP/2.

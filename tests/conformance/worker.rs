//! What a worker answers.

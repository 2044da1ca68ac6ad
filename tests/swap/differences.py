"""What servers are known not to do, whoever asks them: by server, the calls (a regular expression), and why they fail."""

EMPTY_HEALTH = "answers /v2/health with an empty body, where the protocol has JSON, which the kserve client reads"
OCTETS = "can't read tensors as octets, which tritonclient sends unless it is told otherwise"

DIFFERENCES = {
    "mlserver": {
        r"kserve rest is_server_(live|ready)": EMPTY_HEALTH,
        r"tritonclient http (infer( of a version| with an id| with parameters| of one output| of 1000 rows|, gzip back)?|async_infer)": OCTETS,
        r"tritonclient http (infer, octets there, JSON back|generate_request_body)": OCTETS,
        r"kserve rest infer, octets": OCTETS,
        r"tritonclient http get_model_repository_index": "wants a body, which tritonclient does not send",
        r"tritonclient grpc is_model_ready of no model": "answers with an error (UNKNOWN) in place of `ready: false`",
    },
    "triton": {r"kserve rest is_server_(live|ready)": EMPTY_HEALTH},
}

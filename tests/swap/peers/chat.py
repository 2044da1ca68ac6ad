"""A stand-in for a chat model: `chat.py TOKEN` (what the gateway sends it is not looked at) prints its port, then streams an answer.

After the first event it waits until its standard input says that the client has read it; so a client that gets it only with the
last event never gets it at all.
"""

import http.server
import json
import sys


class Chat(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, word in enumerate(["one", " two", " three", None]):
            delta = {} if word is None else {"role": "assistant", "content": word}
            choice = {"index": 0, "delta": delta, "finish_reason": "stop" if word is None else None}
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked["model"], "choices": [choice]}
            self.event(json.dumps(chunk))
            if number == 0 and not sys.stdin.readline():
                return
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, text):
        octets = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(octets), octets))
        self.wfile.flush()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Chat)
print(server.server_port, flush=True)
server.serve_forever()

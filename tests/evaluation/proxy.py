"""A proxy that stands between a run and a real vLLM server, and breaks what the test asks it to break.

Started in place of the serving interpreter, so that the stage under test sees its own server process: it prints the
real server's log, listens on a port of its own, checks the run's key, and passes requests on with the real server's.
What it does to them is in FAULT (JSON); each request of a task is noted in a file, so that a test can count what was
asked.
"""

import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BACKEND = json.loads(os.environ["BACKEND"])  # port, key, log, python
FAULT = json.loads(os.environ.get("FAULT", "{}"))  # kind, first, count, match, until, pace
NOTES = os.environ.get("NOTES")
BODIES = os.environ.get("BODIES")  # where whole requests of tasks go, for who wants to send them again

LONGEST_HOLD_SECONDS = 120  # for what a test waits for and never comes

lock = threading.Lock()
given = {}
seen = {"tasks": 0, "faults": 0}
was_sick = threading.Event()


def is_task(path, content):
    """Requests of tasks have a seed; those of the canary have none."""
    return path in ("/v1/completions", "/v1/chat/completions") and "seed" in content


def strike(content):
    """Whether this request of a task gets the fault."""
    if FAULT.get("match") is not None and FAULT["match"] not in content["prompt"]:
        return False
    with lock:
        seen["tasks"] += 1
        if seen["tasks"] <= FAULT.get("first", 0) or seen["faults"] >= FAULT.get("count", 1 << 30):
            return False
        seen["faults"] += 1
        return True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, text, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def forward(self, method, body):
        connection = HTTPConnection("127.0.0.1", BACKEND["port"], timeout=120)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {BACKEND['key']}"}
        connection.request(method, self.path, body=body, headers=headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, text

    def is_known(self):
        return self.headers.get("Authorization") == f"Bearer {os.environ['VLLM_API_KEY']}"

    def do_GET(self):
        kind = FAULT.get("kind")
        if kind == "sick" and self.path == "/health" and seen["tasks"] and not was_sick.is_set():
            self.answer(503, b"{}")
            return was_sick.set()
        if self.path != "/health" and (kind == "wrong key from the start" or not self.is_known()):
            return self.answer(401, b'{"error": "Unauthorized"}')
        status, text = self.forward("GET", None)
        if self.path == "/v1/models" and kind == "another model":
            text = text.replace(b'"id":"tiny-llama"', b'"id":"huge-llama"')
        if self.path == "/v1/models" and kind == "another checkpoint":
            content = json.loads(text)
            content["data"][0]["root"] = "/models/another"
            text = json.dumps(content).encode()
        return self.answer(status, text)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.is_known():
            return self.answer(401, b'{"error": "Unauthorized"}')
        content = json.loads(body)
        kind = FAULT.get("kind", "none")
        if not is_task(self.path, content):
            return self.canary(kind, content, *self.forward("POST", body))
        if BODIES:
            with lock, open(BODIES, "a") as stream:
                stream.write(json.dumps([self.path, content]) + "\n")
        prompts = content["prompt"] if "prompt" in content else [content["messages"]]
        prompts = [prompts] if isinstance(prompts, str) else prompts
        struck = strike(content)
        if NOTES and not (struck and kind in LOST):
            with lock, open(NOTES, "a") as stream:
                stream.write("".join(json.dumps([prompt, content["seed"]]) + "\n" for prompt in prompts))
        if FAULT.get("pace"):
            time.sleep(FAULT["pace"])
        if struck and kind in HOLDS and not HOLDS[kind](self):
            return self.answer(400, b'{"error": "held back for longer than any test needs"}')
        if struck and kind in BEFORE:
            return BEFORE[kind](self)
        status, text = self.forward("POST", body)
        if struck and kind in AFTER:
            text = AFTER[kind](self, json.loads(text))
        if text is not None:
            self.answer(status, text)

    def canary(self, kind, content, status, text):
        answer = json.loads(text)
        choice = answer["choices"][0]
        if kind == "empty canary":
            choice["text"] = " "
        if kind == "stuttering canary":
            choice["logprobs"]["tokens"] = ["!"] * len(choice["logprobs"]["tokens"])
        if kind == "canary without numbers":
            choice["logprobs"]["token_logprobs"] = [None] * len(choice["logprobs"]["token_logprobs"])
        if kind == "unlikely passages" and content.get("echo"):
            values = choice["logprobs"]["token_logprobs"]
            choice["logprobs"]["token_logprobs"] = [None if value is None else value - 5 for value in values]
        self.answer(status, json.dumps(answer).encode())

    # --- faults before an answer; they say whether what they waited for came

    def wait_for_file(self):
        """The test makes it, or ends this process."""
        deadline = time.monotonic() + LONGEST_HOLD_SECONDS
        while not ("until" in FAULT and Path(FAULT["until"]).exists()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def wait_for_sickness(self):
        return was_sick.wait(LONGEST_HOLD_SECONDS)

    # --- faults in place of an answer

    def drop(self):
        self.close_connection = True
        self.connection.close()

    def delay(self):
        """Answer nothing until the client has gone."""
        self.connection.settimeout(LONGEST_HOLD_SECONDS)
        self.connection.recv(1)
        self.drop()

    def reset(self):
        """End the connection as a load balancer does that was restarted."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.drop()

    def show_page(self):
        """What a proxy's page of its own is: HTML, with status 200."""
        self.answer(200, b"<html><body><h1>Please wait</h1></body></html>", [("X-Of", "a proxy")])

    def refuse(self, status, headers=()):
        self.answer(status, b'{"error": "as the test wishes"}', headers)

    def crash(self):
        print("(EngineCore pid=1) ERROR 11-26 12:00:00 [core.py:1] RuntimeError: the kernel met its end", flush=True)
        os._exit(1)

    # --- faults of an answer

    def cut(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text[: len(text) // 2])
        self.wfile.flush()
        self.drop()

    def trickle(self, content):
        """The answer byte by byte, until the client has gone."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(json.dumps(content))))
        self.end_headers()
        deadline = time.monotonic() + LONGEST_HOLD_SECONDS
        for byte in json.dumps(content).encode():
            if time.monotonic() > deadline:
                break
            try:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
            except OSError:
                break
            time.sleep(0.25)
        self.close_connection = True

    def zip_badly(self, content):
        self.answer(200, b"\x1f\x8b\x08\x00" + os.urandom(64), [("Content-Encoding", "gzip")])

    def shorten(self, content):
        """A length that is less than that of the answer."""
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text) // 2))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()
        self.drop()

    def halve_numbers(self, content):
        for choice in content["choices"]:
            found = choice["logprobs"]
            for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
                if isinstance(found.get(name), list):
                    found[name] = found[name][: len(found[name]) // 2]
        return json.dumps(content).encode()

    def change(self, **values):
        def changed(self, content):
            for choice in content["choices"]:
                choice.update(values)
            return json.dumps(content).encode()

        return changed

    def without_numbers(self, content):
        for choice in content["choices"]:
            choice["logprobs"]["token_logprobs"] = [float("nan")] * len(choice["logprobs"]["token_logprobs"])
        return json.dumps(content).encode()

    def swallow(self, content):
        content["choices"].pop()
        return json.dumps(content).encode()

    def repeat(self, content):
        """The first answer that was given, whole or to another prompt."""
        with lock:
            return json.dumps(given.setdefault("first", content)).encode()

    def reorder(self, content):
        for choice in content["choices"]:
            choice["index"] = len(content["choices"]) - 1 - choice["index"]
        return json.dumps(content).encode()

    def of_another(self, content):
        return json.dumps(content | {"model": "huge-llama"}).encode()

    def trace(self, content):
        print("(APIServer pid=1) Traceback (most recent call last):\n  File x\nOSError: of a broken probe", flush=True)
        return json.dumps(content).encode()

    def complain(self, content):
        print(
            "(EngineCore pid=1) WARNING torch.OutOfMemoryError: CUDA out of memory, the request is repeated", flush=True
        )
        return json.dumps(content).encode()


HOLDS = {"hold": Handler.wait_for_file, "sick": Handler.wait_for_sickness}
BEFORE = {
    "drop": Handler.drop,
    "delay": Handler.delay,
    "reset": Handler.reset,
    "page": Handler.show_page,
    "rate limit": lambda self: self.refuse(429, [("Retry-After", "0")]),
    "error 500": lambda self: self.refuse(500),
    "error 400": lambda self: self.refuse(400),
    "refuse the key": lambda self: self.refuse(401),
    "crash": Handler.crash,
    "die": lambda self: os.kill(os.getpid(), signal.SIGKILL),
}
AFTER = {
    "cut": Handler.cut,
    "garble": lambda self, content: b'{"choices": [{"index": 0, "te',
    "null": Handler.change(None, text=None),
    "unfinished": Handler.change(None, finish_reason=None),
    "empty": Handler.change(None, text="", finish_reason="stop"),
    "length": Handler.change(None, finish_reason="length"),
    "constant": Handler.change(None, text="12345", finish_reason="stop"),
    "no numbers": Handler.without_numbers,
    "half of the numbers": Handler.halve_numbers,
    "trickle": Handler.trickle,
    "bad gzip": Handler.zip_badly,
    "short length": Handler.shorten,
    "swallow": Handler.swallow,
    "complain": Handler.complain,
    "repeat": Handler.repeat,
    "reorder": Handler.reorder,
    "of another": Handler.of_another,
    "half a character": Handler.change(None, text="1\ud8002"),
    "trace": Handler.trace,
}
LOST = {"drop", "delay", "rate limit", "error 500", "error 400", "refuse the key", "crash", "die"}


def main():
    print(Path(BACKEND["log"]).read_text(), flush=True)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "-c":
        os.execv(BACKEND["python"], [BACKEND["python"], *sys.argv[1:]])
    main()

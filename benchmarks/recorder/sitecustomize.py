"""Let a vLLM server note what it is asked: a line when a prompt comes, and one when its whole answer was sent.

Python imports it before anything else where this folder is on PYTHONPATH; other processes than the server are left as
they are. A prompt is noted by the key under which a harness stores its answer, so that both can be counted together.
"""

import hashlib
import json
import os
import sys


def payloads_of(content):
    """What each prompt of a request is alone."""
    prompts = content["prompt"]
    if isinstance(prompts, str) or isinstance(prompts[0], int):
        prompts = [prompts]
    return [{**content, "prompt": [prompt]} for prompt in prompts]


class Recorder:
    """An ASGI application before the server's own."""

    def __init__(self, application, notes, served):
        self._application, self._notes, self._served = application, notes, served

    def _note(self, event, keys):
        lines = [{"event": event, "served": self._served, "server": os.getpid(), "key": key} for key in keys]
        descriptor = os.open(self._notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, "".join(json.dumps(line) + "\n" for line in lines).encode())
        os.close(descriptor)

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != "/v1/completions":
            return await self._application(scope, receive, send)
        parts = []
        while True:
            message = await receive()
            parts.append(message)
            if not message.get("more_body"):
                break
        content = json.loads(b"".join(part.get("body", b"") for part in parts) or b"{}")
        # The canary's requests have no seed.
        keys = [key_of(scope["path"], one) for one in payloads_of(content)] if "seed" in content else []
        self._note("asked", keys)
        status = {}

        async def receive_again():
            return parts.pop(0) if parts else await receive()

        async def send_noted(message):
            await send(message)
            status.update({"code": message["status"]} if message["type"] == "http.response.start" else {})
            if message["type"] == "http.response.body" and not message.get("more_body") and status.get("code") == 200:
                self._note("answered", keys)

        return await self._application(scope, receive_again, send_noted)


def key_of(path, payload):
    """As harness_transport.AnswerStore.key has it."""
    return hashlib.sha256(json.dumps([path, payload], sort_keys=True).encode()).hexdigest()


def install():
    """Put the recorder before the application that uvicorn is about to serve."""
    import uvicorn

    served = sys.orig_argv[sys.orig_argv.index("--model") + 1]
    load = uvicorn.Config.load

    def load_recorded(config):
        load(config)
        config.loaded_app = Recorder(config.loaded_app, os.environ["RECORDER_NOTES"], served)

    uvicorn.Config.load = load_recorded


if "vllm.entrypoints.openai.api_server" in sys.orig_argv and "--model" in sys.orig_argv:
    install()

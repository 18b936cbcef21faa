"""ASGI middleware for vLLM's server: every path but /health needs the run's key.

vLLM 0.32 itself asks for it below /v1, /v2, /inference and /cohere alone: without one, /invocations generates, and
/tokenize and /metrics answer (vllm/entrypoints/serve/middleware/authenticate.py). Others who work on the same machine
reach a port of the loopback interface, too.
"""

import hashlib
import os
import secrets

OPEN_PATHS = ("/health",)
REFUSAL = b'{"error": "Unauthorized"}'


class RequireKey:
    """Refuses requests without ``Authorization: Bearer KEY``, the key of VLLM_API_KEY."""

    def __init__(self, app):
        self._app = app
        self._expected = self._digest(b"Bearer " + os.environ["VLLM_API_KEY"].encode())

    @staticmethod
    def _digest(value):
        return hashlib.sha256(value).digest()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS:
            return await self._app(scope, receive, send)
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if secrets.compare_digest(self._digest(given), self._expected):
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(REFUSAL)).encode())]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        return await send({"type": "http.response.body", "body": REFUSAL})

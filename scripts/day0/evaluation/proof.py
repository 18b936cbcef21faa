"""The proof of a server that has just started: it serves the right checkpoint, and answers like a sound model."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

from day0.base.artefacts import read_json
from day0.base.terminal import say
from day0.evaluation.request import Request
from day0.serving.canary import baseline_perplexity, judge_generation, judge_perplexity, passage_logprobs, perplexity_of
from day0.serving.engine_log import effective_kv_cache_dtype, loaded_facts
from day0.serving.server import DeploymentFailed, Server, find_impostor

CANARY_MINIMUM_TOKENS = 16


class Proof:
    """The first requests to a server.

    Attributes:
        facts: what the server says that it loaded: model_id, engine_version, types, kernels.
        canary: prompt, answer, passages, perplexity and the baseline's; None until the canary has answered.
    """

    def __init__(self, request: Request, server: Server, served: str) -> None:
        """Prepare the proof.

        Args:
            request: what the stage was asked for.
            server: the server, which answers /health.
            served: the checkpoint's folder, as the server was given it.
        """
        self.request, self.server, self.served = request, server, served
        self.facts: dict[str, Any] = {}
        self.canary: dict[str, Any] | None = None

    def make(self) -> None:
        """Ask what is served, and judge the first answers.

        Raises:
            DeploymentFailed: it serves something else, does not answer, or answers like a broken model.
            Transient: something else ended the server.
        """
        try:
            fault = self._find_fault()
        except (OSError, http.client.HTTPException) as error:
            fault = f"the server did not answer the canary: {error}"
        if fault:
            time.sleep(1)  # a server that ended says why, which counts more
            self.server.check("at its first requests")
            raise DeploymentFailed(fault)

    def _find_fault(self) -> str | None:
        folder, name = self.request.checkpoint.folder, self.request.model
        config = read_json(folder / "config.json")
        if (folder / "hf_quant_config.json").is_file():
            config.setdefault("quantization_config", {"quant_method": "modelopt"})
        _, models = self.server.request("GET", "/v1/models")
        _, version = self.server.request("GET", "/version")
        facts = loaded_facts(self.server.read_log())
        self.facts = {"model_id": name, **facts, "kv_cache_dtype": effective_kv_cache_dtype(facts, config)}
        if isinstance(version, dict) and version.get("version"):
            # What answers counts, not what was installed: a container brings its own.
            self.facts["engine_version"] = version["version"]
        return find_impostor(models, name, self.served, facts, config) or self._judge_canary()

    def _judge_canary(self) -> str | None:
        """Ask the canary's prompt and passages; returns what is wrong with the answers."""
        settings = self.request.suite["canary"]
        status, answer = self._complete(prompt=settings["prompt"], max_tokens=settings["max_tokens"])
        if status != 200:
            return f"the canary got status {status}: {json.dumps(answer)[:300]}"
        fault = judge_generation(answer)
        if fault:
            return f"{fault} (prompt {settings['prompt']!r})"
        tokens = (answer.get("usage") or {}).get("prompt_tokens") or 0
        if tokens < CANARY_MINIMUM_TOKENS:
            say(f"note: the canary's prompt has {tokens} tokens; give it at least {CANARY_MINIMUM_TOKENS}")
        baseline = baseline_perplexity(self.request.baseline, settings)
        self.canary = {
            "prompt": settings["prompt"],
            "answer": answer["choices"][0]["text"],
            "passages": settings["passages"],
            "perplexity": None,
            "baseline_perplexity": baseline,
        }
        logprobs: list[float] = []
        for passage in settings["passages"]:
            status, answer = self._complete(prompt=passage["context"] + passage["text"], max_tokens=1, echo=True)
            if status != 200:
                return f"a passage of the canary got status {status}: {json.dumps(answer)[:300]}"
            try:
                logprobs += passage_logprobs(answer, passage["text"])
            except ValueError as error:
                return str(error)
        if not logprobs:
            say(f"canary: {self.canary['answer']!r}")
            return None
        perplexity = self.canary["perplexity"] = perplexity_of(logprobs)
        say(f"canary: {self.canary['answer']!r}, perplexity {perplexity:.4g}")
        return judge_perplexity(perplexity, baseline, settings["max_perplexity_ratio"])

    def _complete(self, **request: Any) -> tuple[int, Any]:
        """A completion with log probabilities: status and content."""
        question = {"model": self.request.model, "temperature": 0, "logprobs": 1, **request}
        return self.server.request("POST", "/v1/completions", question)

"""A server that speaks the part of vLLM's protocol that padd uses, over a model of transformers, with faults on demand.

Written from the protocol alone: it decodes without a cache, one whole forward a token, and draws by a request's seed.
"""

import base64
import io
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from padd_stages.lib.models.moe_adapter import MoEAdapter
from padd_stages.lib.sampling.token_draws import draw_tokens, logprobs_of


class VllmServer:
    """`with VllmServer(folder) as server:` serves at ``server.url``.

    Attributes:
        faults: how often each is still to happen: error500, error503, abort, cut_json, no_token_ids, hang (seconds
            beside it), die (at that completion the server goes for good), ignore_weights (a reload does nothing),
            lying_checksums (each differs), other_version, short (a response loses its last token), stop_early.
        calls: how often each path was asked for.
        bodies: of the completions.
        types: of the tensors that were loaded last, by the names in the file.
    """

    def __init__(
        self, folder: Path, *, name: str | None = None, dev_mode: bool = True, longest: int = 4096
    ) -> None:
        self.folder, self.name, self.dev_mode, self.longest = folder, name or str(folder), dev_mode, longest
        self.faults: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.hang_seconds = 2.0
        self.loaded: list[str] = []
        self.types: dict[str, str] = {}
        self.version = "default"
        self.paused = self.sleeping = False
        self._lock = threading.RLock()
        self._load(folder)
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                text = self.rfile.read(length)
                if text and self.headers.get("Content-Type") != "application/json":
                    self._send(400, {"error": {"message": "Unsupported Media Type"}})
                    return
                self._answer(json.loads(text) if text else {})

            def _answer(self, body: dict[str, Any]) -> None:
                try:
                    self._send(*server.answer(self.path, body))
                except (ConnectionAbortedError, BrokenPipeError):  # BrokenPipe: the client has given up
                    self.close_connection = True

            def _send(self, status: int, value: Any) -> None:
                text = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "VllmServer":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _load(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        has_experts = any(hasattr(module, "experts") for module in self._model.modules())
        self._adapter = MoEAdapter.attach(self._model) if has_experts else None
        self.loaded.append(str(folder))
        with safe_open(folder / "model.safetensors", "pt") as file:
            self.types = {name: str(file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118

    def _happens(self, fault: str) -> bool:
        with self._lock:
            if self.faults[fault] <= 0:
                return False
            self.faults[fault] -= 1
            return True

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and body for a request."""
        name = path.split("?")[0]
        self.calls[name] += 1
        if self.faults["gone"]:
            raise ConnectionAbortedError
        if name == "/health":
            return 200, b""
        if name == "/version":
            return 200, {"version": "0.33.0"}
        if name == "/v1/models":
            model = {"id": self.name, "root": str(self.folder), "parent": None, "max_model_len": self.longest}
            return 200, {"object": "list", "data": [model]}
        if name == "/v1/completions":
            return self._complete(body)
        if self.dev_mode:
            return self._control(path, body)
        return 404, {"detail": "Not Found"}

    def _control(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/pause?mode=wait":
            self.paused = True
            return 200, {"status": "paused"}
        if path == "/resume":
            self.paused = False
            return 200, {"status": "resumed"}
        if path == "/reset_prefix_cache":
            return 200, {"success": True}
        if path == "/update_weight_version":
            if not self._happens("other_version"):
                self.version = body["new_version"]
            return 200, {"success": True, "new_version": body["new_version"]}
        if path == "/collective_rpc" and body["method"] == "reload_weights":
            assert not self.sleeping
            assert self.paused, "weights change under running requests"
            if self._happens("error500"):
                return 500, {"error": {"message": "reload failed", "code": 500}}
            if not self._happens("ignore_weights"):
                self._load(Path(body["kwargs"]["weights_path"]))
            return 200, {"results": [None]}
        if path == "/weight_checker":
            total = sum(float(p.detach().double().sum()) for p in self._model.parameters())
            lie = self.calls[path] if self.faults["lying_checksums"] else ""
            return 200, {"checksums": {"all": f"{total!r}{lie}"}}
        if path == "/sleep?level=1&mode=wait":
            self.sleeping = True
            return 200, {"status": "sleeping", "level": 1}
        if path == "/wake_up":
            self.sleeping = False
            return 200, {"status": "awake"}
        return 404, {"detail": "Not Found"}

    def _complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            self.bodies.append(body)
        if body["model"] not in (None, "", self.name):
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}}
        if self.paused or self._happens("error503"):
            return 503, {"error": {"message": "Generation is paused.", "code": 503}}
        if self._happens("error500"):
            return 500, {"error": {"message": "EngineCore encountered an issue.", "code": 500}}
        if self._happens("hang"):
            time.sleep(self.hang_seconds)
        if self.faults["die"]:
            self.faults["die"] -= 1
            if not self.faults["die"]:
                self.faults["gone"] = 1
                raise ConnectionAbortedError
        if max(body["prompt"]) >= self._model.config.vocab_size:
            return 400, {
                "error": {"message": f"Token id {max(body['prompt'])} is out of vocabulary", "code": 400}
            }
        with self._lock:
            choice = self._choice(body)
        if self._happens("no_token_ids"):
            choice["token_ids"] = choice["prompt_token_ids"] = None
        answer = {"object": "text_completion", "model": self.name, "choices": [choice]}
        if self._happens("cut_json"):
            return 200, json.dumps(answer).encode()[:-20]
        return 200, answer

    @torch.no_grad()
    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt, tokens, logprobs, reason = list(body["prompt"]), [], [], "length"
        limit = min(body["max_tokens"], self.longest - len(prompt))
        generator = torch.Generator().manual_seed(body["seed"])
        uniforms = torch.rand(limit, generator=generator, dtype=torch.float64)
        for count in range(limit):
            logits = self._model(torch.tensor([prompt + tokens])).logits[:, -1]
            token = draw_tokens(logits, uniforms[count : count + 1], body["temperature"], body["top_p"])
            logprobs.append(float(logprobs_of(logits, token, body["temperature"] or 1.0)))
            tokens.append(int(token))
            if tokens[-1] in body["stop_token_ids"]:
                reason = "stop"
                break
        if self._happens("abort"):
            reason = "abort"
        if self._happens("short"):
            tokens, logprobs = tokens[:-1], logprobs[:-1]
            reason = "length"
        if self._happens("stop_early"):
            tokens, reason = [*tokens[:-1], 0], "stop"
        return {
            "index": 0,
            "text": "",
            "logprobs": None if body.get("logprobs") is None else {"token_logprobs": logprobs},
            "finish_reason": reason,
            "stop_reason": tokens[-1] if reason == "stop" else None,
            "token_ids": tokens,
            "prompt_token_ids": prompt,
            "routed_experts": self._routes(prompt + tokens),
            "weight_versions": [{"version": self.version, "start": 0, "end": len(tokens)}],
        }

    def _routes(self, ids: list[int]) -> str | None:
        """Return what vLLM does: .npy of (tokens - 1, all layers, K), dense layers zeros."""
        if self._adapter is None:
            return None
        with self._adapter.trace() as trace:
            self._model(torch.tensor([ids[:-1]]))
        routed = np.zeros(
            (len(ids) - 1, self._model.config.num_hidden_layers, self._adapter.top_k), dtype=np.uint8
        )
        for m, layer in enumerate(self._adapter.layers):
            routed[:, layer.layer_index] = trace.indices[m].numpy()
        buffer = io.BytesIO()
        np.save(buffer, routed)
        return base64.b64encode(buffer.getvalue()).decode()

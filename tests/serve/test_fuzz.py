"""Requests made up from the published schema: whatever they hold, no answer is a failure of ours."""

from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode

OPERATIONS = [
    *(("POST", path) for path in ("/v1/completions", "/v1/fim/completions", "/v1/chat/completions", "/v1/denoise")),
    *(("POST", path) for path in ("/v1/edit/completions", "/v1/influence", "/v1/feedback", "/v1/cancel")),
    *(("POST", path) for path in ("/tokenize", "/admin/reload", "/v1/embeddings")),
    *(("GET", path) for path in ("/v1/models", "/v1/models/{name}", "/v1/stats", "/health", "/ready", "/metrics")),
]
EXAMPLES = 8


@pytest.fixture(scope="module")
def published(here) -> dict[str, Any]:
    return here.ask("GET", "/openapi.json").json()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["sense", "nonsense"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_is_a_failure_of_ours(here, published: dict[str, Any], method: str, path: str, mode: GenerationMode):
    operation = schemathesis.openapi.from_dict(published)[path][method]
    if mode is GenerationMode.NEGATIVE and (method == "GET" or not operation.body):
        return

    def check(case: Case) -> None:
        send(here, published, operation, case)

    quiet = settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    quiet(given(operation.as_strategy(generation_mode=mode))(check))()


def send(here, published: dict[str, Any], operation: Any, case: Case) -> None:
    body = likely(case.path, case.body) if isinstance(case.body, dict) else case.body
    made = case.as_transport_kwargs()
    sendable = isinstance(body, (dict, list, str, int, float, bool, type(None)))
    url = made["url"] if made["url"].startswith("/") else "/" + made["url"].split("/", 3)[-1]
    response = here.run(here.asked(case.method, url, body if sendable else None))
    assert response.status_code < 500, (body, response.text)
    documented = operation.definition.raw["responses"]
    assert str(response.status_code) in documented, (body, response.status_code)
    if response.headers["content-type"] == "application/json":
        content = documented[str(response.status_code)]["content"]["application/json"]["schema"]
        jsonschema.validate(response.json(), {**content, "components": published["components"]})


def likely(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The request nearer to sense, so that more than the schema is tested, and with less to write."""
    most = {"n": 2, "max_tokens": 8, "max_completion_tokens": 8, "edit_steps": 2, "corrections": 1}
    near = {
        key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in body.items()
    }
    near = {key: min(value, most[key]) if key in most and type(value) is int else value for key, value in near.items()}
    if isinstance(near.get("model"), str) or "messages" in near:
        near["model"] = "talk"
    if isinstance(prompts := near.get("prompt"), list):
        near["prompt"] = prompts[:2]
    if "prompt" in near:
        near.setdefault("max_tokens", 8)
    if isinstance(tokens := near.get("tokens"), list) and all(type(token) is int for token in tokens):
        near["tokens"] = [3, *(token % 3072 for token in tokens[:30])]
        near |= {"position": 1} if path == "/v1/influence" else {"noise": [1]}
    elif path == "/v1/denoise" and "warm_start" not in near:
        near["template"] = f"Tom{{3}} {str(near.get('template'))[:20].replace('{', '{{').replace('}', '}}')}{{2}}."
    if isinstance(edits := near.get("edits"), list) and isinstance(near.get("text"), str):
        near["edits"] = [{**edit, "start": 0, "end": len(near["text"])} for edit in edits[:1] if isinstance(edit, dict)]
    return near

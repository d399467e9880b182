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
    *(("POST", path) for path in ("/tokenize", "/admin/reload")),
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
    body = affordable(case.body) if isinstance(case.body, dict) else case.body
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


def affordable(body: dict[str, Any]) -> dict[str, Any]:
    """The request with less to write: it is its shape that matters."""
    most = {"n": 2, "max_tokens": 8, "max_completion_tokens": 8, "edit_steps": 2, "corrections": 1}
    small = {
        key: most[key] if key in most and isinstance(value, int) and value > most[key] else value
        for key, value in body.items()
    }
    if isinstance(prompts := small.get("prompt"), list):
        small["prompt"] = prompts[:2]
    return {"max_tokens": 8, **small} if "prompt" in small else small

"""Keys, sizes, paths and secrets."""

import hashlib
import logging

import pytest

from sfumato.cli.serve import LOCAL
from sfumato.serve.auth import Keys
from sfumato.serve.service import Options

OPEN = ["/health", "/ready", "/docs", "/openapi.json", "/metrics"]
CLOSED = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("GET", "/v1/stats"),
    *(
        ("POST", path)
        for path in (
            *("/v1/completions", "/v1/fim/completions", "/v1/chat/completions", "/v1/denoise", "/v1/influence"),
            *("/v1/edit/completions", "/v1/embeddings", "/v1/cancel", "/v1/feedback", "/tokenize", "/admin/reload"),
        )
    ),
]
BODIES = {
    "/v1/fim/completions": {"prompt": "Tom"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/v1/denoise": {"template": "a{2}"},
    "/v1/embeddings": {"input": "Tom"},
    "/v1/influence": {"tokens": [3, 5], "position": 1},
    "/v1/edit/completions": {"text": "a", "edits": [{"start": 0, "end": 1}]},
    "/v1/cancel": {"id": "x"},
    "/v1/feedback": {"response_id": "x", "kind": "thumb", "value": 1},
    "/tokenize": {"text": "a"},
    "/admin/reload": {"model": "tiny"},
}


@pytest.fixture(scope="module")
def locked(make):
    return make(Options(Keys((("me", hashlib.sha256(b"sk-good").digest()),))))


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize("said", [None, "Bearer sk-bad", "Bearer ", "sk-good"])
def test_without_the_key_nothing_is_answered(locked, method: str, path: str, said: str | None):
    headers = {} if said is None else {"authorization": said}
    body = BODIES.get(path, {"prompt": "Tom"}) if method == "POST" else None
    response = locked.ask(method, path, body, headers=headers)
    assert response.status_code == 401, response.text
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key" and "sk-" not in response.text


@pytest.mark.parametrize("path", OPEN)
def test_what_tells_no_secrets_is_open(locked, path: str):
    assert locked.ask("GET", path).status_code == 200


def test_the_key_opens(locked):
    answer = locked.ask(
        "POST", "/v1/completions", {"prompt": "Tom", "max_tokens": 4}, headers={"authorization": "Bearer sk-good"}
    )
    assert answer.status_code == 200


def test_a_key_may_ask_so_often(make):
    here = make(Options(rate=2))
    statuses = [here.post("/tokenize", text="a").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    answer = here.post("/tokenize", text="a")
    assert int(answer.headers["retry-after"]) > 0 and answer.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_refused(make, announced: bool):
    here = make(Options(max_body=2000))

    async def pieces():
        for _ in range(100):
            yield b"x" * 100

    content = b"x" * 10_000 if announced else pieces()
    response = here.ask("POST", "/v1/completions", headers={"content-type": "application/json"}, content=content)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large" and "2000" in response.json()["error"]["message"]


def test_a_header_that_lies_about_the_size_helps_nobody(make):
    headers = {"content-type": "application/json", "content-length": "10"}

    async def pieces():
        yield b"x" * 5000

    response = make(Options(max_body=2000)).ask("POST", "/v1/completions", headers=headers, content=pieces())
    assert response.status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/viewer/../../app.py",
        "/viewer/..%2f..%2fserve%2fapp.py",
        "/v1/models/..%2f..%2fconfig.json",
        "/app.py",
    ],
)
def test_no_path_reaches_a_file(here, path: str):
    response = here.ask("GET", path)
    assert response.status_code == 404 and "root:" not in response.text and "import" not in response.text


def test_a_sampler_is_a_name_and_never_a_file(here, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("raise SystemExit('ran')")
    response = here.post("/v1/completions", prompt="Tom", sampler=f"{file}:Mine")
    assert response.status_code == 400 and response.json()["error"]["param"] == "sampler"


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("LOCALHOST:1", 200), ("evil.example", 403)],
)
def test_an_open_server_answers_to_its_own_name_only(make, host: str, status: int):
    here = make(Options(hosts=frozenset(LOCAL)))
    assert here.ask("GET", "/v1/models", headers={"host": host}).status_code == status


@pytest.mark.parametrize("log_prompts", [False, True])
def test_prompts_are_logged_only_if_asked_for(make, caplog: pytest.LogCaptureFixture, log_prompts: bool):
    caplog.set_level(logging.DEBUG, "sfumato.serve")
    here = make(Options(log_prompts=log_prompts))
    secret = "the dark secret of Tom"
    here.post("/v1/completions", prompt=secret, max_tokens=4)
    here.post("/v1/completions", prompt=secret, max_tokens=4, frobnicate=secret)
    here.post("/v1/completions", prompt=secret + "\0", max_tokens=4)
    here.post("/v1/denoise", template=secret + "{2}", steps=1)
    here.ask("GET", "/dark")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("sfumato")]
    assert any("dark" in line for line in ours) == log_prompts


def test_other_sites_may_ask_only_if_allowed(make, here):
    origin = {"origin": "https://app.example"}
    asked = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    assert "access-control-allow-origin" not in here.ask("GET", "/health", headers=origin).headers
    allowed = make(Options(cors_origins=("https://app.example",)))
    assert (
        allowed.ask("OPTIONS", "/v1/completions", headers=asked).headers["access-control-allow-origin"]
        == origin["origin"]
    )
    other = {"origin": "https://evil.example"}
    assert "access-control-allow-origin" not in allowed.ask("GET", "/health", headers=other).headers


def test_a_failure_inside_is_a_500_with_a_number(
    make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    here = make()
    monkeypatch.setattr(here.service, "workers", None)
    response = here.ask("GET", "/v1/models")
    assert response.status_code == 500 and response.json()["error"]["code"] == "internal_error"
    assert response.json()["error"]["message"].split()[2].rstrip(";") in caplog.text

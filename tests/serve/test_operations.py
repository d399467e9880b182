"""Running the server: models, tokens, numbers, cancelling, reloading."""

import threading

import pytest

from sfumato.serve.auth import Keys
from sfumato.serve.service import Options


def test_models_say_what_they_are(here):
    answer = here.ask("GET", "/v1/models").json()
    assert [model["id"] for model in answer["data"]] == ["tiny", "tiny-ar", "talk"]
    facts = here.ask("GET", "/v1/models/tiny").json()
    assert facts == answer["data"][0]
    assert facts["diffusion"]["process"] == "masked" and facts["diffusion"]["context"] == 256
    assert facts["diffusion"]["chat"] is False and facts["diffusion"]["parameters"] > 5_000_000
    assert here.ask("GET", "/v1/models/none").status_code == 404


def test_a_text_and_its_tokens(here):
    answer = here.post("/tokenize", text="Tom had a ball.").json()
    assert "".join(answer["pieces"]) == "Tom had a ball." and answer["count"] == len(answer["tokens"])


def test_health_readiness_and_the_schema_are_there(here):
    assert here.ask("GET", "/health").json() == {"status": "ok"}
    assert here.ask("GET", "/ready").json() == {"status": "ready"}
    schema = here.ask("GET", "/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/denoise"} <= set(schema["paths"])
    assert "422" not in str(schema["paths"])
    page = here.ask("GET", "/docs").text
    assert "/v1/chat/completions" in page and "http://" not in page and "https://" not in page and "<script" not in page


def test_numbers_are_counted(make):
    here = make()
    here.post("/v1/completions", prompt="Tom", max_tokens=8, seed=1)
    here.post("/v1/completions", prompt="Tom", max_tokens=0)
    text = here.ask("GET", "/metrics").text
    assert 'committed_tokens_total{model="tiny"} 8.0' in text
    assert 'responses_total{path="/v1/completions",status="400"} 1.0' in text
    for name in ("step_batch_size_bucket", "nfe_total", "positions_evaluated_total", "queue_depth", "feedback_total"):
        assert name in text
    for name in ("tokens_per_forward_sum", "request_seconds_bucket", "first_text_seconds", "first_sentence_seconds"):
        assert name in text
    stats = here.ask("GET", "/v1/stats").json()
    assert stats["requests"] == 1 and stats["tokens"] == 8 and stats["models"]["tiny"]["requests"] == 1
    assert stats["latency_seconds"]["p50"] > 0 and stats["queued"] == 0


def test_metrics_never_hold_what_a_client_wrote(make):
    here = make()
    here.ask("GET", "/v1/models/secret-name")
    here.ask("GET", "/secret-path")
    assert "secret" not in here.ask("GET", "/metrics").text


def test_a_server_that_stops_takes_nothing_new(make):
    here = make()
    here.service.draining = True
    assert here.ask("GET", "/ready").status_code == 503
    response = here.post("/v1/completions", prompt="Tom")
    assert response.status_code == 503 and response.headers["retry-after"]
    assert here.ask("GET", "/health").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_turns_requests_away(here, monkeypatch: pytest.MonkeyPatch, stream: bool):
    monkeypatch.setattr(here.workers, "queue_rows", 0)
    worker = here.workers._workers[0]
    worker.rows += here.workers.config.rows  # as if others ran
    answer = here.post("/v1/completions", prompt="Tom", max_tokens=8, n=2, stream=stream, diffusing=True)
    worker.rows -= here.workers.config.rows
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert answer.json()["error"]["code"] == "busy" and answer.json()["error"]["type"] == "server_error"
    assert here.post("/v1/completions", prompt="Tom", max_tokens=8, n=8, stream=stream).status_code == 200


def test_more_texts_than_there_will_ever_be_room_for_are_a_mistake(here, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(here.workers, "queue_rows", 0)
    answer = here.post("/v1/completions", prompt="Tom", max_tokens=8, n=16)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "n"


def test_who_waited_for_others_may_come_again(make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sfumato.serve.service.PREPARE_SECONDS", 0.2)
    slow, go_on = make(), threading.Event()
    taken = [slow.service.pool.submit(go_on.wait) for _ in range(2)]
    response = slow.post("/tokenize", text="Tom")
    go_on.set()
    assert all(one.result() for one in taken)
    assert response.status_code == 503 and response.json()["error"]["code"] == "busy"
    assert slow.post("/tokenize", text="Tom").status_code == 200


def test_cancelling_what_is_not_there(here):
    assert here.post("/v1/cancel", id="cmpl-1").status_code == 404


def test_reloading_needs_a_key(make):
    assert make().post("/admin/reload", model="tiny").status_code == 403
    keys = Keys((("me", __import__("hashlib").sha256(b"k").digest()),))
    here = make(Options(keys))
    said = {"authorization": "Bearer k"}
    answer = here.ask("POST", "/admin/reload", {"model": "tiny"}, headers=said)
    assert answer.json() == {"model": "tiny", "version": here.workers.versions["tiny"], "changed": False}
    assert here.ask("POST", "/admin/reload", {"model": "../etc"}, headers=said).status_code == 404


@pytest.mark.parametrize("path", ["/docs", "/health", "/v1/models", "/nowhere"])
def test_every_answer_forbids_guessing_its_type(here, path: str):
    assert here.ask("GET", path).headers["x-content-type-options"] == "nosniff"

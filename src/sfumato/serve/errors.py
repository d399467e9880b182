"""What goes wrong, as OpenAI's clients expect it: `{"error": {"message", "type", "param", "code"}}`."""

import logging
import re
import secrets
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

log = logging.getLogger("sfumato.serve")

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


RETRY_SECONDS = 2
"""After which a client that came too much may come again."""


class Gone(Exception):
    """The client went away: nobody reads the answer."""


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ):
        """An error for the client.

        Args:
            status: of HTTP.
            message: one line.
            param: the field that is wrong.
            code: for programs.
            retry_after: seconds after which it is worth to try again; 0 = not told.
        """
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The envelope."""
        message = self.message.encode(errors="replace").decode()
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """As an answer."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


class BadRequest(ApiError):
    """A field that cannot be used."""

    def __init__(self, message: str, param: str | None = None, code: str | None = "invalid_value"):
        """A 400 that names the field."""
        super().__init__(400, message, param=param, code=code)


def from_value_error(error: ValueError, fields: Mapping[str, str] | Sequence[str] = ()) -> BadRequest:
    """A user's mistake that the package found: its one line begins with the field's name.

    Args:
        error: as raised.
        fields: names that the message may begin with; a mapping says how the client calls them.
    """
    message = " ".join(str(error).split())
    known = fields if isinstance(fields, Mapping) else dict.fromkeys(fields)
    found = _FIELD.match(message)
    if found is None or found[1] not in known:
        return BadRequest(message)
    return BadRequest(message, (known[found[1]] or found[1]) + found[2])


def unexpected(error: BaseException, where: str) -> ApiError:
    """Our own fault: the client gets a number, the log what belongs to it, and neither holds anything of a prompt."""
    number = secrets.token_hex(6)
    frames = traceback.extract_tb(error.__traceback__)[-3:]  # lines of source, never values
    trail = " < ".join(f"{frame.filename.rsplit('sfumato/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
    log.error("error %s in %s: %s at %s", number, where, type(error).__name__, trail)
    return ApiError(500, f"internal error {number}; the server's log says more", code="internal_error")


def install(app: FastAPI) -> None:
    """Answer every error in the envelope."""

    @app.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        return _invalid(_clearest(error.errors(), error.body), error.body).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed"}
        message = {404: "no such page", 405: "no such method here"}.get(error.status_code, str(error.detail))
        answer = ApiError(error.status_code, message, code=codes.get(error.status_code, "invalid_request"))
        response = answer.response()
        response.headers.update(error.headers or {})
        return response


def _clearest(problems: Sequence[Mapping[str, Any]], body: Any) -> Mapping[str, Any]:
    """Of all that is wrong with the first field that is wrong, what lies deepest.

    Of a value that may be of several types, that is what is wrong with the type that it has.
    """
    same = [problem for problem in problems if problem["loc"][:2] == problems[0]["loc"][:2]]

    def depth(problem: Mapping[str, Any]) -> tuple[int, bool]:
        path = _path(problem["loc"][1:], body, problem["type"])
        return len(path), not problem["type"].endswith("_type")

    return max(same, key=depth)


def _invalid(problem: Mapping[str, Any], body: Any) -> BadRequest:
    """The first thing that is wrong with a body."""
    kind, location = problem["type"], problem["loc"][1:]
    if kind == "json_invalid":
        return BadRequest("the body is not valid JSON", code="invalid_json")
    if not location:
        return BadRequest("the body must be a JSON object, sent as application/json", code="invalid_json")
    param = _path(location, body, kind)
    name = str(location[-1])
    if kind == "extra_forbidden":
        return BadRequest(f"unknown or unsupported field: {param}", param, "unknown_parameter")
    if kind == "missing":
        return BadRequest(f"missing field: {param}", param, "missing_required_parameter")
    if name in _NEUTRAL:
        return BadRequest(f"{param}: not supported; leave it out or at {_NEUTRAL[name]}", param, "unsupported_value")
    return BadRequest(f"{param}: {problem['msg'][:1].lower()}{problem['msg'][1:]}", param)


_FIELD = re.compile(r"(\w+)((?:\[\d+\])?(?:\.\w+)?)")
_NEUTRAL = {
    "presence_penalty": "0",
    "frequency_penalty": "0",
    "logit_bias": "{}",
    "echo": "false",
    "best_of": "1",
    "store": "false",
    "verbosity": "medium",
}


def _path(location: Sequence[str | int], body: Any, kind: str) -> str:
    """The field as `messages[0].content`, without the names that validation gives to the members of a union."""
    path, value = "", body
    for i, step in enumerate(location):
        last = i == len(location) - 1
        if isinstance(step, int) and isinstance(value, list) and step < len(value):
            path, value = f"{path}[{step}]", value[step]
        elif isinstance(value, dict) and (step in value or (last and kind == "missing")):
            path, value = f"{path}.{step}" if path else str(step), value.get(step)
    return path.encode(errors="replace").decode()[:200]

"""Random schemas, regular expressions, choices and tools against a server on loopback, from several clients at once.

Every answer is judged by others than the server: by `re`, `jsonschema` and, where a text was cut, `llguidance`. Wrong
answers, errors and timeouts end the script with exit code 1; what was refused is listed with the reasons.

    python benchmarks/fuzz_structured.py --cases 2000
    python benchmarks/fuzz_structured.py --cases 1 --first 1234     # one of them again
"""

import argparse
import asyncio
import contextlib
import json
import re
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import bench
import httpx
import jsonschema
import llguidance
import referencing
from serving import by_clients, quantile, server
from structured_cases import Case, case_of

OUTCOMES = ("valid", "refused", "cut", "wrong", "errors")
SLOWEST = 60.0
"""Seconds after which a request counts as lost."""
RETRIES = 20
CHECK_SECONDS = 2.0
"""For one check: some expressions take `re` for ever."""


def request(case: Case, args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Where a case goes, and its body."""
    body: dict[str, Any] = {"model": args.model, "max_tokens": args.max_tokens, "steps": args.steps}
    body |= {"seed": case.number, "temperature": case.temperature}
    if case.kind in ("regex", "choice"):
        return "/v1/completions", body | {"prompt": "Tom said: ", case.kind: case.wanted}
    body["messages"] = [{"role": "user", "content": "Tell me about the cat."}]
    if case.kind == "schema":
        asked = {"name": "answer", "schema": case.wanted, "strict": True}
        return "/v1/chat/completions", body | {"response_format": {"type": "json_schema", "json_schema": asked}}
    functions = [{"name": name} | ({"parameters": p} if p is not None else {}) for name, p in case.wanted.items()]
    first = {"type": "function", "function": {"name": functions[0]["name"]}}
    body["tools"] = [{"type": "function", "function": function} for function in functions]
    return "/v1/chat/completions", body | {"tool_choice": first if case.number % 2 else "required"}


async def ask(client: httpx.AsyncClient, case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """One request, again while the server is busy: seconds of the last try, status and what was answered."""
    path, body = request(case, args)
    content, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    for tries in range(RETRIES):
        start = time.perf_counter()
        try:
            reply = await client.post(path, content=content, headers=headers, timeout=SLOWEST)
        except httpx.HTTPError as error:
            return {"status": type(error).__name__, "seconds": time.perf_counter() - start}
        found = {"status": reply.status_code, "seconds": time.perf_counter() - start, "tries": tries}
        if reply.status_code != 503:
            break
        await asyncio.sleep(float(reply.headers.get("retry-after", 1)))
    try:
        return found | {"reply": reply.json()}
    except ValueError:
        return found | {"reply": None}


def verdict(case: Case, found: dict[str, Any]) -> tuple[str, str]:
    """What became of a case, and why."""
    if found["status"] == 400:
        return refusal(found["reply"])
    if found["status"] != 200 or found["reply"] is None:
        return "errors", str(found["status"])
    choice = found["reply"]["choices"][0]
    finish, text = choice["finish_reason"], choice.get("text", choice.get("message", {}).get("content"))
    if case.kind == "tool" and finish == "tool_calls":
        return judged(lambda: call_fault(case.wanted, choice["message"]["tool_calls"]), "valid")
    if finish == "length" and text is not None:
        return judged(lambda: cut_fault(case, text), "cut")
    if finish != "stop" or case.kind == "tool":
        return "wrong", f"finish_reason {finish}"
    return judged(lambda: fault(case, text), "valid")


def refusal(reply: Any) -> tuple[str, str]:
    """Of a 400: one line in the envelope that names the field."""
    error = reply.get("error") if isinstance(reply, dict) else None
    if not isinstance(error, dict) or error.keys() != {"message", "type", "param", "code"}:
        return "wrong", "not the envelope of errors"
    message, param = error["message"], error["param"]
    if not message or "\n" in message or error["type"] != "invalid_request_error":
        return "wrong", f"not one line: {message!r}"
    if not param:
        return "wrong", f"no param: {message}"
    return "refused", message if message.startswith(param) else f"{param}: {message}"


def judged(check: Any, otherwise: str) -> tuple[str, str]:
    """Wrong where a check finds a fault, or fails."""
    try:
        with deadline(CHECK_SECONDS):
            why = check()
    except RecursionError:  # a schema that leads to itself at the same place: the standard leaves open what it means
        why = ""
    except Exception as error:
        why = f"the check failed: {type(error).__name__} {error}"
    return ("wrong", why) if why else (otherwise, "")


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in what takes longer; `re` notices too."""

    def ring(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fault(case: Case, text: str) -> str:
    """What is wrong with a whole text; nothing if it is as asked."""
    if case.kind == "choice":
        return "" if text in case.wanted else "none of the choices"
    if case.kind == "regex":
        with warnings.catch_warnings(action="ignore"):
            return "" if re.fullmatch(case.wanted, text) else "does not match"
    return document_fault(case.wanted, text)


def document_fault(schema: Any, text: str) -> str:
    """Why a schema does not take a text."""
    value = json.loads(text)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    exact = jsonschema.validators.extend(kind, {"multipleOf": _multiple})
    registry = referencing.Registry()  # fetches nothing
    error = next(exact(schema, registry=registry, format_checker=kind.FORMAT_CHECKER).iter_errors(value), None)
    return error.message[:200] if error else ""


def _multiple(_: Any, factor: float, value: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    """`multipleOf` of decimals as they are written: jsonschema divides doubles."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and Fraction(str(value)) % Fraction(str(factor)):
        yield jsonschema.ValidationError(f"{value} is not a multiple of {factor}")


def call_fault(functions: dict[str, Any], calls: Sequence[Any]) -> str:
    """What is wrong with calls of tools."""
    names = [call["function"]["name"] for call in calls]
    if len(calls) != 1 or names[0] not in functions:
        return f"calls {names}"
    schema = functions[names[0]]
    return document_fault({"type": "object"} if schema is None else schema, calls[0]["function"]["arguments"])


def cut_fault(case: Case, text: str) -> str:
    """Why no valid text begins like this, as far as others can tell."""
    if case.kind == "choice":
        return "" if any(option.startswith(text) for option in case.wanted) else "no choice begins so"
    matchers, options = llguidance.LLMatcher, {"whitespace_flexible": False}
    if case.kind == "regex":
        grammar = matchers.grammar_from_regex(case.wanted)
    else:
        schema = case.wanted if case.kind == "schema" else {"type": "object"}
        grammar = matchers.grammar_from_json_schema(json.dumps(schema), overrides=options)
    matcher, raw = matchers(llguidance.LLTokenizer("byte"), grammar, log_level=0), text.removesuffix("\ufffd").encode()
    if matcher.is_error():
        return ""
    taken = matcher.try_consume_tokens(list(raw))
    return "" if taken == len(raw) else f"nothing valid begins with its first {taken + 1} bytes"


def table(cases: Sequence[Case], answers: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Counts and seconds of each kind; what was wrong; why others were refused."""
    rows: dict[str, Any] = {}
    reasons, wrong = Counter[str](), []
    for kind in ("schema", "tool", "regex", "choice"):
        mine = [case for case in cases if case.kind == kind]
        told = [(case, *verdict(case, answers[case.number])) for case in mine]
        count = Counter(outcome for _, outcome, _ in told)
        seconds = sorted(answers[case.number]["seconds"] for case in mine)
        rows[kind] = {"asked": len(mine)} | {outcome: count[outcome] for outcome in OUTCOMES}
        rows[kind] |= {f"p{q}": round(quantile(seconds, q), 3) for q in (50, 95, 100)}
        reasons.update(f"{kind}: {shape(why)}" for _, outcome, why in told if outcome == "refused")
        wrong += [
            {"case": case.number, "kind": kind, "why": why, "wanted": case.wanted, "answer": answers[case.number]}
            for case, outcome, why in told
            if outcome in ("wrong", "errors")
        ]
    retried = sum(bool(found.get("tries")) for found in answers.values())
    return {"rows": rows, "retried": retried, "refused": dict(reasons.most_common()), "wrong": wrong}


def shape(reason: str) -> str:
    """A reason without what differs from case to case."""
    reason = re.sub(r"at (the root|/\S*?)(?=[: ])", "at ...", reason)
    return re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|-?\d[\d.e+-]*", "_", reason)[:150]


def main() -> int:
    """Ask, judge, print, and say by the exit code whether every answer was right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bench.add_flags(parser)
    parser.add_argument("--model", default="tiny-chat", help="one with a chat template (default: %(default)s)")
    parser.add_argument("--cases", type=int, default=2000, help="(default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the cases (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="(default: %(default)s)")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # what is asked for may hold half of a character
    device, dtype = bench.begin(args)
    cases = [case_of(args.seed, number) for number in range(args.first, args.first + args.cases)]
    case = {case.number: case for case in cases}
    with server(args.model, "--device", args.device, "--dtype", args.dtype, "--threads", str(args.threads)) as address:
        run = asyncio.run(by_clients(address, case, args.clients, lambda http, number: ask(http, case[number], args)))
    found = table(cases, run["answers"])
    found |= {"machine": bench.machine(device, dtype), "seconds": round(run["seconds"], 1)}
    columns = ("asked", *OUTCOMES, "p50", "p95", "p100")
    bench.print_table(["", *columns], [[kind, *(str(row[c]) for c in columns)] for kind, row in found["rows"].items()])
    print(f"{found['seconds']} s, {found['retried']} asked again because the server was busy\n\nrefused, and why:")
    for reason, count in found["refused"].items():
        print(f"{count:6} {reason}")
    for one in found["wrong"]:
        print(f"WRONG case {one['case']}, {one['kind']}: {one['why']}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())

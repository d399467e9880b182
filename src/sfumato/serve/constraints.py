"""What a text must satisfy, as clients say it: regex, choice, grammar, a response format, or a call of a tool."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.sample.constraint import Constraint, choice, grammar, json_object, json_schema, regex
from sfumato.serve.errors import BadRequest
from sfumato.serve.schemas import ChatRequest, Function, NamedTool, SchemaFormat, Settings
from sfumato.text.interface import AnyTokenizer


@dataclass(frozen=True)
class Wanted:
    """One constraint, not built yet."""

    kind: str
    """regex, choice, grammar, json_object or json_schema."""
    value: Any
    param: str
    """The field that asked for it."""

    @classmethod
    def of(cls, body: Settings) -> "Wanted | None":
        """What a request asks for.

        Raises:
            BadRequest: more than one thing.
        """
        found: list[Wanted] = [
            cls(name, value, name) for name in ("regex", "choice", "grammar") if (value := getattr(body, name))
        ]
        if isinstance(body, ChatRequest):
            found += [wanted for wanted in (_format(body), _call(body)) if wanted]
        if len(found) > 1:
            names = " and ".join(wanted.param for wanted in found)
            raise BadRequest(f"{names}: a text can satisfy one of them; leave the others out", found[1].param)
        return found[0] if found else None

    def build(self, tokenizer: AnyTokenizer) -> Constraint:
        """The constraint. May take long: run it beside the event loop.

        Raises:
            BadRequest: it makes no sense, is too large, or no text satisfies it.
        """
        try:
            return _BUILDERS[self.kind](self.value, tokenizer)
        except ValueError as error:
            raise BadRequest(" ".join(str(error).split()), self.param) from None


_BUILDERS: dict[str, Callable[[Any, AnyTokenizer], Constraint]] = {
    "regex": regex,
    "choice": choice,
    "grammar": grammar,
    "json_schema": json_schema,
    "json_object": lambda _, tokenizer: json_object(tokenizer),
}


def _format(body: ChatRequest) -> Wanted | None:
    asked = body.response_format
    if isinstance(asked, SchemaFormat):
        return Wanted("json_schema", asked.json_schema.schema_, "response_format")
    return Wanted("json_object", None, "response_format") if asked and asked.type == "json_object" else None


def _call(body: ChatRequest) -> Wanted | None:
    functions = callable_functions(body)
    if not functions:
        return None
    return Wanted("json_schema", _call_schema(functions), "tools")


def callable_functions(body: ChatRequest) -> list[Function]:
    """The functions of which one must be called; none unless `tool_choice` is required or names one.

    Raises:
        BadRequest: `tool_choice` names a function that is not among the tools, or there are none.
    """
    choice, functions = body.tool_choice, [tool.function for tool in body.tools or []]
    if choice in (None, "none", "auto"):
        return []
    if isinstance(choice, NamedTool):
        functions = [function for function in functions if function.name == choice.function.name]
    if not functions:
        raise BadRequest("tool_choice: there is no such function among the tools", "tool_choice")
    return functions


def _call_schema(functions: Sequence[Function]) -> dict[str, Any]:
    """JSON that calls one of the functions."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": function.name}, "arguments": {"$ref": f"#/$defs/{function.name}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
    ]
    arguments = {
        function.name: _moved(function.parameters or {"type": "object"}, f"#/$defs/{function.name}")
        for function in functions
    }
    return {"anyOf": calls, "$defs": arguments}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references to its own parts hold where it is now a part of another one."""
    if isinstance(schema, list):
        return [_moved(part, place) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, part in schema.items():
        if key == "$ref" and isinstance(part, str) and part[:1] == "#":
            found[key] = place + part[1:]
        elif key in _BY_NAME and isinstance(part, dict):
            found[key] = {name: _moved(one, place) for name, one in part.items()}
        else:
            found[key] = part if key in _VALUES else _moved(part, place)
    return found


_BY_NAME = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
"""Keywords whose keys are names of the client's, whatever they look like."""
_VALUES = ("const", "enum", "default", "examples")
"""Keywords that hold documents."""


def called(text: str) -> tuple[str, str] | None:
    """The name and the arguments (as JSON) of the function that a text calls; None if it is not complete."""
    try:
        call = json.loads(text)
        return call["name"], json.dumps(call["arguments"], ensure_ascii=False)
    except (ValueError, KeyError, TypeError):
        return None

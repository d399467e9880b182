"""`/docs`: the published schema as one page that needs neither scripts nor other servers."""

from html import escape
from typing import Any


def reference(schema: dict[str, Any]) -> str:
    """The page."""
    parts = [f"<h1>{escape(schema['info']['title'])}</h1><p>{escape(schema['info'].get('description', ''))}</p>"]
    parts.append('<p>For programs: <a href="/openapi.json">/openapi.json</a></p>')
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(about.get('description', ''))}</p>")
            if body := _body(about):
                parts.append(_fields(_resolved(body, schema), schema))
            codes = ", ".join(escape(code) for code in about["responses"])
            parts.append(f"<p>Answers: {codes}</p>")
    title = escape(schema["info"]["title"])
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: reference</title>'
    return f'{head}<meta name="viewport" content="width=device-width"><body>{"".join(parts)}</body></html>'


def _body(about: dict[str, Any]) -> dict[str, Any] | None:
    content = about.get("requestBody", {}).get("content", {})
    return content.get("application/json", {}).get("schema")


def _resolved(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = part.get("$ref", "").rpartition("/")[2]
    return schema["components"]["schemas"][name] if name else part


def _fields(body: dict[str, Any], schema: dict[str, Any]) -> str:
    """A table of a body's fields."""
    rows = []
    for name, field in body.get("properties", {}).items():
        needed = " (required)" if name in body.get("required", []) else ""
        about = escape(field.get("description", ""))
        rows.append(f"<tr><td><code>{escape(name)}</code>{needed}<td>{escape(_kind(field))}<td>{about}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _kind(field: dict[str, Any]) -> str:
    """What a field may hold, in a few words."""
    if "anyOf" in field or "oneOf" in field:
        kinds = dict.fromkeys(_kind(one) for one in field.get("anyOf", field.get("oneOf", [])))
        return " or ".join(kind for kind in kinds if kind != "null")
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    ends = [f"{words} {field[key]}" for key, words in _ENDS.items() if key in field]
    return " ".join([field.get("type", "any"), *ends])


_ENDS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "exclusiveMaximum": "below",
}

"""``docs/logs.md`` names each line that the engine writes of itself, with its fields; and none of them has a secret."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from engine import log

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/logs.md").read_text(encoding="utf-8")
METHODS = {"debug", "info", "warning", "error", "critical", "exception", "log"}
ENGINES = ("engine", "actors", "transport")
NO_FIELDS = {"exc_info", "extra", "stacklevel"}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in ENGINES:
        for path in sorted((ROOT / package).glob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, ast.AST]]:
    """Calls that write a line, each with the function that it is in."""
    for scope in ast.walk(tree):
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            writers = {
                target.id
                for node in ast.walk(scope)
                if isinstance(node, ast.Assign) and any(map(is_writer, ast.walk(node.value)))
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(scope):
                if isinstance(node, ast.Call) and (
                    is_writer(node.func) or (isinstance(node.func, ast.Name) and node.func.id in writers)
                ):
                    yield node, scope


def is_writer(node: ast.AST) -> bool:
    """``get_logger().info``, ``_log.info``, ``log.info``."""
    if not (isinstance(node, ast.Attribute) and node.attr in METHODS):
        return False
    of = node.value
    if isinstance(of, ast.Call):
        of = of.func
        return getattr(of, "id", None) == "get_logger" or getattr(of, "attr", None) == "get_logger"
    return isinstance(of, ast.Name) and of.id in ("_log", "log")


def keys(node: ast.AST | None, scope: ast.AST) -> set[str]:
    """Of a map that is written out, here or where its name is bound."""
    if isinstance(node, ast.Dict):
        found = {key.value for key in node.keys if isinstance(key, ast.Constant)}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                found |= keys(value, scope)
        return found
    if isinstance(node, ast.IfExp):
        return keys(node.body, scope) | keys(node.orelse, scope)
    if isinstance(node, ast.Name):
        bound = [n.value for n in ast.walk(scope) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == node.id]
        return set().union(*(keys(value, scope) for value in bound))
    return set()


def events_of(node: ast.AST | None, scope: ast.AST) -> str | None:
    """The value of ``event`` in such a map."""
    if isinstance(node, ast.Name):
        bound = [n.value for n in ast.walk(scope) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == node.id]
        return next((found for value in bound if (found := events_of(value, scope))), None)
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "event" and isinstance(value, ast.Constant):
                return str(value.value)
    return None


def written() -> dict[str, set[str]]:
    """Events and their fields, as the code has them."""
    found: dict[str, set[str]] = {}
    for _, tree in sources():
        for call, scope in calls(tree):
            named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
            spread = [keyword.value for keyword in call.keywords if keyword.arg is None]
            fields = named.keys() - NO_FIELDS
            for extra in (named.get("extra"), *spread):
                fields |= keys(extra, scope)
            event = events_of(named.get("extra"), scope)
            if event is None and call.args:
                event = name_of(call.args[0])
            if event is not None:
                found.setdefault(event, set()).update(fields - {"event"})
    return found


def name_of(node: ast.expr) -> str | None:
    """An event's name, as it is or with ``*`` for what varies in it; ``None``: it is a text."""
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    elif isinstance(node, ast.Constant):
        text = str(node.value)
    else:
        return "alert_*" if ast.unparse(node) == "news.turn.value" else None
    return text if re.fullmatch(r"[a-z]+(_[a-z*]+)*", text) else None


def listed() -> dict[str, set[str]]:
    """Events and their fields, as the guide has them."""
    rows = re.findall(r"^\| `([a-z_*]+)` \| [^|]+ \| ([^|]*) \| [^|]+ \|$", GUIDE, re.M)
    assert len({name for name, _ in rows}) == len(rows), "a row for each"
    return {name: set(re.findall(r"`(\w+)`", fields)) for name, fields in rows}


def test_each_event_is_listed_with_its_fields() -> None:
    assert listed() == written()


def test_no_line_has_a_secret() -> None:
    for event, fields in written().items():
        assert not fields & log._SECRET, event
        assert not {name for name in fields if re.search(r"token|secret|password|cookie|authorization", name)}, event


def test_a_secret_that_is_given_all_the_same_is_masked() -> None:
    assert {"token", "api_key", "password", "secret", "authorization", "headers"} <= log._SECRET

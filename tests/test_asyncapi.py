"""docs/asyncapi.yaml against AsyncAPI 3, and every example against its schema and keepalive/messages.py."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import yaml

from keepalive import Mode
from keepalive.messages import (
    CLOSE_CODE,
    Beat,
    CloseCode,
    HttpBeat,
    Ping,
    decode,
    decode_answer,
    decode_message,
    encode,
)
from keepalive.messages import Message as AnyMessage
from keepalive.policy import Reason

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DOCUMENT: dict[str, Any] = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
ASYNCAPI = ROOT / "web" / "node_modules" / "@asyncapi" / "specs" / "schemas" / f"{DOCUMENT['asyncapi']}.json"
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]
STRUCTS: dict[str, type[msgspec.Struct]] = {
    "ping": Ping,
    "httpBeat": HttpBeat,
    **{str(each.__struct_config__.tag): each for each in AnyMessage.__args__},
}
EXAMPLES = [
    pytest.param(name, example["payload"], id=f"{name}-{example['name']}")
    for name, message in MESSAGES.items()
    for example in message["examples"]
]


def resolve(node: Any) -> Any:
    """A part of the document with all that it refers to in place."""
    if isinstance(node, list):
        return [resolve(each) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        found: Any = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return resolve(found)
    return {name: resolve(each) for name, each in node.items()}


def schema(name: str) -> dict[str, Any]:
    payload: dict[str, Any] = resolve(MESSAGES[name]["payload"])
    return payload


def properties(name: str) -> tuple[dict[str, Any], set[str]]:
    """The properties of a message, and which of them it must have."""
    parts = schema(name).get("allOf", [schema(name)])
    told = {key: value for part in parts for key, value in part["properties"].items()}
    return told, {key for part in parts for key in part["required"]}


def test_it_is_asyncapi_3() -> None:
    assert DOCUMENT["asyncapi"].startswith("3.")
    jsonschema_rs.validator_for(json.loads(ASYNCAPI.read_text())).validate(DOCUMENT)


MISTAKES: dict[str, Callable[[Any], object]] = {
    "an action": lambda wrong: wrong["operations"]["greet"].update(action="recieve"),
    "a key": lambda wrong: wrong["info"].update(versoin=wrong["info"].pop("version")),
    "a type": lambda wrong: wrong.update(servers=5),
    "a binding": lambda wrong: wrong["channels"]["socket"]["bindings"]["ws"].update(method="PUT"),
    "a payload": lambda wrong: wrong["components"]["messages"]["ask"]["payload"].update(type="objcet"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_would_be_seen(mistake: str) -> None:
    wrong = deepcopy(DOCUMENT)
    MISTAKES[mistake](wrong)
    assert not jsonschema_rs.validator_for(json.loads(ASYNCAPI.read_text())).is_valid(wrong)


def test_every_reference_leads_somewhere() -> None:
    resolve(DOCUMENT)


def test_every_message_of_the_protocol_is_there() -> None:
    assert MESSAGES.keys() == STRUCTS.keys()
    assert DOCUMENT["channels"]["socket"]["messages"].keys() == STRUCTS.keys() - {"httpBeat"}


def test_every_message_of_a_channel_is_used_by_an_operation() -> None:
    used = set()
    for operation in DOCUMENT["operations"].values():
        for part in (operation, operation.get("reply", {})):
            used |= {each["$ref"] for each in part.get("messages", [])}
    declared = {
        f"#/channels/{channel}/messages/{name}"
        for channel, what in DOCUMENT["channels"].items()
        for name in what["messages"]
    }
    assert used == declared


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_has_the_fields_of_the_code(name: str) -> None:
    struct = STRUCTS[name]
    told, required = properties(name)
    assert told.keys() == {"type", *struct.__struct_fields__}
    must = {each.name for each in msgspec.structs.fields(struct) if each.required}
    if struct is HttpBeat:  # a client forgives a server that does not tell; ours does
        must |= {"interval", "warn_before", "mode"}
    assert required == {"type", *must}


@pytest.mark.parametrize(("name", "payload"), EXAMPLES)
def test_an_example_is_what_its_schema_says(name: str, payload: dict[str, Any]) -> None:
    validator = jsonschema_rs.validator_for(schema(name))
    validator.validate(payload)
    for field in properties(name)[1]:
        missing = {key: value for key, value in payload.items() if key != field}
        assert not validator.is_valid(missing), field
    assert not validator.is_valid(payload | {"type": "dance"})


@pytest.mark.parametrize(("name", "payload"), EXAMPLES)
def test_an_example_is_what_the_code_reads_and_writes(name: str, payload: dict[str, Any]) -> None:
    text = msgspec.json.encode(payload)
    if name == "ping":
        ping = decode(text)
        assert ping is not None
        assert payload.items() <= msgspec.to_builtins(ping).items()
        return
    read = decode_answer(text) if name == "httpBeat" else decode_message(text)
    assert type(read) is STRUCTS[name]
    assert msgspec.json.decode(encode(read)) == payload


def test_the_words_are_those_of_the_code() -> None:
    assert set(properties("hello")[0]["mode"]["enum"]) == set(Mode)
    outward = set(Reason) - {Reason.ROTATED}
    assert set(properties("end")[0]["reason"]["enum"]) == outward
    assert properties("beat")[0]["times"]["default"] == Beat(0, 0.0).times


def test_the_prose_has_every_message_reason_and_close_code() -> None:
    prose = (DOCS / "protocol.md").read_text()
    for name in STRUCTS.keys() - {"httpBeat"}:
        assert f"| `{name}` |" in prose
    for reason, code in CLOSE_CODE.items():
        if reason is not Reason.ROTATED:
            assert f"| `{reason}` | {code:d} |" in prose
    for code in CloseCode:
        assert f"{code:d}" in prose, code

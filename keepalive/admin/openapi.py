"""The OpenAPI 3.1 description of the admin API, made from the table that also makes its routes."""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from .. import __version__
from .api import Operation, Problem
from .sessions import Id

_ALWAYS = (400, 401, 403, 429)
"""Errors that any request may get."""


def description(operations: Iterable[Operation], path: str) -> dict[str, Any]:
    """The description of an API that is mounted at `path`."""
    operations = list(operations)
    types = [Problem, Id, *(each.answer for each in operations)]
    types += [each for operation in operations for each in (operation.query, operation.body) if each]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    known = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, known, components)
    # Where ids come from: tools that follow links reach more than the 404.
    paths["/sessions"]["get"]["responses"]["200"]["links"] = {
        each.name: {"operationId": each.name, "parameters": {"id": "$response.body#/sessions/0/id"}}
        for each in operations
        if "{id}" in each.path
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "keepalive admin API",
            "version": __version__,
            "description": "See which sessions are alive and why, end them, and drain a node.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": path}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(each: Operation, known: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": known[repr(Id)] if name == "id" else {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"{(\w+)}", each.path)
    ]
    if each.query is not None:
        properties = components[each.query.__name__]["properties"]
        parameters += [{"name": name, "in": "query", "schema": told} for name, told in properties.items()]
    described: dict[str, Any] = {
        "operationId": each.name,
        "summary": each.summary,
        "responses": {str(each.status): _answer(each.status, known[repr(each.answer)])},
    }
    if parameters:
        described["parameters"] = parameters
    errors = {*_ALWAYS, *each.errors}
    if each.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": known[repr(each.body)]}},
        }
        errors |= {408, 413, 415}
    described["responses"] |= {
        str(status): _answer(status, known[repr(Problem)]) for status in sorted(errors)
    }
    return described


def _answer(status: int, schema: Any) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": {"application/json": {"schema": schema}}}

"""The routes of the control API, one line each, and the OpenAPI document that is made of them. Pure."""

from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["json", "text", "lines", "stream"]
"""What a route answers: JSON, plain text, JSON lines (NDJSON) as they come, or a WebSocket."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route. *operation* is the name of its handler, and its operationId."""

    operation: str
    method: str
    path: str
    summary: str
    kind: Kind = "json"
    query: tuple[str, ...] = ()
    body: str = ""  # what JSON a POST takes, if any; a name in _BODIES


_KERNEL: Final = "/v1/kernels/{kernel}"

ROUTES: Final = (
    Route("machine", "GET", "/v1/machine", "The machine: its name, file, state, networks"),
    Route("down", "POST", "/v1/down", "Take the machine down, all kernels of it"),
    Route("plan", "POST", "/v1/plan", "The steps from the machine to what a file says", body="file"),
    Route("apply", "POST", "/v1/apply", "Do these steps, all or none", body="file"),
    Route("kernels", "GET", "/v1/kernels", "All kernels, by kid"),
    Route("kernel", "GET", _KERNEL, "One kernel"),
    Route("boot", "POST", _KERNEL + "/boot", "Boot a kernel, and wait until it is online"),
    Route("kill", "POST", _KERNEL + "/kill", "Kill a kernel as a crash would"),
    Route(
        "load",
        "POST",
        _KERNEL + "/load",
        "Give a kernel its partition; with an image or boot parameters it may be a new one",
        query=("image", "append"),
    ),
    Route("unload", "POST", _KERNEL + "/unload", "Take the partition of a kernel that does not run back"),
    Route("update", "POST", _KERNEL + "/update", "Give a kernel that runs another partition", body="update"),
    Route("reboot", "POST", _KERNEL + "/reboot", "End a kernel in good order, and boot it"),
    Route("panic", "POST", _KERNEL + "/panic", "Have a kernel panic, to try what happens then"),
    Route("hang", "POST", _KERNEL + "/hang", "Have a kernel hang, to try what happens then"),
    Route("timeline", "GET", _KERNEL + "/timeline", "The steps of its last boot, and what each took"),
    Route("dmesg", "GET", _KERNEL + "/dmesg", "Its log", "lines", ("follow", "previous")),
    Route("events", "GET", "/v1/events", "What happened in the machine", "lines", ("follow", "since")),
    Route("ssh_config", "GET", "/v1/ssh-config", "Configuration for OpenSSH clients", "text"),
    Route("images", "GET", "/v1/images", "The images that its kernels can run: size, digest, origin"),
    Route("services", "GET", "/v1/services", "What the kernels have registered"),
    Route("counters", "GET", "/v1/counters", "Counters of all kernels and links"),
    Route("metrics", "GET", "/metrics", "The same counters, in Prometheus' text format", "text"),
    Route("links", "GET", "/v1/links", "Links and NICs that are impaired or cut, and what was observed"),
    Route("link", "POST", "/v1/links/{op}", "Impair, clear, cut, mend or flap a link or a NIC", body="link"),
    Route("faults", "GET", "/v1/faults", "The plan of faults that ran last, and how far it is"),
    Route("run_faults", "POST", "/v1/faults/run", "Run a plan of faults, or the machine file's", body="plan"),
    Route("stop_faults", "POST", "/v1/faults/stop", "End the plan that runs, and all flaps"),
    Route("stream", "GET", _KERNEL + "/stream/{service}", "A stream to a service", "stream", ("params",)),
    Route("tty", "GET", _KERNEL + "/tty/{n}", "A terminal", "stream", ("write", "force", "history")),
    Route("history", "GET", _KERNEL + "/tty/{n}/history", "What a terminal showed until now", "text"),
    Route("openapi", "GET", "/v1/openapi.json", "This document"),
)

_SWITCH: Final = {"type": "integer", "enum": [0, 1]}

_PARAMETERS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "kernel": ({"type": "string"}, "Name of the kernel"),
    "service": ({"type": "string"}, "Name of the service: exec, capture, inject, dial, ..."),
    "n": ({"type": "integer", "minimum": 0}, "Number of the terminal; 0 is the console"),
    "follow": (_SWITCH, "1: go on as new lines come"),
    "previous": (_SWITCH, "1: that of the last generation that has ended"),
    "image": ({"type": "string"}, "Name of an image, or the path of its directory"),
    "append": ({"type": "string"}, "Its boot parameters"),
    "since": ({"type": "integer", "minimum": 0}, "Only events with a larger sequence number"),
    "op": ({"enum": ["set", "clear", "down", "up", "flap"]}, "What to do"),
    "params": ({"type": "string"}, "Parameters of the service, a JSON object"),
    "write": (_SWITCH, "1 (default): with the keyboard, which only one client has"),
    "force": (_SWITCH, "1: take the keyboard from whoever has it"),
    "history": (_SWITCH, "1 (default): what the terminal showed before comes first"),
}

_BODIES: Final[dict[str, dict[str, Any]]] = {
    "link": {
        "type": "object",
        "required": ["kernel"],
        "properties": {
            "kernel": {"type": "string"},
            "peer": {"type": ["string", "null"], "description": "null: the kernel's NIC, all its traffic"},
            "direction": {"enum": ["both", "out", "in"], "description": "as the kernel sees it"},
            "impairment": {
                "type": "object",
                "description": "for set: delay, jitter, distribution, ordered, loss, duplicate, corrupt,"
                " reorder, rate, limit, match, seed, as in the machine file",
            },
            "flap": {"type": "object", "description": "for flap: down, up (durations), times"},
        },
    },
    "file": {
        "type": "object",
        "required": ["file", "text"],
        "properties": {
            "file": {"type": "string", "description": "path of the machine file"},
            "text": {"type": "string", "description": "what it says"},
            "token": {"type": "string", "description": "of a plan: refused if file or machine have changed"},
        },
    },
    "update": {
        "type": "object",
        "properties": {
            "cpus": {"type": "string", "description": "+LIST, -LIST or LIST, such as +3"},
            "memory": {"type": "string", "description": "+SIZE, -SIZE, SIZE or none, such as 1G"},
            "devices": {"type": "string", "description": "+NAME or -NAME, joined by commas"},
            "from": {"type": "string", "description": "the kernel that gives what is added"},
        },
    },
    "plan": {
        "type": "object",
        "properties": {
            "faults": {
                "type": ["array", "null"],
                "description": "as in the machine file; null: the file's own",
            }
        },
    },
}

_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint"],
            "properties": {
                "code": {"type": "string", "description": "Stable name of the error"},
                "message": {"type": "string"},
                "hint": {"type": "string", "description": "What to do about it; may be empty"},
            },
        }
    },
}

_STREAM: Final = (
    "Switches to a WebSocket. Binary messages: the first byte is the channel, the rest data. Text messages "
    'are JSON: the server sends {"accepted": true} or {"error": {...}} first, {"result": {...}} or '
    '{"error": {...}} last; the client may send {"close": true} when it has nothing more to send.'
)

_ANSWERS: Final[dict[Kind, dict[str, Any]]] = {
    "json": {"200": {"description": "Done", "content": {"application/json": {"schema": {}}}}},
    "text": {"200": {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}},
    "lines": {
        "200": {
            "description": "One JSON object a line, each as it comes",
            "content": {"application/x-ndjson": {"schema": {"type": "object"}}},
        }
    },
    "stream": {"101": {"description": _STREAM}},
}


def document(version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the API."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "popnet control API",
            "version": version,
            "description": "HTTP over the machine's unix socket, <run directory>/<machine>/control.sock.",
        },
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}},
    }


def _operation(route: Route) -> dict[str, Any]:
    inside = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    return {
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": [
            *(_parameter(name, "path") for name in inside),
            *(_parameter(name, "query") for name in route.query),
        ],
        **({"requestBody": _json_body(route.body)} if route.body else {}),
        "responses": {
            **_ANSWERS[route.kind],
            "default": {
                "description": "An error",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }


def _json_body(name: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": _BODIES[name]}}}


def _parameter(name: str, where: str) -> dict[str, Any]:
    schema, description = _PARAMETERS[name]
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "schema": schema,
        "description": description,
    }

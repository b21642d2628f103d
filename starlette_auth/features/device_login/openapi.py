"""What does the OpenAPI schema say about the endpoints for devices?"""

from collections.abc import Mapping
from typing import Any

from ...http.content import FORMS

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
TEXT, NUMBER = {"type": "string"}, {"type": "integer", "description": "Seconds."}


def _object(properties: Mapping[str, Any], *optional: str) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def _operation(name: str, summary: str, body: dict[str, Any], result: dict[str, Any], *errors: str) -> dict[str, Any]:
    error = _object({"error": {"type": "string"}, "error_description": TEXT})
    responses = {"200": {"description": "Done.", "content": {"application/json": {"schema": result}}}}
    for status in ("400", *errors):
        content = {"application/json": {"schema": error}}
        responses[status] = {"description": "An error of RFC 6749 §5.2 or RFC 8628 §3.5.", "content": content}
    return {
        "tags": ["accounts"],
        "operationId": f"accounts_{name}",
        "summary": summary,
        "requestBody": {"required": True, "content": {FORMS[0]: {"schema": body}}},
        "responses": responses,
    }


AUTHORIZE = _operation(
    "device_authorization",
    "Ask for the codes of a device (RFC 8628 §3.1)",
    _object({"client_id": TEXT, "scope": {**TEXT, "description": "Permissions, separated by spaces."}}, "scope"),
    _object(
        {
            **dict.fromkeys(("device_code", "user_code", "verification_uri", "verification_uri_complete"), TEXT),
            **dict.fromkeys(("expires_in", "interval"), NUMBER),
        }
    ),
    "401",
    "429",
)
TOKEN = _operation(
    "device_token",
    "Ask for the token of a device (RFC 8628 §3.4)",
    _object({"grant_type": {**TEXT, "enum": [GRANT]}, "client_id": TEXT, "device_code": TEXT}),
    _object(
        {"access_token": TEXT, "token_type": {**TEXT, "enum": ["Bearer"]}, "expires_in": NUMBER, "scope": TEXT}, "scope"
    ),
    "401",
)

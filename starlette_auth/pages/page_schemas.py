"""What the JSON of the account pages contains, as the OpenAPI schema describes it."""

from collections.abc import Mapping
from typing import Any

#: What the account pages do, and the fields of their JSON bodies, by the names of their routes. Fields with a question
#: mark are optional.
PAGES: Mapping[str, tuple[str, str]] = {
    "login": ("Log in", "username password remember? next?"),
    "logout": ("Log out", "next?"),
    "reauthenticate": ("Enter the password again before a sensitive action", "password? credential? next?"),
    "password_change": ("Change the password", "old_password new_password1 new_password2"),
    "password_set": ("Set the first password of an account", "new_password1 new_password2"),
    "password_reset": ("Request a mail with a link for a new password", "email"),
    "password_reset_confirm": ("Set a new password with the link", "new_password1 new_password2"),
    "register": ("Create an account", "username email password1 password2"),
    "register_resend": ("Request the confirmation mail again", "email"),
    "register_confirm": ("Confirm the address with the link, which creates the account", "password?"),
    "email_change": ("Change the e-mail address", "email old_password"),
    "email_change_confirm": ("Confirm the new address with the link", "password?"),
    "email_undo_confirm": ("Restore the old address with the link", ""),
    "sessions_end": ("Log out other devices", "session? others?"),
    "tokens_add": ("Create an API token", "name expires? scopes?"),
    "tokens_revoke": ("Revoke an API token", "token"),
    "passkey_login": ("Log in with a passkey", "credential remember? next?"),
    "passkey_add": ("Add a passkey or security key", "credential name? kind?"),
    "passkey_rename": ("Rename a passkey or security key", "passkey name"),
    "passkey_remove": ("Remove a passkey or security key", "passkey"),
    "device": ("Find the request of a device by its code, then approve or refuse it", "user_code? request? decision?"),
}
READ: Mapping[str, str] = {
    "session": "Who is logged in",
    "security": "The ways to log in and the second factors",
    "sessions": "Where the user is logged in",
    "tokens": "The API tokens, without their texts",
    "passkeys": "The passkeys and security keys of the user",
}
DELETED: Mapping[str, str] = {"tokens_delete": "Revoke an API token"}
FOR_USERS = (
    "reauthenticate",
    "password_change",
    "password_set",
    "security",
    "email_change",
    "sessions",
    "sessions_end",
    "tokens",
    "tokens_add",
    "tokens_revoke",
    "tokens_delete",
    *("passkeys", "passkey_add", "passkey_rename", "passkey_remove"),
    "device",
)
#: The problems of each POST, by their status.
PROBLEMS: Mapping[str, str] = {
    "400": "The body cannot be read.",
    "403": "Refused.",
    "413": "More than 64 KiB.",
    "415": "Not sent as JSON.",
    "422": "Data with errors.",
    "429": "Too many attempts.",
    "503": "A part of the site is not available.",
}
NEXT = {"type": ["string", "null"], "description": "The path of the next page; null if the site has no such page."}
BOOLEANS = ("remember", "others", "revoke_tokens")
TIME = {"type": "integer", "description": "Seconds since 1970, UTC."}
APP_LOGIN: Mapping[str, Any] = {
    "token": {"type": "string", "description": "The key of the session, if the field client is app."},
    "expires": {
        **TIME,
        "description": "When the session of the app ends without further requests. Seconds since 1970.",
    },
}
TOKEN: Mapping[str, Mapping[str, Any]] = {
    "id": {"type": "integer"},
    "name": {"type": "string"},
    "hint": {"type": "string", "description": "The beginning of the token."},
    "scopes": {
        "type": ["array", "null"],
        "items": {"type": "string"},
        "description": "The permissions to which the token is limited; null for all that its owner has.",
    },
    "created": TIME,
    "expires": TIME,
    "last_used": {**TIME, "type": ["integer", "null"]},
    "last_address": {"type": "string"},
}
PROBLEM_SCHEMA = {
    "title": "Problem",
    "description": "A problem (RFC 9457). The code stays the same in later versions.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "login": {"type": "string", "description": "The path of the login page."},
        "reauthenticate": {"type": "string", "description": "The path of the page that asks for the password."},
        "errors": {
            "type": "object",
            "additionalProperties": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["code", "message"],
                    "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
                },
            },
        },
    },
}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


TEXT = {"type": "string"}
#: The step for which a login waits.
STEP = _object({"name": TEXT, "url": TEXT, "login": TEXT, "expires_in": {"type": "integer"}})
FACTOR = {"method": TEXT, "label": TEXT, "created": TIME, "last_used": {**TIME, "type": ["integer", "null"]}}
#: What the JSON of some pages returns. The others return any object to a GET, and `next` to a POST.
RESULTS: Mapping[str, dict[str, Any]] = {
    "session": _object(
        {
            "user": {"type": ["object", "null"]},
            "methods": {
                "type": "array",
                "items": _object({"name": {"type": "string"}, "age": {"type": "integer", "description": "Seconds."}}),
            },
            "level": {"type": "integer", "description": "1, 2 with a second factor, 0 without a login."},
            "pending": {
                **STEP,
                "type": ["object", "null"],
                "description": "The login of this session that has a step to pass.",
            },
        }
    ),
    "security": _object(
        {"ways_in": {"type": "array", "items": TEXT}, "factors": {"type": "array", "items": _object(FACTOR)}}
    ),
    "tokens": _object({"tokens": {"type": "array", "items": _object(TOKEN)}}),
    "tokens_add": _object(
        {**TOKEN, "token": {"type": "string", "description": "The token, which is shown only once."}}
    ),
}

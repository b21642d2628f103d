"""Errors in the form that each client understands: problem+json, a page, or a sentence for htmx."""

from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from starlette_auth import Refused, answer

# What /docs shows for data with errors, in place of FastAPI's own format. `lifespan(auth)` adds the schema "Problem".
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
INVALID_DATA: dict[str, Any] = {"description": "Data with errors.", "content": PROBLEM}


async def http_error(request: Request, error: HTTPException) -> Response:
    """Answers an HTTPException of an endpoint, and 404 and 405, as `answer` answers refusals."""
    code = HTTPStatus(error.status_code).name.lower()
    return await answer(request, Refused(error.status_code, error.detail, code=code, headers=error.headers))


async def invalid_data(request: Request, error: RequestValidationError) -> Response:
    """Answers data that a model does not accept, as in "quantity: Input should be less than 100"."""
    texts = [f"{'.'.join(str(part) for part in item['loc'][1:])}: {item['msg']}" for item in error.errors()]
    return await answer(request, Refused(422, "; ".join(texts), code="invalid_data"))

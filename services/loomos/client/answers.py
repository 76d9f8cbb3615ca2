"""What the gateway's answers say: an object, or a refusal in whatever form it came."""

from collections.abc import Mapping
from typing import Any

import httpx

from loomos.client.profile import Refused

__all__ = ["content_of", "refused_by", "refused_in"]


def content_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer; empty where it has no content."""
    if not response.content:
        return {}
    try:
        content = response.json()
    except ValueError as error:
        told = f"{response.url} answered {response.status_code} without JSON"
        raise Refused(response.status_code, "UNKNOWN", told) from error
    if not isinstance(content, dict):
        return {"value": content}
    if set(content) == {"error"}:
        # A streaming call's one answer, refused after its status was sent.
        raise refused_by(content["error"], response.status_code)
    return content


def refused_in(response: httpx.Response) -> Refused:
    """The refusal that an answer is."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": f"{response.url} answered {response.status_code} without a reason"}
    return refused_by(problem, response.status_code)


def refused_by(problem: Mapping[str, Any], status: int) -> Refused:
    """The refusal that a problem document tells."""
    return Refused(
        int(problem.get("status", status)),
        str(problem.get("code", "UNKNOWN")),
        str(problem.get("detail", "no reason given")),
        tuple(problem.get("fields", ())),
        str(problem.get("correlation_id", "")),
        str(problem.get("reason", "")),
    )

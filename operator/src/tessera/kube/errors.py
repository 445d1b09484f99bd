"""What can go wrong between us and the API server.

Two things only: the server answered with an error (`ApiError`, one subclass for each answer that a caller
treats differently), or it did not answer (`Unreachable`). Everything else is a defect.
"""

from __future__ import annotations

from typing import Any

from tessera.api.errors import TesseraError


class ApiError(Exception):
    """The API server refused a request.

    `status` is the HTTP status, `reason` the machine word of the Status object ("NotFound"), `message` its
    text, `body` the whole Status object (empty when the answer was not one).
    """

    def __init__(self, status: int, reason: str, message: str, body: dict[str, Any] | None = None) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.body: dict[str, Any] = body or {}
        self.retry_after_seconds: float | None = None
        super().__init__(status, reason, message)

    def __str__(self) -> str:
        return f"{self.message} ({self.reason or 'Error'}, HTTP {self.status})"

    @property
    def causes(self) -> list[dict[str, Any]]:
        """What the API server names as causes, each with a `reason` and a `message`."""
        return (self.body.get("details") or {}).get("causes") or []

    @property
    def disruption_budget(self) -> str:
        """What PodDisruptionBudgets have against an eviction, in the words of the API server; "" when they
        have nothing against it, such as when the server only sheds load.

        A pod that two of them select cannot be evicted at all, and that is answered as a fault of the server
        (pkg/registry/core/pod/storage/eviction.go in Kubernetes).
        """
        if self.status == 500 and "PodDisruptionBudget" in self.message:
            return self.message
        for cause in self.causes:
            if cause.get("reason") == "DisruptionBudget":
                return str(cause.get("message") or self.message)
        return ""


class NotFound(ApiError):
    """404: the object, or its kind, does not exist."""


class AlreadyExists(ApiError):
    """409 on create: an object of that name is there."""


class Conflict(ApiError):
    """409: the object changed since it was read, or another field manager owns a field.

    Read again and decide again.
    """


class Gone(ApiError):
    """410: the resourceVersion is too old. List again."""


class Forbidden(ApiError):
    """403: RBAC or an admission policy says no."""


class Invalid(ApiError):
    """422: the object breaks its schema or a validation rule."""


class TooManyRequests(ApiError):
    """429: the server sheds load, or a disruption budget forbids an eviction."""


class Unreachable(TesseraError):
    """No answer from the API server: connection refused or lost, time limit, TLS failure."""


_BY_STATUS: dict[int, type[ApiError]] = {
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def error_from_status(status: int, body: dict[str, Any], text: str = "") -> ApiError:
    """The typed error of an HTTP status and a Kubernetes Status object (or of plain text where there is
    none).
    """
    reason = str(body.get("reason") or "")
    message = str(body.get("message") or text or f"HTTP {status}").strip()
    kind = AlreadyExists if reason == "AlreadyExists" else _BY_STATUS.get(status, ApiError)
    error = kind(status, reason, message, body)
    seconds = (body.get("details") or {}).get("retryAfterSeconds")
    if isinstance(seconds, int | float):
        error.retry_after_seconds = float(seconds)
    return error

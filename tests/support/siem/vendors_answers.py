"""What each vendor says itself in place of an answer that any server could give."""

from __future__ import annotations

import json

from support.siem import azure, datadog, google, moto, otlp_receiver, splunk
from support.siem.cloud_server import Reply

WAIT = {"Retry-After": "700"}  # seconds

_AWS = (
    (400, "AccessDeniedException"),
    (400, "ExpiredTokenException"),
    (400, "InvalidParameterException"),
    (400, "InvalidSignatureException"),
    (400, "LimitExceededException"),
    (400, "OperationAbortedException"),
    (400, "ThrottlingException"),
    (400, "UnrecognizedClientException"),
    (500, "InternalFailure"),
    (503, "ServiceUnavailableException"),
)
_AZURE = (
    (400, "InvalidPayload"),
    (400, "InvalidRecord"),
    (400, "InvalidStream"),
    (400, "RecordsTimeRangeIsMoreThan30Minutes"),
    (401, "InvalidAuthenticationToken"),
    (403, "OperationFailed"),
    (404, "NotFound"),
    (413, "ContentLengthLimitExceeded"),
    (415, "UnsupportedMediaType"),
    (429, "TooManyRequests"),
    (500, "InternalServerError"),
    (503, "ServiceUnavailable"),
)
_GOOGLE = (
    (400, "INVALID_ARGUMENT"),
    (401, "UNAUTHENTICATED"),
    (403, "PERMISSION_DENIED"),
    (404, "NOT_FOUND"),
    (429, "RESOURCE_EXHAUSTED"),
    (499, "CANCELLED"),
    (500, "INTERNAL"),
    (503, "UNAVAILABLE"),
    (504, "DEADLINE_EXCEEDED"),
)
_DATADOG = (
    (400, "Bad Request"),
    (401, "Unauthorized"),
    (403, "Forbidden"),
    (408, "Request Timeout"),
    (413, "Payload Too Large"),
    (429, "Too Many Requests"),
    (500, "Internal Server Error"),
    (503, "Service Unavailable"),
)


_GRPC = (
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


def of_aws(status: int, kind: str, **headers: str) -> Reply:
    """Return an error as AWS writes it."""
    return Reply(status, json.dumps({"__type": kind}).encode(), {"Content-Type": moto.CONTENT_TYPE, **headers})


def _splunk() -> dict[str, Reply]:
    said = {code: splunk.reply(code) for code in splunk.CODES}
    taken = {0, 24, 25}  # what only Splunk itself may say: nobody could tell it from the truth
    return {f"code {code}: {splunk.CODES[code][1]}": one for code, one in said.items() if code not in taken}


def _sumo_logic() -> dict[str, Reply]:
    words = {400: "bad", 401: "unauthorized", 408: "timeout", 429: "rate.limit.exceeded", 503: "overloaded"}
    bodies = {status: {"errors": [{"code": code, "message": "no"}]} for status, code in words.items()}
    return {
        f"{status} `{words[status]}`": Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json"})
        for status, body in bodies.items()
    }


def _otlp() -> dict[str, Reply]:
    return {
        "200, one record refused": otlp_receiver.success(rejected=1),
        "200, all records refused": otlp_receiver.success(rejected=1_000),
    }


# Kind → what it says → the answer. None of them means that the batch was taken.
OWN_REFUSALS: dict[str, dict[str, Reply]] = {
    "azure-monitor": {f"{status} `{code}`": azure.refusal(status, code) for status, code in _AZURE},
    "cloudwatch": {f"{status} `{kind}`": of_aws(status, kind) for status, kind in _AWS},
    "datadog": {f"{status} {title}": datadog.refusal(status, title) for status, title in _DATADOG},
    "google-cloud-logging": {f"{status} `{code}`": google.refusal(status, "no", code=code) for status, code in _GOOGLE},
    "otlp": _otlp(),
    "otlp, gRPC": {
        **{f"`{code}`": Reply(0, code.encode()) for code in _GRPC},
        "`RESOURCE_EXHAUSTED` with `RetryInfo`": Reply(0, b"RESOURCE_EXHAUSTED", WAIT),
    },
    "splunk": _splunk(),
    "splunk, acknowledged": _splunk(),
    "sumo-logic": _sumo_logic(),
}

_OWN_SPLUNK = {
    400: splunk.reply(6),
    401: splunk.reply(2),
    403: splunk.reply(4),
    429: splunk.reply(26),
    500: splunk.reply(8),
    503: splunk.reply(9),
}

# Kind → status → how the vendor says that, where it is not the bare status.
OWN_WORDS: dict[str, dict[int, Reply]] = {
    "azure-monitor": {
        400: azure.refusal(400, "InvalidRecord"),
        403: azure.refusal(403, "OperationFailed"),
        413: azure.refusal(413, "ContentLengthLimitExceeded"),
        429: azure.refusal(429, "TooManyRequests"),
    },
    "cloudwatch": {
        400: of_aws(400, "InvalidParameterException"),
        401: of_aws(400, "UnrecognizedClientException"),
        403: of_aws(400, "AccessDeniedException"),
        404: of_aws(400, "UnknownOperationException"),
        429: of_aws(400, "ThrottlingException"),
        500: of_aws(500, "InternalFailure"),
        503: of_aws(503, "ServiceUnavailableException"),
    },
    "datadog": {status: datadog.refusal(status, title) for status, title in _DATADOG},
    "google-cloud-logging": {
        status: google.refusal(status, "no", code=code) for status, code in _GOOGLE if status not in {499, 504}
    },
    "otlp, gRPC": {
        400: Reply(400, b"INVALID_ARGUMENT"),
        401: Reply(401, b"UNAUTHENTICATED"),
        403: Reply(403, b"PERMISSION_DENIED"),
        404: Reply(404, b"UNIMPLEMENTED"),
        413: Reply(413, b"RESOURCE_EXHAUSTED"),
        429: Reply(429, b"UNAVAILABLE"),
        500: Reply(500, b"INTERNAL"),
        502: Reply(502, b"UNAVAILABLE"),
        503: Reply(503, b"UNAVAILABLE"),
    },
    "splunk": _OWN_SPLUNK,
    "splunk, acknowledged": _OWN_SPLUNK,
    "sumo-logic": {int(words.partition(" ")[0]): one for words, one in _sumo_logic().items()},
}

"""What a result was made with, as tags of its file and by the names of STAC's processing extension."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from dehazexl_cli import __version__
from dehazexl_cli.text import masked, printable, to_json

NAME = "dehazexl"


class Origin(NamedTuple):
    """What decides on the pixels of a result, and on what is stored with them."""

    model: str
    weights_sha256: str
    options: dict[str, Any]  # those that are not the defaults, as JSON gives them back

    @classmethod
    def of(cls, model: str, weights_sha256: str, options: Mapping[str, Any]) -> Self:
        """Make one of options as they are."""
        return cls(model, weights_sha256, json.loads(to_json(options)))

    @classmethod
    def in_tags(cls, tags: Mapping[str, str]) -> Self:
        """Read it from the tags of a file; KeyError or ValueError if they do not say."""
        options = json.loads(tags["DEHAZEXL_OPTIONS"])
        return cls(tags["DEHAZEXL_MODEL"], tags["DEHAZEXL_WEIGHTS_SHA256"], options)

    @classmethod
    def in_report(cls, report: Mapping[str, Any]) -> Self:
        """Read it from a report; KeyError or TypeError if it does not say."""
        return cls(**report["processing:expression"]["expression"])

    def difference(self, wanted: Origin) -> str | None:
        """Say how the result was made otherwise than wanted; None if it was not."""
        if self.model != wanted.model:
            return f"it was made with {self.model}, not {wanted.model}"
        if self.weights_sha256 != wanted.weights_sha256:
            return f"it was made with other weights of {self.model}"
        names = sorted(self.options.keys() | wanted.options.keys())
        changed = [name for name in names if self.options.get(name) != wanted.options.get(name)]
        return f"it was made with other options ({', '.join(changed)})" if changed else None


@dataclass(frozen=True)
class Provenance:
    """Enough to make the same result again."""

    origin: Origin
    source: str
    when: datetime
    version: str = __version__  # of dehazexl

    @classmethod
    def now(cls, model: str, weights_sha256: str, options: Mapping[str, Any], source: str) -> Self:
        """Make that of a result which is made now, by this version."""
        return cls(Origin.of(model, weights_sha256, options), source, datetime.now(UTC))

    @property
    def time(self) -> str:
        """When, as RFC 3339 has it."""
        return self.when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def tags(self) -> tuple[tuple[str, str], ...]:
        """Return tags for the file; a TIFFTAG_ that other software has written is to stay."""
        return (
            ("TIFFTAG_SOFTWARE", f"{NAME} {self.version}"),
            ("DEHAZEXL_SOFTWARE", f"{NAME} {self.version}"),
            ("DEHAZEXL_MODEL", self.origin.model),
            ("DEHAZEXL_WEIGHTS_SHA256", self.origin.weights_sha256),
            ("DEHAZEXL_OPTIONS", to_json(dict(sorted(self.origin.options.items())))),
            ("DEHAZEXL_SOURCE", printable(masked(self.source))),
            ("DEHAZEXL_DATETIME", self.time),
        )

    def stac(self) -> dict[str, Any]:
        """Return fields of the processing extension of STAC."""
        by = f"{NAME} {self.version}"
        return {
            "processing:software": {NAME: self.version},
            "processing:version": self.version,
            "processing:datetime": self.time,
            "processing:lineage": f"{masked(self.source)}, dehazed by {by} with {self.origin.model}",
            "processing:expression": {"format": NAME, "expression": self.origin._asdict()},
        }


def about(model: str, weights_sha256: str) -> dict[str, Any]:
    """Return what numbers were measured with, as plain values."""
    return {"model": model, "weights_sha256": weights_sha256, "version": __version__}

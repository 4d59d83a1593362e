"""What a result was made with: as tags of its file, and by the names of STAC's processing extension."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from dehazexl_cli.text import masked, printable, to_json

NAME = "dehazexl"


@dataclass(frozen=True)
class Provenance:
    """Enough to make the same result again."""

    version: str  # of dehazexl
    model: str
    weights_sha256: str
    options: dict[str, Any]  # those that are not the defaults
    source: str
    when: datetime

    @property
    def time(self) -> str:
        """When, as RFC 3339 has it."""
        return self.when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def tags(self) -> tuple[tuple[str, str], ...]:
        """Tags for the file; a TIFFTAG_ that other software has written is to stay."""
        return (
            ("TIFFTAG_SOFTWARE", f"{NAME} {self.version}"),
            ("DEHAZEXL_SOFTWARE", f"{NAME} {self.version}"),
            ("DEHAZEXL_MODEL", self.model),
            ("DEHAZEXL_WEIGHTS_SHA256", self.weights_sha256),
            ("DEHAZEXL_OPTIONS", to_json(dict(sorted(self.options.items())))),
            ("DEHAZEXL_SOURCE", printable(masked(self.source))),
            ("DEHAZEXL_DATETIME", self.time),
        )

    def stac(self) -> dict[str, Any]:
        """Fields of the processing extension of STAC."""
        by = f"{NAME} {self.version}"
        return {
            "processing:software": {NAME: self.version},
            "processing:version": self.version,
            "processing:datetime": self.time,
            "processing:lineage": f"{masked(self.source)}, dehazed by {by} with {self.model}",
            "processing:expression": {
                "format": NAME,
                "expression": {
                    "model": self.model,
                    "weights_sha256": self.weights_sha256,
                    "options": self.options,
                },
            },
        }


def changed(*settings: Any) -> dict[str, Any]:
    """The fields of dataclasses of settings that are not their defaults, as plain values."""
    values: dict[str, Any] = {}
    for each in settings:
        plain, default = asdict(each), asdict(type(each)())
        values |= {
            field.name: plain[field.name]
            for field in fields(each)
            if plain[field.name] != default[field.name]
        }
    return values

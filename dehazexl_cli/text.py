"""Text that comes in from many makers; text that leaves, without secrets and as every reader takes it."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

MASK = "***"
MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
# What a secret is called in a query, a header, a connection string or a variable.
_NAMES = (
    r"[\w.-]{0,40}(?:passw(?:or)?d|pwd|secret|token|signature|credential|authorization|cookie|"
    r"api[_-]?key|access[_-]?key|account[_-]?key|subscription[_-]?key)[\w.-]{0,40}|sig"
)
_END = r"\s'\"<>"  # what no URL holds, so that one within a sentence ends there
_HEADER = re.compile(
    r"(?i)(authorization['\"]?(?:\s|%20)*(?:[:=]|%3a|%3d)(?:\s|%20|\+)*['\"]?)"
    rf"(?:(?:bearer|basic|digest|token)(?:\s|%20|\+)+)?[^{_END}&,;]+"
)
_BEARER = re.compile(r"(?i)\b(bearer(?:\s|%20|\+)+)[\w.~+/=%-]+")
_URL = re.compile(
    rf"([A-Za-z][A-Za-z0-9+.-]{{0,20}}://)(?:[^{_END}/?#]*@)?([^{_END}?#]*)([?#][^{_END}]*(?<![:.,;)]))?"
)
_VSI = re.compile(rf"(/vsi[^{_END}?]*)(\?[^{_END}]*(?<![:.,;)]))")
_PAIR = re.compile(rf"(?i)(?<![\w.-])({_NAMES})(['\"]?\s*=\s*)(\"[^\"]*\"|'[^']*'|[^{_END}&;,]+)")
_TAG = re.compile(rf"(?i)(<({_NAMES}|userpwd)>)[^<]*")


def masked(text: str) -> str:
    """The text without secrets: of a URL, user and password and the values behind ? are left out.

    So are authorization headers, and values that are called a password, token, key or signature. Everything
    that leaves the command line, but the names of results, goes through this.
    """
    text = _BEARER.sub(rf"\1{MASK}", _HEADER.sub(rf"\1{MASK}", text))
    text = _VSI.sub(lambda found: found[1] + _masked_query(found[2]), text)
    text = _URL.sub(_masked_url, text)
    return _TAG.sub(rf"\1{MASK}", _PAIR.sub(rf"\1\2{MASK}", text))


def _masked_url(found: re.Match[str]) -> str:
    scheme, rest, query = found.groups()
    user = f"{MASK}@" if found.start(2) > found.end(1) else ""
    return scheme + user + rest + _masked_query(query or "")


def _masked_query(query: str) -> str:
    """?a=***&b=***; what is a URL itself is masked and stays."""
    if query[1:2] == "" or (query[0] == "#" and "=" not in query):
        return query
    return query[0] + "&".join(map(_masked_parameter, query[1:].split("&")))


def _masked_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if not equals:
        return MASK if name else ""
    inner = unquote(value)
    return f"{name}={masked(inner) if name.lower() == 'url' else MASK}" if value else parameter


def view_command(*names: str) -> str:
    """What a person types to see images over each other at full resolution."""
    return shlex.join(["dehazexl", "view", *names])


def printable(text: str) -> str:
    r"""The text as Unicode that every reader takes: bytes that are none, as \xe9 in a name, are spelt out."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every parser reads, without secrets; numbers that JSON has not are "nan", "inf", "-inf"."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(masked(value))
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        return {_plain(key) if isinstance(key, str) else key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def decoded(content: bytes) -> str:
    """The text of a file, by its byte order mark if it has one, as Windows and spreadsheets write it.

    Otherwise it is UTF-8. Bytes that are none stay as they are in names of files.
    """
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    return content.decode("utf-8", "surrogateescape")


def name_of(source: str) -> str:
    """The name of a file that GDAL's name of a raster stands for, without secrets and without its driver.

    https://host/a.tif?sig=… is a.tif, GPKG:g.gpkg:june is g_june.gpkg, /vsizip/{a.zip}/b.tif is b.tif.
    """
    if _is_location(source):
        return _last_of(source)
    driver = re.match(r"[A-Za-z][A-Za-z0-9_]+:", source)
    if driver is None or os.path.exists(source):
        return _last_of(source)
    rest = source[driver.end() :]
    return _last_of(rest) if _is_location(rest) else _name_of_subdataset(rest)


def is_remote(source: str) -> bool:
    """Whether GDAL reads it from a server: a URL, or /vsicurl/…, /vsis3/… and their like."""
    return "://" in source or re.match(r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)", source) is not None


def _is_location(source: str) -> bool:
    """Whether it is the name of a file elsewhere: a URL, or /vsizip/… and the like."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|/vsi", source) is not None


def _last_of(source: str) -> str:
    """The last part of a path or URL, without a query."""
    if re.match(r"/vsi\w+\?", source):  # options of /vsicurl, one of which is the URL
        options = dict(each.partition("=")[::2] for each in source.partition("?")[2].split("&"))
        source = unquote(options.get("url", source.partition("?")[0]))
    if _is_location(source):
        source = unquote(re.split(r"[?#]", source, maxsplit=1)[0])
    path = re.sub(r"\?\w[\w.-]*=.*$", "", source)  # a download may have kept its query in its name
    return os.path.basename(path.rstrip("/")) or "scene"


def _name_of_subdataset(rest: str) -> str:
    """What follows a driver, "file":part, file:part or part:file, as file_part.suffix."""
    pieces = [piece.strip("\"'") for piece in re.findall(r'"[^"]*"|[^:]+', rest)] or ["scene"]
    files = (index for index, piece in enumerate(pieces) if os.path.exists(piece) or _is_location(piece))
    named = (index for index, piece in enumerate(pieces) if "." in piece)
    at = next(files, next(named, 0))
    stem, suffix = os.path.splitext(_last_of(pieces[at]))
    parts = [re.sub(r"[^\w.-]+", "_", masked(piece)).strip("_") for piece in pieces[:at] + pieces[at + 1 :]]
    return "_".join([stem, *filter(None, parts)]) + suffix

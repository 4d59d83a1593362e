"""GDAL's side file NAME.aux.xml, for what a driver leaves out of the file that it makes."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dehazexl_cli.raster.labels import tags_of
from dehazexl_cli.raster.metadata import carried_tags
from dehazexl_cli.raster.session import has_side_files


def add_what_is_missing(path: Path, before: Any, after: Any) -> None:
    """Add the tags of an open dataset that another, made of it, does not have, to the latter's side file."""
    missing = []
    for band, namespace, tags in carried_tags(before):
        there = tags_of(after, band, namespace)
        empty = {name: value for name, value in tags.items() if name not in there}
        if empty:
            missing.append((band, namespace, empty))
    if missing and has_side_files():
        add_to_side_file(path, missing)


def add_system(path: Path, system: ElementTree.Element) -> None:
    """Say a coordinate system in a side file, as GDAL's XML has it, in place of one that it says."""
    if not has_side_files():
        return
    root = ElementTree.parse(path).getroot() if path.exists() else ElementTree.Element("PAMDataset")
    for former in root.findall("SRS"):
        root.remove(former)
    root.insert(0, system)
    path.write_text(ElementTree.tostring(root, encoding="unicode"), encoding="utf-8")


def add_to_side_file(path: Path, tags: Iterable[tuple[int, str, Mapping[str, str]]]) -> None:
    """Add tags, given as (band, namespace, tags): band 0 is the dataset, namespace "" the plain tags.

    A namespace xml:NAME has one tag, a document; one that is no well-formed XML is left out.
    """
    documents: dict[str, str] = {}
    root = ElementTree.parse(path).getroot() if path.exists() else ElementTree.Element("PAMDataset")
    for band, namespace, named_values in tags:
        parent = _element_of(root, band)
        if namespace.startswith("xml:"):
            _add_document(parent, namespace, named_values[namespace], documents)
            continue
        domain = _metadata_of(parent, namespace)
        for name, value in named_values.items():
            ElementTree.SubElement(domain, "MDI", key=name).text = value
    if len(root):
        whole = ElementTree.tostring(root, encoding="unicode")
        for place, text in documents.items():
            whole = whole.replace(place, text)
        path.write_text(whole, encoding="utf-8")


def _add_document(parent: ElementTree.Element, namespace: str, text: str, documents: dict[str, str]) -> None:
    """Leave a place for a document: ElementTree itself would rename its prefixes."""
    try:
        ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return
    place = f"document-{len(documents)}-{secrets.token_hex(8)}"
    documents[place] = re.sub(r"^\s*<\?xml.*?\?>", "", text, flags=re.DOTALL)
    ElementTree.SubElement(parent, "Metadata", domain=namespace, format="xml").text = place


def _metadata_of(parent: ElementTree.Element, namespace: str) -> ElementTree.Element:
    for element in parent.findall("Metadata"):
        if element.get("domain", "") == namespace:
            return element
    return ElementTree.SubElement(parent, "Metadata", {"domain": namespace} if namespace else {})


def _element_of(root: ElementTree.Element, band: int) -> ElementTree.Element:
    if band == 0:
        return root
    for element in root.findall("PAMRasterBand"):
        if element.get("band") == str(band):
            return element
    return ElementTree.SubElement(root, "PAMRasterBand", band=str(band))

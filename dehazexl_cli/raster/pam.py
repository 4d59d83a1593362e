"""GDAL's side file NAME.aux.xml, for tags that GDAL leaves out when it makes a PNG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree


def add_to_side_file(path: Path, tags: Iterable[tuple[int, str, Mapping[str, str]]]) -> None:
    """Add namespaces, given as (band, namespace, tags), that the file does not have; band 0 is the dataset.

    GDAL (3.10) itself writes the plain tags, RPCs and documents, but no namespace of anyone's own.
    """
    missing = [row for row in tags if row[1] and not row[1].startswith("xml:")]
    if not missing:
        return
    root = ElementTree.parse(path).getroot() if path.exists() else ElementTree.Element("PAMDataset")
    for band, namespace, named_values in missing:
        parent = _element_of(root, band)
        if all(element.get("domain") != namespace for element in parent.findall("Metadata")):
            domain = ElementTree.SubElement(parent, "Metadata", domain=namespace)
            for name, value in named_values.items():
                ElementTree.SubElement(domain, "MDI", key=name).text = value
    path.write_bytes(ElementTree.tostring(root, encoding="utf-8"))


def _element_of(root: ElementTree.Element, band: int) -> ElementTree.Element:
    if band == 0:
        return root
    for element in root.findall("PAMRasterBand"):
        if element.get("band") == str(band):
            return element
    return ElementTree.SubElement(root, "PAMRasterBand", band=str(band))

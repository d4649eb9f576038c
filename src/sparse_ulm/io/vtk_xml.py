"""Arrays in VTK's XML files: written inline as base64, read in every encoding that VTK writes.

Format: "XML File Formats" of docs.vtk.org and the "VTK XML Formats" page of the ITK wiki, which says how binary data
begin (their size, or the sizes of their compressed blocks). Written here because VTK itself is no dependency of ours.
"""

import base64
import re
import struct
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from sparse_ulm.errors import RecordingError

TYPES = {
    "Float32": "f4", "Float64": "f8", "Int8": "i1", "Int16": "i2", "Int32": "i4", "Int64": "i8", "UInt8": "u1",
    "UInt16": "u2", "UInt32": "u4", "UInt64": "u8", "String": "i1",
}  # fmt: skip
"""VTK's names of NumPy's types."""

ROOT = '<VTKFile type="{kind}" version="1.0" byte_order="LittleEndian" header_type="UInt64">'
"""First element of a file whose arrays are those of `array_element`."""

COMPRESSOR = "vtkZLibDataCompressor"
_APPENDED = re.compile(rb'<AppendedData[^>]*encoding="(\w+)"[^>]*>\s*_')


def array_element(name: str, values: np.ndarray) -> str:
    """Give the element of an array, in base64: its size in bytes as UInt64, then its values.

    Args:
        name: Name of the array.
        values: (n,) or (n, components) of float64 or int64.
    """
    kind = {"f": "Float64", "i": "Int64"}[values.dtype.kind]
    raw = np.ascontiguousarray(values, dtype=f"<{TYPES[kind]}").tobytes()
    text = base64.b64encode(struct.pack("<Q", len(raw)) + raw).decode("ascii")
    components = values.shape[1] if values.ndim == 2 else 1
    return (
        f'<DataArray type="{kind}" Name="{name}" NumberOfComponents="{components}" format="binary">{text}</DataArray>'
    )


def string_element(name: str, text: str) -> str:
    """Give the element of one string, as character codes with a zero behind them."""
    codes = " ".join(str(code) for code in (*text.encode("ascii"), 0))
    return f'<Array type="String" Name="{name}" NumberOfTuples="1" format="ascii">{codes}</Array>'


class VtkXml:
    """A VTK XML file in memory, and the values of its arrays.

    Arrays may be ascii, base64 or appended (base64 or raw), of either byte order, plain or compressed by zlib.

    Args:
        path: The file.

    Attributes:
        root: The element VTKFile, without its appended data.

    Raises:
        RecordingError: If arrays are compressed otherwise.
        ElementTree.ParseError: If the file is no XML.
    """

    def __init__(self, path: Path) -> None:
        """Read the whole file."""
        content, self._appended, self._is_raw = path.read_bytes(), b"", False
        appended = _APPENDED.search(content)
        if appended:  # raw bytes are no XML: they are cut out before it is parsed
            self._appended = content[appended.end() : content.rfind(b"</AppendedData>")]
            self._is_raw = appended[1] == b"raw"
            content = content[: appended.start()] + b"</VTKFile>"
        self.root = ElementTree.fromstring(content)
        self._order = ">" if self.root.get("byte_order") == "BigEndian" else "<"
        self._header = np.dtype(self._order + TYPES[self.root.get("header_type", "UInt32")])
        self._is_compressed = "compressor" in self.root.attrib
        if self.root.get("compressor", COMPRESSOR) != COMPRESSOR:
            raise RecordingError(
                f"{path.name}: arrays are compressed by {self.root.get('compressor')}; wanted {COMPRESSOR} or none. "
                "Save it so."
            )

    def arrays(self, parent: ElementTree.Element | None) -> dict[str, np.ndarray]:
        """Give the arrays below an element by name, each (n, components); nothing below no element."""
        found = [] if parent is None else [*parent.findall("DataArray"), *parent.findall("Array")]
        return {element.get("Name", ""): self.values(element) for element in found}

    def text(self, name: str) -> str | None:
        """Give a string of the file's FieldData; None where it has none of that name."""
        for element in self.root.iter("Array"):
            if element.get("Name") == name and element.get("type") == "String":
                return self.values(element).astype(np.uint8).tobytes().split(b"\0")[0].decode("utf-8")
        return None

    def values(self, element: ElementTree.Element) -> np.ndarray:
        """Give the values of an array, (n, components)."""
        kind = np.dtype(self._order + TYPES[element.get("type", "")])
        text = (element.text or "").split()
        if element.get("format") == "ascii":
            values = np.array(text, dtype=kind.newbyteorder("="))
        elif element.get("format") == "binary":
            values = np.frombuffer(self._unpack("".join(text).encode("ascii"), is_raw=False), dtype=kind)
        else:
            start = int(element.get("offset", ""))
            values = np.frombuffer(self._unpack(self._appended[start:], is_raw=self._is_raw), dtype=kind)
        return values.reshape(-1, int(element.get("NumberOfComponents", "1")))

    def _unpack(self, content: bytes, *, is_raw: bool) -> bytes:
        """Take off the sizes in front of an array's bytes: one piece of base64 with them unless compressed."""
        width = self._header.itemsize
        [count] = np.frombuffer(_take(content, width, is_raw=is_raw)[0], dtype=self._header).tolist()
        if not self._is_compressed:
            return _take(content, width + count, is_raw=is_raw)[0][width:]
        header, end = _take(content, width * (3 + count), is_raw=is_raw)
        sizes = np.frombuffer(header, dtype=self._header)[3:].astype(np.int64)
        packed, _ = _take(content[end:], int(sizes.sum()), is_raw=is_raw)
        stops = np.cumsum(sizes)
        return b"".join(zlib.decompress(packed[stop - size : stop]) for size, stop in zip(sizes, stops, strict=True))


def _take(content: bytes, n_bytes: int, *, is_raw: bool) -> tuple[bytes, int]:
    """Give the first bytes, from base64 unless raw, and where what follows them begins.

    Raises:
        ValueError: If there are fewer.
    """
    end = n_bytes if is_raw else 4 * -(-n_bytes // 3)
    found = content[:end] if is_raw else base64.b64decode(content[:end])[:n_bytes]
    if len(found) < n_bytes:
        raise ValueError(f"an array holds {len(found)} of {n_bytes} bytes")
    return found, end

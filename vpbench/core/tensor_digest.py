"""A checksum inside a safetensors file, so that a damaged copy is never taken for the model.

The entry ``sha256`` of the metadata is the SHA-256 of everything else: the header without that entry, as canonical JSON, and the
tensors behind it. Other programs read such a file as any other.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from vpbench.core.checksums import DamagedError
from vpbench.core.hashing import canonical_json

DIGEST = "sha256"
_LENGTH = 8  # bytes at the beginning, which hold the length of the header


def with_digest(content: bytes) -> bytes:
    """A safetensors file with its checksum, and the same bytes in every process: safetensors writes the metadata in an order that
    changes; offsets in the header count from its end."""
    header, tensors = _parted(content)
    metadata = {**_metadata(header), DIGEST: json.dumps(_digest(header, tensors))}
    text = json.dumps({**header, "__metadata__": metadata}, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH, "little") + text + tensors


def checked_metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file without its checksum; files of earlier versions have none.

    Raises:
        DamagedError: when the checksum does not fit.
        ValueError: when the header is not JSON.
    """
    header, tensors = _parted(content)
    metadata = _metadata(header)
    if (wanted := metadata.pop(DIGEST, None)) is not None and wanted != json.dumps(_digest(header, tensors)):
        raise DamagedError(f"its checksum ({DIGEST} in its metadata) does not fit, so it is not as it was written")
    return metadata


def _parted(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and tensors."""
    end = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    return json.loads(content[_LENGTH:end]), memoryview(content)[end:]


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    return dict(header.get("__metadata__") or {})


def _digest(header: dict[str, Any], tensors: memoryview) -> str:
    others = {name: text for name, text in _metadata(header).items() if name != DIGEST}
    found = hashlib.sha256(canonical_json({**header, "__metadata__": others}).encode())
    found.update(tensors)
    return found.hexdigest()

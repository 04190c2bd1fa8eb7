"""Multipart bodies: received on the disk, so that large uploads take no memory."""

import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from tempfile import mkstemp

from starlette.requests import Request

from prefect_xai_video.emulator import refusals

_OVERHEAD_BYTES = 2**16
"""Most bytes of a body besides its file."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body.

    Attributes:
        name: Name of the field.
        filename: Name of the file; None for a plain field.
        content_type: Content type; empty if it is not given.
        begin: Offset of its content in the body.
        end: Offset of the end of its content.
    """

    name: str
    filename: str | None
    content_type: str
    begin: int
    end: int


@contextmanager
def temporary_file(directory: Path) -> Iterator[Path]:
    """Provide a file that is removed at the end of the block."""
    handle, name = mkstemp(dir=directory, suffix=".part")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


async def receive(request: Request, target: Path, limit: int) -> None:
    """Write the body of a request to a file.

    Raises:
        Refused: 413 if it holds a larger file than the limit.
    """
    size = 0
    with target.open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit + _OVERHEAD_BYTES:
                raise refusals.too_large(limit)
            file.write(chunk)


def parts_of(request: Request, body: Path) -> list[Part]:
    """Find the parts of a multipart body, in order.

    Raises:
        Refused: 415 if the body is not declared as multipart, 400 if it is malformed.
    """
    declared = Message()
    declared["Content-Type"] = request.headers.get("content-type", "")
    boundary = declared.get_boundary()
    if declared.get_content_type() != "multipart/form-data" or not boundary:
        raise refusals.unsupported_media_type()
    if not body.stat().st_size:
        raise _malformed()
    with body.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return list(_parts(content, b"--" + boundary.encode()))


def _parts(content: mmap.mmap, delimiter: bytes) -> Iterator[Part]:
    position = content.find(delimiter)
    while position >= 0:
        begin = position + len(delimiter)
        if content[begin : begin + 2] == b"--":
            return
        head_end = content.find(b"\r\n\r\n", begin)
        end = content.find(b"\r\n" + delimiter, head_end + 2)
        if head_end < 0 or end < 0:
            break
        yield _part(content[begin:head_end].decode(errors="replace"), head_end + 4, end)
        position = end + 2
    raise _malformed()


def _part(head: str, begin: int, end: int) -> Part:
    headers = Message()
    for line in head.strip().splitlines():
        name, _, value = line.partition(":")
        headers[name.strip()] = value.strip()
    disposition = headers.get("Content-Disposition", "")
    found = dict(re.findall(r'\b(name|filename)="([^"]*)"', disposition))
    if "name" not in found:
        raise _malformed()
    return Part(found["name"], found.get("filename"), headers.get("Content-Type", ""), begin, max(begin, end))


def _malformed() -> refusals.Refused:
    return refusals.invalid_argument("The multipart body is malformed.")

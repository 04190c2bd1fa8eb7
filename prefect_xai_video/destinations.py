"""Destinations: where a video may be downloaded from. The URL, and each redirect, comes from outside."""

import ipaddress
from collections.abc import Mapping
from typing import Any

import httpx

from prefect_xai_video.errors import DownloadError
from prefect_xai_video.redaction import MAX_CODE, Redaction

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Destinations:
    """Decides whether a URL may be fetched: https to public addresses, and loopback only if the API is there, too.

    A name is judged by the address that was connected to, before anything is sent there. A proxy connects by itself,
    so that behind one only addresses that the URL itself holds are judged.

    Args:
        base_url: Base URL of the API. Its own host is always allowed: the user has chosen it.
    """

    def __init__(self, base_url: str) -> None:
        self._own_host = httpx.URL(base_url).raw_host
        self._local = _is_loopback(self._own_host.decode())

    def check(self, url: httpx.URL | str) -> httpx.URL:
        """Judge a URL by its text.

        Raises:
            DownloadError: If it may not be fetched.
        """
        try:
            url = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            raise _invalid() from None
        host = url.raw_host.decode()
        in_clear = url.scheme == "http" and self._local and _is_loopback(host)
        if not host or not (url.scheme == "https" or in_clear):
            raise _refused(url, "only https is allowed")
        address = _address(host)
        if (host == "localhost" or address is not None) and not self._allows(url, address):
            raise _refused(url, "its address is not public")
        return url

    def check_redirect(self, url: httpx.URL, location: str) -> httpx.URL:
        """Judge where a response for a URL leads to, as `check` does."""
        try:
            target = url.join(location)
        except (httpx.InvalidURL, ValueError):
            raise _invalid() from None
        return self.check(target)

    def watch(self, url: httpx.URL) -> "Watch":
        """Judge the address that is connected to for a URL; for httpx's `trace` extension."""
        return Watch(self, url)

    def _allows(self, url: httpx.URL, address: "_Address | None") -> bool:
        if url.raw_host == self._own_host:
            return True
        if address is None or address.is_loopback:
            return self._local
        return address.is_global and not address.is_multicast


class Watch:
    """Sees the connection of one request being made, and ends it where its address is not allowed."""

    def __init__(self, destinations: Destinations, url: httpx.URL) -> None:
        self._destinations = destinations
        self._url = url
        self._direct = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Take note of an event of httpcore's."""
        if event == "connection.connect_tcp.started":
            self._direct = info["host"].encode() == self._url.raw_host
        elif event == "connection.connect_tcp.complete" and self._direct:
            stream = info["return_value"]
            peer = stream.get_extra_info("server_addr")
            if not self._destinations._allows(self._url, _address(peer[0]) if peer else None):
                await stream.aclose()
                raise _refused(self._url, "its address is not public")


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    """An IP address; for an IPv6 address that stands for an IPv4 address, that one."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _invalid() -> DownloadError:
    return DownloadError("The URL of the video is not valid.", transient=False)


def _refused(url: httpx.URL, why: str) -> DownloadError:
    place = Redaction()(f"{url.scheme}://{url.host}", MAX_CODE)
    return DownloadError(f"The video can't be fetched from {place}: {why}.", transient=False)

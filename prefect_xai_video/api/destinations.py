"""Checks of the hosts from which a video may be downloaded, since its URL and redirects come from outside."""

import ipaddress
from collections.abc import Mapping
from typing import Any

import httpx

from prefect_xai_video.api.redaction import MAX_CODE, Redaction
from prefect_xai_video.errors import DownloadError

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Destinations:
    """Allows https to public addresses, and loopback only if the API is on this machine, too.

    A host name is checked by the address of the connection, before any byte is sent. A proxy opens its connections
    itself, so behind one only addresses in the URL itself are checked.

    Args:
        base_url: Base URL of the API. Its host is always allowed, because the user has chosen it.
        redact: Applied to the hosts that errors name.
    """

    def __init__(self, base_url: str, redact: Redaction) -> None:
        self._redact = redact
        self._own_host = httpx.URL(base_url).raw_host
        self._local = _is_loopback(self._own_host.decode())

    def check(self, url: httpx.URL | str) -> httpx.URL:
        """Check the text of a URL.

        Raises:
            DownloadError: If nothing may be downloaded from it.
        """
        try:
            url = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            raise _invalid() from None
        host = url.raw_host.decode()
        is_local_http = url.scheme == "http" and self._local and _is_loopback(host)
        if not host or not (url.scheme == "https" or is_local_http):
            raise self.refusal(url, "only https is allowed")
        address = _address(host)
        if (host == "localhost" or address is not None) and not self._allows(url, address):
            raise self.refusal(url, "its address is not public")
        return url

    def check_redirect(self, url: httpx.URL, location: str) -> httpx.URL:
        """Check the target of a redirect, as `check` does."""
        try:
            target = url.join(location)
        except (httpx.InvalidURL, ValueError):
            raise _invalid() from None
        return self.check(target)

    def watch(self, url: httpx.URL) -> "Watch":
        """Check the address of the connection for a URL, through httpx's `trace` extension."""
        return Watch(self, url)

    def refusal(self, url: httpx.URL, why: str) -> DownloadError:
        """Create the error of a URL that is not allowed."""
        host = self._redact(f"{url.scheme}://{url.host}", MAX_CODE)
        return DownloadError(f"The video can't be downloaded from {host}: {why}.", transient=False)

    def _allows(self, url: httpx.URL, address: "_Address | None") -> bool:
        if url.raw_host == self._own_host:
            return True
        if address is None or address.is_loopback:
            return self._local
        return address.is_global and not address.is_multicast


class Watch:
    """Watches the connection of one request, and closes it if its address is not allowed."""

    def __init__(self, destinations: Destinations, url: httpx.URL) -> None:
        self._destinations = destinations
        self._url = url
        self._direct = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Handle an event of httpcore."""
        if event == "connection.connect_tcp.started":
            self._direct = info["host"].encode() == self._url.raw_host
        elif event == "connection.connect_tcp.complete" and self._direct:
            stream = info["return_value"]
            peer = stream.get_extra_info("server_addr")
            if not self._destinations._allows(self._url, _address(peer[0]) if peer else None):
                await stream.aclose()
                raise self._destinations.refusal(self._url, "its address is not public")


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    """Parse an IP address; an IPv6 address that stands for an IPv4 address becomes that IPv4 address."""
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

"""The Hugging Face hub, where frozen parts may come from, or the lack of it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

HUB_SECONDS = 3  # for the hub to answer


@contextmanager
def hub_asked_briefly() -> Iterator[str]:
    """Within it a hub that cannot be reached fails at once, after the cache was searched; gives the reason or nothing.

    huggingface_hub would try each of two files six times, which takes three quarters of a minute. Its offline mode is
    one for the whole process, which is right here: nobody in it can reach the hub.
    """
    from huggingface_hub import constants

    before, hub = constants.HF_HUB_OFFLINE, urlsplit(constants.ENDPOINT)
    port = hub.port or {"http": 80}.get(hub.scheme, 443)
    unreachable = "HF_HUB_OFFLINE forbids asking a hub" if before else ""
    if not before and not getproxies().keys() & {"http", "https", "all"}:
        try:
            socket.create_connection((hub.hostname or "", port), timeout=HUB_SECONDS).close()
        except OSError as error:
            unreachable = f"{constants.ENDPOINT} cannot be reached: {error}"
    constants.HF_HUB_OFFLINE = bool(unreachable)
    try:
        yield unreachable
    finally:
        constants.HF_HUB_OFFLINE = before

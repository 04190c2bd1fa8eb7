"""Keys: the names of videos in a store."""

import re
import unicodedata

from prefect_xai_video.errors import (
    not_allowed,
    shown,
)

MAX_KEY_LENGTH = 512

RESERVED = (".mp4", ".json", ".report", ".poster.jpg", ".last.png", ".tail", ".long")
"""Ends of names that belong to videos, receipts, reports of batches, stills, and the parts of long videos."""


_MAX_SLUG_LENGTH = 32


_MAX_WORD_LENGTH = 20
"""A longer word is probably a URL, or a secret that was pasted into a prompt."""


_SEGMENT = re.compile(r"[A-Za-z0-9_=+@-][A-Za-z0-9._=+@-]{0,199}")


def check_key(key: str) -> str:
    """Check that a key can name a file in every store.

    Raises:
        InvalidRequest: If it can't.
    """
    allowed = (
        f"letters, digits and . _ - = + @ in parts of at most 200 characters separated by single slashes, "
        f"{MAX_KEY_LENGTH} characters in total, no part beginning with a dot or ending with "
        f"{', '.join(RESERVED[:-1])} or {RESERVED[-1]}"
    )
    if not isinstance(key, str):
        raise not_allowed("key", shown(key), allowed)
    # A folder `cat.mp4` would block the video with the key `cat`.
    is_valid = all(_SEGMENT.fullmatch(part) and not part.lower().endswith(RESERVED) for part in key.split("/"))
    if not is_valid or len(key) > MAX_KEY_LENGTH:
        raise not_allowed("key", shown(key), allowed)
    return key


def slug(prompt: str) -> str:
    """Shorten a prompt to its first words, in lower-case letters, digits and dashes, at most 32 characters.

    Derived keys are made of it, so it must stay as it is: a run that is retried after an update has to find its
    receipt.

    Returns:
        The slug; empty if the prompt has no words in Latin letters.
    """
    slug = ""
    for word in prompt.casefold().split():
        letters = unicodedata.normalize("NFKD", re.sub("['\u2019]", "", word))
        letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
        letters = re.sub("[^a-z0-9]+", "-", letters).strip("-")
        if len(word) > _MAX_WORD_LENGTH or not letters:
            continue
        longer = f"{slug}-{letters}" if slug else letters
        if len(longer) > _MAX_SLUG_LENGTH:
            break
        slug = longer
    return slug

"""A local stand-in for xAI's video API: for trying things out, and for tests.

It serves the published contract on loopback, renders real clips in colours that come from the prompt, and keeps a
ledger of what xAI would have billed.
"""

from prefect_xai_video.emulator.server import Emulator

__all__ = ["Emulator"]

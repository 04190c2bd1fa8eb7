"""A local stand-in for the xAI video API: the same responses, real clips, no cost.

It serves to try out the plugin, and for tests. It is as strict as the service is known to be: it refuses what xAI
refuses, and silently ignores what xAI silently ignores.
"""

from prefect_xai_video.emulator.server import Emulator

__all__ = ["Emulator"]

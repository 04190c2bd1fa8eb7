"""A local stand-in for the xAI video API: the same answers, real clips, no costs.

For trying the plugin out and for tests. It is as strict as the service is known to be: what xAI refuses is
refused here, what xAI silently ignores is silently ignored here.
"""

from prefect_xai_video.emulator.server import Emulator

__all__ = ["Emulator"]

"""A single certificate to trust, instead of all of certifi's.

No test needs any, and to load them all takes 60 ms of every HTTP client, of which there are thousands.
"""

import tempfile
from pathlib import Path

import certifi

END = "-----END CERTIFICATE-----\n"
ONE_CERTIFICATE = tempfile.NamedTemporaryFile("w", suffix=".pem")  # noqa: SIM115 it goes with the process
ONE_CERTIFICATE.write(Path(certifi.where()).read_text().partition(END)[0] + END)
ONE_CERTIFICATE.flush()

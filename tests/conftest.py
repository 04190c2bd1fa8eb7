import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

from .support.one_certificate import ONE_CERTIFICATE

# Processes inherit that SIGINT is ignored from a shell that runs the tests in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ |= {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "AWS_EC2_METADATA_DISABLED": "true",
    # Each costs a process; the tests of artifacts switch them on.
    "PREFECT_INTEGRATIONS_XAI_VIDEO_PREVIEW": "false",
    "SSL_CERT_FILE": ONE_CERTIFICATE.name,
}
for name in ("XAI_API_KEY", "XAI_BASE_URL"):
    os.environ.pop(name, None)

import pytest
from hypothesis import HealthCheck, settings
from prefect.filesystems import LocalFileSystem
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters

from prefect_xai_video import XaiCredentials
from prefect_xai_video.emulator import Emulator

from .support.api_key import API_KEY
from .support.forked_processes import Forking
from .support.ports import free_port
from .support.server import WITHOUT_TASK_RUNS, migrate, running_server, used_by_this_process, wait_for

RENDER_SECONDS = 0.3

# No test depends on the speed of the machine.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


def pytest_collection_finish():
    """Spare Python's collector what stays until the end anyway: that is a tenth of the time of the processor."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def _emulator():
    with Emulator(render_seconds=RENDER_SECONDS, api_key=API_KEY) as running:
        yield running


@pytest.fixture
def emulator(_emulator):
    """A stand-in for xAI that renders fast and accepts one key.

    It knows nothing of other tests: a fault that is selected by a prompt strikes only once for the same request.
    """
    _emulator.reset()
    return _emulator


@pytest.fixture(scope="module")
def emulator_of_module():
    """One for fixtures of a module, whose tests share its requests."""
    with Emulator(render_seconds=RENDER_SECONDS, api_key=API_KEY) as running:
        yield running


@pytest.fixture
def submissions(emulator):
    """Counts the POSTs since the test began."""
    before = len(emulator.requests())

    def count() -> int:
        return sum(request["method"] == "POST" for request in emulator.requests()[before:])

    return count


@pytest.fixture
def xai(emulator) -> XaiCredentials:
    return XaiCredentials(api_key=API_KEY, base_url=emulator.base_url)


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch):
    """Polls that suit the emulator's fast renders."""
    for name, value in {"FIRST_POLL_SECONDS": 0.1, "POLL_MIN_SECONDS": 0.1, "POLL_MAX_SECONDS": 0.5}.items():
        monkeypatch.setenv(f"PREFECT_INTEGRATIONS_XAI_VIDEO_{name}", str(value))


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """The database of a Prefect server that has seen nothing yet."""
    place = tmp_path_factory.getbasetemp()
    return migrate(place.parent if "PYTEST_XDIST_WORKER" in os.environ else place)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory, database):
    """A real Prefect server of its own, and runs without heartbeats: a synchronous one ends up to a second sooner."""
    home = tmp_path_factory.mktemp("prefect")
    no_heartbeats = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
    with running_server(home, database, **WITHOUT_TASK_RUNS) as url, used_by_this_process(url), no_heartbeats:
        yield


@pytest.fixture(scope="session")
def forking(tmp_path_factory):
    """Has modules run in processes of their own."""
    processes = Forking(tmp_path_factory.mktemp("forking"))
    yield processes
    processes.stop()


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory):
    """A real S3 server in a process of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = (tmp_path_factory.mktemp("s3") / "log").open("wb")
    command = [sys.executable, Path(__file__).parent / "support" / "s3_server.py", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(f"{url}/moto-api/", process)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def aws_env(s3_url) -> dict[str, str]:
    """The environment with which a process reaches the S3 server."""
    return {
        "AWS_ACCESS_KEY_ID": "access",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_url,
    }


@pytest.fixture(scope="session")
def aws(s3_url) -> AwsCredentials:
    return AwsCredentials(
        aws_access_key_id="access",
        aws_secret_access_key="secret",
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(
            endpoint_url=s3_url, config={"s3": {"addressing_style": "path"}, "signature_version": "s3v4"}
        ),
    )


@pytest.fixture(scope="session")
def _bucket_name(aws) -> str:
    aws.get_s3_client().create_bucket(Bucket="videos")
    return "videos"


@pytest.fixture
def bucket(aws, _bucket_name, request) -> S3Bucket:
    """An empty folder of a bucket on the S3 server."""
    folder = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return S3Bucket(bucket_name=_bucket_name, credentials=aws, bucket_folder=folder)


@pytest.fixture
def directory(tmp_path) -> LocalFileSystem:
    """An empty directory."""
    return LocalFileSystem(basepath=tmp_path / "store")


@pytest.fixture(params=["directory", "bucket"])
def storage(request):
    """Each kind of storage in turn."""
    return request.getfixturevalue(request.param)

import pytest
from prefect.testing.standard_test_suites import BlockStandardTestSuite

from prefect_xai_video import XaiCredentials
from prefect_xai_video.errors import AuthenticationFailed, MissingCredentials, XaiVideoError

from .support.api_key import API_KEY


@pytest.mark.smoke
@pytest.mark.usefixtures("prefect_server")
class TestXaiCredentialsBlock(BlockStandardTestSuite):
    # Its address does not exist yet; tests/test_wheel.py looks at the logo in the wheel.
    test_has_a_valid_image = None

    @pytest.fixture
    def block(self):
        return XaiCredentials


def test_the_environment_is_enough(monkeypatch):
    monkeypatch.setenv("XAI_API_KEY", f" {API_KEY}\n")
    assert XaiCredentials.from_environment().api_key.get_secret_value() == API_KEY
    assert XaiCredentials.from_environment().base_url == "https://api.x.ai/v1"
    monkeypatch.setenv("XAI_BASE_URL", "https://eu-west-1.api.x.ai/v1")
    assert XaiCredentials.from_environment().base_url == "https://eu-west-1.api.x.ai/v1"


@pytest.mark.parametrize("key", [None, "", "  "])
def test_a_missing_key_is_one_clear_error(monkeypatch, key):
    if key is not None:
        monkeypatch.setenv("XAI_API_KEY", key)
    with pytest.raises(MissingCredentials, match="XAI_API_KEY"):
        XaiCredentials.from_environment()


@pytest.mark.parametrize("key", ["", "two words", "kéy", "a\nb"])
def test_what_can_not_be_a_key_is_refused_without_repeating_it(key):
    with pytest.raises(ValueError, match="The API key is missing or not valid") as caught:
        XaiCredentials(api_key=key)
    assert not key or repr(key) not in str(caught.value)


def test_the_bound_of_downloads_is_a_setting(xai, monkeypatch):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_MAX_DOWNLOAD_BYTES", "1000")
    assert xai.get_client().max_download_bytes == 1000


def test_the_key_is_in_no_representation(xai):
    assert API_KEY not in repr(xai) + str(xai) + xai.model_dump_json()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("XAI_API_KEY", "two words"),
        ("XAI_BASE_URL", "http://api.x.ai/v1"),
        ("XAI_BASE_URL", "https://two words@api.x.ai/v1"),
    ],
)
def test_a_bad_environment_is_one_sentence_that_names_the_variable(monkeypatch, variable, value):
    monkeypatch.setenv("XAI_API_KEY", API_KEY)
    monkeypatch.setenv(variable, value)
    with pytest.raises(XaiVideoError, match=f"^{variable}: ") as caught:
        XaiCredentials.from_environment()
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://api.x.ai/v1", "api.x.ai", "data:foo", "https://user:pass@api.x.ai/v1", "https://api.x.ai/v1?token=a"],
)
def test_a_base_url_in_clear_is_refused(url):
    with pytest.raises(ValueError, match="base_url"):
        XaiCredentials(api_key="k", base_url=url)


async def test_checking_a_key_costs_nothing(xai, submissions):
    assert "acls" in await xai.acheck_key()
    assert submissions() == 0


def test_a_wrong_key_is_told(emulator):
    with pytest.raises(AuthenticationFailed):
        XaiCredentials(api_key="wrong", base_url=emulator.base_url).check_key()


def test_a_block_is_saved_and_loaded(prefect_server, xai):
    xai.save("xai", overwrite=True)
    loaded = XaiCredentials.load("xai")
    assert loaded.api_key.get_secret_value() == API_KEY
    assert loaded.base_url == xai.base_url

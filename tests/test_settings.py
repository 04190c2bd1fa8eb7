import pytest
from prefect.settings import get_current_settings

from prefect_xai_video import XaiVideoSettings
from prefect_xai_video.engine.polling import PollSchedule
from prefect_xai_video.errors import InvalidRequest

PREFIX = "PREFECT_INTEGRATIONS_XAI_VIDEO_"


def test_the_defaults_are_those_of_the_readme(monkeypatch):
    for name in ("FIRST_POLL_SECONDS", "POLL_MIN_SECONDS", "POLL_MAX_SECONDS", "PREVIEW"):
        monkeypatch.delenv(PREFIX + name)
    settings = XaiVideoSettings.current()
    assert settings.schedule == PollSchedule(18, 1, 20) == PollSchedule()
    assert (settings.timeout_seconds, settings.validation) == (1200, "strict")
    assert (settings.link_seconds, settings.preview) == (7 * 24 * 3600, True)
    assert settings.max_download_bytes == 512 * 1024**2
    assert settings.home == get_current_settings().home / "xai-video"


def test_each_is_read_from_its_variable(monkeypatch, tmp_path):
    monkeypatch.setenv(f"{PREFIX}HOME", str(tmp_path))
    monkeypatch.setenv(f"{PREFIX}TIMEOUT_SECONDS", "5")
    settings = XaiVideoSettings.current()
    assert (settings.home, settings.timeout_seconds) == (tmp_path, 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VALIDATION", "lax"),
        ("TIMEOUT_SECONDS", "soon"),
        ("FIRST_POLL_SECONDS", "-1"),
        ("POLL_MIN_SECONDS", "30"),
        ("LINK_SECONDS", "-1"),
        ("LINK_SECONDS", "604801"),
        ("MAX_DOWNLOAD_BYTES", "0"),
        ("HOME", "videos"),
        ("HOME", "./videos"),
        ("HOME", ""),
    ],
)
def test_a_bad_one_is_one_sentence_that_names_it(monkeypatch, name, value):
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(InvalidRequest, match=name) as caught:
        XaiVideoSettings.current()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "roots"),
    [
        ("", ()),
        ("/data/inputs, s3://inputs/videos", ("/data/inputs", "s3://inputs/videos")),
        ('["/data/a, b"]', ("/data/a, b",)),
    ],
)
def test_places_for_inputs_are_a_list(monkeypatch, value, roots):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_INPUT_ROOTS", value)
    assert XaiVideoSettings.current().input_roots == roots


@pytest.mark.parametrize("value", ["inputs", "~/inputs", "s3://", "s3:///inputs", "https://example.com", "[1"])
def test_a_place_for_inputs_that_is_none_is_refused_by_name(monkeypatch, value):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_XAI_VIDEO_INPUT_ROOTS", value)
    with pytest.raises(InvalidRequest, match="PREFECT_INTEGRATIONS_XAI_VIDEO_INPUT_ROOTS"):
        XaiVideoSettings.current()

"""A state directory: what was accepted outlives the emulator that accepted it."""

import base64
import json
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from .emulator_api import CAT, Api, faulty


@pytest.fixture
def state(tmp_path):
    return tmp_path / "videos" / ".emulator"


def test_without_a_state_directory_nothing_outlives_the_emulator(running):
    with running() as api:
        request_id = api.submit(**CAT)
    with running() as api:
        assert api.poll(request_id).status_code == 404


def test_a_later_emulator_knows_what_was_accepted_and_goes_on_with_it(running, state):
    with running(state=state, render_seconds=3600) as api:
        request_id = api.submit(**CAT)
        before = api.ledger()
    with running(state=state) as later:
        assert later.base_url != api.base_url
        assert later.ledger() == before
        done = later.wait(request_id).json()
        assert done["video"]["url"].startswith(later.base_url.removesuffix("/v1"))
        assert later.anonymous.get(done["video"]["url"]).content == later.clip(**CAT)
        assert later.ledger()["submissions"] == 2


def test_the_clock_of_a_render_goes_on(running, state):
    with running(state=state, render_seconds=0.5) as api:
        request_id = api.submit(**CAT)
    time.sleep(0.5)
    with running(state=state, render_seconds=0.5) as later:
        # The render is over, so that only the drawing itself is waited for.
        assert later.poll(request_id).json().get("progress") in (99, 100)


def test_a_finished_video_is_not_made_again(running, state):
    with running(state=state) as api:
        request_id = api.submit(**CAT)
        content = api.anonymous.get(api.wait(request_id).json()["video"]["url"]).content
    with running(state=state, render_seconds=3600) as later:
        response = later.poll(request_id)
        assert response.json()["status"] == "done"
        assert later.anonymous.get(response.json()["video"]["url"]).content == content


def test_a_finished_video_whose_file_is_gone_is_made_again(running, state):
    with running(state=state) as api:
        request_id = api.submit(**CAT)
        content = api.anonymous.get(api.wait(request_id).json()["video"]["url"]).content
    (state / f"{request_id}.mp4").unlink()
    with running(state=state) as later:
        assert later.anonymous.get(later.wait(request_id).json()["video"]["url"]).content == content


@pytest.mark.parametrize(("fault", "status"), [("moderated", 400), ("failed-internal-error", 200), ("expired", 200)])
def test_another_outcome_stays_what_it_was(running, state, fault, status):
    with running(state=state) as api:
        request_id = api.submit(**faulty(fault))
        first = api.wait(request_id)
        books = api.ledger()
    with running(state=state) as later:
        response = later.poll(request_id)
        assert (response.status_code, response.json()) == (status, first.json())
        assert later.ledger() == books


def test_faults_that_have_happened_do_not_happen_again_and_the_others_do(running, state):
    with running(state=state, render_seconds=3600) as api:
        request_id = api.submit(**faulty("poll-500*2", "progress-stuck"))
        assert api.poll(request_id).status_code == 500
    with running(state=state, render_seconds=3600) as later:
        assert [later.poll(request_id).status_code for _ in range(2)] == [500, 202]
        assert later.poll(request_id).json()["progress"] == 42
        assert later.row(request_id)["faults"] == ["poll-500", "progress-stuck"]


def test_inputs_and_delivery_are_remembered(running, state, red_url, local_server):
    with running(state=state, render_seconds=3600) as api:
        output = {"upload_url": f"{local_server.url}/cat.mp4"}
        request_id = api.submit(duration=1, image={"url": red_url}, output=output, generate_audio=False)
    with running(state=state) as later:
        assert later.wait(request_id).json()["video"]["url"] == output["upload_url"]
    assert len(local_server.puts) == 1


def test_a_url_goes_on_working_on_the_same_port_until_it_expires(running, state):
    with running(state=state) as api:
        url = httpx.URL(api.url(**CAT))
    with running(state=state, port=url.port) as later:
        assert later.anonymous.get(url).status_code == 200
    with running(state=state, url_ttl_seconds=0.2) as api:
        url = httpx.URL(api.url(**CAT))
    time.sleep(0.2)
    with running(state=state, port=url.port) as later:
        assert later.anonymous.get(url).status_code == 403


def test_two_emulators_may_share_a_state_directory(running, state):
    with running(state=state) as one, running(state=state) as other:
        request_id = one.submit(**CAT)
        url = other.wait(request_id).json()["video"]["url"]
        assert one.wait(request_id).json()["status"] == "done"
        assert other.anonymous.get(url).content == one.clip(**CAT)


def test_credits_count_what_an_earlier_emulator_billed(running, state):
    with running(state=state, credits_usd="0.05") as api:
        assert api.post(**CAT).status_code == 200
    with running(state=state, credits_usd="0.05") as later:
        assert later.post(**CAT).status_code == 403


def test_a_request_of_one_team_is_unknown_to_another(running, state):
    with running(state=state) as api:
        request_id = api.submit(**CAT)
    with running(state=state, team="another") as other:
        assert other.poll(request_id).status_code == 404
        assert other.ledger()["submissions"] == 0


def test_no_api_key_is_written_and_only_the_owner_may_read(running, state, red_url):
    with running(state=state, api_key="xai-the-right-one") as api:
        right = {"Authorization": "Bearer xai-the-right-one"}
        api.anonymous.post("/videos/generations", json=CAT, headers=right)
    files = list(state.iterdir())
    assert files
    for file in files:
        assert b"xai-the-right-one" not in file.read_bytes()
        assert file.suffix == ".mp4" or file.stat().st_mode & 0o077 == 0


def test_a_record_that_can_not_be_read_is_reported_and_the_others_are_known(running, state, caplog):
    with running(state=state) as api:
        broken, whole = api.submit(**CAT), api.submit(**CAT)
        api.wait(whole)
    (state / f"{broken}.request").write_text('{"request"')
    with running(state=state) as later:
        assert [later.poll(request_id).status_code for request_id in (broken, whole)] == [404, 200]
    assert f"{broken}.request" in caplog.text


def test_a_state_directory_that_can_not_be_written_is_told(running, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), running(state=tmp_path / "file" / "state"):
        pass


def test_a_submission_that_can_not_be_kept_is_not_accepted(running, state, monkeypatch):
    with running(state=state) as api:
        monkeypatch.setattr("os.replace", _no_space)
        assert api.post(**CAT).status_code == 500
        monkeypatch.undo()
        assert api.ledger()["submissions"] == 0
    assert not list(state.iterdir())


def _no_space(*_):
    raise OSError(28, "No space left on device")


def started(state):
    """An emulator in a process of its own, and its base URL."""
    command = [sys.executable, "-m", "prefect_xai_video.emulator", "--state", str(state), "--render-seconds", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def test_a_kill_loses_no_accepted_request_and_leaves_no_broken_state(running, state):
    """Submissions of several clients, with inputs of a megabyte, are under way when the process is killed."""
    process, base_url = started(state)
    image = {"url": f"data:image/png;base64,{base64.b64encode(bytes(750_000)).decode()}"}
    accepted = []

    def submit():
        api = Api(base_url)
        try:
            while True:
                accepted.append(api.submit(duration=1, image=image))
        except httpx.TransportError:
            api.close()

    threads = [threading.Thread(target=submit) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        while len(accepted) < 12:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    for thread in threads:
        thread.join()
    for record in state.glob("*.request"):
        json.loads(record.read_text())
    with running(state=state) as later:
        known = {row["request_id"] for row in later.ledger()["requests"]}
        assert set(accepted) <= known
        assert later.wait(accepted[-1]).json()["error"]["code"] == "invalid_argument"

import pytest

from prefect_xai_video.engine.keys import check_key, slug


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A cat", "a-cat"),
        ("A cat playing with a ball in the garden", "a-cat-playing-with-a-ball-in-the"),
        ("Don't stop — it\u2019s a state-of-the-art clip!", "dont-stop-its-a-state-of-the-art"),
        ("Ein süßer Löwe, 4K", "ein-susser-lowe-4k"),
        ("猫がボールで遊ぶ", ""),
        ("猫 cat", "cat"),
        ("  \n ", ""),
        ("...", ""),
        ("like https://example.com/cat.mp4?X-Amz-Signature=00 please", "like-please"),
        ("xai-0123456789abcdef0123456789 dances", "dances"),
        ("[fault:moderated]", "fault-moderated"),
        ("-a-/../b", "a-b"),
    ],
)
def test_a_slug_stays_as_it_is_over_versions(prompt, expected):
    assert slug(prompt) == expected


@pytest.mark.parametrize("prompt", ["A cat " * 700, "a" * 20 + " " + "b" * 20, "ǆ" * 20, "ﷺ"])
def test_a_slug_is_a_short_part_of_a_key(prompt):
    assert len(slug(prompt)) <= 32
    assert check_key(f"{slug(prompt)}-1")

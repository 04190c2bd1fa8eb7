"""Plans: keys from templates, findings with their places, estimates. Nothing is sent."""

from datetime import date
from decimal import Decimal

import pytest

from prefect_xai_video.batch.manifest import open_manifest
from prefect_xai_video.batch.options import BatchOptions
from prefect_xai_video.batch.plan import make_plan
from prefect_xai_video.errors import InvalidManifest, InvalidRequest


def plan(rows, key=None, **options):
    with open_manifest(rows) as manifest:
        made = make_plan(manifest, key, **options)
        return made, list(made.rows())


def findings(rows, key=None, **options):
    with pytest.raises(InvalidManifest) as caught:
        plan(rows, key, **options)
    assert "Nothing was sent" in caught.value.message
    return caught.value.findings


def test_the_column_key_is_the_key_and_the_request_is_built_of_the_others():
    made, [row] = plan([{"key": "cats/one", "prompt": "A cat", "duration": 6, "resolution": "720p"}])
    assert (row.key, row.request.duration, row.request.resolution) == ("cats/one", 6, "720p")
    assert (made.count, made.folder) == (1, "cats")


def test_a_template_makes_keys_of_columns_and_of_the_digest_of_the_request():
    rows = [{"sku": 7, "prompt": "A cat"}, {"sku": 8, "prompt": "A dog"}]
    made, [cat, dog] = plan(rows, "products/{sku}-{digest}")
    assert cat.key == f"products/7-{cat.request.fingerprint[:12]}"
    assert dog.key.startswith("products/8-")
    assert made.folder == "products"
    assert plan([{"sku": 7, "prompt": "A cat"}], "products/{sku}-{digest}")[1][0].key == cat.key


def test_without_a_key_the_name_of_the_manifest_and_the_prompt_make_it(tmp_path):
    path = tmp_path / "Spring Sale.csv"
    path.write_text("prompt\nA cat playing\n")
    _, [row] = plan(path)
    assert row.key == f"spring-sale/a-cat-playing-{row.request.fingerprint[:12]}"


def test_cells_of_a_csv_file_get_the_type_of_their_option(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("key,prompt,duration,generate_audio,model\ncat,A cat, 6 ,No, grok-imagine-video \n")
    _, [row] = plan(path)
    assert (row.request.duration, row.request.generate_audio, row.request.model) == (6, False, "grok-imagine-video")


def saving(cells, **options):
    """How the only row of a manifest with these cells is stored, in a batch with these options."""
    [row] = plan([{"prompt": "A cat", **cells}], saving=BatchOptions(**options).for_each)[1]
    return {name: value for name, value in row.saving.items() if value != BatchOptions().for_each[name]}


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        ("recovery,files", {"recovery": "files"}),
        ("delivery, direct ", {"delivery": "direct"}),
        ("stills,yes", {"stills": True}),
        ("stills,0", {}),
        ("keep_at_xai,TRUE", {"keep_at_xai": True}),
        ("keep_at_xai,no", {}),
        ("keep_at_xai,7200", {"keep_at_xai": 7200}),
        ("recovery,", {}),
    ],
)
def test_columns_say_how_the_video_of_a_row_is_stored(tmp_path, cells, read):
    name, cell = cells.split(",")
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,{name}\nA cat,{cell}\n")
    _, [row] = plan(path)
    assert row.saving == BatchOptions().for_each | read
    plain = plan([{"prompt": "A cat"}], "{digest}")[1][0]
    # It is no part of the request, and so of no key.
    assert plan([{"prompt": "A cat", **read}], "{digest}")[1][0].key == plain.key


def test_a_cell_of_a_row_wins_over_the_option_of_the_batch():
    assert saving({}, recovery="files", stills=True) == {"recovery": "files", "stills": True}
    assert saving({"recovery": "none", "stills": False}, recovery="files", stills=True) == {}
    assert saving({"recovery": None, "stills": ""}, recovery="files", stills=True) == {
        "recovery": "files",
        "stills": True,
    }


@pytest.mark.parametrize(
    ("cells", "options", "finding"),
    [
        ({"recovery": "file"}, {}, "recovery: 'file' is not allowed; allowed: none or files"),
        ({"recovery": "files"}, {"delivery": "direct"}, "recovery: 'files' with direct delivery is not allowed"),
        ({"delivery": "direct"}, {"keep_at_xai": True}, "keep_at_xai: True with direct delivery is not allowed"),
        ({"public_url": True}, {}, "public_url: true without keep_at_xai is not allowed"),
        ({"keep_at_xai": "1"}, {}, "keep_at_xai: 1 is not allowed"),
        ({"stills": "maybe"}, {}, "stills: 'maybe' is not allowed"),
        ({"recoveries": "files"}, {}, "recoveries: there is no such column"),
        # A run that only submits saves no video.
        ({"stills": True}, {"stills": None}, "stills: there is no such column"),
    ],
)
def test_how_a_row_is_stored_is_checked_with_the_options_of_the_batch(cells, options, finding):
    rows = [{"prompt": "A cat"}, {"prompt": "A dog", **cells}]
    [found] = findings(rows, saving=BatchOptions(**options).for_each)
    assert found.startswith(f"row 2: {finding}")


def test_estimates_are_added_up():
    made, _ = plan([{"key": f"cat-{n}", "prompt": "A cat", "duration": n} for n in (1, 2, 3)])
    assert (made.estimated_usd, made.cheapest_usd, made.unpriced) == (Decimal("0.30"), Decimal("0.05"), 0)


def test_everything_that_is_wrong_is_told_at_once_with_its_place(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "key,prompt,duration,ratio\n"
        "cat,A cat,99,\n"
        "dog,,1,\n"
        "a dog,A dog,1,\n"
        'bird,"A bird,\nflying",1,,,\n'
        "dup,A bird,1,\n"
        "dup,A bird,1,\n"
        "cow,A cow,often,\n"
    )
    found = findings(path)
    assert [finding.partition(": ")[0] for finding in found] == [
        "header", "line 2", "line 3", "line 4", "line 5", "line 8", "line 9",
    ]  # fmt: skip
    for finding, words in zip(
        found,
        (["ratio", "no such column"], ["99"], ["prompt"], ["a dog"], ["2 more cells"], ["dup", "row 5"], ["often"]),
        strict=True,
    ):
        assert all(word in finding for word in words), finding


def test_the_first_hundred_findings_are_listed_and_all_are_counted():
    with pytest.raises(InvalidManifest, match=r"has 120 problems[\s\S]*and 20 more") as caught:
        plan([{"key": f"cat-{n}", "prompt": "A cat", "duration": 99} for n in range(120)])
    assert len(caught.value.findings) == 100


def test_rows_of_a_list_may_differ_but_not_have_columns_that_nobody_knows():
    [found] = findings([{"key": "cat", "prompt": "A cat"}, {"key": "dog", "prompt": "A dog", "durration": 3}])
    assert found.startswith("row 2: durration: there is no such column")


@pytest.mark.parametrize("template", ["{sku", "{}", "{0}", "{sku!r}", "{sku:>3}", "{sku.real}", "{sku[0]}"])
def test_a_template_names_columns_and_nothing_else(template):
    with pytest.raises(InvalidRequest, match=r"key: .* is not allowed; allowed: a template"):
        plan([{"sku": 7, "prompt": "A cat"}], template)


def test_a_template_needs_its_columns_filled():
    [found] = findings([{"sku": "", "prompt": "A cat"}], "{sku}")
    assert "sku: the column is empty" in found


def test_a_shard_is_a_range_of_rows():
    rows = [{"key": f"cat-{n}", "prompt": "A cat"} for n in range(10)]
    made, some = plan(rows, start=3, stop=6)
    assert (made.count, [row.key for row in some]) == (3, ["cat-3", "cat-4", "cat-5"])
    assert [row.number for row in some] == [4, 5, 6]


def test_cells_are_read_as_people_mean_them():
    nan = float("nan")
    _, [row] = plan([{"sku": 1001.0, "prompt": "A cat", "duration": 6.0, "resolution": nan}], "p/{sku}")
    assert (row.key, row.request.duration, row.request.resolution) == ("p/1001", 6, None)
    assert "sku: the column is empty" in findings([{"sku": nan, "prompt": "A cat"}], "p/{sku}")[0]
    assert "sku: True is not allowed" in findings([{"sku": True, "prompt": "A cat"}], "p/{sku}")[0]
    assert "sku: 1.5 is not allowed" in findings([{"sku": 1.5, "prompt": "A cat"}], "p/{sku}")[0]


def test_the_digest_of_a_local_image_is_that_of_its_content(tmp_path, monkeypatch):
    content = b"\x89PNG\r\n\x1a\n" + bytes(40)
    (tmp_path / "cat.png").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    _, [relative] = plan([{"prompt": "Move", "image_url": "cat.png"}], "{digest}")
    _, [absolute] = plan([{"prompt": "Move", "image_url": str(tmp_path / "cat.png")}], "{digest}")
    assert relative.key == absolute.key
    (tmp_path / "cat.png").write_bytes(content + b"changed")
    _, [changed] = plan([{"prompt": "Move", "image_url": "cat.png"}], "{digest}")
    assert changed.key != relative.key
    assert "can't be used" in findings([{"prompt": "Move", "image_url": "dog.png"}], "{digest}")[0]


def test_columns_of_ones_own_are_kept_as_text_and_change_no_request():
    own = {"sku": 7.0, "title": "Cat" * 200, "sold": True, "tags": ["a", "b"], "day": date(2026, 11, 1)}
    rows = [{"prompt": "A cat"} | own, {"prompt": "A dog", "sku": 8, "note": None, "title": "\ud83d"}]
    keep = ("sku", "title", "sold", "tags", "day", "note")
    _, [cat, dog] = plan(rows, "p/{sku}", keep=keep)
    assert cat.kept == {
        "sku": "7", "title": ("Cat" * 200)[:300], "sold": "true", "tags": '["a", "b"]', "day": "2026-11-01",
    }  # fmt: skip
    assert dog.kept == {"sku": "8", "title": "?"}
    _, [bare] = plan([{"prompt": "A cat"}])
    assert cat.request.fingerprint == bare.request.fingerprint


def test_what_keep_does_not_name_stays_refused_and_what_it_names_must_be_there(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("key,prompt,price,durration\ncat,A cat,9,3\n")
    found = findings(path, keep=("price", "titles"))
    assert [finding.partition(";")[0] for finding in found] == [
        "header: durration: there is no such column",
        "header: titles: keep names it, but there is no such column.",
    ]
    assert found[0].endswith("and columns of your own, which keep names. Did you mean duration?")
    rows = [{"key": "cat", "prompt": "A cat"}, {"key": "dog", "prompt": "A dog", "price": 9}]
    assert [*findings(rows, keep=("price", "titles"))] == ["keep: no row has a column 'titles'."]
    # A shard may have just the rows without a price.
    assert plan(rows, keep=("price",), start=0, stop=1)[0].count == 1


@pytest.mark.parametrize(
    "keep", ["sku", [7], [""], ["prompt"], ["sku", "duration"], ["\ud83d"], [f"c{n}" for n in range(101)], 7]
)
def test_keep_names_columns_of_ones_own(keep):
    with pytest.raises(InvalidRequest, match=r"^keep: .* is not allowed; allowed: "):
        BatchOptions(keep=keep)
    assert BatchOptions(keep=["sku", "title", "sku"]).kept_columns == ("sku", "title")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nowhere.png", "No such file"),
        ("http://example.com/cat.png", "allowed: an https:// URL"),
        ("https://[cat.png", "Invalid IPv6 URL"),
        ("data:image/gif;base64,AAAA", "allowed: data:image/png;base64"),
        ("xai-file:a/b", "the id of a file kept at xAI"),
    ],
)
@pytest.mark.parametrize("key", ["{key}", "{key}-{digest}"])
def test_inputs_are_checked_before_the_first_row_is_paid_for(key, url, text):
    rows = [{"key": "dog", "prompt": "A dog"}, {"key": "cat", "prompt": "A cat", "reference_image_urls": [url]}]
    [found] = findings(rows, key)
    assert found.startswith("row 2: reference_image_urls[0]: ")
    assert text in found


@pytest.mark.parametrize("cell", ["[" * 100_000, '[{"image_url": "a", "timestamp": 1, "timestamp": 2}]', "[a.png]"])
def test_a_cell_that_is_not_json_is_a_finding_of_its_row(tmp_path, cell):
    path = tmp_path / "a.csv"
    path.write_text('key,prompt,keyframes\ncat,A cat,"' + cell.replace('"', '""') + '"\n')
    [found] = findings(path)
    assert found.startswith("line 2: keyframes: ")
    assert "a list as JSON" in found


def test_a_list_that_the_caller_changes_afterwards_does_not_change_the_batch():
    rows = [{"key": "cat", "prompt": "A cat", "reference_image_urls": ["https://example.com/cat.png"]}]
    with open_manifest(rows) as manifest:
        made = make_plan(manifest)
        rows[0]["reference_image_urls"].append("https://example.com/dog.png")
        assert [len(row.request.reference_image_urls) for row in made.rows()] == [1]

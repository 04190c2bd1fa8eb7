"""Manifests: what is read of lists, CSV, JSONL and Parquet files, and what is refused."""

import json

import pytest

from prefect_xai_video.batch.manifest import open_manifest
from prefect_xai_video.engine.reading import Readable
from prefect_xai_video.errors import InvalidRequest

ROWS = [
    {"prompt": "A cat", "duration": 1, "key": "cat"},
    {"prompt": "A dog,\nrunning", "duration": 2, "key": "dog"},
    {"prompt": "Ein Übungsfilm", "key": "übung"},
]


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def csv_file(write):
    return write(
        "products.csv", '\ufeffprompt,duration,key\nA cat,1,cat\n\n"A dog,\nrunning",2,dog\nEin Übungsfilm,,übung\n'
    )


def read(source, *arguments):
    with open_manifest(source, *arguments) as manifest:
        return list(manifest.rows())


def test_a_list_is_read_as_it_is():
    rows = read(ROWS)
    assert [row.values for row in rows] == ROWS
    assert [(row.number, row.place) for row in rows] == [(1, "row 1"), (2, "row 2"), (3, "row 3")]


def test_a_list_that_is_changed_meanwhile_is_read_as_it_was():
    rows = [{"prompt": "A cat"}]
    with open_manifest(rows) as manifest:
        rows[0]["prompt"] = "Another"
        rows.append({"prompt": "One more"})
        assert [row.values for row in manifest.rows()] == [{"prompt": "A cat"}]


def test_a_csv_file_keeps_the_lines_of_its_rows_and_omits_empty_cells(csv_file):
    rows = read(csv_file)
    assert [row.values for row in rows] == [{name: str(value) for name, value in values.items()} for values in ROWS]
    assert [row.place for row in rows] == ["line 2", "line 4", "line 6"]


def test_a_jsonl_file_is_read_line_by_line(write):
    path = write("products.jsonl", "\n".join(json.dumps(row) for row in ROWS[:2]) + "\n\n[1]\n{\n")
    rows = read(path)
    assert [row.values for row in rows[:2]] == ROWS[:2]
    assert [row.place for row in rows] == ["line 1", "line 2", "line 4", "line 5"]
    assert rows[2].problem == "it is not a JSON object"
    assert rows[3].problem.startswith("it is not JSON (")


def test_a_parquet_file_keeps_its_types(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "products.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    rows = read(path)
    assert rows[0].values == ROWS[0]
    assert rows[2].values == {"prompt": "Ein Übungsfilm", "duration": None, "key": "übung"}


def test_a_range_of_rows_can_be_read_again_and_again(csv_file):
    with open_manifest(csv_file) as manifest:
        for _ in range(2):
            assert [row.number for row in manifest.rows(1, 2)] == [2]


def test_a_file_that_changes_meanwhile_is_read_as_it_was(csv_file):
    with open_manifest(csv_file) as manifest:
        csv_file.write_text("prompt\nAnother\n")
        assert len(list(manifest.rows())) == 3


def test_a_manifest_in_a_bucket_is_read_with_the_credentials_of_the_storage(bucket):
    content = b"prompt,key\nA cat,cat\n"
    bucket.credentials.get_s3_client().put_object(Bucket="videos", Key="lists/one.csv", Body=content)
    assert [row.values for row in read("s3://videos/lists/one.csv", bucket.credentials)] == [
        {"prompt": "A cat", "key": "cat"}
    ]
    with pytest.raises(InvalidRequest, match=r"s3://videos/lists/two.csv.*can't be read"):
        read("s3://videos/lists/two.csv", bucket.credentials)
    with pytest.raises(InvalidRequest, match=r"allowed: a file in s3://others/"):
        read("s3://videos/lists/one.csv", bucket.credentials, Readable.of(["s3://others"]))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "", "has no rows"),
        ("a.csv", "prompt\n", "has no rows"),
        ("a.jsonl", "\n", "has no rows"),
        ("a.csv", "prompt;key\nA cat;cat\n", "its columns are separated by semicolons, not by commas"),
        ("a.csv", "prompt\tkey\nA cat\tcat\n", "its columns are separated by tabs, not by commas"),
        ("a.json", "[]", "ends with .csv, .jsonl, .parquet"),
        ("a.parquet", "PAR", "it is not a Parquet file"),
        ("a.csv", b"prompt\n\xff\xfe\xfd\n", "it is not UTF-8 text"),
    ],
)
def test_what_is_no_manifest_is_refused_with_a_sentence(write, name, content, says):
    with pytest.raises(InvalidRequest, match=says):
        read(write(name, content))


@pytest.mark.parametrize("source", [[], {}, b"rows", 7, None, {"prompt": "A cat"}])
def test_only_a_list_of_rows_is_a_list(source):
    with pytest.raises(InvalidRequest, match="manifest"):
        read(source)


def test_a_missing_file_and_one_that_may_not_be_read_are_told(tmp_path, csv_file):
    with pytest.raises(InvalidRequest, match=r"nowhere\.csv.*can't be read: No such file"):
        read(tmp_path / "nowhere.csv")
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    with pytest.raises(InvalidRequest, match=rf"allowed: a file in {allowed}"):
        read(csv_file, None, Readable.of([str(allowed)]))


def test_a_quote_that_is_never_closed_swallows_no_rows(write):
    *_, last = read(write("a.csv", 'key,prompt\na,A cat\nb,"A dog\nc,A cow\nd,A fox\n'))
    assert last.place == "line 3"
    assert "the rows after it were not read" in last.problem


def test_hostile_rows_are_problems_with_a_place(write, tmp_path):
    [deep, twice] = read(write("a.jsonl", "[" * 100_000 + '\n{"prompt": "A", "prompt": "B"}\n'))
    assert deep.problem.startswith("it is not JSON")
    assert "a name occurs twice" in twice.problem
    [row] = read([{5: 1}])
    assert "the column 5 is not named by a text" in row.problem

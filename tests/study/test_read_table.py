from pathlib import Path

import pandas as pd
import pytest

from lorascope.analyze.fits.frame import check_columns
from lorascope.study.read_table import read_table, select_rows

TEXTS = {
    "s.csv": "\ufeffmodel,R,MIUB\na,8,1.5\nb,32,\n",
    "s.tsv": "model\tR\tMIUB\na\t8\t1.5\nb\t32\tNA\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_kind_of_file_gives_the_same_table(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TEXTS[name], encoding="utf-8")
    table = read_table(tmp_path / name)
    expected = pd.DataFrame({"model": ["a", "b"], "R": [8, 32], "MIUB": [1.5, float("nan")]}, index=[1, 2])
    pd.testing.assert_frame_equal(table, expected, check_index_type=False, check_dtype=False)
    assert table.attrs["source"] == str(tmp_path / name)


@pytest.mark.parametrize("name", ["s.csv", "s.tsv", "S.CSV"])
@pytest.mark.parametrize("mark", [",", ";", "\t", ", "])
def test_what_stands_between_cells_is_seen_in_the_header(tmp_path: Path, name: str, mark: str) -> None:
    lines = [("model", "R ", "MIUB"), ("a", "8", "1.5"), ('"b, c; d"', "32", "")]
    (tmp_path / name).write_text("\n".join(map(mark.join, lines)) + "\n \n\n", encoding="utf-8")
    table = read_table(tmp_path / name)
    assert table.columns.tolist() == ["model", "R", "MIUB"]
    assert table["model"].tolist() == ["a", "b, c; d"]
    assert table["R"].tolist() == [8, 32]
    assert table["MIUB"].isna().tolist() == [False, True]


@pytest.mark.parametrize("header", ["a,b", "a,b,"])
def test_empty_cells_beyond_the_header_are_left_out(tmp_path: Path, header: str) -> None:
    (tmp_path / "s.csv").write_text(f"{header}\nx,1,\ny,2, \nz\n")
    table = read_table(tmp_path / "s.csv")
    assert table.columns.tolist() == ["a", "b"]
    assert table["a"].tolist() == ["x", "y", "z"]
    assert table["b"].tolist()[:2] == [1, 2]


def test_a_few_texts_dont_make_text_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("x,label,bool,few\n1,r8,True,1\n0.5,r32,False,a\nlow,64,True,b\n,4,True,c\n")
    table = read_table(tmp_path / "s.csv")
    assert table["x"].tolist()[:3] == [1, 0.5, "low"]
    assert table["x"].isna().tolist() == [False, False, False, True]
    assert table["label"].tolist() == ["r8", "r32", "64", "4"]
    assert table["few"].tolist() == ["1", "a", "b", "c"]
    assert table["bool"].tolist() == [True, False, True, True]
    with pytest.raises(ValueError, match="column 'x' holds 'low' in row 3, where a number belongs"):
        check_columns(table, numbers=["x"], may_lack=["x"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.txt", b"a", r"`.*s.txt` isn't a table that can be read; its name must end in .csv, .tsv"),
        ("s.parquet", b"a", r"its name must end in .csv"),
        ("s.csv", b"", r"`.*s.csv` can't be read as a table: it has no header"),
        ("s.csv", b",\n1,2\n", r"it has no header"),
        ("s.csv", b"a,b\n1,2\n1,2,3,4\n", r"`.*s.csv` can't be read as a table: row 2 has 4 cells, the header 2; a"),
        ("s.csv", b"a,b,c\nx,1,2,3\ny,4,5,6\n", r"row 1 has 4 cells, the header 3"),
        ("s.csv", b"a,b,\nx,1,2\n", r"row 1 has 3 cells, the header 2"),
        ("s.csv", b"a,b, a\nx,1,2\n", r"its header has 'a' twice; give each column a name of its own"),
        ("s.csv", b'a,b\nx,"1\ny,2\n', r"can't be read as a table: unexpected end of data"),
        ("s.csv", b"a\n\xff\xff\n", r"can't be read as a table: 'utf-8' codec"),
        ("s.json", b"[]", r"its name must end in .csv"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no.csv` is not there; name a table"):
        read_table(tmp_path / "no.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder.csv` is no file; name a table"):
        read_table(tmp_path / "folder.csv")


TABLE = pd.DataFrame(
    {"model": ["a", "b", "b"], "R": [8.0, 32.0, float("nan")], "N": [1, 2, 3], "seen": [True, False, True]}
)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ({}, [0, 1, 2]),
        ({"model": ["b"]}, [1, 2]),
        ({"model": ["a", "b"], "N": ["1", "3"]}, [0, 2]),
        ({"R": ["32"]}, [1]),
        ({"R": ["32.0", "8"]}, [0, 1]),
        ({"N": ["2.0"]}, [1]),
        ({"N": ["2e0"]}, [1]),
        ({"seen": ["True"]}, [0, 2]),
    ],
)
def test_rows_by_value(where: dict[str, list[str]], rows: list[int]) -> None:
    table = TABLE.copy()
    table.attrs["source"] = "here"
    chosen = select_rows(table, where)
    assert chosen.index.tolist() == rows
    assert chosen.attrs == {"source": "here"}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"size": ["1"]}, r"`where` names column 'size'; the table has 'model', 'R', 'N', 'seen'"),
        ({"model": ["c"]}, r"`where` asks for model=c, which no row has; 'model' holds a, b"),
        ({"N": ["1", "7"]}, r"`where` asks for N=7, which no row has; 'N' holds 1, 2, 3"),
        ({"model": ["a"], "N": ["2", "3"]}, r"`where` leaves no row: none has model=a and N=2,3"),
    ],
)
def test_rows_that_arent_there(where: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_rows(TABLE, where)


def test_many_values_are_counted_and_no_rows_said() -> None:
    with pytest.raises(ValueError, match="'N' holds 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"):
        select_rows(pd.DataFrame({"N": range(10)}), {"N": ["x"]})
    with pytest.raises(ValueError, match="the table has no rows"):
        select_rows(TABLE[:0], {})

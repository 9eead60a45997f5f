import pytest

from lorascope.stores.size import UNITS, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("50GB", 50_000_000_000),
        ("200 MiB", 200 * 2**20),
        ("1.5TB", 1_500_000_000_000),
        ("1 kB", 1000),
        ("1KB", 1000),
        (" 7B ", 7),
        ("0.5TiB", 2**39),
        (4096, 4096),
    ],
)
def test_sizes_are_read(text: str | int, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "50", "GB", "50 gigabytes", "-1GB", "1e9B", "1,5GB", "50 G", "50gb", "5 0GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size; give a number and a unit, one of B, kB, MB"):
        parse_size(text)


@pytest.mark.parametrize("size", ["0GB", "0.0001kB", 0, -5])
def test_less_than_a_byte_and_more_than_any_machine_has_are_refused(size: str | int) -> None:
    with pytest.raises(ValueError, match="is less than 1 byte; give a size above 0"):
        parse_size(size)
    with pytest.raises(ValueError, match=r"is more than any machine has"):
        parse_size("9" * 400 + "GB")


def test_every_decimal_unit_comes_back() -> None:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        assert format_size(parse_size(f"2{unit}")) == f"2 {unit}"
        assert UNITS[unit] == parse_size(f"1{unit}")
    assert format_size(2345e12) == "2.34e+03 TB"


@pytest.mark.parametrize(("n_bytes", "text"), [(0, "0 B"), (999_900, "1 MB"), (2.5e9, "2.5 GB"), (7e12, "7 TB")])
def test_format_size(n_bytes: float, text: str) -> None:
    assert format_size(n_bytes) == text

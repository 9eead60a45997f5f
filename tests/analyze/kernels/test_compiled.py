import shutil
import subprocess
import sys
from pathlib import Path

from lorascope.analyze.kernels import compiled

INNER = "from .compiled import compiled\n\n@compiled()\ndef one(x):\n    return x + {}\n"
OUTER = "from .compiled import compiled\nfrom .inner import one\n\n@compiled()\ndef two(x):\n    return 2 * one(x)\n"
CODE = "from pieces.outer import two; print(two(1), sum(two.stats.cache_hits.values()))"


def test_a_change_of_another_file_of_kernels_is_seen_in_spite_of_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "pieces"
    folder.mkdir()
    shutil.copy(str(compiled.__file__), folder / "compiled.py")
    (folder / "__init__.py").touch()
    (folder / "outer.py").write_text(OUTER, encoding="utf-8")

    def run() -> str:
        command = [sys.executable, "-c", CODE]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    (folder / "inner.py").write_text(INNER.format(1), encoding="utf-8")
    assert [run(), run()] == ["4 0\n", "4 1\n"]  # the second comes from the cache
    (folder / "inner.py").write_text(INNER.format(5), encoding="utf-8")
    assert run() == "12 0\n"

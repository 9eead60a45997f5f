import subprocess
import sys

import pytest

CODE = """
import sys
import lorascope.{package} as package
heavy = {{"dask", "numba", "numpy", "pandas", "plotly", "scipy", "sklearn", "statsmodels", "torch", "xarray", "zarr"}}
assert not heavy & {{*sys.modules}}, f"imported before it is asked for: {{heavy & {{*sys.modules}}}}"
assert {{*package.__all__}} <= {{*dir(package)}}
import lorascope.{module}
from lorascope.{package} import {name}
assert callable({name}) and package.{name} is {name}, "a module hides the function of its name"
try:
    package.nonsense
except AttributeError as error:
    print(error)
assert "TYPE_CHECKING" not in dir(package)
"""


@pytest.mark.parametrize(
    ("package", "module", "name"),
    [
        ("stores", "stores.checking.verify", "verify"),
        ("analyze", "analyze.miub", "miub"),
        ("study", "study.read_study", "read_study"),
        pytest.param("capture", "capture.capture", "capture", marks=pytest.mark.torch),
    ],
)
def test_public_objects_are_imported_when_they_are_asked_for(package: str, module: str, name: str) -> None:
    if package == "capture":
        pytest.importorskip("torch")
    code = CODE.format(package=package, module=module, name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == f"module 'lorascope.{package}' has no attribute 'nonsense'\n"


def test_folders_of_a_package_are_imported_when_they_are_asked_for() -> None:
    code = (
        "import lorascope.analyze as a; print(a.figures.__name__, callable(a.report.write_report), 'report' in dir(a))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "lorascope.analyze.figures True True\n"

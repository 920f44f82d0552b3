"""What the tests that start processes with mpiexec share."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

OPEN_MPI = {  # its mpiexec refuses the superuser and more ranks than cores, unless it is told otherwise
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def mpiexec() -> str:
    """The path of mpiexec, beside this Python or elsewhere; without it or mpi4py, the test or file is skipped."""
    if find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed: pip install -e '.[mpi]'", allow_module_level=True)
    path = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
    if path is None:
        pytest.skip("mpiexec is not installed: pip install -e '.[mpi]'", allow_module_level=True)
    return path

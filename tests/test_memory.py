"""What is free is the least of what machine, control groups, SLURM and process limits leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dehazexl_cli.engine.memory import FREE_SHARE, free_host_bytes, measure_budget, process_bytes
from dehazexl_cli.plan import PROCESS_BYTES

MB = 1 << 20
FILES = {
    "proc/meminfo": "MemTotal:       24000000 kB\nMemAvailable:   16777216 kB\nHugePages_Total:       0\n",
    "proc/self/status": f"Name:\tpython\nVmRSS:\t {100 << 10} kB\n",
}


def machine(root: Path, **files: str) -> Path:
    for name, text in (FILES | {name.replace("|", "/"): text for name, text in files.items()}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def free(root: Path, **environ: str) -> int:
    return free_host_bytes(root, environ) // MB


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine the tests run on is larger than those they tell of."""
    real = __import__("os").sysconf
    monkeypatch.setattr("os.sysconf", lambda name: 2**26 if name == "SC_PHYS_PAGES" else real(name))


def test_a_machine_without_limits_has_what_it_says_is_available(tmp_path: Path) -> None:
    assert free(machine(tmp_path)) == 16 << 10


V2 = "sys|fs|cgroup|"


def test_a_group_of_version_2_leaves_its_limit_but_what_it_uses_and_cannot_give_back(tmp_path: Path) -> None:
    files = {
        "proc|self|cgroup": "0::/user.slice/job\n",
        f"{V2}user.slice|job|memory.max": str(4096 * MB),
        f"{V2}user.slice|job|memory.current": str(3000 * MB),
        f"{V2}user.slice|job|memory.stat": f"anon 1\ninactive_file {500 * MB}\n",
    }
    assert free(machine(tmp_path, **files)) == 4096 - 3000 + 500


def test_a_limit_of_a_group_further_out_counts_too(tmp_path: Path) -> None:
    files = {
        "proc|self|cgroup": "0::/user.slice/job\n",
        f"{V2}user.slice|job|memory.max": "max\n",
        f"{V2}user.slice|job|memory.current": "0",
        f"{V2}user.slice|memory.max": str(2048 * MB),
        f"{V2}user.slice|memory.current": str(48 * MB),
    }
    assert free(machine(tmp_path, **files)) == 2000


def test_a_container_sees_its_own_group_as_the_outermost(tmp_path: Path) -> None:
    files = {
        "proc|self|cgroup": "0::/../../docker/abc\n",
        f"{V2}memory.max": str(1024 * MB),
        f"{V2}memory.current": "0",
    }
    assert free(machine(tmp_path, **files)) == 1024


@pytest.mark.parametrize("visible", [True, False])
def test_groups_of_version_1(tmp_path: Path, visible: bool) -> None:
    folder = "sys|fs|cgroup|memory|" + ("slurm|uid_1|" if visible else "")
    files = {
        "proc|self|cgroup": "9:cpu,cpuacct:/\n4:memory:/slurm/uid_1\n0::/\n",
        f"{folder}memory.limit_in_bytes": str(3000 * MB),
        f"{folder}memory.usage_in_bytes": str(1000 * MB),
        f"{folder}memory.stat": f"inactive_file 7\ntotal_inactive_file {100 * MB}\n",
    }
    assert free(machine(tmp_path, **files)) == 2100


def test_a_number_beyond_all_memory_is_no_limit(tmp_path: Path) -> None:
    files = {
        "proc|self|cgroup": "4:memory:/\n",
        "sys|fs|cgroup|memory|memory.limit_in_bytes": "9223372036854771712",
        "sys|fs|cgroup|memory|memory.usage_in_bytes": "1",
    }
    assert free(machine(tmp_path, **files)) == 16 << 10


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_MEM_PER_NODE": "4000"}, 3900),
        ({"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_ON_NODE": "3"}, 2900),
        ({"SLURM_MEM_PER_GPU": "5000", "SLURM_GPUS_ON_NODE": "2"}, 9900),
        ({"SLURM_MEM_PER_NODE": "4000", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, 900),
        ({"SLURM_MEM_PER_NODE": "0"}, 16 << 10),  # all that the machine has
    ],
)
def test_a_slurm_job_has_what_it_was_given(tmp_path: Path, environ: dict[str, str], expected: int) -> None:
    assert free(machine(tmp_path), SLURM_JOB_ID="1", **environ) == expected
    assert free(machine(tmp_path), **environ) == 16 << 10  # a value left over from elsewhere


def test_a_limit_on_the_process_is_seen_from_inside() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30)); "
        "from dehazexl_cli.engine.memory import free_host_bytes; print(free_host_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < (6 << 30) - 50 * MB


def test_what_the_user_allows_is_taken_as_it_is_and_else_a_share_of_what_is_free() -> None:
    cpu = [torch.device("cpu")]
    assert measure_budget(cpu, 123, None).host_bytes == 123
    budget = measure_budget(cpu, None, None)
    assert budget.device_bytes is None
    assert 0 < budget.host_bytes <= FREE_SHARE * 2**26 * 4096


def test_a_program_that_holds_much_itself_is_reckoned_with() -> None:
    model = torch.nn.Linear(8, 8)
    usual = process_bytes(model)
    held = torch.ones(PROCESS_BYTES + (256 << 20), dtype=torch.uint8)
    assert usual >= PROCESS_BYTES
    assert process_bytes(model) >= len(held)
